use std::{
    io,
    net::Ipv4Addr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Mutex,
};

use serde_json::{Value, json};
use tollgate_core::{
    admission::AdmitResponse,
    check::{NoHooks, Prepared, prepare},
    config::{Document, Errors},
    credential::jwt::key_set::KeySet,
    denial::{Denial, Reason},
    limit::Verdict,
    policy::{Policy, PolicyConfig},
    request::{Headers, RawBody},
    secret::Secret,
    snapshot::Snapshot,
};
use tollgate_testkit::{Algorithm, KeyPair, Token};

use super::{audit::AuditConfig, metrics::ObserveConfig, *};

const SECRET: &str = "an-hmac-secret-of-at-least-32-bytes!";
pub(super) const NOW: Timestamp = Timestamp::from_micros(1_795_318_921_000_042);

/// A buffer that receives the audit log.
#[derive(Clone, Debug, Default)]
pub(crate) struct Written(Arc<Mutex<Vec<u8>>>);

impl io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Written {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

pub(super) struct Bench {
    pub(super) observer: Observer,
    written: Written,
    snapshot: Snapshot,
}

impl Bench {
    pub(super) fn new(subjects: u32) -> Self {
        let document = Document::parse(
            "
issuers:
  - { issuer: absent, audiences: any, algorithms: [HS256], secret: unused-here, tenant: acme }
routes:
  - { match: { methods: [POST], paths: [/v1/chat/completions] }, name: chat, scopes: [infer:text], limits: [each] }
  - { match: { methods: [GET], paths: [/lenient] }, scopes: [], on_outage: allow }
  - { match: { methods: [GET], paths: [/strict] }, scopes: [], on_outage: error }
  - { match: { paths: [/health] }, public: true }
models:
  - { name: qwen, serves: [qwen] }
limits:
  - { name: each, by: [subject], rate: 1/1m }
",
            &|_| None,
        )
        .unwrap();
        let mut errors = Errors::default();
        let policy = Policy::compile(&document.read::<PolicyConfig>().unwrap(), &mut errors)
            .unwrap_or_else(|| panic!("{errors:?}"));
        let metrics = Metrics::new(&ObserveConfig { subjects, ..ObserveConfig::default() });
        metrics.add_policy(&policy);
        metrics.reloaded(Timestamp::from_secs(1_795_318_900), true);
        let mut snapshot = Snapshot::without_keys(Arc::new(policy));
        let keys = KeySet::from_secret(
            &Secret::new(SECRET),
            &[tollgate_core::credential::jwt::algorithm::Algorithm::HS256],
        )
        .unwrap();
        snapshot.keys = vec![Some(Arc::new(keys))];
        let written = Written::default();
        let audit = Audit::to_writer(Box::new(written.clone()), &AuditConfig::default()).unwrap();
        Self { observer: Observer::new(Arc::new(metrics), Arc::new(audit)), written, snapshot }
    }

    pub(super) fn token(claims: &Value) -> String {
        let token = Token::new(Algorithm::Hs256).claims(claims.clone());
        format!("Bearer {}", token.sign(&KeyPair::secret(SECRET)).unwrap())
    }

    pub(super) fn alice() -> String {
        let iat = NOW.secs() - 60;
        Self::token(
            &json!({ "sub": "alice", "jti": "t-1", "iat": iat, "exp": iat + 3600, "scope": "infer:text" }),
        )
    }

    /// Decides one check and passes its record to `end`.
    pub(super) fn check(
        &self,
        method: &str,
        path: &str,
        token: &str,
        answers: Result<AdmitResponse, Outage>,
        end: impl FnOnce(CheckRecord<'_>),
    ) {
        let outcome;
        let mut record = self.observer.begin(NOW);
        let mut headers = Headers::default();
        if !token.is_empty() {
            headers.push("authorization", token.as_bytes());
        }
        let raw = RawRequest {
            method: method.as_bytes(),
            scheme: b"https",
            host: b"api.example.com",
            path: path.as_bytes(),
            headers,
            address: Some(Ipv4Addr::new(203, 0, 113, 9).into()),
            peer_certificate: b"",
            body: RawBody::None,
        };
        record.set_request(&raw);
        outcome = match prepare(&self.snapshot, raw, NOW, &mut NoHooks) {
            Prepared::Decided(outcome) => outcome,
            Prepared::Pending(pending) => pending.conclude(answers),
        };
        record.set_outcome(&outcome);
        end(record);
    }

    /// Returns the lines so far. Fields that differ from run to run are checked and set to fixed
    /// values.
    fn lines(&self) -> Vec<Value> {
        assert!(self.observer.audit.close(Duration::from_secs(10)));
        let lines = self.written.text();
        let lines = lines.lines().map(|line| {
            let mut line: Value = serde_json::from_str(line).unwrap();
            let id = line["decision_id"].as_str().unwrap();
            assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
            line["decision_id"] = "ID".into();
            assert!(line["microseconds"].is_u64());
            line["microseconds"] = 0.into();
            line
        });
        lines.collect()
    }

    /// Returns the counted checks: decision, reason, route, count.
    fn counted(&self) -> Vec<(String, u64)> {
        let text = self.observer.exposition(Status::default()).unwrap();
        let lines = text
            .lines()
            .filter_map(|line| line.strip_prefix("tollgate_checks_total")?.rsplit_once(' '));
        let lines = lines.map(|(labels, count)| {
            (labels.replace("decision=", "").replace("reason=", "").replace("route=", ""), count)
        });
        lines
            .map(|(labels, count)| (labels.replace('"', ""), count.parse().unwrap()))
            .filter(|(_, count)| *count > 0)
            .collect()
    }
}

pub(super) const ROOM: Verdict =
    Verdict { admitted: true, remaining: 0, retry_after: 0, reset: 60_000_000 };
pub(super) const NO_ROOM: Verdict =
    Verdict { admitted: false, remaining: 0, retry_after: 30_000_000, reset: 60_000_000 };

pub(super) fn counted(verdicts: &[Verdict]) -> Result<AdmitResponse, Outage> {
    Ok(AdmitResponse::Counted(verdicts.to_vec()))
}

pub(super) fn answered(record: CheckRecord<'_>) {
    record.finish();
}

#[test]
fn the_line_of_an_allowed_check() {
    let bench = Bench::new(0);
    bench.check(
        "POST",
        "/v1/chat/completions?api_key=leak",
        &Bench::alice(),
        counted(&[ROOM]),
        answered,
    );
    let text = {
        let lines = bench.lines();
        serde_json::to_string(&lines[0]).unwrap()
    };
    // Golden: the keys of `serde_json::Value` are sorted; the order in the log is that of the
    // struct.
    let expected = concat!(
        r#"{"client_ip":"203.0.113.9","credential":"jwt","decision":"allow","decision_id":"ID","event":"check","exp":1795322461,"#,
        r#""holder":"unknown","host":"api.example.com","iat":1795318861,"iss":"","#,
        // printf t-1 | sha256sum
        r#""jti_sha256":"JTI","method":"POST","microseconds":0,"path":"/v1/chat/completions","reason":"granted","#,
        r#""route":"chat","sub":"alice","tenant":"acme","time":"2026-11-22T03:42:01.000042Z"}"#,
    )
    .replace("JTI", "46e9bc3476c92ea24fb17adac6cd9cdacff7a34a5c753100787da5a29984f836");
    assert_eq!(text, expected);
    assert!(
        bench.written.text().starts_with(
            r#"{"time":"2026-11-22T03:42:01.000042Z","event":"check","decision_id":""#
        )
    );
    for secret in [&Bench::alice()[7..], "leak", "t-1", SECRET] {
        assert!(!bench.written.text().contains(secret), "{secret}");
    }
}

#[test]
fn each_way_to_end_is_told_apart() {
    let bench = Bench::new(0);
    let alice = Bench::alice();
    let (chat, none) = ("/v1/chat/completions", || counted(&[]));
    bench.check("POST", chat, &alice, counted(&[NO_ROOM]), answered);
    bench.check("POST", chat, &alice, Ok(AdmitResponse::Revoked("jti")), answered);
    bench.check("POST", chat, &alice, Err(Outage::Deadline), answered);
    bench.check("POST", chat, "", none(), answered);
    bench.check("POST", chat, "Bearer a.b", none(), answered);
    bench.check("GET", "/nowhere\n\u{1b}[31m\"", &alice, none(), answered);
    bench.check("GET", "/unknown", &alice, none(), answered);
    bench.check("GET", "/lenient", &alice, Err(Outage::CircuitOpen), answered);
    bench.check("GET", "/strict", &alice, Err(Outage::CircuitOpen), answered);
    bench.check("GET", "/health", "", none(), answered);
    let lines = bench.lines();
    let told: Vec<_> = lines
        .iter()
        .map(|line| {
            ["decision", "reason", "route", "cause"].map(|key| line[key].as_str().unwrap_or("-"))
        })
        .collect();
    assert_eq!(
        told,
        [
            ["deny", "rate_limited", "chat", "limit `each` is used up; it has room in 30s"],
            ["deny", "revoked", "chat", "revoked by jti"],
            ["deny", "store_unavailable", "chat", "the store cannot be asked (deadline)"],
            ["deny", "missing_credential", "chat", "no Authorization header"],
            ["deny", "malformed_token", "chat", told[4][3]],
            ["deny", "malformed_request", "-", told[5][3]],
            ["deny", "no_route", "-", told[6][3]],
            ["allow", "outage_allow", "/lenient", "the store could not be asked (circuit_open)"],
            ["error", "store_unavailable", "/strict", "the store cannot be asked (circuit_open)"],
            ["allow", "public", "/health", "-"],
        ]
    );
    let statuses: Vec<_> = lines.iter().map(|line| line["status"].as_u64().unwrap_or(0)).collect();
    assert_eq!(statuses, [429, 401, 503, 401, 401, 400, 403, 0, 0, 0]);
    // Only an authenticated principal is in the line.
    assert_eq!(lines[0]["sub"], "alice");
    assert_eq!(lines[3].get("sub"), None);
    // One line for each check, whatever a client sends.
    assert_eq!(bench.written.text().lines().count(), 10);
    assert!(
        bench.written.text().contains(r#""path":"/nowhere\n\u001b[31m\"""#),
        "{}",
        bench.written.text()
    );
    let outages = bench.observer.exposition(Status::default()).unwrap();
    assert!(
        outages.contains("tollgate_store_errors_total{outage=\"circuit_open\"} 2\n"),
        "{outages}"
    );
    assert!(outages.contains("tollgate_store_errors_total{outage=\"deadline\"} 1\n"), "{outages}");
}

#[test]
fn what_was_not_answered_is_never_an_allow() {
    let bench = Bench::new(10);
    let chat = "/v1/chat/completions";
    bench.check("POST", chat, &Bench::alice(), counted(&[ROOM]), |record| drop(record));
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        bench.check("POST", chat, &Bench::alice(), counted(&[ROOM]), |_record| {
            panic!("encoding failed")
        });
    }));
    assert!(panicked.is_err());
    drop(bench.observer.begin(NOW));
    let expected = [
        ("{chat,cancelled,cancelled}", 0),
        ("{cancelled,cancelled,chat}", 1),
        ("{panic,internal,chat}", 1),
        ("{cancelled,cancelled,none}", 1),
    ];
    assert_eq!(
        bench.counted(),
        expected[1..]
            .iter()
            .map(|(labels, count)| ((*labels).to_owned(), *count))
            .collect::<Vec<_>>()
    );
    let lines = bench.lines();
    let told: Vec<_> = lines
        .iter()
        .map(|line| {
            [&line["decision"], &line["reason"], &line["cause"]]
                .map(|value| value.as_str().unwrap_or("-"))
        })
        .collect();
    let unanswered = "decided `allow` (granted), and not answered";
    assert_eq!(
        told,
        [
            ["cancelled", "cancelled", unanswered],
            ["panic", "internal", unanswered],
            ["cancelled", "cancelled", "-"]
        ]
    );
    let text = bench.observer.exposition(Status::default()).unwrap();
    assert!(text.contains(r#"{issuer="",subject="alice",decision="allow"} 0"#), "{text}");
    assert!(text.contains(r#"{issuer="",subject="alice",decision="deny"} 2"#), "{text}");
}

#[tokio::test]
async fn a_check_whose_task_is_cancelled_is_recorded_once() {
    let bench = Arc::new(Bench::new(0));
    let (reached, at) = tokio::sync::oneshot::channel();
    let task = tokio::spawn({
        let bench = Arc::clone(&bench);
        async move {
            let _record = bench.observer.begin(NOW);
            reached.send(()).unwrap();
            std::future::pending::<()>().await;
        }
    });
    at.await.unwrap();
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    assert_eq!(bench.counted(), [("{cancelled,cancelled,none}".to_owned(), 1)]);
    assert_eq!(bench.lines().len(), 1);
}

#[test]
fn the_last_outcome_counts() {
    let bench = Bench::new(0);
    bench.check("GET", "/health", "", counted(&[]), |record| {
        let caught = Outcome::refused(Denial::new(Reason::Internal, "a panic was caught"));
        let mut record = record;
        record.set_outcome(&caught);
        record.finish();
    });
    assert_eq!(bench.counted(), [("{deny,internal,none}".to_owned(), 1)]);
}

#[test]
fn without_room_a_check_is_told_to_deny() {
    for (on_full, room) in [(audit::OnFull::Deny, false), (audit::OnFull::Drop, true)] {
        let config = AuditConfig { queue: 1, on_full, ..AuditConfig::default() };
        let audit = Audit::to_writer(Box::new(Written::default()), &config).unwrap();
        let observer =
            Observer::new(Arc::new(Metrics::new(&ObserveConfig::default())), Arc::new(audit));
        let first = observer.begin(NOW);
        assert!(first.has_audit_slot());
        assert_eq!(observer.begin(NOW).has_audit_slot(), room, "{on_full:?}");
        first.finish();
        // The slot is free again once the line is written.
        let deadline = Instant::now() + Duration::from_secs(10);
        while !observer.begin(NOW).has_audit_slot() {
            assert!(Instant::now() < deadline);
            thread::yield_now();
        }
    }
}
