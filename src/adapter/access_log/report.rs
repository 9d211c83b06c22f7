//! From an entry of Envoy's access log to the settlement of its reservation.

use prost_types::value::Kind;
use thiserror::Error;
use tollgate_core::{
    admission::{Settlement, Usage},
    limit::{
        BucketId, Counter, Hold,
        cost::CostTerms,
        reservation::{InvalidReservation, Reservation, ReservationKeys},
        usage_history::{HistoryIds, LearntUsage, ObservedUsage, tokens_of_response},
        usage_report::{Basis, RequestEnding, UsageCounts, UsageReport},
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
pub(in crate::adapter) const RESERVATION: &str = "reservation";

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
    /// The debt of a request that has ended.
    pub(in crate::adapter) debt: Debt,
    /// The usage of a complete response, for the histories of its reservation.
    pub(in crate::adapter) observed: Option<(HistoryIds, ObservedUsage)>,
}

/// The tokens that a request used above its holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::adapter) struct Debt {
    /// Above its estimate, where a limit holds one.
    pub(in crate::adapter) of_estimate: u64,
    /// Above the bound that it holds.
    pub(in crate::adapter) of_bound: u64,
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
pub(in crate::adapter) enum Refused {
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

/// Reads an entry. `learnt` returns what a history of usage predicts.
///
/// # Errors
/// The entry has no reservation of ours.
pub(super) fn read(
    entry: &HttpAccessLogEntry,
    keys: &ReservationKeys,
    learnt: impl Fn(BucketId) -> Option<LearntUsage>,
) -> Result<Report, Refused> {
    let metadata = entry.common_properties.as_ref().and_then(|common| common.metadata.as_ref());
    let metadata = metadata.ok_or(Refused::NoReservation)?;
    let text = text(metadata, RESERVATION).ok_or(Refused::NoReservation)?;
    let ending = ending::of(entry).ok_or(Refused::OtherEvent)?;
    let ending = match ending {
        // A response that Tollgate has cut has an end of its own, which Envoy takes for the upstream's.
        Ending::Complete if usage::was_cut(metadata) => Ending::Cut,
        // A client that has the whole body may close its connection before the trailers that Envoy adds.
        Ending::Cut if usage::has_arrived(metadata) && !usage::was_cut(metadata) => {
            Ending::Complete
        }
        other => other,
    };
    let reservation = Reservation::open(text, keys)?;
    let mut reading = usage::read(metadata);
    reading.is_continuous |= reading.has_usage_in_each_event && asks_for_continuous_usage(metadata);
    let bytes = entry.response.as_ref().map_or(0, |response| response.response_body_bytes);
    let mut report = Report::of(reservation, ending, reading, bytes, learnt);
    report.set_cause_of_cut(ending::cause_of_cut(entry));
    Ok(report)
}

/// Reads the metadata of a response that has arrived as a whole; `None` where its usage is not known.
///
/// # Errors
/// The metadata has no reservation of ours.
pub(in crate::adapter) fn complete(
    metadata: &Metadata,
    keys: &ReservationKeys,
) -> Result<Option<Settlement>, Refused> {
    let text = text(metadata, RESERVATION).ok_or(Refused::NoReservation)?;
    let reservation = Reservation::open(text, keys)?;
    let reading = usage::read(metadata);
    let report = Report::of(reservation, Ending::Complete, reading, 0, |_| None);
    let is_known = matches!(report.settlement.usage, Usage::Final(_)) && report.unmetered.is_none();
    Ok(Some(report.settlement).filter(|_| is_known))
}

impl Report {
    /// Decides the settlement of a reservation, by the end of its request, what is known of its
    /// tokens, and the bytes of its response. `learnt` returns what a history of usage predicts.
    pub(in crate::adapter) fn of(
        reservation: Reservation,
        ending: Ending,
        mut reading: Reading,
        bytes: u64,
        learnt: impl Fn(BucketId) -> Option<LearntUsage>,
    ) -> Self {
        let held = Holds::of(&reservation);
        let terms = reservation.cost_terms().copied();
        let is_above = |holds: u64| {
            let most = held.map(|held| held.most.saturating_mul(holds));
            reading.tokens.zip(most).is_some_and(|(tokens, most)| tokens > most)
                || terms.is_some_and(|terms| terms.is_beyond(reading.kinds, holds))
        };
        let is_beyond_hold = is_above(1);
        if is_above(ABSURD) {
            reading = Reading { tokens: None, is_whole: false, is_absurd: true, ..reading };
        }
        // A server that counts images or seconds in the place of tokens has counted everything that costs.
        let counts_tokens = reading.tokens.is_some() || reservation.holds.iter().any(is_of_tokens);
        if ending == Ending::Complete
            && !counts_tokens
            && !reading.is_absurd
            && terms.is_some_and(|terms| terms.is_of_media(reading.kinds))
        {
            reading = Reading { tokens: Some(0), is_whole: true, ..reading };
        }
        let (mut usage, unmetered) = usage_of(ending, reading);
        let mut basis = basis_of(ending, usage);
        let histories = reservation.histories;
        if let (Some(histories), Some(held), Some(_)) = (histories, held, unmetered) {
            let learnt = learnt(histories.own).or_else(|| learnt(histories.shared));
            usage = held.estimated(reading, tokens_of_response(learnt, bytes));
            basis = if held.are_estimates { Basis::Estimate } else { Basis::Hold };
        }
        // A place among the requests in flight needs no count.
        let unmetered = unmetered.filter(|_| held.is_some());
        let ended = reading.tokens.filter(|_| ending != Ending::Running).unwrap_or(0);
        let debt = held.map(|held| held.debt(ended, histories.is_some())).unwrap_or_default();
        let observed = histories.filter(|_| ending == Ending::Complete && reading.is_whole);
        let observed = observed.zip(reading.tokens).map(|(histories, tokens)| {
            let answer = reading.output.map(|output| (output, bytes));
            (histories, ObservedUsage { tokens, answer })
        });
        let report = recorded(ending, basis, reading);
        let settlement = Settlement { reservation, usage, report };
        let is_absurd = reading.is_absurd;
        Self { settlement, unmetered, is_absurd, is_beyond_hold, debt, observed }
    }

    /// Notes why the response was cut, if it was.
    pub(in crate::adapter) fn set_cause_of_cut(&mut self, cause: RequestEnding) {
        if let Some(report) = &mut self.settlement.report
            && report.ending == RequestEnding::Cut
        {
            report.ending = cause;
        }
    }

    /// Counts what is odd about the report, records its usage, and sends its settlement.
    pub(in crate::adapter) fn submit(self, settler: &Settler) {
        self.count(settler);
        settler.submit(self.settlement);
    }

    /// Counts what is odd about the report, and records its usage.
    pub(in crate::adapter) fn count(&self, settler: &Settler) {
        let Self { is_absurd, is_beyond_hold, unmetered, debt, observed, .. } = *self;
        if is_absurd {
            settler.count_problem(ReportProblem::Absurd);
        }
        if is_beyond_hold {
            settler.count_problem(ReportProblem::BeyondHold);
        }
        if let Some(unmetered) = unmetered {
            settler.count_unmetered(unmetered == Unmetered::Complete);
        }
        settler.count_debt(debt.of_estimate, debt.of_bound);
        if let Some((histories, usage)) = observed {
            settler.histories().record(histories, usage);
        }
    }
}

/// The table of what is charged where limits hold the bound of a request.
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

/// The most tokens that a request may use: its largest hold.
pub(in crate::adapter) fn most_tokens(reservation: &Reservation) -> Option<u64> {
    Holds::of(reservation).map(|holds| holds.most)
}

/// What the record of a request states about its end; `None` for one that runs, and for one that
/// reached no upstream.
fn recorded(ending: Ending, basis: Basis, reading: Reading) -> Option<UsageReport> {
    let ending = match ending {
        Ending::Running | Ending::NotSent => return None,
        Ending::Complete => RequestEnding::Complete,
        Ending::Rejected => RequestEnding::Rejected,
        Ending::Cut => RequestEnding::Cut,
    };
    // A count that is ignored is in no sum either.
    let kinds = if reading.is_absurd { UsageCounts::default() } else { reading.kinds };
    Some(UsageReport { ending, basis, counts: usage::with_parts_within(kinds) })
}

/// Where the tokens of a request come from that are not estimated.
fn basis_of(ending: Ending, usage: Usage) -> Basis {
    match usage {
        Usage::Final(_) if ending == Ending::Cut => Basis::Running,
        Usage::Final(_) => Basis::Reported,
        Usage::Released => Basis::Unused,
        Usage::Running(_) | Usage::Unreported(_) => Basis::Hold,
    }
}

/// What a reservation holds of tokens.
#[derive(Clone, Copy)]
struct Holds {
    /// The largest hold: the bound of the request.
    most: u64,
    /// The smallest hold: the estimate of the request, where a limit holds one.
    least: u64,
    /// The smallest charge without a report: the estimate of the prompt, where a limit holds one.
    prompt: u64,
    /// Whether all limits hold an estimate.
    are_estimates: bool,
}

impl Holds {
    /// The holds of a reservation; `None` where it holds no tokens and no cost of tokens.
    fn of(reservation: &Reservation) -> Option<Self> {
        let holds = || reservation.holds.iter().filter(|hold| is_of_tokens(hold));
        if holds().next().is_none() && reservation.holds.iter().any(Hold::is_cost) {
            let CostTerms { most, tokens, .. } = *reservation.cost_terms()?;
            let are_estimates = tokens < most;
            return Some(Self { most, least: most, prompt: tokens, are_estimates });
        }
        let debts = holds().filter(|hold| hold.is_debt()).count();
        Some(Self {
            most: holds().map(|hold| hold.amount).max()?,
            least: holds().map(|hold| hold.amount).min()?,
            prompt: holds().map(|hold| hold.unreported).min()?,
            // Each estimate has a debt beside it.
            are_estimates: holds().count() == 2 * debts,
        })
    }

    /// The usage of a request whose usage is not known, by the tokens of its response. A count that is
    /// a part lowers nothing. A limit that holds the bound charges all of it.
    fn estimated(self, reading: Reading, response: u64) -> Usage {
        let seen = reading.tokens.unwrap_or(0);
        let tokens = self.prompt.saturating_add(response).min(self.most).max(seen);
        if self.are_estimates { Usage::Final(tokens) } else { Usage::Unreported(tokens) }
    }

    fn debt(self, tokens: u64, has_estimate: bool) -> Debt {
        let of_estimate = if has_estimate { tokens.saturating_sub(self.least) } else { 0 };
        Debt { of_estimate, of_bound: tokens.saturating_sub(self.most) }
    }
}

/// Whether a hold is one of tokens that are not charged yet.
const fn is_of_tokens(hold: &Hold) -> bool {
    matches!(hold.counter, Counter::Bucket { .. } | Counter::Budget { .. })
}

/// A text that the check returned.
pub(in crate::adapter) fn text<'a>(metadata: &'a Metadata, key: &str) -> Option<&'a str> {
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
