//! The claims of a token whose signature is proven: times, audience, and the identity they state.

mod confirmation;
mod holder;
pub(super) mod token_kind;
mod words;

use std::{fmt::Write as _, sync::Arc};

use super::{
    compact::refuse,
    issuer::{Audiences, ClaimSource, ClaimSources, Issuer, SubjectSource},
};
use crate::{
    denial::{Denial, Reason, listed},
    identity::{
        Actor, Actors, ClaimPath, Claims, CredentialKind, Holder, Identity, Omitted, Part,
        Principal, Validity,
    },
    json::Json,
    revocation::{self, ExternalDenylist, Names, issuer_digest},
    text::is_identifier,
    time::Timestamp,
};

/// The times of a token.
pub(super) struct Times {
    issued_at: Option<u64>,
    expires_at: u64,
    /// When it is not accepted any more, leeway included.
    pub(super) until: Timestamp,
}

/// Checks `exp`, `nbf` and `iat`. They are numbers of seconds in floating point: no value overflows,
/// and a fraction is allowed (RFC 7519 section 2).
pub(super) fn check_times(issuer: &Issuer, claims: &Json, now: Timestamp) -> Result<Times, Denial> {
    const MOST: f64 = 253_402_300_799.0; // the year 9999
    let date = |name: &str| match claims.get(name) {
        None => Ok(None),
        Some(json) => match json.number().filter(|seconds| (0.0..=MOST).contains(seconds)) {
            Some(seconds) => Ok(Some(seconds)),
            None => Err(Denial::new(
                Reason::InvalidClaim,
                format!("{name} is not a number of seconds since 1970"),
            )),
        },
    };
    let (now, leeway) = (now.numeric_date(), issuer.leeway.as_secs_f64());
    let Some(expires) = date("exp")? else {
        return refuse(Reason::InvalidClaim, "the token has no exp");
    };
    let (issued, not_before) = (date("iat")?, date("nbf")?);
    // A rejection may be remembered, so its cause has moments and no distance from now.
    let leeway_shown = issuer.leeway;
    if expires + leeway <= now {
        let cause = format!("exp ({expires:.0}) has passed, with a leeway of {leeway_shown}");
        return Err(Denial::new(Reason::Expired, cause));
    }
    let future = [("nbf", not_before), ("iat", issued)];
    for (name, moment) in future.into_iter().filter_map(|(name, at)| Some((name, at?))) {
        if moment > now + leeway {
            let cause =
                format!("{name} ({moment:.0}) lies in the future, with a leeway of {leeway_shown}");
            return Err(Denial::new(Reason::NotYetValid, cause));
        }
    }
    let life = expires - issued.unwrap_or(now);
    if life > issuer.max_lifetime.as_secs_f64() {
        let cause = format!(
            "the token lives longer ({life:.0}s) than the issuer's max_lifetime ({})",
            issuer.max_lifetime
        );
        return Err(Denial::new(Reason::InvalidClaim, cause));
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and the year 9999, checked above"
    )]
    let whole = |seconds: f64| seconds as u64;
    // Rounded down: never later than the comparison above.
    let until = Timestamp::from_micros(whole((expires + leeway) * 1e6));
    Ok(Times { issued_at: issued.map(whole), expires_at: whole(expires), until })
}

/// Checks the audience claim: a string or a list of strings that includes one of the issuer's
/// audiences exactly (RFC 7519 section 4.1.3).
pub(super) fn check_audience(issuer: &Issuer, claims: &Json) -> Result<(), Denial> {
    let Audiences::OneOf(ours) = &issuer.audiences else { return Ok(()) };
    let named = audiences(issuer, claims);
    if named.iter().any(|audience| ours.iter().any(|own| own == audience)) {
        Ok(())
    } else {
        Err(Denial::new(Reason::WrongAudience, wrong_audience(issuer, ours, claims)))
    }
}

/// Returns the audiences of a token: the text of its audience claim, or the texts of a list. A list
/// with anything else names none.
fn audiences<'j>(issuer: &Issuer, claims: &'j Json) -> Vec<&'j str> {
    match claims.get(&issuer.audience_claim) {
        Some(Json::Text(one)) => vec![one],
        Some(Json::List(many)) => {
            let texts: Option<Vec<&str>> = many.iter().map(Json::text).collect();
            texts.unwrap_or_default()
        }
        _ => Vec::new(),
    }
}

/// The cause of a denial for the audience: the one of the token beside those of the issuer.
fn wrong_audience(issuer: &Issuer, ours: &[String], claims: &Json) -> String {
    let is_text = |item: &&Json| item.text().is_some();
    let sent = match claims.get(&issuer.audience_claim) {
        None => "is missing".to_owned(),
        Some(Json::Text(one)) => format!("is {}", listed([one.as_str()])),
        Some(Json::List(many)) if many.is_empty() => "is an empty list".to_owned(),
        Some(Json::List(many)) => match many.iter().find(|item| !is_text(item)) {
            Some(other) => format!("has an element that is {}, not text", other.type_name()),
            None => format!("is {}", listed(many.iter().filter_map(Json::text))),
        },
        Some(other) => format!("is {}, not text or a list of texts", other.type_name()),
    };
    let ours = listed(ours.iter().map(String::as_str));
    format!("the claim `{}` {sent}; the issuer's audiences are {ours}", issuer.audience_claim)
}

/// What a policy takes from every token.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// The kind of the credential that the token is.
    pub(super) kind: CredentialKind,
    /// The claims that are kept for conditions.
    pub(super) claims: &'a [Arc<str>],
    /// The audiences that routes require.
    pub(super) audiences: &'a [Arc<str>],
    /// The denylists of other services.
    pub(super) denylists: &'a [ExternalDenylist],
}

/// A token whose signature and times are proven.
#[derive(Clone, Copy)]
pub(super) struct ProvenToken<'a> {
    pub(super) text: &'a str,
    /// The name of the key that signed it.
    pub(super) kid: Option<&'a str>,
    pub(super) claims: &'a Json,
    pub(super) times: &'a Times,
}

/// The principal of a token.
///
/// # Errors
/// `invalid_claim`.
pub(super) fn principal(
    token: ProvenToken<'_>,
    issuer: &Issuer,
    wanted: Wanted<'_>,
    validity: Validity,
) -> Result<Principal, Denial> {
    let ProvenToken { text: token, kid, claims, times } = token;
    for name in &issuer.required_claims {
        if claims.get(name).is_none_or(|value| matches!(value, Json::Null)) {
            return Err(Denial::new(
                Reason::InvalidClaim,
                format!("the required claim `{name}` is missing"),
            )
            .with_message(format!("the token lacks the claim `{name}`")));
        }
    }
    let sources = &issuer.claims;
    let (subject, source) = subject(claims, sources)?;
    let mapped = match &issuer.workloads {
        Some(workloads) => workloads.map(&subject, &issuer.name)?,
        None => None,
    };
    let mut omitted = Omitted::default();
    let tenant = match (&issuer.tenant, &mapped) {
        (Some(fixed), _) => PartName::read(fixed.clone()),
        (None, Some((_, mapped))) => mapped.tenant.clone().map(PartName::read).unwrap_or_default(),
        (None, None) => optional(claims, &sources.tenant, (Part::Tenant, "tenant"), &mut omitted)?,
    };
    let client = optional(claims, &sources.client, (Part::Client, "client"), &mut omitted)?;
    let jti = token_id(claims, issuer, &mut omitted)?;
    let ClaimSource { paths, is_named } = &sources.roles;
    let roles = match found(claims, paths, "roles", *is_named)? {
        None => Vec::new(),
        Some((claim, path)) => match words::roles(claim, path) {
            Ok(roles) => roles,
            Err(words::Unusable::Type(why)) if !is_named => {
                omitted.parts.push((Part::Roles, why));
                Vec::new()
            }
            Err(unusable) => return Err(unusable.into()),
        },
    };
    let mut scopes = words::Scopes::default();
    for path in &sources.scopes {
        match scopes.add(path.find(claims), path) {
            Err(words::Unusable::Type(why)) if !sources.are_scopes_named => {
                omitted.parts.push((Part::Scopes, why));
            }
            result => result?,
        }
    }
    let words::Scopes { scopes, omitted: omitted_scopes } = scopes;
    omitted.scopes = omitted_scopes;
    // The rule of a workload is all that it is granted.
    let (id, subject, scopes, roles) = match mapped {
        Some((rule, mapped)) => {
            omitted = Omitted::default();
            (Some(mapped.name), mapped.subject, rule.scopes.clone(), rule.roles.clone())
        }
        None => (None, subject, scopes, roles),
    };
    if !is_identifier(&subject) || tenant.name.as_deref().is_some_and(|it| !is_identifier(it)) {
        let cause = "the subject or the tenant of the workload is longer than 256 bytes";
        return Err(Denial::new(Reason::InvalidClaim, cause));
    }
    let names = Names {
        issuer: &issuer.digest,
        // An ECDSA signature can be rewritten into another valid one, the signed part cannot: the hash is over that.
        token: revocation::token_digest(token),
        jti: jti.as_deref(),
        subject: &subject,
        subject_is_client: source.is_client,
        client: client.entry.as_deref(),
        tenant: tenant.entry.as_deref(),
    };
    let foreign = foreign_keys(token, jti.as_deref(), &subject, wanted.denylists)?;
    let actors = Actors::of(claims, &issuer.name)
        .map_err(|error| Denial::new(Reason::InvalidClaim, error.to_string()))?;
    let digest_of = |Actor { issuer: name, subject }| {
        let is_own = *name == *issuer.name;
        (if is_own { Arc::clone(&issuer.digest) } else { issuer_digest(name) }, subject)
    };
    let keys = revocation::Keys::new(names, times.issued_at.unwrap_or(0), foreign)
        .with_actors(actors.iter(&issuer.name).map(digest_of));
    let keys = match kid {
        Some(kid) => keys.with_kid(kid),
        None => keys,
    };
    let keys = match id.filter(|id| *id != subject) {
        Some(id) => keys.with_subject_alias(&id),
        None => keys,
    };
    let identity = Identity {
        kind: wanted.kind,
        issuer: Arc::clone(&issuer.name),
        subject: &subject,
        holder: match &issuer.workloads {
            Some(_) => Holder::Client,
            None => holder::of(claims, &subject, source, client.name.as_deref()),
        },
        tenant: tenant.name.as_deref(),
        is_tenant_fixed: issuer.tenant.is_some(),
        client: client.name.as_deref(),
        scopes: &scopes,
        omitted,
        roles: &roles,
        claims: Claims::select(wanted.claims, claims),
        issued_at: times.issued_at,
        expires_at: times.expires_at,
    };
    let principal = Principal::new(identity, validity, keys)
        .map_err(|error| Denial::new(Reason::InvalidClaim, error.to_string()))?
        .with_actors(actors);
    let principal = if wanted.audiences.is_empty() {
        principal
    } else {
        let named = audiences(issuer, claims);
        let required = wanted.audiences.iter().enumerate();
        let held = required.filter(|(_, audience)| named.contains(&&***audience));
        principal.with_audiences(held.map(|(place, _)| place).collect())
    };
    Ok(match confirmation::of(claims)? {
        Some(confirmation) => principal.with_confirmation(confirmation),
        None => principal,
    })
}

/// The first claim of the subject that the token has, and which one it is. A claim that is there and
/// cannot be a subject is not passed over.
fn subject<'p>(
    claims: &Json,
    sources: &'p ClaimSources,
) -> Result<(String, &'p SubjectSource), Denial> {
    let mut named = None;
    for source in &sources.subject {
        if sources.is_subject_named {
            check_path(claims, &source.path, "subject")?;
        }
        if let Some(json) = source.path.find(claims) {
            named = Some((json, source));
            break;
        }
    }
    let Some((json, source)) = named else {
        let names = sources.subject.iter().map(|source| format!("`{}`", source.path));
        let names: Vec<String> = names.collect();
        let cause = format!("the token has no subject: no claim {}", names.join(", "));
        return Err(Denial::new(Reason::InvalidClaim, cause));
    };
    match identifier(json, sources.is_subject_named) {
        Some(subject) => Ok((subject, source)),
        None => Err(unfit("subject", json, &source.path, sources.is_subject_named)),
    }
}

/// An optional part of the identity.
#[derive(Default)]
struct PartName {
    /// The name that routes use.
    name: Option<String>,
    /// The name by which bans and revocations find the token: every route uses them, those that
    /// use the part and those that do not.
    entry: Option<String>,
}

impl PartName {
    fn read(name: String) -> Self {
        Self { entry: Some(name.clone()), name: Some(name) }
    }
}

/// An optional part of the identity. A claim with a default name and another type is omitted, and
/// refused on the routes that use the part; text that cannot be a name is refused everywhere.
fn optional(
    claims: &Json,
    ClaimSource { paths, is_named }: &ClaimSource,
    (part, name): (Part, &str),
    omitted: &mut Omitted,
) -> Result<PartName, Denial> {
    let Some((json, path)) = found(claims, paths, name, *is_named)? else {
        return Ok(PartName::default());
    };
    match identifier(json, *is_named) {
        Some(text) => Ok(PartName::read(text)),
        None if !is_named && json.text().is_none() => {
            let entry = entry_name(json);
            let mut why = unfit(name, json, path, false).cause.into_owned();
            if entry.is_none() && !matches!(json, Json::Null) {
                let _ = write!(why, ", so that no ban or revocation by {name} finds it");
            }
            omitted.parts.push((part, why));
            Ok(PartName { name: None, entry })
        }
        None => Err(unfit(name, json, path, *is_named)),
    }
}

/// Returns the only name that a claim of another type can mean: a whole number, or the only element
/// of a list.
fn entry_name(json: &Json) -> Option<String> {
    match json {
        Json::List(items) => match items.as_slice() {
            [item] => identifier(item, true),
            _ => None,
        },
        other => identifier(other, true),
    }
}

/// Returns the first claim of a list that the token has.
fn found<'j, 'p>(
    claims: &'j Json,
    paths: &'p [ClaimPath],
    part: &str,
    is_named: bool,
) -> Result<Option<(&'j Json, &'p ClaimPath)>, Denial> {
    for path in paths {
        if is_named {
            check_path(claims, path, part)?;
        }
        if let Some(json) = path.find(claims) {
            return Ok(Some((json, path)));
        }
    }
    Ok(None)
}

/// Checks that a path that the policy names does not end at a claim of another type: the claim is
/// there, and what the policy looks for is not in it.
fn check_path(claims: &Json, path: &ClaimPath, part: &str) -> Result<(), Denial> {
    match path.blocked(claims) {
        None => Ok(()),
        Some((at, json)) => {
            let cause = format!(
                "the {part} is at the path `{path}`, and `{at}` is {}, not an object",
                json.type_name()
            );
            Err(Denial::new(Reason::InvalidClaim, cause))
        }
    }
}

/// The token's id, under which it can be revoked. It is optional unless the policy requires it: a
/// token without it is revoked by its digest, its subject or its client.
fn token_id(
    claims: &Json,
    issuer: &Issuer,
    omitted: &mut Omitted,
) -> Result<Option<String>, Denial> {
    let is_required = issuer.required_claims.iter().any(|claim| claim == "jti");
    let Some(json) = claims.get("jti").filter(|json| !matches!(json, Json::Null)) else {
        return Ok(None);
    };
    match (identifier(json, !is_required), json) {
        (Some(jti), _) => Ok(Some(jti)),
        (None, Json::Text(_)) => {
            Err(Denial::new(Reason::InvalidClaim, "jti is not 1 to 256 printable characters"))
        }
        (None, other) => {
            let why = format!("jti is {}, not text", other.type_name());
            if is_required {
                return Err(Denial::new(Reason::InvalidClaim, why));
            }
            omitted.parts.push((Part::Id, format!("{why}, so that no revocation by jti finds it")));
            Ok(None)
        }
    }
}

fn unfit(part: &str, json: &Json, path: &ClaimPath, is_named: bool) -> Denial {
    let cause = match json {
        Json::Text(text) if !text.is_empty() && text.trim().is_empty() => {
            format!("the {part} (`{path}`) has white space only")
        }
        Json::Text(_) => format!("the {part} (`{path}`) is not 1 to 256 printable characters"),
        Json::Integer(_) if !is_named => format!(
            "the {part} (`{path}`) is a number, not text; name the claim in `claims.{part}` to take \
             it as text"
        ),
        // `1.0` and `1e3` are numbers with more than one text, and large ones lose digits.
        Json::Number(_) => format!(
            "the {part} (`{path}`) is not a whole number below 2^63 without fraction and exponent"
        ),
        Json::List(_) | Json::Map(_) if part == "subject" => format!(
            "the {part} (`{path}`) is {}, not text; a path is a list in the list, `[[a, b]]`",
            json.type_name()
        ),
        other => format!("the {part} (`{path}`) is {}, not text", other.type_name()),
    };
    Denial::new(Reason::InvalidClaim, cause)
}

/// A claim that becomes a header, a log field or a part of a key: text, or the decimal text of a
/// whole number where the policy names the claim.
fn identifier(json: &Json, takes_numbers: bool) -> Option<String> {
    match json {
        Json::Text(text) if is_identifier(text) && !text.trim().is_empty() => Some(text.clone()),
        Json::Integer(number) if takes_numbers => Some(number.to_string()),
        _ => None,
    }
}

/// The keys of the token on the denylists of other services.
fn foreign_keys(
    token: &str,
    jti: Option<&str>,
    subject: &str,
    denylists: &[ExternalDenylist],
) -> Result<Vec<String>, Denial> {
    if denylists.is_empty() {
        return Ok(Vec::new());
    }
    let whole = revocation::sha256(token.as_bytes());
    let keys = denylists
        .iter()
        .map(|pattern| pattern.key(jti, subject, &whole))
        .collect::<Option<Vec<_>>>();
    keys.ok_or_else(|| {
        Denial::new(Reason::InvalidClaim, "revocation.foreign needs jti, and the token has none")
    })
}
