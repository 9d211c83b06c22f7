-- One check: is the credential revoked, and has every bucket room. All or nothing, in one step.
-- The body: `now` (microseconds) is set by a line in front of it, from TIME in production, by the test in a test.
--
-- KEYS  E exact revocations, B before-revocations, C buckets, then foreign keys to the end
-- ARGV  E, B, C, the credential's iat in seconds, then interval, burst and cost of each bucket
-- gives {n} when KEYS[n] revokes (nothing is charged), otherwise {0} and for each bucket: admitted (0 or 1), remaining,
--       retry_after (-1: never), reset. A bucket's value is its TAT in microseconds: core/src/limit/reference.rs.
--
-- Integers only. Below 2^53 Lua's doubles count exactly; anything else is an error, raised before the first write.
local function integer(value)
  local number = tonumber(value)
  if not number or number < 0 or number >= 9007199254740992 or number ~= math.floor(number) then
    error('tollgate: a number is not an integer below 2^53')
  end
  return number
end

local exact, before, buckets, issued_at = integer(ARGV[1]), integer(ARGV[2]), integer(ARGV[3]), integer(ARGV[4])
local ours = exact + before + buckets
local stored = ours > 0 and redis.call('MGET', unpack(KEYS, 1, ours)) or {}

for i = 1, exact do
  if stored[i] then return {i} end
end
for i = exact + 1, exact + before do
  if stored[i] and issued_at <= integer(stored[i]) then return {i} end
end
for i = ours + 1, #KEYS do
  -- Another service's key may be of any type.
  if redis.call('EXISTS', KEYS[i]) == 1 then return {i} end
end

local asked, room = {}, true
for i = 1, buckets do
  local interval, burst, cost = integer(ARGV[3 * i + 2]), integer(ARGV[3 * i + 3]), integer(ARGV[3 * i + 4])
  local start = math.max(integer(stored[exact + before + i] or 0), now)
  local next, latest = integer(start + interval * cost), integer(now + interval * burst)
  asked[i] = {interval, start, next, latest, cost > burst}
  room = room and next <= latest
end

local answer = {0}
for i = 1, buckets do
  local interval, start, next, latest, never = unpack(asked[i])
  local admitted = next <= latest
  -- Where another bucket is full, one that had room stands as it stood.
  local stands = room and next or start
  local n = 4 * i - 2
  answer[n] = admitted and 1 or 0
  answer[n + 1] = math.floor(math.max(latest - stands, 0) / math.max(interval, 1))
  answer[n + 2] = admitted and 0 or (never and -1 or next - latest)
  answer[n + 3] = stands - now
  if room then
    -- Gone a second after it is full again; a full bucket and a missing one are the same.
    local ttl = math.ceil((next - now) / 1000) + 1000
    redis.call('SET', KEYS[exact + before + i], string.format('%.0f', next), 'PX', string.format('%.0f', ttl))
  end
end
return answer
