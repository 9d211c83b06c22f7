//! The section `store`.

mod url;

use schemars::JsonSchema;
use serde::Deserialize;
use tollgate_core::{
    config::{Errors, Path},
    limit::{escrow::EscrowConfig, shard::ShardBy},
    policy::Policy,
    secret::SecretSource,
    time::Span,
};

pub(super) use self::url::{Address, Servers};
pub use self::url::{RedisUrl, RedisUrlError};

/// Where limits are counted and revocations are stored.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum StoreConfig {
    /// In this process, for a single replica. A restart refills every bucket and removes every
    /// revocation.
    Memory(MemoryConfig),
    /// In a Redis that all replicas share.
    Redis(Box<RedisConfig>),
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self::Memory(MemoryConfig::default())
    }
}

/// The section `store.memory`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MemoryConfig {
    /// The most buckets at a time, 1 to 100000000; and as many again of what limits on tokens, on
    /// requests in a window and on requests in flight count: their counters, and the reservations
    /// of requests that still run, at one entry each. As many reservations that have ended are
    /// remembered. A check that needs one more is an outage (`full`): no client can displace the
    /// count of another one. Limits that do not count by the
    /// credential (`address`, `route`, `model`) have as many of their own, and one principal has a
    /// sixteenth of the others at most. One tenant has three quarters of a table, one issuer seven
    /// eighths, and so have the networks of clients: others always find room. Beyond its part a
    /// client's new buckets admit nothing. Default 1000000; the page on operations has the bytes.
    pub max_buckets: u64,
    /// Whether this is the only replica. Required with `dpop`: with several, a proof could be used once
    /// at each. Default false.
    pub single_replica: bool,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self { max_buckets: 1_000_000, single_replica: false }
    }
}

/// `store.redis`.
///
/// Redis 6.2 or newer, or Valkey: one server, a primary with Sentinels, or a cluster, with
/// `maxmemory-policy noeviction`: an evicted revocation revokes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RedisConfig {
    /// `redis://host:port/db`, or `unix:///path?db=0`; of Sentinels
    /// `redis+sentinel://host:port,host:port/primary/db` with the name of the primary, of a cluster
    /// `redis+cluster://host:port,host:port` with some of its nodes. `rediss` in place of `redis` is
    /// TLS. It may contain a user
    /// and a password (`redis://user:${NAME}@host`), which never appear in a log; `username` and
    /// `password` are the clearer way.
    pub url: RedisUrl,
    /// The ACL user. Default: the user `default` of Redis.
    pub username: Option<String>,
    /// The password. A `file:` is read again for each connection.
    pub password: Option<SecretSource>,
    /// A PEM file with the certificate authorities that `rediss://` trusts instead of those of the
    /// system.
    pub tls_ca: Option<String>,
    /// The name that the certificates of all servers have, in place of the host that each is
    /// connected to: for clusters and Sentinels that name their servers by addresses.
    pub tls_name: Option<String>,
    /// The login of the Sentinels, where they require one. It is never that of the primary.
    pub sentinel: Option<SentinelConfig>,
    /// Spreads the counters over the nodes of a cluster, by the tenant or the subject of the credential:
    /// what is counted for one of them is on one node. Requires `redis+cluster://` and
    /// `replicate_revocations`. Every limit of the policy counts by this attribute (or by `token` or
    /// `key`, which belong to one), or has a `lease`. A change begins all counters again. Default: the
    /// counters of all are on one node.
    pub shard: Option<ShardBy>,
    /// The number of shards, 2 to 64: a multiple of the number of primaries divides them evenly. A
    /// change begins all counters again. Default 12.
    pub shards: Option<u64>,
    /// The time limit for the answer to a check, 1ms to 1s. Beyond it the route's `on_outage`
    /// decides. Time in which Tollgate itself is too busy to read the answer does not count: half a
    /// second later such a check is denied as `overloaded`. Default 100ms: a hundred times the time
    /// that Redis needs, and a small part of the time that a proxy waits.
    #[serde(default = "deadline")]
    pub deadline: Span,
    /// Copies all revocations into memory, so that a check of a route without limits makes no round
    /// trip. Cannot be combined with `revocation.foreign`. Default: off, and each check queries
    /// Redis.
    pub replicate_revocations: Option<ReplicateConfig>,
    /// The counts and revocations that routes with `on_outage: local` use while Redis does not
    /// answer. Required by such routes; it has no other use.
    pub local: Option<LocalConfig>,
}

fn deadline() -> Span {
    Span::from_millis(100)
}

/// The section `store.redis.sentinel`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SentinelConfig {
    /// The ACL user. Default: the user `default` of the Sentinels.
    pub username: Option<String>,
    /// The password. A `file:` is read again for each connection.
    pub password: Option<SecretSource>,
}

/// The section `store.redis.replicate_revocations`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplicateConfig {
    /// How long after a revocation a check may still pass, 1s to 1h. Changes are pushed and usually
    /// apply within milliseconds. When Redis has not confirmed the copy for this time, each check
    /// queries Redis again, and in an outage known revocations hold and the route's `on_outage` decides the rest. Default
    /// 5s.
    #[serde(default = "check_staleness")]
    pub max_staleness: Span,
}

impl ReplicateConfig {
    /// The interval at which Redis confirms the copy if nothing changes. Three of four
    /// confirmations may be lost.
    pub(super) fn refresh(&self) -> std::time::Duration {
        self.max_staleness.std() / 4
    }
}

fn check_staleness() -> Span {
    Span::from_secs(5)
}

/// The section `store.redis.local`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LocalConfig {
    /// The number of replicas that share a limit, 1 to 10000. Each admits its share of the rate and
    /// of the burst, rounded down: a burst smaller than the number of replicas admits nothing in an
    /// outage. No default: too low a number multiplies every limit.
    pub replicas: u64,
    /// How often revocations are read from Redis while it answers, 100ms to 1h. Default 5s.
    #[serde(default = "refresh")]
    pub refresh: Span,
    /// The greatest age of the known revocations; beyond it requests with a credential are denied
    /// (`stale`). At least twice `refresh`, at most 1d. Default 5m.
    #[serde(default = "max_staleness")]
    pub max_staleness: Span,
    /// The most buckets at a time, as in `store.memory`. Default 1000000.
    #[serde(default = "max_buckets")]
    pub max_buckets: u64,
    /// What each replica holds of limits with `tokens` and `concurrent`, to admit requests from in
    /// an outage.
    #[serde(default)]
    pub escrow: EscrowConfig,
}

fn refresh() -> Span {
    Span::from_secs(5)
}

fn max_staleness() -> Span {
    Span::from_secs(300)
}

fn max_buckets() -> u64 {
    MemoryConfig::default().max_buckets
}

impl StoreConfig {
    /// What decides the shard of a request, if the counters are in shards.
    pub fn shard_by(&self) -> Option<ShardBy> {
        match self {
            Self::Memory(_) => None,
            Self::Redis(config) => config.shard,
        }
    }

    /// Checks the section, by itself and with the policy (`None` if that has errors of its own),
    /// and records every error.
    pub fn validate(&self, policy: Option<&Policy>, path: &Path, errors: &mut Errors) {
        let uses_local = policy.is_some_and(|policy| policy.uses_local);
        let foreign = policy.is_some_and(|policy| !policy.denylists.is_empty());
        match self {
            Self::Memory(config) => {
                check_buckets(config.max_buckets, &path.key("memory"), errors);
                if uses_local {
                    let message = "a route has `on_outage: local`, and a store in memory has no outages; use `deny` there, or `store.redis`";
                    errors.push_presuming(path, std::slice::from_ref(path), message);
                }
                if let Some(limit) = policy.and_then(|policy| policy.leased.as_ref()) {
                    let message = "a lease saves calls to Redis, and the store is in memory; remove it, or set `store.redis`";
                    errors.push_presuming(&limit.key("lease"), std::slice::from_ref(path), message);
                }
                if policy.is_some_and(|policy| policy.dpop.is_some()) && !config.single_replica {
                    let message = "`dpop` needs a store that all replicas share, as a proof could be used once at each; set `store.redis`, or write `store: { memory: { single_replica: true } }` if there is one";
                    errors.push_presuming(path, std::slice::from_ref(path), message);
                }
                if policy.is_some_and(has_redis_keys) {
                    let message = "`api_keys.redis` reads keys from a Redis; set `store.redis`, or use `api_keys.file`";
                    errors.push_presuming(path, std::slice::from_ref(path), message);
                }
                if foreign {
                    let message = "`revocation.foreign` names keys in a Redis; set `store.redis`, or remove it";
                    errors.push_presuming(path, std::slice::from_ref(path), message);
                }
            }
            Self::Redis(config) => {
                let path = path.key("redis");
                config.validate(&path, errors);
                if foreign && config.replicate_revocations.is_some() {
                    errors.push(
                        &path.key("replicate_revocations"),
                        "`revocation.foreign` names keys of another service, which are only in Redis; remove one of the two",
                    );
                }
                if let (Some(by), Some(policy)) = (config.shard, policy) {
                    check_shards(by, policy, errors);
                }
                if foreign && config.url.is_cluster() {
                    let message = "`revocation.foreign` names keys of another service, and on a cluster they are on other nodes than those of a check; remove one of the two";
                    errors.push_presuming(&path.key("url"), std::slice::from_ref(&path), message);
                }
                if uses_local && config.local.is_none() {
                    errors
                        .push(&path, "a route has `on_outage: local`; add `local: { replicas: N }` with the number of replicas");
                }
            }
        }
    }
}

fn has_redis_keys(policy: &Policy) -> bool {
    policy.api_keys.as_ref().is_some_and(|keys| keys.redis.is_some())
}

/// The number of shards, and the most.
const SHARDS: u64 = 12;
const MOST_SHARDS: u64 = 64;

/// Records an error for each limit that counts for several shards at once.
fn check_shards(by: ShardBy, policy: &Policy, errors: &mut Errors) {
    for (path, limit) in &policy.limit_places {
        if policy.limits.iter().any(|one| one.name() == *limit && !one.fits_shards(by)) {
            let by = by.label();
            let message = format!(
                "`store.redis.shard: {by}` counts what belongs to one {by} on one node, and `{limit}` counts for several; add `{by}` to `by`, or give a `rate` a `lease: {{ slice: N }}`: R replicas then admit at most R times N requests more than the limit, in any span of time"
            );
            errors.push(&path.key("by"), message);
        }
    }
}

impl RedisConfig {
    /// The number of shards.
    pub(super) fn shard_count(&self) -> usize {
        usize::try_from(self.shards.unwrap_or(SHARDS).clamp(1, MOST_SHARDS)).unwrap_or(1)
    }

    /// The section with a URL and the defaults.
    pub fn at(url: RedisUrl) -> Self {
        Self {
            url,
            username: None,
            password: None,
            tls_ca: None,
            tls_name: None,
            sentinel: None,
            shard: None,
            shards: None,
            deadline: deadline(),
            replicate_revocations: None,
            local: None,
        }
    }

    fn validate(&self, path: &Path, errors: &mut Errors) {
        if self.deadline < Span::from_millis(1) || self.deadline > Span::from_secs(1) {
            errors.push(
                &path.key("deadline"),
                "must be 1ms to 1s: a proxy that waits for the answer has a timeout of its own",
            );
        }
        if self.username.is_some() && self.password.is_none() {
            let message = "a user without a `password` cannot log in; add one";
            errors.push_presuming(&path.key("username"), &[path.key("password")], message);
        }
        for (key, here, there) in [
            ("username", self.username.is_some(), self.url.username().is_some()),
            ("password", self.password.is_some(), self.url.password().is_some()),
        ] {
            if here && there {
                errors
                    .push(&path.key(key), format!("`url` contains a {key} as well; write it once"));
            }
        }
        for (key, is_set) in
            [("tls_ca", self.tls_ca.is_some()), ("tls_name", self.tls_name.is_some())]
        {
            if is_set && !self.url.tls() {
                let message =
                    format!("only `rediss` uses TLS; write it in `url`, or remove `{key}`");
                errors.push(&path.key(key), message);
            }
        }
        if let Some(by) = self.shard {
            let by = by.label();
            if !self.url.is_cluster() {
                let message = "only a cluster has several nodes; write `redis+cluster://` in `url`, or remove this";
                errors.push(&path.key("shard"), message);
            }
            if self.replicate_revocations.is_none() {
                let message = format!(
                    "with `shard: {by}` revocations are on another node than the counters of a check; add `replicate_revocations: {{}}`"
                );
                errors.push_presuming(
                    &path.key("shard"),
                    &[path.key("replicate_revocations")],
                    message,
                );
            }
        }
        if let Some(shards) = self.shards {
            if !(2..=MOST_SHARDS).contains(&shards) {
                errors.push(&path.key("shards"), format!("must be 2 to {MOST_SHARDS}"));
            }
            if self.shard.is_none() {
                let message = "there are shards only with `shard`; add `shard: tenant` or `shard: subject`, or remove this";
                errors.push_presuming(&path.key("shards"), &[path.key("shard")], message);
            }
        }
        if let Some(sentinel) = &self.sentinel {
            let path = path.key("sentinel");
            if !self.url.is_sentinel() {
                errors.push(&path, "only `redis+sentinel://` has Sentinels; remove this");
            }
            if sentinel.username.is_some() && sentinel.password.is_none() {
                let message = "a user without a `password` cannot log in; add one";
                errors.push_presuming(&path.key("username"), &[path.key("password")], message);
            }
        }
        if let Some(ReplicateConfig { max_staleness }) = self.replicate_revocations
            && (max_staleness < Span::from_secs(1) || max_staleness > Span::from_secs(3600))
        {
            errors
                .push(&path.key("replicate_revocations").key("max_staleness"), "must be 1s to 1h");
        }
        if let Some(local) = &self.local {
            local.validate(&path.key("local"), errors);
        }
    }
}

impl LocalConfig {
    fn validate(&self, path: &Path, errors: &mut Errors) {
        if !(1..=10_000).contains(&self.replicas) {
            errors.push(&path.key("replicas"), "must be 1 to 10000");
        }
        if self.refresh < Span::from_millis(100) || self.refresh > Span::from_secs(3600) {
            errors.push(&path.key("refresh"), "must be 100ms to 1h");
        }
        let least = Span::from_micros(self.refresh.micros().saturating_mul(2));
        if self.max_staleness < least || self.max_staleness > Span::from_secs(86_400) {
            errors.push(
                &path.key("max_staleness"),
                format!("must be {least} (twice `refresh`) to 1d"),
            );
        }
        check_buckets(self.max_buckets, path, errors);
        self.escrow.validate(&path.key("escrow"), errors);
    }
}

fn check_buckets(max_buckets: u64, path: &Path, errors: &mut Errors) {
    if !(1..=100_000_000).contains(&max_buckets) {
        errors.push(&path.key("max_buckets"), "must be 1 to 100000000");
    }
}

#[cfg(test)]
mod tests {
    use tollgate_core::{config::Document, policy::PolicyConfig};

    use super::*;

    fn errors(store: &str, policy: &str) -> Vec<String> {
        let read = || {
            let store: StoreConfig = Document::parse(store, &|_| None)?.read()?;
            let document = Document::parse(policy, &|_| None)?;
            let policy: PolicyConfig = document.read()?;
            let mut errors = Errors::default();
            let policy = Policy::compile(&policy, &mut errors);
            assert!(errors.is_empty(), "{:?}", document.locate(errors));
            store.validate(policy.as_ref(), &Path::root().key("store"), &mut errors);
            if errors.is_empty() { Ok(()) } else { Err(document.locate(errors)) }
        };
        read().map_or_else(
            |errors| {
                errors.iter().map(|error| format!("{}: {}", error.path, error.message())).collect()
            },
            |()| Vec::new(),
        )
    }

    const PLAIN: &str = "routes: [{ match: { paths: [/a] }, public: true }]";
    const LOCAL: &str = "routes: [{ match: { paths: [/a] }, public: true, on_outage: local }]";
    const DPOP: &str = "dpop: { origins: ['https://a.example'] }\n\
        routes: [{ match: { paths: [/a] }, public: true }]";
    const LEASED: &str = "limits: [{ name: l, by: [route], rate: 9/1s, lease: { slice: 3 } }]\n\
        routes: [{ match: { paths: [/a] }, public: true, limits: [l] }]";
    const KEYS: &str =
        "api_keys: { redis: true }\nroutes: [{ match: { paths: [/a] }, public: true }]";
    const FOREIGN: &str =
        "revocation: { foreign: ['b:{sub}'] }\nroutes: [{ match: { paths: [/a] }, public: true }]";

    const SHARDED: &str =
        "redis: { url: 'redis+cluster://r', shard: tenant, shards: 3, replicate_revocations: {} }";
    const WITHIN: &str = "issuers: [{ issuer: 'https://i', audiences: any, algorithms: [ES256], jwks: { file: /k } }]\n\
        metering: { secrets: ['file:/s'] }\n\
        limits: [{ name: a, by: [model, tenant], rate: 9/1s }, { name: b, by: [token], concurrent: 3 }, { name: c, by: [tenant], requests: 9/day }, { name: d, by: [key], rate: 9/1s }]\n\
        routes: [{ match: { methods: [POST], paths: [/a] }, scopes: [], limits: [c] }]";
    const ACROSS: &str = "limits: [{ name: l, by: [route], rate: 9/1s }]\n\
        routes: [{ match: { paths: [/a] }, public: true, limits: [l] }]";
    const ACROSS_HELD: &str = "limits: [{ name: m, by: [route], requests: 9/day }]\n\
        routes: [{ match: { paths: [/a] }, public: true, limits: [m] }]";

    #[test]
    fn good_sections() {
        for (store, policy) in [
            ("memory: {}", PLAIN),
            ("memory: { max_buckets: 1 }", PLAIN),
            ("memory: { single_replica: true }", DPOP),
            ("redis: { url: 'redis://r' }", DPOP),
            ("redis: { url: 'redis://r' }", PLAIN),
            ("redis: { url: 'redis://r' }", FOREIGN),
            (
                "redis: { url: 'rediss://r:6380/2', username: u, password: p, tls_ca: /ca.pem, deadline: 50ms }",
                PLAIN,
            ),
            ("redis: { url: 'redis://r', local: { replicas: 3 } }", LOCAL),
            (
                "redis: { url: 'redis://r', local: { replicas: 3, refresh: 1s, max_staleness: 2s } }",
                PLAIN,
            ),
            ("redis: { url: 'redis://r', replicate_revocations: {} }", PLAIN),
            ("redis: { url: 'redis://r' }", LEASED),
            ("redis: { url: 'redis://r' }", KEYS),
            (
                "redis: { url: 'rediss+sentinel://a,b/m/2', tls_name: r, sentinel: { username: u, password: p } }",
                PLAIN,
            ),
            ("redis: { url: 'redis+cluster://a,b', username: u, password: p }", KEYS),
            (SHARDED, PLAIN),
            (SHARDED, LEASED),
            (SHARDED, WITHIN),
            ("redis: { url: 'redis://r', replicate_revocations: { max_staleness: 1s } }", PLAIN),
        ] {
            assert_eq!(errors(store, policy), Vec::<String>::new(), "{store}");
        }
    }

    #[test]
    fn every_error_names_the_remedy() {
        for (store, policy, path, part) in [
            ("memory: { max_buckets: 0 }", PLAIN, "store.memory.max_buckets", "must be 1 to"),
            ("memory: {}", DPOP, "store:", "write `store: { memory: { single_replica: true } }`"),
            ("memory: {}", LOCAL, "store:", "use `deny` there, or `store.redis`"),
            ("memory: {}", LEASED, "limits[0].lease", "set `store.redis`"),
            ("memory: {}", KEYS, "store:", "set `store.redis`, or use `api_keys.file`"),
            ("memory: {}", FOREIGN, "store:", "set `store.redis`"),
            ("redis: { url: 'redis://r' }", LOCAL, "store.redis:", "add `local: { replicas: N }`"),
            (
                "redis: { url: 'redis://r', deadline: 2s }",
                PLAIN,
                "store.redis.deadline",
                "1ms to 1s",
            ),
            (
                "redis: { url: 'redis://r', deadline: 0ms }",
                PLAIN,
                "store.redis.deadline",
                "1ms to 1s",
            ),
            ("redis: { url: 'redis://r', username: u }", PLAIN, "store.redis.username", "add one"),
            (
                "redis: { url: 'redis://u:p@r', password: p }",
                PLAIN,
                "store.redis.password",
                "write it once",
            ),
            (
                "redis: { url: 'redis://u:p@r', username: u, password: p }",
                PLAIN,
                "store.redis.username",
                "write it once",
            ),
            (
                "redis: { url: 'redis://r', tls_ca: /ca }",
                PLAIN,
                "store.redis.tls_ca",
                "only `rediss` uses TLS",
            ),
            (
                "redis: { url: 'redis://r', tls_name: r }",
                PLAIN,
                "store.redis.tls_name",
                "only `rediss` uses TLS",
            ),
            (
                "redis: { url: 'redis://r', sentinel: { password: p } }",
                PLAIN,
                "store.redis.sentinel",
                "only `redis+sentinel://`",
            ),
            (
                "redis: { url: 'redis+sentinel://r/m', sentinel: { username: u } }",
                PLAIN,
                "store.redis.sentinel.username",
                "add one",
            ),
            (SHARDED, ACROSS, "limits[0].by", "add `tenant` to `by`, or give a `rate` a `lease"),
            (SHARDED, ACROSS_HELD, "limits[0].by", "`m` counts for several"),
            (
                "redis: { url: 'redis+sentinel://r/m', shard: subject, replicate_revocations: {} }",
                PLAIN,
                "store.redis.shard",
                "write `redis+cluster://` in `url`",
            ),
            (
                "redis: { url: 'redis+cluster://r', shard: subject }",
                PLAIN,
                "store.redis.shard",
                "add `replicate_revocations: {}`",
            ),
            (
                "redis: { url: 'redis+cluster://r', shards: 3 }",
                PLAIN,
                "store.redis.shards",
                "add `shard: tenant`",
            ),
            (
                "redis: { url: 'redis+cluster://r', shard: subject, shards: 65, replicate_revocations: {} }",
                PLAIN,
                "store.redis.shards",
                "must be 2 to 64",
            ),
            (
                "redis: { url: 'redis+cluster://r' }",
                FOREIGN,
                "store.redis.url",
                "on other nodes than those of a check",
            ),
            (
                "redis: { url: 'redis://r', local: { replicas: 0 } }",
                LOCAL,
                "store.redis.local.replicas",
                "1 to 10000",
            ),
            (
                "redis: { url: 'redis://r', local: { replicas: 2, refresh: 1ms } }",
                LOCAL,
                "store.redis.local.refresh",
                "100ms",
            ),
            (
                "redis: { url: 'redis://r', local: { replicas: 2, escrow: { share: 0 } } }",
                LOCAL,
                "store.redis.local.escrow.share",
                "1 to 50",
            ),
            (
                "redis: { url: 'redis://r', local: { replicas: 2, max_staleness: 9s } }",
                LOCAL,
                "store.redis.local.max_staleness",
                "must be 10s (twice",
            ),
            (
                "redis: { url: 'redis://r', replicate_revocations: {} }",
                FOREIGN,
                "store.redis.replicate_revocations",
                "remove one",
            ),
            (
                "redis: { url: 'redis://r', replicate_revocations: { max_staleness: 999ms } }",
                PLAIN,
                "store.redis.replicate_revocations.max_staleness",
                "must be 1s to 1h",
            ),
            (
                "redis: { url: 'redis://r', local: {} }",
                LOCAL,
                "redis.local",
                "missing key `replicas`",
            ),
            ("redis: { url: 'redis://r', pool: 3 }", PLAIN, "redis.pool", "unknown key"),
            ("memory: {}\nredis: { url: 'redis://r' }", PLAIN, "", "expected one key"),
        ] {
            let errors = errors(store, policy);
            assert!(
                errors.iter().any(|error| error.starts_with(path) && error.contains(part)),
                "{store}: {errors:?}"
            );
        }
    }
}
