//! From an entry of Envoy's access log to the settlement of its reservation.

use prost_types::value::Kind;
use thiserror::Error;
use tollgate_core::{
    admission::{Settlement, Usage},
    limit::{
        Counter, Hold,
        reservation::{InvalidReservation, Reservation, ReservationKeys},
    },
};

use super::{
    ending::{self, Ending},
    usage::{self, Reading},
};
use crate::{
    engine::settler::{ReportProblem, Settler},
    proto::envoy::{config::core::v3::Metadata, data::accesslog::v3::HttpAccessLogEntry},
};

/// The namespace in which Envoy stores what a check returned.
const CHECK: &str = "envoy.filters.http.ext_authz";

/// The key of the reservation's text.
const RESERVATION: &str = "reservation";

/// A count of more than so many holds is no usage of the request, which was capped at its hold.
const ABSURD: u64 = 16;

/// What an entry reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::adapter) struct Report {
    /// The settlement for the store.
    pub(in crate::adapter) settlement: Settlement,
    /// The request ended without a count of its tokens.
    pub(in crate::adapter) unmetered: Option<Unmetered>,
    /// Whether a count was ignored, as negative, not whole, or too large.
    pub(in crate::adapter) is_absurd: bool,
    /// Whether the count is above what the reservation holds. It is charged all the same.
    pub(in crate::adapter) is_beyond_hold: bool,
}

/// The reason why a request that reached an upstream has no count of its tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::adapter) enum Unmetered {
    /// The response is complete, and its usage was not found.
    Complete,
    /// The response was cut before its usage.
    Cut,
}

/// The reason why an entry is not a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum Refused {
    /// The entry has no reservation.
    #[error("the entry has no reservation")]
    NoReservation,
    /// The entry is about another event than a request, its progress or its end.
    #[error("the entry is about another event")]
    OtherEvent,
    /// The reservation cannot be opened.
    #[error(transparent)]
    Reservation(#[from] InvalidReservation),
}

/// Reads an entry.
///
/// # Errors
/// The entry has no reservation of ours.
pub(super) fn read(entry: &HttpAccessLogEntry, keys: &ReservationKeys) -> Result<Report, Refused> {
    let metadata = entry.common_properties.as_ref().and_then(|common| common.metadata.as_ref());
    let metadata = metadata.ok_or(Refused::NoReservation)?;
    let text = text(metadata, RESERVATION).ok_or(Refused::NoReservation)?;
    let ending = ending::of(entry).ok_or(Refused::OtherEvent)?;
    let reservation = Reservation::open(text, keys)?;
    let mut reading = usage::read(metadata);
    reading.is_continuous |= reading.has_usage_in_each_event && asks_for_continuous_usage(metadata);
    Ok(Report::of(reservation, ending, reading))
}

impl Report {
    /// Decides the settlement of a reservation, by the end of its request and what is known of its
    /// tokens.
    pub(in crate::adapter) fn of(
        reservation: Reservation,
        ending: Ending,
        mut reading: Reading,
    ) -> Self {
        let held = reservation.holds.iter().filter_map(tokens).max();
        let is_above = |holds: u64| {
            let held = held.map(|held| held.saturating_mul(holds));
            reading.tokens.zip(held).is_some_and(|(tokens, most)| tokens > most)
        };
        let is_beyond_hold = is_above(1);
        if is_above(ABSURD) {
            reading = Reading { tokens: None, is_whole: false, is_absurd: true, ..reading };
        }
        let (usage, unmetered) = usage_of(ending, reading);
        // A place among the requests in flight needs no count.
        let unmetered = unmetered.filter(|_| held.is_some());
        let settlement = Settlement { reservation, usage };
        Self { settlement, unmetered, is_absurd: reading.is_absurd, is_beyond_hold }
    }

    /// Counts what is odd about the report, and sends its settlement.
    pub(in crate::adapter) fn submit(self, settler: &Settler) {
        let Self { settlement, unmetered, is_absurd, is_beyond_hold } = self;
        if is_absurd {
            settler.count_problem(ReportProblem::Absurd);
        }
        if is_beyond_hold {
            settler.count_problem(ReportProblem::BeyondHold);
        }
        if let Some(unmetered) = unmetered {
            settler.count_unmetered(unmetered == Unmetered::Complete);
        }
        settler.submit(settlement);
    }
}

/// The table of what is charged.
fn usage_of(ending: Ending, reading: Reading) -> (Usage, Option<Unmetered>) {
    let seen = reading.tokens.unwrap_or(0);
    let known = reading.is_whole.then_some(seen);
    match (ending, known) {
        (Ending::Running, _) => (Usage::Running(seen), None),
        (Ending::NotSent, _) => (Usage::Released, None),
        (Ending::Rejected, None) if reading.tokens.is_none() && !reading.is_absurd => {
            (Usage::Released, None)
        }
        (Ending::Complete | Ending::Rejected, Some(tokens)) => (Usage::Final(tokens), None),
        (Ending::Complete | Ending::Rejected, None) => {
            (Usage::Unreported(seen), Some(Unmetered::Complete))
        }
        // The count of a stream that was cut is that of its last event, where each has one.
        (Ending::Cut, Some(tokens)) if reading.is_continuous => (Usage::Final(tokens), None),
        (Ending::Cut, _) => (Usage::Unreported(seen), Some(Unmetered::Cut)),
    }
}

/// The tokens of a hold; `None` for one that is not of tokens.
fn tokens(hold: &Hold) -> Option<u64> {
    matches!(hold.counter, Counter::Bucket { .. } | Counter::Budget { .. }).then_some(hold.amount)
}

/// A text that the check returned.
fn text<'a>(metadata: &'a Metadata, key: &str) -> Option<&'a str> {
    match metadata.filter_metadata.get(CHECK)?.fields.get(key)?.kind.as_ref()? {
        Kind::StringValue(text) => Some(text),
        _ => None,
    }
}

/// Whether the request was changed to ask for the usage in each event of its stream. A server that
/// does not know the option may report it with its first or last event only.
fn asks_for_continuous_usage(metadata: &Metadata) -> bool {
    let options = metadata.filter_metadata.get(CHECK).and_then(|check| {
        match check.fields.get("stream_options")?.kind.as_ref()? {
            Kind::StructValue(options) => Some(options),
            _ => None,
        }
    });
    let wanted = options.and_then(|options| options.fields.get("continuous_usage_stats"));
    wanted.is_some_and(|value| value.kind == Some(Kind::BoolValue(true)))
}
