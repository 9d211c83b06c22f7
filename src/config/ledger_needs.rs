//! What the section `ledger` needs of the store.

use tollgate_core::config::{Errors, Path};

use crate::store::StoreConfig;

/// Adds the errors of a ledger whose records a store cannot keep.
pub(super) fn validate(store: &StoreConfig, errors: &mut Errors) {
    let path = Path::root().key("ledger");
    match store {
        StoreConfig::Memory(_) => errors.push(
            &path,
            "records are kept in Redis, and the store is in memory: add `store.redis`, or remove the section",
        ),
        StoreConfig::Redis(redis) if redis.shard.is_some() => errors.push(
            &path,
            "a request and its record are in one place of Redis, and `store.redis.shard` spreads requests: remove `shard`, or the section",
        ),
        StoreConfig::Redis(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use crate::config::compile;

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
