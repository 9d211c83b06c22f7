-- The first lines of every script: the format of the data in Redis, and the time.
--
-- KEYS  the last key is the format marker. Without it the format is 1. Another format was written by a newer
--       version, and this one would misread it: the script ends before it reads or writes anything else.
--       Beside the marker is the clock, under the same hash tag: the latest steady time, and how far it is ahead of Redis'
--       time, in microseconds.
local clock_key = string.sub(KEYS[#KEYS], 1, -7) .. 'clock'
local format, clock = unpack(redis.call('MGET', KEYS[#KEYS], clock_key))
if format and format ~= '1' then return redis.error_reply('TOLLGATEFORMAT ' .. format) end

-- Time comes from Redis, so that replicas with different clocks count alike. In microseconds.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

-- A time that never goes back. What is written with a moment that is only compared with later ones of the same kind uses it:
-- buckets, the expiry of reservations, proofs. Where the clock of the host is set back, or another server whose clock is
-- behind takes over, it goes on from the latest time that was stored, once a second: buckets are refilled as before.
-- Moments with a meaning of their own, such as the end of a budget or of a ban, are compared with `now`.
local latest, ahead = string.match(clock or '', '^(%d+) (%d+)$')
latest, ahead = tonumber(latest) or 0, tonumber(ahead) or 0
-- The year 2255: doubles count exactly until then, and a clock that was beyond it for a moment ends nothing.
if latest >= 9000000000000000 then latest, ahead = 0, 0 end
local is_back = now + ahead < latest
if is_back then ahead = latest - now end
local steady = now + ahead
if is_back or steady >= latest + 1000000 then
  -- A server that is full, or a replica, refuses it, and the script goes on.
  redis.pcall('SET', clock_key, string.format('%.0f %.0f', steady, ahead))
end
