//! The section `metering`: how requests whose usage is counted are followed to their end.

use schemars::JsonSchema;
use serde::Deserialize;

use super::reservation::ReservationKeys;
use crate::{
    config::{Errors, Path},
    secret::SecretSource,
    time::Span,
};

/// The most secrets: the one in use, those before it, and the next one.
const MAX_SECRETS: usize = 4;

/// The lives that a hold may have, in seconds: a heartbeat of the proxy has to fit in, and a replica
/// that is gone frees its slots within it.
const LIVES: std::ops::RangeInclusive<u64> = 5..=600;

/// The section `metering`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MeteringConfig {
    /// Secrets that authenticate the reservations of requests, each of at least 32 bytes, the same
    /// for all replicas. The first one signs, all of them verify: for a new secret, add it as the
    /// last one everywhere, then move it to the front, then remove the old one.
    pub secrets: Vec<SecretSource>,
    /// The time after which what a request holds expires, from 5s to 10m, unless the proxy reports
    /// that its response still arrives. Default 30s: three times the interval of Envoy's reports in
    /// the shipped configuration.
    #[serde(default = "life")]
    pub life: Span,
}

fn life() -> Span {
    Span::from_secs(30)
}

impl MeteringConfig {
    /// Adds the errors of the section.
    pub(crate) fn validate(&self, path: &Path, errors: &mut Errors) {
        let secrets = path.key("secrets");
        if self.secrets.is_empty() || self.secrets.len() > MAX_SECRETS {
            errors.push(&secrets, format!("list 1 to {MAX_SECRETS} secrets"));
        }
        for (index, source) in self.secrets.iter().enumerate() {
            let SecretSource::Inline(secret) = source else { continue };
            if let Err(error) = ReservationKeys::check(secret) {
                errors.push(&secrets.index(index), error.to_string());
            }
        }
        if !LIVES.contains(&self.life.secs()) {
            errors.push(&path.key("life"), "it is from 5s to 10m");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Document, limit::reservation::MIN_SECRET};

    fn errors(text: &str) -> Vec<String> {
        let document = Document::parse(text, &|_| None).unwrap();
        let config: MeteringConfig = document.read().unwrap();
        let mut errors = Errors::default();
        config.validate(&Path::root().key("metering"), &mut errors);
        document.locate(errors).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_section_has_secrets_and_a_life() {
        let secret = "a".repeat(MIN_SECRET);
        for (text, expected) in [
            ("secrets: ['file:/run/a', 'file:/run/b']".to_owned(), ""),
            (format!("secrets: [{secret}]\nlife: 5s"), ""),
            ("secrets: []".to_owned(), "metering.secrets: list 1 to 4 secrets"),
            (
                "secrets: [short]".to_owned(),
                "metering.secrets[0]: a secret has fewer than 32 bytes",
            ),
            (format!("secrets: [{secret}]\nlife: 4s"), "metering.life: it is from 5s to 10m"),
            (format!("secrets: [{secret}]\nlife: 11m"), "metering.life: it is from 5s to 10m"),
        ] {
            let found = errors(&text);
            assert_eq!(found.is_empty(), expected.is_empty(), "{found:?}");
            assert!(found.iter().all(|error| error.contains(expected)), "{found:?}");
        }
    }
}
