//! Keys, secrets, certificates, and what is cached of credentials.

use std::fmt;

use prometheus_client::{encoding::DescriptorEncoder, registry::Unit};

use super::{CertificateStatus, Scrape, TokenStatus, family::Family};
use crate::secrets::SecretStatus;

impl Scrape {
    pub(super) fn jwks(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let jwks = &self.status.jwks;
        let mut family =
            Family::gauge(encoder, "jwks_keys", "Keys of an issuer that may be used.", None)?;
        for issuer in jwks {
            family.value(&[("issuer", issuer.issuer.as_str())], issuer.keys)?;
        }
        let help = "Time since an issuer's keys were last fetched; absent before they were.";
        let mut family = Family::gauge(encoder, "jwks_age", help, Some(&Unit::Seconds))?;
        for issuer in jwks {
            if let Some(age) = issuer.age {
                let labels = [("issuer", issuer.issuer.as_str())];
                family.value(&labels, age.as_secs_f64())?;
            }
        }
        let mut family =
            Family::counter(encoder, "jwks_fetches", "Fetches of an issuer's keys, by result.")?;
        for issuer in jwks {
            for (result, count) in [("ok", issuer.ok), ("failed", issuer.failed)] {
                family.count(&[("issuer", issuer.issuer.as_str()), ("result", result)], count)?;
            }
        }
        Ok(())
    }

    pub(super) fn secrets(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let secrets = self.metrics.secrets();
        if secrets.values().all(Vec::is_empty) {
            return Ok(());
        }
        let each =
            || secrets.iter().flat_map(|(purpose, all)| all.iter().map(move |one| (*purpose, one)));
        let help = "Whether a secret that is read from a file may be used.";
        let mut family = Family::gauge(encoder, "secret_usable", help, None)?;
        for (purpose, SecretStatus { file, usable, .. }) in each() {
            family.value(&[("secret", purpose), ("file", file)], u64::from(*usable))?;
        }
        let help =
            "Time since a secret was last read from its file; secrets.max_stale is the most.";
        let mut family = Family::gauge(encoder, "secret_age", help, Some(&Unit::Seconds))?;
        for (purpose, SecretStatus { file, found, .. }) in each() {
            let labels = [("secret", purpose), ("file", file.as_str())];
            family.value(&labels, found.elapsed().as_secs_f64())?;
        }
        Ok(())
    }

    pub(super) fn api_keys(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let sources = self.metrics.api_keys();
        if sources.is_empty() {
            return Ok(());
        }
        let help = "API keys in force, by source and state; expiring, weak and rotating are parts of usable.";
        let mut family = Family::gauge(encoder, "api_keys", help, None)?;
        for source in &sources {
            for (state, count) in source.by_state() {
                family.value(&[("source", source.source), ("state", state)], count)?;
            }
        }
        let help = "API keys that this process has seen in the last day.";
        let mut family = Family::gauge(encoder, "api_keys_used", help, None)?;
        for source in &sources {
            family.value(&[("source", source.source)], source.used)?;
        }
        let help = "When the usable API key that ends first ends, since 1970.";
        let name = "api_keys_next_end_timestamp";
        let mut family = Family::gauge(encoder, name, help, Some(&Unit::Seconds))?;
        for source in &sources {
            if let Some(end) = source.next_end {
                family.value(&[("source", source.source)], end.secs())?;
            }
        }
        let help = "Events of API keys.";
        let mut family = Family::counter(encoder, "api_key_events", help)?;
        for (event, count) in self.metrics.key_events() {
            family.count(&[("event", event)], count)?;
        }
        Ok(())
    }

    pub(super) fn tokens(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let TokenStatus { lookups, entries, bytes } = self.status.tokens;
        let help = "Tokens looked up, by result: known and good, known and bad, or verified.";
        let mut family = Family::counter(encoder, "token_cache_lookups", help)?;
        for (result, count) in lookups.iter().filter(|(result, _)| !result.is_empty()) {
            family.count(&[("result", *result)], *count)?;
        }
        Family::gauge(encoder, "token_cache_entries", "Good tokens that are remembered.", None)?
            .alone(entries)?;
        let help = "Bytes that remembered tokens take, refused ones included.";
        Family::gauge(encoder, "token_cache", help, Some(&Unit::Bytes))?.alone(bytes)
    }

    pub(super) fn certificates(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        if self.status.certificates.is_empty() {
            return Ok(());
        }
        let help =
            "When the first certificate of a listener's chain to end is valid from, since 1970.";
        let unit = Some(&Unit::Seconds);
        let mut family = Family::gauge(encoder, "certificate_not_before_timestamp", help, unit)?;
        for CertificateStatus { listener, not_before, .. } in &self.status.certificates {
            family.value(&[("listener", listener.as_str())], *not_before)?;
        }
        let help = "When the first certificate of a listener's chain to end expires, since 1970.";
        let mut family = Family::gauge(encoder, "certificate_not_after_timestamp", help, unit)?;
        for CertificateStatus { listener, not_after, .. } in &self.status.certificates {
            family.value(&[("listener", listener.as_str())], *not_after)?;
        }
        Ok(())
    }
}
