-- Moves pending records of a chain whose process has gone to those of another chain.
--
-- KEYS  the owners of chains (ledger_claim.lua), the pending records of the chain and those of the other one; then the format
--       marker
-- ARGV  the number of the chain, the time after which it is free in milliseconds, and the most records
-- Returns how many were moved; -1 if the process of the chain was seen.
local owner, at = string.match(redis.call('HMGET', KEYS[1], ARGV[1])[1] or '', '^(%S+) (%d+)$')
if owner and tonumber(at) + tonumber(ARGV[2]) > math.floor(now / 1000) then return -1 end
local found = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', ARGV[3])
local ids = {}
for i = 1, #found do
  ids[i] = found[i][1]
  redis.call('XADD', KEYS[3], '*', unpack(found[i][2]))
end
if #ids > 0 then redis.call('XDEL', KEYS[2], unpack(ids)) end
return #ids
