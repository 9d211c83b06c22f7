-- Asks Tollgate about a request, and forwards it only on 200. Used by haproxy.cfg.

-- Headers of the connection, of the body's framing, and those that describe the request: these are HAProxy's to say.
local own = {
    ["connection"] = true, ["content-length"] = true, ["expect"] = true, ["host"] = true, ["http2-settings"] = true,
    ["keep-alive"] = true, ["proxy-connection"] = true, ["te"] = true, ["trailer"] = true, ["transfer-encoding"] = true,
    ["upgrade"] = true, ["x-original-host"] = true, ["x-original-method"] = true, ["x-original-scheme"] = true,
    ["x-original-uri"] = true, ["x-real-ip"] = true, ["x-envoy-auth-partial-body"] = true,
}

-- What a client may list in `Connection`. The next server drops a header that is listed there: the identity that Tollgate sets, or
-- the upstream's key.
local options = {
    [""] = true, ["close"] = true, ["keep-alive"] = true, ["upgrade"] = true, ["te"] = true, ["http2-settings"] = true,
}

-- The headers for the upstream.
local identity = {
    "x-tollgate-subject", "x-tollgate-tenant", "x-tollgate-scopes", "x-tollgate-credential", "x-tollgate-model",
    "x-tollgate-issuer", "x-tollgate-key-id", "x-tollgate-actor", "x-tollgate-decision-id",
}

-- The headers of a denial for the client.
local denial = {
    "content-type", "cache-control", "www-authenticate", "retry-after", "retry-after-ms", "x-should-retry",
    "x-tollgate-decision-id",
    "x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests",
    "x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens", "ratelimit",
    "ratelimit-policy", "dpop-nonce",
}

local function first(response, name)
    local values = response.headers and response.headers[name]
    return values and values[0] or nil
end

local function lists_headers(values)
    for index = 0, #values do
        for option in (values[index] .. ","):gmatch("([^,]*),") do
            if not options[option:match("^%s*(.-)%s*$"):lower()] then
                return true
            end
        end
    end
    return false
end

core.register_action("tollgate", { "http-req" }, function(txn, what)
    txn:set_var("txn.tollgate_allowed", false)
    local connection = txn.http:req_get_headers()["connection"]
    if connection and lists_headers(connection) then
        local refusal = txn:reply({ status = 400, body = '{"error":{"message":"the request was refused: the Connection header lists headers to drop","type":"invalid_request_error","param":null,"code":"malformed_request"}}' })
        refusal:add_header("content-type", "application/json")
        txn:done(refusal)
    end
    local headers = {}
    for name, values in pairs(txn.http:req_get_headers()) do
        if not own[name] then
            -- HAProxy counts from 0, Lua from 1: as a list every repetition is kept.
            headers[name] = {}
            for index = 0, #values do
                table.insert(headers[name], values[index])
            end
        end
    end
    headers["x-original-method"] = { txn.sf:method() }
    headers["x-original-uri"] = { txn.sf:pathq() }
    headers["x-original-host"] = { txn.sf:req_hdr("host") or "" }
    headers["x-original-scheme"] = { txn.sf:ssl_fc() == 1 and "https" or "http" }
    headers["x-real-ip"] = { tostring(txn.sf:src()) }

    local client = core.httpclient()
    local request = { url = txn:get_var("txn.tollgate_url"), headers = headers, timeout = 2000 }
    local response
    if what == "body" then
        local body = txn.sf:req_body() or ""
        -- Only with a length is it known that nothing was left out.
        local announced = txn.sf:req_hdr("content-length")
        if #body > 0 and tonumber(announced) ~= #body then
            headers["x-envoy-auth-partial-body"] = { "true" }
        end
        -- POST is how Tollgate knows that the body is with it.
        request.body = body
        response = client:post(request)
    else
        response = client:get(request)
    end
    -- HAProxy's client returns 503 by itself without an answer; every denial of Tollgate has an id.
    local status = response and response.status or 0
    if status == 0 or (status >= 500 and not first(response, "x-tollgate-decision-id")) then
        return
    end

    -- INVARIANT: 200 from Tollgate is the one thing that lets a request pass.
    if response.status == 200 then
        for _, name in ipairs(identity) do
            txn.http:req_del_header(name)
            local value = first(response, name)
            if value and value ~= "" then
                txn.http:req_add_header(name, value)
            end
        end
        -- The client's credential, the upstream's own key, or nothing: as the route says.
        for _, name in ipairs({ "authorization", "x-api-key", "api-key", "dpop" }) do
            txn.http:req_del_header(name)
            local credential = first(response, name)
            if credential then
                txn.http:req_add_header(name, credential)
            end
        end
        txn:set_var("txn.tollgate_allowed", true)
        return
    end

    local reply = txn:reply({ status = response.status, body = response.body or "" })
    for _, name in ipairs(denial) do
        local value = first(response, name)
        if value then
            reply:add_header(name, value)
        end
    end
    txn:done(reply)
end, 1)
