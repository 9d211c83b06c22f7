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

use super::{
    audit::AuditConfig,
    exposition::{
        ApiKeyStatus, CertificateStatus, InFlightStatus, JwksStatus, NetworkBanStatus, TokenStatus,
    },
    metrics::ObserveConfig,
    *,
};
use crate::store::{
    BanStatus, Circuit, EscrowStatus, KeyReplicaStatus, LeaseStatus, LocalStatus, NodeStatus,
    ReplicaStatus, ReservationStatus, StoreStatus,
};

const SECRET: &str = "an-hmac-secret-of-at-least-32-bytes!";
const NOW: Timestamp = Timestamp::from_micros(1_795_318_921_000_042);

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

struct Bench {
    observer: Observer,
    written: Written,
    snapshot: Snapshot,
}

impl Bench {
    fn new(subjects: u32) -> Self {
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

    fn token(claims: &Value) -> String {
        let token = Token::new(Algorithm::Hs256).claims(claims.clone());
        format!("Bearer {}", token.sign(&KeyPair::secret(SECRET)).unwrap())
    }

    fn alice() -> String {
        let iat = NOW.secs() - 60;
        Self::token(
            &json!({ "sub": "alice", "jti": "t-1", "iat": iat, "exp": iat + 3600, "scope": "infer:text" }),
        )
    }

    /// Decides one check and passes its record to `end`.
    fn check(
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

const ROOM: Verdict = Verdict { admitted: true, remaining: 0, retry_after: 0, reset: 60_000_000 };
const NO_ROOM: Verdict =
    Verdict { admitted: false, remaining: 0, retry_after: 30_000_000, reset: 60_000_000 };

fn counted(verdicts: &[Verdict]) -> Result<AdmitResponse, Outage> {
    Ok(AdmitResponse::Counted(verdicts.to_vec()))
}

fn answered(record: CheckRecord<'_>) {
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

#[test]
fn everything_counted_as_text() {
    let bench = Bench::new(5);
    bench.check("POST", "/v1/chat/completions", &Bench::alice(), counted(&[ROOM]), answered);
    bench.check("POST", "/v1/chat/completions", &Bench::alice(), counted(&[NO_ROOM]), answered);
    bench.observer.metrics.reloaded(Timestamp::from_secs(1_795_318_999), false);
    let status = Status {
        jwks: vec![
            JwksStatus {
                issuer: "https://a.example.com".into(),
                keys: 2,
                age: Some(Duration::from_millis(12_500)),
                ok: 3,
                failed: 1,
            },
            JwksStatus { issuer: "quote\"d\\\n".into(), keys: 0, age: None, ok: 0, failed: 7 },
        ],
        store: Some(StoreStatus {
            up: false,
            circuit: Circuit::Open,
            remote: true,
            connections: 3,
            buckets: Some(5),
            revocations: Some(6),
            last_error: None,
            nodes: vec![NodeStatus {
                shard: None,
                node: Some("10.0.0.1:6379".to_owned()),
                up: false,
            }],
            replica: Some(ReplicaStatus {
                age: Some(Duration::from_millis(500)),
                revocations: 11,
                max_staleness: Duration::from_secs(5),
            }),
            bans: Some(BanStatus {
                counts: [14, 15, 16, 17, 18, 19, 20],
                age: Some(Duration::from_secs(2)),
            }),
            leases: Some(LeaseStatus { buckets: 4, units: 12 }),
            reservations: ReservationStatus { open: Some(21), expired: 22 },
        }),
        ready: true,
        local: Some(LocalStatus {
            age: Some(Duration::from_millis(1500)),
            revocations: 7,
            buckets: 8,
            escrow: EscrowStatus { counters: 3, unreported: 2, admitted: 5 },
        }),
        in_flight: Some(InFlightStatus { bytes: 9, limit: 10 }),
        api_keys: Some(ApiKeyStatus {
            replica: KeyReplicaStatus {
                keys: 28,
                cached: 2,
                uncopied: 3,
                broken: 2,
                age: Some(Duration::from_millis(250)),
                max_staleness: Duration::from_secs(4),
                lookups: [
                    ("found", 5),
                    ("missing", 4),
                    ("failed", 3),
                    ("no_budget", 2),
                    ("full", 1),
                ],
            },
            misfits: 1,
        }),
        refusals: 13,
        certificates: vec![CertificateStatus {
            listener: "listen.grpc".into(),
            not_before: 1_790_000_000,
            not_after: 1_800_000_000,
        }],
        network_bans: Some(NetworkBanStatus {
            failures: [("bad_signature", 31), ("unknown_key", 32), ("malformed", 33)],
            checks: [("known", 34), ("verified", 35), ("refused", 36)],
            results: [
                ("begun", 37),
                ("would_begin", 38),
                ("exempt", 39),
                ("dropped", 40),
                ("failed", 41),
            ],
            networks: 42,
            most: 43,
            threshold: 44,
        }),
        tokens: TokenStatus {
            lookups: [("hit", 5), ("negative", 1), ("miss", 2)],
            entries: 1,
            bytes: 700,
        },
    };
    assert!(bench.observer.audit.close(Duration::from_secs(10)));
    let text = bench.observer.exposition(status).unwrap();
    // Everything to the letter, without the times of buckets and the values of this process.
    let shown: Vec<&str> = text
        .lines()
        .filter(|line| !line.contains("_duration_seconds_") && !line.starts_with("process_"))
        .collect();
    let expected = r#"# HELP tollgate_build The version that runs.
# TYPE tollgate_build info
tollgate_build_info{version="0.1.0"} 1
# HELP tollgate_ready Whether requests may be sent here, as /readyz says.
# TYPE tollgate_ready gauge
tollgate_ready 1
# HELP tollgate_checks Checks by decision, reason and route.
# TYPE tollgate_checks counter
tollgate_checks_total{decision="allow",reason="granted",route="chat"} 1
tollgate_checks_total{decision="deny",reason="rate_limited",route="chat"} 1
# HELP tollgate_credential_checks Checks by kind of credential, decision and reason.
# TYPE tollgate_credential_checks counter
tollgate_credential_checks_total{credential="jwt",decision="allow",reason="granted"} 1
tollgate_credential_checks_total{credential="jwt",decision="deny",reason="rate_limited"} 1
# HELP tollgate_check_duration_seconds Time from the start of a check to the end of its answer.
# TYPE tollgate_check_duration_seconds histogram
# UNIT tollgate_check_duration_seconds seconds
# HELP tollgate_model_checks Checks that asked for a model, by decision; models that the file does not name are other.
# TYPE tollgate_model_checks counter
tollgate_model_checks_total{model="other",decision="allow"} 0
tollgate_model_checks_total{model="other",decision="deny"} 0
tollgate_model_checks_total{model="qwen",decision="allow"} 0
tollgate_model_checks_total{model="qwen",decision="deny"} 0
# HELP tollgate_limit_denied Checks that a limit had no room for.
# TYPE tollgate_limit_denied counter
tollgate_limit_denied_total{limit="each"} 1
# HELP tollgate_remembered_denials Checks that were denied by a limit whose refusal of an earlier check was remembered, without a call to the store.
# TYPE tollgate_remembered_denials counter
tollgate_remembered_denials_total 0
# HELP tollgate_would_deny Allowed checks that a rule or a limit in shadow would have denied.
# TYPE tollgate_would_deny counter
# HELP tollgate_remembered_refusals Buckets of limits that are remembered to be used up.
# TYPE tollgate_remembered_refusals gauge
tollgate_remembered_refusals 13
# HELP tollgate_forbidden_members Checks that were denied for a member of the request, with reason field_forbidden.
# TYPE tollgate_forbidden_members counter
tollgate_forbidden_members_total{member="other"} 0
# HELP tollgate_panics Checks that a panic ended.
# TYPE tollgate_panics counter
tollgate_panics_total 0
# HELP tollgate_issuer_checks Checks whose credential names an issuer of the policy, by decision.
# TYPE tollgate_issuer_checks counter
tollgate_issuer_checks_total{issuer="",decision="allow"} 1
tollgate_issuer_checks_total{issuer="",decision="deny"} 1
# HELP tollgate_subject_checks Checks of the busiest subjects since each became one of them, and of the rest as other.
# TYPE tollgate_subject_checks counter
tollgate_subject_checks_total{issuer="",subject="alice",decision="allow"} 1
tollgate_subject_checks_total{issuer="",subject="alice",decision="deny"} 1
tollgate_subject_checks_total{issuer="",subject="other",decision="allow"} 0
tollgate_subject_checks_total{issuer="",subject="other",decision="deny"} 0
# HELP tollgate_routes Routes that use the store, by their behaviour in its outage.
# TYPE tollgate_routes gauge
tollgate_routes{on_outage="deny"} 1
tollgate_routes{on_outage="error"} 1
tollgate_routes{on_outage="allow"} 1
tollgate_routes{on_outage="local"} 0
# HELP tollgate_outage_allowed Requests that were allowed although the store did not answer, by on_outage.
# TYPE tollgate_outage_allowed counter
tollgate_outage_allowed_total{on_outage="allow"} 0
tollgate_outage_allowed_total{on_outage="local"} 0
# HELP tollgate_in_flight_bytes What the messages of checks in flight hold.
# TYPE tollgate_in_flight_bytes gauge
# UNIT tollgate_in_flight_bytes bytes
tollgate_in_flight_bytes 9
# HELP tollgate_in_flight_limit_bytes What they may hold together, body.max_in_flight; beyond it checks are refused as overloaded.
# TYPE tollgate_in_flight_limit_bytes gauge
# UNIT tollgate_in_flight_limit_bytes bytes
tollgate_in_flight_limit_bytes 10
# HELP tollgate_store_errors Checks for which the store could not be asked, by outage.
# TYPE tollgate_store_errors counter
tollgate_store_errors_total{outage="deadline"} 0
tollgate_store_errors_total{outage="unreachable"} 0
tollgate_store_errors_total{outage="refused"} 0
tollgate_store_errors_total{outage="circuit_open"} 0
tollgate_store_errors_total{outage="full"} 0
tollgate_store_errors_total{outage="stale"} 0
tollgate_store_errors_total{outage="escrow"} 0
tollgate_store_errors_total{outage="starved"} 0
# HELP tollgate_store_up Whether the last question to the store was answered.
# TYPE tollgate_store_up gauge
tollgate_store_up 0
# HELP tollgate_store_circuit The state of the store's circuit breaker: 1 for the one it is in.
# TYPE tollgate_store_circuit gauge
tollgate_store_circuit{state="closed"} 0
tollgate_store_circuit{state="half_open"} 0
tollgate_store_circuit{state="open"} 1
# HELP tollgate_store_duration_seconds Time from a check's question to the store until its answer, or until it was given up.
# TYPE tollgate_store_duration_seconds histogram
# UNIT tollgate_store_duration_seconds seconds
# HELP tollgate_store_connections Connections made to the store.
# TYPE tollgate_store_connections counter
tollgate_store_connections_total 3
# HELP tollgate_store_node_up 1 if the server of a connection to the store answers; the node is the one that was connected to last.
# TYPE tollgate_store_node_up gauge
tollgate_store_node_up{shard="",node="10.0.0.1:6379"} 0
# HELP tollgate_store_buckets Buckets of limits that the store in memory holds; store.memory.max_buckets is the most.
# TYPE tollgate_store_buckets gauge
tollgate_store_buckets 5
# HELP tollgate_store_revocations Revocations that the store in memory holds.
# TYPE tollgate_store_revocations gauge
tollgate_store_revocations 6
# HELP tollgate_store_replica_age_seconds Age of the copy of the store's revocations; absent before it was first read.
# TYPE tollgate_store_replica_age_seconds gauge
# UNIT tollgate_store_replica_age_seconds seconds
tollgate_store_replica_age_seconds 0.5
# HELP tollgate_store_replica_max_age_seconds The age beyond which each check queries the store.
# TYPE tollgate_store_replica_max_age_seconds gauge
# UNIT tollgate_store_replica_max_age_seconds seconds
tollgate_store_replica_max_age_seconds 5.0
# HELP tollgate_store_replica_revocations Revocations in the copy.
# TYPE tollgate_store_replica_revocations gauge
tollgate_store_replica_revocations 11
# HELP tollgate_bans Bans that this process knows, by kind.
# TYPE tollgate_bans gauge
tollgate_bans{kind="network"} 14
tollgate_bans{kind="subject"} 15
tollgate_bans{kind="client"} 16
tollgate_bans{kind="tenant"} 17
tollgate_bans{kind="key"} 18
tollgate_bans{kind="actor"} 19
tollgate_bans{kind="automatic_network"} 20
# HELP tollgate_bans_age_seconds Age of the copy of the store's bans; absent before it was first read.
# TYPE tollgate_bans_age_seconds gauge
# UNIT tollgate_bans_age_seconds seconds
tollgate_bans_age_seconds 2.0
# HELP tollgate_store_leased_units Units of leased limits that are held here, unspent.
# TYPE tollgate_store_leased_units gauge
tollgate_store_leased_units 12
# HELP tollgate_reservations_open Reservations of all replicas that are not settled yet.
# TYPE tollgate_reservations_open gauge
tollgate_reservations_open 21
# HELP tollgate_reservations_expired Reservations that this process charged because no report came in time.
# TYPE tollgate_reservations_expired counter
tollgate_reservations_expired_total 22
# HELP tollgate_failed_credentials Failed credentials that count against the network of their client, by failure.
# TYPE tollgate_failed_credentials counter
tollgate_failed_credentials_total{failure="bad_signature"} 31
tollgate_failed_credentials_total{failure="unknown_key"} 32
tollgate_failed_credentials_total{failure="malformed"} 33
# HELP tollgate_failing_networks Networks with failed credentials in the present time of automatic_bans.failures.
# TYPE tollgate_failing_networks gauge
tollgate_failing_networks 42
# HELP tollgate_failing_network_failures The most failed credentials of one network in that time.
# TYPE tollgate_failing_network_failures gauge
tollgate_failing_network_failures 43
# HELP tollgate_failing_network_limit The failed credentials that ban a network: automatic_bans.failures.
# TYPE tollgate_failing_network_limit gauge
tollgate_failing_network_limit 44
# HELP tollgate_automatic_bans Networks that reached that number, by what became of them.
# TYPE tollgate_automatic_bans counter
tollgate_automatic_bans_total{result="begun"} 37
tollgate_automatic_bans_total{result="would_begin"} 38
tollgate_automatic_bans_total{result="exempt"} 39
tollgate_automatic_bans_total{result="dropped"} 40
tollgate_automatic_bans_total{result="failed"} 41
# HELP tollgate_banned_network_credentials Credentials from networks that are banned automatically, by what became of them.
# TYPE tollgate_banned_network_credentials counter
tollgate_banned_network_credentials_total{result="known"} 34
tollgate_banned_network_credentials_total{result="verified"} 35
tollgate_banned_network_credentials_total{result="refused"} 36
# HELP tollgate_local_revocations_age_seconds Age of the revocations that an outage would be answered with; absent before they were first read.
# TYPE tollgate_local_revocations_age_seconds gauge
# UNIT tollgate_local_revocations_age_seconds seconds
tollgate_local_revocations_age_seconds 1.5
# HELP tollgate_local_revocations Revocations that an outage would be answered with.
# TYPE tollgate_local_revocations gauge
tollgate_local_revocations 7
# HELP tollgate_local_buckets Buckets of limits that were filled here in an outage.
# TYPE tollgate_local_buckets gauge
tollgate_local_buckets 8
# HELP tollgate_escrow_counters Counters of tokens and slots of which this replica holds units for an outage.
# TYPE tollgate_escrow_counters gauge
tollgate_escrow_counters 3
# HELP tollgate_escrow_unreported_requests Requests that were admitted in an outage and are not reported to Redis yet.
# TYPE tollgate_escrow_unreported_requests gauge
tollgate_escrow_unreported_requests 2
# HELP tollgate_escrow_admitted Requests that were admitted from what this replica holds for an outage.
# TYPE tollgate_escrow_admitted counter
tollgate_escrow_admitted_total 5
# HELP tollgate_api_keys_age_seconds Age of the copy of the API keys in Redis; absent before it was first read.
# TYPE tollgate_api_keys_age_seconds gauge
# UNIT tollgate_api_keys_age_seconds seconds
tollgate_api_keys_age_seconds 0.25
# HELP tollgate_api_keys_max_age_seconds The age beyond which on_outage decides requests with a key of the copy.
# TYPE tollgate_api_keys_max_age_seconds gauge
# UNIT tollgate_api_keys_max_age_seconds seconds
tollgate_api_keys_max_age_seconds 4.0
# HELP tollgate_api_key_records Records of API keys in Redis, by whether they can be used.
# TYPE tollgate_api_key_records gauge
tollgate_api_key_records{state="usable"} 29
tollgate_api_key_records{state="unknown_name"} 1
tollgate_api_key_records{state="broken"} 2
tollgate_api_key_records{state="uncopied"} 3
# HELP tollgate_api_key_cached_records Records of API keys beyond api_keys.replicate.max that were looked up, and are kept.
# TYPE tollgate_api_key_cached_records gauge
tollgate_api_key_cached_records 2
# HELP tollgate_api_key_lookups Lookups of records of API keys that are not copied, by result.
# TYPE tollgate_api_key_lookups counter
tollgate_api_key_lookups_total{result="found"} 5
tollgate_api_key_lookups_total{result="missing"} 4
tollgate_api_key_lookups_total{result="failed"} 3
tollgate_api_key_lookups_total{result="no_budget"} 2
tollgate_api_key_lookups_total{result="full"} 1
# HELP tollgate_jwks_keys Keys of an issuer that may be used.
# TYPE tollgate_jwks_keys gauge
tollgate_jwks_keys{issuer="https://a.example.com"} 2
tollgate_jwks_keys{issuer="quote\"d\\\n"} 0
# HELP tollgate_jwks_age_seconds Time since an issuer's keys were last fetched; absent before they were.
# TYPE tollgate_jwks_age_seconds gauge
# UNIT tollgate_jwks_age_seconds seconds
tollgate_jwks_age_seconds{issuer="https://a.example.com"} 12.5
# HELP tollgate_jwks_fetches Fetches of an issuer's keys, by result.
# TYPE tollgate_jwks_fetches counter
tollgate_jwks_fetches_total{issuer="https://a.example.com",result="ok"} 3
tollgate_jwks_fetches_total{issuer="https://a.example.com",result="failed"} 1
tollgate_jwks_fetches_total{issuer="quote\"d\\\n",result="ok"} 0
tollgate_jwks_fetches_total{issuer="quote\"d\\\n",result="failed"} 7
# HELP tollgate_token_cache_lookups Tokens looked up, by result: known and good, known and bad, or verified.
# TYPE tollgate_token_cache_lookups counter
tollgate_token_cache_lookups_total{result="hit"} 5
tollgate_token_cache_lookups_total{result="negative"} 1
tollgate_token_cache_lookups_total{result="miss"} 2
# HELP tollgate_token_cache_entries Good tokens that are remembered.
# TYPE tollgate_token_cache_entries gauge
tollgate_token_cache_entries 1
# HELP tollgate_token_cache_bytes Bytes that remembered tokens take, refused ones included.
# TYPE tollgate_token_cache_bytes gauge
# UNIT tollgate_token_cache_bytes bytes
tollgate_token_cache_bytes 700
# HELP tollgate_config_reload_failed Whether the last reload of the configuration failed and the one before it still serves.
# TYPE tollgate_config_reload_failed gauge
tollgate_config_reload_failed 1
# HELP tollgate_config_last_reload_timestamp_seconds When the configuration was last loaded, well or not, since 1970.
# TYPE tollgate_config_last_reload_timestamp_seconds gauge
# UNIT tollgate_config_last_reload_timestamp_seconds seconds
tollgate_config_last_reload_timestamp_seconds 1795318999
# HELP tollgate_config_last_success_timestamp_seconds When the configuration that serves was loaded, since 1970.
# TYPE tollgate_config_last_success_timestamp_seconds gauge
# UNIT tollgate_config_last_success_timestamp_seconds seconds
tollgate_config_last_success_timestamp_seconds 1795318900
# HELP tollgate_certificate_not_before_timestamp_seconds When the first certificate of a listener's chain to end is valid from, since 1970.
# TYPE tollgate_certificate_not_before_timestamp_seconds gauge
# UNIT tollgate_certificate_not_before_timestamp_seconds seconds
tollgate_certificate_not_before_timestamp_seconds{listener="listen.grpc"} 1790000000
# HELP tollgate_certificate_not_after_timestamp_seconds When the first certificate of a listener's chain to end expires, since 1970.
# TYPE tollgate_certificate_not_after_timestamp_seconds gauge
# UNIT tollgate_certificate_not_after_timestamp_seconds seconds
tollgate_certificate_not_after_timestamp_seconds{listener="listen.grpc"} 1800000000
# HELP tollgate_audit_dropped Audit lines that were not written, by cause.
# TYPE tollgate_audit_dropped counter
tollgate_audit_dropped_total{cause="full"} 0
tollgate_audit_dropped_total{cause="write"} 0
# HELP tollgate_audit_queue Audit lines that wait to be written, and places taken for lines to come.
# TYPE tollgate_audit_queue gauge
tollgate_audit_queue 0
# HELP tollgate_audit_queue_limit Audit lines that may wait, audit.queue.
# TYPE tollgate_audit_queue_limit gauge
tollgate_audit_queue_limit 8192
# HELP process_cpu_seconds Processor time, user and system.
# TYPE process_cpu_seconds counter
# UNIT process_cpu_seconds seconds
# HELP process_resident_memory_bytes Resident memory.
# TYPE process_resident_memory_bytes gauge
# UNIT process_resident_memory_bytes bytes
# HELP process_virtual_memory_bytes Virtual memory.
# TYPE process_virtual_memory_bytes gauge
# UNIT process_virtual_memory_bytes bytes
# HELP process_open_fds Open file descriptors.
# TYPE process_open_fds gauge
# HELP process_max_fds Most file descriptors.
# TYPE process_max_fds gauge
# HELP process_start_time_seconds The start of the process, since 1970.
# TYPE process_start_time_seconds gauge
# UNIT process_start_time_seconds seconds
# EOF"#;
    assert_eq!(shown.join("\n"), expected);
    let buckets: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("duration_seconds_") && line.contains("\"chat\""))
        .collect();
    let bounds = [
        "0.00005", "0.0001", "0.00025", "0.0005", "0.001", "0.0025", "0.005", "0.01", "0.025",
        "0.05", "0.1", "0.25", "0.5", "1.0", "+Inf",
    ];
    let expected: Vec<String> =
        ["sum{route=\"chat\"}".to_owned(), "count{route=\"chat\"}".to_owned()]
            .into_iter()
            .chain(bounds.iter().map(|bound| format!("bucket{{le=\"{bound}\",route=\"chat\"}}")))
            .map(|line| format!("tollgate_check_duration_seconds_{line}"))
            .collect();
    let names = buckets.iter().map(|line| line.rsplit_once(' ').unwrap().0);
    assert_eq!(names.collect::<Vec<_>>(), expected);
    assert!(text.contains("tollgate_check_duration_seconds_count{route=\"chat\"} 2\n"), "{text}");
}

#[test]
fn a_route_has_no_series_before_its_first_check_and_then_a_bounded_number() {
    let bench = Bench::new(0);
    let text = bench.observer.exposition(Status::default()).unwrap();
    assert!(!text.contains("route=\""), "{text}");
    // What an alert watches from its first occurrence on exists from the start.
    for series in [
        "tollgate_panics_total 0\n",
        "tollgate_outage_allowed_total{on_outage=\"allow\"} 0\n",
        "tollgate_outage_allowed_total{on_outage=\"local\"} 0\n",
        "tollgate_audit_dropped_total{cause=\"full\"} 0\n",
        "tollgate_issuer_checks_total{issuer=\"\",decision=\"deny\"} 0\n",
    ] {
        assert!(text.contains(series), "{series}");
    }
    let before = text.lines().count();
    for number in 0..500 {
        let token = Bench::token(
            &json!({ "sub": format!("s-{number}"), "exp": NOW.secs() + 60, "scope": "infer:text" }),
        );
        bench.check("POST", &format!("/made/up/{number}"), &token, counted(&[]), answered);
        bench.check("POST", "/v1/chat/completions", &token, counted(&[ROOM]), answered);
    }
    // Two routes, `chat` and `none`: one result each, and a histogram of 15 buckets, sum, count; and
    // two results by kind of credential.
    let after = bench.observer.exposition(Status::default()).unwrap().lines().count();
    assert_eq!(after, before + 2 * (1 + 17) + 2);
}

#[test]
fn requests_that_pass_in_an_outage_are_counted_by_the_behaviour_of_their_route() {
    let bench = Bench::new(0);
    bench.check("GET", "/lenient", &Bench::alice(), Err(Outage::Unreachable), answered);
    bench.check("GET", "/strict", &Bench::alice(), Err(Outage::Unreachable), answered);
    let text = bench.observer.exposition(Status::default()).unwrap();
    for series in [
        "tollgate_outage_allowed_total{on_outage=\"allow\"} 1\n",
        "tollgate_outage_allowed_total{on_outage=\"local\"} 0\n",
        "tollgate_issuer_checks_total{issuer=\"\",decision=\"allow\"} 1\n",
        "tollgate_issuer_checks_total{issuer=\"\",decision=\"deny\"} 1\n",
    ] {
        assert!(text.contains(series), "{series}{text}");
    }
}
