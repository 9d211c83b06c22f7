use tollgate_core::config::keys_of;

use super::*;
use crate::config::compile;

fn server(sections: &str) -> ServerConfig {
    let text = format!("routes: [{{ match: {{ paths: [/a] }}, public: true }}]\n{sections}");
    compile(&text, &|_| None).unwrap().file.server
}

#[test]
fn every_section_is_compared_under_its_name() {
    let (one, other) = (server(""), server(""));
    let names: Vec<&str> = one.compared(&other).iter().map(|(name, _)| *name).collect();
    assert_eq!(names, keys_of::<ServerConfig>());
}

#[test]
fn the_listener_of_the_access_log_admits_no_stranger() {
    const METERING: &str = "metering: { secrets: ['file:/run/metering'] }";
    let errors = |listener: &str, metering: &str| {
        let text = format!(
            "routes: [{{ match: {{ paths: [/a] }}, public: true }}]\nlisten: {{ access_log: {listener} }}\n{metering}"
        );
        let errors = compile(&text, &|_| None).err().unwrap_or_default();
        errors.iter().map(|error| error.message()).collect::<Vec<_>>().join("; ")
    };
    assert_eq!(errors("'unix:/run/log.sock'", METERING), "");
    let tls = |authority| {
        format!("{{ address: '10.0.0.1:9004', tls: {{ cert: c, key: k{authority} }} }}")
    };
    assert_eq!(errors(&tls(", client_ca: ca"), METERING), "");
    for listener in ["'127.0.0.1:9004'".to_owned(), tls("")] {
        let found = errors(&listener, METERING);
        assert!(found.contains("use a Unix socket, or `tls` with `client_ca`"), "{found}");
    }
    let found = errors("'unix:/run/log.sock'", "");
    assert!(found.contains("add `metering.secrets`"), "{found}");
}

#[test]
fn a_limit_that_is_settled_needs_what_settles_it() {
    const METERING: &str = "metering: { secrets: ['file:/run/metering'] }\n";
    const LISTEN: &str = "listen: { access_log: 'unix:/run/log.sock' }\n";
    const MODELS: &str = "models: [{ name: m, context: 4096 }]\n";
    let errors = |limit: &str, sections: &[&str]| {
        let text = format!(
                "issuers: [{{ issuer: 'https://a', audiences: [x], algorithms: [RS256], jwks: {{ url: 'https://a/k' }} }}]
routes: [{{ match: {{ methods: [POST], paths: [/v1/chat/completions] }}, scopes: [], model: {{ from: body }}, limits: [l] }}]
limits: [{{ name: l, by: [subject], {limit} }}]
{}",
                sections.concat()
            );
        let errors = compile(&text, &|_| None).err().unwrap_or_default();
        errors.iter().map(|error| error.message()).collect::<Vec<_>>().join("; ")
    };
    for limit in ["tokens: 1000/1m", "tokens: 1000/day", "concurrent: 2"] {
        assert_eq!(errors(limit, &[METERING, LISTEN, MODELS]), "", "{limit}");
        let found = errors(limit, &[METERING, MODELS]);
        assert!(found.contains("add `listen.access_log`"), "{limit}: {found}");
        let embedded = "listen: { embedded: true }\n";
        assert_eq!(errors(limit, &[METERING, embedded, MODELS]), "", "{limit}");
        let found = errors(limit, &[MODELS]);
        assert!(found.contains("add `metering.secrets`"), "{limit}: {found}");
    }
    let found = errors("tokens: 1000/day", &[METERING, LISTEN]);
    assert!(found.contains("list the `models` with their `context`"), "{found}");
    let found = errors("tokens: 1000/day", &[METERING, LISTEN, "models: [{ name: m }]\n"]);
    assert!(found.contains("the model `m` has no `context`"), "{found}");
    for limit in ["requests: 5/day", "rate: 5/1m"] {
        assert_eq!(errors(limit, &[]), "", "{limit}");
    }
    for (limit, error) in [
        ("tokens: 8", "write tokens per time"),
        ("tokens: 8/day, burst: 4", "a window of the calendar has no burst"),
        ("tokens: 8/1m, time_zone: UTC", "tokens per time have no windows"),
        ("tokens: 8/day, rate: 5/1m", "a limit has one size"),
        ("concurrent: 8, burst: 4", "remove this"),
        ("tokens: 8/day, overrides: [{ role: a, tokens: 9/hour }]", "in the form of the limit's"),
        ("tokens: 8/day, overrides: [{ role: a, rate: 9/1m }]", "the limit has `tokens`"),
        ("tokens: 8/day, may_raise_to: 9", "does not have the form"),
        ("tokens: 8/day, lease: { slice: 2 }", "only a `rate` can be leased"),
        ("tokens: 8/day, max_debt_percent: 5", "only a limit with `hold: estimate`"),
        ("tokens: 8/day, hold: bound, max_debt_percent: 5", "only a limit with `hold: estimate`"),
        ("tokens: 8/day, hold: estimate, max_debt_percent: 1001", "it is from 0 to 1000"),
        ("requests: 8/day, hold: estimate", "only a limit with `tokens` or `cost` has `hold`"),
    ] {
        let found = errors(limit, &[METERING, LISTEN, MODELS]);
        assert!(found.contains(error), "{limit}: {found}");
    }
}

#[test]
fn what_reports_and_what_is_cut_needs_its_listener() {
    let errors = |listen: &str, route: &str| {
        let text = format!(
                "listen: {{ {listen} }}
metering: {{ secrets: ['file:/run/metering'] }}
issuers: [{{ issuer: 'https://a', audiences: [x], algorithms: [RS256], jwks: {{ url: 'https://a/k' }} }}]
routes: [{{ match: {{ methods: [GET], paths: [/a] }}, name: a, scopes: [], limits: [l]{route} }}]
limits: [{{ name: l, by: [subject], concurrent: 2 }}]"
            );
        let errors = compile(&text, &|_| None).err().unwrap_or_default();
        errors.iter().map(|error| error.message()).collect::<Vec<_>>().join("; ")
    };
    let http = |settlement: &str| {
        format!("http: [{{ address: '127.0.0.1:9001', dialect: nginx, body: sent{settlement} }}]")
    };
    let (reported, settle) =
        (http(", settlement: reported"), "settle: { address: 'unix:/run/settle.sock' }");
    let (log, ext_proc) =
        ("access_log: 'unix:/run/log.sock'", "ext_proc: 'unix:/run/ext-proc.sock'");
    let cut = ", cut_streams: true";
    for (listen, route, expected) in [
        (format!("{reported}, {settle}"), "", ""),
        (reported, "", "add `listen.settle`"),
        (http(""), "", "are settled by reports of usage"),
        (http(", settlement: expiry"), "", ""),
        (format!("grpc: '127.0.0.1:9000', {settle}"), "", ""),
        (log.to_owned(), "", ""),
        (format!("{log}, {ext_proc}"), cut, ""),
        (log.to_owned(), cut, "add `listen.ext_proc`"),
        (format!("{settle}, {ext_proc}"), "", "add `listen.access_log`"),
        (format!("{log}, ext_proc: '127.0.0.1:9005'"), "", "use a Unix socket"),
        (format!("{log}, settle: {{ address: '127.0.0.1:9004' }}"), "", "list `reporters`"),
    ] {
        let found = errors(&listen, route);
        assert_eq!(found.is_empty(), expected.is_empty(), "{listen}: {found}");
        assert!(found.contains(expected), "{listen}: {found}");
    }
}

#[test]
fn inside_of_envoy_no_listener_takes_checks() {
    let listen = server("listen: { embedded: true, ops: '127.0.0.1:9003' }").listen;
    assert_eq!(listen.grpc(), None);
    for (listener, key) in [
        ("grpc: '127.0.0.1:9000'", "listen.grpc"),
        ("http: [{ address: '127.0.0.1:9001', dialect: nginx }]", "listen.http"),
    ] {
        let text = format!(
            "routes: [{{ match: {{ paths: [/a] }}, public: true }}]\nlisten: {{ embedded: true, {listener} }}"
        );
        let errors = compile(&text, &|_| None).unwrap_err();
        let found: Vec<String> = errors.iter().map(|error| error.path.clone()).collect();
        assert_eq!(found, [key], "{errors:?}");
    }
}

#[test]
fn cookies_need_a_proxy_that_takes_them_out() {
    for (listen, expected) in [
        ("grpc: '127.0.0.1:9000'", &[][..]),
        ("embedded: true", &[]),
        ("http: [{ address: '127.0.0.1:9001', dialect: nginx }]", &["cookies"]),
        (
            "grpc: '127.0.0.1:9000', http: [{ address: '127.0.0.1:9001', dialect: traefik }]",
            &["cookies"],
        ),
    ] {
        let text = format!(
            "listen: {{ {listen} }}\ncookies: {{ origins: ['https://a.example'] }}\nroutes: [{{ match: {{ paths: [/a] }}, public: true }}]"
        );
        let errors = compile(&text, &|_| None).err().unwrap_or_default();
        let found: Vec<_> = errors.iter().map(|error| error.path.as_str()).collect();
        assert_eq!(found, expected, "{listen}");
    }
}

#[test]
fn a_certificate_is_in_a_header_where_no_check_comes_over_grpc() {
    let found = |listen: &str, header: &str| {
        let text = format!(
            "listen: {{ {listen} }}
client_certificates: {{ {header} }}
routes: [{{ match: {{ paths: [/a] }}, public: true }}]"
        );
        let errors = compile(&text, &|_| None).err().unwrap_or_default();
        errors.iter().map(|error| error.path.clone()).collect::<Vec<_>>()
    };
    let http = "http: [{ address: '127.0.0.1:9001', dialect: nginx }]";
    let both = format!("grpc: '127.0.0.1:9000', {http}");
    let header = "header: { name: x-client-cert, format: pem }";
    for listen in ["embedded: true", http] {
        assert_eq!(found(listen, ""), ["client_certificates.header"], "{listen}");
        assert!(found(listen, header).is_empty(), "{listen}");
    }
    for listen in ["grpc: '127.0.0.1:9000'", &*both] {
        assert!(found(listen, "").is_empty(), "{listen}");
    }
}

#[test]
fn work_whose_usage_is_in_no_response_needs_a_fixed_charge() {
    let errors = |route: &str| {
        let text = format!(
                "listen: {{ access_log: 'unix:/run/log.sock' }}
metering: {{ secrets: ['file:/run/metering'] }}
issuers: [{{ issuer: 'https://a', audiences: [x], algorithms: [RS256], jwks: {{ url: 'https://a/k' }} }}]
models: [{{ name: m, context: 4096 }}]
routes: [{{ {route} }}]
limits: [{{ name: l, by: [subject], tokens: 8/day }}, {{ name: r, by: [subject], rate: 5/1m }}]"
            );
        let errors = compile(&text, &|_| None).err().unwrap_or_default();
        errors.iter().map(|error| error.message()).collect::<Vec<_>>().join("; ")
    };
    let posts = |path: &str, more: &str| {
        format!("match: {{ methods: [POST], paths: ['{path}'] }}, scopes: [], {more}")
    };
    let realtime =
        "match: { methods: [GET], paths: [/ws] }, scopes: [], websocket: {}, limits: [l]";
    let metered = posts("/v1/responses", "model: { from: body }, limits: [l]");
    for route in [
        posts("/v1/batches", "limits: [l], fixed_tokens: 7"),
        posts("/v1/batches/*", "limits: [r, l], fixed_tokens: 7"),
        posts("/v1/videos", "limits: [l], fixed_tokens: 7"),
        format!("{realtime}, fixed_tokens: 7"),
        format!("{metered}, background_tokens: 7"),
        posts("/v1/*", "model: { from: body }, limits: [l], background_tokens: 7"),
        "preset: vllm, open: [realtime, batch], limits: [l], fixed_tokens: 7".to_owned(),
        "preset: vllm, limits: [l], background_tokens: 7".to_owned(),
        "preset: vllm, open: [realtime], limits: [l], fixed_tokens: 7, background_tokens: 8"
            .to_owned(),
    ] {
        assert_eq!(errors(&route), "", "{route}");
    }
    let both = format!("{metered}, fixed_tokens: 7, background_tokens: 7");
    for (route, error) in [
        (posts("/v1/batches", "model: { from: body }, limits: [l]"), "set `fixed_tokens`"),
        (format!("{realtime}, model: {{ from: 'fixed:m' }}"), "set `fixed_tokens`"),
        (posts("/v1/batches", "limits: [r], fixed_tokens: 7"), "no limit in `limits` has"),
        (posts("/v1/batches", "fixed_tokens: 7"), "no limit in `limits` has `tokens` or `cost`"),
        (posts("/a", "limits: [r], background_tokens: 7"), "no limit in `limits` has"),
        (posts("/a", "limits: [l], fixed_tokens: 0"), "nonzero"),
        (posts("/a", "limits: [l], fixed_tokens: 9007199254740993"), "larger than 2^53"),
        (both, "remove one of the two"),
        (
            posts(
                "/v1/chat/completions",
                "model: { from: body }, limits: [l], background_tokens: 7",
            ),
            "only requests of the Responses API",
        ),
        ("preset: tgi, limits: [l], background_tokens: 7".to_owned(), "no route of the preset"),
        (
            posts("/v1/batches", "limits: [l], fixed_tokens: 7, on_outage: local"),
            "`local` cannot count a fixed charge",
        ),
        (
            "match: { paths: [/a] }, public: true, limits: [l], fixed_tokens: 7".to_owned(),
            "the route is public",
        ),
        ("preset: vllm, limits: [l], fixed_tokens: 7".to_owned(), "no batch of the preset"),
        ("preset: vllm, limits: [r], background_tokens: 7".to_owned(), "no limit in `limits`"),
    ] {
        let found = errors(&route);
        assert!(found.contains(error), "{route}: {found}");
    }
}

#[test]
fn a_limit_on_cost_needs_a_price_for_each_model() {
    let errors = |models: &str, prices: &str, route: &str| {
        let text = format!(
            "listen: {{ access_log: 'unix:/run/log.sock' }}
metering: {{ secrets: ['file:/run/metering'] }}
issuers: [{{ issuer: 'https://a', audiences: [x], algorithms: [RS256], jwks: {{ url: 'https://a/k' }} }}]
{models}
{prices}
routes: [{{ match: {{ methods: [POST], paths: [/a] }}, scopes: [], limits: [l], {route} }}]
limits: [{{ name: l, by: [subject], cost: 8/day, hold: estimate }}]"
        );
        let errors = compile(&text, &|_| None).err().unwrap_or_default();
        errors.iter().map(|error| error.message()).collect::<Vec<_>>().join("; ")
    };
    let models = "models: [{ name: m, context: 9 }, { name: n, context: 9 }]";
    let price = |model: &str| format!("{{ model: {model}, input: 1, output: 2 }}");
    let one = format!("prices: {{ currency: EUR, models: [{}] }}", price("m"));
    let both = format!("prices: {{ currency: EUR, models: [{}, {}] }}", price("m"), price("n"));
    let body = "model: { from: body }";
    for (models, prices, route, expected) in [
        (models, &*both, body, ""),
        (models, "", body, "`l` counts cost; add the section `prices`"),
        (models, &one, body, "the model `n` has no price"),
        (models, &both, "public: false", "the route has no `model`"),
        ("", &both, body, "clients can invent names of models"),
        ("", &one, "model: { from: 'fixed:m' }, fixed_tokens: 5", ""),
        ("", &one, "model: { from: 'fixed:n' }, fixed_tokens: 5", "the model `n` has no price"),
    ] {
        let found = errors(models, prices, route);
        assert_eq!(found.is_empty(), expected.is_empty(), "{prices} {route}: {found}");
        assert!(found.contains(expected), "{prices} {route}: {found}");
    }
}

#[test]
fn a_changed_section_is_found_by_value() {
    for (before, after, section) in [
        ("", "", None),
        ("", "listen: { ops: '127.0.0.1:9003' }", Some("listen")),
        ("", "body: { max: 1MiB }", Some("body")),
        ("", "drain_timeout: 1s", Some("drain_timeout")),
        ("", "store: { memory: { max_buckets: 5 } }", Some("store")),
        ("", "audit: { to: none }", Some("audit")),
        ("", "observe: { tracing: { endpoint: 'http://c:4317' } }", Some("observe")),
        ("", "log: { level: debug }", Some("log")),
        ("", "token_cache: { max: 1MiB }", Some("token_cache")),
        ("", "secrets: { max_stale: 1h }", Some("secrets")),
        // The same value in other words.
        ("", "drain_timeout: 20000ms", None),
        // A secret is compared and not printed.
        (
            "store: { redis: { url: 'redis://r', password: hunter2 } }",
            "store: { redis: { url: 'redis://r', password: hunter3 } }",
            Some("store"),
        ),
        (
            "store: { redis: { url: 'redis://:hunter2@r' } }",
            "store: { redis: { url: 'redis://:hunter3@r' } }",
            Some("store"),
        ),
    ] {
        let changed = server(after).changed_sections(&server(before));
        assert_eq!(changed, Vec::from_iter(section), "{before} -> {after}");
    }
}
