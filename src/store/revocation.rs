//! Revocations as an operator adds and lists them, and the list of the store in memory, which is of
//! revocations or of bans.

use std::{
    collections::{BTreeSet, HashMap},
    ops::Bound,
    sync::Arc,
};

use thiserror::Error;
use tollgate_core::{
    credential::{api_key::LONGEST_LIFE, jwt::issuer::MAX_LEEWAY},
    revocation::Target,
    text::control_character,
    time::{Span, Timestamp},
};

use super::Position;

/// The longest note, in characters.
const NOTE_MAX: usize = 256;

/// The longest life of a revocation: that of an API key.
pub const TTL_MAX: Span = LONGEST_LIFE;

/// How much longer than the tokens that it revokes an entry is kept: the largest leeway with which
/// a policy accepts a token after its `exp`, and as much again for clocks that differ.
pub const MARGIN: Span = Span::from_secs(2 * MAX_LEEWAY.secs());

/// A revocation to add, with values that every store accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    target: Target,
    at: Timestamp,
    ttl: Span,
    margin: Span,
    note: Option<String>,
}

/// The reason why a revocation is not valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InvalidRevocation {
    /// The life is too short or too long.
    #[error(
        "`ttl` must be 1ms to 3653d; set it to the remaining life of the longest-lived credential that is revoked"
    )]
    Ttl,
    /// The note is empty, too long or not one line.
    #[error("a note is one line of 1 to {NOTE_MAX} characters without control characters")]
    Note,
}

/// Checks the note of a revocation.
///
/// # Errors
/// The note is empty, too long, or contains control characters.
pub fn check_note(note: &str) -> Result<(), InvalidRevocation> {
    let is_short = (1..=NOTE_MAX).contains(&note.chars().count());
    if !is_short || control_character(note).is_some() {
        return Err(InvalidRevocation::Note);
    }
    Ok(())
}

impl Revocation {
    /// Creates a revocation of `target` that is kept for `ttl`. For a subject, a client or a
    /// tenant, tokens that were issued until `at` are revoked; for one token, `at` is only shown.
    /// `at` is cut to whole seconds, the unit of `iat`. `note` is for the operator.
    ///
    /// # Errors
    /// `ttl` or `note` is out of bounds.
    pub fn new(
        target: Target,
        at: Timestamp,
        ttl: Span,
        note: Option<String>,
    ) -> Result<Self, InvalidRevocation> {
        if ttl < Span::from_millis(1) || ttl > TTL_MAX {
            return Err(InvalidRevocation::Ttl);
        }
        note.as_deref().map_or(Ok(()), check_note)?;
        let at = Timestamp::from_secs(at.secs());
        Ok(Self { target, at, ttl, margin: Span::from_micros(0), note })
    }

    /// Keeps the revocation [`MARGIN`] longer than `ttl`, which is the remaining life of the tokens
    /// that it revokes: until `exp`.
    #[must_use]
    pub fn with_margin(self) -> Self {
        Self { margin: MARGIN, ..self }
    }

    /// The credentials that are revoked.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The moment until which tokens were issued or, for one token, of the revocation.
    pub fn at(&self) -> Timestamp {
        self.at
    }

    /// The remaining life of the tokens that are revoked, as the operator states it.
    pub fn ttl(&self) -> Span {
        self.ttl
    }

    /// The time for which the revocation is kept.
    pub fn life(&self) -> Span {
        Span::from_micros(self.ttl.micros().saturating_add(self.margin.micros()))
    }

    /// The operator's note.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// The entry of the list that this revocation becomes when it is added at `now`.
    pub fn entry(&self, now: Timestamp) -> Entry {
        Entry {
            key: self.target.key(),
            at: self.at,
            ends: Timestamp::from_micros(now.micros().saturating_add(self.life().micros())),
            note: self.note.clone(),
        }
    }
}

/// A revocation or a ban in force, as it is listed. The names in it are hashed and cannot be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key, which starts with the kind: [`Target::key`], or
    /// [`ban::Target::key`](tollgate_core::ban::Target::key).
    pub key: String,
    /// The moment of [`Revocation::at`], or when the ban was added, in whole seconds.
    pub at: Timestamp,
    /// The moment when it ends. For bans see [`until`](super::until).
    pub ends: Timestamp,
    /// The operator's note.
    pub note: Option<String>,
}

impl Entry {
    /// The kind of target: `jti`, `token`, `subject`, `client`, `tenant` or `network`.
    pub fn kind(&self) -> &str {
        self.key.split(':').next().unwrap_or_default()
    }

    /// The position of the entry in its list.
    pub fn position(&self) -> Position {
        Position::new(self.ends, self.key.as_bytes())
    }
}

/// A page of the list of revocations, or of bans.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The entries of this page.
    pub entries: Vec<Entry>,
    /// The number of all entries in force.
    pub total: u64,
    /// The position after which the next page begins; `None` on the last one.
    pub next: Option<Position>,
}

/// All revocations of the store in memory, or all bans, by key and by the moment they end.
#[derive(Debug, Default)]
pub(super) struct RevocationTable {
    entries: HashMap<Arc<str>, Stored>,
    ends: BTreeSet<(Timestamp, Arc<str>)>,
}

#[derive(Debug)]
struct Stored {
    /// The moment of the revocation, in seconds.
    at: u64,
    ends: Timestamp,
    note: Option<String>,
}

impl RevocationTable {
    /// Adds an entry, or strengthens the one of the same key.
    pub(super) fn add(&mut self, entry: Entry) {
        let Entry { key, at, ends, note } = entry;
        let key: Arc<str> = key.into();
        let mut stored = Stored { at: at.secs(), ends, note };
        if let Some(known) = self.take(&key) {
            stored.at = stored.at.max(known.at);
            stored.ends = stored.ends.max(known.ends);
            stored.note = stored.note.or(known.note);
        }
        self.ends.insert((stored.ends, Arc::clone(&key)));
        self.entries.insert(key, stored);
    }

    /// Returns the entry of a key.
    pub(super) fn entry(&self, key: &str) -> Option<Entry> {
        let Stored { at, ends, note } = self.entries.get(key)?;
        let at = Timestamp::from_secs(*at);
        Some(Entry { key: key.to_owned(), at, ends: *ends, note: note.clone() })
    }

    /// Removes the entry of a key. Returns whether it was in force.
    pub(super) fn remove(&mut self, key: &str, now: Timestamp) -> bool {
        self.take(key).is_some_and(|stored| stored.ends > now)
    }

    fn take(&mut self, key: &str) -> Option<Stored> {
        let (key, stored) = self.entries.remove_entry(key)?;
        self.ends.remove(&(stored.ends, key));
        Some(stored)
    }

    /// Removes all entries that have ended, and passes their keys to `ended`.
    pub(super) fn prune(&mut self, now: Timestamp, mut ended: impl FnMut(&str)) {
        while let Some((ends, _)) = self.ends.first()
            && *ends <= now
            && let Some((_, key)) = self.ends.pop_first()
        {
            self.entries.remove(&key);
            ended(&key);
        }
    }

    /// The number of entries.
    pub(super) fn len(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Returns a page of the list, ordered by the moment the entries end and then by their keys.
    /// Call [`prune`](Self::prune) first.
    pub(super) fn page(&self, after: Option<&Position>, limit: usize) -> Page {
        let start =
            after.map_or(Bound::Unbounded, |after| Bound::Excluded((after.at(), after.text())));
        let mut ends = self.ends.range((start, Bound::Unbounded)).map(|(_, key)| key);
        let page = ends.by_ref().take(limit);
        let entries: Vec<Entry> = page.filter_map(|key| self.entry(key)).collect();
        let next = ends.next().and_then(|_| entries.last()).map(Entry::position);
        Page { entries, total: self.len(), next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_secs(secs)
    }

    fn subject(name: &str) -> Target {
        Target::Subject { issuer: "i".into(), subject: name.into() }
    }

    fn entry(name: &str, moment: u64, ends: u64) -> Entry {
        Entry { key: subject(name).key(), at: at(moment), ends: at(ends), note: None }
    }

    #[test]
    fn revoking_again_never_weakens() {
        let mut table = RevocationTable::default();
        table.add(entry("a", 100, 1000));
        table.add(entry("a", 50, 500));
        let only = Page { entries: vec![entry("a", 100, 1000)], total: 1, next: None };
        assert_eq!(table.page(None, 10), only);
    }

    #[test]
    fn what_has_ended_is_forgotten_and_pages_are_in_order() {
        let mut table = RevocationTable::default();
        for (name, ends) in [("a", 30), ("b", 10), ("c", 20), ("d", 40)] {
            table.add(entry(name, 1, ends));
        }
        let mut ended = Vec::new();
        table.prune(at(10), |key| ended.push(key.to_owned()));
        assert_eq!(ended, [subject("b").key()]);
        assert_eq!(table.len(), 3);
        let first = table.page(None, 1);
        assert_eq!(first.next, Some(Position::new(at(20), subject("c").key().as_bytes())));
        // The entry of the position may have ended before the next page is read.
        let mut ended = Vec::new();
        table.prune(at(20), |key| ended.push(key.to_owned()));
        let page = table.page(first.next.as_ref(), 1);
        assert_eq!((page.total, page.entries.len(), page.entries[0].ends), (2, 1, at(30)));
        assert_eq!(page.entries[0].kind(), "subject");
        table.add(entry("c", 1, 20));
        assert!(table.remove(&subject("a").key(), at(11)));
        assert!(!table.remove(&subject("a").key(), at(11)));
        assert!(
            !table.remove(&subject("c").key(), at(20)),
            "an entry that has ended was not in force"
        );
        assert_eq!((table.len(), table.ends.len()), (1, 1));
    }

    #[test]
    fn an_entry_outlives_what_it_revokes_by_leeway_and_clocks() {
        let plain = Revocation::new(subject("a"), at(1), Span::from_secs(100), None).unwrap();
        assert_eq!((plain.life(), plain.entry(at(10)).ends), (Span::from_secs(100), at(110)));
        let kept = plain.with_margin();
        assert_eq!((kept.ttl(), kept.life()), (Span::from_secs(100), Span::from_secs(220)));
        assert_eq!(kept.entry(at(10)).ends, at(230));
    }

    #[test]
    fn lives_and_notes_are_bounded() {
        let new = |ttl, note: Option<&str>| {
            Revocation::new(subject("a"), at(1), ttl, note.map(str::to_owned))
        };
        assert!(new(Span::from_millis(1), Some("left the company")).is_ok());
        assert_eq!(new(Span::from_micros(999), None), Err(InvalidRevocation::Ttl));
        assert_eq!(new(Span::from_secs(TTL_MAX.secs() + 1), None), Err(InvalidRevocation::Ttl));
        for note in ["", "a\nb", &"x".repeat(257)] {
            assert_eq!(new(Span::from_secs(1), Some(note)), Err(InvalidRevocation::Note), "{note}");
        }
    }
}
