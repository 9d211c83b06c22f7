//! The revocations that checks look at: sixteen bytes for each key and eight for what it says, so that a million fit into memory
//! and into the time of a check.

use std::{
    collections::HashMap,
    hash::{Hash, Hasher},
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use tollgate_core::{
    revocation::{EntryKey, Fingerprint, Keys, Kind},
    time::{Span, Timestamp},
};

use super::prehashed::Prehashed;

/// Parts with a lock each, held for one entry at a time: whoever loads a million of them, or sweeps them, stops no check. A part
/// of a million grows in 20 microseconds. A table doubles when seven eighths of it are full; with 1280 parts a million entries are just
/// below that, at 32 MB, where 1024 parts would have doubled for it.
const SHARDS: usize = 1280;

/// Where the 31 bits of an end begin, in seconds: 2020. They reach to 2088.
const EPOCH: u64 = 1_577_836_800;

/// A table of revocations.
#[derive(Debug)]
pub(super) struct Revoked {
    shards: Box<[RwLock<Shard>]>,
    /// How many entries there are of each kind, in the order of [`Kind::ALL`]: checks look for none of a kind that has none. Never
    /// less than there are.
    counts: [AtomicU64; Kind::ALL.len()],
}

type Shard = HashMap<Key, Held, Prehashed>;

#[derive(Debug, PartialEq, Eq)]
struct Key(Fingerprint);

/// Half of a fingerprint is a hash already. Nobody chooses what stands in the table but who may revoke.
impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self(fingerprint) = self;
        let [high, _] = fingerprint.halves();
        state.write_u64(high);
    }
}

#[derive(Clone, Copy, Debug)]
struct Held {
    /// In seconds since 1970.
    at: u32,
    /// The end, in seconds since 2020, rounded up; the lowest bit says that it was added since the last [`Revoked::renew`].
    ends: u32,
}

impl Held {
    fn new(at: Timestamp, ends: Timestamp) -> Self {
        let ends =
            ends.micros().div_ceil(1_000_000).saturating_sub(EPOCH).min(u64::from(u32::MAX >> 1));
        let ends = u32::try_from(ends).unwrap_or(u32::MAX >> 1);
        Self { at: u32::try_from(at.secs()).unwrap_or(u32::MAX), ends: ends << 1 | 1 }
    }

    fn ends(self) -> Timestamp {
        Timestamp::from_secs(EPOCH + u64::from(self.ends >> 1))
    }

    fn is_new(self) -> bool {
        self.ends & 1 == 1
    }
}

impl Default for Revoked {
    fn default() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            counts: Default::default(),
        }
    }
}

impl Revoked {
    /// Which kind of entry revokes the credential at `now`, if any.
    pub(super) fn revokes(&self, keys: &Keys, now: Timestamp) -> Option<&'static str> {
        if self.len() == 0 {
            return None;
        }
        let held = |mark: &EntryKey<'_>| self.get(*mark).filter(|held| held.ends() > now);
        let exact = keys.exact_entries().find(|mark| held(mark).is_some());
        let before = || {
            keys.before_entries()
                .find(|mark| held(mark).is_some_and(|held| keys.issued_at <= u64::from(held.at)))
        };
        exact.or_else(before).map(|mark| mark.kind().label())
    }

    fn get(&self, mark: EntryKey<'_>) -> Option<Held> {
        if self.counts.get(mark.kind() as usize)?.load(Ordering::Acquire) == 0 {
            return None;
        }
        let (key, shard) = self.place(mark.fingerprint())?;
        shard.read().unwrap_or_else(PoisonError::into_inner).get(&key).copied()
    }

    fn place(&self, fingerprint: Fingerprint) -> Option<(Key, &RwLock<Shard>)> {
        // The lowest bits are the kind.
        let [_, low] = fingerprint.halves();
        let shard = usize::try_from((low >> 32) % SHARDS as u64).ok()?;
        Some((Key(fingerprint), self.shards.get(shard)?))
    }

    /// Adds an entry, or strengthens the one of this key; ends are rounded up to whole seconds. Keys that are none are left out.
    pub(super) fn add(&self, key: &str, at: Timestamp, ends: Timestamp) {
        let Some(fingerprint) = Fingerprint::of(key) else { return };
        let Some(((key, shard), count)) = self.place(fingerprint).zip(self.count(fingerprint))
        else {
            return;
        };
        let new = Held::new(at, ends);
        let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
        let held = shard.entry(key).or_insert_with(|| {
            count.fetch_add(1, Ordering::Release);
            new
        });
        // What is to be read anew counts for nothing.
        *held = if held.is_new() {
            Held { at: held.at.max(new.at), ends: held.ends.max(new.ends) }
        } else {
            new
        };
    }

    /// Removes the entry of a key.
    pub(super) fn remove(&self, key: &str) {
        if let Some((key, shard)) = Fingerprint::of(key).and_then(|key| self.place(key))
            && shard.write().unwrap_or_else(PoisonError::into_inner).remove(&key).is_some()
        {
            self.forgot(&key);
        }
    }

    /// An entry went.
    fn forgot(&self, Key(fingerprint): &Key) {
        if let Some(count) = self.count(*fingerprint) {
            count.fetch_sub(1, Ordering::Release);
        }
    }

    /// The number of entries of a kind.
    fn count(&self, fingerprint: Fingerprint) -> Option<&AtomicU64> {
        self.counts.get(fingerprint.kind_index())
    }

    /// Begins to read everything anew: what is not added before [`renewed`](Self::renewed) will go then, and holds until then.
    pub(super) async fn renew(&self) {
        self.each(|shard| shard.values_mut().for_each(|held| held.ends &= !1)).await;
    }

    /// Everything was added again: what was not, and what has ended, goes.
    pub(super) async fn renewed(&self, now: Timestamp) {
        self.retain(|held| held.is_new() && held.ends() > now).await;
    }

    /// Forgets what has ended.
    pub(super) async fn prune(&self, now: Timestamp) {
        self.retain(|held| held.ends() > now).await;
    }

    async fn retain(&self, keep: impl Fn(Held) -> bool) {
        self.each(|shard| {
            shard.retain(|key, held| {
                let kept = keep(*held);
                if !kept {
                    self.forgot(key);
                }
                kept
            });
            // Room for twice as many stays: an entry that goes is often followed by one that comes.
            if shard.capacity() > 4 * shard.len().max(8) {
                shard.shrink_to(2 * shard.len());
            }
        })
        .await;
    }

    /// Looks at every shard; checks on this thread come in between.
    async fn each(&self, change: impl Fn(&mut Shard)) {
        for shard in &self.shards {
            change(&mut shard.write().unwrap_or_else(PoisonError::into_inner));
            tokio::task::yield_now().await;
        }
    }

    /// How many entries are held.
    pub(super) fn len(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Ordering::Acquire)).sum()
    }
}

/// How much later than Redis says a revocation ends here: clocks differ, and it must not end early.
pub(super) const LATER: Span = Span::from_secs(60);

#[cfg(test)]
mod tests {
    use tollgate_core::revocation::{Names, Target, issuer_digest};

    use super::*;

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_secs(EPOCH + secs)
    }

    fn key(name: &str) -> String {
        Target::Subject { issuer: "i".into(), subject: name.into() }.key()
    }

    fn keys(name: &str, issued_at: u64) -> Keys {
        let issuer = &issuer_digest("i");
        let names =
            Names { issuer, token: [0; 32], jti: None, subject: name, client: None, tenant: None };
        Keys::new(names, EPOCH + issued_at, Vec::new())
    }

    #[tokio::test]
    async fn revoking_again_never_weakens() {
        let revoked = Revoked::default();
        revoked.add(&key("a"), at(100), at(1000));
        revoked.add(&key("a"), at(50), at(500));
        assert_eq!(revoked.revokes(&keys("a", 100), at(999)), Some("subject"));
        assert_eq!(revoked.revokes(&keys("a", 101), at(999)), None, "issued after the moment");
        assert_eq!(revoked.revokes(&keys("a", 100), at(1000)), None, "ended");
        assert_eq!(revoked.revokes(&keys("b", 100), at(999)), None, "somebody else");
        assert_eq!(revoked.len(), 1);
        revoked.prune(at(1000)).await;
        assert_eq!(revoked.len(), 0);
    }

    #[test]
    fn an_end_is_never_early_and_moments_beyond_the_range_hold() {
        let revoked = Revoked::default();
        revoked.add(&key("a"), at(1), Timestamp::from_micros(at(10).micros() + 1));
        assert!(revoked.revokes(&keys("a", 1), at(10)).is_some());
        assert!(revoked.revokes(&keys("a", 1), at(11)).is_none());
        revoked.add(
            &key("b"),
            Timestamp::from_secs(u64::from(u32::MAX) + 9),
            Timestamp::from_secs(EPOCH * 4),
        );
        assert!(revoked.revokes(&keys("b", 1), at(u64::from(u32::MAX >> 1) - 1)).is_some());
    }

    #[tokio::test]
    async fn what_is_not_read_again_goes_when_all_is_read() {
        let revoked = Revoked::default();
        for (name, ends) in [("kept", 100), ("weaker", 100), ("gone", 100)] {
            revoked.add(&key(name), at(50), at(ends));
        }
        for _ in 0..3 {
            revoked.renew().await;
            // One that came to nothing.
            revoked.add(&key("gone"), at(50), at(100));
            revoked.renew().await;
            assert_eq!(revoked.len(), 3, "all of it holds meanwhile");
            assert!(revoked.revokes(&keys("gone", 50), at(1)).is_some());
            revoked.add(&key("kept"), at(50), at(100));
            revoked.add(&key("weaker"), at(40), at(90));
            revoked.renewed(at(1)).await;
            assert_eq!(revoked.len(), 2);
            assert!(revoked.revokes(&keys("gone", 50), at(1)).is_none());
            assert!(
                revoked.revokes(&keys("weaker", 50), at(1)).is_none(),
                "as it was read, and not as it was"
            );
            revoked.add(&key("gone"), at(50), at(100));
        }
    }
}
