-- Removes the record of an API key, whatever it is, and its uses: a revocation waits for no other change.
-- The functions are set by keys.lua.
--
-- KEYS  the record, the ids, the digests, the changes (see write_key.lua), the uses, the format marker
-- ARGV  id
-- Returns 1, or nil if there was neither a record nor an id in the list.
local id = ARGV[1]
-- A value that is no text is none here, and is removed as well.
local text = redis.call('MGET', KEYS[1])[1]
if text then forget_digests(KEYS[3], id, text) end
local removed = redis.call('DEL', KEYS[1])
local listed = redis.call('ZREM', KEYS[2], id)
redis.call('DEL', KEYS[5])
if removed == 0 and listed == 0 then return nil end
redis.call('XADD', KEYS[4], 'MAXLEN', '~', 10000, '*', '-', id)
return 1
