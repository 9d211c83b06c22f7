//! The part of a check that finds out who sends the request.

use std::sync::Arc;

use super::{csrf, hooks::CheckHooks, network::BannedClient, possession::check_possession};
use crate::{
    authenticate,
    credential::{self, Credential, dpop::ProofUse},
    decision::{Evidence, Missing},
    denial::{Denial, Reason, listed},
    identity::{CredentialKind, Principal},
    policy::Policy,
    request::Request,
    route::Route,
    snapshot::Snapshot,
    stage::{Check, Stage},
    time::Timestamp,
};

/// Finds the credential of a request and verifies it for its route: kind, proof of possession,
/// audience. Returns its holder, and the use of a proof. `banned` is a client whose network is banned
/// automatically.
pub(super) fn verify_credential(
    request: &Request<'_>,
    route: &Route,
    banned: Option<&BannedClient>,
    snapshot: &Snapshot,
    now: Timestamp,
    hooks: &mut impl CheckHooks,
    evidence: &mut Evidence,
) -> Result<(Arc<Principal>, Option<Box<ProofUse>>), Denial> {
    let policy = &snapshot.policy;
    evidence.stage = Stage::Credential;
    let credential = find_credential(request, route, policy).map_err(|denial| {
        evidence.credential = authenticate::kind_of_malformed(denial.reason);
        with_advice(denial, route)
    })?;
    evidence.credential = Some(credential.kind());
    let has_proof = credential.has_proof();
    if has_proof {
        evidence.proof = Some(Box::default());
    }
    if !route.credentials.contains(credential.kind()) {
        return Err(not_accepted(credential.kind(), route));
    }
    // Before the signature: what a foreign page made a browser send is not the client's request.
    if route.ambient || !route.credentials.are_sent_by_clients() {
        csrf::check(request, route, credential.kind(), policy.cookies.as_ref())?;
    }
    let verified = match banned {
        None => hooks.verify(snapshot, credential, now),
        Some(client) => hooks
            .verify_from_banned(snapshot, credential, client.address, now)
            .ok_or_else(|| client.unverified(now))?,
    };
    let principal = verified.map_err(|rejection| {
        evidence.stage = Stage::Verification(rejection.check);
        let of_key = rejection.refresh.map(|source| Missing::Key { source });
        let of_token = rejection.introspect.map(Missing::Statement);
        evidence.missing = rejection.record.map(Missing::Record).or(of_key).or(of_token);
        *rejection.denial
    })?;
    // A result of another kind would be one that the route does not accept.
    if principal.kind() != credential.kind() {
        return Err(Denial::new(Reason::Internal, "the result belongs to another credential"));
    }
    // Before the principal is evidence: without the proof, it is not the client.
    evidence.stage = Stage::Verification(Check::Claims);
    let proof = if has_proof || principal.confirmation().is_some() {
        check_possession(credential, &principal, (request, banned), snapshot, now, hooks, evidence)?
    } else {
        None
    };
    evidence.stage = Stage::Verification(Check::Audience);
    check_audience(route, policy, &principal)?;
    Ok((principal, proof))
}

/// Finds the one credential of a request.
fn find_credential<'a>(
    request: &Request<'a>,
    route: &Route,
    policy: &Policy,
) -> Result<Credential<'a>, Denial> {
    let offered = match &route.websocket {
        Some(rule) => rule.token(&request.headers)?,
        None => None,
    };
    let keys = policy.api_keys.as_ref();
    if route.credentials.contains(CredentialKind::Cookie)
        && let Some(cookie) = authenticate::cookie(&request.headers, policy.cookies.as_ref(), keys)?
    {
        return if offered.is_some() {
            let cause = "a cookie with a token beside one in `Sec-WebSocket-Protocol`";
            Err(Denial::new(Reason::AmbiguousCredential, cause))
        } else {
            Ok(cookie)
        };
    }
    let found = match offered {
        Some(offered) => authenticate::offered(offered.token, &request.headers, keys),
        None => authenticate::extract(&request.headers, keys),
    };
    let found = match found {
        Ok(found) if found.has_proof() && policy.dpop.is_none() => {
            Err(Denial::new(Reason::MissingCredential, credential::OTHER_SCHEME))
        }
        found => found,
    };
    let found = if policy.issuers.introspects() {
        found.map(|found| authenticate::or_opaque(found, &request.headers, keys))
    } else {
        found
    };
    if offered.is_some() {
        return found;
    }
    if !route.credentials.contains(CredentialKind::Certificate) {
        return found;
    }
    // A certificate belongs to the connection, so that it may be there beside the credential of a
    // request, which is the more specific one.
    match found {
        Err(denial) if denial.reason == Reason::MissingCredential => {
            let section = policy.client_certificates.as_ref();
            let certificate = authenticate::peer_certificate(request, section)?;
            certificate.map(Credential::Certificate).ok_or(denial)
        }
        found => found,
    }
}

/// Adds to the denial of a request without a credential what its route accepts.
fn with_advice(denial: Denial, route: &Route) -> Denial {
    match &route.accepted {
        Some(accepted) if denial.reason == Reason::MissingCredential => {
            let cause = format!("{}; {}", denial.cause, accepted.advice);
            Denial::new(denial.reason, cause)
                .with_message(format!("no credential was sent; {}", accepted.advice))
        }
        _ => denial,
    }
}

/// Checks that a token is for the resource of its route (RFC 8707 section 3).
fn check_audience(route: &Route, policy: &Policy, principal: &Principal) -> Result<(), Denial> {
    let Some(place) = route.audience else { return Ok(()) };
    if !principal.kind().has_audience() || principal.has_audience(place) {
        return Ok(());
    }
    let audience = policy.resources.get(place).map_or("", |resource| &resource.resource);
    Err(Denial::new(
        Reason::WrongAudience,
        format!("the token is not for `{audience}`, which the route requires"),
    ))
}

fn not_accepted(kind: CredentialKind, route: &Route) -> Denial {
    let accepted: Vec<&str> = route.credentials.labels().collect();
    let cause = format!(
        "the credential is of the kind `{}`, and the route accepts {}",
        kind.label(),
        listed(accepted)
    );
    match &route.accepted {
        Some(accepted) => {
            let advice = &accepted.advice;
            let text = Reason::CredentialNotAccepted.text();
            Denial::new(Reason::CredentialNotAccepted, format!("{cause}; {advice}"))
                .with_message(format!("{text}; {advice}"))
        }
        None => Denial::new(Reason::CredentialNotAccepted, cause),
    }
}
