-- Adds a revocation, or strengthens one: neither its moment nor its end is ever moved back.
--
-- KEYS  the revocation, the index (ZSET, member -> end in milliseconds), the notes (HASH), the changes (STREAM)
-- ARGV  member (the key below `revoked:`), moment in seconds, life in milliseconds, note (may be empty)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local at, ends = tonumber(ARGV[2]), now + tonumber(ARGV[3])

local known = redis.call('GET', KEYS[1])
if known then
  at = math.max(at, tonumber(known))
  local left = redis.call('PTTL', KEYS[1])
  -- Without an end: somebody else's hand wrote it. Ten years.
  ends = math.max(ends, now + (left < 0 and 315360000000 or left))
end
local moment, till = string.format('%.0f', at), string.format('%.0f', ends)
redis.call('SET', KEYS[1], moment, 'PX', string.format('%.0f', ends - now))
redis.call('ZADD', KEYS[2], till, ARGV[1])
if ARGV[4] ~= '' then redis.call('HSET', KEYS[3], ARGV[1], ARGV[4]) end
redis.call('XADD', KEYS[4], 'MAXLEN', '~', 10000, '*', '+', ARGV[1], 'at', moment, 'ends', till)

-- What has ended leaves the index, a few at a time.
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', '(' .. string.format('%.0f', now), 'LIMIT', 0, 100)) do
  redis.call('ZREM', KEYS[2], member)
  redis.call('HDEL', KEYS[3], member)
end
return redis.status_reply('OK')
