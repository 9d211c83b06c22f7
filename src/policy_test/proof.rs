//! Proofs of a case file (DPoP): made for the request and the token of a case, with a key of the
//! client.

use serde_json::{Map, Value, json};
use tollgate_core::{policy::Policy, revocation::sha256, time::Timestamp};
use tollgate_testkit::{base64url, merged};

use super::{
    CaseError,
    api_keys::ApiKeys,
    file::stand_in_nonce_keys,
    keys::Keys,
    mint,
    spec::{NonceState, ProofSpec, RequestSpec, TokenSpec},
};

/// The `jti` of a proof that names none: a request that is repeated repeats its proof.
const JTI: &str = "proof-1";

/// What proofs of a case file are made with.
#[derive(Clone, Copy)]
pub(super) struct ProofContext<'a> {
    pub(super) keys: &'a Keys,
    pub(super) api_keys: &'a ApiKeys,
    pub(super) policy: Option<&'a Policy>,
    pub(super) now: Timestamp,
}

/// Makes the values of the headers with a proof for a request with this token; none where a case
/// sends none.
///
/// # Errors
/// Returns [`CaseError`] where the case describes no possible proof.
pub(super) fn headers(
    spec: &ProofSpec,
    request: &RequestSpec,
    token: Option<&str>,
    context: ProofContext<'_>,
) -> Result<Vec<String>, CaseError> {
    let ProofContext { keys, api_keys, now, .. } = context;
    let spec_of_token = match (&spec.key, &spec.raw) {
        _ if spec.none == Some(true) => return Ok(Vec::new()),
        (None, None) => return Ok(Vec::new()),
        (_, Some(raw)) => TokenSpec { raw: Some(raw.clone()), ..TokenSpec::default() },
        (Some(name), None) => of_key(spec, name, request, token, context)?,
    };
    let proof = mint::mint(&spec_of_token, keys, api_keys, now)?.unwrap_or_default();
    let own = vec!["{proof}".to_owned()];
    let values = spec.headers.as_ref().unwrap_or(&own);
    Ok(values.iter().map(|value| value.replace("{proof}", &proof)).collect())
}

/// A proof as a token: its header has the key of the client, and its claims describe the request.
fn of_key(
    spec: &ProofSpec,
    name: &str,
    request: &RequestSpec,
    token: Option<&str>,
    context: ProofContext<'_>,
) -> Result<TokenSpec, CaseError> {
    let or =
        |text: &Option<String>, default: &str| text.clone().unwrap_or_else(|| default.to_owned());
    let path = or(&request.path, "/");
    let path = path.split('?').next().unwrap_or_default();
    let host = or(&request.host, "api.example.com");
    let mut claims = object(json!({
        "jti": JTI,
        "htm": or(&request.method, "GET"),
        "htu": format!("https://{host}{path}"),
        "iat": "now",
    }));
    if let Some(token) = token {
        claims.insert("ath".into(), base64url(sha256(token.as_bytes())).into());
    }
    if let Some(nonce) = spec.nonce.and_then(|state| nonce(state, context)) {
        claims.insert("nonce".into(), nonce.into());
    }
    let header = object(json!({ "typ": "dpop+jwt", "jwk": format!("{{jwk:{name}}}") }));
    Ok(TokenSpec {
        key: Some(name.to_owned()),
        alg: spec.alg.clone(),
        header: merged(&header, &spec.header),
        header_without: spec.header_without.iter().cloned().chain(["kid".to_owned()]).collect(),
        claims: merged(&claims, &spec.claims),
        claims_without: spec.claims_without.clone(),
        filler: spec.filler,
        sign: spec.sign,
        tamper: spec.tamper.clone(),
        ..TokenSpec::default()
    })
}

fn nonce(state: NonceState, context: ProofContext<'_>) -> Option<String> {
    let policy = context.policy?;
    let life = policy.dpop.as_ref()?.nonce.as_ref()?.life;
    let steps = match state {
        NonceState::Current => 0,
        NonceState::Lapsing => 1,
        NonceState::Lapsed => 2,
    };
    let before = life.micros().saturating_mul(steps);
    let made = Timestamp::from_micros(context.now.micros().saturating_sub(before));
    Some(stand_in_nonce_keys(policy)?.issue(life, made))
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}
