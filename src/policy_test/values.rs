//! Values of a case file: offsets, bytes, addresses, outages, headers.

use std::{fmt, net::IpAddr, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Number, Value};
use tollgate_core::{
    admission::Outage,
    time::{Span, Timestamp},
};

use super::CaseError;

/// `now`, or a signed duration from it: `+5m`, `-1500ms`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Offset(i64);

impl FromStr for Offset {
    type Err = CaseError;

    fn from_str(text: &str) -> Result<Self, CaseError> {
        if text == "now" {
            return Ok(Self(0));
        }
        let wrong = || CaseError::Moment(text.to_owned());
        let (sign, span) = match (text.strip_prefix('+'), text.strip_prefix('-')) {
            (Some(span), _) => (1, span),
            (_, Some(span)) => (-1, span),
            _ => return Err(wrong()),
        };
        let span: Span = span.parse().map_err(|_| wrong())?;
        i64::try_from(span.micros()).map(|micros| Self(sign * micros)).map_err(|_| wrong())
    }
}

impl Offset {
    /// Returns the time that the offset names.
    pub(super) fn from(self, now: Timestamp) -> Timestamp {
        Timestamp::from_micros(now.micros().saturating_add_signed(self.0))
    }

    /// Returns the time that the offset names, as a NumericDate.
    pub(super) fn numeric_date(self, now: Timestamp) -> Value {
        let moment = self.from(now);
        if moment.micros().is_multiple_of(1_000_000) {
            return Value::Number(moment.secs().into());
        }
        Number::from_f64(moment.numeric_date()).map_or(Value::Null, Value::Number)
    }
}

impl<'de> Deserialize<'de> for Offset {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// Bytes, written as base64.
#[derive(Clone)]
pub(super) struct Bytes(pub(super) Vec<u8>);

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD
            .decode(&text)
            .map(Self)
            .map_err(|_| D::Error::custom(format!("`{text}` is not base64")))
    }
}

/// An IP address, or none.
#[derive(Clone, Copy)]
pub(super) struct Address(pub(super) Option<IpAddr>);

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "none" {
            return Ok(Self(None));
        }
        let address = text
            .parse()
            .map_err(|_| D::Error::custom(format!("`{text}` is neither an address nor `none`")))?;
        Ok(Self(Some(address)))
    }
}

/// The label of an outage, as in metrics.
#[derive(Clone, Copy)]
pub(super) struct OutageName(pub(super) Outage);

impl<'de> Deserialize<'de> for OutageName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = String::deserialize(deserializer)?;
        Outage::ALL.into_iter().find(|outage| outage.label() == word).map(Self).ok_or_else(|| {
            D::Error::custom(format!(
                "unknown outage `{word}`; known: {}",
                Outage::ALL.map(Outage::label).join(", ")
            ))
        })
    }
}

/// Headers, in their order.
#[derive(Clone, Default)]
pub(super) struct HeaderList(pub(super) Vec<(String, Vec<u8>)>);

impl HeaderList {
    /// Returns these headers, and those of `base` with other names that are not in `without`.
    pub(super) fn or_defaults(&self, base: &Self, without: &[String]) -> Self {
        let own = self.0.iter().map(|(name, _)| name);
        let hidden =
            |name: &str| own.clone().chain(without).any(|own| own.eq_ignore_ascii_case(name));
        Self(base.0.iter().filter(|(name, _)| !hidden(name)).chain(&self.0).cloned().collect())
    }
}

impl<'de> Deserialize<'de> for HeaderList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = HeaderList;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of headers, or a list of `[name, value]`")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<HeaderList, A::Error> {
                let mut list = Vec::new();
                while let Some((name, value)) = entries.next_entry::<String, String>()? {
                    list.push((name, value.into_bytes()));
                }
                Ok(HeaderList(list))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<HeaderList, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element::<Vec<String>>()? {
                    list.push(match item.as_slice() {
                        [name, value] => (name.clone(), value.clone().into_bytes()),
                        [name, value, encoding] if encoding == "base64" => {
                            let bytes = STANDARD.decode(value);
                            (
                                name.clone(),
                                bytes.map_err(|_| {
                                    A::Error::custom(format!("`{value}` is not base64"))
                                })?,
                            )
                        }
                        _ => {
                            return Err(A::Error::custom(
                                "a header is `[name, value]` or `[name, value, base64]`",
                            ));
                        }
                    });
                }
                Ok(HeaderList(list))
            }
        }
        deserializer.deserialize_any(Pairs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_signed_durations() {
        let now = Timestamp::from_secs(1_767_225_600);
        for (text, json) in [
            ("now", "1767225600"),
            ("+5m", "1767225900"),
            ("-1h", "1767222000"),
            ("+500ms", "1767225600.5"),
            ("+0s", "1767225600"),
        ] {
            assert_eq!(
                text.parse::<Offset>().unwrap().numeric_date(now).to_string(),
                json,
                "{text}"
            );
        }
        for text in ["", "5m", "+5", "+-5m", "later", "+99999999999999d"] {
            assert!(text.parse::<Offset>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_header_of_a_case_hides_the_same_name_of_the_defaults() {
        let list = |json: &str| serde_json::from_str::<HeaderList>(json).unwrap();
        let over = list(r#"[["X-A","1"],["x-a","2"]]"#)
            .or_defaults(&list(r#"{"x-a":"0","x-b":"3","x-c":"4"}"#), &["X-C".into()]);
        let texts: Vec<_> = over
            .0
            .iter()
            .map(|(name, value)| (name.as_str(), std::str::from_utf8(value).unwrap()))
            .collect();
        assert_eq!(texts, [("x-b", "3"), ("X-A", "1"), ("x-a", "2")]);
    }
}
