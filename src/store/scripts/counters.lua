-- Counters and reservations: the functions of the scripts that hold, settle and expire. They are the model of
-- crates/core/src/limit/counters.rs. Everything is written at the end of a script, by write_records and then by write_changes, and
-- before, where a reservation has ended, try_writes finds what Redis refuses. So a script that ends with an error has changed
-- nothing that is counted twice when it is called again.
--
-- A counter is a text: what is spent (of a bucket its TAT in microseconds), a space, and what is held.
-- The TAT of a bucket and the expiry of a reservation are moments of the steady time (preamble.lua).
-- A reservation is a packed list (MessagePack): 1 (open), its issue, life and expiry in microseconds, the tokens used so far,
-- 1 if it had expired, and for each hold its key, kind, two numbers of the kind, amount and unreported charge; or 2
-- (expired), its issue, and the tokens used.
-- What a request holds of limits on cost, whose unit is not tokens, is a reservation of its own: with the key of the other one
-- and `-cost`, settled by a report of its own, and expired by itself.
-- The index (ZSET) has the ids of open reservations by their expiry. Ids that were settled are the members of sets, each for
-- the issues of one hour: numbers of 52 bits, which take 8 bytes each.
-- Keys of counters that are read from a reservation are not among KEYS. They have the same hash tag as those that are.

-- The kinds of counters. A bucket has an interval and a burst, the others have a limit, and windows their end. Requests of a
-- window, and units of a rate, are spent when they are admitted. A rate has the bucket of the kind of that name.
local BUCKET, BUDGET, REQUESTS, SLOTS, RATE = 1, 2, 3, 4, 5
-- What is added to the kind of a hold of a limit in shadow, and of a limit on cost, as a check sends it.
local SHADOW, COST = 10, 20
local MOST, HELD_RETRY, EXPIRED_AT_ONCE = 9007199254740991, 1000000, 64
local REMEMBERED, KEPT = 24 * 3600 * 1000000, 25 * 3600 * 1000000
-- The report of a request that no server got (crates/core/src/limit/usage_report.rs).
local NOT_SENT = '{"e":"not_sent","b":"unused"}'

-- Counters and reservations by their key (false: malformed, or none), and the keys of those that changed.
local counts, changed_counts = {}, {}
local reservations, changed_reservations = {}, {}
-- The expiry of reservations whose entry in the index changed, by id; false removes the entry.
local expiries = {}
local expired = 0
-- Whether a reservation has ended in this call.
local has_ended = false
-- The tokens that are charged for expired reservations, by the tag of their model: characters 9 to 16 of an id.
local expired_tokens = {}

-- Where a ledger is kept: the number of the list of pending records of this process; nil otherwise.
-- The facts of a reservation are a text of their own: the tokens of its last record (`-` without one), a space, and what the
-- ledger states of the request (crates/core/src/limit/request_facts.rs). A pending record is an entry of a stream.
local ledger
-- The facts by the key of their reservation (false: none), those that changed, and the pending records.
local facts, changed_facts, records = {}, {}, {}

-- The id of a reservation: what follows the last colon of its key.
local function id_of(key)
  return string.match(key, '[^:]*$')
end

local function whole(number)
  return string.format('%.0f', number)
end

local function read_count(key, text)
  local count = counts[key]
  if count == nil then
    local spent, held = 0, 0
    if text then spent, held = string.match(text, '^(%d+) (%d+)$') end
    spent, held = tonumber(spent), tonumber(held)
    count = spent and held and spent <= MOST and held <= MOST and { spent = spent, held = held, stored = text } or false
    counts[key] = count
  end
  return count
end

local function read_reservation(key, packed)
  local reservation = reservations[key]
  if reservation == nil then
    local read, list = pcall(cmsgpack.unpack, packed or '')
    reservation = packed and read and type(list) == 'table' and list or false
    reservations[key] = reservation
  end
  return reservation
end

local function write_reservation(key, reservation)
  if not changed_reservations[key] then
    changed_reservations[#changed_reservations + 1] = key
    changed_reservations[key] = true
  end
  reservations[key] = reservation
end

local function is_open(reservation)
  return reservation and reservation[1] == 1
end

-- What a hold adds to its counter, spent and held: while its request runs, and after its end.
local function running(kind, amount, used)
  if kind == BUCKET or kind == BUDGET then return used, math.max(amount - used, 0) end
  if kind == REQUESTS or kind == RATE then return amount, 0 end
  return 0, amount
end

local function ended(kind, amount, tokens)
  if kind == BUCKET or kind == BUDGET then return tokens, 0 end
  if kind == REQUESTS or kind == RATE then return amount, 0 end
  return 0, 0
end

-- Replaces what one hold adds to its counter. A malformed counter is left as it is.
local function replace(key, count, kind, first, second, old_spent, old_held, spent, held)
  if not count then return end
  if kind == RATE then kind = BUCKET end
  count.held = math.min(math.max(count.held - old_held, 0) + held, MOST)
  local more = spent - old_spent
  if kind ~= BUCKET then
    count.spent = math.min(math.max(count.spent + more, 0), MOST)
  elseif more > 0 then
    count.spent = math.min(math.max(count.spent, steady) + more * first, MOST)
  end
  count.kind, count.ends = kind, second
  if not count.changed then
    count.changed = true
    changed_counts[#changed_counts + 1] = key
  end
end

-- The time for which a counter is stored, in microseconds; not more than zero if it is not.
local function life_of(count)
  if count.kind == BUCKET and count.held == 0 then
    -- As a full bucket and a missing one are the same, the key may expire a second late.
    return count.spent > steady and count.spent - steady + 1000000 or 0
  elseif count.kind == BUCKET then
    return math.max(count.spent - steady, 0) + KEPT
  elseif count.kind == SLOTS then
    return count.held > 0 and KEPT or 0
  end
  return count.ends + KEPT - now
end

-- The verdict of a counter on a hold: 1 or 0, remaining, retry_after (-1: never), and reset. `taken` is the part of its
-- amount that an admitted hold adds.
local function verdict_of(count, kind, first, second, amount, taken, fits)
  local unit, limit, spent = 1, math.min(first, MOST), count.spent
  if kind == RATE then kind = BUCKET end
  if kind == BUCKET then
    unit, limit, spent = math.max(first, 1), math.min(math.max(first, 1) * second, MOST), math.max(spent - steady, 0)
  end
  local held = math.min(count.held * unit, MOST)
  amount, taken = math.min(amount * unit, MOST), math.min(taken * unit, MOST)
  local admitted = fits or spent + held + amount <= limit
  if not admitted then taken = 0 end
  local level, retry = spent + held + taken, 0
  if not admitted then
    if amount > limit then
      retry = -1
    elseif kind == BUCKET and held + amount <= limit then
      retry = spent + held + amount - limit
    elseif kind == BUCKET then
      retry = math.max(spent + amount - limit, HELD_RETRY)
    elseif kind ~= SLOTS and spent + amount > limit then
      retry = math.max(second - now, 1)
    else
      retry = HELD_RETRY
    end
  end
  local reset = level
  if kind == SLOTS then reset = math.min(level, 1) * HELD_RETRY elseif kind ~= BUCKET then reset = math.max(second - now, 0) end
  return admitted and 1 or 0, math.floor(math.max(limit - level, 0) / unit), retry, reset
end

-- The tokens of a hold that are spent while its request runs.
local function spent_so_far(unreported, used, had_expired)
  return had_expired == 1 and math.max(unreported, used) or used
end

local function forgets(issued)
  return issued + REMEMBERED <= now
end

-- The key of a part of the ledger, with the hash tag of a reservation.
local function ledger_key(record, part)
  return string.match(record, '^(.-):reservation:') .. part
end

-- Stores the facts of a reservation that is open, or that has expired: until a report may come.
local function write_facts(record, before, text, issued)
  if not facts[record] or not facts[record].changed then changed_facts[#changed_facts + 1] = record end
  facts[record] = { changed = true, before = before, text = text, issued = issued }
end

-- Makes the record of a request that has ended, of which `report` states the end; an empty text where none is known, or where the
-- request is released because no server got it. Such a request has a record where it is charged, or was when it expired. `given`
-- are the facts that the report has authenticated; those of the store are for an expiry.
local function make_record(record, given, report, tokens, is_released, is_expired, issued)
  if not ledger then return end
  local known = facts[record]
  if known == nil then
    local before, text = string.match(redis.call('GET', ledger_key(record, ':facts:' .. id_of(record))) or '', '^(%S+) (.*)$')
    known = before and { before = before, text = text } or false
  end
  local has_given = given and given ~= ''
  local before, text = known and known.before or '-', has_given and given or known and known.text or ''
  local is_unsent = is_released and report == ''
  if text ~= '' and not (is_unsent and tokens == 0 and before == '-') then
    records[#records + 1] = { record, text, is_unsent and NOT_SENT or report, whole(tokens), before }
    before = whole(tokens)
  end
  if is_expired and text ~= '' then
    write_facts(record, before, text, issued)
  else
    if known or facts[record] then changed_facts[#changed_facts + 1] = record end
    facts[record] = false
  end
end

-- Stores an open reservation, whose holds are `numbers` of `list` after `at`, five for each key after KEYS[first].
-- Those in `left_out` are not held.
local function open_reservation(key, first, holds, list, at, issued, life, used, had_expired, left_out)
  local reservation, size = { 1, issued, life, steady + life, used, had_expired }, 6
  for i = 1, holds do
    if not (left_out and left_out[i]) then
      reservation[size + 1] = KEYS[first + i]
      for n = 1, 5 do reservation[size + 1 + n] = list[at + 5 * (i - 1) + n] end
      size = size + 6
    end
  end
  write_reservation(key, reservation)
  expiries[id_of(key)] = steady + life
end

-- The reservation of what a request holds of limits on cost.
local function cost_reservation(key)
  return key .. '-cost'
end

local function is_of_cost(key)
  return string.sub(key, -5) == '-cost'
end

-- Whether an open reservation holds units of a counter.
local function has_hold(key, counter)
  local reservation = reservations[key]
  if not is_open(reservation) then return false end
  for n = 7, #reservation, 6 do
    if reservation[n] == counter then return true end
  end
  return false
end

-- Renews the holds of an open reservation whose check is retried.
local function renew(key, life)
  local reservation = reservations[key]
  reservation[4] = math.max(reservation[4], steady + life)
  write_reservation(key, reservation)
  expiries[id_of(key)] = reservation[4]
end

-- Charges an open reservation whose life has passed.
local function expire(key, reservation)
  local issued, used, had_expired = reservation[2], reservation[5], reservation[6]
  local tokens = used
  for n = 7, #reservation, 6 do
    local counter, kind, amount, unreported = reservation[n], reservation[n + 1], reservation[n + 4], reservation[n + 5]
    local spent, held = running(kind, amount, spent_so_far(unreported, used, had_expired))
    local charge, rest = ended(kind, amount, math.max(unreported, used))
    if kind == BUCKET or kind == BUDGET then
      tokens = math.max(tokens, charge)
    end
    local count = counts[counter]
    if count == nil then count = read_count(counter, redis.call('GET', counter)) end
    replace(counter, count, kind, reservation[n + 2], reservation[n + 3], spent, held, charge, rest)
  end
  expiries[id_of(key)], has_ended = false, true
  write_reservation(key, not forgets(issued) and { 2, issued, used } or false)
  -- What is held of costs expires beside the tokens of its request, which are counted and recorded.
  if is_of_cost(key) then return end
  make_record(key, nil, '', tokens, false, true, issued)
  expired = expired + 1
  local model = string.sub(id_of(key), 9, 16)
  expired_tokens[model] = (expired_tokens[model] or 0) + tokens
end

-- Appends the tokens of expired reservations to an answer: pairs of the tag of a model and a number.
local function add_expired_tokens(answer, size)
  for model, tokens in pairs(expired_tokens) do
    answer[size + 1], answer[size + 2] = tonumber(model, 16), tokens
    size = size + 2
  end
end

-- Expires the reservations of the index that are due, as many as one step may.
local function expire_due(index)
  local due = redis.call('ZRANGEBYSCORE', index, '-inf', whole(steady), 'LIMIT', 0, EXPIRED_AT_ONCE)
  for i = 1, #due do
    -- Its key is that of the index, without the `s` at its end, and the id.
    local key = string.sub(index, 1, -2) .. ':' .. due[i]
    local reservation = read_reservation(key, redis.call('GET', key))
    if is_open(reservation) and reservation[4] <= steady then
      expire(key, reservation)
    else
      expiries[due[i]] = is_open(reservation) and reservation[4] or false
      -- An entry of the index without its reservation is removed, which Redis may refuse.
      if not expiries[due[i]] then has_ended = true end
    end
  end
end

-- Runs each command that write_changes may run, in a form that changes nothing: one that the user may not run, an index of another
-- kind and a full memory end the script here. Redis does not undo what a script has done before an error.
local function try_writes(index)
  local none = index .. ':none'
  redis.call('SET', none, '', 'XX')
  redis.call('DEL', none)
  redis.call('ZADD', index, 'XX', 0, '')
  redis.call('ZREM', index, '')
end

-- Appends the records of the requests that have ended, and returns their keys and ids.
local function write_records()
  local written = {}
  for i = 1, #records do
    local record, text, report, tokens, before = unpack(records[i])
    local key = ledger_key(record, ':ledger:pending:' .. ledger)
    local id = redis.call('XADD', key, '*', 'f', text, 'r', report, 't', tokens, 'b', before, 'a', whole(now))
    written[i] = { key, id }
  end
  return written
end

-- Writes what has changed. An id in the index without a reservation is removed when it is due, so that it may be written first.
local function write_changes(index)
  local entries, removed = {}, {}
  for id, expiry in pairs(expiries) do
    if expiry then
      entries[#entries + 1] = whole(expiry)
      entries[#entries + 1] = id
    else
      removed[#removed + 1] = id
    end
  end
  if #entries > 0 then redis.call('ZADD', index, unpack(entries)) end
  for i = 1, #changed_counts do
    local key = changed_counts[i]
    local count = counts[key]
    local life = life_of(count)
    if life > 0 then
      redis.call('SET', key, whole(count.spent) .. ' ' .. whole(count.held), 'PX', whole(math.ceil(life / 1000)))
    elseif count.stored then
      redis.call('DEL', key)
    end
  end
  for i = 1, #changed_reservations do
    local key = changed_reservations[i]
    local reservation = reservations[key]
    if not reservation then
      redis.call('DEL', key)
    else
      -- An open one is stored long enough for a process to find it expired.
      local life = is_open(reservation) and reservation[3] + KEPT or reservation[2] + KEPT - now
      redis.call('SET', key, cmsgpack.pack(reservation), 'PX', whole(math.ceil(life / 1000)))
    end
  end
  for i = 1, #changed_facts do
    local record = changed_facts[i]
    local known, key = facts[record], ledger_key(record, ':facts:' .. id_of(record))
    local life = known and known.issued + KEPT - now or 0
    if life > 0 then
      redis.call('SET', key, known.before .. ' ' .. known.text, 'PX', whole(math.ceil(life / 1000)))
    else
      redis.call('DEL', key)
    end
  end
  if #removed > 0 then redis.call('ZREM', index, unpack(removed)) end
end
