use std::sync::{Mutex, PoisonError};

use tollgate_core::{
    config::{Document, Errors, keys_of},
    credential::api_key::{KeyDigest, LENGTH},
    policy::PolicyConfig,
};

use super::*;
use crate::{
    admin::tests::{Bench, TOKEN, code},
    store::StoredKey,
};

/// Records in memory, in the order of their creation, or a store that does not answer.
#[derive(Default)]
pub(crate) struct Memory {
    records: Mutex<Vec<(KeyId, String)>>,
    outage: Option<Outage>,
    /// As `outage`, for writes only.
    write_outage: Option<Outage>,
    /// Texts that other calls write before the next writes.
    races: Mutex<Vec<(KeyId, String)>>,
    /// The last uses of keys.
    uses: Mutex<Vec<(KeyId, Timestamp)>>,
}

impl Memory {
    pub(in crate::admin) fn records(&self) -> std::sync::MutexGuard<'_, Vec<(KeyId, String)>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(in crate::admin) fn record(&self, id: &str) -> KeyRecord {
        let id: KeyId = id.parse().unwrap();
        let records = self.records();
        let (_, text) = records.iter().find(|(known, _)| *known == id).unwrap();
        KeyRecord::from_stored(id, text).unwrap()
    }

    fn answer(&self) -> Result<(), Outage> {
        self.outage.map_or(Ok(()), Err)
    }
}

impl KeyRecords for Memory {
    fn read<'a>(&'a self, id: &'a KeyId) -> BoxFuture<'a, Result<Option<String>, Outage>> {
        Box::pin(async move {
            self.answer()?;
            let records = self.records();
            Ok(records.iter().find(|(known, _)| known == id).map(|(_, text)| text.clone()))
        })
    }

    fn write<'a>(
        &'a self,
        record: &'a KeyRecord,
        text: &'a str,
        replaces: Option<&'a str>,
    ) -> BoxFuture<'a, Result<KeyWrite, Outage>> {
        Box::pin(async move {
            self.answer()?;
            self.write_outage.map_or(Ok(()), Err)?;
            let mut records = self.records();
            if let Some((id, text)) = self.races.lock().unwrap().pop() {
                records.retain(|(known, _)| *known != id);
                records.push((id, text));
            }
            let digest = record.current.digest;
            let same = records.iter().find(|(id, text)| {
                *id != record.id
                    && KeyRecord::from_stored(*id, text)
                        .is_ok_and(|record| record.current.digest == digest)
            });
            if let Some((id, _)) = same {
                return Ok(KeyWrite::SameDigest(Some(*id)));
            }
            let place = records.iter_mut().find(|(id, _)| *id == record.id);
            Ok(match (place, replaces) {
                (Some(_), None) => KeyWrite::Exists,
                (Some((_, before)), Some(replaces)) if before == replaces => {
                    text.clone_into(before);
                    KeyWrite::Written
                }
                (_, Some(_)) => KeyWrite::Changed,
                (None, None) => {
                    records.push((record.id, text.to_owned()));
                    KeyWrite::Written
                }
            })
        })
    }

    fn remove<'a>(&'a self, id: &'a KeyId) -> BoxFuture<'a, Result<bool, Outage>> {
        Box::pin(async move {
            self.answer()?;
            let mut records = self.records();
            let before = records.len();
            records.retain(|(known, _)| known != id);
            Ok(records.len() < before)
        })
    }

    fn last_uses<'a>(
        &'a self,
        ids: &'a [KeyId],
    ) -> BoxFuture<'a, Result<Vec<Option<Timestamp>>, Outage>> {
        Box::pin(async move {
            self.answer()?;
            let uses = self.uses.lock().unwrap();
            let last = |id: &KeyId| uses.iter().find(|(known, _)| known == id).map(|(_, at)| *at);
            Ok(ids.iter().map(last).collect())
        })
    }

    fn list<'a>(
        &'a self,
        after: Option<&'a Position>,
        limit: usize,
    ) -> BoxFuture<'a, Result<KeyPage, Outage>> {
        Box::pin(async move {
            self.answer()?;
            let records = self.records();
            let created = |index: usize| Timestamp::from_secs(index as u64);
            let keys = records.iter().enumerate().map(|(index, (id, text))| StoredKey {
                id: id.as_str().as_bytes().to_vec(),
                text: Some(text.clone()),
                created: created(index),
            });
            let keys = keys.filter(|key| after.is_none_or(|after| key.position() > *after));
            let mut keys: Vec<StoredKey> = keys.collect();
            let has_more = keys.len() > limit.min(2);
            keys.truncate(limit.min(2));
            let next = keys.last().filter(|_| has_more).map(StoredKey::position);
            Ok(KeyPage { keys, total: records.len() as u64, next })
        })
    }
}

/// A policy with keys in Redis, one limit and one tier.
pub(crate) fn policy(api_keys: Value) -> Arc<Policy> {
    let text = json!({
        "api_keys": api_keys,
        "limits": [{
            "name": "per-key", "by": ["key"], "rate": "10/1m",
            "overrides": [{ "tier": "gold", "rate": "20/1m" }],
        }],
        "routes": [{ "match": { "paths": ["/a"] }, "public": true }],
    })
    .to_string();
    let document = Document::parse(&text, &|_| None).unwrap();
    let config = document.read_part::<PolicyConfig>(keys_of::<PolicyConfig>()).value.unwrap();
    let mut errors = Errors::default();
    let policy = Policy::compile(&config, &mut errors);
    Arc::new(policy.unwrap_or_else(|| panic!("{:?}", errors.without_lines())))
}

fn bench() -> (Bench, Arc<Memory>) {
    bench_of(Memory::default())
}

fn bench_of(memory: Memory) -> (Bench, Arc<Memory>) {
    let memory = Arc::new(memory);
    let policy = policy(json!({ "redis": true, "max_life": "100d", "grace": "2h" }));
    let records = Arc::clone(&memory) as Arc<dyn KeyRecords>;
    (Bench::with_keys(Some(records), policy), memory)
}

async fn created(bench: &Bench, body: &str) -> (String, String) {
    let (status, json) = bench.call("POST", PATH, body).await;
    assert_eq!(status, 200, "{body}: {json}");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (text(&json["record"]["id"]), text(&json["key"]))
}

#[tokio::test]
async fn a_key_is_created_with_its_terms_and_shown_once() {
    let (bench, memory) = bench();
    let body = r#"{"subject":"ci","tenant":"acme","owner":"search","scopes":["infer:text"],
        "models":["qwen"],"tier":"gold","limits":{"per-key":"5/1s"},"networks":["10.0.0.0/8"],
        "labels":{"team":"search"},"holder":"user","expires_in":"30d"}"#;
    let before = now().secs();
    let (id, key) = created(&bench, body).await;
    assert_eq!((key.len(), &key[4..16]), (LENGTH, id.as_str()));
    let record = memory.record(&id);
    assert_eq!(record.current.digest, KeyDigest::of(key.as_bytes()));
    assert!((before..=now().secs()).contains(&record.created.secs()));
    assert_eq!(record.expires.secs() - record.created.secs(), 30 * 86_400);
    let (status, shown) = bench.call("GET", &format!("{PATH}/{id}"), "").await;
    let terms = ["subject", "tenant", "owner", "tier", "holder", "state"];
    let terms = terms.map(|name| shown[name].as_str().unwrap_or("-"));
    assert_eq!((status, terms), (200, ["ci", "acme", "search", "gold", "user", "active"]));
    assert_eq!(shown["limits"], json!({ "per-key": "5/1s" }));
    let (_, list) = bench.call("GET", PATH, "").await;
    assert_eq!(list["keys"], json!([shown]));
    for answer in [&shown, &list] {
        let text = answer.to_string();
        assert!(!text.contains(&key[17..]) && !text.contains("sha256:"), "{text}");
    }
    // Without terms: 90 days, no scope.
    let (id, _) = created(&bench, r#"{"subject":"ci"}"#).await;
    let record = memory.record(&id);
    assert_eq!(record.expires.secs() - record.created.secs(), 90 * 86_400);
    assert!(record.scopes.is_empty() && record.tenant.is_none());
}

#[tokio::test]
async fn a_body_that_is_unclear_makes_no_key() {
    let (bench, memory) = bench();
    let import = format!("{PATH}/import");
    let digest = KeyDigest::of(b"sk-old").to_string();
    for (path, body, expected) in [
        (PATH, "", "the body cannot be read"),
        (PATH, "[]", "the body cannot be read"),
        (PATH, "{}", "missing field `subject`"),
        (PATH, r#"{"subject":"a","subject":"b"}"#, "duplicate field `subject`"),
        (PATH, r#"{"subject":"a","scope":"b"}"#, "unknown field `scope`"),
        (PATH, r#"{"subject":"a","id":"7Jk2mN4pQ8rT"}"#, "unknown field `id`"),
        (PATH, r#"{"subject":"a","weak":false}"#, "unknown field `weak`"),
        (PATH, r#"{"subject":""}"#, "subject"),
        (PATH, r#"{"subject":"a\nb"}"#, "`subject` contains the control character U+000A"),
        (PATH, r#"{"subject":"a\u0000"}"#, "`subject` contains the control character U+0000"),
        (PATH, r#"{"subject":"a","tenant":"\u202ea"}"#, "`tenant` contains"),
        (PATH, r#"{"subject":"a","owner":"\u2066a"}"#, "`owner` contains"),
        (PATH, r#"{"subject":"a","tier":"gold\u200f"}"#, "`tier` contains"),
        (PATH, r#"{"subject":"a","scopes":["a\u2069"]}"#, "`scopes` contains"),
        (PATH, r#"{"subject":"a","models":["a\u0085"]}"#, "`models` contains"),
        (PATH, r#"{"subject":"a","limits":{"\u202a":"1/1s"}}"#, "`limits` contains"),
        (PATH, r#"{"subject":"a","labels":{"\u061c":"1"}}"#, "`labels` contains"),
        (PATH, r#"{"subject":"a","labels":{"x":"\u2028"}}"#, "`labels` contains"),
        (PATH, r#"["ci"]"#, "it is no JSON object"),
        (PATH, r#"{"subject":"a","holder":{"user":null}}"#, "the body cannot be read"),
        (PATH, r#"{"subject":"a","tenant":""}"#, "tenant"),
        (PATH, r#"{"subject":"a","scopes":["a b"]}"#, "is not a scope"),
        (
            PATH,
            &json!({ "subject": "a", "scopes": ["s".repeat(257)] }).to_string(),
            "scopes[0]: a scope of a key has at most 256 bytes",
        ),
        (PATH, r#"{"subject":"a","scopes":"infer"}"#, "the body cannot be read"),
        (PATH, r#"{"subject":"a","networks":[]}"#, "the list is empty"),
        (PATH, r#"{"subject":"a","networks":["10.0.0.1/8"]}"#, "10.0.0.1/8"),
        (PATH, r#"{"subject":"a","limits":{"per-key":"1/1s","per-key":"9/1s"}}"#, "duplicate"),
        (PATH, r#"{"subject":"a","labels":{"x":"1","x":"2"}}"#, "duplicate member `x`"),
        (PATH, r#"{"subject":"a","expires_in":"3654d"}"#, "`expires_in` is between"),
        (PATH, r#"{"subject":"a","expires_in":"0s"}"#, "`expires_in` is between"),
        (PATH, r#"{"subject":"a","expires_in":60}"#, "the body cannot be read"),
        (PATH, &format!(r#"{{"subject":"a","digest":"{digest}"}}"#), "/v1/keys/import"),
        (&import, r#"{"subject":"a"}"#, "name the `digest`"),
        (&import, r#"{"subject":"a","digest":"sk-secret"}"#, "64 hex digits"),
        (
            &import,
            &json!({ "subject": "a", "digest": KeyDigest::of(b"") }).to_string(),
            "that of an empty key",
        ),
    ] {
        let (status, json) = bench.call("POST", path, body).await;
        assert_eq!((status, code(&json)), (400, "invalid_request"), "{path} {body}");
        let message = json["error"]["message"].as_str().unwrap();
        assert!(message.contains(expected), "{body}: {message}");
        assert!(!message.contains("sk-secret"), "{message}");
    }
    for (body, expected) in [
        (r#"{"subject":"a","limits":{"other":"1/1s"}}"#, "unknown_limit"),
        (r#"{"subject":"a","tier":"silver"}"#, "unknown_tier"),
        (r#"{"subject":"a","expires_in":"101d"}"#, "out_of_bounds"),
    ] {
        let (status, json) = bench.call("POST", PATH, body).await;
        assert_eq!((status, code(&json)), (409, expected), "{body}");
    }
    assert!(memory.records().is_empty());
}

#[tokio::test]
async fn a_rotation_keeps_the_id_and_the_secret_before_for_a_grace() {
    let (bench, memory) = bench();
    let (id, first) = created(&bench, r#"{"subject":"ci","scopes":["infer:text"]}"#).await;
    let path = format!("{PATH}/{id}/rotate");
    let (status, json) = bench.call("POST", &path, "{}").await;
    assert_eq!((status, json["record"]["state"].as_str()), (200, Some("rotating")));
    let second = json["key"].as_str().unwrap();
    let record = memory.record(&id);
    assert_eq!(record.current.digest, KeyDigest::of(second.as_bytes()));
    let previous = record.previous.as_ref().unwrap();
    assert_eq!(previous.secret.digest, KeyDigest::of(first.as_bytes()));
    assert_eq!(previous.until.secs() - record.current.issued.secs(), 2 * 3600, "of the policy");
    assert_eq!(&*record.scopes, ["infer:text"]);
    // Two at most: the first secret ends with the next rotation.
    let (status, _) = bench.call("POST", &path, r#"{"grace":"1h","expires_in":"1d"}"#).await;
    let record = memory.record(&id);
    let previous = record.previous.as_ref().unwrap();
    assert_eq!((status, previous.secret.digest), (200, KeyDigest::of(second.as_bytes())));
    assert_eq!(record.expires.secs() - record.current.issued.secs(), 86_400);
    let (status, json) = bench.call("POST", &path, r#"{"grace":"0s"}"#).await;
    assert_eq!((status, json["record"]["state"].as_str()), (200, Some("active")));
    assert!(memory.record(&id).previous.is_none());
    for (body, expected) in [
        (r#"{"grace":"31d"}"#, "`grace` is at most"),
        (r#"{"expires_in":"3654d"}"#, "`expires_in` is between"),
        (r#"["1h","1d"]"#, "it is no JSON object"),
        (r#"[]"#, "it is no JSON object"),
        (r#"{"scopes":["admin"]}"#, "unknown field `scopes`"),
        ("", "the body cannot be read"),
    ] {
        let (status, json) = bench.call("POST", &path, body).await;
        assert_eq!(status, 400, "{body}");
        assert!(json["error"]["message"].as_str().unwrap().contains(expected), "{body}: {json}");
    }
}

#[tokio::test]
async fn a_secret_that_has_ended_does_not_come_back_with_a_rotation() {
    let (bench, memory) = bench();
    let (id, _) = created(&bench, r#"{"subject":"ci"}"#).await;
    let mut ended = memory.record(&id);
    ended.created = Timestamp::from_secs(1);
    ended.current.issued = ended.created;
    ended.expires = Timestamp::from_secs(9);
    memory.records()[0].1 = ended.to_stored().unwrap();
    let path = format!("{PATH}/{id}/rotate");
    let (status, json) = bench.call("POST", &path, r#"{"grace":"30d"}"#).await;
    assert_eq!((status, json["record"]["state"].as_str()), (200, Some("active")));
    assert!(memory.record(&id).previous.is_none());
}

#[tokio::test]
async fn an_imported_key_is_weak_until_it_is_rotated() {
    let (bench, memory) = bench();
    let body = json!({ "subject": "bot", "digest": KeyDigest::of(b"sk-old").to_string() });
    let import = format!("{PATH}/import");
    let (status, json) = bench.call("POST", &import, &body.to_string()).await;
    assert_eq!((status, json["record"]["state"].as_str()), (200, Some("weak")));
    assert!(json.get("key").is_none() && !json.to_string().contains("sha256:"), "{json}");
    let (status, again) = bench.call("POST", &import, &body.to_string()).await;
    assert_eq!((status, code(&again)), (409, "exists"));
    let id = json["record"]["id"].as_str().unwrap();
    let rotate = format!("{PATH}/{id}/rotate");
    let (status, json) = bench.call("POST", &rotate, r#"{"grace":"0s"}"#).await;
    assert_eq!((status, json["record"]["state"].as_str()), (200, Some("active")));
    assert!(!memory.record(id).current.weak);
}

#[tokio::test]
async fn a_revoked_key_is_missing() {
    let (bench, memory) = bench();
    let (id, _) = created(&bench, r#"{"subject":"ci"}"#).await;
    let path = format!("{PATH}/{id}");
    let (status, json) = bench.call("DELETE", &path, "").await;
    assert_eq!((status, json), (200, json!({ "id": id, "revoked": true })));
    assert!(memory.records().is_empty());
    for (method, path) in [
        ("DELETE", path.clone()),
        ("GET", path.clone()),
        ("POST", format!("{path}/rotate")),
        ("GET", format!("{PATH}/short")),
        ("GET", format!("{PATH}/")),
        ("GET", format!("{path}/")),
        ("GET", format!("{PATH}/%37Jk2mN4pQ8rT")),
        ("POST", format!("{path}/rotate/x")),
    ] {
        let (status, json) = bench.call(method, &path, "{}").await;
        assert_eq!((status, code(&json)), (404, "not_found"), "{method} {path}");
    }
}

#[tokio::test]
async fn other_methods_and_bodies_are_refused() {
    let (bench, memory) = bench();
    let (id, _) = created(&bench, r#"{"subject":"ci"}"#).await;
    let bearer = format!("Bearer {TOKEN}");
    let auth = ("authorization", bearer.as_str());
    for (method, path, kind, status, allow) in [
        ("PUT", PATH.to_owned(), "application/json", 405, Some("GET, POST")),
        ("DELETE", PATH.to_owned(), "application/json", 405, Some("GET, POST")),
        ("GET", format!("{PATH}/import"), "", 405, Some("POST")),
        ("PATCH", format!("{PATH}/{id}"), "application/json", 405, Some("GET, DELETE")),
        ("GET", format!("{PATH}/{id}/rotate"), "", 405, Some("POST")),
        ("POST", PATH.to_owned(), "text/plain", 415, None),
        ("POST", format!("{PATH}/{id}/rotate"), "", 415, None),
    ] {
        let headers = [auth, ("content-type", kind)];
        let (answered, _, headers) = bench.raw(method, &path, "{}", &headers).await;
        assert_eq!(answered, status, "{method} {path}");
        assert_eq!(headers.get("allow").map(|allow| allow.to_str().unwrap()), allow);
    }
    let (status, ..) = bench.raw("POST", PATH, "{}", &[]).await;
    assert_eq!(status, 401);
    assert_eq!(memory.records().len(), 1);
}

#[tokio::test]
async fn keys_are_listed_in_pages_and_by_tenant() {
    let (bench, memory) = bench();
    for tenant in ["a", "b", "a", "b b", "a"] {
        created(&bench, &json!({ "subject": "ci", "tenant": tenant }).to_string()).await;
    }
    memory.records().push(("7Jk2mN4pQ8rT".parse().unwrap(), "{".to_owned()));
    let list = async |query: &str| {
        let (status, json) = bench.call("GET", &format!("{PATH}?{query}"), "").await;
        assert_eq!(status, 200, "{query}: {json}");
        let tenants = json["keys"].as_array().unwrap().iter();
        let tenants = tenants.map(|key| key["tenant"].as_str().unwrap_or("-").to_owned());
        (tenants.collect::<Vec<_>>().join(","), json["next"].as_str().map(str::to_owned))
    };
    assert_eq!(list("").await, ("a,b,a,b b,a,-".into(), None));
    let (tenants, next) = list("limit=4").await;
    assert_eq!(tenants, "a,b,a,b b");
    let rest = format!("limit=4&cursor={}", next.unwrap());
    assert_eq!(list(&rest).await, ("a,-".into(), None));
    let (tenants, next) = list("tenant=a&limit=2").await;
    assert_eq!(tenants, "a,a");
    let rest = format!("cursor={}&tenant=a&limit=2", next.unwrap());
    assert_eq!(list(&rest).await, ("a".into(), None));
    assert_eq!(list("tenant=b%20b").await, ("b b".into(), None));
    assert_eq!(list("tenant=b+b").await, ("b b".into(), None));
    assert_eq!(list("tenant=A").await, (String::new(), None));
    assert_eq!(list("cursor=99000000.").await, (String::new(), None));
    let (_, json) = bench.call("GET", &format!("{PATH}?cursor=5000000."), "").await;
    assert_eq!(json["keys"], json!([{ "id": "7Jk2mN4pQ8rT", "state": "unreadable" }]));
    for query in [
        "limit=0",
        "cursor=5",
        "tenant=",
        "tenant=%zz",
        "tenant=%ff",
        "tenant=a&tenant=b",
        "tenant",
        "x=1",
    ] {
        let (status, _) = bench.call("GET", &format!("{PATH}?{query}"), "").await;
        assert_eq!(status, 400, "{query}");
    }
}

#[tokio::test]
async fn the_last_use_of_a_key_is_shown_where_it_is_known() {
    let (bench, memory) = bench();
    let (used, _) = created(&bench, r#"{"subject":"ci"}"#).await;
    let (unused, _) = created(&bench, r#"{"subject":"ci"}"#).await;
    memory.records().push(("7Jk2mN4pQ8rT".parse().unwrap(), "{".to_owned()));
    let at = Timestamp::from_secs(1_795_318_921);
    memory.uses.lock().unwrap().push((used.parse().unwrap(), at));
    let expected = json!("2026-11-22T03:42:01.000000Z");
    let (_, json) = bench.call("GET", &format!("{PATH}/{used}"), "").await;
    assert_eq!(json["last_used"], expected);
    let (_, json) = bench.call("GET", &format!("{PATH}/{unused}"), "").await;
    assert!(json.get("last_used").is_none());
    let (_, json) = bench.call("GET", PATH, "").await;
    let keys = json["keys"].as_array().unwrap();
    let uses: Vec<_> = keys.iter().map(|key| key.get("last_used")).collect();
    assert_eq!(uses, [Some(&expected), None, None]);
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_revoked_only() {
    let (bench, memory) = bench();
    memory.records().push(("7Jk2mN4pQ8rT".parse().unwrap(), "{".to_owned()));
    let path = format!("{PATH}/7Jk2mN4pQ8rT");
    for (method, path) in [("GET", path.clone()), ("POST", format!("{path}/rotate"))] {
        let (status, json) = bench.call(method, &path, "{}").await;
        assert_eq!((status, code(&json)), (409, "unreadable_record"), "{method}");
    }
    assert_eq!(bench.call("DELETE", &path, "").await.0, 200);
}

#[tokio::test]
async fn a_rotation_is_applied_to_the_record_as_it_is_when_it_is_written() {
    let (bench, memory) = bench();
    let (id, _) = created(&bench, r#"{"subject":"ci"}"#).await;
    let mut other = memory.record(&id);
    other.subject = "renamed".into();
    memory.races.lock().unwrap().push((other.id, other.to_stored().unwrap()));
    let (status, _) = bench.call("POST", &format!("{PATH}/{id}/rotate"), "{}").await;
    let record = memory.record(&id);
    assert_eq!((status, &*record.subject), (200, "renamed"));
    assert!(record.previous.is_some());
}

#[tokio::test]
async fn keys_are_made_beyond_those_that_replicas_copy() {
    let memory = Arc::new(Memory::default());
    let policy = policy(json!({ "redis": true, "replicate": { "max": 1 } }));
    let bench = Bench::with_keys(Some(Arc::clone(&memory) as Arc<dyn KeyRecords>), policy);
    created(&bench, r#"{"subject":"ci"}"#).await;
    created(&bench, r#"{"subject":"ci"}"#).await;
    assert_eq!(memory.records().len(), 2);
}

#[tokio::test]
async fn keys_that_are_not_in_redis_are_a_conflict() {
    let memory = || Some(Arc::new(Memory::default()) as Arc<dyn KeyRecords>);
    let in_redis = json!({ "redis": true });
    let in_file = json!({ "file": "/etc/tollgate/keys.json" });
    for (records, api_keys) in [(None, in_redis), (memory(), in_file), (memory(), Value::Null)] {
        let bench = Bench::with_keys(records, policy(api_keys));
        for (method, path) in [
            ("GET", PATH.to_owned()),
            ("POST", PATH.to_owned()),
            ("POST", format!("{PATH}/import")),
            ("DELETE", format!("{PATH}/7Jk2mN4pQ8rT")),
            ("POST", format!("{PATH}/7Jk2mN4pQ8rT/rotate")),
        ] {
            let (status, json) = bench.call(method, &path, r#"{"subject":"ci"}"#).await;
            assert_eq!((status, code(&json)), (409, "keys_not_in_redis"), "{method} {path}");
        }
    }
}

#[tokio::test]
async fn an_outage_is_a_503_and_a_created_key_is_not_made_twice_blindly() {
    let (bench, _) = bench_of(Memory { outage: Some(Outage::Deadline), ..Memory::default() });
    let id = format!("{PATH}/7Jk2mN4pQ8rT");
    for (method, path, expected) in [
        ("GET", PATH, "a retry does no harm"),
        ("POST", PATH, "look for it before a retry"),
        ("GET", id.as_str(), "a retry does no harm"),
        ("DELETE", id.as_str(), "a retry does no harm"),
    ] {
        let (status, json) = bench.call(method, path, r#"{"subject":"ci"}"#).await;
        assert_eq!((status, code(&json)), (503, "store_unavailable"), "{method} {path}");
        assert!(json["error"]["message"].as_str().unwrap().contains(expected), "{json}");
    }
    let outage = Some(Outage::Deadline);
    let (bench, _) = bench_of(Memory { write_outage: outage, ..Memory::default() });
    let (status, json) = bench.call("POST", PATH, r#"{"subject":"ci"}"#).await;
    assert_eq!((status, code(&json)), (503, "store_unavailable"));
    let message = json["error"]["message"].as_str().unwrap();
    assert!(message.contains("look for it before a retry"), "{message}");
}

#[tokio::test]
async fn every_call_leaves_a_line_without_the_key() {
    let (bench, _) = bench();
    let body = r#"{"subject":"ci","tenant":"acme","scopes":["a","b"]}"#;
    let (id, key) = created(&bench, body).await;
    let path = format!("{PATH}/{id}");
    let (_, json) = bench.call("POST", &format!("{path}/rotate"), "{}").await;
    let rotated = json["key"].as_str().unwrap().to_owned();
    bench.call("GET", &path, "").await;
    bench.call("GET", &format!("{PATH}?tenant=acme"), "").await;
    bench.call("DELETE", &path, "").await;
    bench.call("DELETE", &path, "").await;
    let old = KeyDigest::of(b"sk-old").to_string();
    let import = json!({ "subject": "bot", "digest": old }).to_string();
    bench.call("POST", &format!("{PATH}/import"), &import).await;
    bench.call("POST", PATH, r#"{"subject":"ci","limits":{"other":"1/1s"}}"#).await;
    let lines = bench.lines();
    let shown = lines.iter().map(|line| {
        ["action", "key_id", "sub", "tenant", "result"].map(|name| match name {
            "key_id" if line[name] == id => "id",
            _ => line[name].as_str().unwrap_or("-"),
        })
    });
    let shown: Vec<[&str; 5]> = shown.collect();
    assert_eq!(
        shown[..6],
        [
            ["create_key", "id", "ci", "acme", "ok"],
            ["rotate_key", "id", "ci", "acme", "ok"],
            ["show_key", "id", "ci", "acme", "ok"],
            ["list_keys", "-", "-", "-", "ok"],
            ["revoke_key", "id", "ci", "acme", "ok"],
            ["revoke_key", "id", "-", "-", "not_found"],
        ]
    );
    assert_eq!((shown[6][0], shown[6][2], shown[6][4]), ("import_key", "bot", "ok"));
    assert_eq!((shown[7][0], shown[7][4]), ("create_key", "unknown_limit"));
    assert_eq!(lines[0]["scopes"], "a b");
    assert!(lines[0]["exp"].is_u64());
    let text = bench.text();
    for secret in [&key[17..], &rotated[17..], &old[7..], TOKEN] {
        assert!(!text.contains(secret), "{secret}");
    }
}
