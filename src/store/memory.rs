//! The store of a single replica: buckets and revocations in memory, lost when the process ends.

mod buckets;

use std::{
    sync::{Mutex, PoisonError},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use futures_util::future::{self, BoxFuture, Either};
use tollgate_core::{
    admission::{AdmitRequest, AdmitResponse, Outage},
    revocation::Target,
    time::Timestamp,
};

pub(super) use self::buckets::{Buckets, owner};
use super::{
    AdmitFuture, Circuit, MemoryConfig, PAGE_MAX, Page, Revocation, Store, StoreStatus,
    revocation::RevocationTable, revocation_map::RevocationMap,
};

/// Buckets and revocations in memory.
#[derive(Debug)]
pub struct Memory {
    buckets: Buckets,
    /// The revocations as checks look them up.
    map: RevocationMap,
    /// The revocations as they are listed, by the moment they end.
    table: Mutex<RevocationTable>,
    clock: Clock,
}

impl Memory {
    /// An empty store.
    pub fn new(config: &MemoryConfig) -> Self {
        Self {
            buckets: Buckets::new(config.max_buckets),
            map: RevocationMap::default(),
            table: Mutex::default(),
            clock: Clock::start(),
        }
    }

    /// Decides a check at a given moment: [`Store::admit`].
    ///
    /// # Errors
    /// [`Outage::Full`] if there is no room for a new bucket; [`Outage::Refused`] for an external
    /// denylist, which is in a Redis.
    pub fn admit_at(
        &self,
        request: &AdmitRequest,
        now: Timestamp,
    ) -> Result<AdmitResponse, Outage> {
        if let Some(keys) = &request.revocation {
            // Such a configuration is refused at the start. Unknown must not mean "not revoked".
            if !keys.foreign.is_empty() {
                return Err(Outage::Refused);
            }
            if let Some(kind) = self.map.revoked_by(keys, now) {
                return Ok(AdmitResponse::Revoked(kind));
            }
        }
        self.buckets.charge(&request.charges, owner(request), now).map(AdmitResponse::Counted)
    }

    /// Adds a revocation at a given moment: [`Store::revoke`].
    pub fn revoke_at(&self, revocation: &Revocation, now: Timestamp) {
        let entry = revocation.entry(now);
        self.with_revocations(now, |table, map| {
            map.add(&entry.key, entry.at, entry.ends);
            table.add(entry);
        });
    }

    /// Changes the revocations, after those that have ended are removed.
    fn with_revocations<T>(
        &self,
        now: Timestamp,
        change: impl FnOnce(&mut RevocationTable, &RevocationMap) -> T,
    ) -> T {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.prune(now, |key| self.map.remove(key));
        change(&mut table, &self.map)
    }
}

impl Store for Memory {
    fn admit<'a>(&'a self, request: &'a AdmitRequest) -> AdmitFuture<'a> {
        Either::Left(future::ready(self.admit_at(request, self.clock.now())))
    }

    fn revoke<'a>(&'a self, revocation: &'a Revocation) -> BoxFuture<'a, Result<(), Outage>> {
        self.revoke_at(revocation, self.clock.now());
        Box::pin(future::ready(Ok(())))
    }

    fn reinstate<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Result<bool, Outage>> {
        let now = self.clock.now();
        let key = target.key();
        let existed = self.with_revocations(now, |table, map| {
            map.remove(&key);
            table.remove(&key, now)
        });
        Box::pin(future::ready(Ok(existed)))
    }

    fn list(&self, offset: usize, limit: usize) -> BoxFuture<'_, Result<Page, Outage>> {
        let page = self
            .with_revocations(self.clock.now(), |table, _| table.page(offset, limit.min(PAGE_MAX)));
        Box::pin(future::ready(Ok(page)))
    }

    fn status(&self) -> StoreStatus {
        StoreStatus {
            remote: false,
            up: true,
            circuit: Circuit::Closed,
            connections: 0,
            last_error: None,
            buckets: Some(self.buckets.len()),
            revocations: Some(self.table.lock().unwrap_or_else(PoisonError::into_inner).len()),
            replica: None,
            leases: None,
        }
    }
}

/// A clock that begins at the wall clock and never steps: a corrected system clock neither refills
/// a bucket nor keeps one empty.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    wall: u64,
    started: Instant,
}

impl Clock {
    pub(super) fn start() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { wall: micros(wall), started: Instant::now() }
    }

    pub(super) fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.wall.saturating_add(micros(self.started.elapsed())))
    }
}

fn micros(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
