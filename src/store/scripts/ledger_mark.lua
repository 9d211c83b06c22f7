-- Raises a mark: the number up to which a chain was exported, or the last month that is closed. A mark is not lowered.
--
-- KEYS  a hash and a mark; then the format marker
-- ARGV  `field`: a field of the hash, which is the mark, and a number; or `month`: the month before (empty: none), the month,
--       and the text that the hash has of it
-- Returns 1 if the mark is the given one now, 0 if it is another one.
if ARGV[1] == 'field' then
  local known = tonumber(redis.call('HMGET', KEYS[1], ARGV[2])[1] or 0)
  if tonumber(ARGV[3]) > known then redis.call('HSET', KEYS[1], ARGV[2], ARGV[3]) end
  return 1
end
if (redis.call('GET', KEYS[2]) or '') ~= ARGV[2] then return 0 end
redis.call('SET', KEYS[2], ARGV[3])
redis.call('HSET', KEYS[1], ARGV[3], ARGV[4])
return 1
