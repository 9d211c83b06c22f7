-- Lifts the bans of a target. Returns 1 if one was in force.
-- `now` (microseconds) is set by preamble.lua, the functions by bans.lua.
--
-- KEYS  the index, the ends, the notes, the marker, the changes (see ban.lua), the networks that were banned before and
--       their bans (see ban_automatically.lua), the format marker
-- ARGV  the keys of the bans: earlier automatic ones are forgotten, so that the next one is a first one
local lifted, counts = 0, nil
for _, key in ipairs(ARGV) do
  local known = redis.call('HMGET', KEYS[2], key)[1]
  redis.call('ZREM', KEYS[1], key)
  redis.call('HDEL', KEYS[3], key)
  redis.call('ZREM', KEYS[6], key)
  redis.call('HDEL', KEYS[7], key)
  if redis.call('HDEL', KEYS[2], key) == 1 then
    counts = counts or read_counts(KEYS[4])
    count_ban(counts, key, -1)
    redis.call('XADD', KEYS[5], 'MAXLEN', '~', 10000, '*', '-', 'ban:' .. key)
    if tonumber(known) * 1000000 > now then lifted = 1 end
  end
end
if counts then write_counts(KEYS[4], counts) end
return lifted
