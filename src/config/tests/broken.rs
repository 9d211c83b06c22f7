//! Broken files, and every error of each, word for word.

use super::compile;

/// A sentence about the file, the file, and its errors.
type Row = (&'static str, &'static str, &'static [&'static str]);

#[rustfmt::skip]
const ROWS: [Row; 65] = [
    (
        "an empty file",
        "# nothing yet",
        &[
            "the file is empty; write a first one with `tollgate init`",
        ],
    ),
    (
        "a file without routes",
        "body: { max: 1MiB }",
        &[
            "line 1: missing key `routes`",
        ],
    ),
    (
        "a list in place of the sections",
        "- routes",
        &[
            "line 1: expected a map (`key: value`), found a list",
        ],
    ),
    (
        "YAML that does not end",
        "routes: [",
        &[
            "line 1: not valid YAML: unclosed bracket '[' at column 9",
        ],
    ),
    (
        "automatic bans after no failure, of half an address, that verify nothing",
        "automatic_bans:\n\
         \x20 failures: 0/1m\n\
         \x20 ipv6_prefix: 129\n\
         \x20 new_credentials: 0/1s\n\
         routes: [{ match: { paths: [/health] }, public: true }]",
        &[
            "line 2: automatic_bans.failures: `0/1m`: between 10 and 1000000 failed credentials ban a network",
            "line 3: automatic_bans.ipv6_prefix: `129`: a prefix has between 32 and 128 bits",
            "line 4: automatic_bans.new_credentials: `0/1s` verifies nothing, so that no client of a banned network could get a new token accepted; write `1/1m` for few",
        ],
    ),
    (
        "sizes that no key could have",
        "listen:\n\
         \x20 admin:\n\
         \x20   address: \"127.0.0.1:9001\"\n\
         \x20   token: 0123456789abcdef0123456789abcdef\n\
         \x20   credentials:\n\
         \x20   - name: acme\n\
         \x20     digest: \"sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\"\n\
         \x20     actions: [read_keys]\n\
         \x20     tenants: [acme]\n\
         \x20     may_grant: { limits: { day: 100/hour, other: 5/day } }\n\
         limits: [{ name: day, by: [tenant], requests: 100/day }]\n\
         routes: [{ match: { paths: [/health] }, public: true }]",
        &[
            "line 10: listen.admin.credentials[0].may_grant.limits.day: there is no limit `day` with sizes such as `100/hour`: write the name of a limit, and a size in its form",
            "line 10: listen.admin.credentials[0].may_grant.limits.other: there is no limit `other` with sizes such as `5/day`: write the name of a limit, and a size in its form",
        ],
    ),
    (
        "automatic bans without a cache of tokens",
        "token_cache: { max: 0B }\n\
         automatic_bans: {}\n\
         routes: [{ match: { paths: [/health] }, public: true }]",
        &[
            "line 2: automatic_bans: with `token_cache.max: 0B` no token is known, so that a ban would refuse every client of the network: leave the cache on, or write `mode: shadow`",
        ],
    ),
    (
        "a repeated key",
        "drain_timeout: 1s\n\
         drain_timeout: 2s\n\
         routes: [{ match: { paths: [/health] }, public: true }]",
        &[
            "line 2: not valid YAML: the key `drain_timeout` is written twice; remove one of them",
        ],
    ),
    (
        "a tab as indentation",
        "body:\n\tmax: 1MiB\nroutes: [{ match: { paths: [/health] }, public: true }]",
        &[
            "line 2: not valid YAML: tabs disallowed within this context (block indentation) at column 2",
        ],
    ),
    (
        "an anchor and its alias",
        "body: &b { max: 1MiB }\n\
         audit: *b\n\
         routes: [{ match: { paths: [/health] }, public: true }]",
        &[
            "line 2: anchors and aliases are not supported; write the value in each place",
        ],
    ),
    (
        "two documents",
        "routes: [{ match: { paths: [/health] }, public: true }]\n\
         ---\n\
         routes: [{ match: { paths: [/health] }, public: true }]",
        &[
            "line 2: the file has a second document; remove `---` and what follows",
        ],
    ),
    (
        "a variable that is not set",
        "listen: { admin: { address: '127.0.0.1:9003', token: '${ADMIN_TOKEN}' } }\n\
         routes: [{ match: { paths: [/health] }, public: true }]",
        &[
            "line 1: listen.admin.token: environment variable `ADMIN_TOKEN` is not set; set it, or write `${ADMIN_TOKEN:-default}`",
        ],
    ),
    (
        "a limit by model, where clients invent the names",
        "issuers: [{ issuer: 'https://a', audiences: any, algorithms: [RS256], jwks: { url: 'https://a/jwks' } }]\n\
         limits: [{ name: each, by: [subject, model], rate: 5/1h }]\n\
         routes: [{ match: { methods: [POST], paths: [/a] }, scopes: [], model: { from: body }, limits: [each] }]",
        &[
            "line 3: routes[0].limits[0]: `each` counts by model, and clients can invent names; list the `models`, or set `model.scope` with `{model}`",
        ],
    ),
    (
        "a rule in shadow that the route does not have, and one that always decides",
        "issuers: [{ issuer: 'https://a', audiences: any, algorithms: [RS256], jwks: { url: 'https://a/jwks' } }]\n\
         routes:\n\
         - { match: { methods: [GET], paths: [/a] }, scopes: [], shadow: [tools] }\n\
         - { match: { methods: [GET], paths: [/b] }, scopes: [x], shadow: [scopes] }\n\
         - { match: { methods: [GET], paths: [/c] }, scopes: [], limits: [c] }\n\
         - { preset: vllm, shadow: [mcp] }\n\
         limits: [{ name: c, mode: shaddow, by: [subject], rate: 1/1h }]",
        &[
            "line 3: routes[0].shadow[0]: the route has no `tools`; set it, or remove this",
            "line 4: routes[1].shadow[0]: unknown value `scopes`, expected `actors`, `caps`, `categories`, `mcp`, `raise` or `tools`",
            "line 6: routes[3].shadow[0]: the preset has no `mcp`; set it, or remove this",
            "line 7: limits[0].mode: unknown value `shaddow`, expected `enforce` or `shadow`",
        ],
    ),
    (
        "a misspelled section is not missing as well",
        "route: [{ match: { paths: [/health] }, public: true }]",
        &[
            "line 1: route: unknown key `route`; did you mean `routes`?",
        ],
    ),
    (
        "an unknown section",
        "routes: [{ match: { paths: [/health] }, public: true }]\n\
         frobnicate: true",
        &[
            "line 2: frobnicate: unknown key `frobnicate`; known here: listen, body, drain_timeout, store, audit, observe, log, token_cache, secrets, issuers, api_keys, client_certificates, cookies, dpop, automatic_bans, models, tiers, categories, routes, limits, prices, metering, ledger, revocation, require_https, identity_headers, dynamic_metadata",
        ],
    ),
    (
        "a section of another gateway",
        "routes: [{ match: { paths: [/health] }, public: true }]\n\
         cors: { allow_origin: '*' }",
        &[
            r#"line 2: cors: unknown key `cors`; the CORS filter of the proxy answers `OPTIONS` before Tollgate is called: see docs/configuration.md, "Keys of other gateways""#,
        ],
    ),
    (
        "a key of another gateway in a route",
        "routes:\n  - match: { paths: [/health] }\n    public: true\n    rate_limit: 5",
        &[
            r#"line 4: routes[0].rate_limit: unknown key `rate_limit`; `limits` defines rates, and each route names those that count it: see docs/configuration.md, "Keys of other gateways""#,
        ],
    ),
    (
        "a section without a value",
        "limits:\n\
         routes: [{ match: { paths: [/health] }, public: true }]",
        &[
            "line 1: limits: expected a list, found nothing; write a value, or remove the key",
        ],
    ),
    (
        "text in place of a number",
        "store: { memory: { max_buckets: twenty } }\n\
         routes: [{ match: { paths: [/health] }, public: true }]",
        &[
            "line 1: store.memory.max_buckets: expected a number, found text `twenty`",
        ],
    ),
    (
        "a number that is not whole",
        "store: { memory: { max_buckets: 1.5 } }\n\
         routes: [{ match: { paths: [/health] }, public: true }]",
        &[
            "line 1: store.memory.max_buckets: expected a whole number, found the number `1.5`",
        ],
    ),
    (
        "a negative number",
        "store: { memory: { max_buckets: -1 } }\n\
         routes: [{ match: { paths: [/health] }, public: true }]",
        &[
            "line 1: store.memory.max_buckets: expected a number of 0 or more, found `-1`",
        ],
    ),
    (
        "a number that is too large for its key",
        "routes: [{ match: { paths: [/health] }, public: true }]\n\
         observe: { tracing: { endpoint: 'http://c:4317', queue: 5000000000 } }",
        &[
            "line 2: observe.tracing.queue: expected a number of at most 4294967295, found `5000000000`",
        ],
    ),
    (
        "zero is not unlimited",
        "store: { memory: { max_buckets: 0 } }\n\
         routes: [{ match: { paths: [/health] }, public: true }]",
        &[
            "line 1: store.memory.max_buckets: must be 1 to 100000000",
        ],
    ),
    (
        "text in place of true or false",
        "routes: [{ match: { paths: [/health] }, public: 'yes' }]",
        &[
            "line 1: routes[0].public: expected `true` or `false`, found text `yes`",
        ],
    ),
    (
        "a word in place of a list",
        "routes: [{ match: { paths: /health }, public: true }]",
        &[
            "line 1: routes[0].match.paths: expected a list, found text `/health`",
        ],
    ),
    (
        "a list in place of a map",
        "routes: [{ match: [/health], public: true }]",
        &[
            "line 1: routes[0].match: expected a map (`key: value`), found a list",
        ],
    ),
    (
        "a duration without a unit",
        "drain_timeout: 20\n\
         routes: [{ match: { paths: [/health] }, public: true }]",
        &[
            "line 1: drain_timeout: expected a duration such as `30s`, found the number `20`",
        ],
    ),
    (
        "a duration with an unknown unit",
        "drain_timeout: 20sec\n\
         routes: [{ match: { paths: [/health] }, public: true }]",
        &[
            "line 1: drain_timeout: `20sec` is not a duration; write an integer and `ms`, `s`, `m`, `h` or `d`, such as `30s`",
        ],
    ),
    (
        "a size without a unit",
        "body: { max: 16 }\n\
         routes: [{ match: { paths: [/health] }, public: true }]",
        &[
            "line 1: body.max: expected a size such as `16MiB`, found the number `16`",
        ],
    ),
    (
        "a size in powers of ten",
        "body: { max: 16MB }\n\
         routes: [{ match: { paths: [/health] }, public: true }]",
        &[
            "line 1: body.max: `16MB` is not a size; write an integer and `B`, `KiB`, `MiB` or `GiB`, such as `16MiB`",
        ],
    ),
    (
        "bodies in flight that do not hold one body",
        "body: { max: 2MiB, max_in_flight: 1MiB }\n\
         routes: [{ match: { paths: [/health] }, public: true }]",
        &[
            "line 1: body: `body.max_in_flight` of 1048576 bytes cannot hold one body of 2097152 bytes: at least 3145727 are needed",
        ],
    ),
    (
        "a word that the key does not know",
        "routes: [{ match: { paths: [/health] }, public: true, on_outage: dney }]",
        &[
            "line 1: routes[0].on_outage: unknown value `dney`, expected `deny`, `error`, `allow` or `local`",
        ],
    ),
    (
        "two stores",
        "store: { memory: {}, redis: { url: 'redis://r' } }\n\
         routes: [{ match: { paths: [/health] }, public: true }]",
        &[
            "line 1: store: expected one key, `memory` or `redis`, found `memory` and `redis`",
        ],
    ),
    (
        "a store without its keys",
        "store: redis\n\
         routes: [{ match: { paths: [/health] }, public: true }]",
        &[
            "line 1: store: `redis` needs a value: write `redis: …`",
        ],
    ),
    (
        "a store with a misspelled kind",
        "store: { rediss: { url: 'redis://r' } }\n\
         routes: [{ match: { paths: [/health] }, public: true }]",
        &[
            "line 1: store: unknown value `rediss`, expected `memory` or `redis`",
        ],
    ),
    (
        "a Redis URL of another scheme",
        "store: { redis: { url: 'http://redis' } }\n\
         routes: [{ match: { paths: [/health] }, public: true }]",
        &[
            "line 1: store.redis.url: this is not the URL of a Redis; write `redis://host:port/db`, `rediss://host:port/db`, `unix:///path?db=0`, `redis+sentinel://host:port,host:port/primary/db` or `redis+cluster://host:port,host:port`, where `rediss+` is TLS",
        ],
    ),
    (
        "a password in the URL with a slash",
        "store: { redis: { url: 'redis://:pa/ss@redis:6379' } }\n\
         routes: [{ match: { paths: [/health] }, public: true }]",
        &[
            "line 1: store.redis.url: the user or password in the URL contains a special character; write `%2F` for `/`, `%3F` for `?`, `%23` for `#` and `%40` for `@`, or move it from the URL into the key `password`",
        ],
    ),
    (
        "a password twice",
        "store: { redis: { url: 'redis://:a@redis', password: b } }\n\
         routes: [{ match: { paths: [/health] }, public: true }]",
        &[
            "line 1: store.redis.password: `url` contains a password as well; write it once",
        ],
    ),
    (
        "a secret that is a number",
        "listen: { admin: { address: '127.0.0.1:9003', token: 12345 } }\n\
         routes: [{ match: { paths: [/health] }, public: true }]",
        &[
            "line 1: listen.admin.token: a secret is text; put it in quotes",
        ],
    ),
    (
        "an address without a port",
        "listen: { grpc: 127.0.0.1 }\n\
         routes: [{ match: { paths: [/health] }, public: true }]",
        &[
            "line 1: listen.grpc: `127.0.0.1` is not an address to listen on: write an IP address and a port such as `127.0.0.1:9000`, `[::1]:9000` or `0.0.0.0:9000`, or `unix:` and an absolute path",
        ],
    ),
    (
        "a mode without quotes",
        "listen: { admin: { address: 'unix:/run/a.sock', mode: 0660, token: x } }\n\
         routes: [{ match: { paths: [/health] }, public: true }]",
        &[
            r#"line 1: listen.admin.mode: expected four octal digits in quotes, such as "0660", found the number `660`"#,
        ],
    ),
    (
        "a listener with an unknown key",
        "listen: { ops: { address: '127.0.0.1:9002', port: 9002 } }\n\
         routes: [{ match: { paths: [/health] }, public: true }]",
        &[
            "line 1: listen.ops.port: unknown key `port`; known here: address, mode, tls, max_header_bytes, trusted_proxies",
        ],
    ),
    (
        "an issuer with nothing but its name",
        "issuers: [{ issuer: 'https://a' }]\n\
         routes: [{ match: { paths: [/health] }, public: true }]",
        &[
            "line 1: issuers[0]: missing key `audiences`",
            "line 1: issuers[0].algorithms: list at least one algorithm, such as `[RS256]`",
        ],
    ),
    (
        "two issuers of one name",
        "issuers:\n\
         - { issuer: 'https://a', audiences: [x], algorithms: [RS256], jwks: { discovery: true } }\n\
         - { issuer: 'https://a', audiences: [y], algorithms: [RS256], jwks: { discovery: true } }\n\
         routes: [{ match: { paths: [/health] }, public: true }]",
        &[
            "line 3: issuers[1].issuer: the issuer `https://a` is already at `issuers[0]` (line 2); remove one of the two",
        ],
    ),
    (
        "an issuer without keys",
        "issuers: [{ issuer: 'https://a', audiences: [x], algorithms: [RS256] }]\n\
         routes: [{ match: { paths: [/health] }, public: true }]",
        &[
            "line 1: issuers[0]: the issuer has no keys; add `jwks: { url: … }`, `{ file: … }` or `{ discovery: true }`",
        ],
    ),
    (
        "an unknown algorithm",
        "issuers: [{ issuer: 'https://a', audiences: [x], algorithms: [none], jwks: { discovery: true } }]\n\
         routes: [{ match: { paths: [/health] }, public: true }]",
        &[
            "line 1: issuers[0].algorithms[0]: unknown algorithm `none`; known: RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512, EdDSA, Ed25519, HS256, HS384, HS512",
        ],
    ),
    (
        "one audience as a word",
        "issuers: [{ issuer: 'https://a', audiences: x, algorithms: [RS256], jwks: { discovery: true } }]\n\
         routes: [{ match: { paths: [/health] }, public: true }]",
        &[
            "line 1: issuers[0].audiences: `x` is neither a list of names nor the word `any`; write `[x]`",
        ],
    ),
    (
        "a key set over plain http",
        "issuers: [{ issuer: 'https://a', audiences: [x], algorithms: [RS256], jwks: { url: 'http://a/jwks' } }]\n\
         routes: [{ match: { paths: [/health] }, public: true }]",
        &[
            "line 1: issuers[0].jwks.url: this is plain http; use https, or write `insecure_http: true` if the network is trusted",
        ],
    ),
    (
        "opaque tokens that may belong to two issuers",
        "issuers:\n\
         - { issuer: 'https://a', audiences: [x], introspection: { url: 'https://a/i', bearer: b } }\n\
         - { issuer: 'https://b', audiences: [x], introspection: { url: 'https://b/i', bearer: b, prefix: at_ } }\n\
         routes: [{ match: { paths: [/health] }, public: true }]",
        &[
            "line 3: issuers[1].introspection.prefix: a token may begin like those of this issuer and of `https://a`, and is sent to one endpoint only: give both a `prefix`, of which neither begins the other",
        ],
    ),
    (
        "algorithms of an issuer that signs nothing, and an endpoint without credentials",
        "issuers: [{ issuer: 'https://a', audiences: [x], algorithms: [RS256], introspection: { url: 'http://a/i' } }]\n\
         routes: [{ match: { paths: [/health] }, public: true }]",
        &[
            "line 1: issuers[0].introspection: write either `client_id` and `client_secret`, or `bearer`: an endpoint without credentials is open to those who try tokens (RFC 7662 section 2.1)",
            "line 1: issuers[0].introspection.url: this is plain http; use https, or write `insecure_http: true` if the network is trusted",
            "line 1: issuers[0].algorithms: an issuer with `introspection` alone has no signed tokens; add `jwks`, or remove this",
        ],
    ),
    (
        "kinds of credentials without their sections",
        "issuers: [{ issuer: 'https://a', audiences: [x], algorithms: [RS256], jwks: { url: 'https://a/jwks' } }]\n\
         routes: [{ match: { methods: [GET], paths: [/a] }, scopes: [], credentials: [cookie, opaque_token], ambient: true }]",
        &[
            "line 2: routes[0].credentials[0]: `cookie` needs the section `cookies`",
            "line 2: routes[0].credentials[1]: `opaque_token` needs an issuer with `introspection`",
            "line 2: routes[0].ambient: `ambient` needs the section `cookies` with the `origins` of your pages",
        ],
    ),
    (
        "a route with a credential and no issuer",
        "routes: [{ match: { methods: [GET], paths: [/a] }, scopes: [] }]",
        &[
            "line 1: routes[0]: the route needs a credential, and there are no `issuers`, `api_keys` or `client_certificates` to verify one",
        ],
    ),
    (
        "a route without scopes",
        "issuers: [{ issuer: 'https://a', audiences: [x], algorithms: [RS256], jwks: { discovery: true } }]\n\
         routes: [{ match: { methods: [GET], paths: [/a] } }]",
        &[
            "line 2: routes[0]: a route needs `scopes` (or `public: true`); write `scopes: []` to admit any valid credential",
        ],
    ),
    (
        "a route that is neither a match nor a preset",
        "routes: [{ scopes: [] }]",
        &[
            "line 1: routes[0]: missing key `preset` or `match`",
        ],
    ),
    (
        "an unknown preset",
        "issuers: [{ issuer: 'https://a', audiences: [x], algorithms: [RS256], jwks: { discovery: true } }]\n\
         routes: [{ preset: vlm }]",
        &[
            "line 2: routes[0].preset: there is no preset `vlm`; known: vllm, sglang, lmdeploy, ms-swift, hunyuanocr, llama-cpp, tgi, ollama, triton, ray-serve",
        ],
    ),
    (
        "two routes for the same requests",
        "routes:\n  - match: { paths: [/a, /b] }\n    public: true\n  - match: { paths: [/c] }\n    public: true\n  - match: { paths: [/b] }\n    public: true",
        &[
            "line 6: routes[2].match.paths[0]: a route for GET with this host and path is already at `routes[0]` (line 2); remove one of the two, or give each its own `match.hosts`",
        ],
    ),
    (
        "a route that names a limit that does not exist",
        "routes: [{ match: { paths: [/health] }, public: true, limits: [each] }]",
        &[
            "line 1: routes[0].limits[0]: there is no limit `each`; known: none",
        ],
    ),
    (
        "a limit that cannot be read is not missing as well",
        "limits:\n  - { name: each, by: [route], rate: 60 per minute }\nroutes: [{ match: { paths: [/health] }, public: true, limits: [each] }]",
        &[
            "line 2: limits[0].rate: `60 per minute` is not a rate; write a number and a duration, such as `60/1m`",
        ],
    ),
    (
        "a local outage policy without a store",
        "routes: [{ match: { paths: [/health] }, public: true, on_outage: local }]",
        &[
            "line 1: store: a route has `on_outage: local`, and a store in memory has no outages; use `deny` there, or `store.redis`",
        ],
    ),
    (
        "many errors at once, in the order of the lines",
        "drain_timeout: 5\nbody: { max: big, mx: 1 }\nlog: { level: loud }\nissuers:\n  - issuer: 'https://a'\n    audiences: [x]\n    algorithms: [RS256]\n    jwks: { url: 5 }\nroutes:\n  - match: { paths: [health] }\n    public: true\n    scopes: [a]",
        &[
            "line 1: drain_timeout: expected a duration such as `30s`, found the number `5`",
            "line 2: body.mx: unknown key `mx`; did you mean `max`?",
            "line 2: body.max: `big` is not a size; write an integer and `B`, `KiB`, `MiB` or `GiB`, such as `16MiB`",
            "line 3: log.level: unknown value `loud`, expected `error`, `warn`, `info` or `debug`",
            "line 8: issuers[0].jwks.url: expected text, found the number `5`",
            "line 10: routes[0].match.paths[0]: `health` does not start with `/`",
            "line 12: routes[0].scopes: a public route needs no credential, so `scopes` has no meaning; remove one of the two",
        ],
    ),
    (
        "a colon in a value without quotes",
        "drain_timeout: a: b\n\
         routes: [{ match: { paths: [/health] }, public: true }]",
        &[
            "line 1: not valid YAML: mapping values are not allowed in this context at column 17",
        ],
    ),
    (
        "quotes that are not closed",
        "audit: { to: 'none }\n\
         routes: [{ match: { paths: [/health] }, public: true }]",
        &[
            "line 1: not valid YAML: unclosed quote at column 14",
        ],
    ),
    (
        "characters that cannot be seen",
        "issuers:\n\
         - issuer: \"https://a.example\\u00a0\"\n  \
           audiences: [api, \"api\\u200b\"]\n  \
           algorithms: [ES256]\n  \
           jwks: { url: \"https://a.example/jwks\" }\n\
         routes: [{ match: { methods: [GET], paths: [/a] }, scopes: [\"a\\u00a0\"] }]\n",
        &[
            "line 2: issuers[0].issuer: the text has U+00A0, which cannot be seen; write the text again",
            "line 3: issuers[0].audiences[1]: the text has U+200B, which cannot be seen; write the text again",
            "line 6: routes[0].scopes[0]: `a\\u{a0}` is not a scope; scopes have no spaces, quotes or backslashes",
        ],
    ),
    (
        "lists of claims that are read as paths",
        "issuers:\n\
         - issuer: https://a.example\n  \
           audiences: any\n  \
           algorithms: [ES256]\n  \
           jwks: { url: \"https://a.example/jwks\" }\n  \
           claims: { client: [azp, client_id], tenant: [tid], roles: [roles, groups] }\n\
         limits:\n\
         - name: each\n  \
           by: [subject]\n  \
           rate: 1/1m\n  \
           overrides: [{ claim: [tid, tenant_id], value: acme, rate: 2/1m }]\n\
         routes: [{ match: { methods: [GET], paths: [/a] }, scopes: [] }]\n",
        &[
            "line 6: issuers[0].claims.client: a list of names is a path here: `azp.client_id`, a member of `azp`, which is no object; for the first of several claims, as in `claims.subject`, write `[[azp], [client_id]]`",
            "line 6: issuers[0].claims.roles: a list of names is a path here: `roles.groups`, a member of `roles`, which is no object; the roles are read from one claim",
            "line 11: limits[0].overrides[0].claim: a list of names is a path: `tid.tenant_id`, a member of `tid`, which is no object; write one entry for each claim",
        ],
    ),
];

#[test]
fn every_error_is_reported_in_these_words() {
    let wrong = ROWS.iter().filter_map(|(about, file, expected)| {
        let errors = compile(file, &|_| None).err().unwrap_or_default();
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        (lines != *expected).then(|| format!("{about}:\n  {}", lines.join("\n  ")))
    });
    let wrong: Vec<String> = wrong.collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}
