//! What a call says, read strictly: an unknown member, a second selector or a missing issuer is refused, because a revocation that names
//! something else than was meant protects nobody.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tollgate_core::{
    revocation::{Target, hex},
    time::{Span, Timestamp},
};

use super::{Listed, Revocation, answer::Refusal};
use crate::observe::rfc3339::{self, Rfc3339};

/// How long the revocation of one token is kept unless told otherwise: the longest life of a token unless `max_lifetime` says more.
pub const TOKEN_TTL: Span = Span::from_secs(24 * 3600);

/// How long the revocation of a subject, a client or a tenant is kept unless told otherwise: the longest life that `max_lifetime` may allow,
/// 31 days, and an hour for clocks. Tokens issued before the revocation have all expired by then.
pub const BEFORE_TTL: Span = Span::from_secs(31 * 86_400 + 3600);

/// How far `at` may lie in the future, for clocks. Beyond it, tokens that are issued from now on would be revoked as well.
const MAX_AHEAD: Span = Span::from_secs(60);

/// Most bytes of an issuer, a subject and the like.
const MAX_TEXT: usize = 1024;

/// Most bytes of a note.
pub const MAX_NOTE: usize = 256;

/// Entries per page unless told otherwise, and at most.
const LIMITS: (usize, usize) = (100, 1000);

/// How long the revocation of `target` is kept unless told otherwise.
pub fn default_ttl(target: &Target) -> Span {
    if target.is_before() { BEFORE_TTL } else { TOKEN_TTL }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Call {
    jti: Option<String>,
    subject: Option<String>,
    client: Option<String>,
    tenant: Option<String>,
    token_sha256: Option<String>,
    issuer: Option<String>,
    ttl: Option<Span>,
    at: Option<String>,
    note: Option<String>,
}

/// Reads the body of `POST`.
pub(super) fn revocation(body: &[u8], now: Timestamp) -> Result<Revocation, Refusal> {
    let call = read(body)?;
    let target = call.target()?;
    let at = match &call.at {
        None => now.secs(),
        Some(_) if !target.is_before() => {
            return Err(Refusal::invalid("`at` goes with `subject`, `client` and `tenant` only"));
        }
        Some(text) => check_at(rfc3339::parse(text).map_err(Refusal::invalid)?, now)
            .map_err(Refusal::invalid)?,
    };
    let ttl = call.ttl.unwrap_or_else(|| default_ttl(&target));
    if ttl < Span::from_secs(1) {
        return Err(Refusal::invalid("`ttl` must be 1s or more"));
    }
    if let Some(note) = &call.note {
        check_note(note).map_err(Refusal::invalid)?;
    }
    Ok(Revocation { target, at, ttl, note: call.note })
}

/// Reads the body of `DELETE`.
pub(super) fn target(body: &[u8]) -> Result<Target, Refusal> {
    let call = read(body)?;
    if call.ttl.is_some() || call.at.is_some() || call.note.is_some() {
        return Err(Refusal::invalid(
            "`ttl`, `at` and `note` have no meaning here; only name what to reinstate",
        ));
    }
    call.target()
}

fn read(body: &[u8]) -> Result<Call, Refusal> {
    serde_json::from_slice(body)
        .map_err(|error| Refusal::invalid(format!("the body cannot be read: {error}")))
}

impl Call {
    fn target(&self) -> Result<Target, Refusal> {
        let selectors = [&self.jti, &self.subject, &self.client, &self.tenant, &self.token_sha256];
        if selectors.into_iter().flatten().count() != 1 {
            return Err(Refusal::invalid(
                "name exactly one of `jti`, `subject`, `client`, `tenant` and `token_sha256`",
            ));
        }
        let issuer = || {
            let issuer = self.issuer.clone();
            issuer.ok_or_else(|| {
                Refusal::invalid(
                    "name the `issuer` as the tokens do in `iss`; `\"\"` for tokens without one",
                )
            })
        };
        if let Some(text) =
            selectors.into_iter().chain([&self.issuer]).flatten().find(|text| text.len() > MAX_TEXT)
        {
            return Err(Refusal::invalid(format!(
                "a value has {} bytes; the most is {MAX_TEXT}",
                text.len()
            )));
        }
        if selectors.into_iter().flatten().any(String::is_empty) {
            return Err(Refusal::invalid("the value that names what to revoke is empty"));
        }
        Ok(match self {
            Self { jti: Some(jti), .. } => Target::Jti { issuer: issuer()?, jti: jti.clone() },
            Self { subject: Some(subject), .. } => {
                Target::Subject { issuer: issuer()?, subject: subject.clone() }
            }
            Self { client: Some(client), .. } => {
                Target::Client { issuer: issuer()?, client: client.clone() }
            }
            Self { issuer: Some(_), .. } => {
                return Err(Refusal::invalid(
                    "`issuer` has no meaning for `tenant` and `token_sha256`; leave it out",
                ));
            }
            Self { tenant: Some(tenant), .. } => Target::Tenant { tenant: tenant.clone() },
            Self { token_sha256, .. } => {
                Target::Token { sha256: digest(token_sha256.as_deref().unwrap_or_default())? }
            }
        })
    }
}

fn digest(text: &str) -> Result<[u8; 32], Refusal> {
    let bad = || {
        Refusal::invalid(
            "`token_sha256` is not 64 hex digits; it is the SHA-256 of the token without its signature",
        )
    };
    let mut digest = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return Err(bad());
    }
    for (byte, pair) in digest.iter_mut().zip(text.as_bytes().chunks(2)) {
        let pair = std::str::from_utf8(pair)
            .ok()
            .filter(|pair| pair.bytes().all(|digit| digit.is_ascii_hexdigit()));
        *byte = pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()).ok_or_else(bad)?;
    }
    Ok(digest)
}

/// Checks the moment until which tokens are revoked; gives it in seconds since 1970.
///
/// # Errors
/// It lies in the future.
pub fn check_at(at: Timestamp, now: Timestamp) -> Result<u64, String> {
    if at.micros() > now.micros().saturating_add(MAX_AHEAD.micros()) {
        return Err(format!(
            "{} lies in the future, and would revoke tokens that are yet to be issued",
            Rfc3339(at)
        ));
    }
    Ok(at.secs())
}

/// Checks a note.
///
/// # Errors
/// It is too long or holds control characters.
pub fn check_note(note: &str) -> Result<(), String> {
    if note.len() > MAX_NOTE || note.chars().any(char::is_control) {
        return Err(format!("a note is one line of at most {MAX_NOTE} bytes"));
    }
    Ok(())
}

/// Reads the query of `GET`: `limit` and `cursor`.
pub(super) fn page(query: &str) -> Result<(usize, Option<&str>), Refusal> {
    let (mut limit, mut cursor) = (None, None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("limit", text)) if limit.is_none() => {
                let number = text.parse().ok().filter(|number| (1..=LIMITS.1).contains(number));
                limit = Some(number.ok_or_else(|| {
                    Refusal::invalid(format!("`limit` is not between 1 and {}", LIMITS.1))
                })?);
            }
            // No character of a cursor is ever escaped in a query, so nothing needs to be decoded.
            Some(("cursor", text)) if cursor.is_none() => {
                let good = (1..=256).contains(&text.len())
                    && text.bytes().all(|byte| {
                        byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':')
                    });
                cursor = Some(good.then_some(text).ok_or_else(|| {
                    Refusal::invalid("`cursor` is not the `next` of an earlier page")
                })?);
            }
            _ => return Err(Refusal::invalid("the query takes `limit` and `cursor`, once each")),
        }
    }
    Ok((limit.unwrap_or(LIMITS.0), cursor))
}

/// The members that name `target` in a body, the inverse of what is read here.
pub fn selector(target: &Target) -> Map<String, Value> {
    let (name, value, issuer) = match target {
        Target::Jti { issuer, jti } => ("jti", jti.clone(), Some(issuer)),
        Target::Subject { issuer, subject } => ("subject", subject.clone(), Some(issuer)),
        Target::Client { issuer, client } => ("client", client.clone(), Some(issuer)),
        Target::Tenant { tenant } => ("tenant", tenant.clone(), None),
        Target::Token { sha256 } => ("token_sha256", hex(sha256), None),
    };
    let issuer = issuer.map(|issuer| ("issuer".to_owned(), Value::from(issuer.as_str())));
    [(name.to_owned(), Value::from(value))].into_iter().chain(issuer).collect()
}

/// One entry as the API writes it, and the command line reads it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ListedJson {
    kind: String,
    key: String,
    at: u64,
    expires: u64,
    note: Option<String>,
}

/// An entry as JSON: moments in seconds since 1970.
pub(crate) fn listed(entry: &Listed) -> ListedJson {
    let Listed { key, at, expires, note } = entry.clone();
    ListedJson { kind: entry.kind().to_owned(), key, at, expires, note }
}

impl From<ListedJson> for Listed {
    fn from(json: ListedJson) -> Self {
        let ListedJson { kind: _, key, at, expires, note } = json;
        Self { key, at, expires, note }
    }
}
