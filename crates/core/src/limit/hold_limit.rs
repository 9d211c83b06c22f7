//! Limits of whose counters a request holds units.

use std::sync::Arc;

use super::{
    amount::Amount,
    bucket::BucketId,
    bucket_size::BucketSize,
    config::{LimitConfig, SizeKeys},
    counted_by::{ChargeSubject, CountedBy},
    hold::{Counter, Hold},
    kind::{LimitKind, Unit},
    requests::RequestWindows,
    selector::Selector,
    sizes::Sizes,
    tokens::{TokenSize, Tokens},
    window::{Window, Windows},
};
use crate::{
    config::{Errors, Path},
    denial::{Denial, Reason},
    identity::{Part, Principal},
    time::{CalendarUnit, Quota, Timestamp},
};

/// A compiled limit of whose counters a request holds units.
#[derive(Clone, Debug)]
pub struct HoldLimit {
    /// The limit's name.
    pub name: Arc<str>,
    counted_by: CountedBy,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Requests(RequestWindows),
    Tokens(Tokens),
    Slots(Sizes<Amount>),
    PerRequest(Sizes<Amount>),
}

/// What a limit demands of a request.
#[derive(Clone, Debug)]
pub enum Demand {
    /// The request holds units of a counter.
    Hold(Held),
    /// The request may use more tokens than this, the most of one request.
    TooLarge(u64),
    /// The request is within the limit, and nothing is counted.
    Nothing,
}

/// What a request holds of a limit.
#[derive(Clone, Debug)]
pub struct Held {
    /// The units of the counter.
    pub hold: Hold,
    /// The limit's kind.
    pub kind: LimitKind,
    /// Units in the counter.
    pub limit: u64,
    /// The length of the window, in microseconds.
    pub window: u64,
}

impl HoldLimit {
    /// Compiles one entry of `limits` that is no rate, and records every error.
    pub(super) fn compile(config: &LimitConfig, path: &Path, errors: &mut Errors) -> Option<Self> {
        let kind = SizeKeys::of_limit(config).names().next();
        let counted_by = CountedBy::compile(&config.name, kind, &config.by, path, errors);
        let kind = match kind? {
            "tokens" => Kind::Tokens(Tokens::compile(config, path, errors)?),
            "concurrent" => Kind::Slots(Sizes::compile(config, path, errors)?),
            "tokens_per_request" => Kind::PerRequest(Sizes::compile(config, path, errors)?),
            _ => Kind::Requests(RequestWindows::compile(config, path, errors)?),
        };
        Some(Self { name: config.name.as_str().into(), counted_by, kind })
    }

    /// Whether the limit counts by an attribute of the credential.
    pub fn needs_principal(&self) -> bool {
        self.counted_by.needs_principal()
    }

    /// Whether the limit counts by the model.
    pub fn needs_model(&self) -> bool {
        self.counted_by.needs_model()
    }

    /// Whether the limit counts or selects by a part of the identity.
    pub(crate) fn uses(&self, part: Part) -> bool {
        self.counted_by.uses(part) || self.selectors().any(|selector| selector.uses(part))
    }

    /// Whether the limit counts tokens, so that the size of a request is needed.
    pub fn counts_tokens(&self) -> bool {
        matches!(self.kind, Kind::PerRequest(_) | Kind::Tokens(_))
    }

    /// Whether what a request holds is settled when its response has ended.
    pub fn is_settled(&self) -> bool {
        matches!(self.kind, Kind::Tokens(_) | Kind::Slots(_))
    }

    /// Whether tokens are charged, and not only compared.
    pub fn charges_tokens(&self) -> bool {
        matches!(self.kind, Kind::Tokens(_))
    }

    fn selectors(&self) -> Box<dyn Iterator<Item = &Selector> + '_> {
        match &self.kind {
            Kind::Requests(requests) => Box::new(requests.sizes.selectors()),
            Kind::Tokens(tokens) => Box::new(tokens.sizes.selectors()),
            Kind::Slots(sizes) => Box::new(sizes.selectors()),
            Kind::PerRequest(sizes) => Box::new(sizes.selectors()),
        }
    }

    /// Whether the record of a key may set a quota for the limit.
    pub(super) fn fits(&self, quota: Quota) -> bool {
        match &self.kind {
            Kind::Requests(requests) => requests.sizes.fits(quota),
            Kind::Tokens(tokens) => tokens.sizes.fits(quota),
            Kind::Slots(sizes) => sizes.fits(quota),
            Kind::PerRequest(sizes) => sizes.fits(quota),
        }
    }

    /// Returns what the limit demands at `now` of a request that may use `tokens`.
    ///
    /// # Errors
    /// A denial if the request lacks an attribute that the limit counts by.
    pub fn demand(
        &self,
        facts: &ChargeSubject<'_>,
        tokens: u64,
        now: Timestamp,
    ) -> Result<Demand, Denial> {
        let id = self.counted_by.id(facts)?;
        let holder = facts.principal;
        Ok(Demand::Hold(match &self.kind {
            Kind::Requests(requests) => {
                let size = requests.sizes.of(&self.name, holder)?;
                let (counter_id, window) = in_window(id, size.unit, &requests.windows, now)?;
                let counter = Counter::Requests { limit: size.count, ends: window.ends };
                self.held(counter_id, counter, 1, (LimitKind::Requests, length(window)))
            }
            Kind::Tokens(tokens_limit) => {
                let size = tokens_limit.sizes.of(&self.name, holder)?;
                match (size, &tokens_limit.windows) {
                    (TokenSize::Window(size), Some(windows)) => {
                        let (counter_id, window) = in_window(id, size.unit, windows, now)?;
                        let counter = Counter::Budget { limit: size.count, ends: window.ends };
                        let kind = (LimitKind::TokenBudget, length(window));
                        self.held(counter_id, counter, tokens, kind)
                    }
                    (TokenSize::Bucket(BucketSize { interval, burst }), _) => {
                        let counter = Counter::Bucket { interval, burst };
                        let kind = (LimitKind::TokenRate, interval.saturating_mul(burst));
                        self.held(id, counter, tokens, kind)
                    }
                    (TokenSize::Window(_), None) => {
                        let cause = "the size of a limit has windows that it does not have";
                        return Err(Denial::new(Reason::Internal, cause));
                    }
                }
            }
            Kind::Slots(sizes) => {
                let Amount(limit) = sizes.of(&self.name, holder)?;
                self.held(id, Counter::Slots { limit }, 1, (LimitKind::InFlight, 0))
            }
            Kind::PerRequest(sizes) => {
                let Amount(most) = sizes.of(&self.name, holder)?;
                return Ok(if tokens > most { Demand::TooLarge(most) } else { Demand::Nothing });
            }
        }))
    }

    /// Units of a counter, and the length of its window.
    fn held(
        &self,
        counter_id: BucketId,
        counter: Counter,
        amount: u64,
        (kind, window): (LimitKind, u64),
    ) -> Held {
        let is_tokens = kind.unit() == Unit::Tokens;
        let amount = amount.max(1);
        let hold = Hold {
            limit: Arc::clone(&self.name),
            counter_id,
            counter,
            amount,
            // The answer of a request without a report may have had every token.
            unreported: if is_tokens { amount } else { 0 },
            by_principal: self.needs_principal(),
        };
        Held { hold, kind, limit: size_of(counter), window }
    }
}

/// The units of a counter.
const fn size_of(counter: Counter) -> u64 {
    match counter {
        Counter::Bucket { burst, .. } => burst,
        Counter::Budget { limit, .. }
        | Counter::Requests { limit, .. }
        | Counter::Slots { limit } => limit,
    }
}

fn length(window: Window) -> u64 {
    window.ends.micros().saturating_sub(window.starts.micros())
}

/// Returns the counter of the window at `now`: each window is a counter of its own.
fn in_window(
    id: BucketId,
    unit: CalendarUnit,
    windows: &Windows,
    now: Timestamp,
) -> Result<(BucketId, Window), Denial> {
    let window = windows.at(now).ok_or_else(|| {
        Denial::new(Reason::Internal, "the clock of this process is beyond the year 9999")
    })?;
    let starts = window.starts.micros().to_be_bytes();
    Ok((BucketId::of([&id.bytes()[..], unit.label().as_bytes(), &starts].concat()), window))
}

/// What a request holds of the budget that its token names (`token_budget`), for the token's life.
pub(crate) fn token_budget(principal: &Principal, limit: u64, tokens: u64) -> Held {
    let token = BucketId::from(principal.revocation().token().fingerprint());
    let amount = tokens.max(1);
    let hold = Hold {
        limit: TOKEN_BUDGET.into(),
        counter_id: BucketId::of([TOKEN_BUDGET.as_bytes(), &token.bytes()].concat()),
        counter: Counter::Budget { limit, ends: principal.validity().until },
        amount,
        unreported: amount,
        by_principal: true,
    };
    Held { hold, kind: LimitKind::TokenBudget, limit, window: 0 }
}

/// The claim with the budget of a token, and the name of its limit.
pub(crate) const TOKEN_BUDGET: &str = "token_budget";
