//! Signed JWTs (RFC 7519, RFC 7515) after the best current practices of RFC 8725.
//!
//! The order matters: size and shape, header, issuer, algorithm, key, signature, and only then the claims. Nothing that the
//! token says of itself chooses an algorithm or a key beyond the `kid` of the issuer's own set, and nothing acts on a claim
//! before the signature is proven.

pub mod issuer;
pub mod key_set;

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::Algorithm;

use super::{
    Credential,
    jwt::{
        issuer::{AlgorithmName, Audiences, ClaimPath, Issuer, Issuers},
        key_set::{Key, KeySet, MAX_KID},
    },
};
use crate::{
    denial::{Denial, Reason},
    revocation::{self, ExternalDenylist, Names},
    time::Timestamp,
};
use crate::{
    identity::{Principal, Proof, Said},
    json::Json,
};

/// The checks a token goes through, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Check {
    /// Three parts of base64url.
    Shape,
    /// The header: a known `alg`, nothing critical, the `typ` of an access token.
    Header,
    /// The claims are one JSON object, and an issuer of the policy has their `iss`.
    Issuer,
    /// The issuer may use this algorithm.
    Algorithm,
    /// The issuer's keys are loaded, and one of them fits `kid` and `alg`.
    Key,
    /// The signature.
    Signature,
    /// `exp`, `nbf`, `iat` and the lifetime.
    Times,
    /// The audience.
    Audience,
    /// The required claims, and those that become subject, tenant, client, roles and scopes.
    Claims,
}

impl Check {
    /// Every check, in order.
    pub const ALL: [Self; 9] = [
        Self::Shape,
        Self::Header,
        Self::Issuer,
        Self::Algorithm,
        Self::Key,
        Self::Signature,
        Self::Times,
        Self::Audience,
        Self::Claims,
    ];

    /// One word for it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Shape => "shape",
            Self::Header => "header",
            Self::Issuer => "issuer",
            Self::Algorithm => "algorithm",
            Self::Key => "key",
            Self::Signature => "signature",
            Self::Times => "times",
            Self::Audience => "audience",
            Self::Claims => "claims",
        }
    }
}

/// A credential that was not accepted.
#[derive(Clone, Debug)]
pub struct Refused {
    /// The denial.
    pub denial: Box<Denial>,
    /// The check that failed; those before it passed.
    pub check: Check,
    /// The issuer whose key set does not know the key: its set may be out of date.
    pub unknown_key: Option<usize>,
    /// The issuer whose key set and rules refused it for good, by its index: at any later moment the answer is the same, as
    /// long as policy and key set are. `None` where time or another key set may change it, or where it cost no signature.
    pub settled: Option<usize>,
}

fn refuse<T>(reason: Reason, cause: &'static str) -> Result<T, Denial> {
    Err(Denial::new(reason, cause))
}

/// Verifies a token at `now`. `keys` answers with the key set of an issuer, by its index. For how long the result holds:
/// `Principal::holds`.
///
/// # Errors
/// A denial with the reason of the first check that failed, in the order above.
pub fn verify<'k>(
    credential: Credential<'_>,
    issuers: &Issuers,
    keys: impl Fn(usize) -> Option<&'k Arc<KeySet>>,
    foreign: &[ExternalDenylist],
    now: Timestamp,
) -> Result<Arc<Principal>, Refused> {
    let mut progress = Progress { check: Check::Shape, issuer: None, unknown_key: None };
    steps(credential, issuers, keys, foreign, now, &mut progress).map_err(|denial| {
        let Progress { check, issuer, unknown_key } = progress;
        let lasting = matches!(check, Check::Signature | Check::Audience | Check::Claims)
            || denial.reason == Reason::Expired;
        Refused {
            denial: Box::new(denial),
            check,
            unknown_key,
            settled: issuer.filter(|_| lasting),
        }
    })
}

/// How far a verification came, so that a denial needs not say where it comes from.
struct Progress {
    /// The check that is under way.
    check: Check,
    /// The issuer, once known.
    issuer: Option<usize>,
    unknown_key: Option<usize>,
}

fn steps<'k>(
    credential: Credential<'_>,
    issuers: &Issuers,
    keys: impl Fn(usize) -> Option<&'k Arc<KeySet>>,
    foreign: &[ExternalDenylist],
    now: Timestamp,
    progress: &mut Progress,
) -> Result<Arc<Principal>, Denial> {
    let token = text_of(credential)?;
    let parts = Parts::split(token)?;
    progress.check = Check::Header;
    let header = Header::parse(parts.header)?;
    progress.check = Check::Issuer;
    let claims = Json::object(&decode(parts.payload)?).ok_or_else(|| {
        Denial::new(
            Reason::MalformedToken,
            "the claims are not one JSON object without repeated members",
        )
    })?;
    let iss = match claims.get("iss") {
        None => None,
        Some(Json::Text(iss)) => Some(iss.as_str()),
        Some(_) => return refuse(Reason::UnknownIssuer, "iss is not a string"),
    };
    let issuer = issuers.find(iss).ok_or_else(|| {
        Denial::new(Reason::UnknownIssuer, "no issuer of the configuration has this iss")
    })?;
    progress.issuer = Some(issuer.index);
    progress.check = Check::Algorithm;
    if !issuer.algorithms.contains(&header.algorithm) {
        return refuse(Reason::AlgorithmNotAllowed, "the algorithm is not in the issuer's list");
    }
    progress.check = Check::Key;
    let Some(set) = keys(issuer.index) else {
        return refuse(
            Reason::NotReady,
            "the issuer's keys have not been loaded, or are older than max_stale",
        );
    };
    let key = find_key(set, issuer, &header).inspect_err(|denial| {
        // A newer set has no answer for a token that names no key where it must.
        let named = header.kid.is_some() || !issuer.kid_required;
        progress.unknown_key =
            (denial.reason == Reason::UnknownKey && named).then_some(issuer.index);
    })?;
    progress.check = Check::Signature;
    check_signature(&parts, key)?;
    progress.check = Check::Times;
    let times = check_times(issuer, &claims, now)?;
    progress.check = Check::Audience;
    check_audience(issuer, &claims)?;
    progress.check = Check::Claims;
    let proof = Proof { keys: Arc::clone(set), since: now, until: times.until };
    principal(token, issuer, issuers.retained_claims(), &claims, &times, foreign, proof)
        .map(Arc::new)
}

/// `b64token` of RFC 6750 section 2.1.
fn text_of(Credential(token): Credential<'_>) -> Result<&str, Denial> {
    let is_token = |b: &u8| {
        b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~' | b'+' | b'/' | b'=')
    };
    match std::str::from_utf8(token) {
        Ok(text) if token.iter().all(is_token) => Ok(text),
        _ => refuse(Reason::MalformedToken, "the token holds characters no token has"),
    }
}

struct Parts<'a> {
    header: &'a str,
    payload: &'a str,
    signature: &'a str,
    signed: &'a str,
}

impl<'a> Parts<'a> {
    /// JWS compact serialization: three parts (RFC 7515 section 7.1). Five would be an encrypted token.
    fn split(token: &'a str) -> Result<Self, Denial> {
        let dots = token.bytes().filter(|b| *b == b'.').count();
        let (Some((signed, signature)), 2) = (token.rsplit_once('.'), dots) else {
            return refuse(
                Reason::MalformedToken,
                if dots == 4 {
                    "the token is encrypted"
                } else {
                    "the token does not have three parts"
                },
            );
        };
        match signed.split_once('.') {
            Some((header, payload)) => Ok(Self { header, payload, signature, signed }),
            None => refuse(Reason::MalformedToken, "the token does not have three parts"),
        }
    }
}

/// Base64url without padding and without stray bits (RFC 7515 section 2).
fn decode(part: &str) -> Result<Vec<u8>, Denial> {
    URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_| Denial::new(Reason::MalformedToken, "a part of the token is not base64url"))
}

struct Header {
    algorithm: Algorithm,
    kid: Option<String>,
}

impl Header {
    fn parse(part: &str) -> Result<Self, Denial> {
        let Some(json) = Json::object(&decode(part)?) else {
            return refuse(
                Reason::MalformedToken,
                "the header is not one JSON object without repeated members",
            );
        };
        // Not one of them is implemented, so not one of them may be there (RFC 7515 section 4.1.11). jwk, jku, x5u and x5c
        // are not refused, as some issuers send them, and never read.
        for member in ["crit", "b64", "zip", "enc", "p2c", "p2s", "epk"] {
            if json.get(member).is_some() {
                return refuse(
                    Reason::MalformedToken,
                    "the header asks for something that is not supported (crit, b64, zip or encryption)",
                );
            }
        }
        let algorithm = match json.get("alg") {
            Some(Json::Text(name)) => AlgorithmName::parse(name).ok_or_else(|| {
                Denial::new(Reason::AlgorithmNotAllowed, "the algorithm is not known")
            })?,
            Some(_) | None => {
                return refuse(Reason::AlgorithmNotAllowed, "alg is missing or not a string");
            }
        };
        let kid = match json.get("kid") {
            None => None,
            Some(Json::Text(kid)) if kid.len() <= MAX_KID => Some(kid.clone()),
            Some(_) => {
                return refuse(Reason::UnknownKey, "kid is not a string of at most 256 bytes");
            }
        };
        match json.get("typ") {
            None => {}
            Some(Json::Text(typ))
                if ["jwt", "at+jwt", "application/at+jwt", "application/jwt"]
                    .contains(&typ.to_ascii_lowercase().as_str()) => {}
            Some(_) => return refuse(Reason::WrongTokenType, "typ is neither JWT nor at+jwt"),
        }
        if json.get("cty").is_some() {
            return refuse(Reason::WrongTokenType, "the token holds another token (cty)");
        }
        Ok(Self { algorithm, kid })
    }
}

/// The key by name, within the issuer's own set only; its own algorithm must be the header's.
fn find_key<'k>(set: &'k KeySet, issuer: &Issuer, header: &Header) -> Result<&'k Key, Denial> {
    let key = match (&header.kid, &issuer.source) {
        (_, issuer::KeySource::Secret(_)) => set.only(header.algorithm),
        (Some(kid), _) => set.named(kid),
        (None, _) if issuer.kid_required => {
            return refuse(Reason::UnknownKey, "the token names no key (kid)");
        }
        (None, _) => set.only(header.algorithm),
    };
    match key {
        None => refuse(Reason::UnknownKey, "no key of the issuer fits"),
        Some(key) if key.algorithm != header.algorithm => {
            refuse(Reason::AlgorithmNotAllowed, "the key is bound to another algorithm")
        }
        Some(key) => Ok(key),
    }
}

fn check_signature(parts: &Parts<'_>, key: &Key) -> Result<(), Denial> {
    // Decoded here first: the alphabet and the stray bits are checked before the crypto library sees anything.
    decode(parts.signature)?;
    if key.verifies(parts.signed.as_bytes(), parts.signature) {
        Ok(())
    } else {
        refuse(Reason::BadSignature, "the signature does not verify")
    }
}

fn principal(
    token: &str,
    issuer: &Arc<Issuer>,
    kept: &[Arc<str>],
    claims: &Json,
    times: &Times,
    foreign: &[ExternalDenylist],
    proof: Proof,
) -> Result<Principal, Denial> {
    for name in &issuer.required_claims {
        if claims.get(name).is_none_or(|value| matches!(value, Json::Null)) {
            return Err(Denial::new(
                Reason::InvalidClaim,
                format!("the required claim `{name}` is missing"),
            )
            .with_message(format!("the token lacks the claim `{name}`")));
        }
    }
    let subject = match text(
        claims,
        &issuer.claims.subject,
        "the subject is not 1 to 256 printable characters",
    )? {
        Some(subject) => subject,
        None => return refuse(Reason::InvalidClaim, "the token has no subject"),
    };
    let tenant = match &issuer.tenant {
        Some(fixed) => Some(fixed.clone()),
        None => {
            text(claims, &issuer.claims.tenant, "the tenant is not 1 to 256 printable characters")?
        }
    };
    let client =
        text(claims, &issuer.claims.client, "the client is not 1 to 256 printable characters")?;
    let jti =
        text(claims, &ClaimPath(vec!["jti".into()]), "jti is not 1 to 256 printable characters")?;
    let roles = words(
        claims,
        &issuer.claims.roles,
        false,
        "the roles are neither a string nor a list of strings",
    )?;
    let mut scopes = Vec::new();
    for path in &issuer.claims.scopes {
        scopes.extend(words(
            claims,
            path,
            true,
            "the scopes are neither a string nor a list of strings",
        )?);
    }
    let names = Names {
        issuer: &issuer.digest,
        // An ECDSA signature can be rewritten into another valid one, the signed part cannot: the hash is over that.
        token: revocation::token_digest(token),
        jti: jti.as_deref(),
        subject: &subject,
        client: client.as_deref(),
        tenant: tenant.as_deref(),
    };
    let foreign = foreign_keys(token, jti.as_deref(), &subject, foreign)?;
    Ok(Principal::new(Said {
        issuer,
        subject: &subject,
        tenant: tenant.as_deref(),
        client: client.as_deref(),
        scopes: &scopes,
        roles: &roles,
        claims: kept
            .iter()
            .filter_map(|name| Some((Arc::clone(name), claims.get(name)?.clone())))
            .collect(),
        has_issued_at: times.issued_at.is_some(),
        expires_at: times.expires_at,
        revocation: revocation::Keys::new(names, times.issued_at.unwrap_or(0), foreign),
        proof,
    }))
}

struct Times {
    issued_at: Option<u64>,
    expires_at: u64,
    until: Timestamp,
}

/// `exp`, `nbf` and `iat` as numbers of seconds, in floating point: no value overflows, and a fraction is allowed (RFC 7519 section 2).
fn check_times(issuer: &Issuer, claims: &Json, now: Timestamp) -> Result<Times, Denial> {
    const MOST: f64 = 253_402_300_799.0; // the year 9999
    let date = |name: &str| match claims.get(name) {
        None => Ok(None),
        Some(Json::Number(seconds)) if (0.0..=MOST).contains(seconds) => Ok(Some(*seconds)),
        Some(_) => Err(Denial::new(
            Reason::InvalidClaim,
            format!("{name} is not a number of seconds since 1970"),
        )),
    };
    let (now, leeway) = (now.numeric_date(), issuer.leeway.as_secs_f64());
    let Some(expires) = date("exp")? else {
        return refuse(Reason::InvalidClaim, "the token has no exp");
    };
    let (issued, not_before) = (date("iat")?, date("nbf")?);
    if expires + leeway <= now {
        return refuse(Reason::Expired, "exp has passed");
    }
    if not_before.is_some_and(|moment| moment > now + leeway) {
        return refuse(Reason::NotYetValid, "nbf lies in the future");
    }
    if issued.is_some_and(|moment| moment > now + leeway) {
        return refuse(Reason::NotYetValid, "iat lies in the future");
    }
    if expires - issued.unwrap_or(now) > issuer.max_lifetime.as_secs_f64() {
        return refuse(
            Reason::InvalidClaim,
            "the token lives longer than the issuer's max_lifetime",
        );
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and the year 9999, checked above"
    )]
    let whole = |seconds: f64| seconds as u64;
    // Rounded down: never later than the comparison above would say.
    let until = Timestamp::from_micros(whole((expires + leeway) * 1e6));
    Ok(Times { issued_at: issued.map(whole), expires_at: whole(expires), until })
}

/// The audience claim is a string or a list of strings that holds one of ours exactly (RFC 7519 section 4.1.3).
fn check_audience(issuer: &Issuer, claims: &Json) -> Result<(), Denial> {
    let Audiences::OneOf(ours) = &issuer.audiences else { return Ok(()) };
    let is_ours = |text: &String| ours.contains(text);
    let fits = match claims.get(&issuer.audience_claim) {
        Some(Json::Text(one)) => is_ours(one),
        Some(Json::List(many)) => {
            let texts: Option<Vec<&String>> = many
                .iter()
                .map(|item| if let Json::Text(text) = item { Some(text) } else { None })
                .collect();
            texts.is_some_and(|texts| texts.into_iter().any(is_ours))
        }
        _ => false,
    };
    if fits {
        Ok(())
    } else {
        refuse(Reason::WrongAudience, "the audience does not name this service")
    }
}

fn at<'j>(claims: &'j Json, ClaimPath(path): &ClaimPath) -> Option<&'j Json> {
    path.iter()
        .try_fold(claims, |json, name| json.get(name))
        .filter(|json| !matches!(json, Json::Null))
}

/// A claim that becomes a header, a log field or a part of a key.
fn text(claims: &Json, path: &ClaimPath, cause: &'static str) -> Result<Option<String>, Denial> {
    let invalid = || Denial::new(Reason::InvalidClaim, cause);
    at(claims, path)
        .map(|json| {
            json.text()
                .ok_or_else(invalid)
                .and_then(|text| identifier(text).map_err(|()| invalid()))
        })
        .transpose()
}

/// 1 to 256 characters without controls: no line feed reaches a header, a log or a key.
pub(super) fn identifier(text: &str) -> Result<String, ()> {
    if text.is_empty() || text.len() > 256 || text.chars().any(char::is_control) {
        Err(())
    } else {
        Ok(text.to_owned())
    }
}

fn words(
    claims: &Json,
    path: &ClaimPath,
    split: bool,
    cause: &'static str,
) -> Result<Vec<String>, Denial> {
    let words: Vec<String> = match at(claims, path) {
        None => Vec::new(),
        Some(Json::Text(text)) if split => {
            text.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect()
        }
        Some(Json::Text(text)) => vec![text.clone()],
        Some(Json::List(items)) => items
            .iter()
            .map(|item| item.text().map(str::to_owned))
            .collect::<Option<_>>()
            .ok_or_else(|| Denial::new(Reason::InvalidClaim, cause))?,
        Some(_) => return refuse(Reason::InvalidClaim, cause),
    };
    // Scopes go to the upstream as one string, where the space parts them: one scope of a list must not become two there.
    if split && words.iter().any(|word| word.contains(' ')) {
        return refuse(Reason::InvalidClaim, "a scope of a list holds a space");
    }
    if words.iter().any(|word| word.chars().any(char::is_control)) {
        return refuse(Reason::InvalidClaim, "a scope or role holds a control character");
    }
    Ok(words)
}

fn foreign_keys(
    token: &str,
    jti: Option<&str>,
    subject: &str,
    foreign: &[ExternalDenylist],
) -> Result<Vec<String>, Denial> {
    if foreign.is_empty() {
        return Ok(Vec::new());
    }
    let whole = revocation::sha256(token.as_bytes());
    let keys =
        foreign.iter().map(|pattern| pattern.key(jti, subject, &whole)).collect::<Option<Vec<_>>>();
    keys.ok_or_else(|| {
        Denial::new(Reason::InvalidClaim, "revocation.foreign needs jti, and the token has none")
    })
}
