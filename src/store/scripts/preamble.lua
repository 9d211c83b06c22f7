-- The first lines of every script: the format of the data in Redis, and the time.
--
-- KEYS  the last key is the format marker. Without it the format is 1. Another format was written by a newer
--       version, and this one would misread it: the script ends before it reads or writes anything else.
local format = redis.call('GET', KEYS[#KEYS])
if format and format ~= '1' then return redis.error_reply('TOLLGATEFORMAT ' .. format) end

-- Time comes from Redis, so that replicas with different clocks count alike. In microseconds.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
