//! A copy of the bans in Redis, and of the revocations where they are replicated
//! ([`super::follower`]).

use std::{
    net::IpAddr,
    sync::{Arc, Weak},
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
    Entry, Redis,
    ban_map::BanMap,
    follower::{self, Copied, Freshness},
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
    freshness: Arc<Freshness>,
}

impl Replica {
    /// An empty copy, of the bans and, with `has_revocations`, of the revocations.
    pub(super) fn new(has_revocations: bool) -> Self {
        Self {
            bans: BanMap::default(),
            has_revocations,
            revocations: RevocationMap::default(),
            clock: Clock::start(),
            freshness: Arc::new(Freshness::new()),
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
        // A credential that an automatic ban refuses does not get here.
        let network = network.filter(|ban| ban.kind == Kind::Network);
        let holder = || self.bans.holder_ban(request.revocation.as_deref()?, || self.clock.now());
        network.or_else(holder)
    }

    /// The number of bans of each kind, in the order of [`Kind::ALL`].
    pub(super) fn ban_counts(&self) -> [u64; Kind::ALL.len()] {
        self.bans.counts()
    }

    /// The greatest possible age of the copy; `None` before it was first read.
    pub(super) fn age(&self) -> Option<Duration> {
        self.freshness.age()
    }

    /// Whether the copy was read once, or could not be read.
    pub(super) fn is_tried(&self) -> bool {
        self.freshness.is_tried()
    }

    /// The number of revocations.
    pub(super) fn len(&self) -> u64 {
        self.revocations.len()
    }

    pub(super) fn add(&self, entry: &Entry) {
        let ends = entry.ends.micros().saturating_add(END_MARGIN.micros());
        self.revocations.add(&entry.key, entry.at, Timestamp::from_micros(ends));
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
    let copy = RevocationCopy { replica, refresh, cursor: None, pruned: Instant::now() };
    follower::spawn(source, copy, stop);
}

struct RevocationCopy {
    replica: Arc<Replica>,
    refresh: Duration,
    cursor: Option<Cursor>,
    pruned: Instant,
}

impl Copied for RevocationCopy {
    fn content(&self) -> &'static str {
        if self.replica.has_revocations { "bans and revocations" } else { "bans" }
    }

    fn freshness(&self) -> Option<Arc<Freshness>> {
        Some(Arc::clone(&self.replica.freshness))
    }

    fn refresh(&self) -> Duration {
        self.refresh
    }

    fn cursor(&self) -> Option<&Cursor> {
        self.cursor.as_ref()
    }

    async fn read(&mut self, source: &Redis) -> Result<(), Outage> {
        loop {
            let Some(cursor) = &self.cursor else {
                self.cursor = Some(self.read_all(source).await?);
                continue;
            };
            // Taken before the query: a change may be made while the answer is on its way.
            let queried = Instant::now();
            let Some(batch) = source.changes(cursor).await? else {
                follower::warn_of_gap(self.content(), cursor);
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
                self.replica.freshness.confirm(queried);
                return Ok(());
            }
        }
    }

    async fn clean(&mut self) {
        if self.pruned.elapsed() > PRUNE {
            self.replica.bans.prune(self.replica.clock.now()).await;
            self.replica.revocations.prune(self.replica.clock.now()).await;
            self.pruned = Instant::now();
        }
    }

    async fn subscribe(source: &Redis) -> Option<ChangeSubscription> {
        source.subscribe().await
    }
}

impl RevocationCopy {
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
}
