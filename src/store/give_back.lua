-- Gives back units that were taken to be held and are not needed. `now` (microseconds) is set by a line in front of this.
--
-- KEYS  buckets
-- ARGV  for each: by how many microseconds the units moved its TAT
local stored = redis.call('MGET', unpack(KEYS))
for i = 1, #KEYS do
  local tat, micros = stored[i] and tonumber(stored[i]), tonumber(ARGV[i])
  if tat and tat - micros > now then
    local ttl = math.ceil((tat - micros - now) / 1000) + 1000
    redis.call('SET', KEYS[i], string.format('%.0f', tat - micros), 'PX', string.format('%.0f', ttl))
  elseif tat then
    redis.call('DEL', KEYS[i])
  end
end
return redis.status_reply('OK')
