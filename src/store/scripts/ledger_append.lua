-- Appends entries to a chain, removes the pending records that they are of, and adds to the sums: all of it, or nothing.
--
-- KEYS  the owners of chains (ledger_claim.lua), the chain and the pending records (streams), the ends of chains (HASH: number
--       to the number and the MAC of the last entry), the last month that is closed, and each hash of sums; then the format
--       marker
-- ARGV  the owner, the number of the chain, `own`, `free` (the chain is that of a process that has gone) or `release`, the
--       time after which a chain is free in milliseconds, the number of the last entry as the caller knows it, the last month
--       that is closed (empty: none), the number of the first entry that the chain keeps (0: as it is), and packed lists:
--       text and MAC of each entry; ids of the pending records in their order; and, for each row of sums, the place of its
--       hash, the life of the hash in milliseconds, the most rows, the row, and its letters and numbers
-- Returns `ok` and the number of the last entry before; `owner`; `ahead` and the number; `pending`; or `closed` and the month.
local owner, chain, stale = ARGV[1], ARGV[2], tonumber(ARGV[4])
local seen = math.floor(now / 1000)
local other, at = string.match(redis.call('HMGET', KEYS[1], chain)[1] or '', '^(%S+) (%d+)$')
if other and other ~= owner and tonumber(at) + stale > seen then return { 'owner', '' } end
if other and other ~= owner and ARGV[3] ~= 'free' then return { 'owner', '' } end

local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
local number = last and tonumber(string.match(last[1], '^(%d+)-')) or 0
local known = tonumber(ARGV[5])
if number > known then return { 'ahead', string.format('%.0f', number) } end
local closed = redis.call('GET', KEYS[5]) or ''
if closed ~= ARGV[6] then return { 'closed', closed } end
local entries, ids, rows = cmsgpack.unpack(ARGV[8]), cmsgpack.unpack(ARGV[9]), cmsgpack.unpack(ARGV[10])
if #ids > 0 then
  local found = redis.call('XRANGE', KEYS[3], ids[1], ids[#ids], 'COUNT', #ids)
  if #found ~= #ids then return { 'pending', '' } end
end

for i = 1, #entries, 2 do
  known = known + 1
  redis.call('XADD', KEYS[2], string.format('%.0f-0', known), 'e', entries[i], 'm', entries[i + 1])
end
if #entries > 0 then
  redis.call('HSET', KEYS[4], chain, string.format('%.0f', known) .. ' ' .. entries[#entries])
end
if #ids > 0 then redis.call('XDEL', KEYS[3], unpack(ids)) end
if ARGV[7] ~= '0' then redis.call('XTRIM', KEYS[2], 'MINID', ARGV[7] .. '-0') end

local n = 1
while rows[n] do
  local key, life, most, row = KEYS[5 + rows[n]], rows[n + 1], rows[n + 2], rows[n + 3]
  n = n + 4
  -- `#` is the number of rows. The first letter is there in each of them.
  local first = rows[n]
  if row ~= 'other' and not redis.call('HMGET', key, first .. row)[1] then
    if tonumber(redis.call('HMGET', key, '#')[1] or 0) < most then
      redis.call('HINCRBY', key, '#', 1)
    else
      row = 'other'
    end
  end
  while rows[n] and rows[n] ~= '' do
    -- A sum that is too large stays at its bound: the entries are there, so that an error here would end halfway.
    local sum = redis.pcall('HINCRBY', key, rows[n] .. row, rows[n + 1])
    if type(sum) == 'table' and sum.err then redis.call('HSET', key, rows[n] .. row, '9223372036854775807') end
    n = n + 2
  end
  n = n + 1
  redis.call('PEXPIRE', key, string.format('%.0f', life))
end

if ARGV[3] == 'own' then
  redis.call('HSET', KEYS[1], chain, owner .. ' ' .. string.format('%.0f', seen))
elseif ARGV[3] == 'release' then
  redis.call('HSET', KEYS[1], chain, owner .. ' 0')
end
return { 'ok', string.format('%.0f', number) }
