//! The state of the limits after a check, and the denial of one without room.

use std::sync::Arc;

use crate::{
    denial::{Denial, WouldDeny, listed},
    limit::{Charge, Held, LimitKind, LimitStatus, Verdict},
    time::Span,
};

/// The state of each limit after a check: of the rates, then of the limits that hold units. The
/// refusals of limits in shadow are recorded in `would_deny`.
pub(super) fn statuses(
    charges: Vec<Charge>,
    held: Vec<Held>,
    verdicts: Vec<Verdict>,
    would_deny: &mut WouldDeny,
) -> Vec<LimitStatus> {
    let mut verdicts = verdicts.into_iter();
    let mut statuses = Vec::with_capacity(verdicts.len());
    // The shorter one comes first, so that no verdict is lost.
    for (charge, verdict) in charges.into_iter().zip(&mut verdicts) {
        let is_shadow = charge.is_shadow;
        let status = LimitStatus::of(charge, verdict);
        if is_shadow {
            record(status, would_deny);
        } else {
            statuses.push(status);
        }
    }
    for (held, verdict) in held.into_iter().zip(verdicts) {
        if held.hold.is_shadow {
            let kind = if held.hold.is_debt() { held.kind.debt() } else { held.kind };
            let name = held.hold.limit_name().into();
            let status = LimitStatus::of_hold(Held { kind, ..held }, verdict);
            record(LimitStatus { name, ..status }, would_deny);
            continue;
        }
        match statuses.last_mut().filter(|_| held.hold.is_debt()) {
            Some(status) => add_debt(status, verdict),
            None => statuses.push(LimitStatus::of_hold(held, verdict)),
        }
    }
    statuses
}

/// Records the refusal of a limit in shadow.
fn record(status: LimitStatus, would_deny: &mut WouldDeny) {
    if status.verdict.admitted {
        return;
    }
    let name = Arc::clone(&status.name);
    if let Err(denial) = check_limits(&[status], "") {
        would_deny.record("limits", Some(&name), denial);
    }
}

/// Adds the verdict on the debt of a limit. It is shown where the limit itself has room.
fn add_debt(status: &mut LimitStatus, Verdict { admitted, retry_after, .. }: Verdict) {
    if !admitted && status.verdict.admitted {
        status.kind = status.kind.debt();
        status.verdict = Verdict { admitted, retry_after, ..status.verdict };
    }
}

/// Whether every limit has room; otherwise the denial of the one that takes longest to have it.
/// `basis` is added to its cause.
pub(super) fn check_limits(limits: &[LimitStatus], basis: &str) -> Result<(), Denial> {
    let Some(worst) = limits
        .iter()
        .filter(|status| !status.verdict.admitted)
        .max_by_key(|status| status.verdict.retry_after)
    else {
        return Ok(());
    };
    let room = match worst.retry_after() {
        Some(span) => format!("it has room in {}", rounded_up(span)),
        None => "it admits no requests".to_owned(),
    };
    let others = limits.iter().filter(|status| !status.verdict.admitted);
    let others = listed(others.map(|status| &*status.name).filter(|name| **name != *worst.name));
    let others = if others.is_empty() { others } else { format!("; so is {others}") };
    let left = left(worst);
    let cause = format!("limit `{}` is used up{basis}{left}; {room}{others}", worst.name);
    let denial = Denial::new(worst.kind.reason(), cause).with_message(message(worst));
    Err(match worst.retry_after() {
        Some(span) => denial.with_retry_after(span),
        None => denial,
    })
}

/// What is left of the limit that refused a request.
fn left(status: &LimitStatus) -> String {
    let LimitStatus { kind, limit, verdict, .. } = status;
    match kind {
        LimitKind::Rate => String::new(),
        LimitKind::Requests => {
            format!(": {} of {limit} requests are left", verdict.remaining)
        }
        LimitKind::TokenRate => format!(": {} of {limit} tokens are left", verdict.remaining),
        LimitKind::TokenBudget => format!(
            ": {} of {limit} tokens are left until its window ends in {}",
            verdict.remaining,
            rounded_up(Span::from_micros(verdict.reset)),
        ),
        LimitKind::TokenDebt => format!(
            ": {} of {limit} tokens are left, and this request and those in flight could exceed them \
             by more than its debt",
            verdict.remaining
        ),
        LimitKind::CostBudget => format!(
            ": a cost of {} of {limit} micro-units is left until its window ends in {}",
            verdict.remaining,
            rounded_up(Span::from_micros(verdict.reset)),
        ),
        LimitKind::CostDebt => format!(
            ": a cost of {} of {limit} micro-units is left, and this request and those in flight could \
             exceed it by more than its debt",
            verdict.remaining
        ),
        LimitKind::InFlight => format!(": {limit} requests are in flight, as many as it allows"),
        LimitKind::PerRequest => format!(": it allows {limit} tokens for one request"),
    }
}

/// What a client reads about the limit that refused its request.
fn message(status: &LimitStatus) -> String {
    let name = &status.name;
    let left = left(status);
    match (status.kind, status.retry_after().map(rounded_up)) {
        (LimitKind::Rate, Some(span)) => {
            format!("rate limit `{name}` reached; retry in {span}")
        }
        (LimitKind::Rate, None) => format!("rate limit `{name}` admits no requests"),
        (LimitKind::Requests, Some(span)) => {
            format!("budget `{name}`{left}; the next window begins in {span}")
        }
        (LimitKind::InFlight, Some(span)) => format!("`{name}`{left}; retry in {span}"),
        (LimitKind::InFlight, None) => format!("`{name}` admits no requests"),
        (_, Some(span)) => format!("budget `{name}`{left}; retry in {span}"),
        (_, None) => format!("budget `{name}` admits no such request{left}"),
    }
}

/// A span for a client, rounded up.
fn rounded_up(span: Span) -> String {
    if span < Span::from_secs(1) {
        format!("{}ms", span.micros().div_ceil(1000))
    } else {
        format!("{}s", span.micros().div_ceil(1_000_000))
    }
}
