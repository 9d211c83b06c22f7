-- Returns leased units that are not needed any more to their buckets.
-- `steady` (microseconds) is set by preamble.lua in production and by a line of the test in a test.
--
-- KEYS  buckets, and the format marker
-- ARGV  for each bucket: by how many microseconds the units moved its TAT
local buckets = #KEYS - 1
local stored = redis.call('MGET', unpack(KEYS, 1, buckets))
for i = 1, buckets do
  local tat, micros = stored[i] and tonumber(stored[i]), tonumber(ARGV[i])
  if tat and tat - micros > steady then
    local ttl = math.ceil((tat - micros - steady) / 1000) + 1000
    redis.call('SET', KEYS[i], string.format('%.0f', tat - micros), 'PX', string.format('%.0f', ttl))
  elseif tat then
    redis.call('DEL', KEYS[i])
  end
end
return redis.status_reply('OK')
