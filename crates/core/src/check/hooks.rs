//! The places of a check where its caller takes part.

use std::net::IpAddr;

use crate::{
    authenticate::{self, Verified},
    ban::Ban,
    credential::Credential,
    details::Details,
    limit::{
        BucketId, Charge, refusal::Refusal, reservation::ReservationId, usage_history::LearntUsage,
    },
    snapshot::Snapshot,
    stage::Stage,
    time::Timestamp,
};

/// The places of a check where its caller takes part.
pub trait CheckHooks {
    /// Verifies a credential. A caller that caches results looks there first.
    ///
    /// # Errors
    /// As [`authenticate::verify`].
    fn verify(
        &mut self,
        snapshot: &Snapshot,
        credential: Credential<'_>,
        now: Timestamp,
    ) -> Verified {
        authenticate::verify(snapshot, credential, now)
    }

    /// Verifies a credential from a network that is banned automatically: one that was verified before,
    /// an API key, and a few others. `None` where it is refused unverified.
    fn verify_from_banned(
        &mut self,
        snapshot: &Snapshot,
        credential: Credential<'_>,
        _address: IpAddr,
        now: Timestamp,
    ) -> Option<Verified> {
        Some(self.verify(snapshot, credential, now))
    }

    /// Whether a proof of possession with a key, from a network that is banned automatically, is
    /// verified: as long as few with that key were forged there lately.
    fn may_verify_proof(&self, _address: IpAddr, _key: &[u8; 32]) -> bool {
        true
    }

    /// Notes that such a proof did not verify.
    fn note_forged_proof(&self, _address: IpAddr, _key: &[u8; 32]) {}

    /// Observes that a part of the check is passed. The core has no clock; a caller that measures
    /// has one. The parts end with [`Stage::Transport`], [`Stage::Route`], the last check of the
    /// credential ([`Check::Claims`](crate::stage::Check::Claims)) and [`Stage::Content`].
    fn passed(&mut self, _stage: Stage) {}

    /// Returns the ban in force at `now` of a network that contains an address, where it is known
    /// without a call to the store; of several the one that ends last, and an automatic one where no
    /// operator has banned the network.
    fn network_ban(&self, _address: IpAddr, _now: Timestamp) -> Option<Ban> {
        None
    }

    /// Whether a refusal by a limit may be remembered at this moment; by default none is.
    fn has_refusals(&self, _now: Timestamp) -> bool {
        false
    }

    /// Returns the last refusal by the bucket of a charge, where it is remembered.
    fn refusal(&self, _charge: &Charge) -> Option<Refusal> {
        None
    }

    /// Returns sixteen random bytes, which name the reservation of a request. The core has no
    /// randomness: without an id, requests of routes that hold units are denied.
    fn reservation_id(&mut self) -> Option<ReservationId> {
        None
    }

    /// Returns what a history of usage predicts, by its identity in
    /// [`HistoryIds`](crate::limit::usage_history::HistoryIds); `None` where there is none with
    /// enough reports. It is called where a limit of the route has `hold: estimate`.
    fn learnt_usage(&self, _history: BucketId) -> Option<LearntUsage> {
        None
    }

    /// Where details are recorded; by default they are not.
    fn details(&mut self) -> Option<&mut Details> {
        None
    }
}

/// Hooks of a caller that takes no part.
#[derive(Clone, Copy, Debug)]
pub struct NoHooks;

impl CheckHooks for NoHooks {}
