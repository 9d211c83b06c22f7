-- Adds a ban, or extends the one of the same target: its end is not moved back.
-- `now` (microseconds) and `format` are set by preamble.lua, the functions by bans.lua.
--
-- KEYS  the index (ZSET, key -> end), the ends (HASH, likewise), the notes (HASH, key -> moment and reason), the marker,
--       the changes (STREAM, see revoke.lua), the format marker. Ends and moments are in seconds.
-- ARGV  key, moment, end, reason (may be empty)
-- Returns the end and the reason of the ban.
local key, ends, reason = ARGV[1], tonumber(ARGV[3]), ARGV[4]
local seconds = math.floor(now / 1000000)
local counts = read_counts(KEYS[4])

remove_ended(KEYS[1], KEYS[2], KEYS[3], counts, seconds)
local known = redis.call('HMGET', KEYS[2], key)[1]
if known and tonumber(known) > seconds then
  ends = math.max(ends, tonumber(known))
  local note = redis.call('HMGET', KEYS[3], key)[1]
  if reason == '' and note then reason = string.match(note, '^%d+ (.*)$') or '' end
end
local till = string.format('%.0f', ends)
if redis.call('HSET', KEYS[2], key, till) == 1 then count_ban(counts, key, 1) end
redis.call('ZADD', KEYS[1], till, key)
redis.call('HSET', KEYS[3], key, ARGV[2] .. ' ' .. reason)
write_counts(KEYS[4], counts)
-- A version that knows no bans reads this as the revocation of a kind that it does not know, and leaves it out.
redis.call('XADD', KEYS[5], 'MAXLEN', '~', 10000, '*', '+', 'ban:' .. key, 'at', ARGV[2], 'ends', till)
if not format then redis.call('SET', KEYS[6], '1') end
return { till, reason }
