//! A copy of the bans in Redis, and of the revocations where they are replicated: read once as a
//! whole, and then kept up to date.
//!
//! Every change is an entry of a stream in Redis. A connection of its own waits there, so that a
//! change is read as soon as it is made. The copy is confirmed when Redis has no more changes than
//! those that were read. While the entry that was read last is still in the stream, no change was
//! missed; when it is not, or Redis was emptied, everything is read again.

use std::{
    net::IpAddr,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;
use tollgate_core::{
    admission::{AdmitRequest, Outage},
    ban::{Ban, Kind},
    revocation::Keys,
    time::Timestamp,
};

use super::{
    Entry, Redis, Store as _,
    ban_map::BanMap,
    memory::Clock,
    redis::{Change, ChangeSubscription, Cursor},
    revocation_map::{END_MARGIN, RevocationMap},
};

/// The interval at which ended revocations are removed.
const PRUNE: Duration = Duration::from_secs(60);

/// A copy of the bans in Redis, and of the revocations.
#[derive(Debug)]
pub(super) struct Replica {
    bans: BanMap,
    revocations: RevocationMap,
    /// Whether the revocations are part of the copy.
    has_revocations: bool,
    clock: Clock,
    started: Instant,
    /// The moment of the last query to which Redis had no more changes, in microseconds since
    /// `started`; 0 before the first one.
    confirmed: AtomicU64,
    /// Whether the bans were read once, or could not be read.
    is_tried: AtomicBool,
}

impl Replica {
    /// An empty copy, of the bans and, with `has_revocations`, of the revocations.
    pub(super) fn new(has_revocations: bool) -> Self {
        Self {
            bans: BanMap::default(),
            has_revocations,
            revocations: RevocationMap::default(),
            clock: Clock::start(),
            started: Instant::now(),
            confirmed: AtomicU64::new(0),
            is_tried: AtomicBool::new(false),
        }
    }

    /// Returns the kind of entry that revokes a credential, according to the copy. External
    /// denylists are not part of it.
    pub(super) fn revoked_by(&self, keys: &Keys) -> Option<&'static str> {
        self.revocations.revoked_by(keys, self.clock.now())
    }

    /// Returns the ban of a network that contains an address, according to the copy.
    pub(super) fn network_ban(&self, address: IpAddr) -> Option<Ban> {
        self.bans.network_ban(address, || self.clock.now())
    }

    /// Returns the ban of a request, according to the copy: of its network before its holder.
    pub(super) fn ban(&self, request: &AdmitRequest) -> Option<Ban> {
        let network = request.address.and_then(|address| self.network_ban(address));
        let holder = || self.bans.holder_ban(request.revocation.as_deref()?, || self.clock.now());
        network.or_else(holder)
    }

    /// The number of bans of each kind, in the order of [`Kind::ALL`].
    pub(super) fn ban_counts(&self) -> [u64; Kind::ALL.len()] {
        self.bans.counts()
    }

    /// The greatest possible age of the copy; `None` before it was first read.
    pub(super) fn age(&self) -> Option<Duration> {
        let confirmed =
            Some(self.confirmed.load(Ordering::Acquire)).filter(|confirmed| *confirmed != 0)?;
        Some(self.started.elapsed().saturating_sub(Duration::from_micros(confirmed)))
    }

    /// Whether the copy was read once, or could not be read.
    pub(super) fn is_tried(&self) -> bool {
        self.is_tried.load(Ordering::Acquire)
    }

    /// What is copied, for the log.
    fn content(&self) -> &'static str {
        if self.has_revocations { "bans and revocations" } else { "bans" }
    }

    /// The number of revocations.
    pub(super) fn len(&self) -> u64 {
        self.revocations.len()
    }

    pub(super) fn add(&self, entry: &Entry) {
        let ends = entry.ends.micros().saturating_add(END_MARGIN.micros());
        self.revocations.add(&entry.key, entry.at, Timestamp::from_micros(ends));
    }

    fn confirm(&self, queried: Instant) {
        let micros = queried.saturating_duration_since(self.started).as_micros();
        self.confirmed.store(u64::try_from(micros).unwrap_or(u64::MAX).max(1), Ordering::Release);
    }
}

/// Starts the task that keeps `replica` up to date with `source`, until `source` is dropped or
/// `stop`. Redis is queried at least every `refresh`.
pub(super) fn spawn_follower(
    source: Weak<Redis>,
    replica: Arc<Replica>,
    refresh: Duration,
    stop: CancellationToken,
) {
    let follower = Follower {
        source,
        replica,
        refresh,
        cursor: None,
        subscription: Subscription::Inactive,
        pruned: Instant::now(),
    };
    tokio::spawn(async move { stop.run_until_cancelled(follower.run()).await });
}

struct Follower {
    source: Weak<Redis>,
    replica: Arc<Replica>,
    refresh: Duration,
    cursor: Option<Cursor>,
    subscription: Subscription,
    pruned: Instant,
}

enum Subscription {
    Active(ChangeSubscription),
    Inactive,
    /// The user lacks the permission to wait for changes.
    Forbidden,
}

impl Follower {
    async fn run(mut self) {
        let mut failing = false;
        while let Some(source) = self.source.upgrade() {
            let result = self.read(&source).await;
            self.replica.is_tried.store(true, Ordering::Release);
            if let Err(outage) = result
                && !failing
            {
                let error = source.status().last_error.unwrap_or_default();
                tracing::warn!(
                    "store.redis: the copy of the {} is not refreshed ({}): {error}",
                    self.replica.content(),
                    outage.label()
                );
            }
            failing = result.is_err();
            if self.pruned.elapsed() > PRUNE {
                self.replica.bans.prune(self.replica.clock.now()).await;
                self.replica.revocations.prune(self.replica.clock.now()).await;
                self.pruned = Instant::now();
            }
            // Random, so that replicas do not query Redis at the same moments.
            let pause = self.refresh.mul_f64(rand::random_range(0.9..=1.0));
            if matches!(self.subscription, Subscription::Inactive) && !failing {
                let subscription = source.subscribe().await;
                self.subscription =
                    subscription.map_or(Subscription::Inactive, Subscription::Active);
            }
            drop(source);
            if failing || !self.wait_for_change(pause).await {
                tokio::time::sleep(pause).await;
            }
        }
    }

    /// Reads until Redis has no more changes.
    async fn read(&mut self, source: &Redis) -> Result<(), Outage> {
        loop {
            let Some(cursor) = &self.cursor else {
                self.cursor = Some(self.read_all(source).await?);
                continue;
            };
            // Taken before the query: a change may be made while the answer is on its way.
            let queried = Instant::now();
            let Some(batch) = source.changes(cursor).await? else {
                self.cursor = None;
                continue;
            };
            for change in &batch.changes {
                match change {
                    Change::Add(entry) if self.replica.has_revocations => self.replica.add(entry),
                    Change::Add(_) => {}
                    Change::Remove(key) => self.replica.revocations.remove(key),
                    Change::Ban(entry) => self.replica.bans.add(entry),
                    Change::Lift(key) => self.replica.bans.remove(key),
                }
            }
            self.cursor = Some(batch.cursor);
            if batch.complete {
                self.replica.confirm(queried);
                return Ok(());
            }
        }
    }

    /// Reads everything again. Returns the cursor after which changes may be missing.
    async fn read_all(&self, source: &Redis) -> Result<Cursor, Outage> {
        let replica = &self.replica;
        let cursor = source.newest_change().await?;
        // Bans first: a million revocations take a second.
        replica.bans.begin_reload().await;
        source.all_bans(|entry| replica.bans.add(&entry)).await?;
        replica.bans.finish_reload(replica.clock.now()).await;
        if replica.has_revocations {
            replica.revocations.begin_reload().await;
            source.revocations(|entry| replica.add(&entry)).await?;
            replica.revocations.finish_reload(replica.clock.now()).await;
        }
        Ok(cursor)
    }

    /// Waits for a change, for `most` at most. Returns whether it could wait.
    async fn wait_for_change(&mut self, most: Duration) -> bool {
        let (Subscription::Active(subscription), Some(cursor)) =
            (&mut self.subscription, &self.cursor)
        else {
            return false;
        };
        match subscription.wait_for_change(cursor, most).await {
            Ok(()) => return true,
            Err(Outage::Refused) => {
                tracing::warn!(
                    "store.redis: changes of the {} are polled every {most:?} instead of pushed, because redis refuses XREAD; grant `+xread` to the ACL user",
                    self.replica.content()
                );
                self.subscription = Subscription::Forbidden;
            }
            Err(_) => self.subscription = Subscription::Inactive,
        }
        false
    }
}
