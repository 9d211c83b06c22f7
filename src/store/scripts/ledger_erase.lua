-- Erases a person: the random part of its key, without which nothing that records have of it can be read, and what leads from the
-- person to the name that its records have.
--
-- KEYS  the names that records have, and the random parts (ledger_persons.lua); then the format marker
-- ARGV  the names of the person, one by each key of the ledger
-- Returns how many random parts there were.
local count = 0
for i = 1, #ARGV do
  local name = redis.call('HMGET', KEYS[1], ARGV[i])[1]
  if name then
    count = count + redis.call('HDEL', KEYS[2], name)
    redis.call('HDEL', KEYS[1], ARGV[i])
  end
  -- That of an earlier version.
  count = count + redis.call('HDEL', KEYS[2], ARGV[i])
end
return count
