//! The entries of a chain: their texts, and the MACs of these.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{
    calendar::{Day, Month},
    keys::{LedgerKey, LedgerKeys, Mac},
    rows::{MAX_ROWS, Measures, RowKey},
};
use crate::{
    limit::usage_report::{Basis, RequestEnding, UsageCounts},
    time::rfc3339::Rfc3339,
};

/// The version of the texts that are written. A later version may have more members.
pub const VERSION: u32 = 1;

/// An entry of a chain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The version of the text.
    pub v: u32,
    /// The number of the chain.
    pub chain: u32,
    /// The number of the entry in its chain, from 1.
    pub number: u64,
    /// The MAC of the entry before it; zeros for the first one.
    pub prev: Mac,
    /// The name of the key that signed.
    pub key: String,
    /// When the request was settled, or the checkpoint made.
    pub time: Rfc3339,
    /// The replica that wrote the entry.
    pub replica: String,
    /// What the entry records.
    #[serde(flatten)]
    pub content: Content,
}

/// What an entry records.
#[allow(clippy::large_enum_variant, reason = "nearly all entries are records")]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Content {
    /// A settled request.
    Usage(UsageRecord),
    /// The sums of all entries before it.
    Checkpoint(Checkpoint),
}

/// The record of a settled request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UsageRecord {
    /// The id of the decision, as in the audit line.
    pub decision: String,
    /// The tenant of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The route of the request.
    pub route: String,
    /// The model, by its name in the policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The name of the person in the ledger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub person: Option<String>,
    /// What the record has of the person, sealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<String>,
    /// The tokens of the request: those that were charged.
    pub tokens: u64,
    /// What the server reported: its tokens by kind, and images and seconds.
    #[serde(flatten)]
    pub kinds: UsageCounts,
    /// How the request ended.
    pub ending: RequestEnding,
    /// Where the number of tokens comes from.
    pub basis: Basis,
    /// Whether this number is actual; otherwise it is estimated.
    pub actual: bool,
    /// The tokens that an earlier record of the same request has, which this one replaces: its end was
    /// reported after it had been charged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corrects: Option<u64>,
    /// The cost of the request, in micro-units; `None` of a model without a price.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<u64>,
    /// Where the cost comes from, if not from where the tokens do: `hold` where images or seconds were not
    /// reported, so that as many are charged as were held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_basis: Option<Basis>,
    /// The cost that the earlier record has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corrects_cost: Option<u64>,
    /// The day that the record is booked on.
    pub day: Day,
    /// The month that it belongs to, where that was closed before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late_for: Option<Month>,
    /// The most rows that the sums of its day had when it was made; `None` of [`MAX_ROWS`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_rows: Option<u32>,
}

impl UsageRecord {
    /// What the record adds to sums.
    pub fn measures(&self) -> Measures {
        let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let kind = |count: Option<u64>| number(count.unwrap_or_default());
        let before = number(self.corrects.unwrap_or_default());
        let tokens = number(self.tokens);
        let cost = number(self.cost.unwrap_or_default());
        let cost_before = number(self.corrects_cost.unwrap_or_default());
        let is_cost_actual = self.cost_basis.map_or(self.actual, Basis::is_actual);
        let estimated = if self.actual { 0 } else { tokens };
        let estimated_cost = if is_cost_actual { 0 } else { cost };
        // An earlier record was an estimate, unless it has the same fixed charge.
        let repeats_fixed = self.basis == Basis::Fixed && self.corrects == Some(self.tokens);
        let (estimated_before, estimated_cost_before) =
            if repeats_fixed { (0, 0) } else { (before, cost_before) };
        Measures {
            requests: i64::from(self.corrects.is_none()),
            tokens: tokens.saturating_sub(before),
            input: kind(self.kinds.input),
            output: kind(self.kinds.output),
            cached: kind(self.kinds.cached),
            reasoning: kind(self.kinds.reasoning),
            estimated: estimated.saturating_sub(estimated_before),
            cost: cost.saturating_sub(cost_before),
            estimated_cost: estimated_cost.saturating_sub(estimated_cost_before),
            images: kind(self.kinds.images),
            seconds: kind(self.kinds.seconds),
        }
    }

    /// The most rows that the sums of its day had when it was made.
    pub fn max_rows(&self) -> u32 {
        self.max_rows.unwrap_or(MAX_ROWS)
    }

    /// The row of sums that the record is counted in, while there is room for it.
    pub fn row(&self) -> RowKey {
        RowKey::Of {
            tenant: self.tenant.clone(),
            model: self.model.clone(),
            route: self.route.clone(),
        }
    }
}

/// A checkpoint: the sums of its chain, and what its writer knows of other chains.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The number of processes that have written the chain.
    pub epoch: u64,
    /// The usage records before it.
    pub records: u64,
    /// The sums of these records.
    #[serde(flatten)]
    pub sums: Measures,
    /// The number of the first entry that the chain keeps: those before were removed, or will be. 1
    /// where none was.
    pub kept_from: u64,
    /// How many of those that were removed had not been exported.
    pub unexported: u64,
    /// The last day that a record before it is booked on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub booked_until: Option<Day>,
    /// The last month that was closed, as its writer knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed: Option<ClosedMark>,
    /// The last entries of other chains.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<Anchor>,
}

/// A month that was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClosedMark {
    /// The month that was closed.
    pub month: Month,
    /// The MAC of the text about it.
    pub mac: Mac,
}

/// The last entry of another chain, as the writer of a checkpoint knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchor {
    /// The number of the chain.
    pub chain: u32,
    /// The number of its last entry.
    pub number: u64,
    /// The MAC of this entry.
    pub mac: Mac,
}

/// The text of an entry, and its MAC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedEntry {
    /// The text: a JSON object.
    pub text: String,
    /// The MAC of the text.
    pub mac: Mac,
}

/// Why an entry is none of its place.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UnverifiedEntry {
    /// The text is no entry.
    #[error("it is no entry of a ledger")]
    Unreadable,
    /// It belongs to another place.
    #[error("it is entry {number} of chain {chain}, which was moved or repeated")]
    Misplaced {
        /// The chain that it belongs to.
        chain: u32,
        /// The number that it belongs to.
        number: u64,
    },
    /// It names a key that is not in the list.
    #[error("the key `{0}` is not in `ledger.keys`; add it")]
    UnknownKey(String),
    /// The key that it names has not signed it.
    #[error(
        "it was changed, or `ledger.keys` has another secret for the key `{0}` than the replica that signed \
         it: the MAC does not fit"
    )]
    Changed(String),
}

impl Entry {
    /// Signs the entry with the key that it names.
    pub fn sign(&self, key: &LedgerKey) -> SignedEntry {
        // Texts and numbers have a JSON form.
        let text = serde_json::to_string(self).unwrap_or_default();
        let mac = key.mac(&text);
        SignedEntry { text, mac }
    }

    /// Reads the text of an entry; `None` where it is none.
    pub fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// Reads the entry at a place of a chain.
    ///
    /// # Errors
    /// None of `keys` has signed it for this place.
    pub fn verify(
        (chain, number): (u32, u64),
        signed: &SignedEntry,
        keys: &LedgerKeys,
    ) -> Result<Self, UnverifiedEntry> {
        let entry = Self::read(&signed.text).ok_or(UnverifiedEntry::Unreadable)?;
        let Some(key) = keys.get(&entry.key) else {
            return Err(UnverifiedEntry::UnknownKey(entry.key));
        };
        if !key.has_signed(&signed.text, signed.mac) {
            return Err(UnverifiedEntry::Changed(entry.key));
        }
        if (entry.chain, entry.number) != (chain, number) {
            return Err(UnverifiedEntry::Misplaced { chain: entry.chain, number: entry.number });
        }
        Ok(entry)
    }

    /// Reads the entry at a place of a chain; `None` unless one of `keys` has signed it for this place.
    pub fn verified(place: (u32, u64), signed: &SignedEntry, keys: &LedgerKeys) -> Option<Self> {
        Self::verify(place, signed, keys).ok()
    }
}

/// What is between the text of an entry and its MAC in a line of an export. What follows has no such
/// member, and within a string the quotes are escaped. The ends of other chains have one before.
const MAC_MEMBER: &str = ",\"mac\":\"";

impl SignedEntry {
    /// Returns the line of an export: the entry with its MAC as one more member, and the person if it
    /// is known.
    pub fn line(&self, person: Option<&super::person::Person>) -> String {
        let open = self.text.strip_suffix('}').unwrap_or(&self.text);
        let mut line = format!("{open}{MAC_MEMBER}{}\"", self.mac);
        if let Some(person) = person {
            line.push_str(",\"who\":");
            line.push_str(&serde_json::to_string(person).unwrap_or_default());
        }
        line.push('}');
        line
    }

    /// Reads a line of an export, without its end; `None` where it is none, or has anything that
    /// [`line`](Self::line) does not write: another program would read a member that the MAC does not
    /// cover.
    pub fn of_line(line: &str) -> Option<(Self, Option<super::person::Person>)> {
        #[derive(Deserialize)]
        struct Added {
            mac: Mac,
            who: Option<super::person::Person>,
        }
        let (open, _) = line.rsplit_once(MAC_MEMBER)?;
        let Added { mac, who } = serde_json::from_str(line).ok()?;
        let signed = Self { text: format!("{open}}}"), mac };
        (signed.line(who.as_ref()) == line).then_some((signed, who))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{
        ledger::{keys::LedgerKeys, person::Person},
        secret::Secret,
        time::Timestamp,
    };

    pub(in crate::ledger) fn keys() -> LedgerKeys {
        LedgerKeys::new(vec![("k".to_owned(), Secret::new(vec![1; 32]))]).unwrap()
    }

    fn record() -> Entry {
        Entry {
            v: VERSION,
            chain: 1,
            number: 2,
            prev: Mac::default(),
            key: "k".to_owned(),
            time: Rfc3339(Timestamp::from_secs(1_800_000_000)),
            replica: "r".to_owned(),
            content: Content::Usage(UsageRecord {
                decision: "d".into(),
                tenant: Some("acme".into()),
                route: "chat".into(),
                model: None,
                person: Some("p".into()),
                sealed: None,
                tokens: 7,
                kinds: UsageCounts { input: Some(3), ..UsageCounts::default() },
                ending: RequestEnding::Complete,
                basis: Basis::Reported,
                actual: true,
                corrects: None,
                cost: None,
                cost_basis: None,
                corrects_cost: None,
                day: "2027-01-15".parse().unwrap(),
                late_for: None,
                max_rows: None,
            }),
        }
    }

    #[test]
    fn the_text_of_a_record_is_a_contract() {
        let text = record().sign(keys().first()).text;
        let zeros = "A".repeat(43);
        let expected = format!(
            "{{\"v\":1,\"chain\":1,\"number\":2,\"prev\":\"{zeros}\",\"key\":\"k\",\
             \"time\":\"2027-01-15T08:00:00.000000Z\",\"replica\":\"r\",\"kind\":\"usage\",\
             \"decision\":\"d\",\"tenant\":\"acme\",\"route\":\"chat\",\"person\":\"p\",\
             \"tokens\":7,\"input\":3,\"ending\":\"complete\",\"basis\":\"reported\",\
             \"actual\":true,\"day\":\"2027-01-15\"}}"
        );
        assert_eq!(text, expected);
        assert_eq!(Entry::read(&text), Some(record()));
        // A later version may have more members.
        assert_eq!(
            Entry::read(&text.replace("\"tokens\"", "\"colour\":1,\"tokens\"")),
            Some(record())
        );
    }

    #[test]
    fn a_record_of_images_and_seconds_states_them_and_where_its_cost_comes_from() {
        let Content::Usage(record) = record().content else { unreachable!() };
        let kinds = UsageCounts { images: Some(4), seconds: Some(60), ..UsageCounts::NONE };
        let cost_basis = Some(Basis::Hold);
        let record = UsageRecord { kinds, cost: Some(312), cost_basis, ..record };
        let text = serde_json::to_string(&record).unwrap();
        let expected = "\"tokens\":7,\"images\":4,\"seconds\":60,\"ending\":\"complete\",\
                        \"basis\":\"reported\",\"actual\":true,\"cost\":312,\"cost_basis\":\"hold\"";
        assert!(text.contains(expected), "{text}");
        assert_eq!(serde_json::from_str::<UsageRecord>(&text).unwrap(), record);
        let Measures { estimated, estimated_cost, images, seconds, .. } = record.measures();
        assert_eq!((estimated, estimated_cost, images, seconds), (0, 312, 4, 60));
    }

    #[test]
    fn a_line_of_an_export_has_the_signed_text() {
        let signed = record().sign(keys().first());
        let person = Person { subject: Some("a,\"mac\":\"b".into()), ..Person::default() };
        for person in [None, Some(person)] {
            let line = signed.line(person.as_ref());
            assert!(serde_json::from_str::<serde_json::Value>(&line).is_ok(), "{line}");
            assert_eq!(SignedEntry::of_line(&line), Some((signed.clone(), person)));
        }
        let others = vec![Anchor { chain: 2, number: 3, mac: Mac::default() }];
        let sums = Measures::default();
        let checkpoint = Checkpoint {
            epoch: 1,
            records: 1,
            sums,
            kept_from: 1,
            unexported: 0,
            booked_until: None,
            closed: Some(ClosedMark { month: "2026-11".parse().unwrap(), mac: Mac::default() }),
            others,
        };
        let entry = Entry { content: Content::Checkpoint(checkpoint), ..record() };
        let signed = entry.sign(keys().first());
        assert_eq!(SignedEntry::of_line(&signed.line(None)), Some((signed.clone(), None)));
        assert_eq!(SignedEntry::of_line(&signed.text), None);
        // Programs that read JSON take the last one of two equal members.
        let line = signed.line(None);
        for more in [",\"tokens\":9}", ",\"who\":{},\"tokens\":9}", ",\"who\":null}", " }", "} "] {
            let changed = format!("{}{more}", line.strip_suffix('}').unwrap());
            assert_eq!(SignedEntry::of_line(&changed), None, "{changed}");
        }
    }

    #[test]
    fn an_entry_is_verified_for_its_place() {
        let signed = record().sign(keys().first());
        assert_eq!(Entry::verified((1, 2), &signed, &keys()), Some(record()));
        let misplaced = Err(UnverifiedEntry::Misplaced { chain: 1, number: 2 });
        assert_eq!(Entry::verify((1, 3), &signed, &keys()), misplaced);
        assert_eq!(Entry::verify((2, 2), &signed, &keys()), misplaced);
        let forged = SignedEntry { mac: Mac::default(), ..signed.clone() };
        let changed = Err(UnverifiedEntry::Changed("k".into()));
        assert_eq!(Entry::verify((1, 2), &forged, &keys()), changed);
        let others = |id: &str, byte| {
            LedgerKeys::new(vec![(id.to_owned(), Secret::new(vec![byte; 32]))]).unwrap()
        };
        assert_eq!(Entry::verify((1, 2), &signed, &others("k", 2)), changed);
        let unknown = Err(UnverifiedEntry::UnknownKey("k".into()));
        assert_eq!(Entry::verify((1, 2), &signed, &others("l", 1)), unknown);
        let text = SignedEntry { text: "x".into(), ..signed };
        assert_eq!(Entry::verify((1, 2), &text, &keys()), Err(UnverifiedEntry::Unreadable));
    }
}
