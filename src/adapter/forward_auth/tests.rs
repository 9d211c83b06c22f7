//! Tests of the rows of data, and of the decoder and encoder that read them.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, header, request::Parts};
use tollgate_core::{
    decision::{
        Failure, Outcome,
        answer::{self, AllowedAnswer},
    },
    denial::{Denial, Reason},
    limit::{LimitKind, LimitStatus, Verdict},
    request::{HeaderNames, RawBody, RawRequest},
    secret::Secret,
    time::Span,
};

use super::{Dialect, ForwardAuthConfig, ProxyResponse, decode, encode, has_body};
use crate::engine::check::Answer;

const ALL: [&str; 5] = ["nginx", "traefik", "caddy", "haproxy", "envoy_http"];

fn config(dialect: &str, body: &str) -> ForwardAuthConfig {
    let body = if dialect == "caddy" && body == "sent" { "none" } else { body };
    serde_json::from_str(&format!(
        r#"{{"address": "127.0.0.1:0", "dialect": "{dialect}", "body": "{body}", "trusted_proxies": ["127.0.0.0/8", "10.0.0.0/8"]}}"#
    ))
    .unwrap()
}

/// The check that a well configured proxy sends for `GET https://api.example.com/v1/models?x=1`
/// from 192.0.2.1, with other headers.
fn check(dialect: &str, more: &[(&str, &str)]) -> Parts {
    let own: &[(&str, &str)] = match dialect {
        "nginx" | "haproxy" => &[
            ("x-original-method", "GET"),
            ("x-original-uri", "/v1/models?x=1"),
            ("x-original-host", "api.example.com"),
            ("x-original-scheme", "https"),
            ("x-real-ip", "192.0.2.1"),
            ("host", "tollgate"),
        ],
        "traefik" | "caddy" => &[
            ("x-forwarded-method", "GET"),
            ("x-forwarded-uri", "/v1/models?x=1"),
            ("x-forwarded-host", "api.example.com"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-for", "192.0.2.1"),
            ("host", "tollgate"),
        ],
        _ => &[
            ("host", "api.example.com"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-for", "192.0.2.1"),
        ],
    };
    let uri = if dialect == "envoy_http" { "/v1/models?x=1" } else { "/check" };
    // A header in `more` replaces the proxy's own; with "+" in front it is added.
    let mut request = Request::builder().method(Method::GET).uri(uri);
    let names: Vec<&str> = more.iter().map(|(name, _)| *name).collect();
    for (name, value) in own.iter().filter(|(name, _)| !names.contains(name)) {
        request = request.header(*name, *value);
    }
    for (name, value) in more {
        let name = name.strip_prefix('+').unwrap_or(name);
        request = request.header(name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn without(dialect: &str, name: &str) -> Parts {
    let mut parts = check(dialect, &[]);
    parts.headers.remove(name).unwrap();
    parts
}

fn names(raw: &RawRequest<'_>, of: &[&str]) -> Vec<String> {
    of.iter()
        .filter(|name| raw.headers.all(name).next().is_some())
        .map(|name| (*name).to_owned())
        .collect()
}

#[test]
fn every_dialect_describes_a_request_alike() {
    for dialect in ALL {
        let config = config(dialect, "none");
        let parts = check(
            dialect,
            &[
                ("authorization", "Bearer t"),
                ("dup", "a"),
                ("+dup", "b"),
                ("user-agent", "kube-probe/1"),
            ],
        );
        let raw = decode(&config, &parts, None).unwrap();
        assert_eq!(
            (raw.method, raw.path, raw.host),
            (&b"GET"[..], &b"/v1/models?x=1"[..], &b"api.example.com"[..]),
            "{dialect}"
        );
        assert_eq!(
            (raw.scheme, raw.address),
            (&b"https"[..], Some("192.0.2.1".parse().unwrap())),
            "{dialect}"
        );
        assert_eq!(raw.headers.all("dup").count(), 2, "{dialect}: repeated headers are kept");
        assert_eq!(raw.headers.one("authorization").unwrap(), Some(&b"Bearer t"[..]), "{dialect}");
        assert!(matches!(raw.body, RawBody::Unavailable), "{dialect}");
    }
}

#[test]
fn headers_of_the_hop_are_not_the_clients() {
    let hop = [
        ("content-length", "7"),
        ("transfer-encoding", "chunked"),
        ("connection", "keep-alive, Upgrade"),
        ("te", "trailers"),
        ("upgrade", "websocket"),
        ("expect", "100-continue"),
    ];
    for dialect in ALL {
        let parts = check(dialect, &hop);
        let raw = decode(&config(dialect, "none"), &parts, None).unwrap();
        let own = [
            "host",
            "x-original-uri",
            "x-original-host",
            "x-original-method",
            "x-real-ip",
            "x-forwarded-uri",
            "x-forwarded-for",
        ];
        let seen = names(&raw, &hop.map(|(name, _)| name));
        assert!(seen.is_empty() && names(&raw, &own).is_empty(), "{dialect}: {seen:?}");
    }
}

#[test]
fn the_headers_of_one_dialect_have_no_meaning_in_another() {
    // R19: X-Forwarded-Uri from a client was believed.
    for (dialect, foreign) in [
        ("nginx", "x-forwarded-uri"),
        ("haproxy", "x-forwarded-uri"),
        ("traefik", "x-original-uri"),
        ("caddy", "x-original-uri"),
        ("traefik", "x_forwarded_uri"),
        ("nginx", "x-original-url"),
        ("envoy_http", "x-forwarded-uri"),
        ("envoy_http", "x-original-uri"),
        ("envoy_http", "x-envoy-original-path"),
    ] {
        let parts = check(dialect, &[(foreign, "/public")]);
        let raw = decode(&config(dialect, "none"), &parts, None).unwrap();
        assert_eq!(raw.path, b"/v1/models?x=1", "{dialect} {foreign}");
    }
}

#[test]
fn a_target_that_is_missing_or_repeated_is_denied() {
    let denied = |dialect: &str, parts: &Parts, why: &str| {
        let denial = decode(&config(dialect, "none"), parts, None).map(drop).expect_err(why);
        assert_eq!(denial.reason, Reason::MalformedRequest, "{dialect}: {why}");
    };
    for dialect in ["nginx", "haproxy", "traefik", "caddy"] {
        let prefix =
            if matches!(dialect, "nginx" | "haproxy") { "x-original" } else { "x-forwarded" };
        for part in ["method", "uri", "host"] {
            let name = format!("{prefix}-{part}");
            denied(dialect, &without(dialect, &name), "missing");
            denied(dialect, &check(dialect, &[(&name, "")]), "empty");
            let twice = format!("+{name}");
            denied(dialect, &check(dialect, &[(&twice, "/public")]), "twice");
        }
        for joined in ["/v1/models,/public", "/v1/models, /public", "/v1/models, /public?x=1"] {
            denied(dialect, &check(dialect, &[(&format!("{prefix}-uri"), joined)]), joined);
        }
    }
    for dialect in ALL {
        let spec: Dialect = config(dialect, "none").dialect;
        for name in [spec.spec().scheme, spec.spec().address] {
            let twice = format!("+{name}");
            denied(dialect, &check(dialect, &[(&twice, "https")]), "scheme or address twice");
        }
    }
    denied("envoy_http", &without("envoy_http", "host"), "no host");
    denied("envoy_http", &check("envoy_http", &[("+host", "other")]), "two hosts");
    let mut absolute = check("envoy_http", &[]);
    absolute.uri = "http://other/v1/models".parse().unwrap();
    denied("envoy_http", &absolute, "absolute form");
    absolute.version = http::Version::HTTP_2;
    denied("envoy_http", &absolute, "`:authority` and `Host` differ");
}

#[test]
fn a_path_may_contain_a_comma() {
    let config = config("nginx", "none");
    for path in [
        "/v1/models/a,b",
        "/v1/models?x=a,b",
        "/v1/models?x=1,/public",
        "/v1/models?q=a, b",
        "/v1/models?next=/a,/b?c",
    ] {
        assert_eq!(
            decode(&config, &check("nginx", &[("x-original-uri", path)]), None).unwrap().path,
            path.as_bytes()
        );
    }
}

#[test]
fn connection_may_not_name_headers() {
    for dialect in ALL {
        for (value, fits) in [
            ("close", true),
            ("Keep-Alive", true),
            ("upgrade, http2-settings", true),
            ("", true),
            ("close, x-tollgate-subject", false),
            ("x-forwarded-uri", false),
            ("authorization", false),
            ("close,,x", false),
        ] {
            let parts = check(dialect, &[("connection", value)]);
            assert_eq!(
                decode(&config(dialect, "none"), &parts, None).is_ok(),
                fits,
                "{dialect}: {value}"
            );
        }
    }
}

#[test]
fn only_envoy_can_remove_headers() {
    for dialect in ALL {
        let parts = check(dialect, &[("x_tollgate_subject", "admin")]);
        let raw = decode(&config(dialect, "none"), &parts, None).unwrap();
        assert_eq!(raw.headers.proxy().can_remove, dialect == "envoy_http", "{dialect}");
    }
}

#[test]
fn the_clients_address_is_the_last_hop_that_is_not_a_proxy() {
    for (list, client) in [
        ("192.0.2.1", Some("192.0.2.1")),
        ("198.51.100.7, 192.0.2.1", Some("192.0.2.1")),
        ("198.51.100.7, 192.0.2.1, 10.0.0.3,127.0.0.1", Some("192.0.2.1")),
        ("nonsense, 192.0.2.1, 10.0.0.3", Some("192.0.2.1")),
        ("10.0.0.4, 10.0.0.3", Some("10.0.0.4")),
        ("::ffff:192.0.2.1", Some("192.0.2.1")),
        ("2001:db8::1", Some("2001:db8::1")),
        ("192.0.2.1, nonsense", None),
        ("192.0.2.1:4711", Some("192.0.2.1")),
        ("198.51.100.7:1, 192.0.2.1:4711, 10.0.0.3:443", Some("192.0.2.1")),
        ("[2001:db8::1]:4711", Some("2001:db8::1")),
        ("[2001:db8::1]", Some("2001:db8::1")),
        ("[2001:db8::1], 10.0.0.3", Some("2001:db8::1")),
        ("[::ffff:192.0.2.1]:80", Some("192.0.2.1")),
        ("192.0.2.1:", None),
        ("192.0.2.1:http", None),
        ("192.0.2.1:70000", None),
        ("[192.0.2.1]", None),
        ("[192.0.2.1]:80", None),
        ("[2001:db8::1", None),
        ("[]", None),
        (":80", None),
        ("", None),
    ] {
        for dialect in ALL {
            let config = config(dialect, "none");
            let parts = check(dialect, &[(config.dialect.spec().address, list)]);
            let address = decode(&config, &parts, None).unwrap().address;
            assert_eq!(address, client.map(|text| text.parse().unwrap()), "{dialect}: {list}");
        }
    }
}

#[test]
fn bytes_of_a_client_do_not_hide_its_address() {
    for (list, client) in [
        (&b"\xff, 192.0.2.1"[..], Some("192.0.2.1")),
        (b"\xff,192.0.2.1, 10.0.0.3", Some("192.0.2.1")),
        (b"\xc3\xbc\x80 , 192.0.2.1", Some("192.0.2.1")),
        (b"192.0.2.1, \xff", None),
    ] {
        for dialect in ALL {
            let config = config(dialect, "none");
            let mut parts = check(dialect, &[]);
            let value = http::HeaderValue::from_bytes(list).unwrap();
            parts.headers.insert(config.dialect.spec().address, value);
            let address = decode(&config, &parts, None).unwrap().address;
            assert_eq!(address, client.map(|text| text.parse().unwrap()), "{dialect}: {list:?}");
        }
    }
}

#[test]
fn bodies_are_read_only_where_dialect_and_file_allow_it() {
    for (dialect, get, post) in [
        ("nginx", false, true),
        ("haproxy", false, true),
        ("traefik", true, true),
        ("caddy", false, false),
        ("envoy_http", true, true),
    ] {
        assert_eq!(has_body(&config(dialect, "sent"), &Method::GET), get, "{dialect}");
        assert_eq!(has_body(&config(dialect, "sent"), &Method::POST), post, "{dialect}");
        for body in ["none", "deny"] {
            assert!(!has_body(&config(dialect, body), &Method::POST), "{dialect}");
        }
    }
    let (config, parts) = (config("traefik", "sent"), check("traefik", &[]));
    assert!(matches!(decode(&config, &parts, Some(b"{}")).unwrap().body, RawBody::Whole(b"{}")));
    assert!(matches!(decode(&config, &parts, Some(b"")).unwrap().body, RawBody::None));
}

/// The values to which `allow` refers: a limit, and a header of the client.
fn known() -> ([LimitStatus; 1], [String; 1], HeaderNames) {
    let verdict = Verdict { admitted: true, remaining: 4, retry_after: 0, reset: 1 };
    let limit = LimitStatus {
        name: "a".into(),
        kind: LimitKind::Rate,
        limit: 5,
        window: 5_000_000,
        verdict,
    };
    ([limit], ["X_Tollgate_Subject".to_owned()], HeaderNames::default())
}

fn allow(
    (limits, spoofed, strip): &([LimitStatus; 1], [String; 1], HeaderNames),
) -> AllowedAnswer<'_> {
    AllowedAnswer {
        decision_id: "d1",
        identity: [
            Some("alice"),
            None,
            Some("infer"),
            Some("jwt"),
            None,
            Some("https://a"),
            None,
            None,
        ],
        removed_by_proxy: false,
        limits,
        upstream_credential: None,
        forward_credential: false,
        strip,
        spoofed,
        upgrade: None,
        cookies: None,
        next_nonce: None,
    }
}

/// The headers of a client with a token and a key.
fn client() -> HeaderMap {
    let bearer = (header::AUTHORIZATION, HeaderValue::from_static("Bearer client"));
    let key = (HeaderName::from_static("x-api-key"), HeaderValue::from_static("key"));
    HeaderMap::from_iter([bearer, key])
}

fn header<'a>(reply: &'a ProxyResponse, name: &str) -> Option<&'a str> {
    reply.headers().get(name).map(|value| value.to_str().unwrap())
}

#[test]
fn an_allowed_request_has_every_identity_header() {
    let client = client();
    let known = known();
    for dialect in ALL {
        let spec = config(dialect, "none").dialect;
        let reply = encode(spec, Answer::Allow(allow(&known)), &client);
        assert_eq!(reply.status(), 200, "{dialect}");
        assert_eq!(header(&reply, "x-tollgate-subject"), Some("alice"), "{dialect}");
        assert_eq!(header(&reply, "x-tollgate-issuer"), Some("https://a"), "{dialect}");
        assert_eq!(header(&reply, "x-ratelimit-limit-requests"), Some("5"), "{dialect}");
        assert_eq!(header(&reply, "authorization"), None, "{dialect}: not forwarded");
        let (empty, listed) = match dialect {
            "nginx" | "caddy" | "haproxy" => (Some(""), None),
            "traefik" => (None, None),
            _ => (
                None,
                Some(
                    "x-tollgate-tenant,x-tollgate-model,x-tollgate-key-id,x-tollgate-actor,x_tollgate_subject,authorization",
                ),
            ),
        };
        assert_eq!(header(&reply, "x-tollgate-tenant"), empty, "{dialect}");
        assert_eq!(header(&reply, "x-envoy-auth-headers-to-remove"), listed, "{dialect}");
    }
}

#[test]
fn the_upstream_gets_its_own_key_the_credential_or_none() {
    let client = client();
    let known = known();
    for dialect in ALL {
        let spec = config(dialect, "none").dialect;
        let forward = AllowedAnswer { forward_credential: true, ..allow(&known) };
        let reply = encode(spec, Answer::Allow(forward), &client);
        assert_eq!(header(&reply, "authorization"), Some("Bearer client"), "{dialect}");
        let secret = Secret::new(b"Bearer upstream".to_vec());
        assert_eq!(header(&reply, "x-api-key"), Some("key"), "{dialect}");
        // A header that holds API keys is one of those that the policy removes.
        let strip: HeaderNames = ["x-api-key".to_owned()].into_iter().collect();
        for (forward_credential, kept) in [(true, Some("key")), (false, None)] {
            let answer = AllowedAnswer { forward_credential, strip: &strip, ..allow(&known) };
            let reply = encode(spec, Answer::Allow(answer), &client);
            assert_eq!(header(&reply, "x-api-key"), kept, "{dialect}");
        }
        let own = AllowedAnswer { upstream_credential: Some(&secret), ..allow(&known) };
        let reply = encode(spec, Answer::Allow(own), &client);
        assert_eq!(header(&reply, "authorization"), Some("Bearer upstream"), "{dialect}");
    }
}

fn deny(reason: Reason, message: &str) -> Answer<'static> {
    let denial = Denial::new(reason, "").with_message(message).with_retry_after(Span::from_secs(7));
    let outcome = Outcome::refused(denial.clone());
    Answer::Deny(answer::denied(&denial, &outcome.evidence, "d1"))
}

#[test]
fn denials_keep_their_status_where_the_proxy_can_send_it() {
    for (reason, plain, nginx, envoy) in [
        (Reason::MissingCredential, 401, 401, 401),
        (Reason::NoRoute, 403, 403, 403),
        (Reason::MalformedRequest, 400, 403, 400),
        (Reason::BodyTooLarge, 413, 403, 413),
        (Reason::UnsupportedMediaType, 415, 403, 415),
        (Reason::RateLimited, 429, 403, 429),
        (Reason::StoreUnavailable, 503, 403, 429),
    ] {
        for dialect in ALL {
            let reply =
                encode(config(dialect, "none").dialect, deny(reason, "no"), &HeaderMap::new());
            let expected = match dialect {
                "nginx" => nginx,
                "envoy_http" => envoy,
                _ => plain,
            };
            assert_eq!(reply.status().as_u16(), expected, "{dialect} {}", reason.code());
            assert_eq!(header(&reply, "retry-after"), Some("7"), "{dialect}");
            assert_eq!(
                header(&reply, "x-tollgate-status"),
                (dialect == "nginx").then(|| plain.to_string()).as_deref(),
                "{dialect}"
            );
        }
    }
}

#[test]
fn a_denial_that_repeats_much_of_the_request_fits_every_proxy() {
    for reason in Reason::ALL {
        for dialect in ALL {
            let denial = Denial::new(reason, "")
                .with_message("\u{1f600}\u{1}".repeat(100_000))
                .with_param("\u{e9}".repeat(100_000))
                .with_scopes((0..200).map(|n| format!("tool:{n}{}", "x".repeat(40))));
            let outcome = Outcome::refused(denial.clone());
            let answer = Answer::Deny(answer::denied(&denial, &outcome.evidence, "d1"));
            let reply = encode(config(dialect, "none").dialect, answer, &HeaderMap::new());
            let bytes: usize = reply
                .headers()
                .iter()
                .map(|(name, value)| name.as_str().len() + value.len() + 4)
                .sum();
            assert!(bytes < 4000, "{dialect}, {}: {bytes}", reason.code());
            assert!(reply.status().is_client_error() || dialect != "envoy_http");
        }
    }
}

#[test]
fn nginx_gets_the_body_in_ascii_or_none() {
    let spec = config("nginx", "none").dialect;
    let reply =
        encode(spec, deny(Reason::ModelForbidden, "caf\u{e9} \u{1f600}\r\nx"), &HeaderMap::new());
    let body: serde_json::Value =
        serde_json::from_str(header(&reply, "x-tollgate-body").unwrap()).unwrap();
    assert_eq!(body["error"]["message"], "caf\u{e9} \u{1f600}\r\nx");
    for unit in ["x", "\u{e9}", "\u{1}", "\u{1f600}"] {
        let reply =
            encode(spec, deny(Reason::ModelForbidden, &unit.repeat(9000)), &HeaderMap::new());
        let body = header(&reply, "x-tollgate-body").unwrap();
        assert!(body.len() < 1024 && body.contains("...\""), "{unit:?}: {body}");
        assert_eq!(reply.status(), 403);
    }
}

#[test]
fn a_failed_check_is_a_server_error_everywhere() {
    for dialect in ALL {
        let failure =
            Failure { reason: Reason::StoreUnavailable, cause: "secret host 10.0.0.9".into() };
        let reply =
            encode(config(dialect, "none").dialect, Answer::Fail(&failure), &HeaderMap::new());
        assert_eq!(reply.status(), 503, "{dialect}");
    }
}
