//! Limits of whose counters a request holds units.

use std::sync::Arc;

use super::{
    bucket::BucketId,
    config::{LimitConfig, SizeKeys},
    counted_by::{ChargeSubject, CountedBy},
    hold::{Counter, Hold},
    kind::LimitKind,
    per_request::PerRequest,
    requests::RequestWindows,
    selector::Selector,
    sizes::Sizes,
};
use crate::{
    config::{Errors, Path},
    denial::{Denial, Reason},
    identity::Part,
    time::{Quota, Timestamp, WindowQuota},
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
    PerRequest(Sizes<PerRequest>),
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
        let kind = if kind == Some("tokens_per_request") {
            Kind::PerRequest(Sizes::compile(config, path, errors)?)
        } else {
            Kind::Requests(RequestWindows::compile(config, path, errors)?)
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
        matches!(self.kind, Kind::PerRequest(_))
    }

    fn selectors(&self) -> Box<dyn Iterator<Item = &Selector> + '_> {
        match &self.kind {
            Kind::Requests(requests) => Box::new(requests.sizes.selectors()),
            Kind::PerRequest(sizes) => Box::new(sizes.selectors()),
        }
    }

    /// Whether the record of a key may set a quota for the limit.
    pub(super) fn fits(&self, quota: Quota) -> bool {
        match &self.kind {
            Kind::Requests(requests) => requests.sizes.fits(quota),
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
        match &self.kind {
            Kind::Requests(requests) => self.requests(requests, id, facts, now).map(Demand::Hold),
            Kind::PerRequest(sizes) => {
                let PerRequest(most) = sizes.of(&self.name, facts.principal)?;
                Ok(if tokens > most { Demand::TooLarge(most) } else { Demand::Nothing })
            }
        }
    }

    fn requests(
        &self,
        requests: &RequestWindows,
        id: BucketId,
        facts: &ChargeSubject<'_>,
        now: Timestamp,
    ) -> Result<Held, Denial> {
        let WindowQuota { count: limit, unit } = requests.sizes.of(&self.name, facts.principal)?;
        let window = requests.windows.at(now).ok_or_else(|| {
            Denial::new(Reason::Internal, "the clock of this process is beyond the year 9999")
        })?;
        // Each window is a counter of its own.
        let starts = window.starts.micros();
        let name = [&id.bytes()[..], unit.label().as_bytes(), &starts.to_be_bytes()].concat();
        let hold = Hold {
            limit: Arc::clone(&self.name),
            counter_id: BucketId::of(name),
            counter: Counter::Requests { limit, ends: window.ends },
            amount: 1,
            unreported: 0,
            by_principal: self.needs_principal(),
        };
        let window = window.ends.micros().saturating_sub(starts);
        Ok(Held { hold, kind: LimitKind::Requests, limit, window })
    }
}
