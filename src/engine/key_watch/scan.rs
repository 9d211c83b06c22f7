//! The keys in force by their state, and the notices about their ends.

use std::collections::BTreeSet;

use tollgate_core::{
    credential::api_key::{EXPIRING, KeyState},
    identity::KeyId,
    snapshot::Snapshot,
    time::Timestamp,
};

use super::lifetimes;
use crate::{
    observe::{key_events::KeyEventKind, metrics::KeyCounts},
    store::MOST_UPDATES,
};

/// A notice about the end of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Notice {
    pub(super) id: KeyId,
    pub(super) end: Timestamp,
    pub(super) kind: KeyEventKind,
}

/// The result of looking through all keys.
#[derive(Debug)]
pub(super) struct Scan {
    /// The keys of each source.
    pub(super) counts: Vec<KeyCounts>,
    /// The notices to give.
    pub(super) notices: Vec<Notice>,
    /// The notices that were given and still matter.
    pub(super) given: BTreeSet<Notice>,
    /// The moment at which the state of a key changes.
    pub(super) next: Option<Timestamp>,
}

impl Scan {
    /// Looks through the keys of a snapshot at `now`. `given` are notices that were given.
    pub(super) fn of(snapshot: &Snapshot, now: Timestamp, mut given: BTreeSet<Notice>) -> Self {
        let policy = &snapshot.policy;
        let lifetimes = lifetimes(policy);
        let redis = policy.api_keys.as_ref().and_then(|keys| keys.redis_source());
        let secs = |time: Timestamp| time.secs();
        let warned_from =
            |end: Timestamp| Timestamp::from_micros(end.micros().saturating_sub(EXPIRING.micros()));
        // A key that ended longer ago was reported then, or ended before it was watched.
        let is_recent = |end: Timestamp| secs(end).saturating_add(EXPIRING.secs()) > secs(now);
        given.retain(|notice| is_recent(notice.end));
        let (mut counts, mut notices, mut next) = (Vec::new(), Vec::new(), None::<Timestamp>);
        for (index, table) in snapshot.api_keys.iter().enumerate() {
            let source = if redis == Some(index) { "redis" } else { "file" };
            let mut count = KeyCounts::new(source);
            let before = snapshot.api_keys.get(..index).unwrap_or_default();
            for record in table.iter().flat_map(|table| table.iter()) {
                // The record of an earlier source applies.
                if before.iter().flatten().any(|table| table.get(&record.id).is_some()) {
                    continue;
                }
                let end = record.end(&lifetimes);
                let is_expiring = now >= warned_from(end);
                let state = record.state(now, &lifetimes);
                count.add(state, record.current.weak, is_expiring, end);
                let kind = match state {
                    KeyState::Expired => KeyEventKind::Expired,
                    _ if is_expiring => KeyEventKind::Expiring,
                    _ => {
                        next = Some(next.map_or(warned_from(end), |at| at.min(warned_from(end))));
                        continue;
                    }
                };
                if kind == KeyEventKind::Expiring {
                    next = Some(next.map_or(end, |at| at.min(end)));
                }
                let notice = Notice { id: record.id, end, kind };
                if is_recent(end) && notices.len() < MOST_UPDATES && !given.contains(&notice) {
                    notices.push(notice);
                }
            }
            counts.push(count);
        }
        Self { counts, notices, given, next }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tollgate_core::{
        config::{Document, Errors},
        credential::api_key::{KeyRecord, KeyTable},
        policy::{Policy, PolicyConfig},
        time::rfc3339,
    };

    use super::*;

    fn snapshot(redis: bool, tables: &[&[(&str, &str)]]) -> Snapshot {
        let text = format!(
            "api_keys: {{ file: /k, redis: {redis} }}\nroutes: [{{ match: {{ paths: [/] }}, public: true }}]"
        );
        let document = Document::parse(&text, &|_| None).unwrap();
        let config: PolicyConfig = document.read().unwrap();
        let policy = Policy::compile(&config, &mut Errors::default()).unwrap();
        let mut snapshot = Snapshot::without_keys(Arc::new(policy));
        snapshot.api_keys = tables
            .iter()
            .map(|records| {
                let mut table = KeyTable::new();
                for (id, members) in *records {
                    let digest = tollgate_core::text::hex(&[id.as_bytes()[0]; 32]);
                    let text = format!(
                        r#"{{"id":"{id}","digest":"sha256:{digest}","subject":"ci",
                            "created":"2026-01-01T00:00:00Z"{members}}}"#
                    );
                    let id = id.parse().unwrap();
                    table.insert(KeyRecord::from_stored(id, &text).unwrap()).unwrap();
                }
                Some(Arc::new(table))
            })
            .collect();
        snapshot
    }

    fn at(date: &str) -> Timestamp {
        rfc3339::parse(&format!("{date}T00:00:00Z")).unwrap()
    }

    const A: &str = "aaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbb";
    const C: &str = "cccccccccccc";
    const D: &str = "dddddddddddd";

    #[test]
    fn keys_are_counted_by_state_and_each_end_is_reported_once() {
        let file: &[_] = &[
            (A, r#","expires":"2026-02-10T00:00:00Z""#),
            (B, r#","expires":"2026-02-16T00:00:00Z","weak":true"#),
        ];
        let redis: &[_] = &[
            (A, r#","expires":"2026-03-30T00:00:00Z""#),
            (C, r#","expires":"2026-03-20T00:00:00Z","weak":true"#),
            (D, r#","expires":"2026-02-01T00:00:00Z""#),
        ];
        let snapshot = snapshot(true, &[file, redis]);
        let scan = Scan::of(&snapshot, at("2026-02-12"), BTreeSet::new());
        let shown: Vec<_> = scan
            .counts
            .iter()
            .map(|count| (count.source, count.by_state().map(|(_, number)| number)))
            .collect();
        // usable, expiring, weak, rotating, expired: `a` of Redis does not apply.
        assert_eq!(shown, [("file", [1, 1, 1, 0, 1]), ("redis", [1, 0, 1, 0, 1])]);
        assert_eq!(scan.counts[0].next_end, Some(at("2026-02-16")));
        let of = |scan: &Scan| -> Vec<_> {
            let notices = scan.notices.iter();
            notices.map(|notice| (notice.id.to_string(), notice.kind)).collect()
        };
        // `d` ended more than seven days before.
        let mut found = of(&scan);
        found.sort();
        assert_eq!(
            found,
            [(A.to_owned(), KeyEventKind::Expired), (B.to_owned(), KeyEventKind::Expiring)]
        );
        assert_eq!(scan.next, Some(at("2026-02-16")), "the end of `b`");
        let given = scan.notices.iter().copied().collect();
        let again = Scan::of(&snapshot, at("2026-02-13"), given);
        assert_eq!(of(&again), []);
        let later = Scan::of(&snapshot, at("2026-02-16"), again.given);
        assert_eq!(of(&later), [(B.to_owned(), KeyEventKind::Expired)]);
        assert_eq!(later.next, Some(at("2026-03-13")), "the warning about `c`");
    }

    #[test]
    fn max_life_ends_a_key_before_its_record_does() {
        let long: &[_] = &[(A, r#","expires":"2027-01-01T00:00:00Z""#)];
        let snapshot = snapshot(true, &[&[], long]);
        let scan = Scan::of(&snapshot, at("2026-03-30"), BTreeSet::new());
        assert_eq!(scan.counts[1].next_end, Some(at("2026-04-01")), "90 days, the default");
        assert_eq!(scan.notices.len(), 1);
    }
}
