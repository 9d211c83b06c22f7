//! The section `ledger`: a record of each settled request.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{keys::LedgerKeys, rows::MAX_ROWS};
use crate::{
    config::{Errors, Path},
    secret::SecretSource,
    time::{Span, zone::zone},
};

/// The most keys: the one in use, and those that older records need.
const MAX_KEYS: usize = 32;

/// The longest name of a key.
const MAX_ID: usize = 32;

/// The shortest and the longest time for which exported records are kept.
const RETENTION: std::ops::RangeInclusive<u64> = 3600..=3660 * 24 * 3600;

/// The numbers of records that one chain may have in Redis.
const RECORDS: std::ops::RangeInclusive<u64> = 10_000..=100_000_000;

/// The numbers of rows that the sums of an hour or a day may have.
const ROWS: std::ops::RangeInclusive<u32> = 10..=10_000;

/// The section `ledger`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LedgerConfig {
    /// The keys that authenticate records, the same for all replicas. The first one signs, all of them
    /// verify: for a new key, add it as the last one everywhere, then move it to the front. A key that
    /// has signed stays in the list for as long as its records are verified.
    pub keys: Vec<LedgerKeyConfig>,
    /// The time zone of days, months and their ends: `UTC` (the default), an offset such as `+02:00`,
    /// or a name such as `Europe/Berlin`. It does not change while records are kept.
    #[serde(default = "utc")]
    pub time_zone: String,
    /// The time for which records are kept after they were exported, from 1h to ten years. Default
    /// 35d. Records that were not exported are kept until `max_records`.
    #[serde(default = "retention")]
    pub retention: Span,
    /// The most records of one chain, of which each replica writes one, from 10000 to 100000000.
    /// Beyond it the oldest ones are removed although they were not exported, which is logged,
    /// counted, and reported by `tollgate usage verify`; their sums stay. Default 1000000, some 700
    /// bytes each.
    #[serde(default = "max_records")]
    pub max_records: u64,
    /// The most rows in the sums of an hour or a day, one for each tenant, model and route, from 10 to
    /// 10000. What has no row then is counted in the row `other`. Default 1000.
    #[serde(default = "max_rows")]
    pub max_rows: u32,
}

/// A key of the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LedgerKeyConfig {
    /// The name of the key, which records state: 1 to 32 letters, digits, `-`, `_` or `.`.
    pub id: String,
    /// The key: at least 32 bytes. Redis must not have it.
    pub secret: SecretSource,
}

fn utc() -> String {
    "UTC".to_owned()
}

fn retention() -> Span {
    Span::from_secs(35 * 24 * 3600)
}

fn max_records() -> u64 {
    1_000_000
}

fn max_rows() -> u32 {
    MAX_ROWS
}

impl LedgerConfig {
    /// Adds the errors of the section.
    pub(crate) fn validate(&self, has_metering: bool, path: &Path, errors: &mut Errors) {
        let keys = path.key("keys");
        if self.keys.is_empty() || self.keys.len() > MAX_KEYS {
            errors.push(&keys, format!("list 1 to {MAX_KEYS} keys"));
        }
        for (index, key) in self.keys.iter().enumerate() {
            let place = keys.index(index);
            let is_named = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            if key.id.is_empty() || key.id.len() > MAX_ID || !key.id.bytes().all(is_named) {
                let message = format!("it has 1 to {MAX_ID} letters, digits, `-`, `_` or `.`");
                errors.push(&place.key("id"), message);
            }
            if self.keys.iter().take(index).any(|earlier| earlier.id == key.id) {
                errors.push(&place.key("id"), format!("`{}` is the name of another key", key.id));
            }
            if let SecretSource::Inline(secret) = &key.secret
                && let Err(error) = LedgerKeys::check(secret)
            {
                errors.push(&place.key("secret"), error.to_string());
            }
        }
        errors.take(&path.key("time_zone"), zone(&self.time_zone));
        if !RETENTION.contains(&self.retention.secs()) {
            errors.push(&path.key("retention"), "it is from 1h to 3660d");
        }
        if !RECORDS.contains(&self.max_records) {
            errors.push(&path.key("max_records"), "it is from 10000 to 100000000");
        }
        if !ROWS.contains(&self.max_rows) {
            errors.push(&path.key("max_rows"), "it is from 10 to 10000");
        }
        if !has_metering {
            errors
                .push(path, "requests are recorded when they are settled: add `metering.secrets`");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Document;

    fn errors(text: &str, has_metering: bool) -> Vec<String> {
        let document = Document::parse(text, &|_| None).unwrap();
        let config: LedgerConfig = document.read().unwrap();
        let mut errors = Errors::default();
        config.validate(has_metering, &Path::root().key("ledger"), &mut errors);
        document.locate(errors).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_section_has_keys_with_names_and_bounds() {
        const KEYS: &str = "keys: [{ id: a, secret: 'file:/run/a' }]";
        let with = |more: &str| format!("{KEYS}\n{more}");
        for (text, expected) in [
            (with(""), ""),
            (
                with("time_zone: Europe/Berlin\nretention: 90d\nmax_records: 10000\nmax_rows: 10"),
                "",
            ),
            ("keys: []".to_owned(), "ledger.keys: list 1 to 32 keys"),
            (
                "keys: [{ id: 'a b', secret: 'file:/run/a' }]".to_owned(),
                "ledger.keys[0].id: it has 1 to 32 letters",
            ),
            (
                "keys: [{ id: a, secret: 'file:/a' }, { id: a, secret: 'file:/b' }]".to_owned(),
                "ledger.keys[1].id: `a` is the name of another key",
            ),
            (
                "keys: [{ id: a, secret: short }]".to_owned(),
                "ledger.keys[0].secret: a key of the ledger has fewer than 32 bytes",
            ),
            (with("time_zone: Berlin"), "ledger.time_zone: `Berlin` is no time zone"),
            (with("retention: 1m"), "ledger.retention: it is from 1h to 3660d"),
            (with("max_records: 0"), "ledger.max_records: it is from 10000"),
            (with("max_rows: 0"), "ledger.max_rows: it is from 10 to 10000"),
        ] {
            let found = errors(&text, true);
            assert_eq!(found.is_empty(), expected.is_empty(), "{text}: {found:?}");
            assert!(found.iter().all(|error| error.contains(expected)), "{found:?}");
        }
        assert!(errors(KEYS, false)[0].contains("add `metering.secrets`"));
    }
}
