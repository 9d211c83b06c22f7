-- Returns the random parts of the keys of persons. A person without one gets the one that is proposed.
--
-- KEYS  the random parts (HASH: the name of the person in the ledger to 32 bytes); then the format marker
-- ARGV  for each person its name and a proposal
local answer = {}
for i = 1, #ARGV, 2 do
  local known = redis.call('HMGET', KEYS[1], ARGV[i])[1]
  if not known then
    known = ARGV[i + 1]
    redis.call('HSET', KEYS[1], ARGV[i], known)
  end
  answer[#answer + 1] = known
end
return answer
