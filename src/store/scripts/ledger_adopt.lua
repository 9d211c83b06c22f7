-- Moves pending records of a chain whose process has gone to those of another chain.
--
-- KEYS  the owners of chains (ledger_claim.lua), the pending records of the chain and those of the other one; then the format
--       marker
-- ARGV  the number of the chain, the time after which it is free in milliseconds, the most records, and the most fields and
--       values of one
-- Returns how many were moved, -1 if the process of the chain was seen; and the ids of those that are none, which stay.
local owner, at = string.match(redis.call('HMGET', KEYS[1], ARGV[1])[1] or '', '^(%S+) (%d+)$')
if owner and math.abs(tonumber(at) - math.floor(now / 1000)) < tonumber(ARGV[2]) then return { -1 } end
local found = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', ARGV[3])
-- A user who may not remove them must not copy them.
redis.call('XDEL', KEYS[2], '0-0')
local answer = { 0 }
for i = 1, #found do
  local id, fields = found[i][1], found[i][2]
  if #fields > tonumber(ARGV[4]) then
    answer[#answer + 1] = id
  else
    redis.call('XADD', KEYS[3], '*', unpack(fields))
    redis.call('XDEL', KEYS[2], id)
    answer[1] = answer[1] + 1
  end
end
return answer
