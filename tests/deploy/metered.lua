-- The counts of tokens and seconds in a body of JSON, or of lines of JSON, read while it passes: numbers that are members of the
-- document, or of objects below it with the keys in `PARENTS`. What a server repeats of its request (tools, metadata) is
-- elsewhere, and is no usage. Of a count that occurs more often the largest one is kept, and one that is no number:
-- Tollgate charges what the request holds then.
local COUNTS, PARENTS = {}, {}
for name in ("prompt_tokens completion_tokens total_tokens input_tokens output_tokens cache_creation_input_tokens "
    .. "cache_read_input_tokens prompt_n cache_n predicted_n tokens_evaluated tokens_predicted prompt_eval_count "
    .. "eval_count cached_tokens reasoning_tokens seconds"):gmatch("%S+") do
  COUNTS[name] = true
end
for name in ("usage meta_info timings meta tokens billed_units prompt_tokens_details completion_tokens_details "
    .. "input_tokens_details output_tokens_details"):gmatch("%S+") do PARENTS[name] = true end
-- The most bytes that are read again with the next piece: more than a name with its number.
local KEPT = 128
-- The most bytes of an event whose usage is looked for.
local EVENT = 1048576

-- Reads one more piece of a document. `state` has its depth, the depth of the innermost object whose members are
-- counts, the key before the value that is next, whether the piece begins in a text, and what is read again.
local function scan(state, piece, found)
  local text, at = state.rest .. piece, 1
  state.rest = ""
  while true do
    if state.in_text then
      local stop = text:find('["\\]', at)
      if stop == nil then return end
      if text:byte(stop) == 34 then
        state.in_text, at = false, stop + 1
      elseif stop == #text then
        state.rest = "\\"
        return
      else
        at = stop + 2
      end
    else
      local stop = text:find('["{}%[%]]', at)
      if stop == nil then return end
      local sign = text:byte(stop)
      at = stop + 1
      if sign == 34 and state.counted == state.depth and state.depth > 0 then
        local name, value = text:match('^"([%a_]*)"%s*:%s*()', stop)
        local next_at = value or text:match('^"[%a_]*"?%s*()', stop)
        if next_at > #text and #text - stop < KEPT then
          state.rest = text:sub(stop)
          return
        end
        if name == nil then
          state.in_text, state.key = true, nil
        else
          state.key, at = name, value
          if COUNTS[name] and text:byte(value) ~= 110 then
            local number, over = text:match("^(%-?%d[%d%.eE%+%-]*)()", value)
            if number ~= nil and over > #text and #text - stop < KEPT then
              state.rest = text:sub(stop)
              return
            end
            found(name, tonumber(number))
          end
        end
      elseif sign == 34 then
        state.in_text, state.key = true, nil
      elseif sign == 123 or sign == 91 then
        if sign == 123 and state.counted == state.depth and (state.depth == 0 or PARENTS[state.key]) then
          state.counted = state.depth + 1
        end
        state.depth, state.key = state.depth + 1, nil
      else
        if state.counted == state.depth and state.depth > 0 then state.counted = state.depth - 1 end
        state.depth, state.key = math.max(state.depth - 1, 0), nil
      end
    end
  end
end

local function set(handle, name, value)
  handle:streamInfo():dynamicMetadata():set("tollgate.usage", name, value)
end

local function read_document(handle)
  local state, counts = { depth = 0, counted = 0, in_text = false, rest = "" }, {}
  local function found(name, count)
    local known = counts[name]
    if known == "no count" or (known ~= nil and count ~= nil and count <= known) then return end
    counts[name] = count or "no count"
    set(handle, name, counts[name])
  end
  for chunk in handle:bodyChunks() do
    scan(state, chunk:getBytes(0, chunk:length()), found)
  end
  -- A number ends with its document.
  scan(state, " ", found)
end

-- Whether the last event of a stream has a usage, and was not the first one that has: a server that ignores the wish for
-- a usage in each event may send one with its first or last event only.
local function watch_events(handle)
  local rest, counted, is_counted = "", 0, false
  for chunk in handle:bodyChunks() do
    local text, at = rest .. chunk:getBytes(0, chunk:length()), 1
    local stop = text:find("\n", at, true)
    local has_usage = is_counted
    while stop ~= nil do
      if text:find("^data:%s*{", at) then
        local usage = text:find('[{,%s]"usage"%s*:%s*{', at)
        local is_usage = usage ~= nil and usage < stop
        if is_usage then counted = counted + 1 end
        has_usage = is_usage and counted > 1
      end
      at = stop + 1
      stop = text:find("\n", at, true)
    end
    rest = text:sub(at)
    if #rest > EVENT then
      set(handle, "each_event", false)
      return
    end
    if has_usage ~= is_counted then
      is_counted = has_usage
      set(handle, "each_event", is_counted)
    end
  end
end

function envoy_on_response(handle)
  local check = handle:streamInfo():dynamicMetadata():get("envoy.filters.http.ext_authz")
  if check == nil or check["reservation"] == nil then return end
  local kind = (handle:headers():get("content-type") or ""):lower()
  if kind:find("^application/json") or kind:find("^application/x%-ndjson") or kind:find("^application/jsonl") then
    read_document(handle)
  elseif kind:find("^text/event%-stream") then
    local options = check["stream_options"]
    if type(options) == "table" and options["continuous_usage_stats"] == true then watch_events(handle) end
  end
end
