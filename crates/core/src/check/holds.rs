//! What a request holds of the limits of its route until its usage is known.

use crate::{
    denial::{Denial, Reason},
    json::Json,
    limit::{
        self, ChargeSubject, Demand, Held, LimitStatus, TOKEN_BUDGET,
        reservation::{Reservation, ReservationId},
    },
    permit::Permit,
    rule::size::RequestSize,
    snapshot::Snapshot,
    time::{MAX_COUNT, Span, Timestamp},
};

/// What a request holds of the limits of its route. A limit that it cannot be within is recorded in
/// `limits`.
pub(super) fn holds(
    permit: &Permit,
    subject: &ChargeSubject<'_>,
    now: Timestamp,
    limits: &mut Vec<LimitStatus>,
) -> Result<Vec<Held>, Denial> {
    let size = permit.sized().map(|sized| sized.size);
    let tokens = size.map_or(0, |size| size.total);
    let mut held = Vec::with_capacity(permit.route().holds.len() + 1);
    for limit in &permit.route().holds {
        match limit.demand(subject, tokens, now)? {
            Demand::Hold(units) => held.push(units),
            Demand::Nothing => {}
            Demand::TooLarge(most) => {
                limits.push(LimitStatus::too_large(&limit.name, most));
                return Err(too_large(&limit.name, most, size));
            }
        }
    }
    let is_charged = permit.route().holds.iter().any(|limit| limit.charges_tokens());
    if let Some(principal) = subject.principal.filter(|_| is_charged)
        && let Some(budget) = principal.claim(TOKEN_BUDGET)
    {
        let Json::Integer(budget) = budget else { return Err(bad_budget()) };
        let budget = u64::try_from(*budget).map_err(|_| bad_budget())?;
        held.push(limit::token_budget(principal, budget.min(MAX_COUNT), tokens));
    }
    Ok(held)
}

fn bad_budget() -> Denial {
    let cause = format!("the claim `{TOKEN_BUDGET}` is no whole number of tokens");
    Denial::new(Reason::InvalidClaim, cause)
}

/// The denial of a request that may use more tokens than one request may.
fn too_large(name: &str, most: u64, size: Option<RequestSize>) -> Denial {
    let RequestSize { input, output, answers, total } = size.unwrap_or_default();
    let cause = format!(
        "the request may use {total} tokens ({input} of input and {answers} times {output} of \
         output), over the {most} of `{name}`"
    );
    let message = format!(
        "the request may use {total} tokens, and `{name}` allows {most} for one request; send less, \
         or a smaller max_tokens"
    );
    Denial::new(Reason::BudgetExhausted, cause).with_message(message)
}

/// Reserves what a request holds, under a random id.
pub(super) fn reserve(
    held: &[Held],
    snapshot: &Snapshot,
    now: Timestamp,
    id: impl FnOnce() -> Option<ReservationId>,
) -> Result<Option<Box<Reservation>>, Denial> {
    if held.is_empty() {
        return Ok(None);
    }
    let id = id().ok_or_else(|| {
        Denial::new(Reason::Internal, "there is no randomness for the id of a reservation")
    })?;
    let holds = held.iter().map(|held| held.hold.clone()).collect();
    let life = snapshot.policy.metering.as_ref().map_or(Span::from_secs(0), |it| it.life);
    let reservation = Reservation { id, issued: now, life, holds };
    if reservation.is_settled() && snapshot.reservation_keys.is_none() {
        let cause =
            "no secret of `metering.secrets` can be used, so that no usage could be reported";
        return Err(Denial::new(Reason::NotReady, cause));
    }
    Ok(Some(Box::new(reservation)))
}
