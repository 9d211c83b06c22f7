//! The steps of a decision, with what each of them saw. The decision itself is the core's own: nothing is decided here.

use serde_json::{Value, json};
use tollgate_core::{
    admission::{AdmitRequest, Outage},
    check::{Prepared, prepare},
    credential::{self, jwt::Check},
    decision::{Decision, Evidence, Outcome},
    denial::{Denial, Reason},
    identity::Principal,
    limit::Charge,
    pattern::Captures,
    request::Request as Parsed,
    route::{OnOutage, Route},
    rule::{
        condition::{Activation, Condition},
        model::ModelSource,
        scope::ScopeRule,
    },
    time::{Span, Timestamp},
};

use super::keys::Found;
use crate::{
    cli::peek,
    policy_test::{self, Body, Case, Ledger, Observed, Request},
};

/// What is explained.
pub(super) struct Question<'a> {
    pub(super) found: &'a Found,
    pub(super) request: &'a Request,
    pub(super) now: Timestamp,
    /// `body.max`, where the configuration is a whole file.
    pub(super) max_body: Option<usize>,
    pub(super) outage: Option<Outage>,
    /// Nothing is known of the store: nothing is revoked, and every bucket is full.
    pub(super) assumed: bool,
}

/// The steps, and the answer.
pub(super) struct Explanation {
    pub(super) case: Option<String>,
    pub(super) now: Timestamp,
    pub(super) steps: Vec<Step>,
    pub(super) outcome: Outcome,
    pub(super) observed: Observed,
    pub(super) expected: Option<Result<(), String>>,
    /// The keys of the token's issuer are not here, so that the answer cannot be told.
    pub(super) unknown: bool,
}

/// One step.
pub(super) struct Step {
    pub(super) stage: Stage,
    pub(super) state: State,
    pub(super) facts: Vec<(&'static str, Value)>,
}

/// The steps in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    Request,
    Transport,
    Route,
    Credential,
    Token,
    Scopes,
    Body,
    Model,
    Conditions,
    Content,
    Limits,
    Store,
}

impl Stage {
    const ALL: [Self; 12] = [
        Self::Request,
        Self::Transport,
        Self::Route,
        Self::Credential,
        Self::Token,
        Self::Scopes,
        Self::Body,
        Self::Model,
        Self::Conditions,
        Self::Content,
        Self::Limits,
        Self::Store,
    ];

    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Transport => "transport",
            Self::Route => "route",
            Self::Credential => "credential",
            Self::Token => "token",
            Self::Scopes => "scopes",
            Self::Body => "body",
            Self::Model => "model",
            Self::Conditions => "conditions",
            Self::Content => "content",
            Self::Limits => "limits",
            Self::Store => "store",
        }
    }
}

/// How a step went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Passed,
    Failed,
    NotNeeded,
    NotReached,
}

impl State {
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::NotNeeded => "not needed",
            Self::NotReached => "not reached",
        }
    }
}

impl Explanation {
    /// The same, as a case of a file.
    pub(super) fn of(mut self, case: &Case) -> Self {
        self.case = Some(case.name.clone());
        self.expected =
            case.expect.as_ref().map(|expect| policy_test::check(expect, &self.observed));
        self
    }

    /// Whether the request would go on.
    pub(super) fn allows(&self) -> bool {
        matches!(self.outcome.decision, Decision::Allow(_))
    }

    /// Whether it came out as a case says; `None` where nothing is said.
    pub(super) fn is_as_expected(&self) -> Option<bool> {
        self.expected.as_ref().map(Result::is_ok)
    }
}

/// Decides, and tells each step.
pub(super) fn explain(question: &Question<'_>, mut store: Ledger) -> Explanation {
    let snapshot = &question.found.snapshot;
    let too_large = matches!((&question.request.body, question.max_body), (Body::Whole(bytes), Some(max)) if bytes.len() > max);
    let (outcome, demands) = if too_large {
        (
            Outcome::refused(Denial::new(Reason::BodyTooLarge, "the body is larger than body.max")),
            None,
        )
    } else {
        match prepare(snapshot, question.request.raw(), question.now) {
            Prepared::Done(outcome) => (outcome, None),
            Prepared::Ask(pending) => {
                let demands = pending.admit_request().clone();
                (store.conclude(pending, question.now, question.outage), Some(demands))
            }
        }
    };
    let parsed = Parsed::parse(question.request.raw()).ok().filter(|_| !too_large);
    let told = Told {
        question,
        evidence: &outcome.evidence,
        parsed: parsed.as_ref(),
        demands: demands.as_ref(),
    };
    let failed = told.failed(&outcome);
    let elsewhere = told
        .issuer()
        .and_then(|index| question.found.sources.get(index))
        .is_some_and(|source| source.elsewhere);
    let unknown = elsewhere && outcome.evidence.failed_check == Some(Check::Key);
    let steps = Stage::ALL.into_iter().map(|stage| told.step(stage, failed)).collect();
    let observed = Observed::of(&outcome, snapshot, "explain");
    Explanation { case: None, now: question.now, steps, outcome, observed, expected: None, unknown }
}

/// Everything a step may be told from.
struct Told<'a> {
    question: &'a Question<'a>,
    evidence: &'a Evidence,
    parsed: Option<&'a Parsed<'a>>,
    demands: Option<&'a AdmitRequest>,
}

type Facts = Vec<(&'static str, Value)>;

impl Told<'_> {
    /// The step that denied, if one did. Each is asked again in the order of the check; none of them remembers anything.
    fn failed(&self, outcome: &Outcome) -> Option<Stage> {
        let policy = &self.question.found.snapshot.policy;
        let Some(parsed) = self.parsed else { return Some(Stage::Request) };
        if policy.require_https && !parsed.secure {
            return Some(Stage::Transport);
        }
        let Ok((route, _)) = self.route(parsed) else { return Some(Stage::Route) };
        if !route.public && credential::extract(&parsed.headers).is_err() {
            return Some(Stage::Credential);
        }
        if self.evidence.failed_check.is_some() {
            return Some(Stage::Token);
        }
        if self
            .evidence
            .principal
            .as_ref()
            .is_some_and(|principal| route.scopes.check(principal).is_err())
        {
            return Some(Stage::Scopes);
        }
        if !route.public && route.read_body(parsed).is_err() {
            return Some(Stage::Body);
        }
        if let (None, Decision::Deny(denial)) = (self.demands, &outcome.decision) {
            let without_model = route.model.is_some() && self.evidence.model.is_none();
            return Some(match denial.reason {
                Reason::ConditionFailed => Stage::Conditions,
                _ if without_model => Stage::Model,
                // A limit counts by something that the request or its credential does not have.
                Reason::TenantMismatch
                | Reason::AddressForbidden
                | Reason::ModelMissing
                | Reason::InvalidClaim => Stage::Limits,
                _ => Stage::Content,
            });
        }
        (!matches!(outcome.decision, Decision::Allow(_))).then_some(Stage::Store)
    }

    fn route(&self, parsed: &Parsed<'_>) -> Result<(&Route, Captures), Denial> {
        let routes = &self.question.found.snapshot.policy.routes;
        let (route, captures) = routes.find(&parsed.host, &parsed.path, parsed.method)?;
        Ok((route, captures))
    }

    fn step(&self, stage: Stage, failed: Option<Stage>) -> Step {
        let public = self.evidence.route.as_ref().is_some_and(|route| route.public);
        let route = self.evidence.route.as_deref();
        let needed = match stage {
            Stage::Request | Stage::Route => true,
            Stage::Transport => self.question.found.snapshot.policy.require_https,
            Stage::Credential | Stage::Token | Stage::Scopes => !public,
            Stage::Model => route.is_some_and(|route| route.model.is_some()),
            Stage::Conditions => route.is_some_and(|route| !route.conditions.is_empty()),
            Stage::Body | Stage::Content => route.is_some_and(Route::reads_body),
            Stage::Limits => route.is_some_and(|route| !route.limits.is_empty()),
            Stage::Store => self.demands.is_some_and(|demands| !demands.is_empty()),
        };
        let state = match failed {
            Some(failed) if failed == stage => State::Failed,
            Some(failed) if failed < stage => State::NotReached,
            _ if needed => State::Passed,
            _ => State::NotNeeded,
        };
        let facts = match (stage, state) {
            (Stage::Request, _) => self.request(),
            (_, State::NotReached | State::NotNeeded) => Vec::new(),
            (Stage::Transport, _) => vec![("scheme", json!(self.question.request.scheme))],
            (Stage::Route, _) => route.map(route_facts).unwrap_or_default(),
            (Stage::Credential, _) => self.credential(),
            (Stage::Token, _) => self.token(),
            (Stage::Scopes, _) => self.scopes(),
            (Stage::Model, _) => self.model(),
            (Stage::Conditions, _) => self.conditions(),
            (Stage::Body, _) => Vec::new(),
            (Stage::Content, _) => self.content(),
            (Stage::Limits, _) => self.demands.map(limit_facts).unwrap_or_default(),
            (Stage::Store, _) => self.store(),
        };
        Step { stage, state, facts }
    }

    fn request(&self) -> Facts {
        let raw = self.question.request;
        let mut facts = vec![
            ("method", json!(raw.method)),
            ("host", json!(raw.host)),
            ("path", json!(raw.path)),
        ];
        if let Some(parsed) = self.parsed {
            facts = vec![
                ("method", json!(parsed.method)),
                ("host", json!(parsed.host.as_str())),
                ("path", json!(parsed.path.raw())),
            ];
            if parsed.path.is_encoded() {
                facts.push(("decoded path", json!(parsed.path.decoded())));
            }
            facts.push(("https", json!(parsed.secure)));
            let spoofed: Vec<_> = parsed.headers.spoofed().collect();
            if !spoofed.is_empty() {
                facts.push(("identity headers of the client", json!(spoofed)));
            }
        }
        facts.extend(raw.address.map(|address| ("address", json!(address.to_string()))));
        facts.push((
            "body",
            match &raw.body {
                Body::Absent => json!("none"),
                Body::Whole(bytes) => json!(format!("{} bytes", bytes.len())),
                Body::Cut => json!("cut by the proxy"),
            },
        ));
        facts
    }

    /// The token as it was sent, where there is one.
    fn sent(&self) -> Option<&str> {
        let mut values = self.parsed?.headers.all("authorization");
        let text = std::str::from_utf8(values.next()?).ok()?;
        text.split_once(' ')
            .map(|(_, token)| token.trim_start())
            .filter(|_| values.next().is_none())
    }

    fn credential(&self) -> Facts {
        self.sent()
            .map(|token| ("bearer token", json!(format!("{} bytes", token.len()))))
            .into_iter()
            .collect()
    }

    /// The issuer that the token says it is from, by its index.
    fn issuer(&self) -> Option<usize> {
        let claims = peek::peek(self.sent()?)?.claims;
        let iss = claims.get("iss").map_or(Some(""), Value::as_str)?;
        self.question
            .found
            .snapshot
            .policy
            .issuers
            .list()
            .iter()
            .position(|issuer| *issuer.name == *iss)
    }

    fn token(&self) -> Facts {
        let Found { snapshot, sources } = self.question.found;
        let peek = self.sent().and_then(peek::peek);
        let mut facts = peek.as_ref().map(|peek| said(peek, self.question.now)).unwrap_or_default();
        if let Some(index) = self.issuer() {
            if let Some(issuer) = snapshot.policy.issuers.list().get(index) {
                facts.push((
                    "issuer",
                    if issuer.name.is_empty() { json!("absent") } else { json!(*issuer.name) },
                ));
                facts.push(("algorithms of the issuer", json!(issuer.algorithms)));
            }
            facts.extend(
                sources.get(index).map(|source| ("keys of the issuer", json!(source.note))),
            );
            let kids = snapshot
                .keys
                .get(index)
                .and_then(Option::as_ref)
                .map(|keys| keys.kids())
                .filter(|kids| !kids.is_empty());
            facts.extend(kids.map(|kids| ("kids of the issuer", json!(kids))));
        }
        facts.push((
            "checks",
            Value::Array(Check::ALL.iter().map(|check| self.check(*check)).collect()),
        ));
        if let Some(principal) = &self.evidence.principal {
            let jti =
                peek.as_ref().and_then(|peek| peek.claims.get("jti")).filter(|jti| !jti.is_null());
            facts.extend(principal_facts(principal, jti));
        }
        facts
    }

    fn check(&self, check: Check) -> Value {
        let state = match self.evidence.failed_check {
            Some(failed) if failed == check => State::Failed,
            Some(failed) if failed < check => State::NotReached,
            _ => State::Passed,
        };
        json!([check.label(), state.label()])
    }

    fn scopes(&self) -> Facts {
        let needed = self.evidence.route.as_ref().map(|route| match &route.scopes {
            ScopeRule::All(scopes) => ("needed, all of", json!(scopes)),
            ScopeRule::Any(scopes) => ("needed, one of", json!(scopes)),
        });
        let held = self
            .evidence
            .principal
            .as_ref()
            .map(|principal| ("held", json!(principal.scopes().collect::<Vec<_>>())));
        needed.into_iter().chain(held).collect()
    }

    fn model(&self) -> Facts {
        let Some(rule) = self.evidence.route.as_ref().and_then(|route| route.model.as_ref()) else {
            return Vec::new();
        };
        let mut facts = vec![("from", json!(place(&rule.from)))];
        facts.extend(rule.scope().map(|scope| ("scope", json!(scope))));
        facts.extend(self.evidence.model.as_deref().map(|model| ("model", json!(model))));
        facts
    }

    /// Each condition with what it comes to, those behind the one that denied as well.
    fn conditions(&self) -> Facts {
        let Some((parsed, (route, captures))) =
            self.parsed.and_then(|parsed| Some((parsed, self.route(parsed).ok()?)))
        else {
            return Vec::new();
        };
        let (principal, model) =
            (self.evidence.principal.as_deref(), self.evidence.model.as_deref());
        let activation = Activation::new(parsed, &captures, self.question.now, principal, model);
        let told = |condition: &Condition| {
            let value = condition.holds(&activation);
            let value = value
                .map_or_else(|trouble| format!("no value: {trouble}"), |value| value.to_string());
            ("condition", json!(format!("`{}`: {value}", condition.name())))
        };
        route.conditions.iter().map(told).collect()
    }

    fn content(&self) -> Facts {
        let route = self.evidence.route.as_deref();
        let categories = route
            .zip(self.parsed)
            .map(|(route, parsed)| route.categories(parsed))
            .unwrap_or_default();
        if categories.is_empty() { Vec::new() } else { vec![("categories", json!(categories))] }
    }

    fn store(&self) -> Facts {
        let mut facts = Vec::new();
        let Some(demands) = self.demands else { return facts };
        if let Some(keys) = &demands.revocation {
            let ours = keys.exact().chain(keys.before()).map(|(_, key)| key);
            let listed: Vec<String> = ours.chain(keys.foreign.iter().cloned()).collect();
            facts.push(("revoked by", json!(listed)));
        }
        if let Some(route) = &self.evidence.route {
            facts.push(("on outage", json!(outage_word(route.on_outage))));
        }
        for status in &self.evidence.limits {
            let verdict = &status.verdict;
            let room = if verdict.admitted { "room" } else { "no room" };
            facts.push((
                "answer",
                json!(format!(
                    "`{}`: {room}, {} of {} left",
                    status.name, verdict.remaining, status.limit
                )),
            ));
        }
        if let Some(outage) = self.evidence.outage {
            facts.push(("outage", json!(outage.label())));
        }
        if self.question.assumed {
            facts.push(("assumed", json!("nothing is revoked, and every bucket is full")));
        }
        facts
    }
}

/// What a token says of itself, proven or not.
fn said(peek: &peek::Peek, now: Timestamp) -> Facts {
    let header = [("says alg", "alg"), ("says kid", "kid"), ("says typ", "typ")];
    let claims = [("says iss", "iss"), ("says aud", "aud"), ("says sub", "sub")];
    let dates = [("says iat", "iat"), ("says nbf", "nbf"), ("says exp", "exp")];
    let plain = header
        .iter()
        .map(|pair| (pair, &peek.header))
        .chain(claims.iter().map(|pair| (pair, &peek.claims)));
    let mut facts: Facts = plain
        .filter_map(|((said, name), object)| Some((*said, object.get(*name)?.clone())))
        .collect();
    for (said, name) in dates {
        let Some(value) = peek.claims.get(name) else { continue };
        let moment = peek::moment(value, now).map(|moment| json!(format!("{value}, {moment}")));
        facts.push((said, moment.unwrap_or_else(|| value.clone())));
    }
    facts
}

fn route_facts(route: &Route) -> Facts {
    let mut facts = vec![("name", json!(route.name)), ("public", json!(route.public))];
    if !route.limits.is_empty() {
        facts.push((
            "limits",
            json!(route.limits.iter().map(|limit| &*limit.name).collect::<Vec<_>>()),
        ));
    }
    facts
}

/// `jti` is the token's own: of a principal it is kept as a digest.
fn principal_facts(principal: &Principal, jti: Option<&Value>) -> Facts {
    let mut facts = vec![("subject", json!(principal.subject()))];
    facts.extend(principal.tenant().map(|tenant| ("tenant", json!(tenant))));
    facts.extend(principal.client().map(|client| ("client", json!(client))));
    facts.push(("roles", json!(principal.roles().collect::<Vec<_>>())));
    facts.push(("scopes", json!(principal.scopes().collect::<Vec<_>>())));
    facts.extend(jti.map(|jti| ("jti", jti.clone())));
    facts.push(("good until", json!(peek::second(principal.expires_at()))));
    facts
}

fn limit_facts(demands: &AdmitRequest) -> Facts {
    let told = |charge: &Charge| {
        let Charge { limit, bucket: _, interval, burst, cost, lease } = charge;
        let every = Span::from_micros(*interval);
        let lease =
            lease.map_or(String::new(), |terms| format!(", leased by {} at most", terms.slice));
        json!(format!(
            "`{limit}`: {cost} of {burst}, one more every {every}, in bucket {}{lease}",
            charge.key()
        ))
    };
    demands.charges.iter().map(|charge| ("charge", told(charge))).collect()
}

/// Where a request names its model, as the configuration has it.
fn place(source: &ModelSource) -> String {
    match source {
        ModelSource::Body(pointer) => format!("body, `{}`", pointer.last()),
        ModelSource::Form(name) => format!("form:{name}"),
        ModelSource::Path(name) => format!("path:{name}"),
        ModelSource::Query(name) => format!("query:{name}"),
        ModelSource::Header(name) => format!("header:{name}"),
        ModelSource::Fixed(name) => format!("fixed:{name}"),
    }
}

const fn outage_word(on_outage: OnOutage) -> &'static str {
    match on_outage {
        OnOutage::Deny => "deny",
        OnOutage::Error => "error",
        OnOutage::Allow => "allow",
        OnOutage::Local => "local",
    }
}
