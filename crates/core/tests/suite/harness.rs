//! The harness for credential checks: a policy with keys, single checks through the public API, and
//! tables of rows.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tollgate_core::{
    check::{CheckHooks, NoHooks, Prepared, prepare},
    config::{Document, Errors},
    credential::jwt::{algorithm::Algorithm, issuer::KeySource, key_set::KeySet},
    decision::{
        Decision, Missing,
        answer::{DeniedAnswer, denied},
    },
    denial::Reason,
    identity::Principal,
    limit::reservation::ReservationId,
    policy::{Policy, PolicyConfig},
    request::{Headers, RawBody, RawRequest},
    secret::{Secret, SecretSource},
    snapshot::Snapshot,
    time::Timestamp,
};

use crate::{
    keys::{KEYS, jwk_members},
    token::NOW,
};

/// The secret of `https://secret.example`.
pub const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

const POLICY: &str = "
issuers:
  - { issuer: https://rsa.example, audiences: [inference-api], algorithms: [RS256], jwks: { file: /jwks } }
  - issuer: https://many.example
    audiences: [inference-api]
    algorithms: [RS256, RS384, RS512, PS256, ES256, ES384, EdDSA]
    jwks: { file: /jwks }
  - { issuer: https://other.example, audiences: [inference-api], algorithms: [RS256], jwks: { file: /jwks } }
  - { issuer: https://secret.example, audiences: [inference-api], algorithms: [HS256], secret: 0123456789abcdef0123456789abcdef }
  - { issuer: https://lone.example, audiences: [inference-api], algorithms: [EdDSA], kid: optional, jwks: { file: /jwks } }
routes:
  - { match: { paths: [/v1/models], methods: [GET] }, scopes: [] }
  - { match: { paths: [/v1/chat], methods: [GET, POST] }, scopes: ['infer:text'] }
";

/// A policy with its keys and the time of its checks.
pub struct Harness {
    snapshot: Snapshot,
    now: u64,
}

/// The result of one check.
pub enum Answer {
    /// The credential is accepted; the next step is the store.
    Accepted(Arc<Principal>),
    /// The credential is refused.
    Refused {
        /// The reason of the denial.
        reason: Reason,
        /// The response to the client.
        answer: DeniedAnswer,
        /// The issuer whose keys should be fetched again.
        refresh: Option<usize>,
    },
}

impl Harness {
    /// The harness of most rows.
    pub fn standard() -> Self {
        let keys = &*KEYS;
        Self::new(
            POLICY,
            &[
                (
                    "https://rsa.example",
                    &[
                        format!(r#"{{"kid":"rsa","alg":"RS256",{}}}"#, jwk_members(&keys.rsa)),
                        format!(r#"{{"kid":"noalg",{}}}"#, jwk_members(&keys.rsa)),
                        format!(r#"{{"kid":"pss","alg":"PS256",{}}}"#, jwk_members(&keys.rsa)),
                        format!(r#"{{"kid":"p256",{}}}"#, jwk_members(&keys.p256)),
                        format!(r#"{{"kid":"ed",{}}}"#, jwk_members(&keys.ed)),
                    ],
                ),
                (
                    "https://many.example",
                    &[
                        format!(r#"{{"kid":"rsa","alg":"RS256",{}}}"#, jwk_members(&keys.rsa)),
                        format!(r#"{{"kid":"noalg",{}}}"#, jwk_members(&keys.rsa)),
                        format!(
                            r#"{{"kid":"pss","alg":"PS256",{}}}"#,
                            jwk_members(&keys.rsa_other)
                        ),
                        format!(r#"{{"kid":"p256",{}}}"#, jwk_members(&keys.p256)),
                        format!(r#"{{"kid":"p384",{}}}"#, jwk_members(&keys.p384)),
                        format!(r#"{{"kid":"ed","use":"sig",{}}}"#, jwk_members(&keys.ed)),
                    ],
                ),
                (
                    "https://other.example",
                    &[format!(r#"{{"kid":"rsa","alg":"RS256",{}}}"#, jwk_members(&keys.rsa_other))],
                ),
                ("https://lone.example", &[format!("{{{}}}", jwk_members(&keys.ed))]),
            ],
        )
    }

    /// A harness of its own: a policy in YAML, and for each issuer with a key set its JWKs.
    pub fn new(policy: &str, key_sets: &[(&str, &[String])]) -> Self {
        let policy = Arc::new(compile(policy).unwrap());
        let key_sets: HashMap<&str, &[String]> = key_sets.iter().copied().collect();
        let keys = policy.issuers.list().iter().map(|issuer| {
            let set = match &issuer.source {
                KeySource::Secret(SecretSource::Inline(secret)) => {
                    KeySet::from_secret(secret, &issuer.algorithms).unwrap()
                }
                KeySource::Secret(SecretSource::File(path)) => {
                    panic!("no file is read here: {path}")
                }
                KeySource::Unsigned => KeySet::from_secret(&Secret::new(""), &[]).unwrap(),
                KeySource::Jwks(_) => {
                    let document = format!("{{\"keys\":[{}]}}", key_sets[&*issuer.name].join(","));
                    KeySet::parse(document.as_bytes(), &issuer.algorithms).unwrap().0
                }
            };
            Some(Arc::new(set))
        });
        let keys = keys.collect();
        Self {
            snapshot: Snapshot { keys, api_keys: Vec::new(), ..Snapshot::without_keys(policy) },
            now: NOW,
        }
    }

    /// The same harness with these upstream keys, in the order of the policy.
    pub fn with_upstream_keys(&self, upstream_keys: Vec<Option<Secret>>) -> Self {
        let snapshot = Snapshot { upstream_keys, ..self.snapshot.clone() };
        Self { snapshot, now: self.now }
    }

    /// The same harness, so many seconds later.
    pub fn later(&self, seconds: u64) -> Self {
        Self { snapshot: self.snapshot.clone(), now: self.now + seconds }
    }

    /// Checks `GET path` with these headers.
    pub fn ask(&self, path: &str, headers: &[(&str, &[u8])]) -> Answer {
        self.ask_with_body("GET", path, headers, RawBody::None)
    }

    /// Checks one request.
    pub fn ask_with_body(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &[u8])],
        body: RawBody<'_>,
    ) -> Answer {
        let mut list = Headers::default();
        for (name, value) in headers {
            list.push(name, value);
        }
        let request = RawRequest {
            method: method.as_bytes(),
            scheme: b"https",
            host: b"api.example",
            path: path.as_bytes(),
            headers: list,
            address: None,
            peer_certificate: b"",
            body,
        };
        let outcome =
            match prepare(&self.snapshot, request, Timestamp::from_secs(self.now), &mut NoHooks) {
                Prepared::Pending(pending) => {
                    return Answer::Accepted(pending.principal().cloned().unwrap());
                }
                Prepared::Decided(outcome) => outcome,
            };
        let Decision::Deny(denial) = outcome.decision else {
            panic!("nothing but a denial is decided without the store")
        };
        // J24: without proof there is no principal in the evidence, limits or headers.
        if denial.reason.http() == 401 {
            assert!(outcome.evidence.principal.is_none(), "an unproven principal in the evidence");
        }
        Answer::Refused {
            reason: denial.reason,
            answer: denied(&denial, &outcome.evidence, "decision-1"),
            refresh: match outcome.evidence.missing {
                Some(Missing::Key { source }) => Some(source),
                Some(Missing::Record(_) | Missing::Statement(_)) | None => None,
            },
        }
    }

    /// Checks a bearer token.
    pub fn bearer(&self, path: &str, token: &str) -> Answer {
        self.ask(path, &[("authorization", format!("Bearer {token}").as_bytes())])
    }

    /// Returns the principal of a token that is accepted.
    pub fn principal(&self, token: &str) -> Arc<Principal> {
        match self.bearer("/v1/models", token) {
            Answer::Accepted(principal) => principal,
            Answer::Refused { reason, .. } => panic!("refused: {reason:?}"),
        }
    }
}

/// Hooks of a check whose reservation has a known id.
pub struct FixedReservation;

impl CheckHooks for FixedReservation {
    fn reservation_id(&mut self) -> Option<ReservationId> {
        Some(ReservationId([7; 16]))
    }
}

/// Compiles a policy. The errors are text, one a line.
pub fn compile(policy: &str) -> Result<Policy, String> {
    let lines =
        |errors: Vec<_>| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    let document = Document::parse(policy, &|_| None).map_err(lines)?;
    let config: PolicyConfig = document.read().map_err(lines)?;
    let mut errors = Errors::default();
    Policy::compile(&config, &mut errors).ok_or_else(|| lines(document.locate(errors)))
}

impl Answer {
    /// The reason of the denial, if the check is denied.
    pub fn verdict(&self) -> Result<(), Reason> {
        match self {
            Self::Accepted(_) => Ok(()),
            Self::Refused { reason, .. } => Err(*reason),
        }
    }

    /// Returns a header of the response.
    pub fn header(&self, name: &str) -> Option<&str> {
        match self {
            Self::Accepted(_) => None,
            Self::Refused { answer, .. } => {
                answer.headers.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
            }
        }
    }
}

/// One row: a line of the checklist, a sentence, a credential, and the expected result.
pub struct Row {
    /// The line of the checklist.
    pub line: &'static str,
    says: String,
    path: String,
    authorization: Vec<u8>,
    expected: Result<(), Reason>,
    within: Option<Duration>,
}

/// Creates a row with a bearer token.
pub fn row(
    line: &'static str,
    says: impl Into<String>,
    token: impl AsRef<str>,
    expected: Result<(), Reason>,
) -> Row {
    raw(line, says, format!("Bearer {}", token.as_ref()), expected)
}

/// Creates a row with a complete `Authorization` value.
pub fn raw(
    line: &'static str,
    says: impl Into<String>,
    authorization: impl Into<Vec<u8>>,
    expected: Result<(), Reason>,
) -> Row {
    Row {
        line,
        says: says.into(),
        path: "/v1/models".into(),
        authorization: authorization.into(),
        expected,
        within: None,
    }
}

impl Row {
    /// Sets a path other than `/v1/models`.
    pub fn on(mut self, path: impl Into<String>) -> Self {
        self.path = path.into();
        self
    }

    /// Sets the maximum duration, which also holds without optimisation.
    pub fn within(mut self, time: Duration) -> Self {
        self.within = Some(time);
        self
    }
}

/// Rows and the harness they are asked of.
pub struct Table {
    /// The policy with its keys.
    pub harness: Harness,
    /// The rows of the table.
    pub rows: Vec<Row>,
}

impl Table {
    /// Rows for the standard harness.
    pub fn standard(rows: Vec<Row>) -> Self {
        Self { harness: Harness::standard(), rows }
    }

    /// Checks every row and reports all that differ.
    pub fn hold(&self) {
        let wrong: Vec<String> = self.rows.iter().filter_map(|row| self.wrong(row)).collect();
        assert!(
            wrong.is_empty(),
            "{} of {} rows:\n{}",
            wrong.len(),
            self.rows.len(),
            wrong.join("\n")
        );
    }

    fn wrong(&self, row: &Row) -> Option<String> {
        let ask = || self.harness.ask(&row.path, &[("authorization", &row.authorization)]);
        let answer = ask();
        let complaint = if answer.verdict() != row.expected {
            format!("expected {:?}, came to {:?}", row.expected, answer.verdict())
        } else if row.within.is_some_and(|most| !is_within(most, ask)) {
            format!("took longer than {:?}", row.within)
        } else {
            complaint(&answer, &row.authorization)?
        };
        Some(format!("{}: {}: {complaint}", row.line, row.says))
    }
}

/// Whether a check takes no longer than `limit`. One of ten runs is enough, because a busy machine
/// delays some of them.
pub fn is_within<T>(most: Duration, mut check: impl FnMut() -> T) -> bool {
    (0..10).any(|_| {
        #[expect(clippy::disallowed_methods, reason = "a bound in time is what is tested")]
        let start = Instant::now();
        check();
        start.elapsed() <= most
    })
}

/// Asserts what holds for the response to every refused credential.
fn complaint(answer: &Answer, authorization: &[u8]) -> Option<String> {
    let Answer::Refused { reason, answer: response, .. } = answer else { return None };
    let challenge = answer.header("www-authenticate").unwrap_or_default();
    let error = match reason {
        Reason::MissingCredential => None,
        Reason::AmbiguousCredential => Some("error=\"invalid_request\""),
        Reason::InsufficientScope => Some("error=\"insufficient_scope\""),
        _ => Some("error=\"invalid_token\""),
    };
    let status = if *reason == Reason::InsufficientScope { 403 } else { 401 };
    let secret =
        authorization.strip_prefix(b"Bearer ").and_then(|token| std::str::from_utf8(token).ok());
    let secret = secret.filter(|token| token.len() > 20);
    if response.status != status {
        return Some(format!("status {}", response.status));
    }
    if !challenge.starts_with("Bearer realm=\"tollgate\"")
        || challenge.contains("error=") != error.is_some()
    {
        return Some(format!("challenge {challenge}"));
    }
    if error.is_some_and(|error| !challenge.contains(error)) {
        return Some(format!("challenge {challenge}"));
    }
    // RFC 6750 section 3: error_description consists of %x20-21 / %x23-5B / %x5D-7E, in a quoted
    // string.
    if challenge
        .split('"')
        .skip(1)
        .step_by(2)
        .any(|text| !text.bytes().all(|b| matches!(b, 0x20..=0x7e) && b != b'\\'))
    {
        return Some(format!("challenge {challenge}"));
    }
    let told = response.headers.iter().map(|(_, value)| value).chain([response.body.as_str()]);
    if secret.is_some_and(|secret| told.into_iter().any(|text| text.contains(secret))) {
        return Some("the credential is in the response".into());
    }
    None
}

/// Returns the algorithm with a JOSE name.
pub fn algorithm(name: &str) -> Algorithm {
    Algorithm::parse(name).unwrap()
}
