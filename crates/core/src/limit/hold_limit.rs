//! Limits of whose counters a request holds units.

use std::sync::Arc;

use super::{
    amount::Amount,
    bucket::BucketId,
    bucket_size::BucketSize,
    config::{LimitConfig, SizeKeys},
    cost_windows::{CostSize, CostWindows},
    counted_by::{ChargeSubject, CountedBy},
    hold::{Counter, DEBT, Hold},
    kind::LimitKind,
    requests::RequestWindows,
    selector::Selector,
    shard::CountedWithin,
    sizes::Sizes,
    tokens::{TokenSize, Tokens},
    window::{Window, Windows},
};
use crate::{
    config::{Errors, Path},
    denial::{Denial, Reason},
    identity::{Part, Principal},
    time::{CalendarUnit, MAX_COUNT, Quota, Timestamp},
};

/// A compiled limit of whose counters a request holds units.
#[derive(Clone, Debug)]
pub struct HoldLimit {
    /// The limit's name.
    pub name: Arc<str>,
    counted_by: CountedBy,
    kind: Kind,
    is_shadow: bool,
}

#[derive(Clone, Debug)]
enum Kind {
    Requests(RequestWindows),
    Tokens(Tokens),
    Cost(CostWindows),
    Slots(Sizes<Amount>),
    PerRequest(Sizes<Amount>),
}

/// What one request may use, as limits count it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestUnits {
    /// The tokens of the request.
    pub tokens: Amounts,
    /// The cost of it in micro-units; `None` of a model without a price.
    pub cost: Option<Amounts>,
}

/// The tokens of one request, or the micro-units of its cost, as limits count them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    /// The most that the request may use.
    pub bound: u64,
    /// What limits with `hold: estimate` hold, at most `bound`.
    pub estimate: u64,
    /// The estimate of its prompt, at most `estimate`: what these limits charge at least where no
    /// usage is reported.
    pub prompt: u64,
    /// What is charged at admission, where the usage is in no response. It takes the place of the
    /// holds.
    pub fixed: Option<u64>,
}

/// What a limit demands of a request.
#[derive(Clone, Debug)]
pub enum Demand {
    /// The request holds units of a counter.
    Hold(Held),
    /// The request holds an estimate of its tokens, and its bound of a counter that is larger by the
    /// debt.
    Estimate(Held, Held),
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
            "cost" => Kind::Cost(CostWindows::compile(config, path, errors)?),
            "concurrent" => Kind::Slots(Sizes::compile(config, path, errors)?),
            "tokens_per_request" => Kind::PerRequest(Sizes::compile(config, path, errors)?),
            _ => Kind::Requests(RequestWindows::compile(config, path, errors)?),
        };
        let (name, is_shadow) = (config.name.as_str().into(), config.mode.is_shadow());
        Some(Self { name, counted_by, kind, is_shadow })
    }

    /// Whether the limit counts by an attribute of the credential.
    pub fn needs_principal(&self) -> bool {
        self.counted_by.needs_principal()
    }

    /// Whether the limit is in shadow.
    pub const fn is_shadow(&self) -> bool {
        self.is_shadow
    }

    /// What the requests that one counter counts have in common; `None` where nothing is counted.
    pub(super) fn within(&self) -> Option<CountedWithin> {
        match self.kind {
            Kind::PerRequest(_) => None,
            Kind::Requests(_) | Kind::Tokens(_) | Kind::Cost(_) | Kind::Slots(_) => {
                Some(self.counted_by.within())
            }
        }
    }

    /// Whether the limit counts by the model.
    pub fn needs_model(&self) -> bool {
        self.counted_by.needs_model()
    }

    /// Whether the limit counts or selects by a part of the identity.
    pub(crate) fn uses(&self, part: Part) -> bool {
        self.counted_by.uses(part) || self.selectors().any(|selector| selector.uses(part))
    }

    /// Whether the limit counts tokens or their cost, so that the size of a request is needed.
    pub fn counts_tokens(&self) -> bool {
        matches!(self.kind, Kind::PerRequest(_) | Kind::Tokens(_) | Kind::Cost(_))
    }

    /// Whether the limit counts the cost of requests.
    pub fn counts_cost(&self) -> bool {
        matches!(self.kind, Kind::Cost(_))
    }

    /// Whether what a request holds is settled when its response has ended.
    pub fn is_settled(&self) -> bool {
        matches!(self.kind, Kind::Tokens(_) | Kind::Cost(_) | Kind::Slots(_))
    }

    /// Whether tokens, or their cost, are charged, and not only compared.
    pub fn charges_tokens(&self) -> bool {
        matches!(self.kind, Kind::Tokens(_) | Kind::Cost(_))
    }

    /// Whether a request holds an estimate of its tokens, or of their cost.
    pub fn estimates(&self) -> bool {
        match &self.kind {
            Kind::Tokens(tokens) => tokens.debt_percent.is_some(),
            Kind::Cost(cost) => cost.debt_percent.is_some(),
            Kind::Requests(_) | Kind::Slots(_) | Kind::PerRequest(_) => false,
        }
    }

    fn selectors(&self) -> Box<dyn Iterator<Item = &Selector> + '_> {
        match &self.kind {
            Kind::Requests(requests) => Box::new(requests.sizes.selectors()),
            Kind::Tokens(tokens) => Box::new(tokens.sizes.selectors()),
            Kind::Cost(cost) => Box::new(cost.sizes.selectors()),
            Kind::Slots(sizes) => Box::new(sizes.selectors()),
            Kind::PerRequest(sizes) => Box::new(sizes.selectors()),
        }
    }

    /// Whether the record of a key may set a quota for the limit.
    pub(super) fn fits(&self, quota: Quota) -> bool {
        match &self.kind {
            Kind::Requests(requests) => requests.sizes.fits(quota),
            Kind::Tokens(tokens) => tokens.sizes.fits(quota),
            Kind::Cost(cost) => cost.sizes.fits(quota),
            Kind::Slots(sizes) => sizes.fits(quota),
            Kind::PerRequest(sizes) => sizes.fits(quota),
        }
    }

    /// Whether a record may set the same quotas as for another limit.
    pub(super) fn fits_as(&self, other: &Self) -> bool {
        match (&self.kind, &other.kind) {
            (Kind::Requests(one), Kind::Requests(other)) => one.sizes.fits_as(&other.sizes),
            (Kind::Tokens(one), Kind::Tokens(other)) => one.sizes.fits_as(&other.sizes),
            (Kind::Cost(one), Kind::Cost(other)) => one.sizes.fits_as(&other.sizes),
            (Kind::Slots(one), Kind::Slots(other)) => one.fits_as(other),
            (Kind::PerRequest(one), Kind::PerRequest(other)) => one.fits_as(other),
            _ => false,
        }
    }

    /// Returns what the limit demands at `now` of a request that may use these units.
    ///
    /// # Errors
    /// A denial if the request lacks an attribute that the limit counts by, or if its model has no
    /// price.
    pub fn demand(
        &self,
        facts: &ChargeSubject<'_>,
        units: RequestUnits,
        now: Timestamp,
    ) -> Result<Demand, Denial> {
        let id = self.counted_by.id(facts)?;
        let holder = facts.principal;
        let one = |counter_id, counter, kind, window| {
            let hold = self.hold(counter_id, counter, 1, 0);
            Demand::Hold(Held { hold, kind, limit: size_of(counter), window })
        };
        Ok(match &self.kind {
            Kind::Requests(requests) => {
                let size = requests.sizes.of(&self.name, holder)?;
                let (counter_id, window) = in_window(id, size.unit, &requests.windows, now)?;
                let counter = Counter::Requests { limit: size.count, ends: window.ends };
                one(counter_id, counter, LimitKind::Requests, length(window))
            }
            Kind::Tokens(limit) => {
                let size = limit.sizes.of(&self.name, holder)?;
                self.tokens(limit, size, id, units.tokens, now)?
            }
            Kind::Cost(limit) => {
                let CostSize(size) = limit.sizes.of(&self.name, holder)?;
                let cost = units.cost.ok_or_else(|| self.unpriced(facts))?;
                if cost.fixed == Some(0) {
                    return Ok(Demand::Nothing);
                }
                let (counter_id, window) = in_window(id, size.unit, &limit.windows, now)?;
                let counter = Counter::Cost { limit: size.count, ends: window.ends };
                let of = (LimitKind::CostBudget, length(window));
                self.demanded(counter_id, counter, of, limit.debt_percent, cost)
            }
            Kind::Slots(sizes) => {
                let Amount(limit) = sizes.of(&self.name, holder)?;
                one(id, Counter::Slots { limit }, LimitKind::InFlight, 0)
            }
            Kind::PerRequest(sizes) => {
                let Amount(most) = sizes.of(&self.name, holder)?;
                if units.tokens.bound > most { Demand::TooLarge(most) } else { Demand::Nothing }
            }
        })
    }

    /// What a limit on tokens demands.
    fn tokens(
        &self,
        limit: &Tokens,
        size: TokenSize,
        id: BucketId,
        tokens: Amounts,
        now: Timestamp,
    ) -> Result<Demand, Denial> {
        let (counter_id, counter, kind, window) = match (size, &limit.windows) {
            (TokenSize::Window(size), Some(windows)) => {
                let (counter_id, window) = in_window(id, size.unit, windows, now)?;
                let counter = Counter::Budget { limit: size.count, ends: window.ends };
                (counter_id, counter, LimitKind::TokenBudget, length(window))
            }
            (TokenSize::Bucket(BucketSize { interval, burst }), _) => {
                let window = interval.saturating_mul(burst);
                (id, Counter::Bucket { interval, burst }, LimitKind::TokenRate, window)
            }
            (TokenSize::Window(_), None) => {
                let cause = "the size of a limit has windows that it does not have";
                return Err(Denial::new(Reason::Internal, cause));
            }
        };
        Ok(self.demanded(counter_id, counter, (kind, window), limit.debt_percent, tokens))
    }

    /// The denial of a request whose model has no price.
    fn unpriced(&self, facts: &ChargeSubject<'_>) -> Denial {
        let cause = match facts.model {
            Some(model) => {
                format!("limit `{}` counts cost, and the model `{model}` has no price", self.name)
            }
            None => format!("limit `{}` counts cost, and the request names no model", self.name),
        };
        Denial::new(Reason::ModelForbidden, cause)
            .with_message("the model has no price, and this endpoint counts what requests cost")
    }

    /// What a request holds of a counter of tokens, or of cost: its bound, or an estimate, and its bound
    /// of the counter that is larger by the debt.
    fn demanded(
        &self,
        counter_id: BucketId,
        counter: Counter,
        (kind, window): (LimitKind, u64),
        debt_percent: Option<u64>,
        amounts: Amounts,
    ) -> Demand {
        let held = |hold: Hold| {
            let limit = size_of(hold.counter);
            Held { hold, kind, limit, window }
        };
        let hold_of = |counter_id, counter, amount, unreported| match amounts.fixed {
            None => self.hold(counter_id, counter, amount, unreported),
            Some(fixed) => self.hold(counter_id, at_admission(counter), fixed, 0),
        };
        let Amounts { bound, estimate, prompt, .. } = amounts;
        let Some(percent) = debt_percent else {
            // The answer of a request without a report may have had every token.
            return Demand::Hold(held(hold_of(counter_id, counter, bound, bound)));
        };
        // INVARIANT: the bound of a request counts here until its end is reported, also after its
        // expiry, so that a late report never exceeds the limit by more than the debt.
        let mut debt = hold_of(debt_of(counter_id), with_debt(counter, percent), bound, bound);
        debt.limit = format!("{}{DEBT}", self.name).into();
        let hold = hold_of(counter_id, counter, estimate, prompt);
        Demand::Estimate(held(hold), held(debt))
    }

    fn hold(&self, counter_id: BucketId, counter: Counter, amount: u64, unreported: u64) -> Hold {
        let amount = amount.max(1);
        Hold {
            limit: Arc::clone(&self.name),
            counter_id,
            counter,
            amount,
            unreported: unreported.min(amount),
            by_principal: self.needs_principal(),
            is_shadow: self.is_shadow,
        }
    }
}

/// The counter whose units are spent when they are admitted.
const fn at_admission(counter: Counter) -> Counter {
    match counter {
        Counter::Bucket { interval, burst } => Counter::Rate { interval, burst },
        Counter::Budget { limit, ends } | Counter::Cost { limit, ends } => {
            Counter::Requests { limit, ends }
        }
        other => other,
    }
}

/// The identity of the counter that bounds the debt of another one.
fn debt_of(id: BucketId) -> BucketId {
    BucketId::of([&id.bytes()[..], b"debt"].concat())
}

/// A counter that is larger by a part of its size.
fn with_debt(counter: Counter, percent: u64) -> Counter {
    let larger = |size: u64| size.saturating_add(part_of(size, percent)).min(MAX_COUNT);
    match counter {
        Counter::Bucket { interval, burst } => Counter::Bucket { interval, burst: larger(burst) },
        Counter::Budget { limit, ends } => Counter::Budget { limit: larger(limit), ends },
        Counter::Cost { limit, ends } => Counter::Cost { limit: larger(limit), ends },
        other => other,
    }
}

/// A part of a number, in percent.
fn part_of(size: u64, percent: u64) -> u64 {
    u64::try_from(u128::from(size) * u128::from(percent) / 100).unwrap_or(u64::MAX)
}

/// The units of a counter.
const fn size_of(counter: Counter) -> u64 {
    match counter {
        Counter::Bucket { burst, .. } | Counter::Rate { burst, .. } => burst,
        Counter::Budget { limit, .. }
        | Counter::Cost { limit, .. }
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
pub(crate) fn token_budget(principal: &Principal, limit: u64, tokens: Amounts) -> Held {
    let token = BucketId::from(principal.revocation().token().fingerprint());
    let counter = Counter::Budget { limit, ends: principal.validity().until };
    let amount = tokens.fixed.unwrap_or(tokens.bound).max(1);
    let is_fixed = tokens.fixed.is_some();
    let hold = Hold {
        limit: TOKEN_BUDGET.into(),
        counter_id: BucketId::of([TOKEN_BUDGET.as_bytes(), &token.bytes()].concat()),
        counter: if is_fixed { at_admission(counter) } else { counter },
        amount,
        unreported: if is_fixed { 0 } else { amount },
        by_principal: true,
        is_shadow: false,
    };
    Held { hold, kind: LimitKind::TokenBudget, limit, window: 0 }
}

/// The claim with the budget of a token, and the name of its limit.
pub(crate) const TOKEN_BUDGET: &str = "token_budget";
