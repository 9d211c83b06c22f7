//! The sums of a ledger: by tenant, model and route, for each hour and each day.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::calendar::Day;

/// The name of the row of what has no row of its own.
pub const OTHER: &str = "other";

/// The measures of a row, by the letter that a store keeps each under.
pub const LETTERS: [char; 11] = ['r', 't', 'i', 'o', 'c', 'n', 'e', 'm', 'p', 'g', 's'];

/// The names of the measures of a row, in the order of [`LETTERS`].
pub const MEASURES: [&str; LETTERS.len()] = [
    "requests",
    "tokens",
    "input",
    "output",
    "cached",
    "reasoning",
    "estimated",
    "cost",
    "estimated_cost",
    "images",
    "seconds",
];

/// What rows count. A correction may lower a sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Measures {
    /// The number of requests.
    pub requests: i64,
    /// Tokens that were charged.
    pub tokens: i64,
    /// Tokens of the input that servers reported.
    pub input: i64,
    /// Tokens of the output.
    pub output: i64,
    /// Tokens of the input that a cache had.
    pub cached: i64,
    /// Tokens of the output that are reasoning.
    pub reasoning: i64,
    /// Those of the charged tokens that are estimated.
    pub estimated: i64,
    /// The cost, in micro-units.
    #[serde(default)]
    pub cost: i64,
    /// The part of the cost that is estimated.
    #[serde(default)]
    pub estimated_cost: i64,
    /// Images that are known.
    #[serde(default)]
    pub images: i64,
    /// Seconds of audio or video that servers or reporters counted.
    #[serde(default)]
    pub seconds: i64,
}

impl Measures {
    /// Adds other sums.
    pub fn add(&mut self, other: &Self) {
        for (sum, more) in self.all_mut().into_iter().zip(other.all()) {
            *sum = sum.saturating_add(more);
        }
    }

    /// The measures in the order of [`LETTERS`].
    pub fn all(&self) -> [i64; LETTERS.len()] {
        let Self { requests, tokens, input, output, cached, reasoning, estimated, .. } = *self;
        let Self { cost, estimated_cost, images, seconds, .. } = *self;
        [
            requests,
            tokens,
            input,
            output,
            cached,
            reasoning,
            estimated,
            cost,
            estimated_cost,
            images,
            seconds,
        ]
    }

    fn all_mut(&mut self) -> [&mut i64; LETTERS.len()] {
        let Self {
            requests,
            tokens,
            input,
            output,
            cached,
            reasoning,
            estimated,
            cost,
            estimated_cost,
            images,
            seconds,
        } = self;
        [
            requests,
            tokens,
            input,
            output,
            cached,
            reasoning,
            estimated,
            cost,
            estimated_cost,
            images,
            seconds,
        ]
    }

    /// The measures that differ, with their names, and the value here and there.
    pub fn differences(&self, other: &Self) -> Vec<(&'static str, i64, i64)> {
        let both = self.all().into_iter().zip(other.all());
        let named = MEASURES.into_iter().zip(both).map(|(name, (one, two))| (name, one, two));
        named.filter(|(_, one, two)| one != two).collect()
    }

    /// Sets the measure of a letter.
    pub fn set(&mut self, letter: char, value: i64) {
        let place = LETTERS.iter().position(|known| *known == letter);
        if let Some(measure) = place.and_then(|place| self.all_mut().into_iter().nth(place)) {
            *measure = value;
        }
    }
}

/// The most rows of an hour or a day, where the configuration does not name another number.
pub const MAX_ROWS: u32 = 1000;

/// What the requests of a row have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(untagged)]
pub enum RowKey {
    /// A tenant, a model and a route.
    Of {
        /// The tenant of the request.
        tenant: Option<String>,
        /// The model of the request.
        model: Option<String>,
        /// The route of the request.
        route: String,
    },
    /// What has no row of its own.
    Other,
}

impl RowKey {
    /// The text that a store keeps the row under.
    pub fn text(&self) -> String {
        match self {
            Self::Of { tenant, model, route } => {
                serde_json::to_string(&(tenant, model, route)).unwrap_or_default()
            }
            Self::Other => OTHER.to_owned(),
        }
    }

    /// Reads the text of a row. One that no version has written is a row of its own, which no record
    /// has.
    pub fn read(text: &str) -> Self {
        if text == OTHER {
            return Self::Other;
        }
        let row = serde_json::from_str(text).map(|(tenant, model, route)| Self::Of {
            tenant,
            model,
            route,
        });
        let unwritten = || Self::Of { tenant: None, model: None, route: text.to_owned() };
        row.ok().filter(|row| row.text() == text).unwrap_or_else(unwritten)
    }
}

/// The hour or the day of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Period {
    /// An hour, by its beginning in seconds since 1970.
    Hour(u64),
    /// A day of the calendar.
    Day(Day),
}

/// What the records of a batch add to rows.
pub type Additions = BTreeMap<(Period, RowKey), Measures>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_a_row_is_read_as_it_was_written() {
        let row = |tenant: Option<&str>| RowKey::Of {
            tenant: tenant.map(str::to_owned),
            model: Some("other".into()),
            route: "a\"]".into(),
        };
        for key in [row(None), row(Some("")), row(Some("ümlaut")), RowKey::Other] {
            assert_eq!(RowKey::read(&key.text()), key);
        }
        assert_eq!(row(None).text(), r#"[null,"other","a\"]"]"#);
        for text in ["zz", "", "others", r#"[null, "other","a"]"#, "[]", "7"] {
            let unwritten = RowKey::Of { tenant: None, model: None, route: text.into() };
            assert_eq!(RowKey::read(text), unwritten);
        }
    }

    #[test]
    fn each_letter_has_a_measure() {
        let mut measures = Measures::default();
        for (value, letter) in (1..).zip(LETTERS) {
            measures.set(letter, value);
        }
        assert_eq!(measures.all(), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
        measures.add(&measures.clone());
        assert_eq!((measures.requests, measures.estimated, measures.cost), (2, 14, 16));
    }
}
