use serde_json::{Value, json};
use tollgate_core::admission::Outage;

use super::*;
use crate::{
    admin::tests::{Bench, Kept, TOKEN, code},
    observe::now,
};

#[tokio::test]
async fn what_is_named_is_banned_found_listed_and_lifted() {
    for (named, kind, network) in [
        (json!({ "subject": "alice", "issuer": "https://a" }), "subject", Value::Null),
        (json!({ "client": "app", "issuer": "" }), "client", Value::Null),
        (json!({ "tenant": "acme" }), "tenant", Value::Null),
        (json!({ "key": "7Jk2mN4pQ8rT" }), "key", Value::Null),
        (json!({ "network": "203.0.113.0/24" }), "network", json!("203.0.113.0/24")),
        (json!({ "network": "::ffff:203.0.113.7" }), "network", json!("203.0.113.7/32")),
        (json!({ "network": "2001:DB8::/48" }), "network", json!("2001:db8::/48")),
    ] {
        let bench = Bench::new(Kept::default());
        let (status, none) = bench.call("POST", CHECK_PATH, &named.to_string()).await;
        assert_eq!((status, none), (200, json!({ "banned": false, "bans": [] })), "{named}");

        let mut body = named.clone();
        body["for"] = "2h".into();
        body["reason"] = "scraper".into();
        let before = now().secs();
        let (status, ban) = bench.call("POST", PATH, &body.to_string()).await;
        assert_eq!(status, 200, "{named}: {ban}");
        assert_eq!((&ban["kind"], &ban["reason"]), (&kind.into(), &"scraper".into()));
        assert_eq!(ban.get("network").unwrap_or(&Value::Null), &network);
        let until = ban["until"].as_u64().unwrap();
        assert!((before + 7200..=now().secs() + 7201).contains(&until), "{ban}");
        assert!((before..=now().secs()).contains(&ban["since"].as_u64().unwrap()), "{ban}");

        let (_, found) = bench.call("POST", CHECK_PATH, &named.to_string()).await;
        assert_eq!(found, json!({ "banned": true, "bans": [ban] }));
        let (_, list) = bench.call("GET", PATH, "").await;
        assert_eq!(list, json!({ "bans": [ban], "next": null }));

        let (status, lifted) = bench.call("DELETE", PATH, &named.to_string()).await;
        assert_eq!(status, 200);
        assert_eq!(lifted, json!({ "kind": kind, "key": ban["key"], "lifted": true }));
        let (status, again) = bench.call("DELETE", PATH, &named.to_string()).await;
        assert_eq!((status, code(&again)), (404, "not_found"));
    }
}

#[tokio::test]
async fn a_ban_without_an_end_holds_until_it_is_lifted() {
    let bench = Bench::new(Kept::default());
    let (_, ban) = bench.call("POST", PATH, r#"{"tenant":"acme"}"#).await;
    assert_eq!((&ban["until"], &ban["reason"]), (&Value::Null, &Value::Null));
    // An end that comes earlier changes nothing, and the answer reports what holds.
    let (status, ban) = bench.call("POST", PATH, r#"{"tenant":"acme","for":"1h"}"#).await;
    assert_eq!((status, &ban["until"]), (200, &Value::Null));
    let until = format!(r#"{{"tenant":"b","until":"{}"}}"#, now().secs() + 60);
    assert_eq!(bench.call("POST", PATH, &until).await.1["until"], now().secs() + 60);
}

#[tokio::test]
async fn an_address_is_found_in_every_network_around_it() {
    let bench = Bench::new(Kept::default());
    for network in ["203.0.113.0/24", "203.0.113.7", "203.0.0.0/16", "2001:db8::/32"] {
        bench.call("POST", PATH, &json!({ "network": network }).to_string()).await;
    }
    let check = async |address: &str| -> usize {
        let body = json!({ "address": address }).to_string();
        let (status, found) = bench.call("POST", CHECK_PATH, &body).await;
        assert_eq!(status, 200, "{found}");
        found["bans"].as_array().unwrap().len()
    };
    for (address, bans) in [
        ("203.0.113.7", 3),
        ("::ffff:203.0.113.7", 3),
        ("203.0.113.8", 2),
        ("203.0.1.1", 1),
        ("198.51.100.1", 0),
        ("2001:db8::1", 1),
    ] {
        assert_eq!(check(address).await, bans, "{address}");
    }
}

#[tokio::test]
async fn what_says_nothing_clear_is_refused() {
    let bench = Bench::new(Kept::default());
    let past = now().secs() - 1;
    for (method, path, body, expected) in [
        ("POST", PATH, "".to_owned(), "the body cannot be read"),
        ("POST", PATH, "{}".into(), "name exactly one of"),
        ("POST", PATH, r#"{"tenant":"a","network":"10.0.0.0/8"}"#.into(), "name exactly one of"),
        ("POST", PATH, r#"{"address":"10.0.0.1"}"#.into(), "name exactly one of"),
        ("POST", PATH, r#"{"jti":"a","issuer":"i"}"#.into(), "unknown field `jti`"),
        ("POST", PATH, r#"{"subject":"a"}"#.into(), "name the `issuer`"),
        ("POST", PATH, r#"{"tenant":"a","issuer":"i"}"#.into(), "`issuer` has no meaning"),
        ("POST", PATH, r#"{"network":"10.0.0.0/8","issuer":"i"}"#.into(), "has no meaning"),
        ("POST", PATH, r#"{"tenant":""}"#.into(), "is empty"),
        ("POST", PATH, r#"{"key":"7Jk2mN4pQ8r"}"#.into(), "is not the id of a key"),
        ("POST", PATH, r#"{"key":"7Jk2mN4pQ8rT","tenant":"a"}"#.into(), "name exactly one of"),
        ("POST", PATH, r#"{"key":"7Jk2mN4pQ8rT","issuer":"i"}"#.into(), "has no meaning"),
        ("POST", CHECK_PATH, r#"{"key":"7Jk2mN4pQ8rT","address":"::1"}"#.into(), "name one target"),
        ("POST", PATH, r#"{"network":""}"#.into(), "is empty"),
        (
            "POST",
            PATH,
            format!(r#"{{"tenant":"{}"}}"#, "x".repeat(1025)),
            "`tenant` has 1025 characters",
        ),
        ("POST", PATH, r#"{"network":"0.0.0.0/0"}"#.into(), "contains every IPv4 address"),
        ("POST", PATH, r#"{"network":"::/0"}"#.into(), "contains every address"),
        ("POST", PATH, r#"{"network":"10.0.0.1/8"}"#.into(), "bits behind its length"),
        ("POST", PATH, r#"{"network":"10.0.0.0/33"}"#.into(), "is no network"),
        ("POST", PATH, r#"{"network":"example.com"}"#.into(), "is no network"),
        ("POST", PATH, r#"{"tenant":"a","for":"0s"}"#.into(), "`for` is between"),
        ("POST", PATH, r#"{"tenant":"a","for":"3654d"}"#.into(), "`for` is between"),
        ("POST", PATH, r#"[null,null,"acme"]"#.into(), "it is no JSON object"),
        ("DELETE", PATH, r#"[null,null,"acme"]"#.into(), "it is no JSON object"),
        ("POST", CHECK_PATH, r#"[null,null,"acme"]"#.into(), "it is no JSON object"),
        ("POST", PATH, r#"{"tenant":"a\u0000"}"#.into(), "`tenant` contains"),
        ("POST", PATH, r#"{"tenant":"a","reason":"b\u202e"}"#.into(), "`reason` contains"),
        ("POST", PATH, r#"{"subject":"a\u2067","issuer":"i"}"#.into(), "`subject` contains"),
        ("POST", PATH, r#"{"client":"a\u0007","issuer":"i"}"#.into(), "`client` contains"),
        ("POST", PATH, r#"{"client":"a","issuer":"i\u200e"}"#.into(), "`issuer` contains"),
        ("DELETE", PATH, r#"{"tenant":"a\u0000"}"#.into(), "`tenant` contains"),
        ("POST", CHECK_PATH, r#"{"tenant":"a\u0000"}"#.into(), "`tenant` contains"),
        ("POST", PATH, r#"{"tenant":"a","until":"soon"}"#.into(), "is not a time"),
        ("POST", PATH, r#"{"tenant":"a","for":"1h","until":"9"}"#.into(), "state the end once"),
        ("POST", PATH, r#"{"tenant":"a","reason":""}"#.into(), "a note is one line"),
        ("POST", PATH, r#"{"tenant":"a","reason":"a\nb"}"#.into(), "`reason` contains"),
        ("DELETE", PATH, r#"{"tenant":"a","for":"1h"}"#.into(), "have no meaning here"),
        ("DELETE", PATH, r#"{"address":"10.0.0.1"}"#.into(), "name exactly one of"),
        ("POST", CHECK_PATH, r#"{"tenant":"a","reason":"x"}"#.into(), "have no meaning here"),
        (
            "POST",
            CHECK_PATH,
            r#"{"address":"10.0.0.1","tenant":"a"}"#.into(),
            "name one target, or one",
        ),
        (
            "POST",
            CHECK_PATH,
            r#"{"address":"10.0.0.1","issuer":"a"}"#.into(),
            "name one target, or one",
        ),
        ("POST", CHECK_PATH, r#"{"address":"10.0.0.0/8"}"#.into(), "the body cannot be read"),
        ("GET", "/v1/bans?limit=1001", "".into(), "`limit` is not between"),
        ("GET", "/v1/bans?cursor=x", "".into(), "`cursor` is not"),
        ("GET", "/v1/bans?subject=alice", "".into(), "the query takes"),
    ] {
        let (status, json) = bench.call(method, path, &body).await;
        assert_eq!((status, code(&json)), (400, "invalid_request"), "{method} {body}: {json}");
        let message = json["error"]["message"].as_str().unwrap();
        assert!(message.contains(expected), "{method} {body}: {message}");
    }
    let body = format!(r#"{{"tenant":"a","until":"{past}"}}"#);
    let (status, json) = bench.call("POST", PATH, &body).await;
    assert_eq!((status, code(&json)), (409, "out_of_bounds"), "{json}");
    assert_eq!(bench.call("GET", PATH, "").await.1["bans"], json!([]));
}

#[tokio::test]
async fn the_envelope_is_that_of_the_whole_api() {
    let bench = Bench::new(Kept::default());
    let bearer = format!("Bearer {TOKEN}");
    let body = r#"{"tenant":"acme"}"#;
    let json = ("content-type", "application/json");
    for (method, path, headers, status) in [
        ("POST", PATH, &[json][..], 401),
        ("GET", PATH, &[], 401),
        ("POST", CHECK_PATH, &[json], 401),
        ("POST", PATH, &[("authorization", &*bearer)], 415),
        ("PUT", PATH, &[("authorization", &*bearer), json], 405),
        ("GET", CHECK_PATH, &[("authorization", &*bearer)], 405),
        ("DELETE", CHECK_PATH, &[("authorization", &*bearer), json], 405),
        ("GET", "/v1/bans/", &[("authorization", &*bearer)], 404),
        ("GET", "/v1/bans/check/x", &[("authorization", &*bearer)], 404),
    ] {
        let (answered, _, answer) = bench.raw(method, path, body, headers).await;
        assert_eq!(answered, status, "{method} {path}");
        assert_eq!(answer.get("allow").is_some(), status == 405, "{method} {path}");
        assert_eq!(answer["cache-control"], "no-store");
    }
    assert_eq!(bench.call("GET", PATH, "").await.1["bans"], serde_json::json!([]));

    let down = Bench::new(Kept { outage: Some(Outage::Deadline), ..Kept::default() });
    for (method, path) in [("GET", PATH), ("POST", PATH), ("DELETE", PATH), ("POST", CHECK_PATH)] {
        let (status, json) = down.call(method, path, body).await;
        assert_eq!((status, code(&json)), (503, "store_unavailable"), "{method} {path}");
    }
}

#[tokio::test]
async fn the_list_comes_in_pages() {
    let bench = Bench::new(Kept::default());
    for tenant in ["a", "b", "c"] {
        bench.call("POST", PATH, &json!({ "tenant": tenant }).to_string()).await;
    }
    let (_, first) = bench.call("GET", "/v1/bans?limit=2", "").await;
    let next = first["next"].as_str().unwrap();
    assert_eq!(first["bans"].as_array().unwrap().len(), 2);
    let (_, second) = bench.call("GET", &format!("/v1/bans?cursor={next}&limit=2"), "").await;
    assert_eq!((second["bans"].as_array().unwrap().len(), &second["next"]), (1, &Value::Null));
    // A ban that is lifted between two pages shifts no other.
    for tenant in ["a", "b", "c"] {
        let key = Target::Tenant { tenant: tenant.to_owned() }.key();
        if first["bans"].as_array().unwrap().iter().any(|ban| ban["key"] == key.as_str()) {
            bench.call("DELETE", PATH, &json!({ "tenant": tenant }).to_string()).await;
        }
    }
    let path = format!("/v1/bans?cursor={next}&limit=2");
    assert_eq!(bench.call("GET", &path, "").await.1["bans"], second["bans"]);
}

#[tokio::test]
async fn every_call_leaves_a_line_with_its_target() {
    let bench = Bench::new(Kept::default());
    let calls = [
        (
            "POST",
            PATH,
            json!({ "network": "203.0.113.0/24", "until": "2100000000", "reason": "scraper" }),
        ),
        ("POST", CHECK_PATH, json!({ "address": "203.0.113.7" })),
        ("POST", PATH, json!({ "subject": "alice", "issuer": "https://a" })),
        ("DELETE", PATH, json!({ "client": "app", "issuer": "https://a" })),
        ("POST", PATH, json!({ "key": "7Jk2mN4pQ8rT" })),
        ("GET", PATH, json!(null)),
        ("POST", PATH, json!({ "tenant": "" })),
    ];
    for (method, path, body) in calls {
        bench.call(method, path, &body.to_string()).await;
    }
    let lines = bench.lines();
    let shown: Vec<Value> = lines
        .iter()
        .map(|line| {
            let mut line = line.clone();
            let object = line.as_object_mut().unwrap();
            for name in ["time", "event", "who", "client_ip", "method", "path", "microseconds"] {
                assert!(object.remove(name).is_some(), "{name}");
            }
            line
        })
        .collect();
    let expected = [
        json!({ "action": "ban", "network": "203.0.113.0/24", "until": "2036-07-18T13:20:00.000000Z", "note": "scraper", "result": "ok", "status": 200 }),
        json!({ "action": "check_ban", "address": "203.0.113.7", "result": "ok", "status": 200 }),
        json!({ "action": "ban", "iss": "https://a", "sub": "alice", "until": null, "result": "ok", "status": 200 }),
        json!({ "action": "lift", "iss": "https://a", "client": "app", "result": "not_found", "status": 404 }),
        json!({ "action": "ban", "key_id": "7Jk2mN4pQ8rT", "until": null, "result": "ok", "status": 200 }),
        json!({ "action": "list_bans", "result": "ok", "status": 200 }),
        json!({ "action": "ban", "result": "invalid_request", "status": 400 }),
    ];
    assert_eq!(shown, expected);
}
