//! The part of a policy that decides how credentials are verified, so that a reload that changes
//! nothing of it keeps the results of earlier verifications.

use std::sync::Arc;

use crate::{
    credential::{
        api_key::ApiKeysConfig, certificate::ClientCertificatesConfig, jwt::issuer::IssuerConfig,
    },
    revocation::RevocationConfig,
};

/// Everything of a policy that [`verify`](crate::authenticate::verify) reads, but for the limits and
/// the tiers that records of API keys name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct VerificationRules {
    pub(super) issuers: Vec<IssuerConfig>,
    pub(super) api_keys: Option<ApiKeysConfig>,
    pub(super) client_certificates: Option<ClientCertificatesConfig>,
    pub(super) revocation: RevocationConfig,
    pub(super) retained_claims: Vec<Arc<str>>,
    pub(super) audiences: Vec<Arc<str>>,
}

#[cfg(test)]
mod tests {
    use crate::{
        config::{Document, Errors},
        policy::{Policy, PolicyConfig},
    };

    const BEFORE: &str = "
issuers:
  - { issuer: https://auth.example.com, audiences: [api], algorithms: [RS256], jwks: { file: /k } }
routes:
  - { match: { methods: [GET], paths: [/v1/models] }, scopes: [] }
limits:
  - { name: a, by: [subject], rate: 10/1m }
  - { name: b, by: [subject], rate: 10/1m, overrides: [{ tier: gold, rate: 20/1m }] }
";
    const WITH_KEYS: &str = "api_keys: { file: /keys }\n";

    fn policy(text: &str) -> Policy {
        let document = Document::parse(text, &|_| None).unwrap();
        let config: PolicyConfig = document.read().unwrap();
        let mut errors = Errors::default();
        let policy = Policy::compile(&config, &mut errors);
        assert!(errors.is_empty(), "{:?}", errors.without_lines());
        policy.unwrap()
    }

    fn with(old: &str, new: &str) -> Policy {
        let text = format!("{BEFORE}{WITH_KEYS}");
        assert!(text.contains(old), "{old}");
        policy(&text.replace(old, new))
    }

    #[test]
    fn results_are_kept_where_nothing_changes_that_a_verification_reads() {
        let before = policy(&format!("{BEFORE}{WITH_KEYS}"));
        for (old, new) in [
            ("scopes: []", "scopes: [x]"),
            ("rate: 10/1m }", "rate: 11/1m }"),
            ("limits:\n", "limits:\n  - { name: aa, by: [subject], rate: 1/1m }\n"),
            ("limits:\n", "require_https: true\nlimits:\n"),
            ("gold, rate", "gold, burst: 5, rate"),
        ] {
            assert!(with(old, new).verifies_as(&before), "`{old}` to `{new}`");
        }
    }

    #[test]
    fn results_end_with_every_change_that_a_verification_reads() {
        let before = policy(&format!("{BEFORE}{WITH_KEYS}"));
        for (old, new) in [
            ("audiences: [api]", "audiences: [other]"),
            ("algorithms: [RS256]", "algorithms: [RS256, ES256]"),
            ("jwks: { file: /k }", "jwks: { file: /other }"),
            ("jwks: { file: /k }", "jwks: { file: /k }, leeway: 5s"),
            ("jwks: { file: /k }", "jwks: { file: /k }, max_lifetime: 5m"),
            ("jwks: { file: /k }", "jwks: { file: /k }, required_claims: [jti]"),
            ("jwks: { file: /k }", "jwks: { file: /k }, claims: { tenant: org }"),
            ("jwks: { file: /k }", "jwks: { file: /k }, tenant: acme"),
            // The claim is retained of tokens that are verified from now on.
            ("scopes: []", "scopes: [], conditions: ['principal.claims.plan == \"gold\"']"),
            ("{ file: /keys }", "{ file: /keys, max_life: 1d }"),
            // Records of API keys may name a limit, its form, or a tier.
            ("  - { name: a, by: [subject], rate: 10/1m }\n", ""),
            (
                "{ name: a, by: [subject], rate: 10/1m }",
                "{ name: a, by: [subject], requests: 9/day }",
            ),
            ("tier: gold", "tier: silver"),
        ] {
            assert!(!with(old, new).verifies_as(&before), "`{old}` to `{new}`");
        }
    }

    #[test]
    fn a_record_may_set_the_same_quotas_of_a_limit_of_each_form() {
        const PRICED: &str = "metering: { secrets: [mmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmm] }
models: [{ name: m, context: 1000 }]
prices: { currency: EUR, models: [{ model: m, input: 1, output: 1 }] }
";
        let forms = [
            "rate: 10/1m",
            "requests: 10/day",
            "requests: 10/month",
            "tokens: 10/day",
            "tokens: 10/month",
            "tokens: 10/1m",
            "cost: 10/day",
            "cost: 10/month",
            "concurrent: 10",
            "tokens_per_request: 10",
        ];
        let of = |form: &str| {
            let text = format!("{BEFORE}{WITH_KEYS}{PRICED}");
            policy(&text.replace(
                "{ name: a, by: [subject], rate: 10/1m }",
                &format!("{{ name: a, by: [subject], {form} }}"),
            ))
        };
        for one in forms {
            for other in forms {
                assert_eq!(of(one).verifies_as(&of(other)), one == other, "{one}, {other}");
            }
        }
    }

    #[test]
    fn names_of_limits_matter_only_to_api_keys() {
        let fewer = BEFORE.replace("  - { name: a, by: [subject], rate: 10/1m }\n", "");
        assert!(policy(&fewer).verifies_as(&policy(BEFORE)));
        assert!(!policy(&format!("{BEFORE}{WITH_KEYS}")).verifies_as(&policy(BEFORE)));
    }
}
