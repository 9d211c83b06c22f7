//! Key sources with short times, and functions that wait for conditions.

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

/// The deadline of every wait. No wait takes long unless something is broken.
const DEADLINE: Duration = Duration::from_secs(30);

/// Bounds and waits in milliseconds that are minutes in production.
pub(crate) const FAST: Timing = Timing {
    shortest: Duration::from_millis(50),
    longest: Duration::from_secs(3600),
    first_retry: Duration::from_millis(20),
    last_retry: Duration::from_millis(100),
    file_poll: Duration::from_millis(20),
    look_again: Duration::from_millis(20),
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

    /// Creates a rig with one issuer whose keys come from `jwks`.
    pub(crate) fn one(jwks: &Value) -> (Self, Arc<Source>) {
        let rig = Self::new();
        let source = rig.apply(&[issuer("https://idp.example", jwks)]).remove(0);
        (rig, source)
    }

    pub(crate) fn apply(&self, issuers: &[Arc<Issuer>]) -> Vec<Arc<Source>> {
        self.sources.apply(issuers)
    }

    /// Returns the number of changes so far. It rises after the keys are in use, so a test that has
    /// only seen the keys waits with [`Self::changes_become`].
    pub(crate) fn changes(&self) -> u64 {
        *self.changes.borrow()
    }

    /// Waits until exactly this number of changes was counted.
    pub(crate) async fn changes_become(&self, expected: u64) {
        eventually(
            || self.changes() == expected,
            || format!("{expected} changes, not {}", self.changes()),
        )
        .await;
    }
}

/// Compiles an issuer with these members of `jwks`.
pub(crate) fn issuer(name: &str, jwks: &Value) -> Arc<Issuer> {
    compile(json!({ "issuer": name, "audiences": "any", "algorithms": ["EdDSA"], "jwks": jwks }))
}

/// Compiles an issuer.
pub(crate) fn compile(config: Value) -> Arc<Issuer> {
    let config: IssuerConfig = serde_json::from_value(config).unwrap();
    let mut errors = Errors::default();
    let issuers = Issuers::compile(&[config], &Path::root(), &mut errors);
    assert!(errors.is_empty(), "{errors:?}");
    Arc::clone(&issuers.list()[0])
}

/// Returns the `jwks` of a key server over plain http, with further members.
pub(crate) fn jwks(url: &str, more: Value) -> Value {
    let mut jwks = json!({ "url": url, "insecure_http": true });
    for (key, value) in more.as_object().unwrap() {
        jwks[key] = value.clone();
    }
    jwks
}

/// Returns the names of the keys that may be used now; `None` when there are none.
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

/// Waits until the error of the last fetch contains these words.
pub(crate) async fn error_becomes(source: &Source, words: &str) {
    let holds = || source.status().last_error.is_some_and(|error| error.contains(words));
    eventually(holds, || format!("`{words}` in {:?}", source.status())).await;
}

/// Waits for this number of failed fetches from now on.
pub(crate) async fn failures(source: &Source, more: u64) {
    let before = source.status().fetches_failed;
    eventually(
        || source.status().fetches_failed >= before + more,
        || format!("failures: {:?}", source.status()),
    )
    .await;
}

/// Waits for this number of good fetches from now on.
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

/// Returns the interval in which conditions are checked.
pub(crate) fn poll() -> tokio::time::Interval {
    let mut poll = tokio::time::interval(Duration::from_millis(2));
    poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
    poll
}
