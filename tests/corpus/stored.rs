//! The store of one row of the corpus, for the adapters that are tested with a checker of their own.
//! The module for Envoy has the same tests, in `crates/envoy-module/tests`.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use futures_util::future::{BoxFuture, Either, ready};
use tollgate::{
    policy_test::Ledger,
    store::{
        AdmitFuture, AutomaticBan, BanQuery, BegunBan, Circuit, Entry, NewBan, Page, Position,
        ReservationStatus, Revocation, Store, StoreStatus,
    },
};
use tollgate_core::{
    admission::{AdmitRequest, AdmitResponse, Outage, Settled, Settlement},
    ban::{self, Ban},
    revocation::Target,
    time::Timestamp,
};

/// The store of a row: its ledger, or its outage.
pub(crate) struct Stored {
    ledger: Arc<Mutex<Ledger>>,
    moment: Arc<Moment>,
    /// Whether it is remote, and its answers come later.
    is_late: bool,
}

impl Stored {
    /// The store of a row, in memory.
    pub(crate) fn new(ledger: &Arc<Mutex<Ledger>>, moment: &Arc<Moment>) -> Self {
        Self { ledger: Arc::clone(ledger), moment: Arc::clone(moment), is_late: false }
    }

    /// The same store, which is remote and answers later.
    #[allow(dead_code, reason = "the tests of gRPC have a store in memory")]
    pub(crate) fn late(self) -> Self {
        Self { is_late: true, ..self }
    }

    fn answer(&self, demands: &AdmitRequest) -> Result<AdmitResponse, Outage> {
        match *self.moment.outage.lock().unwrap() {
            Some(outage) => Err(outage),
            None => Ok(self.ledger.lock().unwrap().admit(demands, self.moment.now())),
        }
    }
}

/// The time and the outage of the request that is sent.
#[derive(Default)]
pub(crate) struct Moment {
    micros: AtomicU64,
    outage: Mutex<Option<Outage>>,
}

impl Moment {
    pub(crate) fn set(&self, now: Timestamp, outage: Option<Outage>) {
        self.micros.store(now.micros(), Ordering::Relaxed);
        *self.outage.lock().unwrap() = outage;
    }

    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.micros.load(Ordering::Relaxed))
    }
}

impl Store for Stored {
    fn admit<'a>(&'a self, demands: &'a AdmitRequest) -> AdmitFuture<'a> {
        if !self.is_late {
            return Either::Left(ready(self.answer(demands)));
        }
        Either::Right(Box::pin(async move {
            tokio::task::yield_now().await;
            self.answer(demands)
        }))
    }

    fn settle<'a>(&'a self, _: &'a [Settlement]) -> BoxFuture<'a, Result<Vec<Settled>, Outage>> {
        // A check that was cancelled releases what the store may hold for it.
        Box::pin(ready(Ok(Vec::new())))
    }

    fn revoke<'a>(&'a self, _: &'a Revocation) -> BoxFuture<'a, Result<(), Outage>> {
        panic!("a check revokes nothing")
    }

    fn reinstate<'a>(&'a self, _: &'a Target) -> BoxFuture<'a, Result<bool, Outage>> {
        panic!("a check reinstates nothing")
    }

    fn list<'a>(
        &'a self,
        _: Option<&'a Position>,
        _: usize,
    ) -> BoxFuture<'a, Result<Page, Outage>> {
        panic!("a check lists nothing")
    }

    fn network_ban(&self, address: IpAddr) -> Option<Ban> {
        self.ledger.lock().unwrap().network_ban(address, self.moment.now())
    }

    fn ban<'a>(&'a self, _: &'a NewBan) -> BoxFuture<'a, Result<Entry, Outage>> {
        panic!("a check bans nothing")
    }

    fn begin_ban<'a>(&'a self, _: &'a AutomaticBan) -> BoxFuture<'a, Result<BegunBan, Outage>> {
        panic!("a check bans no network")
    }

    fn lift<'a>(&'a self, _: &'a ban::Target) -> BoxFuture<'a, Result<bool, Outage>> {
        panic!("a check lifts nothing")
    }

    fn list_bans<'a>(
        &'a self,
        _: Option<&'a Position>,
        _: usize,
    ) -> BoxFuture<'a, Result<Page, Outage>> {
        panic!("a check lists nothing")
    }

    fn bans_of<'a>(&'a self, _: &'a BanQuery) -> BoxFuture<'a, Result<Vec<Entry>, Outage>> {
        panic!("a check finds nothing")
    }

    fn status(&self) -> StoreStatus {
        StoreStatus {
            remote: self.is_late,
            up: true,
            circuit: Circuit::Closed,
            connections: 0,
            last_error: None,
            nodes: Vec::new(),
            buckets: None,
            revocations: None,
            replica: None,
            bans: None,
            leases: None,
            reservations: ReservationStatus::default(),
        }
    }
}
