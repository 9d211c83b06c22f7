-- Runs the Lua functions of deploy/kong and deploy/apisix with stubs of their gateways. The test (lua.rs) replaces KONG and APISIX by
-- files with the functions, and loads this file into HAProxy's Lua.

-- The client's request, and what the function did.
local client, done

local function exit(status)
    done.status = status
    return status
end

local http = {
    new = function()
        return {
            set_timeouts = function() end,
            request_uri = function(_, _, check)
                done.checks = done.checks + 1
                done.check = check
                return client.answer
            end,
        }
    end,
}
package.loaded["resty.http"] = http

kong = {
    request = {
        get_headers = function() return client.headers, client.truncated end,
        get_method = function() return "GET" end,
        get_host = function() return "api.example.com" end,
        get_scheme = function() return "https" end,
        get_raw_body = function() return client.body end,
    },
    response = { exit = exit },
    client = { get_ip = function() return "192.0.2.1" end },
    service = {
        request = {
            set_header = function(name, value) done.upstream[name] = value end,
            clear_header = function(name) done.upstream[name] = nil end,
        },
    },
}
ngx = {
    var = { request_uri = "/v1/models?a=b", host = "api.example.com", scheme = "https", remote_addr = "192.0.2.1" },
    req = {
        get_headers = function() return client.headers, client.truncated end,
        get_method = function() return "GET" end,
        read_body = function() end,
        get_body_file = function() return client.body == nil and "/tmp/body" or nil end,
        get_body_data = function() return client.body end,
    },
}
package.loaded["apisix.core"] = {
    response = { exit = exit, set_header = function(name, value) done.denial[name] = value end },
    request = { set_header = function(_, name, value) done.upstream[name] = value end },
}

local function run(call, request)
    client = { headers = request.headers or {}, truncated = request.truncated, body = request.body or "", answer = request.answer }
    if request.file then
        client.body = nil
    end
    done = { checks = 0, denial = {}, upstream = { ["X-Tollgate-Tenant"] = "forged", Authorization = "Bearer client" } }
    call()
    return done
end

local allow = { status = 200, headers = { ["X-Tollgate-Subject"] = "alice" } }

for name, path in pairs({ kong = "KONG", apisix = "APISIX" }) do
    local chunk = assert(loadfile(path))
    local call = name == "kong" and chunk or function() return chunk()(nil, {}) end

    -- A name that Tollgate refuses, and one that a preset removes, reach the check.
    local seen = run(call, { headers = { x_tollgate_subject = "forged", ["x-body-compressed"] = "1" }, answer = allow })
    assert(seen.checks == 1 and seen.status == nil, name)
    assert(seen.check.headers.x_tollgate_subject == "forged", name)
    assert(seen.check.headers["x-body-compressed"] == "1", name)
    assert(seen.check.headers["x-forwarded-uri"] == "/v1/models?a=b", name)
    assert(seen.upstream["X-Tollgate-Subject"] == "alice", name)
    assert(seen.upstream["X-Tollgate-Tenant"] == nil and seen.upstream.Authorization == nil, name)

    -- What the client says about itself is replaced.
    seen = run(call, { headers = { ["x-forwarded-uri"] = "/health", host = "a" }, answer = allow })
    assert(seen.check.headers["x-forwarded-uri"] == "/v1/models?a=b" and seen.check.headers.host == nil, name)

    assert(run(call, { truncated = "truncated", answer = allow }).status == 431, name)
    for _, connection in ipairs({ "X-Tollgate-Subject", "close, authorization", { "close", "x-tollgate-tenant" } }) do
        seen = run(call, { headers = { connection = connection }, answer = allow })
        assert(seen.status == 400 and seen.checks == 0, name)
    end
    assert(run(call, { headers = { connection = "keep-alive, Upgrade" }, answer = allow }).status == nil, name)
    assert(run(call, { file = true, answer = allow }).status == 413, name)
    assert(run(call, { answer = nil }).status == 503, name)
    for _, status in ipairs({ 201, 204, 401, 429, 503 }) do
        assert(run(call, { answer = { status = status, headers = {} } }).status == status, name)
    end
end
print("every function passed")
