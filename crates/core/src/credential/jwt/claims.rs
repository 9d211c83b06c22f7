//! The claims of a token whose signature is proven: times, audience, and the identity they state.

use std::sync::Arc;

use super::{
    compact::refuse,
    issuer::{Audiences, ClaimPath, Issuer},
};
use crate::{
    denial::{Denial, Reason},
    identity::{Claims, CredentialKind, Identity, Principal, Validity},
    json::Json,
    revocation::{self, ExternalDenylist, Names},
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
    // Rounded down: never later than the comparison above.
    let until = Timestamp::from_micros(whole((expires + leeway) * 1e6));
    Ok(Times { issued_at: issued.map(whole), expires_at: whole(expires), until })
}

/// Checks the audience claim: a string or a list of strings that includes one of the issuer's
/// audiences exactly (RFC 7519 section 4.1.3).
pub(super) fn check_audience(issuer: &Issuer, claims: &Json) -> Result<(), Denial> {
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

/// What a policy takes from every token.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// The claims that are kept for conditions.
    pub(super) claims: &'a [Arc<str>],
    /// The denylists of other services.
    pub(super) denylists: &'a [ExternalDenylist],
}

/// The principal of a token.
///
/// # Errors
/// `invalid_claim`.
pub(super) fn principal(
    token: &str,
    issuer: &Issuer,
    claims: &Json,
    times: &Times,
    wanted: Wanted<'_>,
    validity: Validity,
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
    let foreign = foreign_keys(token, jti.as_deref(), &subject, wanted.denylists)?;
    let keys = revocation::Keys::new(names, times.issued_at.unwrap_or(0), foreign);
    let identity = Identity {
        kind: CredentialKind::Jwt,
        issuer: Arc::clone(&issuer.name),
        subject: &subject,
        tenant: tenant.as_deref(),
        is_tenant_fixed: issuer.tenant.is_some(),
        client: client.as_deref(),
        scopes: &scopes,
        roles: &roles,
        claims: Claims::select(wanted.claims, claims),
        issued_at: times.issued_at,
        expires_at: times.expires_at,
    };
    Principal::new(identity, validity, keys)
        .map_err(|error| Denial::new(Reason::InvalidClaim, error.to_string()))
}

/// The claim at a path; a null is an absent one.
fn at<'j>(claims: &'j Json, ClaimPath(path): &ClaimPath) -> Option<&'j Json> {
    path.iter()
        .try_fold(claims, |json, name| json.get(name))
        .filter(|json| !matches!(json, Json::Null))
}

/// A claim that becomes a header, a log field or a part of a key.
fn text(claims: &Json, path: &ClaimPath, cause: &'static str) -> Result<Option<String>, Denial> {
    let invalid = || Denial::new(Reason::InvalidClaim, cause);
    at(claims, path)
        .map(|json| json.text().filter(|text| is_identifier(text)).map(str::to_owned))
        .map(|text| text.ok_or_else(invalid))
        .transpose()
}

/// The words of a claim: a list of strings, or one string, which `split` splits at spaces.
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
    // Scopes go to the upstream as one string, where a space separates them: one scope of a list
    // must not become two there.
    if split && words.iter().any(|word| word.contains(' ')) {
        return refuse(Reason::InvalidClaim, "a scope of a list holds a space");
    }
    if words.iter().any(|word| word.chars().any(char::is_control)) {
        return refuse(Reason::InvalidClaim, "a scope or role holds a control character");
    }
    Ok(words)
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
