//! The revocations of Redis, in memory: read as a whole once, and then followed.
//!
//! Every change is an entry of a stream in Redis. A connection of its own waits there, so that a change is read when it is made;
//! what was read is confirmed by asking whether anything came after it. While the entry read last is still in the stream,
//! nothing in between was missed; when it is not, or Redis was emptied, all is read again.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;
use tollgate_core::{admission::Outage, revocation::Keys, time::Timestamp};

use super::{
    Entry, Redis, Store as _,
    memory::Clock,
    redis::{Change, Cursor, Ear},
    revoked::{LATER, Revoked},
};

/// How often what has ended is dropped.
const PRUNE: Duration = Duration::from_secs(60);

/// The revocations, as they were in Redis.
#[derive(Debug)]
pub(super) struct Replica {
    revoked: Revoked,
    clock: Clock,
    started: Instant,
    /// When Redis was last asked for changes and had no more, in microseconds since `started`; 0 before it ever answered.
    confirmed: AtomicU64,
}

impl Replica {
    pub(super) fn new() -> Self {
        Self {
            revoked: Revoked::default(),
            clock: Clock::start(),
            started: Instant::now(),
            confirmed: AtomicU64::new(0),
        }
    }

    /// Which kind of entry revokes a credential, as far as is known. Blacklists of other services are not.
    pub(super) fn revokes(&self, keys: &Keys) -> Option<&'static str> {
        self.revoked.revokes(keys, self.clock.now())
    }

    /// How old what is known may be; `None` before it was first read.
    pub(super) fn age(&self) -> Option<Duration> {
        let confirmed =
            Some(self.confirmed.load(Ordering::Acquire)).filter(|confirmed| *confirmed != 0)?;
        Some(self.started.elapsed().saturating_sub(Duration::from_micros(confirmed)))
    }

    /// How many are known.
    pub(super) fn len(&self) -> u64 {
        self.revoked.len()
    }

    fn add(&self, entry: &Entry) {
        let ends = Timestamp::from_micros(entry.ends.micros().saturating_add(LATER.micros()));
        self.revoked.add(&entry.key, entry.at, ends);
    }

    fn confirm(&self, asked: Instant) {
        let micros = asked.saturating_duration_since(self.started).as_micros();
        self.confirmed.store(u64::try_from(micros).unwrap_or(u64::MAX).max(1), Ordering::Release);
    }
}

/// Follows the revocations of `source` until it is dropped, or `stop`. Asks at least every `refresh`.
pub(super) fn follow(
    source: Weak<Redis>,
    replica: Arc<Replica>,
    refresh: Duration,
    stop: CancellationToken,
) {
    let following = Following {
        source,
        replica,
        refresh,
        cursor: None,
        ear: Listening::No,
        pruned: Instant::now(),
    };
    tokio::spawn(async move { stop.run_until_cancelled(following.run()).await });
}

struct Following {
    source: Weak<Redis>,
    replica: Arc<Replica>,
    refresh: Duration,
    cursor: Option<Cursor>,
    ear: Listening,
    pruned: Instant,
}

enum Listening {
    Yes(Ear),
    No,
    /// This user may not.
    Never,
}

impl Following {
    async fn run(mut self) {
        let mut failing = false;
        while let Some(source) = self.source.upgrade() {
            let outcome = self.read(&source).await;
            if let Err(outage) = outcome
                && !failing
            {
                let error = source.status().last_error.unwrap_or_default();
                tracing::warn!(
                    "revocations are not followed, and age: {} ({error})",
                    outage.label()
                );
            }
            failing = outcome.is_err();
            if self.pruned.elapsed() > PRUNE {
                self.replica.revoked.prune(self.replica.clock.now()).await;
                self.pruned = Instant::now();
            }
            // Not in step with other replicas.
            let pause = self.refresh.mul_f64(rand::random_range(0.9..=1.0));
            if matches!(self.ear, Listening::No) && !failing {
                self.ear = source.listen().await.map_or(Listening::No, Listening::Yes);
            }
            drop(source);
            if failing || !self.heard(pause).await {
                tokio::time::sleep(pause).await;
            }
        }
    }

    /// Reads until nothing is left to be read.
    async fn read(&mut self, source: &Redis) -> Result<(), Outage> {
        loop {
            let Some(cursor) = &self.cursor else {
                self.replica.revoked.renew().await;
                let replica = &self.replica;
                self.cursor = Some(source.revocations(|entry| replica.add(&entry)).await?);
                self.replica.revoked.renewed(self.replica.clock.now()).await;
                continue;
            };
            // From before the question: what it says may be that old.
            let asked = Instant::now();
            let Some(news) = source.changes(cursor).await? else {
                self.cursor = None;
                continue;
            };
            for change in &news.changes {
                match change {
                    Change::Add(entry) => self.replica.add(entry),
                    Change::Remove(key) => self.replica.revoked.remove(key),
                }
            }
            self.cursor = Some(news.read);
            if news.complete {
                self.replica.confirm(asked);
                return Ok(());
            }
        }
    }

    /// Waits for a change, `most` at most. Answers whether it could.
    async fn heard(&mut self, most: Duration) -> bool {
        let (Listening::Yes(ear), Some(cursor)) = (&mut self.ear, &self.cursor) else {
            return false;
        };
        match ear.wait(cursor, most).await {
            Ok(()) => return true,
            Err(Outage::Refused) => {
                tracing::warn!(
                    "revocations are asked for every {most:?} instead of pushed: redis refuses XREAD"
                );
                self.ear = Listening::Never;
            }
            Err(_) => self.ear = Listening::No,
        }
        false
    }
}
