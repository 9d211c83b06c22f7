//! The revocations that checks look up: 24 bytes for each, so that a million fit into memory and
//! into the time of a check.

mod packed;

use std::sync::{
    PoisonError, RwLock,
    atomic::{AtomicU64, Ordering},
};

use tollgate_core::{
    revocation::{EntryKey, Fingerprint, Keys, Kind},
    time::{Span, Timestamp},
};

pub(super) use self::packed::PackedEntry;
use super::sharded_map::{Digest, Key, Place, Shard, Sharding};

/// The number of shards. Each has a lock, which is held for one entry at a time: loading or
/// sweeping a million entries delays no check. A shard doubles when seven eighths of it are full;
/// with 1280 shards a million entries are just below that, at 32 MB, where 1024 shards would have
/// doubled.
const SHARDS: usize = 1280;

/// How much later than in Redis a copied revocation ends: clocks differ, and it must not end early.
pub(super) const END_MARGIN: Span = Span::from_secs(60);

/// The revocations by the fingerprint of their key.
#[derive(Debug)]
pub(super) struct RevocationMap {
    shards: Box<[RwLock<Shard<PackedEntry>>]>,
    sharding: Sharding,
    /// The number of entries of each kind, in the order of [`Kind::ALL`]: checks look up no entry
    /// of a kind that has none. Never too low.
    counts: [AtomicU64; Kind::ALL.len()],
}

impl Default for RevocationMap {
    fn default() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            sharding: Sharding::new(SHARDS),
            counts: Default::default(),
        }
    }
}

impl RevocationMap {
    /// Returns the kind of entry that revokes the credential at `now`, if any.
    pub(super) fn revoked_by(&self, keys: &Keys, now: Timestamp) -> Option<&'static str> {
        if self.len() == 0 {
            return None;
        }
        let get = |entry: &EntryKey<'_>| self.get(*entry).filter(|packed| packed.ends() > now);
        let exact = keys.exact_entries().chain(keys.kid()).find(|entry| get(entry).is_some());
        let before = || {
            let mut entries = keys.before_entries().chain(keys.agent_entries());
            entries.find(|entry| get(entry).is_some_and(|packed| keys.issued_at <= packed.at()))
        };
        exact.or_else(before).map(|entry| entry.kind().label())
    }

    /// Returns the entry of a key.
    pub(super) fn get(&self, entry: EntryKey<'_>) -> Option<PackedEntry> {
        if self.counts.get(entry.kind() as usize)?.load(Ordering::Acquire) == 0 {
            return None;
        }
        let Place { shard, key } = self.sharding.place(entry.fingerprint().halves());
        self.shards.get(shard)?.read().unwrap_or_else(PoisonError::into_inner).get(key)
    }

    /// Adds an entry, or strengthens the one of the same key. Ends are rounded up to whole seconds.
    /// A key of an unknown kind, which revokes no credential, is left out.
    pub(super) fn add(&self, key: &str, at: Timestamp, ends: Timestamp) {
        let Some(digest) = Fingerprint::of(key).map(Fingerprint::halves) else { return };
        let Place { shard, key } = self.sharding.place(digest);
        let Some(shard) = self.shards.get(shard) else { return };
        let new = PackedEntry::new(at, ends);
        let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
        match shard.get(key) {
            // An entry from before the present reload counts for nothing.
            Some(known) if known.is_current() => shard.insert(key, known.strengthened(new)),
            Some(_) => shard.insert(key, new),
            None => {
                // Before the entry can be seen, so that the count is never too low.
                if let Some(count) = self.count(digest) {
                    count.fetch_add(1, Ordering::Release);
                }
                shard.insert(key, new)
            }
        };
    }

    /// Removes the entry of a key.
    pub(super) fn remove(&self, key: &str) {
        let Some(digest) = Fingerprint::of(key).map(Fingerprint::halves) else { return };
        let Place { shard, key } = self.sharding.place(digest);
        if let Some(shard) = self.shards.get(shard)
            && shard.write().unwrap_or_else(PoisonError::into_inner).remove(key).is_some()
        {
            self.removed(digest);
        }
    }

    fn removed(&self, digest: Digest) {
        if let Some(count) = self.count(digest) {
            count.fetch_sub(1, Ordering::Release);
        }
    }

    /// The number of entries of the kind of a digest.
    fn count(&self, digest: Digest) -> Option<&AtomicU64> {
        self.counts.get(Fingerprint::from_halves(digest).kind_index())
    }

    /// Begins to read all revocations again. Entries that are not added before
    /// [`finish_reload`](Self::finish_reload) apply until then.
    pub(super) async fn begin_reload(&self) {
        self.each(|shard| shard.for_each(PackedEntry::mark_old)).await;
    }

    /// Removes the entries that were not added since [`begin_reload`](Self::begin_reload), and
    /// those that have ended.
    pub(super) async fn finish_reload(&self, now: Timestamp) {
        self.retain(|entry| entry.is_current() && entry.ends() > now).await;
    }

    /// Removes the entries that have ended.
    pub(super) async fn prune(&self, now: Timestamp) {
        self.retain(|entry| entry.ends() > now).await;
    }

    async fn retain(&self, keep: impl Fn(PackedEntry) -> bool) {
        self.each(|shard| {
            shard.retain(|key: Key, entry| {
                let kept = keep(entry);
                if !kept {
                    self.removed(self.sharding.digest(key));
                }
                kept
            });
        })
        .await;
    }

    /// Changes every shard; other tasks of this thread run between two shards.
    async fn each(&self, change: impl Fn(&mut Shard<PackedEntry>)) {
        for shard in &self.shards {
            change(&mut shard.write().unwrap_or_else(PoisonError::into_inner));
            tokio::task::yield_now().await;
        }
    }

    /// The number of entries of a kind.
    pub(super) fn count_of(&self, kind: Kind) -> u64 {
        self.counts.get(kind as usize).map_or(0, |count| count.load(Ordering::Acquire))
    }

    /// The number of entries.
    pub(super) fn len(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Ordering::Acquire)).sum()
    }
}

#[cfg(test)]
mod tests {
    use tollgate_core::revocation::{Names, Target, issuer_digest};

    use super::{packed::EPOCH, *};

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_secs(EPOCH + secs)
    }

    fn key(name: &str) -> String {
        Target::Subject { issuer: "i".into(), subject: name.into() }.key()
    }

    fn keys(name: &str, issued_at: u64) -> Keys {
        let issuer = &issuer_digest("i");
        let names = Names {
            issuer,
            token: [0; 32],
            jti: None,
            subject: name,
            subject_is_client: false,
            client: None,
            tenant: None,
        };
        Keys::new(names, EPOCH + issued_at, Vec::new())
    }

    #[tokio::test]
    async fn revoking_again_never_weakens() {
        let map = RevocationMap::default();
        map.add(&key("a"), at(100), at(1000));
        map.add(&key("a"), at(50), at(500));
        assert_eq!(map.revoked_by(&keys("a", 100), at(999)), Some("subject"));
        assert_eq!(map.revoked_by(&keys("a", 101), at(999)), None, "issued after the moment");
        assert_eq!(map.revoked_by(&keys("a", 100), at(1000)), None, "ended");
        assert_eq!(map.revoked_by(&keys("b", 100), at(999)), None, "another subject");
        assert_eq!(map.len(), 1);
        map.prune(at(1000)).await;
        assert_eq!(map.len(), 0);
    }

    #[test]
    fn an_end_is_never_early_and_moments_beyond_the_range_apply() {
        let map = RevocationMap::default();
        map.add(&key("a"), at(1), Timestamp::from_micros(at(10).micros() + 1));
        assert!(map.revoked_by(&keys("a", 1), at(10)).is_some());
        assert!(map.revoked_by(&keys("a", 1), at(11)).is_none());
        map.add(
            &key("b"),
            Timestamp::from_secs(u64::from(u32::MAX) + 9),
            Timestamp::from_secs(EPOCH * 4),
        );
        assert!(map.revoked_by(&keys("b", 1), at(u64::from(u32::MAX >> 1) - 1)).is_some());
    }

    #[tokio::test]
    async fn entries_that_are_not_read_again_are_removed_after_a_reload() {
        let map = RevocationMap::default();
        for (name, ends) in [("kept", 100), ("weaker", 100), ("gone", 100)] {
            map.add(&key(name), at(50), at(ends));
        }
        for _ in 0..3 {
            map.begin_reload().await;
            // A reload that is not finished.
            map.add(&key("gone"), at(50), at(100));
            map.begin_reload().await;
            assert_eq!(map.len(), 3, "all entries apply meanwhile");
            assert!(map.revoked_by(&keys("gone", 50), at(1)).is_some());
            map.add(&key("kept"), at(50), at(100));
            map.add(&key("weaker"), at(40), at(90));
            map.finish_reload(at(1)).await;
            assert_eq!(map.len(), 2);
            assert!(map.revoked_by(&keys("gone", 50), at(1)).is_none());
            assert!(map.revoked_by(&keys("weaker", 50), at(1)).is_none(), "as it was read again");
            map.add(&key("gone"), at(50), at(100));
        }
    }
}
