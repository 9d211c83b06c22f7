//! The bodies and queries of calls, read strictly: an unknown member, a second selector or a
//! missing issuer is refused, because a revocation of the wrong target protects nothing.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;
use tollgate_core::{
    credential::{
        api_key::ISSUER,
        certificate::trust_domain_of,
        jwt::issuer::{MAX_LEEWAY, MAX_LIFETIME},
    },
    identity::KeyId,
    revocation::Target,
    text::hex,
    time::{Span, Timestamp},
};

use super::json_body;
use crate::{
    json_api::Refusal,
    observe::rfc3339::{self, Rfc3339},
    store::{Entry, Position, Revocation},
};

/// The longest remaining life of a token that any policy accepts: that of a revocation where
/// neither the token's `exp` nor the policy is known.
pub const ANY_LIFE: Span = Span::from_secs(MAX_LIFETIME.secs() + MAX_LEEWAY.secs());

/// The shortest accepted life of a revocation.
pub const MIN_TTL: Span = Span::from_secs(1);

/// How far `at` may be in the future, for clocks that differ. Beyond it, tokens that are not issued
/// yet would be revoked as well.
const MAX_AHEAD: Span = Span::from_secs(60);

/// The longest issuer, subject and the like, in characters.
const MAX_TEXT: usize = 1024;

/// The most issuers that a message lists.
const LISTED_ISSUERS: usize = 16;

/// Entries per page: the default and the most.
const LIMITS: (usize, usize) = (100, 1000);

/// `at` is in the future.
#[derive(Clone, Copy, Debug, Error)]
#[error("{} lies in the future, and would revoke tokens that are not issued yet", Rfc3339(self.0))]
pub struct FutureMoment(Timestamp);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Call {
    jti: Option<String>,
    subject: Option<String>,
    client: Option<String>,
    tenant: Option<String>,
    token_sha256: Option<String>,
    actor: Option<String>,
    kid: Option<String>,
    key: Option<String>,
    spiffe: Option<String>,
    issuer: Option<String>,
    ttl: Option<Span>,
    at: Option<String>,
    note: Option<String>,
}

/// Reads the body of `POST`. `longest` is the longest remaining life of a token that the policy
/// accepts.
pub(super) fn revocation(
    body: &[u8],
    now: Timestamp,
    longest: Span,
) -> Result<Revocation, Refusal> {
    let call: Call = json_body::read(body)?;
    let target = call.target()?;
    if let Some(note) = &call.note {
        json_body::check_text("note", note)?;
    }
    let at = match &call.at {
        None => now,
        Some(_) if !target.is_before() => {
            return Err(Refusal::invalid(
                "`at` goes with `subject`, `client`, `tenant`, `actor` and `spiffe` only",
            ));
        }
        Some(text) => {
            let at = rfc3339::parse(text).map_err(|error| Refusal::invalid(error.to_string()))?;
            check_at(at, now).map_err(|error| Refusal::out_of_bounds(error.to_string()))?
        }
    };
    let ttl = call.ttl.unwrap_or(longest);
    if ttl < MIN_TTL {
        return Err(Refusal::invalid("`ttl` must be 1s or more"));
    }
    Revocation::new(target, at, ttl, call.note)
        .map(Revocation::with_margin)
        .map_err(|error| Refusal::invalid(error.to_string()))
}

/// Reads the body of `DELETE`.
pub(super) fn target(body: &[u8]) -> Result<Target, Refusal> {
    let call: Call = json_body::read(body)?;
    if call.ttl.is_some() || call.at.is_some() || call.note.is_some() {
        return Err(Refusal::invalid(
            "`ttl`, `at` and `note` have no meaning here; only name the target",
        ));
    }
    call.target()
}

impl Call {
    fn target(&self) -> Result<Target, Refusal> {
        let selectors = [
            ("jti", &self.jti),
            ("subject", &self.subject),
            ("client", &self.client),
            ("tenant", &self.tenant),
            ("token_sha256", &self.token_sha256),
            ("actor", &self.actor),
            ("kid", &self.kid),
            ("key", &self.key),
            ("spiffe", &self.spiffe),
        ];
        let named = selectors.iter().filter_map(|(_, text)| text.as_ref());
        if named.clone().count() != 1 {
            return Err(Refusal::invalid(
                "name exactly one of `jti`, `subject`, `client`, `tenant`, `token_sha256`, \
                 `actor`, `kid`, `key` and `spiffe`",
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
        for (member, text) in selectors.into_iter().chain([("issuer", &self.issuer)]) {
            if let Some(text) = text {
                json_body::check_length(member, text, MAX_TEXT)?;
                json_body::check_text(member, text)?;
            }
        }
        if { named }.any(String::is_empty) {
            return Err(Refusal::invalid("the value that names the target is empty"));
        }
        Ok(match self {
            Self { jti: Some(jti), .. } => Target::Jti { issuer: issuer()?, jti: jti.clone() },
            Self { subject: Some(subject), .. } => {
                Target::Subject { issuer: issuer()?, subject: subject.clone() }
            }
            Self { client: Some(client), .. } => {
                Target::Client { issuer: issuer()?, client: client.clone() }
            }
            Self { actor: Some(actor), .. } => {
                Target::Actor { issuer: issuer()?, actor: actor.clone() }
            }
            Self { kid: Some(kid), .. } => Target::Kid { issuer: issuer()?, kid: kid.clone() },
            Self { issuer: Some(_), .. } => {
                return Err(Refusal::invalid(
                    "`issuer` has no meaning for `tenant`, `token_sha256`, `key` and `spiffe`; \
                     leave it out",
                ));
            }
            Self { key: Some(id), .. } => {
                let id: KeyId = id
                    .parse()
                    .map_err(|error| Refusal::invalid(format!("`key` is no id: {error}")))?;
                Target::Jti { issuer: ISSUER.to_owned(), jti: id.to_string() }
            }
            Self { spiffe: Some(id), .. } => {
                let domain = trust_domain_of(id).ok_or_else(|| {
                    Refusal::invalid("`spiffe` is not a SPIFFE ID, such as `spiffe://a.example/b`")
                })?;
                Target::Subject { issuer: domain.to_owned(), subject: id.clone() }
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

/// Checks the moment until which tokens are revoked.
///
/// # Errors
/// The moment lies in the future.
pub fn check_at(at: Timestamp, now: Timestamp) -> Result<Timestamp, FutureMoment> {
    if at.micros() > now.micros().saturating_add(MAX_AHEAD.micros()) {
        return Err(FutureMoment(at));
    }
    Ok(at)
}

/// Refuses a target of an issuer that is none of `known`: a mistyped name would protect nothing.
pub(super) fn check_issuer(issuer: Option<&str>, known: &[Arc<str>]) -> Result<(), Refusal> {
    let Some(issuer) = issuer.filter(|issuer| !known.iter().any(|known| **known == **issuer))
    else {
        return Ok(());
    };
    let mut names: Vec<String> =
        known.iter().take(LISTED_ISSUERS).map(|name| shown(name)).collect();
    if known.len() > LISTED_ISSUERS {
        names.push(format!("{} more", known.len() - LISTED_ISSUERS));
    }
    let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    Err(Refusal::new(
        409,
        "unknown_issuer",
        format!("no issuer of the policy is `{issuer}`; its issuers are {names}"),
    ))
}

/// The name of an issuer in the configuration, in backticks.
fn shown(issuer: &str) -> String {
    if issuer.is_empty() { "`absent`".to_owned() } else { format!("`{issuer}`") }
}

/// Reads the query of `GET`: the position that `cursor` contains, and `limit`.
pub(super) fn page(query: &str) -> Result<(Option<Position>, usize), Refusal> {
    let (mut limit, mut cursor) = (None, None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("limit", text)) if limit.is_none() => {
                let number = text.parse().ok().filter(|number| (1..=LIMITS.1).contains(number));
                limit = Some(number.ok_or_else(|| {
                    Refusal::invalid(format!("`limit` is not between 1 and {}", LIMITS.1))
                })?);
            }
            // A position needs no percent-encoding, so nothing has to be decoded.
            Some(("cursor", text)) if cursor.is_none() => {
                cursor = Some(text.parse().map_err(|_| {
                    Refusal::invalid("`cursor` is not the `next` of an earlier page")
                })?);
            }
            _ => return Err(Refusal::invalid("the query takes `limit` and `cursor`, once each")),
        }
    }
    Ok((cursor, limit.unwrap_or(LIMITS.0)))
}

/// Reads the query of a list without a cursor: its `limit`.
pub(super) fn limit(query: &str) -> Result<usize, Refusal> {
    match page(query)? {
        (None, limit) => Ok(limit),
        (Some(_), _) => {
            Err(Refusal::invalid("the list is one page; the query takes `limit`, once"))
        }
    }
}

/// Returns the members that name `target` in a body: the inverse of what this module reads.
pub fn selector(target: &Target) -> Map<String, Value> {
    let (name, value, issuer) = match target {
        Target::Jti { issuer, jti } => ("jti", jti.clone(), Some(issuer)),
        Target::Subject { issuer, subject } => ("subject", subject.clone(), Some(issuer)),
        Target::Client { issuer, client } => ("client", client.clone(), Some(issuer)),
        Target::Tenant { tenant } => ("tenant", tenant.clone(), None),
        Target::Token { sha256 } => ("token_sha256", hex(sha256), None),
        Target::Actor { issuer, actor } => ("actor", actor.clone(), Some(issuer)),
        Target::Kid { issuer, kid } => ("kid", kid.clone(), Some(issuer)),
    };
    let issuer = issuer.map(|issuer| ("issuer".to_owned(), Value::from(issuer.as_str())));
    [(name.to_owned(), Value::from(value))].into_iter().chain(issuer).collect()
}

/// One entry in JSON, with moments in seconds since 1970. Written by the API, read by the command
/// line.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ListedJson {
    kind: String,
    key: String,
    at: u64,
    expires: u64,
    note: Option<String>,
}

/// Converts an entry to its JSON form.
pub(crate) fn listed(entry: &Entry) -> ListedJson {
    let Entry { key, at, ends, note } = entry.clone();
    ListedJson { kind: entry.kind().to_owned(), key, at: at.secs(), expires: ends.secs(), note }
}

impl From<ListedJson> for Entry {
    fn from(json: ListedJson) -> Self {
        let ListedJson { kind: _, key, at, expires, note } = json;
        Self { key, at: Timestamp::from_secs(at), ends: Timestamp::from_secs(expires), note }
    }
}
