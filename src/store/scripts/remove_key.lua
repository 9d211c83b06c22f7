-- Removes the record of an API key, whatever it is, and its uses: a revocation waits for no other change.
-- The functions are set by keys.lua.
--
-- KEYS  the record, the ids, the digests, the changes (see write_key.lua), the format marker
-- ARGV  id
-- Returns the record, or nil if there was none.
local id = ARGV[1]
local known = redis.call('GET', KEYS[1])
local listed = redis.call('ZREM', KEYS[2], id)
if known then
  forget_digests(KEYS[3], id, known)
  redis.call('DEL', KEYS[1])
  redis.call('DEL', '{tollgate}:key-use:' .. id)
end
if known or listed == 1 then redis.call('XADD', KEYS[4], 'MAXLEN', '~', 10000, '*', '-', id) end
return known
