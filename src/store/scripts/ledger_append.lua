-- Appends entries to a chain, removes the pending records that they are of, and adds to the sums: all of it, or nothing.
--
-- KEYS  the owners of chains (ledger_claim.lua), the chain and the pending records (streams), the ends of chains (HASH: number
--       to the number and the MAC of the last entry), the last month that is closed, the time zone, and each hash of sums; then
--       the format marker
-- ARGV  the owner, the number of the chain, `own`, `free` (the chain is that of a process that has gone) or `release`, the
--       time after which a chain is free in milliseconds, the number of the last entry as the caller knows it, the last month
--       that is closed (empty: none), the number of the first entry that the chain keeps (0: as it is), the time zone of the
--       process, and packed lists:
--       text and MAC of each entry; ids of the pending records in their order; the life of each hash of sums in
--       milliseconds; and, for each row of sums, the place of its hash, the most rows, the row, and its letters and numbers
-- Returns `ok` and the number of the last entry before; `owner`; `ahead` and the number; `pending`; `closed` and the month;
--       `zone` and that of the ledger; or `spent`: the chain takes no entry with the next number.
local owner, chain, stale = ARGV[1], ARGV[2], tonumber(ARGV[4])
local seen = math.floor(now / 1000)
local other, at = string.match(redis.call('HMGET', KEYS[1], chain)[1] or '', '^(%S+) (%d+)$')
if other and other ~= owner and math.abs(tonumber(at) - seen) < stale then return { 'owner', '' } end
if other and other ~= owner and ARGV[3] ~= 'free' then return { 'owner', '' } end

local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
local number = last and tonumber(string.match(last[1], '^(%d+)-')) or 0
local known = tonumber(ARGV[5])
if number > known then return { 'ahead', string.format('%.0f', number) } end
local closed = redis.call('GET', KEYS[5]) or ''
if closed ~= ARGV[6] then return { 'closed', closed } end
local zone = redis.call('GET', KEYS[6])
if zone and zone ~= ARGV[8] then return { 'zone', zone } end
local entries, ids = cmsgpack.unpack(ARGV[9]), cmsgpack.unpack(ARGV[10])
local lives, rows = cmsgpack.unpack(ARGV[11]), cmsgpack.unpack(ARGV[12])
if #ids > 0 then
  local found = redis.call('XRANGE', KEYS[3], ids[1], ids[#ids], 'COUNT', #ids)
  if #found ~= #ids then return { 'pending', '' } end
end

-- A whole number as Redis writes it, in two parts, the upper one of which has the sign: numbers of 64 bits are more than one
-- of Lua has.
local function parts(text)
  if text == '0' then return 0, 0 end
  local sign, digits = string.match(text, '^(-?)([1-9]%d*)$')
  if not digits or #digits > 19 then return nil end
  digits = string.rep('0', 19 - #digits) .. digits
  local factor = sign == '-' and -1 or 1
  return factor * tonumber(string.sub(digits, 1, 10)), factor * tonumber(string.sub(digits, 11))
end

-- The bound that the sum of two numbers is beyond, if it is.
local function bound(one, other)
  local upper, lower = parts(one)
  local more_upper, more_lower = parts(other)
  local carry = math.floor((lower + more_lower) / 1000000000)
  upper, lower = upper + more_upper + carry, lower + more_lower - carry * 1000000000
  if upper > 9223372036 or upper == 9223372036 and lower > 854775807 then return '9223372036854775807' end
  if upper < -9223372037 or upper == -9223372037 and lower < 145224192 then return '-9223372036854775808' end
end

-- The number that a hash has in a field: 0 where it has none, or a text that Redis does not add to. That is none of this script,
-- and the verification adds up the records.
local function number_of(key, field)
  local text = redis.call('HMGET', key, field)[1]
  if not text then return '0' end
  if parts(text) and not bound(text, '0') then return text end
  redis.call('HSET', key, field, '0')
  return '0'
end

-- Redis does not undo what a script has done before an error. So each command that writes runs once with each key before the
-- first entry is added, and changes nothing that is read: one that the user may not run, and a key of another kind, end the
-- script here. All commands below are one of these with the same key.
local refusal
local function probe(command, key, ...)
  local answer = not refusal and redis.pcall(command, key, ...)
  if type(answer) == 'table' and answer.err then refusal = answer.err .. ': ' .. command .. ' ' .. key end
  return answer
end
if ARGV[3] ~= 'free' then
  local until_then = ARGV[3] == 'own' and string.format('%.0f', seen) or '0'
  probe('HSET', KEYS[1], chain, owner .. ' ' .. until_then)
end
-- It was lost with a database that was emptied while the process ran.
if not zone then probe('SET', KEYS[6], ARGV[8]) end
local noted = #entries > 0 and probe('HMGET', KEYS[4], chain)
if noted and not refusal then probe('HSET', KEYS[4], chain, noted[1] or '') end
if #ids > 0 then probe('XDEL', KEYS[3], '0-0') end
if ARGV[7] ~= '0' then probe('XTRIM', KEYS[2], 'MINID', '0-0') end
for place = 1, #lives do
  local key = KEYS[6 + place]
  probe('HMGET', key, '#')
  if not refusal then probe('HSET', key, '#', number_of(key, '#')) end
  probe('HINCRBY', key, '#', 0)
  probe('PEXPIRE', key, string.format('%.0f', lives[place]))
end
if refusal then return redis.error_reply(refusal) end

for i = 1, #entries, 2 do
  known = known + 1
  local added = redis.pcall('XADD', KEYS[2], string.format('%.0f-0', known), 'e', entries[i], 'm', entries[i + 1])
  if type(added) == 'table' and added.err then
    -- A stream refuses a number that is not above all that it ever had, also one that was removed. The first entry decides.
    if string.find(added.err, 'stream', 1, true) then return { 'spent', '' } end
    return redis.error_reply(added.err .. ': XADD ' .. KEYS[2])
  end
end
if #entries > 0 then
  redis.call('HSET', KEYS[4], chain, string.format('%.0f', known) .. ' ' .. entries[#entries])
end
if #ids > 0 then redis.call('XDEL', KEYS[3], unpack(ids)) end
if ARGV[7] ~= '0' then redis.call('XTRIM', KEYS[2], 'MINID', ARGV[7] .. '-0') end

local n = 1
while rows[n] do
  local key, most, row = KEYS[6 + rows[n]], rows[n + 1], rows[n + 2]
  n = n + 3
  -- `#` is the number of rows, and `#m` the most of them: that of the first writer, so that no row begins among the others and
  -- is named later. The first letter is there in each of them.
  local first = rows[n]
  if row ~= 'other' and not redis.call('HMGET', key, first .. row)[1] then
    local kept = redis.call('HMGET', key, '#', '#m')
    if not tonumber(kept[2]) then redis.call('HSET', key, '#m', string.format('%.0f', most)) end
    if tonumber(kept[1] or 0) < (tonumber(kept[2]) or most) then
      redis.call('HINCRBY', key, '#', 1)
    else
      row = 'other'
    end
  end
  while rows[n] and rows[n] ~= '' do
    local field, more = rows[n] .. row, rows[n + 1]
    local most_of = bound(number_of(key, field), more)
    -- A sum that would be too large stays at its bound.
    if most_of then redis.call('HSET', key, field, most_of) else redis.call('HINCRBY', key, field, more) end
    n = n + 2
  end
  n = n + 1
end
return { 'ok', string.format('%.0f', number) }
