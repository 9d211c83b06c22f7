//! The section `prices`: what the models of the policy cost, and from when on.

use std::{borrow::Cow, collections::HashMap, str::FromStr, sync::Arc};

use foldhash::fast::FixedState;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};
use thiserror::Error;

use super::cost::Price;
use crate::{
    config::{Errors, Path, from_text},
    time::{Timestamp, rfc3339},
};

/// The greatest price: a thousand million of the currency.
const MAX_PRICE: u64 = 1_000_000_000_000_000;

/// The most seconds of one request.
const MAX_SECONDS: u64 = 1_000_000_000;

/// The longest name of the currency.
const MAX_CURRENCY: usize = 16;

/// The section `prices`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PricesConfig {
    /// The name of the currency in reports, such as `EUR`: 1 to 16 letters, digits, `-` or `_`. Prices and
    /// costs are whole numbers of micro-units, its millionths.
    pub currency: String,
    /// The prices of models. The entries of one model are in the order of their `from`.
    pub models: Vec<PriceConfig>,
}

/// The prices of a model from one moment on, in micro-units from 0 to 10^15.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PriceConfig {
    /// The model, by its name in the policy.
    pub model: String,
    /// The day in UTC (`2027-01-01`), or the moment (`2027-01-01T00:00:00+01:00`), from which on the
    /// prices are those of requests that are admitted. The first entry of a model has none: it is the
    /// price until the next one.
    pub from: Option<PriceStart>,
    /// A million tokens of the input.
    pub input: u64,
    /// A million tokens of the input that a cache had. Default: `input`.
    pub cached_input: Option<u64>,
    /// A million tokens of the output.
    pub output: u64,
    /// One request that is charged, beside its tokens. Default 0.
    pub request: Option<u64>,
    /// One image: on paths that end with `/images/generations`, `/images/edits` or `/images/variations` each that is
    /// generated, elsewhere each that is a part of the request. Default 0.
    pub image: Option<u64>,
    /// One second of audio or video, as the server or a reporter counts them. Default 0. Needs `max_seconds`.
    pub second: Option<u64>,
    /// The most seconds of one request, which no request states. They are held, and charged where they are
    /// not reported.
    pub max_seconds: Option<u64>,
}

/// The moment from which on a price is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PriceStart(pub Timestamp);

/// A text that is no [`PriceStart`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{0}` is no day and no moment; write `2027-01-01`, or `2027-01-01T00:00:00+01:00`")]
pub struct PriceStartError(String);

impl FromStr for PriceStart {
    type Err = PriceStartError;

    fn from_str(text: &str) -> Result<Self, PriceStartError> {
        // Seconds since 1970 are no date of a price list.
        let moment = match text.contains(['T', 't']) {
            true => rfc3339::parse(text),
            false => rfc3339::parse(&format!("{text}T00:00:00Z")),
        };
        moment.map(Self).map_err(|_| PriceStartError(text.to_owned()))
    }
}

impl<'de> Deserialize<'de> for PriceStart {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, "a day such as `2027-01-01`")
    }
}

impl JsonSchema for PriceStart {
    fn schema_name() -> Cow<'static, str> {
        "PriceStart".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}([Tt].+)?$" })
    }
}

/// The section `prices`, compiled.
#[derive(Debug)]
pub struct Prices {
    /// The name of the currency.
    pub currency: Arc<str>,
    /// The prices of each model, with the moment from which on they are in force, in this order. The
    /// first one is always in force.
    by_model: HashMap<String, Vec<(Timestamp, ModelPrice)>, FixedState>,
}

/// What a model costs from one moment on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelPrice {
    /// The prices in force.
    pub price: Price,
    /// The most seconds of one request; 0 where they have no price.
    pub max_seconds: u64,
}

impl Prices {
    /// Compiles the section and records every error. `models` are the names of the policy's models,
    /// none where every name is one.
    pub(crate) fn compile(
        config: &PricesConfig,
        models: &[&str],
        path: &Path,
        errors: &mut Errors,
    ) -> Self {
        let is_named = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        let currency = &config.currency;
        if currency.is_empty() || currency.len() > MAX_CURRENCY || !currency.bytes().all(is_named) {
            let message = format!("it is 1 to {MAX_CURRENCY} letters, digits, `-` or `_`");
            errors.push(&path.key("currency"), message);
        }
        let mut by_model: HashMap<String, Vec<(Timestamp, ModelPrice)>, FixedState> =
            HashMap::default();
        let list = path.key("models");
        if config.models.is_empty() {
            errors.push(&list, "list the price of at least one model, or remove `prices`");
        }
        for (index, entry) in config.models.iter().enumerate() {
            let path = list.index(index);
            if !models.is_empty() && !models.contains(&entry.model.as_str()) {
                let message = format!("no entry of `models` has the name `{}`", entry.model);
                errors.push(&path.key("model"), message);
            }
            for (key, price) in entry.named() {
                if price.is_some_and(|price| price > MAX_PRICE) {
                    errors.push(&path.key(key), "a price is at most 10^15 micro-units");
                }
            }
            entry.check_seconds(&path, errors);
            let known = by_model.entry(entry.model.clone()).or_default();
            match (known.last(), entry.from) {
                (None, Some(_)) => errors.push(
                    &path.key("from"),
                    format!(
                        "the first price of `{}` has no `from`: requests before it would have none",
                        entry.model
                    ),
                ),
                (Some(_), None) => errors.push(
                    &path,
                    format!("`{}` has a price already: this one needs `from`", entry.model),
                ),
                (Some((before, _)), Some(PriceStart(from))) if from <= *before => errors.push(
                    &path.key("from"),
                    format!("the prices of `{}` are not in the order of `from`", entry.model),
                ),
                _ => {}
            }
            let from = entry.from.map_or(Timestamp::from_secs(0), |PriceStart(from)| from);
            let max_seconds = entry.max_seconds.unwrap_or(0);
            known.push((from, ModelPrice { price: entry.price(), max_seconds }));
        }
        Self { currency: currency.as_str().into(), by_model }
    }

    /// Whether a model has a price.
    pub(crate) fn has(&self, model: &str) -> bool {
        self.by_model.contains_key(model)
    }

    /// Returns the prices of a model at a moment; `None` for a model without one.
    pub fn at(&self, model: &str, now: Timestamp) -> Option<ModelPrice> {
        let prices = self.by_model.get(model)?;
        prices.iter().rfind(|(from, _)| *from <= now).map(|(_, price)| *price)
    }
}

impl PriceConfig {
    /// The prices by their keys.
    fn named(&self) -> [(&'static str, Option<u64>); 6] {
        [
            ("input", Some(self.input)),
            ("cached_input", self.cached_input),
            ("output", Some(self.output)),
            ("request", self.request),
            ("image", self.image),
            ("second", self.second),
        ]
    }

    /// Checks the bound of the seconds: without one a budget could be overspent.
    fn check_seconds(&self, path: &Path, errors: &mut Errors) {
        match (self.second, self.max_seconds) {
            (Some(_), None) => errors.push(
                &path.key("second"),
                "no request states its seconds; set `max_seconds`, the most of one request",
            ),
            (None, Some(_)) => {
                errors.push(&path.key("max_seconds"), "only `second` has a bound; remove this");
            }
            (_, Some(seconds)) if seconds == 0 || seconds > MAX_SECONDS => {
                errors.push(&path.key("max_seconds"), "it is from 1 to 10^9");
            }
            _ => {}
        }
    }

    fn price(&self) -> Price {
        Price {
            input: self.input,
            cached_input: self.cached_input.unwrap_or(self.input),
            output: self.output,
            request: self.request.unwrap_or(0),
            image: self.image.unwrap_or(0),
            second: self.second.unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Document;

    fn compile(text: &str, models: &[&str]) -> (Prices, Vec<String>) {
        let document = Document::parse(text, &|_| None).unwrap();
        let config: PricesConfig = document.read().unwrap();
        let mut errors = Errors::default();
        let path = Path::root().key("prices");
        let prices = Prices::compile(&config, models, &path, &mut errors);
        (prices, document.locate(errors).iter().map(ToString::to_string).collect())
    }

    #[test]
    fn the_price_is_that_of_the_moment() {
        let (prices, errors) = compile(
            "
currency: EUR
models:
  - { model: large, input: 100, output: 400, cached_input: 50 }
  - { model: small, input: 1, output: 2, request: 3 }
  - { model: large, from: 2027-01-01, input: 90, output: 300 }
  - { model: large, from: '2027-06-01T00:00:00+02:00', input: 80, output: 300 }
",
            &["large", "small", "free"],
        );
        assert_eq!(errors, [""; 0]);
        let at = |model, time| {
            prices
                .at(model, rfc3339::parse(time).unwrap())
                .map(|of| of.price)
                .map(|price| [price.input, price.cached_input, price.output, price.request])
        };
        for (model, time, expected) in [
            ("large", "2026-12-31T23:59:59Z", Some([100, 50, 400, 0])),
            ("large", "2027-01-01T00:00:00Z", Some([90, 90, 300, 0])),
            ("large", "2027-05-31T21:59:59Z", Some([90, 90, 300, 0])),
            ("large", "2027-05-31T22:00:00Z", Some([80, 80, 300, 0])),
            ("small", "1990-01-01T00:00:00Z", Some([1, 1, 2, 3])),
            ("free", "2027-01-01T00:00:00Z", None),
        ] {
            assert_eq!(at(model, time), expected, "{model} {time}");
        }
    }

    #[test]
    fn images_and_seconds_have_prices() {
        let (prices, errors) = compile(
            "{ currency: EUR, models: [{ model: a, input: 0, output: 0, image: 40000, second: 6, max_seconds: 600 }] }",
            &["a"],
        );
        assert_eq!(errors, [""; 0]);
        let price = Price { image: 40_000, second: 6, ..Price::default() };
        let expected = ModelPrice { price, max_seconds: 600 };
        assert_eq!(prices.at("a", Timestamp::from_secs(0)), Some(expected));
    }

    #[test]
    fn a_price_list_without_a_price_for_some_moment_is_refused() {
        let entry = "model: a, input: 1, output: 2";
        for (text, expected) in [
            (format!("[{{ {entry}, from: 2027-01-01 }}]"), "the first price of `a` has no `from`"),
            (format!("[{{ {entry} }}, {{ {entry} }}]"), "this one needs `from`"),
            (
                format!(
                    "[{{ {entry} }}, {{ {entry}, from: 2027-01-01 }}, {{ {entry}, from: 2027-01-01 }}]"
                ),
                "are not in the order of `from`",
            ),
            ("[{ model: b, input: 1, output: 2 }]".to_owned(), "no entry of `models` has the name"),
            (
                "[{ model: a, input: 1000000000000001, output: 2 }]".to_owned(),
                "at most 10^15 micro-units",
            ),
            (format!("[{{ {entry}, second: 3 }}]"), "set `max_seconds`, the most of one request"),
            (format!("[{{ {entry}, max_seconds: 3 }}]"), "only `second` has a bound"),
            (format!("[{{ {entry}, second: 3, max_seconds: 0 }}]"), "it is from 1 to 10^9"),
            (format!("[{{ {entry}, image: 1000000000000001 }}]"), "at most 10^15 micro-units"),
            ("[]".to_owned(), "list the price of at least one model"),
        ] {
            let (_, errors) = compile(&format!("currency: EUR\nmodels: {text}"), &["a"]);
            assert!(errors.len() == 1 && errors[0].contains(expected), "{text}: {errors:?}");
        }
        let (_, errors) = compile(&format!("currency: 'a b'\nmodels: [{{ {entry} }}]"), &[]);
        assert!(errors[0].contains("1 to 16 letters"), "{errors:?}");
        for text in ["1796040000", "2027-13-01", "2027-01-01T", "tomorrow", ""] {
            assert!(text.parse::<PriceStart>().is_err(), "{text}");
        }
    }
}
