//! Checks by subject, for alerts on frequency, in bounded memory.
//!
//! The table follows the Space-Saving algorithm (Metwally, Agrawal, El Abbadi, "Efficient
//! Computation of Frequent and Top-k Elements in Data Streams", 2005). It has N entries; a subject
//! without an entry replaces the one of the smallest weight and inherits that weight. A subject
//! with more than 1/N of all checks is always in the table.
//!
//! A weight only ranks. The counts of a subject begin when it gets its entry, so that no subject is
//! charged with another's requests; the counts of the subject that it replaced are added to
//! `other`. The sum over all series therefore never falls. A subject that comes back starts from 0,
//! which Prometheus reads as the reset of a counter.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use tollgate_core::identity::{Actor, Principal};

/// The longest label, in bytes. A subject comes from a token and may be a kilobyte long.
const MAX_LABEL: usize = 128;

/// The table of the busiest subjects.
#[derive(Debug)]
pub(super) struct Subjects {
    capacity: usize,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    entries: HashMap<SubjectKey, Entry>,
    other: Counts,
}

/// A subject together with its issuer, which makes it unique.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct SubjectKey {
    issuer: String,
    subject: String,
}

#[derive(Debug)]
struct Entry {
    weight: u64,
    counts: Counts,
}

/// Checks by decision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// The number of allowed checks.
    pub(super) allow: u64,
    /// All other checks.
    pub(super) deny: u64,
}

impl Counts {
    fn add(&mut self, allowed: bool) {
        let count = if allowed { &mut self.allow } else { &mut self.deny };
        *count += 1;
    }
}

/// One row of the exposition.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SubjectRow {
    /// The token's `iss`; empty for `other`.
    pub(super) issuer: String,
    /// The subject, or `other` for the rest.
    pub(super) subject: String,
    /// The counts of the row.
    pub(super) counts: Counts,
}

impl Subjects {
    /// Creates a table of this capacity; `None` where it is 0.
    pub(super) fn new(capacity: usize) -> Option<Self> {
        (capacity > 0).then(|| Self { capacity, table: Mutex::new(Table::default()) })
    }

    /// Counts one check of an authenticated principal.
    pub(super) fn count(&self, principal: &Principal, allowed: bool) {
        let subject = if principal.is_subject_client() {
            label(&format!("=client:{}", principal.subject()))
        } else {
            label(principal.subject())
        };
        self.count_as(SubjectKey { issuer: label(principal.issuer()), subject }, allowed);
    }

    /// Counts one check of an actor.
    pub(super) fn count_actor(&self, actor: Actor<'_>, allowed: bool) {
        let key = SubjectKey { issuer: label(actor.issuer), subject: label(actor.subject) };
        self.count_as(key, allowed);
    }

    fn count_as(&self, key: SubjectKey, allowed: bool) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let Table { entries, other } = &mut *table;
        if let Some(entry) = entries.get_mut(&key) {
            entry.weight += 1;
            entry.counts.add(allowed);
            return;
        }
        let mut weight = 1;
        if entries.len() >= self.capacity {
            let lightest =
                entries.iter().min_by_key(|(_, entry)| entry.weight).map(|(key, _)| key.clone());
            if let Some(gone) = lightest.and_then(|lightest| entries.remove(&lightest)) {
                weight += gone.weight;
                other.allow += gone.counts.allow;
                other.deny += gone.counts.deny;
            }
        }
        let mut counts = Counts::default();
        counts.add(allowed);
        entries.insert(key, Entry { weight, counts });
    }

    /// Returns all rows, sorted by issuer and subject, then `other`.
    pub(super) fn rows(&self) -> Vec<SubjectRow> {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let mut entries: Vec<_> =
            table.entries.iter().map(|(key, entry)| (key.clone(), entry.counts)).collect();
        let other =
            SubjectRow { issuer: String::new(), subject: "other".into(), counts: table.other };
        drop(table);
        entries.sort_by(|(one, _), (two, _)| one.cmp(two));
        let rows = entries.into_iter().map(|(key, counts)| SubjectRow {
            issuer: key.issuer,
            subject: key.subject,
            counts,
        });
        rows.chain([other]).collect()
    }
}

/// Returns a label of bounded length: a longer text is truncated and made unique by its hash. A
/// subject named `other` is marked, because the series of that name is the sum of the rest.
fn label(text: &str) -> String {
    if text == "other" {
        return "=other".into();
    }
    if text.len() <= MAX_LABEL {
        return text.to_owned();
    }
    let hash = tollgate_core::text::hex(
        tollgate_core::revocation::sha256(text.as_bytes()).get(..8).unwrap_or_default(),
    );
    let mut end = MAX_LABEL - hash.len() - 1;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}~{hash}", text.get(..end).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(subject: &str) -> SubjectKey {
        SubjectKey { issuer: "https://a".into(), subject: label(subject) }
    }

    fn rows(subjects: &Subjects) -> Vec<(String, u64, u64)> {
        subjects
            .rows()
            .into_iter()
            .map(|line| (line.subject, line.counts.allow, line.counts.deny))
            .collect()
    }

    #[test]
    fn none_is_counted_without_places() {
        assert!(Subjects::new(0).is_none());
    }

    #[test]
    fn the_lightest_gives_way_and_what_it_counted_is_kept_as_other() {
        let subjects = Subjects::new(2).unwrap();
        for (subject, allowed) in [("a", true), ("a", true), ("b", false), ("c", true)] {
            subjects.count_as(key(subject), allowed);
        }
        // `c` inherits the weight of `b`, and counts its own one check.
        assert_eq!(
            rows(&subjects),
            [("a".into(), 2, 0), ("c".into(), 1, 0), ("other".into(), 0, 1)]
        );
    }

    #[test]
    fn whoever_asks_more_than_their_share_is_found_among_thousands() {
        let subjects = Subjects::new(10).unwrap();
        let mut total = 0;
        for round in 0..5000 {
            subjects.count_as(key(&format!("once-{round}")), true);
            total += 1;
            if round % 4 == 0 {
                subjects.count_as(key("frequent"), false);
                total += 1;
            }
        }
        let lines = rows(&subjects);
        assert_eq!(lines.len(), 11, "ten capacity and `other`");
        let frequent = lines.iter().find(|(subject, ..)| subject == "frequent").unwrap();
        assert!(frequent.2 > 1200, "counted since it got its place: {}", frequent.2);
        assert_eq!(
            lines.iter().map(|(_, allow, deny)| allow + deny).sum::<u64>(),
            total,
            "nothing is lost"
        );
    }

    #[test]
    fn labels_are_bounded_and_distinct() {
        let long = "é".repeat(200);
        let (one, two) = (label(&long), label(&format!("{long}x")));
        assert!(one.len() <= MAX_LABEL && two.len() <= MAX_LABEL);
        assert_ne!(one, two);
        assert_eq!(label("other"), "=other");
        assert_eq!(label("alice"), "alice");
    }
}
