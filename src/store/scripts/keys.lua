-- The functions of the scripts that change API keys.

-- The digests under which a key is found that has no id in its text: those of foreign formats.
local function foreign_digests(text)
  local found = {}
  local read, record = pcall(cjson.decode, text)
  if not read or type(record) ~= 'table' then return found end
  for _, secret in ipairs({ record, record.previous }) do
    if type(secret) == 'table' and secret.weak == true and type(secret.digest) == 'string' then
      found[#found + 1] = secret.digest
    end
  end
  return found
end

-- Removes the digests of a record, as far as they are its own.
local function forget_digests(digests, id, text)
  for _, digest in ipairs(foreign_digests(text)) do
    if redis.call('HMGET', digests, digest)[1] == id then redis.call('HDEL', digests, digest) end
  end
end
