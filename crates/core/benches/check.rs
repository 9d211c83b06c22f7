//! The time and the heap allocations of the decision alone: `cargo bench -p tollgate-core --bench
//! check`. The columns `alloc` and `grow` count the allocations of one iteration.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a benchmark")]

use std::{fmt::Write as _, sync::Arc};

use divan::{AllocProfiler, Bencher, black_box};
use tollgate_core::{
    admission::AdmitResponse,
    authenticate::Verified,
    check::{CheckHooks, NoHooks, Pending, Prepared, prepare},
    config::{Document, Errors},
    credential::{Credential, jwt::key_set::KeySet},
    decision::{Decision, answer},
    identity::Principal,
    limit::Verdict,
    policy::{Policy, PolicyConfig},
    request::{
        Body, Headers, RawBody, RawRequest, Request,
        body::{FormPlan, Plan},
    },
    secret::Secret,
    snapshot::Snapshot,
    time::Timestamp,
};
use tollgate_testkit::{Algorithm, KeyPair, Token};

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

const NOW: u64 = 1_800_000_000;
const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const BODY: &str =
    r#"{"model":"Qwen/Qwen2-72B-Instruct","temperature":0.7,"max_tokens":256,"messages":["#;

/// A snapshot of a policy. `model` is the location of the model; `routes` is the number of unused
/// routes.
fn snapshot(model: &str, routes: usize) -> Snapshot {
    let mut text = format!(
        r#"
issuers:
  - {{ issuer: "https://auth.example.com", audiences: [inference-api], algorithms: [HS256], secret: 0123456789abcdef0123456789abcdef, claims: {{ tenant: tenant_id }} }}
models: [{{ name: qwen, serves: ["Qwen/Qwen2-72B-Instruct"] }}]
limits:
  - {{ name: per-subject, by: [subject], rate: 1000000/1s }}
  - {{ name: per-tenant, by: [tenant], rate: 1000000/1s }}
routes:
  - match: {{ methods: [POST], paths: [/v1/chat/completions] }}
    scopes: ["infer:text"]
    model: {{ from: "{model}", scope: "model:{{model}}:inference" }}
    limits: [per-subject, per-tenant]
"#
    );
    for number in 0..routes {
        writeln!(text, "  - match: {{ methods: [POST], paths: [/tenants/t{number}/v1/chat/completions] }}\n    scopes: [a]")
            .unwrap();
    }
    let document = Document::parse(&text, &|_| None).unwrap();
    let config: PolicyConfig = document.read().unwrap();
    let mut errors = Errors::default();
    let policy = Policy::compile(&config, &mut errors).expect("a policy");
    let keys = policy.issuers.list().iter().map(|issuer| {
        let set = KeySet::from_secret(&Secret::new(SECRET), &issuer.algorithms).unwrap();
        Some(Arc::new(set))
    });
    let keys = keys.collect();
    Snapshot { keys, ..Snapshot::without_keys(Arc::new(policy)) }
}

fn token() -> String {
    let claims = serde_json::json!({
        "iss": "https://auth.example.com", "aud": "inference-api", "sub": "user-00000001", "iat": NOW, "exp": NOW + 3600,
        "jti": "5f3a1c62-9d0e-4b7a-8c11-000000000001", "tenant_id": "tenant-0001", "scope": "infer:text model:qwen:inference",
    });
    let token = Token::new(Algorithm::Hs256).claims(claims).sign(&KeyPair::secret(SECRET));
    format!("Bearer {}", token.unwrap())
}

/// A chat of four kilobytes.
fn chat() -> String {
    let mut body = BODY.to_owned();
    while body.len() < 4000 {
        let comma = if body.ends_with('[') { "" } else { "," };
        write!(body, r#"{comma}{{"role":"user","content":"The quick brown fox jumps over the lazy dog.\nIt does not mind."}}"#)
            .unwrap();
    }
    body + "]}"
}

/// Twenty-five headers, pseudo-headers included, as Envoy passes them on.
fn request<'a>(authorization: &'a str, body: RawBody<'a>) -> RawRequest<'a> {
    let mut headers = Headers::with_capacity(25);
    headers.push(":authority", b"api.example.com");
    headers.push(":path", b"/v1/chat/completions");
    headers.push(":method", b"POST");
    headers.push(":scheme", b"https");
    headers.push("authorization", authorization.as_bytes());
    headers.push("content-type", b"application/json");
    for name in [
        "accept",
        "accept-encoding",
        "origin",
        "referer",
        "user-agent",
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-request-id",
    ] {
        headers.push(name, b"a value of a header that no check has to read");
    }
    for name in [
        "arch",
        "async",
        "lang",
        "os",
        "package-version",
        "retry-count",
        "runtime",
        "runtime-version",
        "timeout",
        "read",
        "poll",
    ] {
        headers.push(name, b"x64");
    }
    RawRequest {
        method: b"POST",
        scheme: b"https",
        host: b"api.example.com",
        path: b"/v1/chat/completions",
        headers,
        address: None,
        peer_certificate: b"",
        body,
    }
}

fn asked(prepared: Prepared) -> Pending {
    match prepared {
        Prepared::Pending(pending) => pending,
        Prepared::Decided(outcome) => panic!("{:?}", outcome.decision),
    }
}

fn principal(snapshot: &Snapshot, token: &str) -> Arc<Principal> {
    let pending = asked(prepare(
        snapshot,
        request(token, RawBody::None),
        Timestamp::from_secs(NOW),
        &mut NoHooks,
    ));
    pending.principal().cloned().expect("a principal")
}

/// Hooks that know the holder of every credential.
struct Known<'a>(&'a Arc<Principal>);

impl CheckHooks for Known<'_> {
    fn verify(&mut self, _: &Snapshot, _: Credential<'_>, _: Timestamp) -> Verified {
        Ok(Arc::clone(self.0))
    }
}

/// A complete decision with a cached token, from the raw request to the encoded answer.
fn hot(bencher: Bencher<'_, '_>, model: &str, routes: usize, body: RawBody<'_>) {
    let (snapshot, token) = (snapshot(model, routes), token());
    let known = principal(&snapshot_of_tokens(), &token);
    bencher.bench(|| {
        let raw = request(black_box(&token), body);
        let now = Timestamp::from_secs(NOW);
        let pending = asked(prepare(&snapshot, raw, now, &mut Known(&known)));
        let verdict = Verdict { admitted: true, remaining: 999_999, retry_after: 0, reset: 1 };
        let outcome = pending.conclude(Ok(AdmitResponse::Counted(vec![verdict; 2])));
        let Decision::Allow(grant) = &outcome.decision else { panic!("{:?}", outcome.decision) };
        black_box(answer::allowed(
            grant,
            &outcome.evidence,
            &snapshot,
            "0123456789abcdef0123456789abcdef",
        ));
    });
}

/// A snapshot whose route accepts the token without a body.
fn snapshot_of_tokens() -> Snapshot {
    snapshot("fixed:Qwen/Qwen2-72B-Instruct", 0)
}

#[divan::bench]
fn hot_without_a_body(bencher: Bencher<'_, '_>) {
    hot(bencher, "fixed:Qwen/Qwen2-72B-Instruct", 0, RawBody::None);
}

#[divan::bench]
fn hot_with_a_model_from_4_kb(bencher: Bencher<'_, '_>) {
    let body = chat();
    hot(bencher, "body", 0, RawBody::Whole(body.as_bytes()));
}

#[divan::bench]
fn hot_among_10_000_routes(bencher: Bencher<'_, '_>) {
    hot(bencher, "fixed:Qwen/Qwen2-72B-Instruct", 10_000, RawBody::None);
}

#[divan::bench]
fn normaliser(bencher: Bencher<'_, '_>) {
    let token = token();
    bencher.bench(|| {
        black_box(Request::parse(request(black_box(&token), RawBody::None).split().0)).is_ok()
    });
}

#[divan::bench(args = [10, 10_000])]
fn route_table(bencher: Bencher<'_, '_>, routes: usize) {
    let (snapshot, token) = (snapshot("fixed:Qwen/Qwen2-72B-Instruct", routes), token());
    let request = Request::parse(request(&token, RawBody::None).split().0).unwrap();
    bencher.bench(|| {
        black_box(snapshot.policy.routes.find(&request.host, &request.path, request.method)).is_ok()
    });
}

#[divan::bench]
fn json_body(bencher: Bencher<'_, '_>) {
    let (token, body) = (token(), chat());
    let (head, body) = request(&token, RawBody::Whole(body.as_bytes())).split();
    let body = Body::new(body, &Request::parse(head).unwrap().headers);
    let mut plan = Plan::default();
    plan.model(&"/model".parse().unwrap()).unwrap();
    bencher.bench(|| black_box(body.json(&plan)).is_ok());
}

#[divan::bench]
fn form_body(bencher: Bencher<'_, '_>) {
    let body = format!(
        "--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper\r\n--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\n{}\r\n--b--\r\n",
        "RIFF".repeat(1000)
    );
    let mut headers = Headers::default();
    headers.push("content-type", b"multipart/form-data; boundary=b");
    let (method, scheme, host, path) =
        (b"POST".as_slice(), b"https".as_slice(), b"h".as_slice(), b"/x".as_slice());
    let raw = RawRequest {
        method,
        scheme,
        host,
        path,
        headers,
        address: None,
        peer_certificate: b"",
        body: RawBody::Whole(body.as_bytes()),
    };
    let (head, body) = raw.split();
    let body = Body::new(body, &Request::parse(head).unwrap().headers);
    let plan = FormPlan { model: Some("model".into()), ..FormPlan::default() };
    bencher.bench(|| black_box(body.form(&plan)).is_ok());
}
