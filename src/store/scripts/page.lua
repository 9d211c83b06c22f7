-- Reads a page of a sorted set: members after a position, by their score and then by their bytes.
-- `now` (microseconds) is set by preamble.lua.
--
-- KEYS  the sorted set, the format marker
-- ARGV  the microseconds in a unit of the scores, where a score is the end of a member (`0`: it is no end, and every
--       member is listed); the score of the position (empty: the page is the first one); its member; the most members
-- Returns the number of all members, and then each member of the page and its score.
local unit, limit = tonumber(ARGV[1]), tonumber(ARGV[4])
local ended = unit > 0 and math.floor(now / unit) or -1
local from, score, skipped = '-inf', ARGV[2], 0
if unit > 0 then from = '(' .. string.format('%.0f', ended) end
local total = redis.call('ZCOUNT', KEYS[1], from, '+inf')

-- Whether the bytes of a member come after those of another. `<` of Lua depends on the locale.
local function is_after(member, other)
  for index = 1, math.min(#member, #other) do
    local one, two = string.byte(member, index), string.byte(other, index)
    if one ~= two then return one > two end
  end
  return #member > #other
end

if score ~= '' and tonumber(score) > ended then
  from = score
  -- The first of the members with this score that comes after the position. It is halved, because many bans have no
  -- end, and so the same score.
  local last = redis.call('ZCOUNT', KEYS[1], score, score)
  while skipped < last do
    local middle = math.floor((skipped + last) / 2)
    local member = redis.call('ZRANGEBYSCORE', KEYS[1], score, score, 'LIMIT', middle, 1)[1]
    if is_after(member, ARGV[3]) then last = middle else skipped = middle + 1 end
  end
end
local page = {}
if limit > 0 then
  page = redis.call('ZRANGEBYSCORE', KEYS[1], from, '+inf', 'WITHSCORES', 'LIMIT', skipped, limit)
end
return { total, page }
