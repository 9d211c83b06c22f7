//! The cost of conditions and categories in a check, in microseconds: `cargo bench -p tollgate-core
//! --bench rules`.
//!
//! The token is verified once and cached, as in the sidecar. The time is the thread's own CPU time,
//! the median of the runs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a benchmark reads a clock"
)]

use std::{hint::black_box, sync::Arc};

use tollgate_core::{
    authenticate::{Verified, verify},
    check::{CheckHooks, Prepared, prepare},
    config::{Document, Errors},
    credential::{Credential, jwt::key_set::KeySet},
    identity::Principal,
    policy::{Policy, PolicyConfig},
    request::{Headers, RawBody, RawRequest},
    secret::Secret,
    snapshot::Snapshot,
    time::Timestamp,
};
use tollgate_testkit::{Algorithm, KeyPair, Token};

const NOW: u64 = 1_782_108_000;
const SECRET: &str = "0123456789abcdef0123456789abcdef";
const POLICY: &str = r#"
issuers:
  - { issuer: https://a.example, audiences: [api], algorithms: [HS256], secret: 0123456789abcdef0123456789abcdef, kid: optional }
categories:
  - { name: general, scopes: [] }
  - { name: code, scopes: ["category:code"], patterns: ['(?i)\bwrite (a|some) (program|code|script)\b', '(?m)^#include <', '(?i)\bdebug\s+my\b'] }
  - { name: data, scopes: ["category:data"], patterns: ['(?i)\bSELECT\b.+\bFROM\b', '(?i)\b(pivot|regression|histogram)\b'] }
  - { name: legal, scopes: ["category:legal"], patterns: ['(?i)\b(contract|liability|indemnif\w+)\b'] }
routes:
  - { match: { methods: [POST], paths: ["/plain/{team}/chat"] }, scopes: ["infer:text"], model: { from: body } }
  - match: { methods: [POST], paths: ["/conditions/{team}/chat"] }
    scopes: ["infer:text"]
    model: { from: body }
    conditions:
      - now.getDayOfWeek("Europe/Berlin") in [1, 2, 3, 4, 5] && now.getHours("Europe/Berlin") >= 8 && now.getHours("Europe/Berlin") < 18
      - principal.claims.team == captures.team
      - principal.claims.kind == "agent" && principal.tenant in ["acme", "umbrella"]
      - principal.subject.matches("^svc-[a-z0-9-]+$")
      - model != "large" || "premium" in principal.roles
  - { match: { methods: [POST], paths: ["/categories/{team}/chat"] }, scopes: ["infer:text"], model: { from: body }, categories: { classify: true, default: general, scan_bytes: 16777216 } }
"#;

fn token() -> String {
    let claims = serde_json::json!({
        "iss": "https://a.example", "aud": "api", "sub": "svc-1", "tenant_id": "acme",
        "team": "red", "kind": "agent", "scope": "infer:text", "roles": ["dev"],
        "iat": NOW - 60, "exp": NOW + 600,
    });
    Token::new(Algorithm::Hs256).claims(claims).sign(&KeyPair::secret(SECRET)).unwrap()
}

fn snapshot() -> Snapshot {
    let config: PolicyConfig = Document::parse(POLICY, &|_| None).unwrap().read().unwrap();
    let mut errors = Errors::default();
    let policy = Policy::compile(&config, &mut errors).expect("the policy compiles");
    let keys = policy.issuers.list().iter().map(|issuer| {
        Some(Arc::new(KeySet::from_secret(&Secret::new(SECRET), &issuer.algorithms).unwrap()))
    });
    let keys = keys.collect();
    Snapshot { keys, ..Snapshot::without_keys(Arc::new(policy)) }
}

/// Returns the CPU time of this thread in nanoseconds.
fn on_core() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split(' ').next().unwrap().parse().unwrap()
}

/// Hooks that verify a token once.
struct Known(Option<Arc<Principal>>);

impl CheckHooks for Known {
    fn verify(
        &mut self,
        snapshot: &Snapshot,
        credential: Credential<'_>,
        now: Timestamp,
    ) -> Verified {
        match self.0.take() {
            Some(principal) => Ok(principal),
            None => verify(snapshot, credential, now),
        }
    }
}

fn main() {
    let (snapshot, now) = (snapshot(), Timestamp::from_secs(NOW));
    let authorization = format!("Bearer {}", token());
    let paragraph = "The quick brown fox jumps over the lazy dog, and the dog does not mind. ";
    let mut who: Option<Arc<Principal>> = None;
    let french = "Le vif renard brun saute par-dessus le chien paresseux, \u{e0} c\u{f4}t\u{e9} de la rivi\u{e8}re. ";
    for (name, path, bytes, paragraph) in [
        ("no rules", "/plain/red/chat", 0, paragraph),
        ("five conditions", "/conditions/red/chat", 0, paragraph),
        ("classified, 4 KiB", "/categories/red/chat", 4 << 10, paragraph),
        ("not classified, 4 KiB", "/plain/red/chat", 4 << 10, paragraph),
        ("classified, 256 KiB", "/categories/red/chat", 256 << 10, paragraph),
        ("the same, not ASCII", "/categories/red/chat", 256 << 10, french),
        ("not classified, 256 KiB", "/plain/red/chat", 256 << 10, paragraph),
    ] {
        let text = paragraph.repeat(bytes / paragraph.len());
        let body =
            format!(r#"{{"model":"small","messages":[{{"role":"user","content":"{text}"}}]}}"#);
        let times = if bytes > 100_000 { 200 } else { 20_000 };
        let mut runs: Vec<f64> = (0..12)
            .map(|_| {
                let start = on_core();
                for _ in 0..times {
                    let mut headers = Headers::default();
                    headers.push("content-type", b"application/json");
                    headers.push("authorization", authorization.as_bytes());
                    let raw = RawRequest {
                        method: b"POST",
                        scheme: b"https",
                        host: b"api.example.com",
                        path: path.as_bytes(),
                        headers,
                        address: None,
                        peer_certificate: b"",
                        body: RawBody::Whole(body.as_bytes()),
                    };
                    match black_box(prepare(&snapshot, raw, now, &mut Known(who.clone()))) {
                        Prepared::Pending(pending) => who = pending.principal().cloned(),
                        Prepared::Decided(outcome) => unreachable!("{:?}", outcome.decision),
                    }
                }
                (on_core() - start) / f64::from(times) / 1000.0
            })
            .skip(1)
            .collect();
        runs.sort_by(f64::total_cmp);
        let at = |index: usize| runs.get(index).copied().unwrap_or_default();
        println!("{name:<26} {:>9.2} us  ({:.2} to {:.2})", at(5), at(0), at(10));
    }
}
