//! What a request holds of the limits of its route until its usage is known.

use std::sync::Arc;

use crate::{
    decision::Evidence,
    denial::{Denial, Reason},
    json::Json,
    limit::{
        self, Amounts, BucketId, ChargeSubject, Demand, Held, HoldLimit, LimitStatus, RequestUnits,
        TOKEN_BUDGET,
        cost::{CostTerms, MOST, MediaBound},
        model_tag::ModelTag,
        price::ModelPrice,
        request_facts::RequestFacts,
        reservation::{Reservation, ReservationId},
        usage_history::{HistoryIds, LearntUsage},
    },
    permit::Permit,
    rule::size::{RequestSize, SizedRequest},
    snapshot::Snapshot,
    time::{MAX_COUNT, Span, Timestamp},
};

/// The tokens of a request, and the histories that its usage belongs to, where a limit of its route
/// holds an estimate. `learnt` returns what a history predicts.
pub(super) fn request_tokens(
    permit: &Permit,
    subject: &ChargeSubject<'_>,
    learnt: impl Fn(BucketId) -> Option<LearntUsage>,
) -> (Amounts, Option<HistoryIds>) {
    let route = permit.route();
    if let Some(fixed) = route.fixed_tokens {
        let tokens = Amounts { bound: fixed, estimate: fixed, prompt: fixed, fixed: Some(fixed) };
        return (tokens, None);
    }
    let Some(SizedRequest { size, fixed, is_streamed, .. }) = permit.sized() else {
        return (Amounts::default(), None);
    };
    let bound = size.total;
    let whole = Amounts { bound, estimate: bound, prompt: bound, fixed: *fixed };
    if fixed.is_some() || !route.holds.iter().any(|limit| limit.estimates()) {
        return (whole, None);
    }
    let Some(histories) = histories(subject, *is_streamed) else { return (whole, None) };
    let learnt = learnt(histories.own).or_else(|| learnt(histories.shared));
    let prompt = size.prompt_estimate().min(bound);
    let estimate = learnt.map_or(bound, |learnt| learnt.tokens.max(prompt).min(bound));
    (Amounts { estimate, prompt, ..whole }, Some(histories))
}

/// The terms on which a request is charged its cost, and the cost as limits count it; `None` where its
/// model has no price.
pub(super) fn request_cost(
    permit: &Permit,
    subject: &ChargeSubject<'_>,
    tokens: Amounts,
    snapshot: &Snapshot,
    now: Timestamp,
) -> Option<(CostTerms, Amounts)> {
    let of_model = snapshot.policy.prices.as_ref()?.at(subject.model?, now)?;
    let ModelPrice { price, max_seconds } = of_model;
    if price.is_free() {
        // Nothing of it is ever charged.
        let terms = CostTerms { price, ..CostTerms::default() };
        return Some((terms, Amounts { fixed: Some(0), ..Amounts::default() }));
    }
    if let Some(fixed) = tokens.fixed {
        let cost = price.of_any(fixed);
        let amounts = Amounts { bound: cost, estimate: cost, prompt: cost, fixed: Some(cost) };
        let terms = CostTerms {
            price,
            tokens: fixed,
            most: fixed,
            unreported: cost,
            ..CostTerms::default()
        };
        return Some((CostTerms { fixed: Some(cost), ..terms }, amounts));
    }
    let images = permit.sized().map(|sized| sized.images).unwrap_or_default();
    let media = MediaBound {
        images: if price.image > 0 { images.count } else { 0 },
        seconds: max_seconds,
        are_images_known: images.are_known && price.image > 0,
    };
    let of_media = price.of_media(media.images, media.seconds);
    let with_media = |of_tokens: u64| of_tokens.saturating_add(of_media).min(MOST);
    let terms = |tokens, unreported, most| CostTerms {
        price,
        tokens,
        most,
        unreported,
        fixed: None,
        media,
    };
    let Some(SizedRequest { size, .. }) = permit.sized() else {
        // What the request may use is not known, and none of it is held.
        let cost = with_media(price.of_any(0));
        return Some((
            terms(0, cost, 0),
            Amounts { bound: cost, estimate: cost, ..Amounts::default() },
        ));
    };
    let RequestSize { input, output, answers, total } = *size;
    let bound = with_media(price.of_bound(input, output.saturating_mul(answers), total));
    let prompt = match tokens.prompt < tokens.bound {
        true => with_media(price.of_bound(tokens.prompt, 0, tokens.prompt)),
        false => bound,
    };
    let of_prompt = terms(tokens.prompt, prompt, total);
    let holds = || permit.route().holds.iter().filter(|limit| limit.charges_tokens());
    let are_estimates = holds().next().is_some() && holds().all(|limit| limit.estimates());
    // Where no usage is reported, a limit that holds the bound charges all of it.
    let terms = if are_estimates { of_prompt } else { terms(total, bound, total) };
    let estimate = of_prompt.so_far(tokens.estimate).max(prompt).min(bound);
    let prompt = prompt.min(estimate);
    Some((terms, Amounts { bound, estimate, prompt, fixed: None }))
}

/// The histories of a subject, a model and a route, and of all subjects.
fn histories(subject: &ChargeSubject<'_>, is_streamed: bool) -> Option<HistoryIds> {
    let principal = subject.principal?;
    let form = if is_streamed { "stream" } else { "body" };
    let shared = BucketId::of([form, subject.model.unwrap_or_default(), subject.route].join("\n"));
    let own = BucketId::from(principal.revocation().subject().fingerprint());
    Some(HistoryIds { own: BucketId::of([own.bytes(), shared.bytes()].concat()), shared })
}

/// What a request holds of the limits of its route. A limit that it cannot be within is recorded in
/// the evidence.
pub(super) fn holds(
    permit: &Permit,
    subject: &ChargeSubject<'_>,
    units: RequestUnits,
    now: Timestamp,
    evidence: &mut Evidence,
) -> Result<Vec<Held>, Denial> {
    let route = permit.route();
    let mut held = Vec::with_capacity(route.holds.len() + 1);
    for limit in &route.holds {
        if limit.is_shadow()
            && limit.counts_tokens()
            && permit.sized().is_none()
            && route.fixed_tokens.is_none()
        {
            // The body could not be read for it, which is recorded.
            continue;
        }
        let demand = match limit.demand(subject, units, now) {
            Err(denial) if limit.is_shadow() => {
                evidence.would_deny.record("limits", Some(&limit.name), denial);
                continue;
            }
            demand => demand?,
        };
        match demand {
            Demand::Hold(units) => held.push(units),
            Demand::Estimate(units, debt) => held.extend([units, debt]),
            Demand::Nothing => {}
            Demand::TooLarge(most) => {
                let size = permit.sized().map(|sized| sized.size);
                let denial = too_large(&limit.name, most, size, units.tokens.bound);
                if !limit.is_shadow() {
                    evidence.limits.push(LimitStatus::too_large(&limit.name, most));
                    return Err(denial);
                }
                evidence.would_deny.record("limits", Some(&limit.name), denial);
            }
        }
    }
    let charges = |limit: &Arc<HoldLimit>| limit.charges_tokens() && !limit.is_shadow();
    let is_charged = route.holds.iter().any(charges);
    if let Some(principal) = subject.principal.filter(|_| is_charged)
        && let Some(budget) = principal.claim(TOKEN_BUDGET)
    {
        let Json::Integer(budget) = budget else { return Err(bad_budget()) };
        let budget = u64::try_from(*budget).map_err(|_| bad_budget())?;
        held.push(limit::token_budget(principal, budget.min(MAX_COUNT), units.tokens));
    }
    Ok(held)
}

fn bad_budget() -> Denial {
    let cause = format!("the claim `{TOKEN_BUDGET}` is no whole number of tokens");
    Denial::new(Reason::InvalidClaim, cause)
}

/// The denial of a request that may use more tokens than one request may.
fn too_large(name: &str, most: u64, size: Option<RequestSize>, tokens: u64) -> Denial {
    let Some(RequestSize { input, output, answers, total }) = size else {
        let cause = format!("the request is charged {tokens} tokens, over the {most} of `{name}`");
        return Denial::new(Reason::BudgetExhausted, cause).with_message(format!(
            "the request is charged {tokens} tokens, and `{name}` allows {most} for one request"
        ));
    };
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

/// Reserves what a request holds, under a random id with the tag of its model. Where a ledger is kept,
/// a request of a model whose prices are all 0 holds nothing of limits on cost, and is settled all
/// the same: its tokens are recorded.
pub(super) fn reserve(
    held: &[Held],
    (fixed, terms, histories): (Option<u64>, Option<CostTerms>, Option<HistoryIds>),
    (subject, counts_cost): (&ChargeSubject<'_>, bool),
    snapshot: &Snapshot,
    now: Timestamp,
    id: impl FnOnce() -> Option<ReservationId>,
) -> Result<Option<Box<Reservation>>, Denial> {
    let is_free = counts_cost && terms.is_some_and(|terms| terms.price.is_free());
    let is_recorded = snapshot.policy.ledger.is_some() && snapshot.reservation_keys.is_some();
    if held.is_empty() && !(is_free && is_recorded) {
        return Ok(None);
    }
    let id = id().ok_or_else(|| {
        Denial::new(Reason::Internal, "there is no randomness for the id of a reservation")
    })?;
    let id = id.with_model(subject.model.map_or(ModelTag::NONE, ModelTag::of));
    let holds = held.iter().map(|held| held.hold.clone()).collect();
    let life = snapshot.policy.metering.as_ref().map_or(Span::from_secs(0), |it| it.life);
    let shard = snapshot.policy.shard_by.zip(subject.principal);
    let shard = shard.map(|(by, principal)| by.shard(principal.revocation()));
    let route = snapshot.policy.names_routes.then(|| subject.route.into());
    let facts = snapshot.policy.ledger.as_ref();
    let facts = facts.map(|_| Box::new(RequestFacts::of(subject, fixed, terms)));
    let holds_cost = facts.is_none() && held.iter().any(|held| held.hold.is_cost());
    let cost = terms.filter(|_| holds_cost).map(Box::new);
    let reservation =
        Reservation { id, issued: now, life, holds, histories, shard, route, facts, cost };
    if reservation.is_settled() && snapshot.reservation_keys.is_none() {
        let cause =
            "no secret of `metering.secrets` can be used, so that no usage could be reported";
        return Err(Denial::new(Reason::NotReady, cause));
    }
    Ok(Some(Box::new(reservation)))
}
