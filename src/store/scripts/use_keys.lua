-- Merges the uses of API keys, and the notices about them, into what is known. The later use wins.
-- `now` is set by preamble.lua.
--
-- KEYS  the uses of each key (JSON: `last`, the last use in seconds; `networks`, network -> its last use; `noticed`,
--       kind of a notice -> the end of the key that it was about), the format marker
-- ARGV  a JSON list with one element for each key: `last`, `networks`, `notices` (kind -> end), each of which may be missing;
--       the most networks of a key; the life of a network, and of the whole, in seconds
-- Returns what is new, as pairs of the number of a key and a network or a kind of notice. The first network of a key is
-- not new: nothing is known to compare it with. Neither is one of a key that has the most networks.
local updates, most = cjson.decode(ARGV[1]), tonumber(ARGV[2])
local today = math.floor(now / 1000000)
local found = {}
for index, update in ipairs(updates) do
  -- A value that is no text is none here.
  local text = redis.call('MGET', KEYS[index])[1]
  local read, use = pcall(cjson.decode, text or '{}')
  if not read or type(use) ~= 'table' then use = {} end
  if type(use.networks) ~= 'table' then use.networks = {} end
  if type(use.noticed) ~= 'table' then use.noticed = {} end
  if type(use.last) ~= 'number' then use.last = nil end
  if update.last and update.last > (use.last or 0) then use.last = update.last end
  local count = 0
  for network, seen in pairs(use.networks) do
    if type(seen) == 'number' and seen + tonumber(ARGV[3]) > today then
      count = count + 1
    else
      use.networks[network] = nil
    end
  end
  for _, network in ipairs(update.networks or {}) do
    if use.networks[network] then
      use.networks[network] = today
    elseif count < most then
      if count > 0 then found[#found + 1] = { index, network } end
      use.networks[network] = today
      count = count + 1
    end
  end
  for kind, ends in pairs(update.notices or {}) do
    if use.noticed[kind] ~= ends then
      use.noticed[kind] = ends
      found[#found + 1] = { index, kind }
    end
  end
  -- A number that JSON cannot express (`1e999`) is not one of this script.
  local written, value = pcall(cjson.encode, use)
  if not written then value = cjson.encode({ last = update.last }) end
  redis.call('SET', KEYS[index], value, 'EX', ARGV[4])
end
return found
