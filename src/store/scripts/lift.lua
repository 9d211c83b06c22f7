-- Lifts a ban. Returns 1 if it was in force.
-- `now` (microseconds) is set by preamble.lua, the functions by bans.lua.
--
-- KEYS  the index, the ends, the notes, the marker, the changes (see ban.lua), the format marker
-- ARGV  key
local key = ARGV[1]
local known = redis.call('HMGET', KEYS[2], key)[1]
redis.call('ZREM', KEYS[1], key)
redis.call('HDEL', KEYS[3], key)
if redis.call('HDEL', KEYS[2], key) == 0 then return 0 end
local counts = read_counts(KEYS[4])
count_ban(counts, key, -1)
write_counts(KEYS[4], counts)
redis.call('XADD', KEYS[5], 'MAXLEN', '~', 10000, '*', '-', 'ban:' .. key)
return tonumber(known) * 1000000 > now and 1 or 0
