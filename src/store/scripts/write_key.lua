-- Creates the record of an API key, or replaces the one that the caller has read.
-- `format` is set by preamble.lua, the functions by keys.lua.
--
-- KEYS  the record, the ids (ZSET, id -> creation in seconds), the digests (HASH, digest -> id), the changes (STREAM),
--       the format marker
-- ARGV  id, creation in seconds, the record, the record that is replaced (empty: there must be none)
-- Returns `written`, `exists`, `changed`, or `digest` and the id of the other key with the same digest.
local id, text, expected = ARGV[1], ARGV[3], ARGV[4]
local known = redis.call('GET', KEYS[1])
if expected == '' then
  if known then return { 'exists' } end
elseif known ~= expected then
  return { 'changed' }
end
for _, digest in ipairs(foreign_digests(text)) do
  local other = redis.call('HMGET', KEYS[3], digest)[1]
  -- A record that was removed by other means may have left its digest.
  if other and other ~= id and redis.call('EXISTS', '{tollgate}:key:' .. other) == 1 then return { 'digest', other } end
end
if known then forget_digests(KEYS[3], id, known) end
for _, digest in ipairs(foreign_digests(text)) do redis.call('HSET', KEYS[3], digest, id) end
redis.call('SET', KEYS[1], text)
redis.call('ZADD', KEYS[2], ARGV[2], id)
redis.call('XADD', KEYS[4], 'MAXLEN', '~', 10000, '*', '+', id)
if not format then redis.call('SET', KEYS[5], '1') end
return { 'written' }
