-- The counts of tokens in a body of JSON, or of lines of JSON, read while it passes. A key is behind a
-- brace, a comma or a space; inside of a text its quotes would be escaped. Of a count that occurs more
-- often the largest one is kept: nothing that a server repeats of its request lowers it.
local NAMES = {
  "prompt_tokens", "completion_tokens", "total_tokens", "input_tokens", "output_tokens",
  "cache_creation_input_tokens", "cache_read_input_tokens", "prompt_n", "cache_n", "predicted_n",
  "tokens_evaluated", "tokens_predicted", "prompt_eval_count", "eval_count",
}
-- The bytes of a chunk that are read again with the next one: more than a name with its number.
local KEPT = 128

function envoy_on_response(handle)
  local check = handle:streamInfo():dynamicMetadata():get("envoy.filters.http.ext_authz")
  if check == nil or check["reservation"] == nil then return end
  local kind = handle:headers():get("content-type") or ""
  if not (kind:find("^application/json") or kind:find("^application/x%-ndjson")
      or kind:find("^application/jsonl")) then
    return
  end
  local counts, kept, first = {}, "", true
  for chunk in handle:bodyChunks() do
    local text = kept .. chunk:getBytes(0, chunk:length())
    if first and text:find("%S") then
      first = false
      -- In a list of answers each one counts only itself.
      if text:find("^%s*%[") then
        handle:streamInfo():dynamicMetadata():set("tollgate.usage", "index", 0)
      end
    end
    if text:find("[{,%s]\"[%a_]+\"%s*:%s*%-?%d") then
      for _, name in ipairs(NAMES) do
        for number in text:gmatch("[{,%s]\"" .. name .. "\"%s*:%s*(%-?%d[%d%.eE%+%-]*)") do
          local count = tonumber(number)
          if count ~= nil and (counts[name] == nil or count > counts[name]) then
            counts[name] = count
            handle:streamInfo():dynamicMetadata():set("tollgate.usage", name, count)
          end
        end
      end
    end
    kept = text:sub(-KEPT)
  end
end
