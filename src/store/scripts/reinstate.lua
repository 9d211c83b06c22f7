-- Removes a revocation. Returns 1 if it existed.
--
-- KEYS  the revocation, the index, the notes, the changes (see revoke.lua), the format marker
-- ARGV  member
local existed = redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('HDEL', KEYS[3], ARGV[1])
if existed == 1 then redis.call('XADD', KEYS[4], 'MAXLEN', '~', 10000, '*', '-', ARGV[1]) end
return existed
