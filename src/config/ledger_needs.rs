//! What the section `ledger` needs of the store and of the section `metering`.

use tollgate_core::{
    config::{Errors, Path},
    policy::Policy,
    secret::SecretSource,
};

use crate::{secrets, store::StoreConfig};

/// Adds the errors of a ledger whose records a store cannot keep.
pub(super) fn validate(store: &StoreConfig, errors: &mut Errors) {
    let path = Path::root().key("ledger");
    match store {
        StoreConfig::Memory(_) => errors.push_presuming(
            &path,
            &[Path::root().key("store")],
            "records are kept in Redis, and the store is in memory: add `store.redis`, or remove the section",
        ),
        StoreConfig::Redis(redis) if redis.shard.is_some() => errors.push(
            &path,
            "a request and its record are in one place of Redis, and `store.redis.shard` spreads requests: remove `shard`, or the section",
        ),
        StoreConfig::Redis(_) => {}
    }
}

/// Adds the errors of keys that are also secrets of reservations: a program that may make reservations
/// could sign records then.
pub(super) fn check_keys(policy: &Policy, errors: &mut Errors) {
    shared_keys(policy, |one, other| one == other, errors);
}

/// As [`check_keys`], by the content of the files that can be read.
pub(super) fn check_key_files(policy: &Policy, errors: &mut Errors) {
    let content = |source: &SecretSource| secrets::resolve_blocking(source).ok();
    let same = |one: &SecretSource, other: &SecretSource| {
        content(one).zip(content(other)).is_some_and(|(one, other)| one == other)
    };
    shared_keys(policy, same, errors);
}

fn shared_keys(
    policy: &Policy,
    same: impl Fn(&SecretSource, &SecretSource) -> bool,
    errors: &mut Errors,
) {
    let secrets = policy.metering.iter().flat_map(|metering| metering.secrets.iter().enumerate());
    let keys = policy.ledger.iter().flat_map(|ledger| ledger.keys.iter().enumerate());
    for (index, key) in keys {
        let mut secrets = secrets.clone();
        if let Some((number, _)) = secrets.find(|(_, secret)| same(&key.secret, secret)) {
            errors.push(
                &Path::root().key("ledger").key("keys").index(index).key("secret"),
                format!(
                    "it is the secret of `metering.secrets[{number}]`: make another one, so that \
                     who makes reservations cannot sign records"
                ),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{compile, compile_with_notes};

    #[test]
    fn a_key_of_the_ledger_is_no_secret_of_reservations() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            format!("file:{}", path.display())
        };
        let one = file("one", "0123456789abcdef0123456789abcdef");
        let copy = file("copy", "0123456789abcdef0123456789abcdef\n");
        let other = file("other", "another 0123456789abcdef0123456789");
        for (metering, key, expected) in [
            (&other, &one, ""),
            (&one, &one, "`metering.secrets[1]`"),
            (&one, &copy, "`metering.secrets[1]`"),
        ] {
            let text = format!(
                "
routes: [{{ match: {{ paths: [/a] }}, public: true }}]
metering: {{ secrets: ['file:/run/metering', '{metering}'] }}
ledger: {{ keys: [{{ id: a, secret: '{key}' }}] }}
store: {{ redis: {{ url: 'redis://a' }} }}
"
            );
            let found = compile_with_notes(std::path::Path::new("t.yaml"), &text);
            let found = found.err().map(|error| error.to_string()).unwrap_or_default();
            assert_eq!(found.is_empty(), expected.is_empty(), "{found}");
            assert!(found.contains(expected), "{found}");
        }
    }

    #[test]
    fn a_store_that_cannot_be_read_is_not_called_one_in_memory() {
        let text = "
routes: [{ match: { paths: [/a] }, public: true }]
metering: { secrets: ['file:/run/metering'] }
ledger: { keys: [{ id: a, secret: 'file:/run/ledger' }] }
store: { redis: { url: 'http://a' } }
";
        let errors = compile(text, &|_| None).err().unwrap_or_default();
        let found: Vec<_> = errors.iter().map(|error| error.message()).collect();
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("not the URL of a Redis"), "{found:?}");
    }

    #[test]
    fn records_need_a_redis_without_shards() {
        const LEDGER: &str = "
routes: [{ match: { paths: [/a] }, public: true }]
metering: { secrets: ['file:/run/metering'] }
ledger: { keys: [{ id: a, secret: 'file:/run/ledger' }] }
";
        for (store, expected) in [
            ("store: { redis: { url: 'redis://a' } }", ""),
            ("", "add `store.redis`"),
            ("store: { memory: {} }", "add `store.redis`"),
            (
                "store: { redis: { url: 'redis+cluster://a', shard: tenant, replicate_revocations: {} } }",
                "remove `shard`",
            ),
        ] {
            let errors = compile(&format!("{LEDGER}{store}"), &|_| None).err().unwrap_or_default();
            let found: Vec<_> = errors.iter().map(|error| error.message()).collect();
            assert_eq!(found.is_empty(), expected.is_empty(), "{store}: {found:?}");
            assert!(found.iter().all(|message| message.contains(expected)), "{store}: {found:?}");
        }
    }
}
