//! The share of one client of what waiting checks hold.

use std::sync::Arc;

use tollgate_core::identity::Principal;

use super::{CALL, CheckBounds};
use crate::{
    engine::{
        body_pool::CLIENT_PLACES,
        shares::{Owner, Share, Shares},
    },
    observe::CheckRecord,
};

/// The shares of one client of what waiting checks hold, so that it cannot use up all of it.
#[derive(Debug)]
pub(super) struct ClientShares {
    /// An eighth of the checks that may be in flight.
    calls: Shares,
    /// A quarter of the bytes of messages, and a quarter of the places in a lane of the pool.
    bodies: Shares,
    /// The least that a large body counts as.
    least_body: u32,
}

impl ClientShares {
    pub(super) fn new(bounds: CheckBounds) -> Self {
        let narrow = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let calls = narrow(bounds.calls()) / CALL / 8;
        let bodies = narrow((bounds.max_in_flight - bounds.calls()) / 4);
        Self {
            calls: Shares::new(calls.max(1)),
            bodies: Shares::new(bodies),
            least_body: bodies / CLIENT_PLACES,
        }
    }

    /// Takes the place of a check that waits for the store.
    pub(super) fn call(&self, owner: Owner) -> Option<Share<'_>> {
        self.calls.take(owner, 1)
    }

    /// Takes the bytes of a large body, and its place in the pool.
    pub(super) fn body(&self, owner: Owner, bytes: usize) -> Option<Share<'_>> {
        self.bodies.take(owner, u32::try_from(bytes).unwrap_or(u32::MAX).max(self.least_body))
    }
}

/// The client that a check belongs to.
pub(super) fn owner(principal: Option<&Arc<Principal>>, record: &CheckRecord<'_>) -> Owner {
    match principal {
        Some(principal) => Owner::Subject(principal.revocation().subject().fingerprint()),
        None => Owner::of_address(record.address()),
    }
}
