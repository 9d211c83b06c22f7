-- The first lines of the scripts that change bans: how many there are.
--
-- The marker is the number of bans of holders and, for each length of a prefix, the number of bans of networks with it,
-- as `2 120=1 128=3`; the lengths are those of IPv6, an IPv4 network has 96 more. Without bans there is no marker: a
-- check reads it together with its revocations, and looks up bans only if there is one.
local function read_counts(marker)
  local counts, text = { holders = 0 }, redis.call('GET', marker)
  if text then
    counts.holders = tonumber(string.match(text, '^%d+')) or 0
    for length, count in string.gmatch(text, '(%d+)=(%d+)') do counts[tonumber(length)] = tonumber(count) end
  end
  return counts
end

-- Counts one ban more or less of the kind of `key`. An automatic ban counts as one of a holder: a check that calls Redis is
-- not refused by it, and versions without automatic bans count it so.
local function count_ban(counts, key, change)
  local kind = tonumber(string.match(key, '^network:%x+/(%d+)$')) or 'holders'
  counts[kind] = math.max((counts[kind] or 0) + change, 0)
end

local function write_counts(marker, counts)
  local words = { string.format('%d', counts.holders) }
  for length = 0, 128 do
    local count = counts[length]
    if count and count > 0 then words[#words + 1] = string.format('%d=%d', length, count) end
  end
  if #words == 1 and counts.holders == 0 then
    redis.call('DEL', marker)
  else
    redis.call('SET', marker, table.concat(words, ' '))
  end
end

-- Removes bans that have ended, a few in each call.
local function remove_ended(index, ends, notes, counts, seconds)
  local ended = redis.call('ZRANGEBYSCORE', index, '-inf', string.format('%.0f', seconds), 'LIMIT', 0, 100)
  for _, other in ipairs(ended) do
    redis.call('ZREM', index, other)
    redis.call('HDEL', notes, other)
    if redis.call('HDEL', ends, other) == 1 then count_ban(counts, other, -1) end
  end
end
