-- Decides some checks, one after the other, in one atomic step. For each check: is its network or its holder banned, is
-- the credential revoked, and does every bucket have room? All of its charges are taken, or none, independently of the
-- other checks. `now` and `steady` (microseconds) are set by preamble.lua in production and by a line of the test in a test.
--
-- KEYS  for each check its E exact revocations, B before-revocations, C buckets, the reservation and the counters of its
--       holds, and the proofs of its holder where it has a proof; after those of all checks, the marker of
--       bans (bans.lua), the kinds of revocations (revoke.lua), and each check's F keys of external denylists; the last two
--       keys are the ends of bans (ban.lua) and the format marker. The first before-revocation is that of the subject.
-- ARGV  the number of checks, the number of keys of Tollgate before the marker of bans, and a packed list (MessagePack:
--       one argument costs less than a thousand), for each check: E, B, C, F, the credential's iat in seconds, the
--       client's address (32 hex digits of IPv6; 0 where it is not known), the hash of the name of the key that signed
--       the credential (0 where there is none), and interval, burst, cost and want (0 of a limit in shadow) of each bucket; then, where some check holds or has a proof, the list of holds (counters.lua) or an empty text; then, where
--       some check has a proof, a packed list with 0 for each check without one, and otherwise 1, the time for which it is
--       remembered in milliseconds, the most proofs of its holder, and its id, or an empty text; then, where a ledger is
--       kept, a packed list with the number of the list of pending records, and the facts of each check that holds
-- Returns a packed list, for each check: n if its n-th key revokes, counted E, B, C, F, and then a revocation of the subject
--       or the client as an actor, and of the key that signed (nothing is charged); -1 if a stored or given value is not a
--       number (nothing is charged); -2 if it is banned (nothing is charged), then 0 for its network or n for the holder
--       that its n-th key names, counted E, B, and then the actors, and the end of the ban in seconds; -3 if its proof was used
--       before, -4 if its holder has too many proofs (nothing is charged); otherwise 0 and for each
--       bucket: the number of units taken (if the check was not admitted: 1 where there was room, 0 where there was none),
--       remaining, retry_after (-1: never), reset. An admitted charge takes cost, or up to want units for a lease, but then
--       no more than half of the room. The value of a bucket is its TAT in microseconds:
--       crates/core/src/limit/reference.rs.

-- Lua looks up a global by its name at each use; a local costs less.
local tonumber, floor, ceil, max = tonumber, math.floor, math.ceil, math.max

-- Integers only: below 2^53 Lua's doubles count exactly. Everything is written at the end, so an error changes nothing.
local function integer(value)
  local number = tonumber(value)
  if number and number >= 0 and number < 9007199254740992 and number % 1 == 0 then return number end
end

local checks, own, numbers = tonumber(ARGV[1]), tonumber(ARGV[2]), cmsgpack.unpack(ARGV[3])
local stored = redis.call('MGET', unpack(KEYS, 1, own + 2))
local bans, kinds = stored[own + 1], stored[own + 2]
-- The TATs of the buckets that earlier checks of this call charged, and those buckets in their order.
local tats, written = {}, {}
local answer, size = {}, 0
local starts, nexts, latests, intervals, takes, nevers, shadows = {}, {}, {}, {}, {}, {}, {}
local key, external, arg = 0, own + 2, 0
-- The holds of checks, if some check has some: counters.lua has their functions.
local list, at = ARGV[4] and ARGV[4] ~= '' and cmsgpack.unpack(ARGV[4]), 0
local proofs, proof_at = ARGV[5] and ARGV[5] ~= '' and cmsgpack.unpack(ARGV[5]), 0
local given, given_at = ARGV[6] and cmsgpack.unpack(ARGV[6]), 1
if given then ledger = string.format('%.0f', given[1]) end
if list then expire_due(KEYS[#KEYS - 2]) end

-- The field of the ban of the network of `length` bits that contains an address.
local function network_of(address, length)
  local digits, bits = floor(length / 4), length % 4
  local first = string.sub(address, 1, digits)
  if bits > 0 then
    local digit, unit = tonumber(string.sub(address, digits + 1, digits + 1), 16), 2 ^ (4 - bits)
    first = first .. string.format('%x', digit - digit % unit)
  end
  return 'network:' .. first .. string.rep('0', 32 - #first) .. '/' .. string.format('%d', length)
end

-- Adds the subject and the client of a check, whose keys are from `first` to `last`, as actors: an agent may hold a
-- credential itself.
local function add_agents(names, first, last, prefix)
  for i = first, last do
    local kind, name = string.match(KEYS[key + i], '^{tollgate}:revoked:(%a+):(.*)$')
    if kind == 'subject' or kind == 'client' then names[#names + 1] = prefix .. 'actor:' .. name end
  end
end

-- Returns the code of a revocation of a kind without a key of its own: 1 of an actor, 2 of the key that signed.
local function revoked_kind(exact, before, kid, issued_at)
  local names = {}
  if string.find(kinds, 'actor', 1, true) then add_agents(names, exact + 1, exact + before, '{tollgate}:revoked:') end
  local actors = #names
  if type(kid) == 'string' and string.find(kinds, 'kid', 1, true) then
    local issuer = string.match(KEYS[key + exact + 1], ':(%x+):%x+$')
    names[actors + 1] = '{tollgate}:revoked:kid:' .. issuer .. ':' .. kid
  end
  if #names == 0 then return end
  local found = redis.call('MGET', unpack(names))
  if found[actors + 1] then return 2 end
  for i = 1, actors do
    local at = found[i] and integer(found[i])
    if found[i] and not at then return -1 end
    if at and issued_at <= at then return 1 end
  end
end

-- Returns the place and the end of the ban of a check that ends last, of its networks (0) before its holders. -1 is the
-- place if a stored end is not a number.
local function ban_of(exact, before, address)
  local fields, networks = {}, 0
  if type(address) == 'string' then
    local widest = string.sub(address, 1, 24) == '00000000000000000000ffff' and 97 or 1
    for length in string.gmatch(bans, '(%d+)=') do
      local bits = tonumber(length)
      if bits >= widest and bits <= 128 then
        networks = networks + 1
        fields[networks] = network_of(address, bits)
      end
    end
  end
  -- A ban has the key of the revocation of the same target, below `{tollgate}:revoked:`.
  for i = 1, exact + before do fields[networks + i] = string.sub(KEYS[key + i], 20) end
  add_agents(fields, exact + 1, exact + before, '')
  if #fields == 0 then return end
  local found, place, last = redis.call('HMGET', KEYS[#KEYS - 1], unpack(fields)), nil, 0
  for i = 1, #fields do
    local ends = found[i] and integer(found[i])
    if found[i] and not ends then return -1, 0 end
    if ends and ends * 1000000 > now and ends > last then place, last = max(i - networks, 0), ends end
    if i == networks and place then return place, last end
  end
  return place, last
end

-- Uses a proof once: 0, or the code of a check that may not use it. The proofs of a holder are a sorted set by their ends. It
-- is written at once, so that a proof is used up whatever follows.
local function use_proof(key, life, most, id)
  local ms = floor(steady / 1000)
  local due = redis.pcall('ZRANGEBYSCORE', key, '-inf', string.format('%.0f', ms), 'LIMIT', 0, 64)
  if due.err then return -1 end
  if #due > 0 then redis.call('ZREM', key, unpack(due)) end
  if redis.call('ZADD', key, 'NX', string.format('%.0f', ms + life), id) == 0 then return -3 end
  if redis.call('ZCOUNT', key, '-inf', '+inf') > most then
    redis.call('ZREM', key, id)
    return -4
  end
  -- The set lasts as long as its last proof.
  redis.call('PEXPIRE', key, string.format('%.0f', max(redis.call('PTTL', key), life)))
  return 0
end

for _ = 1, checks do
  local exact, before, buckets = numbers[arg + 1], numbers[arg + 2], numbers[arg + 3]
  local others, issued_at = numbers[arg + 4], integer(numbers[arg + 5])
  local address, kid, banned, till = numbers[arg + 6], numbers[arg + 7], nil, 0
  arg = arg + 7
  local code, base, room = issued_at and 0 or -1, key + exact + before, true

  if bans and code == 0 then
    banned, till = ban_of(exact, before, address)
    if banned then code = banned == -1 and -1 or -2 end
  end
  for i = 1, exact do
    if code == 0 and stored[key + i] then code = i end
  end
  for i = exact + 1, exact + before do
    local found = code == 0 and stored[key + i]
    if found then
      local at = integer(found)
      if not at then code = -1 elseif issued_at <= at then code = i end
    end
  end
  if kinds and code == 0 and before > 0 then
    local kind = revoked_kind(exact, before, kid, issued_at)
    if kind then code = kind == -1 and -1 or exact + before + buckets + others + kind end
  end
  for i = 1, others do
    -- The key of another service may be of any type.
    if code == 0 and redis.call('EXISTS', KEYS[external + i]) == 1 then code = exact + before + buckets + i end
  end

  local holds, has_proof = list and list[at + 1] or 0, proofs and proofs[proof_at + 1] == 1
  local last = base + buckets + (holds > 0 and holds + 1 or 0) + (has_proof and 1 or 0)
  if has_proof and code == 0 then
    code = use_proof(KEYS[last], integer(proofs[proof_at + 2]), integer(proofs[proof_at + 3]), proofs[proof_at + 4])
  end

  for i = 1, buckets do
    if code == 0 then
      local n = arg + 4 * i
      local interval, burst, cost, want = integer(numbers[n - 3]), integer(numbers[n - 2]), integer(numbers[n - 1]), integer(numbers[n])
      local tat = integer(tats[KEYS[base + i]] or stored[base + i] or 0)
      if interval and burst and cost and want and tat then
        local start = max(tat, steady)
        local next, latest = integer(start + interval * cost), integer(steady + interval * burst)
        if not (next and latest) then code = -1 end
        starts[i], nexts[i], latests[i], intervals[i], takes[i], nevers[i] = start, next, latest, interval, cost, cost > burst
        -- A charge of a limit in shadow wants nothing, and never refuses the check.
        shadows[i] = want == 0
        room = code == 0 and room and (next <= latest or shadows[i])
        if room and want > cost then
          local units = floor((latest - start) / max(interval, 1))
          takes[i] = max(cost, math.min(want, ceil(units / 2)))
          nexts[i] = start + interval * takes[i]
        end
      else
        code = -1
      end
    end
  end

  local is_held, record = false, base + buckets + 1
  -- The holds of limits in shadow, of them those without room, and whether there is something to settle.
  local in_shadow, left_out, settles
  -- The reservation of holds of cost, where the check has some, and which holds those are.
  local cost_record, of_cost
  if holds > 0 and code == 0 then
    is_held = is_open(read_reservation(KEYS[record], stored[record]))
    in_shadow, left_out, of_cost = {}, {}, {}
    for i = 1, holds do
      local count, n = read_count(KEYS[record + i], stored[record + i]), at + 4 + 5 * (i - 1)
      if list[n + 1] > SHADOW then
        if list[n + 1] > COST then of_cost[i], list[n + 1] = true, list[n + 1] - COST end
        if list[n + 1] > SHADOW then in_shadow[i], list[n + 1] = true, list[n + 1] - SHADOW end
        if of_cost[i] and not cost_record then
          cost_record = cost_reservation(KEYS[record])
          if is_held then read_reservation(cost_record, redis.call('GET', cost_record)) end
        end
      end
      if count then
        local holder = of_cost[i] and cost_record or KEYS[record]
        local fits = is_held and not in_shadow[i] or is_held and has_hold(holder, KEYS[record + i])
        local admitted = verdict_of(count, list[n + 1], list[n + 2], list[n + 3], list[n + 4], 0, fits)
        if in_shadow[i] then left_out[i] = admitted == 0 or is_held and not fits end
        room = room and (admitted == 1 or in_shadow[i] or false)
      else
        code = -1
      end
    end
  end

  size = size + 1
  answer[size] = code
  if code == -2 then
    answer[size + 1], answer[size + 2] = banned, till
    size = size + 2
  elseif code == 0 then
    for i = 1, buckets do
      local next, latest = nexts[i], latests[i]
      local admitted = next <= latest
      -- If another bucket has no room, or a limit in shadow has none, this one keeps its TAT.
      local tat = room and admitted and next or starts[i]
      answer[size + 1] = admitted and (room and takes[i] or 1) or 0
      answer[size + 2] = floor(max(latest - tat, 0) / max(intervals[i], 1))
      answer[size + 3] = admitted and 0 or (nevers[i] and -1 or next - latest)
      answer[size + 4] = tat - steady
      size = size + 4
      if room and admitted then
        local bucket = KEYS[base + i]
        if not tats[bucket] then written[#written + 1] = bucket end
        tats[bucket] = next
      end
    end
  end
  if holds > 0 and code == 0 then
    for i = 1, holds do
      local n, count = at + 4 + 5 * (i - 1), counts[KEYS[record + i]]
      local kind, first, second, amount = list[n + 1], list[n + 2], list[n + 3], list[n + 4]
      local taken = room and not is_held and not left_out[i] and amount or 0
      settles = settles or given or not left_out[i] and kind ~= REQUESTS and kind ~= RATE
      -- If another counter has no room, this one has what it had.
      answer[size + 1], answer[size + 2], answer[size + 3], answer[size + 4] =
        verdict_of(count, kind, first, second, amount, taken, is_held)
      -- What a retried check does not hold of a limit in shadow, it was refused.
      if is_held and left_out[i] then answer[size + 1] = 0 end
      size = size + 4
      if taken > 0 then replace(KEYS[record + i], count, kind, first, second, 0, 0, running(kind, amount, 0)) end
    end
    local issued, life, stays = list[at + 2], list[at + 3], list[at + 4]
    if room and is_held then
      renew(KEYS[record], life)
      if cost_record and is_open(reservations[cost_record]) then renew(cost_record, life) end
    elseif room and stays == 1 and settles then
      if cost_record then
        -- It is stored without a hold, too, so that a report that names one finds that it has none.
        local others = {}
        for i = 1, holds do
          others[i] = left_out[i] or not of_cost[i]
          left_out[i] = left_out[i] or of_cost[i]
        end
        open_reservation(cost_record, record, holds, list, at + 4, issued, life, 0, 0, others)
      end
      open_reservation(KEYS[record], record, holds, list, at + 4, issued, life, 0, 0, left_out)
      if given and given[given_at + 1] ~= '' then write_facts(KEYS[record], '-', given[given_at + 1], issued) end
    end
  end
  if given and holds > 0 then given_at = given_at + 1 end
  if list then at = at + 1 + (holds > 0 and 3 + 5 * holds or 0) end
  if proofs then proof_at = proof_at + (has_proof and 4 or 1) end
  key, external, arg = last, external + others, arg + 4 * buckets
end

if list then
  if has_ended then try_writes(KEYS[#KEYS - 2]) end
  write_records()
  write_changes(KEYS[#KEYS - 2])
end
for i = 1, #written do
  local tat = tats[written[i]]
  -- The key expires a second after the bucket is full again: a full bucket and a missing one are the same.
  local ttl = ceil((tat - steady) / 1000) + 1000
  redis.call('SET', written[i], string.format('%.0f', tat), 'PX', string.format('%.0f', ttl))
end
if list then
  answer[size + 1] = expired
  add_expired_tokens(answer, size + 1)
end
return cmsgpack.pack(answer)
