use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::admin::{
    PATH as REVOCATIONS, bans,
    keys::{
        KeyRecords, PATH as KEYS,
        tests::{Memory, policy},
    },
    tests::{Bench, TOKEN, code},
};

/// The token of the credential `acme-ci`.
const OF_ACME: &str = "acme-token-acme-token-acme-token";
/// The token of a credential of every tenant that may only read.
const OF_READER: &str = "reader-token-reader-token-reader";

const EVERY_ACTION: [&str; 10] = [
    "read_keys",
    "create_keys",
    "import_keys",
    "rotate_keys",
    "revoke_keys",
    "read_bans",
    "write_bans",
    "read_revocations",
    "write_revocations",
    "read_usage",
];

fn credentials() -> Vec<AdminCredentialConfig> {
    serde_json::from_value(json!([
        {
            "name": "acme-ci",
            "digest": KeyDigest::of(OF_ACME.as_bytes()),
            "actions": EVERY_ACTION,
            "tenants": ["acme", "acme-test"],
            "may_grant": {
                "scopes": ["infer:text", "models:read"],
                "models": ["qwen"],
                "tiers": ["gold"],
                "limits": { "per-key": "5/1s" },
                "networks": ["10.0.0.0/8", "2001:db8::/32"],
                "max_life": "30d",
                "max_keys": 5,
            },
        },
        {
            "name": "reader",
            "digest": KeyDigest::of(OF_READER.as_bytes()),
            "actions": ["read_keys", "read_bans", "read_revocations"],
            "every_tenant": true,
        },
    ]))
    .unwrap()
}

struct Callers {
    bench: Bench,
    memory: Arc<Memory>,
}

impl Callers {
    fn new() -> Self {
        let memory = Arc::new(Memory::default());
        let records = Arc::clone(&memory) as Arc<dyn KeyRecords>;
        let policy = policy(json!({ "redis": true, "max_life": "100d" }));
        let bench = Bench::with_keys(Some(records), policy).with_credentials(credentials());
        Self { bench, memory }
    }

    async fn call(&self, token: &str, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let (status, json, _) = self.bench.raw(method, path, &body.to_string(), &headers).await;
        (status, json)
    }

    /// Creates a key as root. Returns its id.
    async fn key(&self, terms: Value) -> String {
        let (status, json) = self.call(TOKEN, "POST", KEYS, &terms).await;
        assert_eq!(status, 200, "{json}");
        json["record"]["id"].as_str().unwrap().to_owned()
    }
}

/// Terms that `acme-ci` may grant, with other members.
fn terms(other: Value) -> Value {
    let mut terms = json!({
        "subject": "ci", "tenant": "acme", "scopes": ["infer:text"], "models": ["qwen"],
        "networks": ["10.1.0.0/16"], "expires_in": "30d",
    });
    for (name, value) in other.as_object().unwrap() {
        terms[name] = value.clone();
    }
    terms
}

/// Members that a key of `acme-ci` must not have, with the reason.
fn beyond() -> Vec<(Value, &'static str)> {
    vec![
        (json!({ "scopes": ["infer:text", "admin"] }), "a scope that it does not have"),
        (json!({ "scopes": ["infer:*"] }), "a pattern is another scope"),
        (json!({ "scopes": ["*"] }), "a pattern is another scope"),
        (json!({ "scopes": ["infer:"] }), "a prefix is another scope"),
        (json!({ "scopes": ["INFER:TEXT"] }), "case is not folded"),
        (json!({ "scopes": ["infer:t\u{435}xt"] }), "a Cyrillic letter"),
        (json!({ "scopes": ["infer\u{ff1a}text"] }), "a fullwidth colon"),
        (json!({ "tenant": null }), "no tenant"),
        (json!({ "tenant": "other" }), "a foreign tenant"),
        (json!({ "tenant": "Acme" }), "case is not folded"),
        (json!({ "tenant": "acme " }), "spaces are not cut"),
        (json!({ "tenant": "acm\u{435}" }), "a Cyrillic letter"),
        (json!({ "tenant": "acme*" }), "a pattern is another tenant"),
        (json!({ "models": null }), "every model"),
        (json!({ "models": ["qwen", "llama"] }), "a model that it does not have"),
        (json!({ "tier": "silver" }), "a tier that it does not have"),
        (json!({ "limits": { "other": "9/1s" } }), "a limit that it does not have"),
        (json!({ "limits": { "per-key": "6/1s" } }), "a higher rate"),
        (json!({ "limits": { "per-key": "300/1m" } }), "the same rate, and more at once"),
        (json!({ "limits": { "per-key": "5/1s", "other": "1/1h" } }), "one of two limits"),
        (json!({ "networks": null }), "every network"),
        (json!({ "networks": ["0.0.0.0/0"] }), "every IPv4 address"),
        (json!({ "networks": ["10.0.0.0/7"] }), "a wider network"),
        (json!({ "networks": ["10.0.0.0/8", "192.0.2.1"] }), "one of two networks"),
        (json!({ "networks": ["::/0"] }), "every address"),
        (json!({ "expires_in": "31d" }), "a longer life"),
        (json!({ "expires_in": null }), "the default life, which is longer"),
    ]
}

#[tokio::test]
async fn a_credential_grants_what_it_lists_and_no_more() {
    let callers = Callers::new();
    let most = json!({ "tier": "gold", "limits": { "per-key": "5/1s" },
        "scopes": ["infer:text", "models:read"], "tenant": "acme-test",
        "networks": ["10.0.0.0/8", "10.9.8.7", "2001:db8::1"] });
    let less = json!({ "limits": { "per-key": "1/1m" } });
    for granted in [json!({}), json!({ "scopes": [] }), json!({ "models": [] }), most, less] {
        let (status, json) = callers.call(OF_ACME, "POST", KEYS, &terms(granted.clone())).await;
        assert_eq!(status, 200, "{granted}: {json}");
    }
    let before = callers.memory.records().len();
    for (other, why) in beyond() {
        let (status, json) = callers.call(OF_ACME, "POST", KEYS, &terms(other)).await;
        assert_eq!((status, code(&json)), (403, "beyond_grant"), "{why}: {json}");
    }
    assert_eq!(callers.memory.records().len(), before);
    let lines = callers.bench.lines();
    let refused = lines.iter().filter(|line| line["result"] == "beyond_grant");
    assert_eq!(refused.clone().count(), beyond().len(), "each leaves a line");
    for line in refused {
        assert_eq!((&line["who"], &line["status"]), (&json!("acme-ci"), &json!(403)));
        assert!(line["key_id"].is_string());
    }
}

#[tokio::test]
async fn a_tenant_has_no_more_usable_keys_than_the_credential_may_add_to() {
    let callers = Callers::new();
    let create = || async { callers.call(OF_ACME, "POST", KEYS, &terms(json!({}))).await };
    // Those of another caller count, those of another tenant do not.
    callers.key(terms(json!({}))).await;
    callers.key(terms(json!({ "tenant": "acme-test" }))).await;
    let mut made = Vec::new();
    for _ in 0..4 {
        let (status, json) = create().await;
        assert_eq!(status, 200, "{json}");
        made.push(json["record"]["id"].as_str().unwrap().to_owned());
    }
    let (status, json) = create().await;
    assert_eq!((status, code(&json)), (403, "beyond_grant"), "{json}");
    assert!(json.to_string().contains("more than 5 usable keys"), "{json}");
    let mut import = terms(json!({}));
    import["digest"] = json!(KeyDigest::of(b"sk-old"));
    let path = format!("{KEYS}/import");
    let (status, json) = callers.call(OF_ACME, "POST", &path, &import).await;
    assert_eq!((status, code(&json)), (403, "beyond_grant"), "{json}");
    // A rotation adds none, and a key that is revoked makes room for one, of which several calls
    // get one.
    let path = format!("{KEYS}/{}", made[0]);
    let rotation = json!({ "expires_in": "1d" });
    assert_eq!(callers.call(OF_ACME, "POST", &format!("{path}/rotate"), &rotation).await.0, 200);
    assert_eq!(callers.call(OF_ACME, "DELETE", &path, &json!({})).await.0, 200);
    let several = [create(), create(), create()];
    let answers = futures_util::future::join_all(several).await;
    assert_eq!(answers.iter().filter(|(status, _)| *status == 200).count(), 1, "{answers:?}");
    // Another tenant has room.
    let other = terms(json!({ "tenant": "acme-test" }));
    assert_eq!(callers.call(OF_ACME, "POST", KEYS, &other).await.0, 200);
    // The token of the file has no bound.
    callers.key(terms(json!({}))).await;
}

#[tokio::test]
async fn an_import_is_bounded_like_a_creation() {
    let callers = Callers::new();
    let path = format!("{KEYS}/import");
    let import = |other: Value| {
        let mut body = terms(other);
        body["digest"] = json!(KeyDigest::of(b"sk-old"));
        body
    };
    for (other, why) in beyond() {
        let (status, json) = callers.call(OF_ACME, "POST", &path, &import(other)).await;
        assert_eq!((status, code(&json)), (403, "beyond_grant"), "{why}: {json}");
    }
    // The digest of a foreign key: neither its id nor its tenant is revealed.
    let mut foreign = import(json!({ "tenant": "other" }));
    foreign["expires_in"] = json!("1d");
    let (_, json) = callers.call(TOKEN, "POST", &path, &foreign).await;
    let id = json["record"]["id"].as_str().unwrap();
    let (status, json) = callers.call(OF_ACME, "POST", &path, &import(json!({}))).await;
    assert_eq!((status, code(&json)), (409, "exists"));
    assert!(!json.to_string().contains(id) && !json.to_string().contains("other"), "{json}");
}

#[tokio::test]
async fn a_key_with_more_rights_than_the_caller_is_not_rotated() {
    let callers = Callers::new();
    let day = json!({ "expires_in": "1d" });
    for (other, why) in beyond() {
        let has_own_tenant = other.get("tenant").is_none();
        let is_known = !["silver", "other"].iter().any(|name| other.to_string().contains(name));
        if !has_own_tenant || !is_known || other.get("expires_in").is_some() {
            continue;
        }
        let id = callers.key(terms(other)).await;
        let before = callers.memory.record(&id);
        let path = format!("{KEYS}/{id}/rotate");
        let (status, json) = callers.call(OF_ACME, "POST", &path, &day).await;
        assert_eq!((status, code(&json)), (403, "beyond_grant"), "{why}: {json}");
        assert!(json.get("key").is_none());
        assert_eq!(callers.memory.record(&id), before, "{why}");
        // It is of the tenant: it is shown, and may be revoked.
        let path = format!("{KEYS}/{id}");
        assert_eq!(callers.call(OF_ACME, "GET", &path, &json!({})).await.0, 200, "{why}");
        assert_eq!(callers.call(OF_ACME, "DELETE", &path, &json!({})).await.0, 200, "{why}");
    }
    let path = format!("{KEYS}/{}/rotate", callers.key(terms(json!({}))).await);
    assert_eq!(callers.call(OF_ACME, "POST", &path, &day).await.0, 200);
    // A rotation without a life gets the default one of the policy, which is beyond 30 days.
    let (status, json) = callers.call(OF_ACME, "POST", &path, &json!({})).await;
    assert_eq!((status, code(&json)), (403, "beyond_grant"));
}

#[tokio::test]
async fn a_key_of_a_foreign_tenant_is_answered_like_one_that_does_not_exist() {
    let callers = Callers::new();
    let foreign = callers.key(terms(json!({ "tenant": "other" }))).await;
    let without = callers.key(json!({ "subject": "ci" })).await;
    let own = callers.key(terms(json!({ "tenant": "acme-test" }))).await;
    let broken = "7Jk2mN4pQ8rT";
    callers.memory.records().push((broken.parse().unwrap(), "{".to_owned()));
    let missing = "aaaaaaaaaaaa";
    for (method, tail, body) in [
        ("GET", "", json!({})),
        ("DELETE", "", json!({})),
        ("POST", "/rotate", json!({ "expires_in": "1d" })),
    ] {
        let of = async |id: &str| {
            callers.call(OF_ACME, method, &format!("{KEYS}/{id}{tail}"), &body).await
        };
        let expected = of(missing).await;
        assert_eq!(expected.0, 404, "{method}");
        for id in [foreign.as_str(), without.as_str(), broken] {
            assert_eq!(of(id).await, expected, "{method} {id}");
        }
    }
    assert_eq!(callers.memory.records().len(), 4);
    let ids = async |query: &str| {
        let (_, json) = callers.call(OF_ACME, "GET", &format!("{KEYS}{query}"), &json!({})).await;
        let keys = json["keys"].as_array().unwrap().iter();
        keys.map(|key| key["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(ids("").await, [own.as_str()]);
    assert_eq!(ids("?tenant=acme-test").await, [own.as_str()]);
    assert_eq!(ids("?tenant=other").await, [""; 0]);
    // The audit line names the key that the caller did not see.
    let lines = callers.bench.lines();
    assert!(lines.iter().any(|line| line["who"] == "acme-ci"
        && line["action"] == "rotate_key"
        && line["key_id"] == foreign.as_str()
        && line["result"] == "not_found"));
}

#[tokio::test]
async fn bans_of_others_do_not_exist_for_a_credential_of_tenants() {
    let callers = Callers::new();
    let foreign_key = callers.key(terms(json!({ "tenant": "other" }))).await;
    let own_key = callers.key(terms(json!({}))).await;
    let check = bans::CHECK_PATH;
    for (target, is_own) in [
        (json!({ "tenant": "acme" }), true),
        (json!({ "key": own_key }), true),
        (json!({ "tenant": "other" }), false),
        (json!({ "tenant": "ACME" }), false),
        (json!({ "key": foreign_key }), false),
        (json!({ "key": "aaaaaaaaaaaa" }), false),
        (json!({ "subject": "ci", "issuer": "i" }), false),
        (json!({ "client": "ci", "issuer": "i" }), false),
        (json!({ "network": "192.0.2.0/24" }), false),
    ] {
        let (status, json) = callers.call(OF_ACME, "POST", bans::PATH, &target).await;
        let expected = if is_own { (200, "-") } else { (403, "forbidden") };
        assert_eq!((status, code(&json)), expected, "{target}");
        assert_eq!(callers.call(TOKEN, "POST", bans::PATH, &target).await.0, 200);
        let (_, json) = callers.call(OF_ACME, "POST", check, &target).await;
        assert_eq!(json["banned"], json!(is_own), "{target}");
        let (status, json) = callers.call(OF_ACME, "DELETE", bans::PATH, &target).await;
        let expected = if is_own { (200, "-") } else { (404, "not_found") };
        assert_eq!((status, code(&json)), expected, "{target}");
        let (_, json) = callers.call(TOKEN, "POST", check, &target).await;
        assert_eq!(json["banned"], json!(!is_own), "{target}: only an own ban is lifted");
    }
    let address = json!({ "address": "192.0.2.7" });
    assert_eq!(callers.call(OF_ACME, "POST", check, &address).await.0, 403);
    let own = json!({ "tenant": "acme", "reason": "own" });
    callers.call(TOKEN, "POST", bans::PATH, &own).await;
    let (_, json) = callers.call(OF_ACME, "GET", bans::PATH, &json!({})).await;
    let listed = json["bans"].as_array().unwrap();
    assert_eq!((listed.len(), &listed[0]["reason"]), (1, &json!("own")));
}

#[tokio::test]
async fn revocations_of_others_do_not_exist_for_a_credential_of_tenants() {
    let callers = Callers::new();
    for (target, is_own) in [
        (json!({ "tenant": "acme" }), true),
        (json!({ "tenant": "other" }), false),
        (json!({ "subject": "ci", "issuer": "i" }), false),
        (json!({ "jti": "t", "issuer": "i" }), false),
        (json!({ "token_sha256": "00".repeat(32) }), false),
    ] {
        let (status, json) = callers.call(OF_ACME, "POST", REVOCATIONS, &target).await;
        let expected = if is_own { (200, "-") } else { (403, "forbidden") };
        assert_eq!((status, code(&json)), expected, "{target}");
        assert_eq!(callers.call(TOKEN, "POST", REVOCATIONS, &target).await.0, 200);
        let (status, json) = callers.call(OF_ACME, "DELETE", REVOCATIONS, &target).await;
        let expected = if is_own { (200, "-") } else { (404, "not_found") };
        assert_eq!((status, code(&json)), expected, "{target}");
    }
    for tenant in ["acme", "acme-test", "third"] {
        let body = json!({ "tenant": tenant, "note": tenant });
        callers.call(TOKEN, "POST", REVOCATIONS, &body).await;
    }
    let (_, json) = callers.call(OF_ACME, "GET", REVOCATIONS, &json!({})).await;
    let listed = json["revocations"].as_array().unwrap().iter();
    let mut notes: Vec<&str> = listed.map(|entry| entry["note"].as_str().unwrap()).collect();
    notes.sort_unstable();
    assert_eq!((notes, &json["next"]), (vec!["acme", "acme-test"], &Value::Null));
    let path = format!("{REVOCATIONS}?limit=1");
    let (_, json) = callers.call(OF_ACME, "GET", &path, &json!({})).await;
    assert_eq!(json["revocations"].as_array().unwrap().len(), 1);
    assert!(json["next"].is_string());
}

#[tokio::test]
async fn a_credential_makes_the_calls_that_it_lists() {
    let callers = Callers::new();
    let id = callers.key(terms(json!({}))).await;
    let target = json!({ "tenant": "acme" });
    let one = format!("{KEYS}/{id}");
    for (method, path, body, expected) in [
        ("GET", KEYS.to_owned(), json!({}), 200),
        ("GET", one.clone(), json!({}), 200),
        ("GET", bans::PATH.to_owned(), json!({}), 200),
        ("POST", bans::CHECK_PATH.to_owned(), target.clone(), 200),
        ("GET", REVOCATIONS.to_owned(), json!({}), 200),
        ("POST", KEYS.to_owned(), terms(json!({})), 403),
        ("POST", format!("{KEYS}/import"), terms(json!({})), 403),
        ("POST", format!("{one}/rotate"), json!({}), 403),
        ("DELETE", one, json!({}), 403),
        ("POST", bans::PATH.to_owned(), target.clone(), 403),
        ("DELETE", bans::PATH.to_owned(), target.clone(), 403),
        ("POST", REVOCATIONS.to_owned(), target.clone(), 403),
        ("DELETE", REVOCATIONS.to_owned(), target, 403),
    ] {
        let (status, json) = callers.call(OF_READER, method, &path, &body).await;
        assert_eq!(status, expected, "{method} {path}: {json}");
        if expected == 403 {
            assert_eq!(code(&json), "forbidden");
        }
    }
    let lines = callers.bench.lines();
    assert_eq!(lines.iter().filter(|line| line["who"] == "reader").count(), 13);
    assert!(lines.iter().all(|line| line["action"].is_string()));
}

#[tokio::test]
async fn a_token_that_no_credential_has_opens_nothing() {
    let callers = Callers::new();
    let digest = KeyDigest::of(OF_ACME.as_bytes()).to_string();
    for token in ["", "acme-ci", &digest, &OF_ACME[..31], &OF_ACME.to_uppercase()] {
        let (status, json) = callers.call(token, "GET", KEYS, &json!({})).await;
        assert_eq!((status, code(&json)), (401, "unauthorized"), "{token}");
    }
}

#[test]
fn a_short_token_is_not_accepted_under_its_digest() {
    let mut list = credentials();
    list[0].digest = KeyDigest::of(b"short");
    assert!(credential_of(b"short", &list).is_none());
    assert_eq!(credential_of(OF_READER.as_bytes(), &list).unwrap().name, "reader");
}

#[test]
fn wrong_credentials_are_refused_with_their_place() {
    let digest = KeyDigest::of(b"x").to_string();
    for (edit, place, part) in [
        (json!({ "name": "" }), "[0].name", "1 to 256 characters"),
        (json!({ "name": "admin" }), "[0].name", "and not `admin`"),
        (json!({ "actions": [] }), "[0].actions", "at least one action"),
        (json!({ "tenants": [] }), "[0].tenants", "list the tenants"),
        (json!({ "every_tenant": true }), "[0].tenants", "in their place"),
        (json!({ "tenants": ["a\nb"] }), "[0].tenants[0]", "control characters"),
        (json!({ "may_grant": { "scopes": ["infer:*"] } }), "scopes[0]", "no pattern"),
        (json!({ "may_grant": { "max_life": "0s" } }), "max_life", "1s at least"),
        (json!({ "may_grant": { "max_keys": 0 } }), "max_keys", "1 at least"),
        (json!({ "may_grant": { "networks": [] } }), "networks", "list the networks"),
        (json!({ "digest": KeyDigest::of(b"") }), "[0].digest", "empty token"),
    ] {
        let mut value = json!({
            "name": "a", "digest": digest, "actions": ["read_keys"], "tenants": ["acme"],
        });
        for (name, member) in edit.as_object().unwrap() {
            value[name] = member.clone();
        }
        let list: Vec<AdminCredentialConfig> = serde_json::from_value(json!([value])).unwrap();
        let mut errors = Errors::default();
        AdminCredentialConfig::validate(&list, &Path::root().key("c"), &mut errors);
        let errors = errors.without_lines();
        assert_eq!(errors.len(), 1, "{edit}");
        let text = errors[0].to_string();
        assert!(text.contains(place) && text.contains(part), "{edit}: {text}");
    }
    let twice = [credentials()[0].clone(), credentials()[0].clone()];
    let mut errors = Errors::default();
    AdminCredentialConfig::validate(&twice, &Path::root(), &mut errors);
    assert_eq!(errors.without_lines().len(), 2, "the name and the token");
}
