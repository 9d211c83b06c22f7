-- Claims the number of a chain for a process: that which it has, or the smallest one that no process has, or whose process
-- has not been seen for a time. The first process of a ledger notes its time zone.
--
-- KEYS  the owners of chains (HASH: number to owner, a space, and when it was seen in milliseconds), and the time zone; then the
--       format marker
-- ARGV  the owner, the time after which a chain is free in milliseconds, the time zone of the process, the most chains, and the
--       numbers of chains that it cannot write
-- Returns the number, or 0 if no chain is free; and the time zone. Where that is another one, nothing is claimed.
local owner, stale, zone, most = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local known = redis.call('GET', KEYS[2])
if known and known ~= zone then return { 0, known } end
local spent = {}
for i = 5, #ARGV do spent[ARGV[i]] = true end
local seen = math.floor(now / 1000)
local number = 1
while number <= most do
  local field = string.format('%.0f', number)
  local other, at = string.match(redis.call('HMGET', KEYS[1], field)[1] or '', '^(%S+) (%d+)$')
  -- A process that was seen later than now is none: the clock was set back, or the text is not of a process. Appending
  -- compares the owner.
  local is_free = not other or other == owner or math.abs(seen - tonumber(at)) >= stale
  if is_free and not spent[field] then
    redis.call('HSET', KEYS[1], field, owner .. ' ' .. string.format('%.0f', seen))
    if not known then redis.call('SET', KEYS[2], zone) end
    return { number, zone }
  end
  number = number + 1
end
return { 0, zone }
