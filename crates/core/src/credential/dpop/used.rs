//! The proofs that were used: the model of what every store does, and the table of those in memory.

use std::collections::{BTreeSet, HashMap};

use crate::{
    revocation::Fingerprint,
    room::{Group, SharedRoom},
    time::{Span, Timestamp},
};

/// The use of a proof, which the store permits once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProofUse {
    /// The first half of the SHA-256 of the key's thumbprint and the `jti`: neither is stored.
    pub id: [u8; 16],
    /// The subject of the token, who has a bounded number of proofs.
    pub holder: Fingerprint,
    /// The time for which the proof is remembered: it is not accepted any more then.
    pub life: Span,
    /// The most proofs of the holder that are remembered at a time.
    pub most: u32,
}

/// The reason why the store does not permit the use of a proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProofRefusal {
    /// The proof was used before.
    Used,
    /// As many proofs of the holder are remembered as may be.
    TooMany,
}

/// A holder, and the proof of it.
type ProofKey = ([u64; 2], [u8; 16]);

/// The moment when a proof is forgotten, and the group whose room it takes until then.
type EndAndGroup = (u64, Option<Group>);

/// Used proofs in memory.
#[derive(Debug, Default)]
pub struct UsedProofs {
    /// The end of each proof, and the group whose room it takes.
    ends: HashMap<ProofKey, EndAndGroup>,
    /// The proofs by their ends.
    by_end: BTreeSet<(u64, [u64; 2], [u8; 16])>,
    /// The number of each holder's proofs.
    counts: HashMap<[u64; 2], u32>,
    room: SharedRoom,
}

impl UsedProofs {
    /// Uses a proof at `now`, once.
    ///
    /// # Errors
    /// It was used before, or the holder has no room for another one.
    pub fn use_once(&mut self, proof: &ProofUse, now: Timestamp) -> Result<(), ProofRefusal> {
        self.use_in_room(proof, None, usize::MAX, now)
    }

    /// Uses a proof of a group at `now`, once, in a table of `most` proofs.
    ///
    /// # Errors
    /// It was used before, or the holder or its group has no room for another one.
    pub fn use_in_room(
        &mut self,
        proof: &ProofUse,
        group: Option<Group>,
        most: usize,
        now: Timestamp,
    ) -> Result<(), ProofRefusal> {
        let holder = proof.holder.halves();
        let count = self.counts.get(&holder).copied().unwrap_or_default();
        if self.ends.get(&(holder, proof.id)).is_some_and(|(end, _)| *end > now.micros()) {
            return Err(ProofRefusal::Used);
        }
        if count >= proof.most || !self.room.has(most, group, 1) {
            return Err(ProofRefusal::TooMany);
        }
        let end = now.micros().saturating_add(proof.life.micros());
        self.room.add(group);
        if let Some((before, group)) = self.ends.insert((holder, proof.id), (end, group)) {
            self.by_end.remove(&(before, holder, proof.id));
            self.room.remove(group);
        } else {
            self.counts.insert(holder, count + 1);
        }
        self.by_end.insert((end, holder, proof.id));
        Ok(())
    }

    /// Forgets the proofs whose end has passed, `most` of them at once.
    pub fn advance(&mut self, now: Timestamp, most: usize) {
        for _ in 0..most {
            let Some((end, holder, id)) = self.by_end.first().copied() else { return };
            if end > now.micros() {
                return;
            }
            self.by_end.pop_first();
            if let Some((_, group)) = self.ends.remove(&(holder, id)) {
                self.room.remove(group);
            }
            match self.counts.get_mut(&holder) {
                Some(count) if *count > 1 => *count -= 1,
                _ => {
                    self.counts.remove(&holder);
                }
            }
        }
    }

    /// The number of proofs that are remembered.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether no proof is remembered.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proof(holder: u64, id: u8) -> ProofUse {
        ProofUse {
            id: [id; 16],
            holder: Fingerprint::from_halves([holder, 0]),
            life: Span::from_secs(100),
            most: 3,
        }
    }

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_secs(1_800_000_000 + secs)
    }

    #[test]
    fn a_proof_is_used_once_within_its_life() {
        let mut used = UsedProofs::default();
        assert_eq!(used.use_once(&proof(1, 1), at(0)), Ok(()));
        for secs in [0, 1, 99] {
            assert_eq!(used.use_once(&proof(1, 1), at(secs)), Err(ProofRefusal::Used), "{secs}");
        }
        assert_eq!(used.use_once(&proof(2, 1), at(0)), Ok(()), "another holder");
        assert_eq!(used.use_once(&proof(1, 1), at(100)), Ok(()), "no check accepts it by then");
        assert_eq!(used.len(), 2);
        used.advance(at(100), 64);
        assert_eq!(used.len(), 1, "its later end counts");
        used.advance(at(200), 64);
        assert!(used.is_empty() && used.by_end.is_empty() && used.counts.is_empty());
    }

    #[test]
    fn a_holder_has_a_bounded_number_of_proofs() {
        let mut used = UsedProofs::default();
        for id in 0..3 {
            assert_eq!(used.use_once(&proof(1, id), at(u64::from(id))), Ok(()));
        }
        assert_eq!(used.use_once(&proof(1, 9), at(3)), Err(ProofRefusal::TooMany));
        assert_eq!(used.use_once(&proof(1, 0), at(3)), Err(ProofRefusal::Used));
        assert_eq!(used.use_once(&proof(2, 9), at(3)), Ok(()), "another holder has room");
        used.advance(at(100), 1);
        assert_eq!(used.use_once(&proof(1, 9), at(100)), Ok(()));
        assert_eq!(used.len(), 4);
    }
}
