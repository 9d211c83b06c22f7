//! One entry of a call: what its sender knows of one request.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{self, SeqAccess, Visitor},
};
use serde_json::{Value, value::RawValue};
use tollgate_core::limit::reservation::{InvalidReservation, Reservation, ReservationKeys};

use super::{MAX_ENTRIES, distinct::Distinct};
use crate::{
    adapter::access_log::{
        ending::{Ending, is_rejection},
        usage::{
            self, ANTHROPIC_START, DETAILS, INDEX, LLAMA_CPP, Members, PARTS, RESPONSES, Reading,
            SGLANG, USAGE, is_count,
        },
    },
    json_api::{self, Refusal},
};

/// The largest status of a response.
const MOST_STATUS: u32 = 999;

/// The body of a call.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Call<'c> {
    #[serde(borrow, deserialize_with = "bounded")]
    entries: Vec<&'c RawValue>,
}

/// Reads the entries of a call, and stops at the first one that is too many: a small body has room for
/// hundreds of thousands.
fn bounded<'de: 'c, 'c, D: Deserializer<'de>>(from: D) -> Result<Vec<&'c RawValue>, D::Error> {
    struct Bounded;

    impl<'de> Visitor<'de> for Bounded {
        type Value = Vec<&'de RawValue>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of entries")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut entries = Vec::new();
            while let Some(entry) = list.next_element()? {
                if entries.len() == MAX_ENTRIES {
                    let message = format_args!("there are more than {MAX_ENTRIES} entries");
                    return Err(de::Error::custom(message));
                }
                entries.push(entry);
            }
            Ok(entries)
        }
    }

    from.deserialize_seq(Bounded)
}

/// Reads the body of a call, and returns its entries. An entry that cannot be read refuses no other
/// one.
pub(super) fn entries(body: &[u8]) -> Result<Vec<&str>, Refusal> {
    let Call { entries } = json_api::read(body)?;
    Ok(entries.into_iter().map(RawValue::get).collect())
}

/// An entry of a call.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry<'e> {
    #[serde(borrow)]
    reservation: Cow<'e, str>,
    ending: EndingName,
    /// The status of the response.
    #[serde(default, deserialize_with = "status")]
    status: Option<u32>,
    /// The usage of a body, or the counts of who counts for itself.
    usage: Option<BTreeMap<String, Value>>,
    /// The last objects of a stream that have usage, by their keys.
    #[serde(borrow)]
    events: Option<Events<'e>>,
    /// Whether the counts are those of all that was produced when the response ended.
    #[serde(default)]
    usage_is_current: bool,
    /// The bytes of the body of the response.
    #[serde(default)]
    response_bytes: u64,
    /// The images of the response.
    images: Option<u64>,
    /// The seconds of audio or video.
    #[serde(default, deserialize_with = "seconds")]
    seconds: Option<u64>,
}

/// Reads a status: three digits at most.
fn status<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    let status = Option::<u32>::deserialize(from)?;
    match status {
        Some(status) if status > MOST_STATUS => {
            let message = format_args!("`status` is {status}, above {MOST_STATUS}");
            Err(de::Error::custom(message))
        }
        status => Ok(status),
    }
}

/// Reads seconds, of which a part counts as a whole one.
fn seconds<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    let Some(seconds) = Option::<f64>::deserialize(from)? else { return Ok(None) };
    let whole = usage::whole_seconds(seconds);
    whole.map(Some).ok_or_else(|| de::Error::custom("`seconds` is no number of seconds"))
}

/// How a request ended, or that it has not.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum EndingName {
    Running,
    Complete,
    Cut,
    NotSent,
}

/// The last objects of a stream that have usage.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Events<'e> {
    #[serde(borrow)]
    usage: Option<&'e RawValue>,
    #[serde(borrow)]
    message_usage: Option<&'e RawValue>,
    #[serde(borrow)]
    response_usage: Option<&'e RawValue>,
    #[serde(borrow)]
    meta_info: Option<&'e RawValue>,
    #[serde(borrow)]
    timings: Option<&'e RawValue>,
    #[serde(borrow)]
    index: Option<&'e RawValue>,
}

impl<'e> Entry<'e> {
    /// Reads an entry.
    ///
    /// # Errors
    /// The reason why it cannot be read.
    pub(super) fn read(text: &'e str) -> Result<Self, json_api::Unreadable> {
        json_api::read_object::<Distinct>(text.as_bytes())?;
        json_api::read_object(text.as_bytes())
    }

    /// Opens the reservation of the entry.
    pub(super) fn reservation(
        &self,
        keys: &ReservationKeys,
    ) -> Result<Reservation, InvalidReservation> {
        Reservation::open(&self.reservation, keys)
    }

    /// How the request ended.
    pub(super) fn ending(&self) -> Ending {
        match self.ending {
            EndingName::Running => Ending::Running,
            EndingName::Complete if self.status.is_some_and(is_rejection) => Ending::Rejected,
            EndingName::Complete => Ending::Complete,
            EndingName::Cut => Ending::Cut,
            EndingName::NotSent => Ending::NotSent,
        }
    }

    /// What is known of the tokens of the response.
    pub(super) fn reading(&self) -> Reading {
        let mut members = Members::default();
        for (name, value) in self.usage.iter().flatten().filter(|(name, _)| is_count(name)) {
            members.set(name, value);
        }
        let details = DETAILS.iter().filter_map(|name| self.usage.as_ref()?.get(*name));
        for details in details {
            for (name, count) in PARTS.iter().filter_map(|name| Some((name, details.get(name)?))) {
                if let Some(count) = count.as_f64() {
                    members.raise(name, count);
                }
            }
        }
        let Events { usage, message_usage, response_usage, meta_info, timings, index } =
            self.events.unwrap_or_default();
        for (key, object) in [
            (USAGE, usage),
            (ANTHROPIC_START, message_usage),
            (RESPONSES, response_usage),
            (SGLANG, meta_info),
            (LLAMA_CPP, timings),
            (INDEX, index),
        ] {
            if let Some(object) = object.map(RawValue::get).filter(|object| *object != "null") {
                members.replace(key, object);
            }
        }
        let mut reading = usage::of_members(&members);
        reading.is_continuous |= self.usage_is_current;
        reading.kinds.images = self.images.or(reading.kinds.images);
        reading.kinds.seconds = self.seconds.or(reading.kinds.seconds);
        reading
    }

    /// The bytes of the body of the response.
    pub(super) fn bytes(&self) -> u64 {
        self.response_bytes
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn reading(entry: &Value) -> Reading {
        let mut whole = json!({ "reservation": "r", "ending": "complete" });
        whole.as_object_mut().unwrap().extend(entry.as_object().unwrap().clone());
        Entry::read(&whole.to_string()).unwrap().reading()
    }

    #[test]
    fn tokens_of_caches_and_of_reasoning_are_read_from_details() {
        let usage = json!({
            "prompt_tokens": 9, "completion_tokens": 4,
            "prompt_tokens_details": { "cached_tokens": 8 },
            "completion_tokens_details": { "reasoning_tokens": "many" },
        });
        let reading = reading(&json!({ "usage": usage }));
        assert_eq!((reading.kinds.cached, reading.kinds.reasoning), (Some(8), None));
        assert_eq!((reading.tokens, reading.is_absurd), (Some(13), false));
    }

    #[test]
    fn images_and_seconds_are_read_beside_the_usage_of_the_server() {
        for (entry, expected) in [
            (json!({}), (None, None)),
            (json!({ "images": 2, "seconds": 7 }), (Some(2), Some(7))),
            (json!({ "seconds": 30.5 }), (None, Some(31))),
            (json!({ "seconds": 30.0 }), (None, Some(30))),
            (json!({ "seconds": null }), (None, None)),
            (json!({ "usage": { "type": "duration", "seconds": 7 } }), (None, Some(7))),
            // A part of a second is a whole one, and what is no number of them is no count.
            (json!({ "usage": { "seconds": 7.01 } }), (None, Some(8))),
            (json!({ "usage": { "seconds": "7" } }), (None, None)),
            (json!({ "usage": { "seconds": -1 } }), (None, None)),
            (json!({ "seconds": 7, "usage": { "seconds": 9 } }), (None, Some(7))),
            (
                json!({ "events": { "usage": { "type": "duration", "seconds": 6.5 } } }),
                (None, Some(7)),
            ),
        ] {
            let reading = reading(&entry);
            assert_eq!((reading.kinds.images, reading.kinds.seconds), expected, "{entry}");
            assert_eq!((reading.tokens, reading.is_absurd), (None, false), "{entry}");
        }
        for seconds in [json!(-0.5), json!("7"), json!(9_007_199_254_740_994_u64), json!([])] {
            let entry = json!({ "reservation": "r", "ending": "complete", "seconds": seconds });
            assert!(Entry::read(&entry.to_string()).is_err(), "{entry}");
        }
    }

    #[test]
    fn usage_is_read_in_every_shape() {
        for (entry, tokens) in [
            (json!({}), None),
            (json!({ "usage": null }), None),
            (json!({ "usage": { "total_tokens": 59 } }), Some(59)),
            (
                json!({ "usage": { "prompt_tokens": 11, "completion_tokens": 48, "details": { "total_tokens": 900 } } }),
                Some(59),
            ),
            (
                json!({ "usage": { "input_tokens": 25, "output_tokens": 15, "cache_read_input_tokens": 3 } }),
                Some(43),
            ),
            (json!({ "usage": { "prompt_eval_count": 26, "eval_count": 259 } }), Some(285)),
            (json!({ "usage": { "prompt_tokens": null, "completion_tokens": 4 } }), Some(4)),
            (
                json!({ "events": { "message_usage": { "input_tokens": 25, "output_tokens": 1 }, "usage": { "output_tokens": 15 } } }),
                Some(40),
            ),
            (
                json!({ "events": { "response_usage": { "input_tokens": 1, "output_tokens": 2 } } }),
                Some(3),
            ),
            (
                json!({ "events": { "meta_info": { "prompt_tokens": 5, "completion_tokens": 16 } } }),
                Some(21),
            ),
            (json!({ "events": { "timings": { "prompt_n": 4, "predicted_n": 8 } } }), Some(12)),
            (json!({ "events": { "usage": null } }), None),
        ] {
            let reading = reading(&entry);
            assert_eq!((reading.tokens, reading.is_absurd), (tokens, false), "{entry}");
        }
        for count in [json!(-1), json!(1.5), json!("7"), json!(9_007_199_254_740_994_u64)] {
            let found = reading(&json!({ "usage": { "total_tokens": count } }));
            assert_eq!((found.tokens, found.is_absurd), (None, true), "{count}");
        }
    }

    #[test]
    fn a_part_of_a_stream_is_not_its_whole() {
        let begun = json!({ "events": { "message_usage": { "input_tokens": 25 } } });
        assert!(!reading(&begun).is_whole);
        let one_of_two = json!({ "events": { "meta_info": { "prompt_tokens": 5, "completion_tokens": 16 }, "index": 1 } });
        assert!(!reading(&one_of_two).is_whole);
        let current = json!({ "usage": { "total_tokens": 5 }, "usage_is_current": true });
        assert!(reading(&current).is_continuous);
    }

    #[test]
    fn an_entry_is_read_strictly() {
        for entry in [
            json!({}),
            json!({ "reservation": "r" }),
            json!({ "ending": "complete" }),
            json!({ "reservation": "r", "ending": "done" }),
            json!({ "reservation": 7, "ending": "cut" }),
            json!({ "reservation": "r", "ending": "cut", "tokens": 7 }),
            json!({ "reservation": "r", "ending": "cut", "usage": 7 }),
            json!({ "reservation": "r", "ending": "cut", "events": { "other": {} } }),
            json!({ "reservation": "r", "ending": "cut", "response_bytes": -1 }),
            json!(["r", "cut"]),
            json!({ "reservation": "r", "ending": "complete", "status": 1000 }),
            json!({ "reservation": "r", "ending": "complete", "status": -1 }),
        ] {
            assert!(Entry::read(&entry.to_string()).is_err(), "{entry}");
        }
        let greatest = r#"{"reservation":"r","ending":"complete","status":999}"#;
        assert!(Entry::read(greatest).is_ok());
        for members in [
            r#""usage":{"total_tokens":1,"total_tokens":2}"#,
            r#""usage":{"prompt_tokens_details":{"cached_tokens":1,"cached_tokens":2}}"#,
            r#""events":{"usage":{"total_tokens":1,"total\u005ftokens":2}}"#,
            r#""usage":{"total_tokens":1},"usage":{"total_tokens":2}"#,
        ] {
            let text = format!(r#"{{"reservation":"r","ending":"complete",{members}}}"#);
            let error = Entry::read(&text).unwrap_err().to_string();
            assert!(error.contains("twice"), "{members}: {error}");
        }
        assert!(entries(br#"{"entries": [1, {}]}"#).unwrap() == ["1", "{}"]);
        let many = format!(r#"{{"entries": [{}1]}}"#, "1,".repeat(MAX_ENTRIES));
        for body in ["", "[]", "{}", r#"{"entries": {}}"#, r#"{"entries": [], "a": 1}"#, &many] {
            assert!(entries(body.as_bytes()).is_err(), "{body}");
        }
    }

    #[test]
    fn a_status_tells_what_no_server_worked_on() {
        for (ending, status, expected) in [
            ("complete", None, Ending::Complete),
            ("complete", Some(200), Ending::Complete),
            ("complete", Some(500), Ending::Complete),
            ("complete", Some(422), Ending::Rejected),
            ("complete", Some(408), Ending::Complete),
            ("cut", Some(422), Ending::Cut),
            ("not_sent", Some(502), Ending::NotSent),
            ("running", None, Ending::Running),
        ] {
            let entry = json!({ "reservation": "r", "ending": ending, "status": status });
            let text = entry.to_string();
            assert_eq!(Entry::read(&text).unwrap().ending(), expected, "{entry}");
        }
    }
}
