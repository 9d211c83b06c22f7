-- Raises a mark: the entry up to which a chain was exported, or the last month that is closed. A mark is not lowered.
--
-- KEYS  a hash, and the chain or the mark of months; then the format marker
-- ARGV  `export`: the number of the chain, which is the field of the hash; the number and the MAC of the entry; the mark, a text
--       that begins with the number; and a mark that no export has made, which is replaced (empty: none)
--       or `month`: the month before (empty: none), the month, its end in microseconds, and the text that the hash has of it.
--       A text that is not empty is not replaced
-- Returns 1 if the mark is the given one or a later one now, or the entry has been removed; 0 if the chain has another entry, or
--       the mark of months is another one; -1 if the month has not ended.
if ARGV[1] == 'export' then
  local field, number, mac, mark = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
  local entry = redis.call('XRANGE', KEYS[2], number .. '-0', number .. '-0')[1]
  if not entry then return 1 end
  local fields, found = entry[2], nil
  for i = 1, #fields, 2 do
    if fields[i] == 'm' then found = fields[i + 1] end
  end
  if found ~= mac then return 0 end
  local known = redis.call('HMGET', KEYS[1], field)[1] or ''
  if known == ARGV[6] or tonumber(string.match(known, '^%d+') or 0) < tonumber(number) then
    redis.call('HSET', KEYS[1], field, mark)
  end
  return 1
end
local before, month, ends, text = ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
if now < ends then return -1 end
if (redis.call('GET', KEYS[2]) or '') ~= before then return 0 end
if (redis.call('HMGET', KEYS[1], month)[1] or '') ~= '' then return 0 end
redis.call('SET', KEYS[2], month)
redis.call('HSET', KEYS[1], month, text)
return 1
