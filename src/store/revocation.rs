//! Revocations as an operator gives and sees them, and the table that holds them in memory.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use thiserror::Error;
use tollgate_core::{
    revocation::Target,
    time::{Span, Timestamp},
};

/// Longest note, in bytes.
const NOTE_MAX: usize = 256;

/// Longest life of a revocation: ten years.
const TTL_MAX: Span = Span::from_secs(3650 * 86_400);

/// A revocation to add. Holds only values that every store takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    target: Target,
    at: Timestamp,
    ttl: Span,
    note: Option<String>,
}

/// Why something is no revocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InvalidRevocation {
    /// It would end at once, or never.
    #[error(
        "a revocation lasts 1ms to 3650d; give the remaining life of the longest-lived token it is for"
    )]
    Ttl,
    /// The note is no short line of text.
    #[error("a note is 1 to {NOTE_MAX} bytes without control characters")]
    Note,
}

impl Revocation {
    /// Revokes `target` for `ttl`. For a subject, client or tenant, `at` is the moment until which tokens were issued (whole
    /// seconds, the unit of `iat`); for one token it only says when. `note` is for the operator.
    ///
    /// # Errors
    /// A life or a note out of bounds.
    pub fn new(
        target: Target,
        at: Timestamp,
        ttl: Span,
        note: Option<String>,
    ) -> Result<Self, InvalidRevocation> {
        if ttl < Span::from_millis(1) || ttl > TTL_MAX {
            return Err(InvalidRevocation::Ttl);
        }
        if note.as_deref().is_some_and(|note| {
            note.is_empty() || note.len() > NOTE_MAX || note.chars().any(char::is_control)
        }) {
            return Err(InvalidRevocation::Note);
        }
        Ok(Self { target, at, ttl, note })
    }

    /// What it revokes.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The moment until which tokens were issued, or, for one token, of the revocation.
    pub fn at(&self) -> Timestamp {
        self.at
    }

    /// How long it lasts.
    pub fn ttl(&self) -> Span {
        self.ttl
    }

    /// The operator's note.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }
}

/// A revocation in force, as a list shows it. What it names was hashed and cannot be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key below `{tollgate}:revoked:`, which starts with the kind: [`Target::key`].
    pub key: String,
    /// See [`Revocation::at`]; whole seconds.
    pub at: Timestamp,
    /// When it ends.
    pub ends: Timestamp,
    /// The operator's note.
    pub note: Option<String>,
}

impl Entry {
    /// `jti`, `token`, `subject`, `client` or `tenant`.
    pub fn kind(&self) -> &str {
        self.key.split(':').next().unwrap_or_default()
    }
}

/// A part of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The entries.
    pub entries: Vec<Entry>,
    /// How many revocations are in force altogether.
    pub total: u64,
}

/// Revocations in memory, as they are listed.
#[derive(Debug, Default)]
pub(super) struct Table {
    entries: HashMap<Arc<str>, Held>,
    ends: BTreeSet<(Timestamp, Arc<str>)>,
}

#[derive(Debug)]
struct Held {
    /// In seconds.
    at: u64,
    ends: Timestamp,
    note: Option<String>,
}

impl Table {
    /// Adds an entry, or strengthens the one of this key.
    pub(super) fn add(&mut self, entry: Entry) {
        let Entry { key, at, ends, note } = entry;
        let key: Arc<str> = key.into();
        let mut held = Held { at: at.secs(), ends, note };
        if let Some(known) = self.take(&key) {
            held.at = held.at.max(known.at);
            held.ends = held.ends.max(known.ends);
            held.note = held.note.or(known.note);
        }
        self.ends.insert((held.ends, Arc::clone(&key)));
        self.entries.insert(key, held);
    }

    /// Removes the entry of a key. Answers whether it was in force.
    pub(super) fn remove(&mut self, key: &str, now: Timestamp) -> bool {
        self.take(key).is_some_and(|held| held.ends > now)
    }

    fn take(&mut self, key: &str) -> Option<Held> {
        let (key, held) = self.entries.remove_entry(key)?;
        self.ends.remove(&(held.ends, key));
        Some(held)
    }

    /// Forgets what has ended, and says what.
    pub(super) fn prune(&mut self, now: Timestamp, mut ended: impl FnMut(&str)) {
        while let Some((ends, _)) = self.ends.first()
            && *ends <= now
            && let Some((_, key)) = self.ends.pop_first()
        {
            self.entries.remove(&key);
            ended(&key);
        }
    }

    /// How many entries are held.
    pub(super) fn len(&self) -> u64 {
        self.entries.len() as u64
    }

    /// A part of the list, by the moment the entries end. [`prune`](Self::prune) first.
    pub(super) fn page(&self, offset: usize, limit: usize) -> Page {
        let entry = |(ends, key): &(Timestamp, Arc<str>)| {
            let held = self.entries.get(key)?;
            Some(Entry {
                key: key.to_string(),
                at: Timestamp::from_secs(held.at),
                ends: *ends,
                note: held.note.clone(),
            })
        };
        Page {
            entries: self.ends.iter().skip(offset).take(limit).filter_map(entry).collect(),
            total: self.len(),
        }
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
        let mut table = Table::default();
        table.add(entry("a", 100, 1000));
        table.add(entry("a", 50, 500));
        assert_eq!(table.page(0, 10), Page { entries: vec![entry("a", 100, 1000)], total: 1 });
    }

    #[test]
    fn what_has_ended_is_forgotten_and_pages_are_in_order() {
        let mut table = Table::default();
        for (name, ends) in [("a", 30), ("b", 10), ("c", 20), ("d", 40)] {
            table.add(entry(name, 1, ends));
        }
        let mut ended = Vec::new();
        table.prune(at(10), |key| ended.push(key.to_owned()));
        assert_eq!(ended, [subject("b").key()]);
        assert_eq!(table.len(), 3);
        let page = table.page(1, 1);
        assert_eq!((page.total, page.entries.len(), page.entries[0].ends), (3, 1, at(30)));
        assert_eq!(page.entries[0].kind(), "subject");
        assert!(table.remove(&subject("a").key(), at(11)));
        assert!(!table.remove(&subject("a").key(), at(11)));
        assert!(
            !table.remove(&subject("c").key(), at(20)),
            "an entry that has ended was not in force"
        );
        assert_eq!((table.len(), table.ends.len()), (1, 1));
    }

    #[test]
    fn lives_and_notes_are_bounded() {
        let new = |ttl, note: Option<&str>| {
            Revocation::new(subject("a"), at(1), ttl, note.map(str::to_owned))
        };
        assert!(new(Span::from_millis(1), Some("left the company")).is_ok());
        assert_eq!(new(Span::from_micros(999), None), Err(InvalidRevocation::Ttl));
        assert_eq!(new(Span::from_secs(3651 * 86_400), None), Err(InvalidRevocation::Ttl));
        for note in ["", "a\nb", &"x".repeat(257)] {
            assert_eq!(new(Span::from_secs(1), Some(note)), Err(InvalidRevocation::Note), "{note}");
        }
    }
}
