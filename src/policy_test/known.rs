//! The credentials that the process of a case has verified, and those that it may verify from networks
//! that are banned automatically: the simple equivalent of the engine's.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use tollgate_core::{
    authenticate::{self, FromBanned, Verified},
    ban::AutomaticBans,
    credential::Credential,
    limit::reference,
    network::Network,
    snapshot::Snapshot,
    time::{Rate, Timestamp},
};

/// What was verified before. A check only has a shared reference to it.
#[derive(Debug, Default)]
pub(super) struct KnownCredentials {
    verified: RefCell<HashSet<(&'static str, Vec<u8>)>>,
    /// The arrival times of the rates of new credentials: of each network, and of all.
    taken: RefCell<HashMap<Option<Network>, u64>>,
}

impl KnownCredentials {
    pub(super) fn verify(
        &self,
        snapshot: &Snapshot,
        credential: Credential<'_>,
        now: Timestamp,
    ) -> Verified {
        let verified = authenticate::verify(snapshot, credential, now)?;
        self.verified.borrow_mut().insert(key(credential));
        Ok(verified)
    }

    pub(super) fn verify_from_banned(
        &self,
        snapshot: &Snapshot,
        credential: Credential<'_>,
        address: IpAddr,
        now: Timestamp,
    ) -> Option<Verified> {
        let is_known = self.verified.borrow().contains(&key(credential));
        let result = FromBanned::of(
            credential,
            |known| is_known.then(|| authenticate::verify(snapshot, known, now)),
            |other| self.verify(snapshot, other, now),
            || {
                snapshot
                    .policy
                    .automatic_bans
                    .as_ref()
                    .is_some_and(|bans| self.take(bans, address, now))
            },
        );
        result.verified()
    }

    fn take(&self, bans: &AutomaticBans, address: IpAddr, now: Timestamp) -> bool {
        let mut taken = self.taken.borrow_mut();
        let mut take = |network: Option<Network>, rate: Rate| {
            let interval = rate.per().micros() / rate.count().max(1);
            let before = taken.get(&network).copied();
            let step = reference::try_take(before, now.micros(), interval, rate.count(), 1);
            if step.verdict.admitted {
                taken.insert(network, step.tat);
            }
            step.verdict.admitted
        };
        take(Some(bans.network_of(address)), bans.new_credentials)
            && take(None, bans.all_new_credentials)
    }
}

fn key(credential: Credential<'_>) -> (&'static str, Vec<u8>) {
    let (kind, bytes) = authenticate::cache_key(&credential);
    (kind.label(), bytes.to_vec())
}
