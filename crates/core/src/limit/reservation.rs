//! Reservations: the holds of one request, and the authenticated text that names them.
//!
//! The text travels through the proxy and comes back with the usage, so that every replica can
//! settle the request, and a store that lost its data can count it again. It never reaches the
//! client.

use std::{borrow::Cow, fmt};

use aws_lc_rs::hmac;
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{
    Counter, Hold, Verdict, cost::CostTerms, model_tag::ModelTag, request_facts::RequestFacts,
    shard::Shard, usage_history::HistoryIds,
};
use crate::{
    secret::Secret,
    text::hex,
    time::{Span, Timestamp},
};

/// The longest text that is read.
const MAX_TEXT: usize = 16 << 10;

/// The bytes of a tag: half of an HMAC-SHA-256 (RFC 2104 section 5).
const TAG: usize = 16;

/// The shortest secret, in bytes: that of the tag's strength.
pub const MIN_SECRET: usize = 32;

/// The identity of a reservation: 96 bits at random, and in bytes 4 to 7 the [`ModelTag`] of its request.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ReservationId(pub [u8; 16]);

impl ReservationId {
    /// Returns the identity with the tag of a model.
    #[must_use]
    pub fn with_model(self, ModelTag(tag): ModelTag) -> Self {
        let tag = u128::from(tag) << 64;
        let rest = u128::from_be_bytes(self.0) & !(u128::from(u32::MAX) << 64);
        Self((rest | tag).to_be_bytes())
    }

    /// The tag of the model of the request.
    pub fn model(self) -> ModelTag {
        #[expect(clippy::cast_possible_truncation, reason = "32 bits of them")]
        let tag = (u128::from_be_bytes(self.0) >> 64) as u32;
        ModelTag(tag)
    }
}

impl fmt::Display for ReservationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for ReservationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReservationId({self})")
    }
}

/// The holds of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// The identity, under which a store settles it once.
    pub id: ReservationId,
    /// When the request was admitted.
    pub issued: Timestamp,
    /// The time after which the holds expire, unless they are renewed.
    pub life: Span,
    /// What is held: all of it, or nothing.
    pub holds: Vec<Hold>,
    /// The histories that the usage is recorded in, and estimated from where it is not reported;
    /// `None` without a hold that is an estimate.
    pub histories: Option<HistoryIds>,
    /// The shard that the counters are in; `None` in a store without shards.
    pub shard: Option<Shard>,
    /// The route of the request, where those that report usage are bound to routes.
    pub route: Option<Box<str>>,
    /// The facts of the request for its record; `None` where no ledger is kept.
    pub facts: Option<Box<RequestFacts>>,
    /// The terms of its cost, where a limit counts it and the facts do not have them.
    pub cost: Option<Box<CostTerms>>,
}

/// The form of a reservation as a text.
///
/// What is held of limits on cost is a member of its own: the previous version reads the others, and
/// settles these in their units only.
#[derive(Serialize, Deserialize)]
struct ReservationText<'a> {
    id: ReservationId,
    issued: Timestamp,
    #[serde(with = "micros")]
    life: Span,
    holds: Vec<Cow<'a, Hold>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    cost_holds: Vec<Cow<'a, Hold>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    histories: Option<HistoryIds>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shard: Option<Shard>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    route: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    facts: Option<Cow<'a, RequestFacts>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cost: Option<CostTerms>,
}

impl<'a> From<&'a Reservation> for ReservationText<'a> {
    fn from(reservation: &'a Reservation) -> Self {
        let Reservation { id, issued, life, holds, histories, shard, route, facts, cost } =
            reservation;
        let holds_of = |of_cost| {
            let holds = holds.iter().filter(move |hold| hold.is_cost() == of_cost);
            holds.map(Cow::Borrowed).collect()
        };
        Self {
            id: *id,
            issued: *issued,
            life: *life,
            holds: holds_of(false),
            cost_holds: holds_of(true),
            histories: *histories,
            shard: *shard,
            route: route.as_deref().map(Cow::Borrowed),
            facts: facts.as_deref().map(Cow::Borrowed),
            cost: cost.as_deref().copied(),
        }
    }
}

impl From<ReservationText<'_>> for Reservation {
    fn from(text: ReservationText<'_>) -> Self {
        let holds = text.holds.into_iter().chain(text.cost_holds);
        Self {
            id: text.id,
            issued: text.issued,
            life: text.life,
            holds: holds.map(Cow::into_owned).collect(),
            histories: text.histories,
            shard: text.shard,
            route: text.route.map(|route| route.into_owned().into()),
            facts: text.facts.map(|facts| Box::new(facts.into_owned())),
            cost: text.cost.map(Box::new),
        }
    }
}

/// The secrets that authenticate reservations. The first one signs, all of them verify.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReservationKeys(Vec<Secret>);

/// The reason why there are no [`ReservationKeys`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ReservationKeyError {
    /// There is no secret.
    #[error("there is no secret")]
    Missing,
    /// A secret is too short.
    #[error("a secret has fewer than {MIN_SECRET} bytes")]
    Short,
}

/// The reason why a text is no reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InvalidReservation {
    /// The text is not a reservation.
    #[error("the text is not a reservation")]
    Malformed,
    /// No secret made the tag of the text.
    #[error("the reservation was made with another secret")]
    Forged,
}

impl ReservationKeys {
    /// Takes secrets of at least [`MIN_SECRET`] bytes.
    ///
    /// # Errors
    /// There is none, or one is too short.
    pub fn new(secrets: Vec<Secret>) -> Result<Self, ReservationKeyError> {
        if secrets.is_empty() {
            return Err(ReservationKeyError::Missing);
        }
        secrets.iter().try_for_each(Self::check)?;
        Ok(Self(secrets))
    }

    /// Checks the length of a secret.
    ///
    /// # Errors
    /// [`ReservationKeyError::Short`].
    pub fn check(secret: &Secret) -> Result<(), ReservationKeyError> {
        if secret.expose().len() < MIN_SECRET {
            return Err(ReservationKeyError::Short);
        }
        Ok(())
    }
}

impl Reservation {
    /// Whether a report can change anything: a reservation of requests only is spent when it is
    /// admitted. Where a ledger is kept, a report makes the record of the request.
    pub fn is_settled(&self) -> bool {
        self.facts.is_some() || self.holds.iter().any(Hold::is_settled)
    }

    /// The most tokens that a hold is charged without a report; `None` where it holds no tokens.
    pub fn unreported_tokens(&self) -> Option<u64> {
        let is_of_tokens =
            |hold: &&Hold| matches!(hold.counter, Counter::Bucket { .. } | Counter::Budget { .. });
        self.holds.iter().filter(is_of_tokens).map(|hold| hold.unreported).max()
    }

    /// The tokens of a fixed charge, which were spent at admission; `None` where there is none, or it
    /// is not known: without a ledger, of a model without a price.
    pub fn fixed_tokens(&self) -> Option<u64> {
        let of_facts = self.facts.as_ref().and_then(|facts| facts.fixed);
        let of_terms = self.cost.as_ref().filter(|terms| terms.fixed.is_some());
        of_facts.or(of_terms.map(|terms| terms.tokens))
    }

    /// The terms of the cost of the request; `None` of a model without a price.
    pub fn cost_terms(&self) -> Option<&CostTerms> {
        let of_facts = self.facts.as_ref().and_then(|facts| facts.cost.as_ref());
        of_facts.or(self.cost.as_deref())
    }

    /// Removes the holds of limits in shadow that the store had no room for: nothing is held of them.
    pub(crate) fn remove_refused(&mut self, verdicts: &[Verdict]) {
        let mut verdicts = verdicts.iter();
        self.holds.retain(|hold| {
            let verdict = verdicts.next();
            !hold.is_shadow || verdict.is_some_and(|verdict| verdict.admitted)
        });
    }

    /// Returns the reservation as it is held: without the holds of limits in shadow that have no
    /// room. There is one verdict for each hold.
    pub fn held(&self, verdicts: &[Verdict]) -> Cow<'_, Self> {
        let is_refused = |(hold, verdict): (&Hold, &Verdict)| hold.is_shadow && !verdict.admitted;
        if !self.holds.iter().zip(verdicts).any(is_refused) {
            return Cow::Borrowed(self);
        }
        let mut held = self.clone();
        held.remove_refused(verdicts);
        Cow::Owned(held)
    }

    /// Whether the request may pass: every hold of a limit that is enforced is admitted.
    pub fn is_admitted(&self, verdicts: &[Verdict]) -> bool {
        Verdict::all_admit(verdicts, self.holds.iter().map(|hold| hold.is_shadow))
    }

    /// Returns the text that names the reservation: `CONTENT.TAG`, in base64url.
    pub fn seal(&self, keys: &ReservationKeys) -> String {
        // A list of numbers and texts has a JSON form.
        let content = serde_json::to_vec(&ReservationText::from(self)).unwrap_or_default();
        let mut text = BASE64_URL_SAFE_NO_PAD.encode(content);
        let tag = keys.0.first().map(|secret| tag(secret, &text));
        text.push('.');
        BASE64_URL_SAFE_NO_PAD.encode_string(tag.unwrap_or_default(), &mut text);
        text
    }

    /// Reads the text of a reservation.
    ///
    /// # Errors
    /// The text is none, or was made with a secret that is not among `keys`.
    pub fn open(text: &str, keys: &ReservationKeys) -> Result<Self, InvalidReservation> {
        if text.len() > MAX_TEXT {
            return Err(InvalidReservation::Malformed);
        }
        let (content, claimed) = text.split_once('.').ok_or(InvalidReservation::Malformed)?;
        let decode = |part: &str| {
            BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| InvalidReservation::Malformed)
        };
        let claimed = decode(claimed)?;
        let is_tag = |secret: &Secret| {
            aws_lc_rs::constant_time::verify_slices_are_equal(&tag(secret, content), &claimed)
                .is_ok()
        };
        if !keys.0.iter().any(is_tag) {
            return Err(InvalidReservation::Forged);
        }
        let content = decode(content)?;
        let text = serde_json::from_slice::<ReservationText<'_>>(&content);
        text.map(Self::from).map_err(|_| InvalidReservation::Malformed)
    }
}

/// A duration as a number: its other form is that of the configuration.
mod micros {
    use serde::{Deserialize as _, Deserializer, Serializer};

    use crate::time::Span;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde calls")]
    pub(super) fn serialize<S: Serializer>(span: &Span, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(span.micros())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Span, D::Error> {
        u64::deserialize(from).map(Span::from_micros)
    }
}

fn tag(secret: &Secret, text: &str) -> [u8; TAG] {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose());
    let whole = hmac::sign(&key, text.as_bytes());
    std::array::from_fn(|at| whole.as_ref().get(at).copied().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{admission::AdmitRequest, limit::cost::Price};

    fn keys(names: &[u8]) -> ReservationKeys {
        let secrets = names.iter().map(|name| Secret::new(vec![*name; MIN_SECRET])).collect();
        ReservationKeys::new(secrets).unwrap()
    }

    fn reservation() -> Reservation {
        let hold = |limit: &str, counter| Hold {
            limit: limit.into(),
            counter_id: "alice".into(),
            counter,
            amount: 7,
            unreported: 3,
            by_principal: true,
            is_shadow: false,
        };
        let ends = Timestamp::from_secs(1_800_000_000);
        Reservation {
            id: ReservationId([9; 16]),
            issued: Timestamp::from_micros(1_799_999_999_000_001),
            life: Span::from_secs(30),
            histories: Some(HistoryIds { own: "alice".into(), shared: "all".into() }),
            shard: None,
            route: Some("chat".into()),
            facts: None,
            cost: Some(Box::new(CostTerms {
                price: Price {
                    input: 5,
                    cached_input: 1,
                    output: 7,
                    request: 0,
                    ..Price::default()
                },
                tokens: 7,
                unreported: 3,
                most: 7,
                ..CostTerms::default()
            })),
            holds: vec![
                hold("minute", Counter::Bucket { interval: 5, burst: 9 }),
                hold("day", Counter::Budget { limit: 9, ends }),
                hold("requests", Counter::Requests { limit: 9, ends }),
                hold("rate", Counter::Rate { interval: 5, burst: 9 }),
                hold("gpu", Counter::Slots { limit: 2 }),
                hold("money", Counter::Cost { limit: 9, ends }),
            ],
        }
    }

    #[test]
    fn every_secret_of_the_list_opens_what_the_first_one_sealed() {
        let text = reservation().seal(&keys(b"a"));
        for names in [&b"a"[..], b"ba", b"ab"] {
            assert_eq!(Reservation::open(&text, &keys(names)), Ok(reservation()));
        }
        assert_eq!(Reservation::open(&text, &keys(b"b")), Err(InvalidReservation::Forged));
    }

    /// The previous version opens the text of a request with a limit on cost, and settles the rest.
    #[test]
    fn what_is_held_of_a_cost_is_apart_from_what_the_previous_version_reads() {
        let text = reservation().seal(&keys(b"a"));
        let (content, _) = text.split_once('.').unwrap();
        let content: serde_json::Value =
            serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(content).unwrap()).unwrap();
        let names = |member: &str| -> Vec<&str> {
            let holds = content[member].as_array().unwrap();
            holds.iter().map(|hold| hold["limit"].as_str().unwrap()).collect()
        };
        assert_eq!(names("holds"), ["minute", "day", "requests", "rate", "gpu"]);
        assert_eq!(names("cost_holds"), ["money"]);
    }

    #[test]
    fn an_id_has_the_tag_of_its_model_and_keeps_the_rest() {
        let id = ReservationId([0xab; 16]).with_model(ModelTag(0x0102_0304));
        assert_eq!(id.to_string(), "abababab01020304abababababababab");
        assert_eq!(id.model(), ModelTag(0x0102_0304));
        assert_eq!(id.with_model(ModelTag::NONE).model(), ModelTag::NONE);
    }

    #[test]
    fn a_text_that_was_changed_is_refused() {
        let text = reservation().seal(&keys(b"a"));
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            assert!(Reservation::open(&changed, &keys(b"a")).is_err(), "{at}");
        }
        for text in ["", ".", "a", "a.b", "AAAA.AAAA", &"A".repeat(MAX_TEXT + 1)] {
            assert!(Reservation::open(text, &keys(b"a")).is_err(), "{text}");
        }
    }

    #[test]
    fn a_hold_in_shadow_without_room_is_not_held() {
        let verdict = |admitted| Verdict { admitted, remaining: 0, retry_after: 0, reset: 0 };
        let Reservation { holds, .. } = reservation();
        for (in_shadow, admitted, held, passes) in [
            ([false, false], [true, true], "minute day", true),
            ([false, true], [true, true], "minute day", true),
            ([false, true], [true, false], "minute", true),
            ([true, true], [false, false], "", true),
            ([true, false], [false, true], "day", true),
            // Nothing is held of what is refused: the store has decided.
            ([false, false], [true, false], "minute day", false),
            ([true, false], [true, false], "minute day", false),
        ] {
            let mut two = Reservation { holds: holds[..2].to_vec(), ..reservation() };
            for (hold, is_shadow) in two.holds.iter_mut().zip(in_shadow) {
                hold.is_shadow = is_shadow;
            }
            let verdicts = admitted.map(verdict);
            let names: Vec<String> =
                two.held(&verdicts).holds.iter().map(|hold| hold.limit.to_string()).collect();
            assert_eq!(names.join(" "), held, "{in_shadow:?}, {admitted:?}");
            assert_eq!(two.is_admitted(&verdicts), passes, "{in_shadow:?}, {admitted:?}");
            let request =
                AdmitRequest { reservation: Some(Box::new(two)), ..AdmitRequest::default() };
            assert_eq!(request.is_admitted_by(&verdicts), passes, "{in_shadow:?}, {admitted:?}");
        }
    }

    #[test]
    fn secrets_have_a_length() {
        let short = vec![Secret::new(vec![1; MIN_SECRET - 1])];
        assert_eq!(ReservationKeys::new(short), Err(ReservationKeyError::Short));
        assert_eq!(ReservationKeys::new(Vec::new()), Err(ReservationKeyError::Missing));
    }
}
