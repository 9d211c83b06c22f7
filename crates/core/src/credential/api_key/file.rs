//! The file of keys: `keys`, a list of records.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::{
    lifetimes::KeyLifetimes,
    policy_names::PolicyNames,
    spec::KeySpec,
    table::{KeyTable, KeyTableError},
};
use crate::config::{ConfigError, Document, Errors, Path};

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
    /// Text that is not YAML, unknown keys and values of the wrong type.
    pub fn parse(text: &str) -> Result<(Self, Document), Vec<ConfigError>> {
        let document = Document::parse(text, &|_| None)?;
        document.read().map(|file| (file, document))
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
        let (file, document) = Self::parse(text)?;
        let mut errors = Errors::default();
        let table = file.table(lifetimes, names, &mut errors);
        if errors.is_empty() { Ok(table) } else { Err(document.locate(errors)) }
    }

    fn table(
        &self,
        lifetimes: &KeyLifetimes,
        names: Option<PolicyNames<'_>>,
        errors: &mut Errors,
    ) -> KeyTable {
        let mut table = KeyTable::new();
        let mut places = HashMap::new();
        for (index, spec) in self.keys.iter().enumerate() {
            let path = Path::root().key("keys").index(index);
            let Some(record) = spec.compile(lifetimes, &path, errors) else { continue };
            if let Some(names) = names {
                if let Some(limit) = names.unknown_limit(&record) {
                    let message = "the policy has no limit of this name; add it to `limits` of the \
                                   configuration, or remove it here";
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
        let names = PolicyNames { has_limit: &|name| name == "a", has_tier: &|tier| tier == "t" };
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
    fn a_digest_of_two_foreign_keys_names_both_places() {
        let second = ONE.replace("7Jk2mN4pQ8rT", "aaaaaaaaaaaa");
        let found = errors(&format!("keys:\n- {ONE}, weak: true }}\n- {second}, weak: true }}"));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("line 3: keys[1].digest: "), "{found:?}");
        assert!(found[0].contains("line 2"), "{found:?}");
    }
}
