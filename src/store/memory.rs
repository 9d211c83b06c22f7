//! The store of a single replica: buckets, revocations and bans in memory, lost when the process
//! ends.

mod buckets;

use std::{
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use futures_util::future::{self, BoxFuture, Either};
use tollgate_core::{
    admission::{AdmitRequest, AdmitResponse, Outage, Settled, Settlement},
    ban::{self, Ban},
    credential::dpop::{ProofRefusal, ProofUse, UsedProofs},
    revocation::Target,
    time::Timestamp,
};

pub(super) use self::buckets::Buckets;
use super::{
    AdmitFuture, AutomaticBan, BanQuery, BanStatus, BegunBan, Circuit, Entry, MemoryConfig, NewBan,
    PAGE_MAX, Page, Position, Revocation, Store, StoreStatus, ban::Repeats, ban_map::BanMap,
    requester::Requester, revocation::RevocationTable, revocation_map::RevocationMap,
};

/// The number of used proofs that are forgotten in one step: more than a step adds.
const PROOFS_AT_ONCE: usize = 64;

/// The number of holders whose proofs fill the table.
const PARTS: usize = 16;

/// The number of proofs that a holder may have in a table of any size.
const LEAST_PART: u32 = 64;

/// Buckets and revocations in memory.
#[derive(Debug)]
pub struct Memory {
    buckets: Buckets,
    /// The proofs that were used, of which there are as many as buckets at most.
    proofs: Mutex<UsedProofs>,
    max_proofs: usize,
    /// Whether this is the only replica: no other one has proofs of its own.
    single_replica: bool,
    /// The revocations as checks look them up.
    map: RevocationMap,
    /// The revocations as they are listed, by the moment they end.
    table: Mutex<RevocationTable>,
    /// The bans as checks look them up.
    bans: BanMap,
    /// The bans as they are listed, by the moment they end.
    ban_table: Mutex<RevocationTable>,
    /// The numbers of earlier automatic bans. Locked before the bans.
    repeats: Mutex<Repeats>,
    clock: Clock,
}

impl Memory {
    /// An empty store.
    pub fn new(config: &MemoryConfig) -> Self {
        Self {
            buckets: Buckets::new(config.max_buckets),
            proofs: Mutex::default(),
            max_proofs: usize::try_from(config.max_buckets).unwrap_or(usize::MAX),
            single_replica: config.single_replica,
            map: RevocationMap::default(),
            table: Mutex::default(),
            bans: BanMap::default(),
            ban_table: Mutex::default(),
            repeats: Mutex::default(),
            clock: Clock::start(),
        }
    }

    /// Decides a check at a given moment: [`Store::admit`].
    ///
    /// # Errors
    /// [`Outage::Full`] if there is no room for a new bucket or a proof; [`Outage::Refused`] for an external
    /// denylist, which is in a Redis, and for a proof unless this is the only replica.
    pub fn admit_at(
        &self,
        request: &AdmitRequest,
        now: Timestamp,
    ) -> Result<AdmitResponse, Outage> {
        if let Some(ban) = self.ban(request, now) {
            return Ok(AdmitResponse::Banned(ban));
        }
        if let Some(keys) = &request.revocation {
            // Such a configuration is refused at the start. Unknown must not mean "not revoked".
            if !keys.foreign.is_empty() {
                return Err(Outage::Refused);
            }
            if let Some(kind) = self.map.revoked_by(keys, now) {
                return Ok(AdmitResponse::Revoked(kind));
            }
        }
        if let Some(proof) = &request.proof
            && let Err(refusal) = self.use_proof(proof, Requester::of(request), now)?
        {
            return Ok(AdmitResponse::Proof(refusal));
        }
        self.buckets.admit(request, now).map(AdmitResponse::Counted)
    }

    /// Uses a proof once. A holder, its tenant and its issuer have a part of the room at most, as
    /// with buckets.
    fn use_proof(
        &self,
        proof: &ProofUse,
        from: Requester<'_>,
        now: Timestamp,
    ) -> Result<Result<(), ProofRefusal>, Outage> {
        // Such a configuration is refused at the start, but a reload may add `dpop`. INVARIANT: no
        // proof is accepted once at each replica.
        if !self.single_replica {
            return Err(Outage::Refused);
        }
        let mut proofs = self.proofs.lock().unwrap_or_else(PoisonError::into_inner);
        proofs.advance(now, PROOFS_AT_ONCE);
        if proofs.len() >= self.max_proofs {
            return Err(Outage::Full);
        }
        let part = u32::try_from(self.max_proofs / PARTS).unwrap_or(u32::MAX).max(LEAST_PART);
        let proof = ProofUse { most: proof.most.min(part), ..*proof };
        let group = self.buckets.groups().of(from, true);
        Ok(proofs.use_in_room(&proof, group, self.max_proofs, now))
    }

    /// Applies reports at a given moment: [`Store::settle`].
    pub fn settle_at(&self, settlements: &[Settlement], now: Timestamp) -> Vec<Settled> {
        self.buckets.settle(settlements, now)
    }

    /// Adds a revocation at a given moment: [`Store::revoke`].
    pub fn revoke_at(&self, revocation: &Revocation, now: Timestamp) {
        let entry = revocation.entry(now);
        self.with_revocations(now, |table, map| {
            map.add(&entry.key, entry.at, entry.ends);
            table.add(entry);
        });
    }

    fn ban(&self, request: &AdmitRequest, now: Timestamp) -> Option<Ban> {
        let network = request.address.and_then(|address| self.bans.network_ban(address, || now));
        // A credential that an automatic ban refuses does not get here.
        let network = network.filter(|ban| ban.kind == ban::Kind::Network);
        let holder = || self.bans.holder_ban(request.revocation.as_deref()?, || now);
        network.or_else(holder)
    }

    /// Adds a ban at a given moment: [`Store::ban`].
    pub fn ban_at(&self, ban: &NewBan, now: Timestamp) -> Entry {
        let entry = ban.entry();
        self.with_bans(now, |table, map| {
            map.add(&entry);
            table.add(entry.clone());
            table.entry(&entry.key).unwrap_or(entry)
        })
    }

    /// Begins an automatic ban at a given moment: [`Store::begin_ban`].
    pub fn begin_ban_at(&self, ban: &AutomaticBan, now: Timestamp) -> BegunBan {
        let mut repeats = self.repeats.lock().unwrap_or_else(PoisonError::into_inner);
        self.with_bans(now, |table, map| {
            let key = ban.key();
            if let Some(known) = table.entry(&key) {
                let number = repeats.number(&key).max(1);
                return BegunBan { until: known.ends, number, is_new: false };
            }
            let (number, entry) = repeats.begin(ban, now);
            map.add(&entry);
            let until = entry.ends;
            table.add(entry);
            BegunBan { until, number, is_new: true }
        })
    }

    fn lift_at(&self, target: &ban::Target, now: Timestamp) -> bool {
        let mut repeats = self.repeats.lock().unwrap_or_else(PoisonError::into_inner);
        self.with_bans(now, |table, map| {
            let lift = |existed: bool, key: String| {
                repeats.forget(&key);
                map.remove(&key);
                table.remove(&key, now) || existed
            };
            target.keys().into_iter().fold(false, lift)
        })
    }

    /// Changes the bans, after those that have ended are removed.
    fn with_bans<T>(
        &self,
        now: Timestamp,
        change: impl FnOnce(&mut RevocationTable, &BanMap) -> T,
    ) -> T {
        let mut table = self.ban_table.lock().unwrap_or_else(PoisonError::into_inner);
        table.prune(now, |key| self.bans.remove(key));
        change(&mut table, &self.bans)
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

    fn settle<'a>(
        &'a self,
        settlements: &'a [Settlement],
    ) -> BoxFuture<'a, Result<Vec<Settled>, Outage>> {
        Box::pin(future::ready(Ok(self.settle_at(settlements, self.clock.now()))))
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

    fn list<'a>(
        &'a self,
        after: Option<&'a Position>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page, Outage>> {
        let page = self
            .with_revocations(self.clock.now(), |table, _| table.page(after, limit.min(PAGE_MAX)));
        Box::pin(future::ready(Ok(page)))
    }

    fn network_ban(&self, address: IpAddr) -> Option<Ban> {
        self.bans.network_ban(address, || self.clock.now())
    }

    fn ban<'a>(&'a self, ban: &'a NewBan) -> BoxFuture<'a, Result<Entry, Outage>> {
        Box::pin(future::ready(Ok(self.ban_at(ban, self.clock.now()))))
    }

    fn begin_ban<'a>(&'a self, ban: &'a AutomaticBan) -> BoxFuture<'a, Result<BegunBan, Outage>> {
        Box::pin(future::ready(Ok(self.begin_ban_at(ban, self.clock.now()))))
    }

    fn lift<'a>(&'a self, target: &'a ban::Target) -> BoxFuture<'a, Result<bool, Outage>> {
        Box::pin(future::ready(Ok(self.lift_at(target, self.clock.now()))))
    }

    fn list_bans<'a>(
        &'a self,
        after: Option<&'a Position>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page, Outage>> {
        let page =
            self.with_bans(self.clock.now(), |table, _| table.page(after, limit.min(PAGE_MAX)));
        Box::pin(future::ready(Ok(page)))
    }

    fn bans_of<'a>(&'a self, query: &'a BanQuery) -> BoxFuture<'a, Result<Vec<Entry>, Outage>> {
        let found = self.with_bans(self.clock.now(), |table, _| {
            query.keys().iter().filter_map(|key| table.entry(key)).collect()
        });
        Box::pin(future::ready(Ok(found)))
    }

    fn status(&self) -> StoreStatus {
        StoreStatus {
            remote: false,
            up: true,
            circuit: Circuit::Closed,
            connections: 0,
            last_error: None,
            nodes: Vec::new(),
            buckets: Some(self.buckets.len()),
            revocations: Some(self.table.lock().unwrap_or_else(PoisonError::into_inner).len()),
            replica: None,
            bans: Some(BanStatus { counts: self.bans.counts(), age: None }),
            leases: None,
            reservations: self.buckets.reservations(self.clock.now()),
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
