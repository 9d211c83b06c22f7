use std::{collections::BTreeMap, sync::Mutex, time::Duration};

use http_body_util::BodyExt as _;
use serde_json::Value;
use tollgate_core::{admission::Outage, time::Timestamp};

use super::*;
use crate::{
    admin::store::StoreRevocations,
    observe::{
        audit::{AuditConfig, OnFull},
        rfc3339,
        tests::Written,
    },
    store::{BanQuery, Memory, MemoryConfig, NewBan},
};

pub(crate) const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// Revocations and bans in memory, listed two at a time, or a store that does not answer.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub(crate) entries: Arc<Mutex<BTreeMap<String, (Revocation, Entry)>>>,
    pub(crate) bans: Arc<Memory>,
    pub(crate) outage: Option<Outage>,
    pub(crate) hangs: bool,
}

impl Default for Kept {
    fn default() -> Self {
        let bans = Arc::new(Memory::new(&MemoryConfig::default()));
        Self { entries: Arc::default(), bans, outage: None, hangs: false }
    }
}

impl Bans for Kept {
    type Error = StoreUnavailable;

    async fn ban(&self, ban: &NewBan) -> Result<Entry, StoreUnavailable> {
        self.answer().await?;
        StoreRevocations(Arc::clone(&self.bans) as _).ban(ban).await
    }

    async fn lift(&self, target: &tollgate_core::ban::Target) -> Result<bool, StoreUnavailable> {
        self.answer().await?;
        StoreRevocations(Arc::clone(&self.bans) as _).lift(target).await
    }

    async fn list_bans(
        &self,
        after: Option<&Position>,
        limit: usize,
    ) -> Result<EntryPage, StoreUnavailable> {
        self.answer().await?;
        StoreRevocations(Arc::clone(&self.bans) as _).list_bans(after, limit.min(2)).await
    }

    async fn bans_of(&self, query: &BanQuery) -> Result<Vec<Entry>, StoreUnavailable> {
        self.answer().await?;
        StoreRevocations(Arc::clone(&self.bans) as _).bans_of(query).await
    }
}

impl Kept {
    async fn answer(&self) -> Result<(), StoreUnavailable> {
        if self.hangs {
            std::future::pending::<()>().await;
        }
        self.outage.map_or(Ok(()), |outage| Err(outage.into()))
    }

    pub(crate) fn only(&self) -> Revocation {
        let entries = self.entries.lock().unwrap();
        assert_eq!(entries.len(), 1);
        entries.values().next().unwrap().0.clone()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.lock().unwrap().is_empty()
    }
}

impl Revocations for Kept {
    type Error = StoreUnavailable;

    async fn revoke(&self, revocation: &Revocation) -> Result<(), StoreUnavailable> {
        self.answer().await?;
        let entry = (revocation.clone(), revocation.entry(now()));
        self.entries.lock().unwrap().insert(revocation.target().key(), entry);
        Ok(())
    }

    async fn reinstate(&self, target: &Target) -> Result<bool, StoreUnavailable> {
        self.answer().await?;
        Ok(self.entries.lock().unwrap().remove(&target.key()).is_some())
    }

    async fn list(
        &self,
        after: Option<&Position>,
        limit: usize,
    ) -> Result<EntryPage, StoreUnavailable> {
        self.answer().await?;
        let entries = self.entries.lock().unwrap();
        let mut entries: Vec<Entry> = entries.values().map(|(_, entry)| entry.clone()).collect();
        entries.retain(|entry| after.is_none_or(|after| entry.position() > *after));
        entries.sort_by_key(Entry::position);
        let has_more = entries.len() > limit.min(2);
        entries.truncate(limit.min(2));
        let next = entries.last().filter(|_| has_more).map(Entry::position);
        Ok(EntryPage { entries, next })
    }
}

/// The longest life that the policy allows.
const DAY: Span = Span::from_secs(86_400);

pub(super) struct Bench {
    admin: Admin<Kept>,
    pub(super) kept: Kept,
    audit: Arc<Audit>,
    written: Written,
}

impl Bench {
    pub(super) fn new(kept: Kept) -> Self {
        let written = Written::default();
        let audit =
            Arc::new(Audit::to_writer(Box::new(written.clone()), &AuditConfig::default()).unwrap());
        let token = || Some(Secret::new(TOKEN));
        let admin = Admin::new(kept.clone(), token, || DAY, Arc::clone(&audit));
        Self { admin, kept, audit, written }
    }

    /// A bench whose API has keys under `policy`.
    pub(super) fn with_keys(records: Option<Arc<dyn KeyRecords>>, policy: Arc<Policy>) -> Self {
        let mut bench = Self::new(Kept::default());
        bench.admin.keys = Some(KeyAdmin::new(records, move || Arc::clone(&policy)));
        bench
    }

    pub(super) async fn call(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let (status, json, _) = self
            .raw(
                method,
                path,
                body,
                &[
                    ("authorization", &format!("Bearer {TOKEN}")),
                    ("content-type", "application/json"),
                ],
            )
            .await;
        (status, json)
    }

    pub(super) async fn raw(
        &self,
        method: &str,
        path: &str,
        body: &str,
        headers: &[(&str, &str)],
    ) -> (u16, Value, http::HeaderMap) {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::from(body.to_owned())).unwrap();
        let response = handle(&self.admin, Some([127, 0, 0, 1].into()), request).await;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap(), headers)
    }

    /// The bench with the sums of a ledger under `policy`.
    pub(super) fn with_usage(self, sums: Option<Arc<dyn UsageSums>>, policy: Arc<Policy>) -> Self {
        Self { admin: self.admin.with_usage(sums, move || Arc::clone(&policy)), ..self }
    }

    /// The bench with lists of offenders.
    pub(super) fn with_offenders(
        self,
        offenders: impl Fn(usize, Option<&[String]>) -> Offenders + Send + Sync + 'static,
    ) -> Self {
        Self { admin: self.admin.with_offenders(offenders), ..self }
    }

    /// The bench with callers that have fewer rights.
    pub(super) fn with_credentials(self, credentials: Vec<AdminCredentialConfig>) -> Self {
        let credentials = Arc::new(credentials);
        Self { admin: self.admin.with_credentials(move || Arc::clone(&credentials)), ..self }
    }

    /// All audit lines, after [`lines`](Self::lines).
    pub(super) fn text(&self) -> String {
        self.written.text()
    }

    pub(super) fn lines(&self) -> Vec<Value> {
        assert!(self.audit.close(Duration::from_secs(10)));
        let lines = self.written.text();
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

pub(super) fn code(json: &Value) -> &str {
    json["error"]["code"].as_str().unwrap_or("-")
}

mod openapi;

#[tokio::test]
async fn nobody_learns_anything_without_the_token() {
    let bench = Bench::new(Kept::default());
    let expected = serde_json::json!({ "error": { "code": "unauthorized", "message": "send the admin token as `Authorization: Bearer <token>`" } });
    for (method, path) in [
        ("GET", PATH),
        ("POST", PATH),
        ("DELETE", PATH),
        ("OPTIONS", PATH),
        ("GET", "/"),
        ("PUT", "/v2"),
        ("GET", "/v1/revocations?limit=x"),
    ] {
        for headers in [&[][..], &[("authorization", "Bearer 0123456789abcdef0123456789abcdeX")]] {
            let (status, json, answer) = bench.raw(method, path, "{}", headers).await;
            assert_eq!((status, &json), (401, &expected), "{method} {path}");
            assert_eq!(answer["www-authenticate"], "Bearer realm=\"tollgate-admin\"");
            assert!(
                answer.keys().all(|name| !name.as_str().starts_with("access-control")),
                "no CORS"
            );
        }
    }
    let lines = bench.lines();
    assert_eq!(lines.len(), 14, "one line for each");
    assert!(lines.iter().all(|line| line["result"] == "unauthorized"
        && line["status"] == 401
        && line.get("action").is_none()));
}

#[tokio::test]
async fn while_there_is_no_token_nothing_opens() {
    let audit = Arc::new(Audit::off());
    for token in [None, Some(Secret::new("")), Some(Secret::new("short"))] {
        let sent = token
            .as_ref()
            .map_or(String::new(), |token| String::from_utf8(token.expose().to_vec()).unwrap());
        let admin = Admin::new(Kept::default(), move || token.clone(), || DAY, Arc::clone(&audit));
        let request =
            Request::builder().uri(PATH).header("authorization", format!("Bearer {sent}"));
        assert_eq!(handle(&admin, None, request.body(Full::from("")).unwrap()).await.status(), 401);
    }
}

#[tokio::test]
async fn what_is_named_is_revoked() {
    let hash = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let issuer = "https://a.example.com".to_owned();
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(&tollgate_core::revocation::sha256(b"abc"));
    for (body, target, ttl) in [
        (
            r#"{"jti":"t-1","issuer":"https://a.example.com"}"#.to_owned(),
            Target::Jti { issuer: issuer.clone(), jti: "t-1".into() },
            "1d",
        ),
        (
            r#"{"jti":"t-1","issuer":""}"#.into(),
            Target::Jti { issuer: String::new(), jti: "t-1".into() },
            "1d",
        ),
        (
            r#"{"subject":"alice","issuer":"https://a.example.com"}"#.into(),
            Target::Subject { issuer: issuer.clone(), subject: "alice".into() },
            "1d",
        ),
        (
            r#"{"client":"app","issuer":"https://a.example.com","ttl":"2h"}"#.into(),
            Target::Client { issuer, client: "app".into() },
            "2h",
        ),
        (r#"{"tenant":"acme"}"#.into(), Target::Tenant { tenant: "acme".into() }, "1d"),
        (format!(r#"{{"token_sha256":"{hash}"}}"#), Target::Token { sha256 }, "1d"),
        (
            format!(r#"{{"token_sha256":"{}"}}"#, hash.to_uppercase()),
            Target::Token { sha256 },
            "1d",
        ),
    ] {
        let bench = Bench::new(Kept::default());
        let before = now().secs();
        let (status, json) = bench.call("POST", PATH, &body).await;
        assert_eq!(status, 200, "{body}: {json}");
        let made = bench.kept.only();
        assert_eq!((made.target(), made.ttl().to_string().as_str()), (&target, ttl), "{body}");
        assert!((before..=now().secs()).contains(&made.at().secs()), "{body}");
        assert_eq!((&json["kind"], &json["key"]), (&target.kind().into(), &target.key().into()));
        // The entry outlives the leeway, and clocks that differ.
        assert!(json["expires"].as_u64().unwrap() >= before + made.ttl().secs() + 120);

        let named = serde_json::to_string(&request::selector(&target)).unwrap();
        let (status, json) = bench.call("DELETE", PATH, &named).await;
        assert_eq!((status, &json["reinstated"]), (200, &true.into()), "{named}");
        assert!(bench.kept.is_empty());
        let (status, json) = bench.call("DELETE", PATH, &named).await;
        assert_eq!((status, code(&json)), (404, "not_found"));
    }
}

#[tokio::test]
async fn a_moment_and_a_note_are_kept() {
    let bench = Bench::new(Kept::default());
    let body =
        r#"{"tenant":"acme","at":"2026-01-02T03:04:05Z","note":"left the company","ttl":"90d"}"#;
    assert_eq!(bench.call("POST", PATH, body).await.0, 200);
    let made = bench.kept.only();
    assert_eq!((made.at().secs(), made.note()), (1_767_323_045, Some("left the company")));
}

#[tokio::test]
async fn what_says_nothing_clear_is_refused() {
    let bench = Bench::new(Kept::default());
    let ahead = rfc3339::Rfc3339(Timestamp::from_secs(now().secs() + 3600));
    for (method, body, expected) in [
        ("POST", "".to_owned(), "the body cannot be read"),
        ("POST", "[]".into(), "the body cannot be read"),
        ("POST", r#"{"jti":"a","issuer":"i"} x"#.into(), "the body cannot be read"),
        ("POST", r#"{"jti":"a","jti":"b","issuer":"i"}"#.into(), "duplicate field `jti`"),
        ("POST", r#"{"jti":"a","issuer":"i","expires":1}"#.into(), "unknown field `expires`"),
        ("POST", "{}".into(), "name exactly one of"),
        ("POST", r#"{"jti":"a","subject":"b","issuer":"i"}"#.into(), "name exactly one of"),
        ("POST", r#"{"jti":"a"}"#.into(), "name the `issuer`"),
        ("POST", r#"{"subject":"a"}"#.into(), "name the `issuer`"),
        ("POST", r#"{"tenant":"a","issuer":"i"}"#.into(), "`issuer` has no meaning"),
        ("POST", r#"{"subject":"","issuer":"i"}"#.into(), "is empty"),
        (
            "POST",
            format!(r#"{{"subject":"{}","issuer":"i"}}"#, "s".repeat(1025)),
            "`subject` has 1025 characters",
        ),
        ("POST", r#"{"token_sha256":"abc"}"#.into(), "is not 64 hex digits"),
        ("POST", format!(r#"{{"token_sha256":"{}"}}"#, "+f".repeat(32)), "is not 64 hex digits"),
        ("POST", format!(r#"{{"token_sha256":"{}"}}"#, "é".repeat(32)), "is not 64 hex digits"),
        ("POST", r#"{"tenant":"a","ttl":"0s"}"#.into(), "`ttl` must be 1s or more"),
        ("POST", r#"{"tenant":"a","ttl":"3654d"}"#.into(), "`ttl` must be 1ms to 3653d"),
        ("POST", r#"{"tenant":"a","note":""}"#.into(), "a note is one line"),
        ("POST", r#"{"tenant":"a","ttl":60}"#.into(), "the body cannot be read"),
        ("POST", r#"{"tenant":"a","at":"yesterday"}"#.into(), "is not a time"),
        (
            "POST",
            r#"{"jti":"a","issuer":"i","at":"2026-01-02T03:04:05Z"}"#.into(),
            "`at` goes with",
        ),
        ("POST", r#"{"tenant":"a","note":"two\nlines"}"#.into(), "`note` contains"),
        ("POST", r#"{"tenant":"a","note":"a\u202eb"}"#.into(), "`note` contains"),
        ("POST", r#"{"tenant":"a\u0000"}"#.into(), "`tenant` contains"),
        ("POST", r#"{"subject":"\u2066a","issuer":"i"}"#.into(), "`subject` contains"),
        ("POST", r#"{"client":"a\u0000","issuer":"i"}"#.into(), "`client` contains"),
        ("POST", r#"{"jti":"a\u0000","issuer":"i"}"#.into(), "`jti` contains"),
        ("POST", r#"{"jti":"a","issuer":"i\u0000"}"#.into(), "`issuer` contains"),
        ("POST", r#"[null,null,null,"acme"]"#.into(), "it is no JSON object"),
        ("DELETE", r#"[null,null,null,"acme"]"#.into(), "it is no JSON object"),
        ("DELETE", r#"{"tenant":"a","ttl":"1h"}"#.into(), "have no meaning here"),
        ("DELETE", "".into(), "the body cannot be read"),
    ] {
        let (status, json) = bench.call(method, PATH, &body).await;
        assert_eq!((status, code(&json)), (400, "invalid_request"), "{method} {body}");
        let message = json["error"]["message"].as_str().unwrap();
        assert!(message.contains(expected), "{method} {body}: {message}");
    }
    let body = format!(r#"{{"tenant":"a","at":"{ahead}"}}"#);
    let (status, json) = bench.call("POST", PATH, &body).await;
    assert_eq!((status, code(&json)), (409, "out_of_bounds"), "{json}");
    assert!(bench.kept.is_empty());
}

#[tokio::test]
async fn the_envelope_is_checked() {
    let bench = Bench::new(Kept::default());
    let bearer = format!("Bearer {TOKEN}");
    let auth = ("authorization", bearer.as_str());
    let body = r#"{"tenant":"acme"}"#;
    let long = format!("{}{body}", " ".repeat(MAX_BODY));
    for (method, path, body, kind, status, expected) in [
        ("POST", PATH, body, "application/json; charset=utf-8", 200, "-"),
        ("POST", PATH, body, "APPLICATION/JSON", 200, "-"),
        ("POST", PATH, body, "text/plain", 415, "unsupported_media_type"),
        ("POST", PATH, body, "application/x-www-form-urlencoded", 415, "unsupported_media_type"),
        ("POST", PATH, body, "application/jsonp", 415, "unsupported_media_type"),
        ("DELETE", PATH, body, "", 415, "unsupported_media_type"),
        ("POST", PATH, long.as_str(), "application/json", 413, "body_too_large"),
        ("PUT", PATH, body, "application/json", 405, "method_not_allowed"),
        ("OPTIONS", PATH, "", "", 405, "method_not_allowed"),
        ("POST", "/v1/revocations/", body, "application/json", 404, "not_found"),
        ("GET", "/metrics", "", "", 404, "not_found"),
    ] {
        let (answered, json, headers) =
            bench.raw(method, path, body, &[auth, ("content-type", kind)]).await;
        assert_eq!((answered, code(&json)), (status, expected), "{method} {path} {kind}");
        assert_eq!(headers.get("allow").is_some(), status == 405);
        assert_eq!(headers["cache-control"], "no-store");
    }
}

#[tokio::test]
async fn a_second_content_type_is_not_read() {
    let bench = Bench::new(Kept::default());
    let bearer = format!("Bearer {TOKEN}");
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
        ("content-type", "text/plain"),
    ];
    let (status, json, _) = bench.raw("POST", PATH, r#"{"tenant":"acme"}"#, &headers).await;
    assert_eq!((status, code(&json)), (415, "unsupported_media_type"));
    assert!(bench.kept.is_empty());
}

#[tokio::test]
async fn the_list_comes_in_pages() {
    let bench = Bench::new(Kept::default());
    for tenant in ["a", "b", "c"] {
        bench.call("POST", PATH, &format!(r#"{{"tenant":"{tenant}","note":"{tenant}"}}"#)).await;
    }
    let (status, first) = bench.call("GET", "/v1/revocations?limit=2", "").await;
    let next = first["next"].as_str().unwrap();
    assert_eq!((status, first["revocations"].as_array().unwrap().len()), (200, 2));
    let (_, second) =
        bench.call("GET", &format!("/v1/revocations?cursor={next}&limit=2"), "").await;
    assert_eq!(
        (second["revocations"].as_array().unwrap().len(), &second["next"]),
        (1, &Value::Null)
    );
    assert_eq!(second["revocations"][0]["kind"], "tenant");
    for query in [
        "limit=0",
        "limit=1001",
        "limit=x",
        "limit=",
        "limit=1&limit=2",
        "cursor=",
        "cursor=a%20b",
        "cursor=a/b",
        "cursor=x",
        "cursor=-1",
        "cursor=+1",
        "cursor=1.5",
        "cursor=7",
        "cursor=7.6",
        "cursor=7.6G",
        "cursor=9999999999999999999.61",
        "offset=3",
        "limit",
    ] {
        assert_eq!(
            bench.call("GET", &format!("/v1/revocations?{query}"), "").await.0,
            400,
            "{query}"
        );
    }
}

#[tokio::test]
async fn an_outage_of_the_store_is_a_503_with_retry_after() {
    let bench = Bench::new(Kept { outage: Some(Outage::Deadline), ..Kept::default() });
    let bearer = format!("Bearer {TOKEN}");
    for method in ["GET", "POST", "DELETE"] {
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let (status, json, headers) =
            bench.raw(method, PATH, r#"{"tenant":"acme"}"#, &headers).await;
        assert_eq!((status, code(&json)), (503, "store_unavailable"));
        assert_eq!(headers["retry-after"], "1");
    }
}

#[tokio::test]
async fn every_call_leaves_a_line_without_secrets() {
    let bench = Bench::new(Kept::default());
    bench
        .call("POST", PATH, r#"{"jti":"secret-jti","issuer":"https://a","note":"stolen laptop"}"#)
        .await;
    bench.call("DELETE", PATH, r#"{"subject":"alice","issuer":"https://a"}"#).await;
    bench.call("GET", "/v1/revocations?limit=5", "").await;
    let lines = bench.lines();
    let first = lines[0].as_object().unwrap();
    let keys: Vec<&str> = first.keys().map(String::as_str).collect();
    let expected = [
        "action",
        "at",
        "client_ip",
        "event",
        "iss",
        "jti_sha256",
        "method",
        "microseconds",
        "note",
        "path",
        "result",
        "status",
        "time",
        "ttl_seconds",
        "who",
    ];
    assert_eq!(keys, expected);
    let shown = ["action", "client_ip", "event", "iss", "method", "note", "path", "result", "who"]
        .map(|key| first[key].as_str().unwrap());
    assert_eq!(
        shown,
        ["revoke", "127.0.0.1", "admin", "https://a", "POST", "stolen laptop", PATH, "ok", "admin"]
    );
    assert_eq!((&first["ttl_seconds"], &first["status"]), (&86_400.into(), &200.into()));
    assert_eq!(
        ["action", "sub", "result"].map(|key| lines[1][key].as_str().unwrap()),
        ["reinstate", "alice", "not_found"]
    );
    assert_eq!(
        ["action", "path", "result"].map(|key| lines[2][key].as_str().unwrap()),
        ["list", PATH, "ok"]
    );
    for secret in [TOKEN, "secret-jti"] {
        assert!(!bench.written.text().contains(secret), "{secret}");
    }
}

#[tokio::test]
async fn a_call_that_is_cut_off_leaves_a_line_too() {
    let bench = Arc::new(Bench::new(Kept { hangs: true, ..Kept::default() }));
    let call = tokio::spawn({
        let bench = Arc::clone(&bench);
        async move { bench.call("POST", PATH, r#"{"tenant":"acme"}"#).await }
    });
    tokio::task::yield_now().await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    let lines = bench.lines();
    assert_eq!(
        ["action", "tenant", "result"].map(|key| lines[0][key].as_str().unwrap()),
        ["revoke", "acme", "cancelled"]
    );
}

#[tokio::test]
async fn no_call_goes_unrecorded_where_that_is_asked_for() {
    let config = AuditConfig { queue: 1, on_full: OnFull::Deny, ..AuditConfig::default() };
    let audit = Arc::new(Audit::to_writer(Box::new(Written::default()), &config).unwrap());
    let kept = Kept::default();
    let token = || Some(Secret::new(TOKEN));
    let admin = Admin::new(kept.clone(), token, || DAY, Arc::clone(&audit));
    let _place = audit.reserve().unwrap();
    let request = Request::builder()
        .method("POST")
        .uri(PATH)
        .header("authorization", format!("Bearer {TOKEN}"));
    let request = request
        .header("content-type", "application/json")
        .body(Full::from(r#"{"tenant":"acme"}"#))
        .unwrap();
    assert_eq!(handle(&admin, None, request).await.status(), 503);
    assert!(kept.is_empty());
}
