//! The sums of a closed month, signed.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use tollgate_core::{
    ledger::{
        calendar::Month,
        keys::{LedgerKeys, Mac},
        rows::{MEASURES, Measures, RowKey},
    },
    revocation::sha256,
    text::hex,
    time::{Timestamp, rfc3339::Rfc3339},
};

use super::records::total_of;

/// The form of the text that is signed. Months that were closed before have none in their text.
const FORM: u32 = 2;

/// The sums of a month that is closed, signed.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ClosedMonth {
    #[serde(skip_serializing_if = "Option::is_none")]
    form: Option<u32>,
    pub(super) month: Month,
    closed_at: Rfc3339,
    key: String,
    #[serde(flatten)]
    pub(super) sums: Measures,
    /// Whether the month was closed although its sums are not those of its records.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) unverified: bool,
    /// SHA-256 of the sums of each tenant, model and route, in hexadecimal. Earlier versions sign none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rows: Option<String>,
    /// The MAC of the month that was closed before; `None` of the first one. Earlier versions sign none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) previous: Option<Mac>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mac: Option<Mac>,
}

/// What is wrong with the sums of a closed month.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Differing {
    /// Their total is another one.
    Total,
    /// Those of some tenants, models or routes are others.
    Rows,
}

impl ClosedMonth {
    /// Returns the text about a month. `previous` is the MAC of the one before it, if that was closed.
    pub(super) fn sign(
        (month, previous): (Month, Option<Mac>),
        (rows, unverified): (&HashMap<RowKey, Measures>, bool),
        now: Timestamp,
        keys: &LedgerKeys,
    ) -> String {
        let key = keys.first();
        let (form, closed_at, name) = (Some(FORM), Rfc3339(now), key.id().to_owned());
        let (sums, rows) = (total_of(rows), Some(digest_of(rows)));
        let mut closed =
            Self { form, month, closed_at, key: name, sums, unverified, rows, previous, mac: None };
        closed.mac = closed.unsigned().map(|text| key.mac(&text));
        serde_json::to_string(&closed).unwrap_or_default()
    }

    /// Whether a key has signed the sums.
    pub(super) fn is_signed(&self, keys: &LedgerKeys) -> bool {
        let signed = self.unsigned().zip(keys.get(&self.key)).zip(self.mac);
        signed.is_some_and(|((text, key), mac)| key.has_signed(&text, mac))
    }

    /// The MAC of the text, if a key has signed it.
    pub(super) fn mac(&self, keys: &LedgerKeys) -> Option<Mac> {
        self.mac.filter(|_| self.is_signed(keys))
    }

    /// Compares the sums of a month, by row, with those that were signed.
    pub(super) fn compare(&self, rows: &HashMap<RowKey, Measures>) -> Option<Differing> {
        let mut total = total_of(rows);
        if self.form.is_none() {
            // The version that closed the month did not know them.
            (total.images, total.seconds) = (self.sums.images, self.sums.seconds);
        }
        if total != self.sums {
            return Some(Differing::Total);
        }
        let is_other = self.rows.as_ref().is_some_and(|signed| *signed != digest_of(rows));
        is_other.then_some(Differing::Rows)
    }

    /// The text that is signed, which is a contract: each measure by its name, without those that are
    /// zero, so that measures of later versions change nothing. `None` of a form that is not known.
    fn unsigned(&self) -> Option<String> {
        let Self { form, month, closed_at, key, sums, unverified, rows, previous, mac: _ } = self;
        match form {
            None => self.first_form(),
            Some(FORM) => {
                let mut text = format!("closed month, form {FORM}: {month} {closed_at} {key}");
                let numbers = MEASURES.into_iter().zip(sums.all());
                for (name, number) in numbers.filter(|(_, number)| *number != 0) {
                    text.push_str(&format!(" {name}={number}"));
                }
                if *unverified {
                    text.push_str(" unverified");
                }
                if let Some(rows) = rows {
                    text.push_str(&format!(" rows {rows}"));
                }
                if let Some(previous) = previous {
                    text.push_str(&format!(" previous {previous}"));
                }
                Some(text)
            }
            Some(_) => None,
        }
    }

    /// The text of the first form: seven measures without names, and the costs if there are some.
    /// `None` with others, which it does not have.
    fn first_form(&self) -> Option<String> {
        let Self { month, closed_at, key, sums, .. } = self;
        let Measures { requests, tokens, input, output, cached, reasoning, estimated, .. } = *sums;
        let Measures { cost, estimated_cost, .. } = *sums;
        let known = Measures {
            requests,
            tokens,
            input,
            output,
            cached,
            reasoning,
            estimated,
            cost,
            estimated_cost,
            ..Measures::default()
        };
        let cost = match (cost, estimated_cost) {
            (0, 0) => String::new(),
            (cost, estimated) => format!(" cost {cost} {estimated}"),
        };
        let text = format!(
            "closed {month} {closed_at} {key} [{requests}, {tokens}, {input}, {output}, {cached}, \
             {reasoning}, {estimated}]{cost}"
        );
        let has_more = self.unverified || self.rows.is_some() || self.previous.is_some();
        (known == *sums && !has_more).then_some(text)
    }
}

/// The SHA-256 of rows in their order: a contract, as the text. Each has a line with its measures by their
/// names, without those that are zero.
fn digest_of(rows: &HashMap<RowKey, Measures>) -> String {
    let mut text = String::new();
    for (row, measures) in rows.iter().collect::<BTreeMap<_, _>>() {
        let numbers = MEASURES.into_iter().zip(measures.all()).filter(|(_, number)| *number != 0);
        let numbers: Vec<String> =
            numbers.map(|(name, number)| format!(" {name}={number}")).collect();
        if !numbers.is_empty() {
            text.push_str(&format!("{}{}\n", row.text(), numbers.concat()));
        }
    }
    hex(&sha256(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use tollgate_core::secret::Secret;

    use super::*;

    fn keys() -> LedgerKeys {
        LedgerKeys::new(vec![("k".to_owned(), Secret::new(vec![1; 32]))]).unwrap()
    }

    fn rows(all: &[(&str, Measures)]) -> HashMap<RowKey, Measures> {
        let row = |tenant: &str| RowKey::Of {
            tenant: Some(tenant.to_owned()),
            model: None,
            route: "chat".to_owned(),
        };
        all.iter().map(|(tenant, measures)| (row(tenant), *measures)).collect()
    }

    fn read(text: &str) -> ClosedMonth {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn the_sums_of_a_closed_month_are_signed() {
        let sums = Measures { requests: 1, tokens: 7, cost: 30, ..Measures::default() };
        let sums = rows(&[("acme", sums)]);
        let month = "2026-11".parse().unwrap();
        let text = ClosedMonth::sign(
            (month, None),
            (&sums, false),
            Timestamp::from_secs(1_800_000_000),
            &keys(),
        );
        assert!(read(&text).is_signed(&keys()));
        for (signed, changed) in [
            ("\"tokens\":7", "\"tokens\":8"),
            ("\"cost\":30", "\"cost\":0"),
            ("\"reasoning\":0", "\"reasoning\":1"),
            ("2026-11", "2026-10"),
            ("\"form\":2", "\"form\":3"),
            ("\"form\":2,", ""),
            ("\"form\":2,", "\"form\":2,\"unverified\":true,"),
        ] {
            assert!(text.contains(signed), "{signed} {text}");
            assert!(!read(&text.replace(signed, changed)).is_signed(&keys()), "{changed}");
        }
        let now = Timestamp::from_secs(1_800_000_000);
        let text = ClosedMonth::sign((month, None), (&sums, true), now, &keys());
        assert!(read(&text).unverified && read(&text).is_signed(&keys()));
        assert!(!read(&text.replace("\"unverified\":true,", "")).is_signed(&keys()));
    }

    /// The text is a contract: another one would make a finding of each month that was closed.
    #[test]
    fn the_text_that_is_signed_is_a_contract() {
        let sums = Measures { requests: 1, tokens: 7, estimated_cost: -3, ..Measures::default() };
        let sums = rows(&[("acme", sums), ("globex", Measures::default())]);
        let month = "2026-11".parse().unwrap();
        let text = ClosedMonth::sign(
            (month, None),
            (&sums, false),
            Timestamp::from_secs(1_800_000_000),
            &keys(),
        );
        let line = "[\"acme\",null,\"chat\"] requests=1 tokens=7 estimated_cost=-3\n";
        let digest = hex(&sha256(line.as_bytes()));
        let expected = format!(
            "closed month, form 2: 2026-11 2027-01-15T08:00:00.000000Z k requests=1 tokens=7 \
             estimated_cost=-3 rows {digest}"
        );
        assert_eq!(read(&text).unsigned(), Some(expected.clone()));
        let mac = keys().first().mac(&expected);
        assert_eq!(read(&text).mac(&keys()), Some(mac));
        let now = Timestamp::from_secs(1_800_000_000);
        let after = read(&ClosedMonth::sign((month, Some(mac)), (&sums, false), now, &keys()));
        assert_eq!(after.unsigned(), Some(format!("{expected} previous {mac}")));
    }

    #[test]
    fn a_sum_that_was_moved_to_another_tenant_is_found() {
        let one = |tokens| Measures { requests: 1, tokens, ..Measures::default() };
        let signed = rows(&[("acme", one(7)), ("globex", one(3))]);
        let month = "2026-11".parse().unwrap();
        let text = ClosedMonth::sign(
            (month, None),
            (&signed, false),
            Timestamp::from_secs(1_800_000_000),
            &keys(),
        );
        let closed = read(&text);
        assert_eq!(closed.compare(&signed), None);
        let moved = rows(&[("acme", one(5)), ("globex", one(5))]);
        assert_eq!(closed.compare(&moved), Some(Differing::Rows));
        assert_eq!(closed.compare(&rows(&[("acme", one(7))])), Some(Differing::Total));
    }

    /// What is in Redis of a month that was closed before the text had a form, and what was signed.
    #[test]
    fn a_month_that_was_closed_in_the_first_form_is_still_signed() {
        let closed = |members: &str, signed: &str| {
            let mac = keys().first().mac(signed);
            format!(
                "{{\"month\":\"2026-11\",\"closed_at\":\"2026-12-01T08:00:00.000000Z\",\
                 \"key\":\"k\",\"requests\":3,\"tokens\":1500,\"input\":1000,\"output\":500,\
                 \"cached\":200,\"reasoning\":0,\"estimated\":-7,{members}\"mac\":\"{mac}\"}}"
            )
        };
        let head = "closed 2026-11 2026-12-01T08:00:00.000000Z k [3, 1500, 1000, 500, 200, 0, -7]";
        let before_prices = closed("", head);
        let without_cost = closed("\"cost\":0,\"estimated_cost\":0,", head);
        let cost = "\"cost\":750,\"estimated_cost\":-2,";
        let with_cost = closed(cost, &format!("{head} cost 750 -2"));
        for text in [&before_prices, &without_cost, &with_cost] {
            assert!(read(text).is_signed(&keys()), "{text}");
            assert!(!read(&text.replace("1500", "1501")).is_signed(&keys()), "{text}");
        }
        assert!(!read(&with_cost.replace("750", "751")).is_signed(&keys()));
        // That version did not know images and seconds.
        let sums =
            Measures { requests: 3, tokens: 1500, input: 1000, output: 500, ..Measures::default() };
        let sums = Measures { cached: 200, estimated: -7, images: 4, seconds: 9, ..sums };
        assert_eq!(read(&before_prices).compare(&rows(&[("acme", sums)])), None);
        let other = Measures { tokens: 1499, ..sums };
        let compared = read(&before_prices).compare(&rows(&[("acme", other)]));
        assert_eq!(compared, Some(Differing::Total));
        assert!(!read(&before_prices.replace("{", "{\"cost\":1,")).is_signed(&keys()));
    }
}
