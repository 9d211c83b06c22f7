//! The store of a single replica: buckets and revocations in this process, gone with it.

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

pub(super) use self::buckets::Buckets;
use super::{
    Admitted, Circuit, MemoryConfig, PAGE_MAX, Page, Revocation, Store, StoreStatus,
    revocation::RevocationTable, revoked::Revoked,
};

/// Buckets and revocations in memory.
#[derive(Debug)]
pub struct Memory {
    buckets: Buckets,
    /// What checks look at.
    revoked: Revoked,
    /// What operators look at, and what ends when.
    revocations: Mutex<RevocationTable>,
    clock: Clock,
}

impl Memory {
    /// An empty store.
    pub fn new(config: &MemoryConfig) -> Self {
        Self {
            buckets: Buckets::new(config.max_buckets),
            revoked: Revoked::default(),
            revocations: Mutex::default(),
            clock: Clock::start(),
        }
    }

    /// [`Store::admit`] at a moment.
    ///
    /// # Errors
    /// [`Outage::Full`] where a bucket is missing and there is no room for it; [`Outage::Refused`] where a blacklist of another
    /// service is asked for: it is in a Redis, not here.
    pub fn admit_at(
        &self,
        demands: &AdmitRequest,
        now: Timestamp,
    ) -> Result<AdmitResponse, Outage> {
        if let Some(keys) = &demands.revocation {
            // The configuration is refused before it comes to this. Unknown must not read as "not revoked".
            if !keys.foreign.is_empty() {
                return Err(Outage::Refused);
            }
            if let Some(kind) = self.revoked.revokes(keys, now) {
                return Ok(AdmitResponse::Revoked(kind));
            }
        }
        self.buckets.charge(&demands.charges, now).map(AdmitResponse::Counted)
    }

    /// [`Store::revoke`] at a moment.
    pub fn revoke_at(&self, revocation: &Revocation, now: Timestamp) {
        let entry = revocation.entry(now);
        self.revocations(now, |table, revoked| {
            revoked.add(&entry.key, entry.at, entry.ends);
            table.add(entry);
        });
    }

    /// Changes the revocations, those that have ended left out.
    fn revocations<T>(
        &self,
        now: Timestamp,
        change: impl FnOnce(&mut RevocationTable, &Revoked) -> T,
    ) -> T {
        let mut table = self.revocations.lock().unwrap_or_else(PoisonError::into_inner);
        table.prune(now, |key| self.revoked.remove(key));
        change(&mut table, &self.revoked)
    }
}

impl Store for Memory {
    fn admit<'a>(&'a self, demands: &'a AdmitRequest) -> Admitted<'a> {
        Either::Left(future::ready(self.admit_at(demands, self.clock.now())))
    }

    fn revoke<'a>(&'a self, revocation: &'a Revocation) -> BoxFuture<'a, Result<(), Outage>> {
        self.revoke_at(revocation, self.clock.now());
        Box::pin(future::ready(Ok(())))
    }

    fn reinstate<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Result<bool, Outage>> {
        let now = self.clock.now();
        let key = target.key();
        let existed = self.revocations(now, |table, revoked| {
            revoked.remove(&key);
            table.remove(&key, now)
        });
        Box::pin(future::ready(Ok(existed)))
    }

    fn list(&self, offset: usize, limit: usize) -> BoxFuture<'_, Result<Page, Outage>> {
        let page =
            self.revocations(self.clock.now(), |table, _| table.page(offset, limit.min(PAGE_MAX)));
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
            revocations: Some(
                self.revocations.lock().unwrap_or_else(PoisonError::into_inner).len(),
            ),
            replica: None,
            leases: None,
        }
    }
}

/// The wall clock at the start, and from there a clock that never steps: a corrected system clock neither refills a bucket nor
/// locks anybody out.
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
