//! Admission: what a check requests from the store, and what the store answers.
//!
//! The store's port. One check sends at most one [`AdmitRequest`], which a store decides in one
//! atomic step. A store never sees an identity: a credential is known to it by its
//! [`revocation::Keys`] only.

use std::{net::IpAddr, sync::Arc};

pub use crate::limit::settlement::{Settled, Settlement, Usage};
use crate::{
    ban::Ban,
    credential::dpop::{ProofRefusal, ProofUse},
    limit::{Charge, Verdict, reservation::Reservation},
    revocation,
};

/// What a check requests from the store: one round trip, one atomic step.
#[derive(Clone, Debug, Default)]
pub struct AdmitRequest {
    /// The keys under which the credential could be revoked, or its holder banned; `None` where
    /// there is no credential.
    pub revocation: Option<Arc<revocation::Keys>>,
    /// The client's address, whose networks could be banned; `None` where it is not known.
    pub address: Option<IpAddr>,
    /// The use of the proof of a bound token. It is used by this request, whatever the limits decide;
    /// `None` where there is none.
    pub proof: Option<Box<ProofUse>>,
    /// The charges: all of them are taken, or none.
    pub charges: Vec<Charge>,
    /// What is held until the usage is known: all of it together with the charges, or nothing.
    pub reservation: Option<Box<Reservation>>,
}

impl AdmitRequest {
    /// Whether the store has nothing to decide, so that no request is sent. For an address alone
    /// there is none: what is known of its networks is applied before
    /// ([`CheckHooks::network_ban`](crate::check::CheckHooks::network_ban)), and a public route
    /// without limits depends on no store.
    pub fn is_empty(&self) -> bool {
        self.revocation.is_none()
            && self.charges.is_empty()
            && self.reservation.is_none()
            && self.proof.is_none()
    }

    /// Whether nothing of it is enforced: it has only charges and holds of limits in shadow, and no
    /// credential that could be revoked. Then no outage of a store is a reason to deny.
    pub fn is_in_shadow(&self) -> bool {
        let mut holds = self.reservation.iter().flat_map(|reservation| &reservation.holds);
        self.revocation.is_none()
            && self.proof.is_none()
            && self.charges.iter().all(|charge| charge.is_shadow)
            && holds.all(|hold| hold.is_shadow)
    }

    /// The verdicts on a request of which nothing is enforced, where the store does not answer.
    pub fn uncounted(&self) -> Vec<Verdict> {
        let holds = self.reservation.iter().map(|reservation| reservation.holds.len());
        vec![Verdict::UNCOUNTED; self.charges.len() + holds.sum::<usize>()]
    }

    /// Whether the verdicts of a store admit the request: each one on a charge and a hold does,
    /// except those of limits in shadow.
    pub fn is_admitted_by(&self, verdicts: &[Verdict]) -> bool {
        let holds = self.reservation.iter().flat_map(|reservation| &reservation.holds);
        let charges = self.charges.iter().map(|charge| charge.is_shadow);
        Verdict::all_admit(verdicts, charges.chain(holds.map(|hold| hold.is_shadow)))
    }
}

/// The store's answer to an [`AdmitRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdmitResponse {
    /// The client's network, or the holder of the credential, is banned. Nothing was charged.
    Banned(Ban),
    /// The credential is revoked, by an entry of this kind (`jti`, `subject`, `client`, `tenant`,
    /// `token` or `foreign`). Nothing was charged.
    Revoked(&'static str),
    /// The proof may not be used. Nothing was charged.
    Proof(ProofRefusal),
    /// One verdict for each charge and then for each hold, in order. All of them were charged and
    /// held, or none where one was not admitted.
    Counted(Vec<Verdict>),
}

/// Why the store gave no answer. Whether something was charged is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outage {
    /// No answer arrived within the deadline.
    Deadline,
    /// There is no connection, or it broke.
    Unreachable,
    /// The store answered with an error (read-only replica, out of memory, a script error).
    Refused,
    /// The circuit is open: the store failed recently, and no request was sent.
    CircuitOpen,
    /// The memory store holds as many buckets as it may.
    Full,
    /// The last known revocations are older than allowed.
    Stale,
    /// What this replica holds for an outage has no room for the request.
    Escrow,
    /// The call waited for this process, and whether the store would have answered is not known.
    /// This is no outage of the store: [`conclude`](crate::check::Pending::conclude) denies it,
    /// whatever `on_outage` is.
    Starved,
}

impl Outage {
    /// Every outage, in the order of declaration.
    pub const ALL: [Self; 8] = [
        Self::Deadline,
        Self::Unreachable,
        Self::Refused,
        Self::CircuitOpen,
        Self::Full,
        Self::Stale,
        Self::Escrow,
        Self::Starved,
    ];

    /// The label in metrics and audit lines.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Deadline => "deadline",
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
            Self::CircuitOpen => "circuit_open",
            Self::Full => "full",
            Self::Stale => "stale",
            Self::Escrow => "escrow",
            Self::Starved => "starved",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::{BucketId, shard::CountedWithin};

    fn charges(in_shadow: &[bool]) -> AdmitRequest {
        let charge = |is_shadow: &bool| Charge {
            limit: "l".into(),
            bucket: BucketId::from("b"),
            interval: 1,
            burst: 1,
            cost: 1,
            by_principal: false,
            lease: None,
            within: CountedWithin::default(),
            is_shadow: *is_shadow,
        };
        AdmitRequest { charges: in_shadow.iter().map(charge).collect(), ..AdmitRequest::default() }
    }

    #[test]
    fn one_thing_that_is_enforced_makes_an_outage_matter() {
        for (in_shadow, expected) in
            [(&[][..], true), (&[true, true], true), (&[true, false], false), (&[false], false)]
        {
            assert_eq!(charges(in_shadow).is_in_shadow(), expected, "{in_shadow:?}");
        }
        let names = revocation::Names {
            issuer: &revocation::issuer_digest("i"),
            token: [0; 32],
            jti: None,
            subject: "s",
            subject_is_client: false,
            client: None,
            tenant: None,
        };
        let keys = revocation::Keys::new(names, 0, Vec::new());
        let request = AdmitRequest { revocation: Some(Arc::new(keys)), ..charges(&[true]) };
        assert!(!request.is_in_shadow());
    }

    #[test]
    fn every_outage_is_listed_at_its_own_place() {
        for (at, outage) in Outage::ALL.into_iter().enumerate() {
            assert_eq!(outage as usize, at, "{outage:?}");
        }
    }
}
