//! Key sources at a pace that tests can wait for, and ways to wait.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{sync::watch, time::MissedTickBehavior};
use tollgate::credential::jwks::{KeySources, Source, Timing};
use tollgate_core::{
    config::{Errors, Path},
    credential::jwt::issuer::{Issuer, IssuerConfig, Issuers},
};

/// Every wait ends by then; nothing here takes long unless it is broken.
const DEADLINE: Duration = Duration::from_secs(30);

/// Bounds and waits in milliseconds where they are minutes in earnest.
pub(crate) const FAST: Timing = Timing {
    shortest: Duration::from_millis(50),
    longest: Duration::from_secs(3600),
    first_retry: Duration::from_millis(20),
    last_retry: Duration::from_millis(100),
    file_poll: Duration::from_millis(20),
    warn_every: Duration::ZERO,
};

/// Key sources and the count of their changes.
pub(crate) struct Rig {
    pub(crate) sources: KeySources,
    changes: watch::Receiver<u64>,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with(FAST)
    }

    pub(crate) fn with(timing: Timing) -> Self {
        let sources = KeySources::with_timing(timing);
        Self { changes: sources.changes(), sources }
    }

    /// A rig with one issuer whose keys come from `jwks`.
    pub(crate) fn one(jwks: &Value) -> (Self, Arc<Source>) {
        let rig = Self::new();
        let source = rig.apply(&[issuer("https://idp.example", jwks)]).remove(0);
        (rig, source)
    }

    pub(crate) fn apply(&self, issuers: &[Arc<Issuer>]) -> Vec<Arc<Source>> {
        self.sources.apply(issuers)
    }

    /// The changes counted so far. The count rises after the keys are in use, so a test that has
    /// only seen the keys waits with [`Self::changes_become`].
    pub(crate) fn changes(&self) -> u64 {
        *self.changes.borrow()
    }

    /// Waits until exactly so many changes were counted.
    pub(crate) async fn changes_become(&self, expected: u64) {
        eventually(
            || self.changes() == expected,
            || format!("{expected} changes, not {}", self.changes()),
        )
        .await;
    }
}

/// A compiled issuer with these members of `jwks`, or with a secret.
pub(crate) fn issuer(name: &str, jwks: &Value) -> Arc<Issuer> {
    compile(json!({ "issuer": name, "audiences": "any", "algorithms": ["EdDSA"], "jwks": jwks }))
}

/// A compiled issuer.
pub(crate) fn compile(config: Value) -> Arc<Issuer> {
    let config: IssuerConfig = serde_json::from_value(config).unwrap();
    let mut errors = Errors::default();
    let issuers = Issuers::compile(&[config], &Path::root(), &mut errors);
    assert!(errors.is_empty(), "{errors:?}");
    Arc::clone(&issuers.list()[0])
}

/// A key server over plain http, with these further members.
pub(crate) fn jwks(url: &str, more: Value) -> Value {
    let mut jwks = json!({ "url": url, "insecure_http": true });
    for (key, value) in more.as_object().unwrap() {
        jwks[key] = value.clone();
    }
    jwks
}

/// The names of the keys that may be used now; `None` when there are none.
pub(crate) fn kids(source: &Source) -> Option<Vec<String>> {
    source.current().map(|keys| keys.kids().into_iter().map(str::to_owned).collect())
}

/// Waits until exactly these keys may be used.
pub(crate) async fn keys_become(source: &Source, expected: &[&str]) {
    eventually(
        || kids(source).is_some_and(|kids| kids == expected),
        || format!("{expected:?}, not {:?}", source.status()),
    )
    .await;
}

/// Waits until no key may be used.
pub(crate) async fn keys_end(source: &Source) {
    eventually(|| source.current().is_none(), || format!("the end of {:?}", source.status())).await;
}

/// Waits until the last fetch failed with an error that holds these words.
pub(crate) async fn error_becomes(source: &Source, words: &str) {
    let holds = || source.status().last_error.is_some_and(|error| error.contains(words));
    eventually(holds, || format!("`{words}` in {:?}", source.status())).await;
}

/// Waits for as many failed fetches from now on.
pub(crate) async fn failures(source: &Source, more: u64) {
    let before = source.status().fetches_failed;
    eventually(
        || source.status().fetches_failed >= before + more,
        || format!("failures: {:?}", source.status()),
    )
    .await;
}

/// Waits for as many good fetches from now on.
pub(crate) async fn successes(source: &Source, more: u64) {
    let before = source.status().fetches_ok;
    eventually(
        || source.status().fetches_ok >= before + more,
        || format!("successes: {:?}", source.status()),
    )
    .await;
}

/// Waits until the condition holds.
pub(crate) async fn eventually(condition: impl Fn() -> bool, what: impl Fn() -> String) {
    let start = Instant::now();
    let mut poll = poll();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "waited in vain for {}", what());
        poll.tick().await;
    }
}

/// Checks for the whole span that the condition holds.
pub(crate) async fn always(span: Duration, condition: impl Fn() -> bool, what: &str) {
    let start = Instant::now();
    let mut poll = poll();
    while start.elapsed() < span {
        assert!(condition(), "{what}");
        poll.tick().await;
    }
}

/// The rhythm in which conditions are looked at.
pub(crate) fn poll() -> tokio::time::Interval {
    let mut poll = tokio::time::interval(Duration::from_millis(2));
    poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
    poll
}
