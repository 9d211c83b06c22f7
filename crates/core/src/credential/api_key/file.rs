//! The file of keys: `keys`, a list of records.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::{
    lifetimes::{KeyLifetimes, latest_issue},
    policy_names::PolicyNames,
    redact::without_keys,
    spec::KeySpec,
    table::{KeyTable, KeyTableError},
};
use crate::{
    config::{ConfigError, Document, Errors, Path},
    time::Timestamp,
};

/// The most records of a file.
pub const MAX_FILE_RECORDS: usize = 100_000;

/// The most values of a file. A record of nine members has 19.
const MAX_VALUES: usize = 3_000_000;

/// The most errors after which no further record is checked.
const MAX_ERRORS: usize = 100;

/// The error of a file with too many values.
const TOO_LARGE: &str = "a file of API keys has at most 100000 records, and 3000000 values in them; \
                         keep more in Redis (`api_keys.redis: true`)";

/// The content of a file of keys.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct KeyFile {
    /// The records of the keys.
    pub keys: Vec<KeySpec>,
}

impl KeyFile {
    /// Reads the text of a file: YAML, or JSON. Variables are not replaced.
    ///
    /// # Errors
    /// Text that is not YAML, unknown keys and values of the wrong type. No error contains what may
    /// be a key.
    pub fn parse(text: &str) -> Result<(Self, Document), Vec<ConfigError>> {
        let document =
            Document::parse_records(text, MAX_VALUES, TOO_LARGE).map_err(without_keys)?;
        document.read().map(|file| (file, document)).map_err(without_keys)
    }

    /// Reads the text of a file, and checks every record.
    ///
    /// # Errors
    /// As [`KeyFile::parse`], and everything that is wrong with a record: one broken record refuses
    /// the file. `names` are those of the policy; without them, limits and tiers are not checked.
    pub fn compile(
        text: &str,
        lifetimes: &KeyLifetimes,
        names: Option<PolicyNames<'_>>,
    ) -> Result<KeyTable, Vec<ConfigError>> {
        Self::compile_at(text, lifetimes, names, Timestamp::from_micros(u64::MAX))
    }

    /// Reads the text of a file as [`KeyFile::compile`], and refuses records that were created after
    /// `now`.
    ///
    /// # Errors
    /// As [`KeyFile::compile`].
    pub fn compile_at(
        text: &str,
        lifetimes: &KeyLifetimes,
        names: Option<PolicyNames<'_>>,
        now: Timestamp,
    ) -> Result<KeyTable, Vec<ConfigError>> {
        let (file, document) = Self::parse(text)?;
        let mut errors = Errors::default();
        let table = file.table(lifetimes, names, now, &mut errors);
        if errors.is_empty() { Ok(table) } else { Err(without_keys(document.locate(errors))) }
    }

    fn table(
        &self,
        lifetimes: &KeyLifetimes,
        names: Option<PolicyNames<'_>>,
        now: Timestamp,
        errors: &mut Errors,
    ) -> KeyTable {
        let mut table = KeyTable::new();
        if self.keys.len() > MAX_FILE_RECORDS {
            let count = self.keys.len();
            let message = format!("the file has {count} records; {TOO_LARGE}");
            errors.push(&Path::root().key("keys"), message);
            return table;
        }
        let mut places = HashMap::new();
        for (index, spec) in self.keys.iter().enumerate() {
            let path = Path::root().key("keys").index(index);
            if errors.len() >= MAX_ERRORS {
                errors.push(&path, "this record and those after it are not checked");
                break;
            }
            spec.check_issue(latest_issue(now), &path, errors);
            let Some(record) = spec.compile(lifetimes, &path, errors) else { continue };
            if let Some(names) = names {
                if let Some(limit) = names.unknown_limit(&record) {
                    let message = "the policy has no limit of this name, or none of this form; add \
                                   it to `limits` of the configuration, or remove it here";
                    errors.push(&path.key("limits").key(limit), message);
                }
                if let Some(tier) = names.unknown_tier(&record) {
                    let message = format!(
                        "no override of a limit selects the tier `{tier}`; add one to `limits` of \
                         the configuration, or remove it here"
                    );
                    errors.push(&path.key("tier"), message);
                }
            }
            if let Some(first) = places.insert(record.id, path.clone()) {
                let what = format!("a record with the id `{}`", record.id);
                errors.push_duplicate(&path.key("id"), &[], what, &first, "remove one of the two");
                continue;
            }
            match table.insert(record) {
                Ok(_) => {}
                Err(KeyTableError::SameDigest(other, _)) => {
                    let what = "a key with this digest".to_owned();
                    let first = places.get(&other).unwrap_or(&path);
                    let remedy = "remove one of the two";
                    errors.push_duplicate(&path.key("digest"), &[], what, first, remedy);
                }
            }
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "{ id: 7Jk2mN4pQ8rT, subject: ci, created: '2026-11-29T00:00:00Z', digest: 'sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad'";

    fn errors(text: &str) -> Vec<String> {
        let names =
            PolicyNames { has_limit: &|name, _| name == "a", has_tier: &|tier| tier == "t" };
        match KeyFile::compile(text, &KeyLifetimes::default(), Some(names)) {
            Ok(table) => vec![format!("{} keys", table.len())],
            Err(errors) => errors.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn a_file_is_a_table_or_every_error_with_its_line() {
        assert_eq!(errors("keys: []"), ["0 keys"]);
        assert_eq!(errors(&format!("keys:\n- {ONE} }}")), ["1 keys"]);
        assert_eq!(
            errors(&format!("keys: [{ONE}, limits: {{ a: 1/1m }}, tier: t }}]")),
            ["1 keys"]
        );
        let second = ONE.replace("7Jk2mN4pQ8rT", "aaaaaaaaaaaa");
        let found = errors(&format!(
            "keys:\n- {ONE}, tier: x, limits: {{ b: 1/1m }} }}\n- {ONE} }}\n- {second}, colour: red }}\n"
        ));
        assert!(found[0].starts_with("line 4: keys[2].colour: "), "{found:?}");
        let found = errors(&format!(
            "keys:\n- {ONE}, tier: x, limits: {{ b: 1/1m }} }}\n- {ONE} }}\n- {second} }}\n"
        ));
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[0].starts_with("line 2: keys[0]."), "{found:?}");
        assert!(found[2].starts_with("line 3: keys[1].id: "), "{found:?}");
        for text in ["", "[]", "keys: [{ id: short }]", "keys: [{ id: 7Jk2mN4pQ8rT }]"] {
            assert!(!errors(text)[0].ends_with("keys"), "{text}");
        }
    }

    #[test]
    fn a_file_has_as_many_records_as_are_documented() {
        let record = |number: usize| {
            format!(
                r#"{{"id":"{number:012}","digest":"sha256:{number:064}","subject":"s","created":"2026-11-29T00:00:00Z"}}"#
            )
        };
        let mut records: Vec<String> = (0..MAX_FILE_RECORDS).map(record).collect();
        let text = format!("{{\"keys\":[{}]}}", records.join(","));
        assert!(text.len() < 16 << 20);
        assert_eq!(errors(&text), ["100000 keys"]);
        records.push(record(MAX_FILE_RECORDS));
        let found = errors(&format!("{{\"keys\":[{}]}}", records.join(",")));
        assert!(found[0].contains("has 100001 records") && found[0].contains("Redis"), "{found:?}");
        let values = format!("keys: [{{ scopes: [{}] }}]", "a,".repeat(MAX_VALUES));
        let found = errors(&values);
        assert!(found[0].contains("100000 records") && found[0].contains("Redis"), "{found:?}");
    }

    #[test]
    fn a_file_with_thousands_of_wrong_records_names_the_first_of_them() {
        let text = format!("keys: [{}]", format!("{ONE}, tier: '' }}, ").repeat(20_000));
        let found = errors(&text);
        assert!((MAX_ERRORS..=MAX_ERRORS + 4).contains(&found.len()), "{}", found.len());
        assert!(found.iter().any(|error| error.contains("are not checked")), "{found:?}");
        let unknown = format!("keys: [{}]", format!("{ONE}, color: red }}, ").repeat(20_000));
        assert!(errors(&unknown).len() <= 1000);
    }

    #[test]
    fn a_key_in_any_member_is_not_shown() {
        const KEY: &str = "tgk_7Jk2mN4pQ8rT_0123456789012345678901234567890123456789012345678";
        let one = format!("keys: [{ONE} }}]");
        let mut texts = vec![
            format!("{KEY}: 1"),
            format!("keys: {KEY}"),
            format!("keys: [{KEY}]"),
            format!("keys: [{ONE}, {KEY}: 1 }}]"),
            format!("keys: [{ONE}, {KEY}: 1, {KEY}: 2 }}]"),
            format!("keys: [{ONE} '{KEY} }}]"),
        ];
        for (from, to) in
            [("7Jk2mN4pQ8rT,", ","), ("'sha256:", "'x"), ("'2026-11-29T00:00:00Z'", "")]
        {
            texts.push(one.replace(from, &format!("{KEY}{to}")));
        }
        for member in [
            "weak", "holder", "tier", "limits", "networks", "labels", "expires", "issued",
            "scopes", "models", "previous",
        ] {
            texts.push(format!("keys: [{ONE}, {member}: {KEY} }}]"));
            texts.push(format!("keys: [{ONE}, {member}: [{KEY}, \"{KEY} x\"] }}]"));
            texts.push(format!("keys: [{ONE}, {member}: {{ {KEY}: {KEY} }} }}]"));
        }
        for text in texts {
            for key in [KEY.to_owned(), KEY.replace("tgk_", "sk-"), KEY.replace("tgk_", "")] {
                let text = text.replace(KEY, &key);
                for error in errors(&text) {
                    assert!(!error.contains("0123456789"), "{text}: {error}");
                }
            }
        }
    }

    #[test]
    fn a_record_from_the_future_is_an_error() {
        let now = crate::time::rfc3339::parse("2026-11-29T00:00:00Z").unwrap();
        let find = |record: &str| {
            let text = format!("keys: [{record} }}]");
            let table = KeyFile::compile_at(&text, &KeyLifetimes::default(), None, now);
            table.map_or_else(|errors| errors[0].to_string(), |table| table.len().to_string())
        };
        let at = |time: &str| ONE.replace("2026-11-29T00:00:00Z", time);
        assert_eq!(find(&at("2026-11-29T00:01:00Z")), "1");
        assert!(find(&at("2026-11-29T00:01:01Z")).contains("created"));
        assert!(find(&format!("{ONE}, issued: '2026-12-01T00:00:00Z'")).contains("issued"));
    }

    #[test]
    fn the_grace_of_a_previous_secret_is_bounded() {
        let at = |until| {
            let digest = "0".repeat(64);
            errors(&format!(
                "keys: [{ONE}, previous: {{ digest: 'sha256:{digest}', until: '{until}' }} }}]"
            ))
        };
        assert_eq!(at("2026-12-29T00:00:00Z"), ["1 keys"]);
        assert!(at("2026-12-29T00:00:01Z")[0].contains("keys[0].previous.until"));
    }

    #[test]
    fn a_dollar_and_braces_are_text() {
        let record = ONE.replace("subject: ci", "subject: '${CI}'");
        assert_eq!(errors(&format!("keys: [{record} }}]")), ["1 keys"]);
    }

    #[test]
    fn a_digest_of_two_foreign_keys_names_both_places() {
        let second = ONE.replace("7Jk2mN4pQ8rT", "aaaaaaaaaaaa");
        let found = errors(&format!("keys:\n- {ONE}, weak: true }}\n- {second}, weak: true }}"));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("line 3: keys[1].digest: "), "{found:?}");
        assert!(found[0].contains("line 2"), "{found:?}");
    }
}
