//! `on_outage: local`: a bounded count while Redis cannot be asked.
//!
//! Each replica admits its share of each limit, and knows the revocations as they last were in Redis, up to a stated age. A
//! client can so get, in an outage, no more than its limit again: each replica starts with a full share.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use tokio_util::sync::{CancellationToken, DropGuard};
use tollgate_core::{
    limit::{Answers, Charge, Demands, Outage, Verdict},
    time::{Span, Timestamp},
};

use super::{
    Entry, LocalConfig, Redis, Store as _,
    memory::{Buckets, Clock},
    redis::{Change, Cursor},
    revocation::Table,
};

/// How much later than Redis says a revocation ends here: clocks differ, and it must not end early.
const LATER: Span = Span::from_secs(60);

/// Counts and revocations for an outage of Redis.
pub struct LocalFallback {
    replicas: u64,
    max_staleness: Duration,
    buckets: Buckets,
    clock: Clock,
    replica: Arc<RwLock<Replica>>,
    /// Ends the replication with this value.
    _alive: DropGuard,
}

/// The revocations, as they were in Redis.
#[derive(Default)]
struct Replica {
    table: Table,
    /// When Redis was last asked, if it ever answered.
    asked: Option<Instant>,
}

/// What a [`LocalFallback`] says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalStatus {
    /// How old the known revocations are; `None` before they were first read.
    pub age: Option<Duration>,
    /// How many are known.
    pub revocations: u64,
    /// How many buckets are held.
    pub buckets: u64,
}

impl std::fmt::Debug for LocalFallback {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalFallback").field("status", &self.status()).finish_non_exhaustive()
    }
}

impl LocalFallback {
    /// Begins to read revocations from `source`, until `stop`. Call it inside a Tokio runtime.
    pub fn start(config: &LocalConfig, source: Arc<Redis>, stop: CancellationToken) -> Self {
        let alive = stop.child_token();
        let replica = Arc::<RwLock<Replica>>::default();
        let replication = Replication { source, replica: Arc::clone(&replica), refresh: config.refresh.std(), cursor: None };
        let until = alive.clone();
        tokio::spawn(async move { until.run_until_cancelled(replication.run()).await });
        Self {
            replicas: config.replicas,
            max_staleness: config.max_staleness.std(),
            buckets: Buckets::new(config.max_buckets),
            clock: Clock::start(),
            replica,
            _alive: alive.drop_guard(),
        }
    }

    /// Answers in place of Redis.
    ///
    /// # Errors
    /// [`Outage::Stale`] for a credential when the known revocations are too old, or were never read; [`Outage::Full`] as in the
    /// memory store; [`Outage::Refused`] where a blacklist of another service is asked for, which is not replicated.
    pub fn admit(&self, demands: &Demands) -> Result<Answers, Outage> {
        let now = self.clock.now();
        if let Some(principal) = &demands.principal {
            let keys = principal.revocation();
            if !keys.foreign.is_empty() {
                return Err(Outage::Refused);
            }
            let replica = self.replica.read().unwrap_or_else(PoisonError::into_inner);
            // Before the age: a revocation that is known holds, however old the rest is.
            if let Some(kind) = replica.table.revokes(keys, now) {
                return Ok(Answers::Revoked(kind));
            }
            if replica.asked.is_none_or(|asked| asked.elapsed() > self.max_staleness) {
                return Err(Outage::Stale);
            }
        }
        self.count(&demands.charges, now)
    }

    fn count(&self, charges: &[Charge], now: Timestamp) -> Result<Answers, Outage> {
        let shares: Vec<Charge> = charges.iter().map(|charge| share(charge, self.replicas)).collect();
        let mut verdicts = self.buckets.charge(&shares, now)?;
        for ((verdict, share), charge) in verdicts.iter_mut().zip(&shares).zip(charges) {
            patient(verdict, share, charge);
        }
        Ok(Answers::Counted(verdicts))
    }

    /// How it does, for metrics.
    pub fn status(&self) -> LocalStatus {
        let replica = self.replica.read().unwrap_or_else(PoisonError::into_inner);
        LocalStatus {
            age: replica.asked.map(|asked| asked.elapsed()),
            revocations: replica.table.len(),
            buckets: self.buckets.len(),
        }
    }
}

/// The part of a charge's bucket that is this replica's: it fills so many times slower, and holds so many times less.
fn share(charge: &Charge, replicas: u64) -> Charge {
    Charge { interval: charge.interval.saturating_mul(replicas), burst: charge.burst / replicas.max(1), ..charge.clone() }
}

/// A share too small for the charge never has room, but the limit itself does, once Redis is back: not "never".
fn patient(verdict: &mut Verdict, share: &Charge, charge: &Charge) {
    if verdict.retry_after == u64::MAX && charge.cost <= charge.burst {
        verdict.retry_after = share.interval;
    }
}

/// Reads revocations from Redis: everything once, then the changes.
struct Replication {
    source: Arc<Redis>,
    replica: Arc<RwLock<Replica>>,
    refresh: Duration,
    cursor: Option<Cursor>,
}

impl Replication {
    async fn run(mut self) {
        let mut failing = false;
        loop {
            // From before the question: what it says may be that old.
            let asked = Instant::now();
            match self.step().await {
                Ok(()) => {
                    failing = false;
                    self.replica.write().unwrap_or_else(PoisonError::into_inner).asked = Some(asked);
                }
                Err(outage) => {
                    if !failing {
                        let error = self.source.status().last_error.unwrap_or_default();
                        tracing::warn!("revocations are not followed, and age: {} ({error})", outage.label());
                    }
                    failing = true;
                }
            }
            tokio::time::sleep(self.refresh.mul_f64(rand::random_range(0.9..=1.0))).await;
        }
    }

    async fn step(&mut self) -> Result<(), Outage> {
        loop {
            let Some(cursor) = &self.cursor else {
                let (cursor, entries) = self.source.revocations().await?;
                let mut table = Table::default();
                entries.into_iter().map(later).for_each(|entry| table.add(entry));
                self.replica.write().unwrap_or_else(PoisonError::into_inner).table = table;
                self.cursor = Some(cursor);
                continue;
            };
            match self.source.changes(cursor).await? {
                None => self.cursor = None,
                Some((_, changes)) if changes.is_empty() => return Ok(()),
                Some((read, changes)) => {
                    self.apply(changes);
                    self.cursor = Some(read);
                }
            }
        }
    }

    fn apply(&self, changes: Vec<Change>) {
        let now = Clock::start().now();
        let mut replica = self.replica.write().unwrap_or_else(PoisonError::into_inner);
        replica.table.prune(now);
        for change in changes {
            match change {
                Change::Add(entry) => replica.table.add(later(entry)),
                Change::Remove(key) => {
                    replica.table.remove(&key, now);
                }
            }
        }
    }
}

fn later(entry: Entry) -> Entry {
    Entry { ends: Timestamp::from_micros(entry.ends.micros().saturating_add(LATER.micros())), ..entry }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn charge(interval: u64, burst: u64) -> Charge {
        Charge { limit: "l".into(), key: "k".into(), interval, burst, cost: 1 }
    }

    #[test]
    fn shares_add_up_to_no_more_than_the_limit() {
        for (burst, replicas, expected) in [(20, 1, 20), (20, 4, 5), (20, 3, 6), (20, 20, 1), (20, 21, 0), (0, 4, 0)] {
            let share = share(&charge(1000, burst), replicas);
            assert_eq!((share.burst, share.interval), (expected, 1000 * replicas), "{burst} by {replicas}");
            assert!(share.burst * replicas <= burst);
        }
    }

    #[test]
    fn a_share_of_nothing_is_refused_for_now_and_a_limit_of_nothing_for_good() {
        let refused = Verdict { admitted: false, remaining: 0, retry_after: u64::MAX, reset: 0 };
        for (burst, expected) in [(3, 4000), (0, u64::MAX)] {
            let (whole, mut verdict) = (charge(1000, burst), refused);
            patient(&mut verdict, &share(&whole, 4), &whole);
            assert_eq!(verdict.retry_after, expected);
        }
    }
}
