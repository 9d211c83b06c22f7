-- Returns the names that records have of persons, and the random parts of their keys. A person without them gets those that are
-- proposed.
--
-- KEYS  the names that records have (HASH: the name of a person by the key of the ledger to the name that its records have), and
--       the random parts (HASH: the name that records have to 32 bytes); then the format marker
-- ARGV  for each person its name by the key, a proposal of a name, and one of a random part
-- Returns for each person the name and the random part.
local answer = {}
for i = 1, #ARGV, 3 do
  local by_key = ARGV[i]
  local name = redis.call('HMGET', KEYS[1], by_key)[1]
  local random = name and redis.call('HMGET', KEYS[2], name)[1]
  if not name then
    -- A replica of an earlier version gives records the name by the key.
    random = redis.call('HMGET', KEYS[2], by_key)[1]
    if random then
      name = by_key
      redis.call('HSET', KEYS[1], by_key, name)
    end
  end
  if not random then
    name, random = ARGV[i + 1], ARGV[i + 2]
    redis.call('HSET', KEYS[2], name, random)
    redis.call('HSET', KEYS[1], by_key, name)
  end
  answer[#answer + 1] = name
  answer[#answer + 1] = random
end
return answer
