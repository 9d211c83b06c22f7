-- Begins the automatic ban of a network, unless one is in force. Each ban of a network lasts twice as long as the one
-- before, as long as that one is remembered.
-- `now` (microseconds) and `format` are set by preamble.lua, the functions by bans.lua.
--
-- KEYS  the index, the ends, the notes, the marker, the changes (see ban.lua), the networks that were banned before (ZSET,
--       key -> end), their bans (HASH, key -> number and end), the format marker. `end` is when the bans are forgotten.
-- ARGV  key, reason, the first and the longest duration, the time for which a ban is remembered, the most networks that
--       are remembered. Times are in seconds.
-- Returns 1 if the ban began, 0 if one is in force; the end of the ban, and its number.
local key, reason = ARGV[1], ARGV[2]
local first, longest, remember, most = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local seconds = math.floor(now / 1000000)
local counts = read_counts(KEYS[4])

remove_ended(KEYS[1], KEYS[2], KEYS[3], counts, seconds)
local number, forgotten = 0, 0
local before = redis.call('HMGET', KEYS[7], key)[1]
if before then
  local stored, at = string.match(before, '^(%d+) (%d+)$')
  number, forgotten = tonumber(stored) or 0, tonumber(at) or 0
end

local known = redis.call('HMGET', KEYS[2], key)[1]
if known and tonumber(known) > seconds then
  write_counts(KEYS[4], counts)
  return { 0, known, math.max(number, 1) }
end

local function forget(names)
  for _, name in ipairs(names) do
    redis.call('ZREM', KEYS[6], name)
    redis.call('HDEL', KEYS[7], name)
  end
end
forget(redis.call('ZRANGEBYSCORE', KEYS[6], '-inf', string.format('%.0f', seconds), 'LIMIT', 0, 100))
if forgotten <= seconds then
  forget({ key })
  number = 0
end
number = number + 1
local ends = seconds + math.min(first * 2 ^ (number - 1), longest)
forgotten = ends + remember
redis.call('ZADD', KEYS[6], string.format('%.0f', forgotten), key)
redis.call('HSET', KEYS[7], key, string.format('%.0f %.0f', number, forgotten))
local excess = redis.call('ZCOUNT', KEYS[6], '-inf', '+inf') - most
if excess > 0 then
  forget(redis.call('ZRANGEBYSCORE', KEYS[6], '-inf', '+inf', 'LIMIT', 0, math.min(excess, 100)))
end

local since, till = string.format('%.0f', seconds), string.format('%.0f', ends)
if redis.call('HSET', KEYS[2], key, till) == 1 then count_ban(counts, key, 1) end
redis.call('ZADD', KEYS[1], till, key)
redis.call('HSET', KEYS[3], key, since .. ' ' .. reason)
write_counts(KEYS[4], counts)
redis.call('XADD', KEYS[5], 'MAXLEN', '~', 10000, '*', '+', 'ban:' .. key, 'at', since, 'ends', till)
if not format then redis.call('SET', KEYS[8], '1') end
return { 1, till, number }
