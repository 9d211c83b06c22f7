-- Adds a revocation, or strengthens one: neither its moment nor its end is moved back.
-- `now` (microseconds) and `format` are set by preamble.lua.
--
-- KEYS  the revocation, the index (ZSET, member -> end in milliseconds), the notes (HASH), the changes (STREAM),
--       the kinds (see admit.lua), the format marker
-- ARGV  member (the key below `revoked:`), moment in seconds, life in milliseconds, note (may be empty)
local milliseconds = math.floor(now / 1000)
local at, ends = tonumber(ARGV[2]), milliseconds + tonumber(ARGV[3])

local known = redis.call('GET', KEYS[1])
if known then
  at = math.max(at, tonumber(known))
  local left = redis.call('PTTL', KEYS[1])
  -- No TTL: the key was written externally. The end is capped at ten years.
  ends = math.max(ends, milliseconds + (left < 0 and 315360000000 or left))
end
local moment, till = string.format('%.0f', at), string.format('%.0f', ends)
redis.call('SET', KEYS[1], moment, 'PX', string.format('%.0f', ends - milliseconds))
redis.call('ZADD', KEYS[2], till, ARGV[1])
if ARGV[4] ~= '' then redis.call('HSET', KEYS[3], ARGV[1], ARGV[4]) end
redis.call('XADD', KEYS[4], 'MAXLEN', '~', 10000, '*', '+', ARGV[1], 'at', moment, 'ends', till)
-- Checks look up these kinds only while there are some: the key exists as long as the last of them.
local kind = string.match(ARGV[1], '^%a+')
if kind == 'actor' or kind == 'kid' then
  local kinds, left = redis.call('GET', KEYS[5]) or '', redis.call('PTTL', KEYS[5])
  if not string.find(kinds, kind, 1, true) then kinds = kinds .. ' ' .. kind end
  redis.call('SET', KEYS[5], kinds, 'PX', string.format('%.0f', math.max(left, ends - milliseconds)))
end
if not format then redis.call('SET', KEYS[6], '1') end

-- Entries that have ended are removed from the index, a few in each call.
local ended = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', '(' .. string.format('%.0f', milliseconds), 'LIMIT', 0, 100)
for _, member in ipairs(ended) do
  redis.call('ZREM', KEYS[2], member)
  redis.call('HDEL', KEYS[3], member)
end
return redis.status_reply('OK')
