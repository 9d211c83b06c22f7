//! Workloads of a trust domain of SPIFFE, which JWT-SVIDs name in `sub`.

use super::{Algorithm, Audiences, IssuerConfig};
use crate::{
    config::{Errors, Path},
    credential::certificate::{IdentityRule, Mapped, is_spiffe_id, trust_domain},
    denial::{Denial, Reason, shown},
};

/// The algorithms of JWT-SVIDs (JWT-SVID section 2.1).
const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::ES512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];

/// The compiled `identities` of a trust domain.
#[derive(Clone, Debug)]
pub(in crate::credential::jwt) struct Workloads {
    rules: Vec<IdentityRule>,
}

impl Workloads {
    /// Compiles what an issuer has of a trust domain and records every error; `None` for an ordinary
    /// issuer.
    pub(super) fn compile(
        config: &IssuerConfig,
        algorithms: &[Algorithm],
        path: &Path,
        errors: &mut Errors,
    ) -> Option<Self> {
        let domain = config.issuer.as_str();
        if !domain.starts_with("spiffe:") {
            if !config.identities.is_empty() {
                let message = "only a trust domain of SPIFFE, such as `spiffe://prod.example.com`, has workloads";
                errors.push(&path.key("identities"), message);
            }
            return None;
        }
        if !is_spiffe_id(domain) || trust_domain(domain) != domain {
            let message =
                format!("`{domain}` is not a trust domain, such as `spiffe://prod.example.com`");
            errors.push(&path.key("issuer"), message);
        }
        if config.audiences == Audiences::Any || config.audience_claim != "aud" {
            let message = "a JWT-SVID names its audience in `aud`; list the names of this service";
            errors.push(&path.key("audiences"), message);
        }
        if algorithms.iter().any(|algorithm| !ALGORITHMS.contains(algorithm)) {
            let message = "JWT-SVIDs are signed with RS256, ES256, PS256 and their longer forms";
            errors.push(&path.key("algorithms"), message);
        }
        if config.claims.subject.is_some() {
            let message = "the subject of a JWT-SVID is `sub`; `identities` maps it";
            errors.push(&path.key("claims").key("subject"), message);
        }
        if config.jwks.as_ref().is_some_and(|jwks| jwks.discovery) {
            let message =
                "a trust domain has no discovery document; write the `url` or `file` of its bundle";
            errors.push(&path.key("jwks").key("discovery"), message);
        }
        let rules = config.identities.iter().enumerate().filter_map(|(index, rule)| {
            let at = path.key("identities").index(index);
            let rule = rule.compile(&at, errors)?;
            if rule.trust_domain().as_deref() != Some(domain) {
                errors.push(&at, format!("the name is not a SPIFFE ID of `{domain}`"));
            }
            Some(rule)
        });
        Some(Self { rules: rules.collect() })
    }

    /// Maps the `sub` of a JWT-SVID of a trust domain, which is compared whole. Without rules the
    /// identity is the ID itself.
    ///
    /// # Errors
    /// `invalid_claim` for another text than an ID of the domain, and for a workload that no rule
    /// fits.
    pub(in crate::credential::jwt) fn map(
        &self,
        id: &str,
        domain: &str,
    ) -> Result<Option<(&IdentityRule, Mapped)>, Denial> {
        let refuse = |cause: String| Err(Denial::new(Reason::InvalidClaim, cause));
        if !is_spiffe_id(id) || trust_domain(id) != domain || id == domain {
            return refuse(format!(
                "sub (`{}`) is not a SPIFFE ID of a workload of `{domain}`",
                shown(id)
            ));
        }
        let mut fitting =
            self.rules.iter().filter_map(|rule| Some((rule, rule.map(id.to_owned())?)));
        match fitting.next() {
            None if self.rules.is_empty() => Ok(None),
            None => refuse(format!("no entry of `identities` has the SPIFFE ID `{}`", shown(id))),
            found => Ok(found),
        }
    }
}
