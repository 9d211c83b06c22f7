//! The header `WWW-Authenticate` of a denial.

use crate::{
    credential::dpop::ProofAnswer,
    denial::{Denial, Reason, fitting},
    route::Route,
    rule::scope::ScopeRule,
};

/// `WWW-Authenticate` after RFC 6750 section 3 (no error code when no credential was sent, and
/// `credentials` and `key_headers` as attributes of their own where the policy has API keys) and
/// RFC 9728 section 5.1: where a route has metadata, the challenge to a client without a credential
/// lists the scopes of the route.
///
/// Where the route accepts proofs, a challenge for `DPoP` with their algorithms follows (RFC 9449
/// section 7.1). A client that used DPoP, or has to, gets that one alone.
pub(super) fn challenge(
    denial: &Denial,
    route: Option<&Route>,
    proof: Option<&ProofAnswer>,
) -> Option<String> {
    let url = route.and_then(|route| route.resource_metadata.as_deref());
    let metadata = url.map(|url| format!(", resource_metadata=\"{url}\"")).unwrap_or_default();
    let accepted = route.and_then(|route| route.accepted.as_ref());
    let kinds = accepted.map(|accepted| accepted.challenge.as_str()).unwrap_or_default();
    let algs = route.and_then(|route| route.algs.as_deref());
    let scope = match route.map(|route| &route.scopes) {
        Some(ScopeRule::All(scopes))
            if url.is_some() && denial.reason == Reason::MissingCredential =>
        {
            scope(scopes)
        }
        _ => scope(&denial.needed),
    };
    let error = match (denial.reason, denial.http()) {
        (Reason::MissingCredential, _) => {
            let algs = and_dpop(algs);
            return Some(format!("Bearer realm=\"tollgate\"{kinds}{metadata}{scope}{algs}"));
        }
        (Reason::AmbiguousCredential, _) => "invalid_request",
        (_, 401) => "invalid_token",
        (
            Reason::InsufficientScope
            | Reason::ModelForbidden
            | Reason::ToolForbidden
            | Reason::CategoryForbidden,
            _,
        ) if denial.needs_scopes => "insufficient_scope",
        _ => return None,
    };
    let description = denial.reason.text().replace(['"', '\\', '`'], "'");
    if let Some(ProofAnswer { fault, .. }) = proof {
        let error = fault.map_or(error, |fault| fault.error());
        let algs = algs.map(|algs| format!(", algs=\"{algs}\"")).unwrap_or_default();
        return Some(format!(
            "DPoP realm=\"tollgate\"{metadata}, error=\"{error}\", error_description=\"{description}\"{scope}{algs}"
        ));
    }
    let algs = and_dpop(algs.filter(|_| denial.http() == 401));
    Some(format!(
        "Bearer realm=\"tollgate\"{kinds}{metadata}, error=\"{error}\", error_description=\"{description}\"{scope}{algs}"
    ))
}

/// The challenge for `DPoP` that follows another one.
fn and_dpop(algs: Option<&str>) -> String {
    algs.map(|algs| format!(", DPoP algs=\"{algs}\"")).unwrap_or_default()
}

/// The `scope` attribute of a challenge. A scope beyond ASCII cannot be written there (RFC 6750
/// section 3); the message of the answer names it.
fn scope(scopes: &[String]) -> String {
    let fitting = fitting(scopes.iter().map(String::as_str).filter(|scope| scope.is_ascii()));
    if fitting.is_empty() { String::new() } else { format!(", scope=\"{}\"", fitting.join(" ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::dpop::ProofFault;

    #[test]
    fn challenges_follow_rfc_6750() {
        let challenge = |denial: Denial| challenge(&denial, None, None);
        assert_eq!(
            challenge(Denial::new(Reason::MissingCredential, "")).unwrap(),
            "Bearer realm=\"tollgate\""
        );
        assert!(
            challenge(Denial::new(Reason::Expired, ""))
                .unwrap()
                .contains("error=\"invalid_token\"")
        );
        let scoped = challenge(
            Denial::new(Reason::InsufficientScope, "")
                .with_scopes(["a".to_owned(), "b".to_owned()]),
        )
        .unwrap();
        assert!(scoped.ends_with("scope=\"a b\"") && scoped.contains("insufficient_scope"));
        assert_eq!(challenge(Denial::new(Reason::NoRoute, "")), None);
    }

    #[test]
    fn a_client_that_used_dpop_gets_its_challenge() {
        let challenge = |reason, fault| {
            let answer = ProofAnswer { fault, nonce: None };
            challenge(&Denial::new(reason, ""), None, Some(&answer))
        };
        for (reason, fault, error) in [
            (Reason::InvalidProof, Some(ProofFault::Proof), "invalid_dpop_proof"),
            (Reason::InvalidProof, Some(ProofFault::Nonce), "use_dpop_nonce"),
            (Reason::ProofRequired, Some(ProofFault::Token), "invalid_token"),
            (Reason::Expired, None, "invalid_token"),
        ] {
            let challenge = challenge(reason, fault).unwrap();
            assert!(challenge.starts_with("DPoP realm=\"tollgate\", "), "{challenge}");
            assert!(challenge.contains(&format!("error=\"{error}\"")), "{challenge}");
        }
        assert_eq!(challenge(Reason::RateLimited, None), None);
    }
}
