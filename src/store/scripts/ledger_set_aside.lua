-- Sets pending records aside that cannot be read: removes them, and keeps the latest of them for who looks for the cause.
--
-- KEYS  the pending records of a chain, and those that were set aside (streams); then the format marker
-- ARGV  how many are kept, and the ids
-- Returns how many there were.
local count = 0
redis.call('XDEL', KEYS[1], '0-0')
for i = 2, #ARGV do
  local entry = redis.call('XRANGE', KEYS[1], ARGV[i], ARGV[i])[1]
  if entry then
    -- One field, however many the record has: a call takes some thousand at most.
    local text = string.sub(cmsgpack.pack(entry[2]), 1, 4096)
    redis.call('XADD', KEYS[2], '*', 'from', KEYS[1], 'id', entry[1], 'packed', text)
    redis.call('XDEL', KEYS[1], entry[1])
    count = count + 1
  end
end
if count > 0 then redis.call('XTRIM', KEYS[2], 'MAXLEN', ARGV[1]) end
return count
