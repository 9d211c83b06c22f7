-- Claims the number of a chain for a process: that which it has, or the smallest one that no process has, or whose process
-- has not been seen for a time.
--
-- KEYS  the owners of chains (HASH: number to owner, a space, and when it was seen in milliseconds); then the format marker
-- ARGV  the owner, and the time after which a chain is free, in milliseconds
-- Returns the number.
local seen = string.format('%.0f', math.floor(now / 1000))
local number = 1
while true do
  local field = string.format('%.0f', number)
  local owner, at = string.match(redis.call('HMGET', KEYS[1], field)[1] or '', '^(%S+) (%d+)$')
  if not owner or owner == ARGV[1] or tonumber(at) + tonumber(ARGV[2]) <= tonumber(seen) then
    redis.call('HSET', KEYS[1], field, ARGV[1] .. ' ' .. seen)
    return number
  end
  number = number + 1
end
