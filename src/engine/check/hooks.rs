//! The hooks of a check: the state that the core looks up in the sidecar.

use std::net::IpAddr;

use tollgate_core::{
    authenticate::Verified,
    ban::Ban,
    check::CheckHooks,
    credential::Credential,
    limit::{
        BucketId, Charge, refusal::Refusal, reservation::ReservationId, usage_history::LearntUsage,
    },
    snapshot::Snapshot,
    stage::Stage,
    time::Timestamp,
};

use crate::{engine::live::State, observe::trace::Trace, store::Store};

/// The hooks of a check: verified tokens are cached, refusals are remembered, and stages are
/// traced.
pub(super) struct Hooks<'h> {
    pub(super) state: &'h State,
    pub(super) store: &'h dyn Store,
    pub(super) trace: Option<&'h mut Trace>,
}

impl CheckHooks for Hooks<'_> {
    // The store has a clock that never steps.
    fn network_ban(&self, address: IpAddr, _now: Timestamp) -> Option<Ban> {
        self.store.network_ban(address)
    }

    fn verify_from_banned(
        &mut self,
        _snapshot: &Snapshot,
        credential: Credential<'_>,
        address: IpAddr,
        now: Timestamp,
    ) -> Option<Verified> {
        self.state.verify_from_banned(credential, address, now)
    }

    fn may_verify_proof(&self, address: IpAddr, key: &[u8; 32]) -> bool {
        self.state.network_bans.as_ref().is_none_or(|bans| bans.may_verify_proof(address, key))
    }

    fn note_forged_proof(&self, address: IpAddr, key: &[u8; 32]) {
        if let Some(bans) = &self.state.network_bans {
            bans.note_forged_proof(address, key);
        }
    }

    fn verify(
        &mut self,
        _snapshot: &Snapshot,
        credential: Credential<'_>,
        now: Timestamp,
    ) -> Verified {
        self.state.verify(credential, now)
    }

    fn has_refusals(&self, now: Timestamp) -> bool {
        self.state.refusals.any(now)
    }

    fn refusal(&self, charge: &Charge) -> Option<Refusal> {
        self.state.refusals.get(charge)
    }

    fn reservation_id(&mut self) -> Option<ReservationId> {
        Some(ReservationId(rand::random()))
    }

    fn learnt_usage(&self, history: BucketId) -> Option<LearntUsage> {
        self.state.histories.learnt(history)
    }

    fn passed(&mut self, stage: Stage) {
        if let Some(trace) = &mut self.trace {
            trace.passed(stage);
        }
    }
}
