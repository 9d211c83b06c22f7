-- Applies reports of usage, one after the other, and expires reservations that are due. The functions are in counters.lua.
-- `now` and `steady` (microseconds) are set by preamble.lua in production and by a line of the test in a test.
--
-- KEYS  for each report its reservation, the set of settled ids, and its H counters; then the index and the format marker
-- ARGV  the number of reports, and a packed list (MessagePack), for each report: H, the member of the set, issue and life in
--       microseconds, the usage (1 running, 2 final, 3 unreported, 4 released, 5 estimated), its tokens, and kind, two numbers of
--       the kind, amount and unreported charge of each hold; then, where a ledger is kept, a packed list with the number of
--       the list of pending records, and the facts and the end of each report (counters.lua)
-- Returns a packed list: how many reservations have expired, how many are open, and for each report what it changed
--       (1 renewed, 2 charged, 3 late, 4 repeated, 5 forgotten), the tokens of the request, and those that it was charged when
--       it expired and is not any more (-1: it had not expired); then for each tag of a model the tokens that are charged for
--       what has expired.
local reports, list = tonumber(ARGV[1]), cmsgpack.unpack(ARGV[2])
local index = KEYS[#KEYS - 1]
local answer, size, key, at = {}, 2, 0, 0
local settled, settled_keys = {}, {}
local ends = ARGV[3] and cmsgpack.unpack(ARGV[3])
if ends then ledger = whole(ends[1]) end

local function is_settled(set, member)
  return settled[set .. member] or redis.call('SISMEMBER', set, member) == 1
end

local function report(record, holds, member, issued, life, usage, tokens, given, known_end)
  local set, first = KEYS[key + 2], key + 2
  local known = read_reservation(record, redis.call('GET', record))
  if is_open(known) and known[4] <= steady then
    expire(record, known)
    known = reservations[record]
  end
  local open, used, had_expired = is_open(known), 0, 0
  if open then
    used, had_expired = known[5], known[6]
  elseif forgets(issued) then
    return 5, 0, -1
  elseif known then
    used, had_expired = known[3], 1
  elseif is_settled(set, member) then
    return 4, 0, -1
  end
  -- A count of the end takes the place of what was counted while the request ran. Nothing else lowers that.
  local most = usage == 2 and tokens or math.max(used, tokens)
  local total, replaced, left_out = most, known and not open and used or -1, {}
  for i = 1, holds do
    local n, counter = at + 5 * (i - 1), KEYS[first + i]
    local kind, amount, unreported = list[n + 1], list[n + 4], list[n + 5]
    local old_spent, old_held, spent, held = 0, 0, 0, 0
    if open then
      old_spent, old_held = running(kind, amount, spent_so_far(unreported, used, had_expired))
    elseif known then
      old_spent, old_held = ended(kind, amount, math.max(unreported, used))
    end
    if usage == 1 then
      spent, held = running(kind, amount, spent_so_far(unreported, most, had_expired))
    elseif usage == 3 then
      spent, held = ended(kind, amount, math.max(unreported, most))
    else
      spent, held = ended(kind, amount, most)
    end
    -- Of a limit in shadow without room, nothing is held.
    left_out[i] = open and not has_hold(record, counter)
    if not left_out[i] then
      if kind == BUCKET or kind == BUDGET then
        total = math.max(total, spent)
        if replaced >= 0 then replaced = math.max(replaced, old_spent) end
      end
      local count = counts[counter]
      if count == nil then count = read_count(counter, redis.call('GET', counter)) end
      replace(counter, count, kind, list[n + 2], list[n + 3], old_spent, old_held, spent, held)
    end
  end
  if usage == 1 then
    open_reservation(record, first, holds, list, at, issued, life, most, had_expired, left_out)
    -- A store that has lost the reservation has lost its facts.
    if not known and given and given ~= '' then write_facts(record, '-', given, issued) end
    return 1, 0, replaced
  end
  has_ended = true
  make_record(record, given, known_end, total, usage == 4, false, issued)
  if known then
    write_reservation(record, false)
    expiries[id_of(record)] = false
  end
  if not forgets(issued) then
    if not settled[set] then
      settled[set] = { issued = issued }
      settled_keys[#settled_keys + 1] = set
    end
    settled[set][#settled[set] + 1] = member
    settled[set .. member] = true
  end
  return had_expired == 1 and 3 or 2, total, replaced
end

expire_due(index)
for n = 1, reports do
  local holds, member = list[at + 1], whole(list[at + 2])
  local issued, life, usage, tokens = list[at + 3], list[at + 4], list[at + 5], list[at + 6]
  at = at + 6
  local given, known_end = ends and ends[2 * n], ends and ends[2 * n + 1]
  answer[size + 1], answer[size + 2], answer[size + 3] =
    report(KEYS[key + 1], holds, member, issued, life, usage, tokens, given, known_end)
  size, key, at = size + 3, key + 2 + holds, at + 5 * holds
end
if has_ended then try_writes(index) end
for i = 1, #settled_keys do
  -- A set of another kind ends the script here.
  redis.call('SISMEMBER', settled_keys[i], 0)
end
if #settled_keys > 0 then redis.call('PEXPIRE', index .. ':none', 1) end
if #records > 0 then redis.call('XDEL', ledger_key(records[1][1], ':ledger:pending:' .. ledger), '0-0') end
-- XADD and SADD have no form that changes nothing. They are the first that change something, and what they change is undone.
local written = write_records()
for i = 1, #settled_keys do
  local set = settled_keys[i]
  local added = redis.pcall('SADD', set, unpack(settled[set]))
  if type(added) == 'table' then
    for n = 1, #written do redis.call('XDEL', written[n][1], written[n][2]) end
    return added
  end
  -- All issues of the set are of one hour.
  redis.call('PEXPIRE', set, whole(math.ceil((settled[set].issued + KEPT + 3600000000 - now) / 1000)))
end
write_changes(index)
answer[1], answer[2] = expired, redis.call('ZCOUNT', index, '-inf', '+inf')
add_expired_tokens(answer, size)
return cmsgpack.pack(answer)
