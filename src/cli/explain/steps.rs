//! The steps of a decision, printed from what the core recorded: its evidence and its details. No
//! step is repeated here.

use std::net::IpAddr;

use serde_json::{Value, json};
use tollgate_core::{
    admission::{AdmitRequest, Outage},
    authenticate::{self, Verified},
    ban::{Ban, holder_entries},
    check::{CheckHooks, Prepared, prepare},
    credential::{Credential, api_key::ApiKey, certificate},
    decision::{Decision, Evidence, Outcome},
    denial::{Denial, Reason},
    details::{ConditionResult, Details},
    identity::{CredentialKind, Omitted, Principal},
    limit::{
        BucketId, Charge, Counter, Hold, LimitStatus, refusal::Refusal, reservation::ReservationId,
        usage_history::LearntUsage,
    },
    request::Headers,
    route::{OnOutage, Route},
    rule::{model::ModelSource, scope::ScopeRule},
    snapshot::Snapshot,
    stage::{Check, Stage},
    time::{Span, Timestamp},
};

use super::keys::PolicyKeys;
use crate::{
    cli::token_view,
    observe::rfc3339::Rfc3339,
    policy_test::{self, Body, Case, Differences, Ledger, LedgerHooks, Observed, Request},
};

/// The request to explain, and what is known about it.
pub(super) struct ExplainInput<'a> {
    pub(super) found: &'a PolicyKeys,
    pub(super) request: &'a Request,
    pub(super) now: Timestamp,
    /// `body.max`, where the configuration is a whole file.
    pub(super) max_body: Option<usize>,
    pub(super) outage: Option<Outage>,
    /// Whether the state of the store is assumed: nothing is revoked or banned, and every bucket
    /// is full.
    pub(super) assumed: bool,
}

/// The steps of a decision, and the answer.
pub(in crate::cli) struct Explanation {
    pub(super) case: Option<String>,
    pub(super) now: Timestamp,
    pub(super) steps: Vec<Step>,
    pub(super) outcome: Outcome,
    pub(super) observed: Observed,
    pub(super) expected: Option<Result<(), Differences>>,
    /// Whether the answer is unknown, because the keys of the token's issuer, or the records of API
    /// keys, are not here.
    pub(super) unknown: bool,
}

/// One step of a decision.
pub(super) struct Step {
    pub(super) stage: Stage,
    pub(super) state: State,
    pub(super) facts: Vec<(&'static str, Value)>,
}

/// The result of a step.
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
    /// Adds the name of a case and the comparison with what it expects.
    pub(super) fn of(mut self, case: &Case) -> Self {
        self.case = Some(case.name.clone());
        self.expected =
            case.expect.as_ref().map(|expect| policy_test::compare(expect, &self.observed));
        self
    }

    /// Whether the request would be forwarded.
    pub(super) fn allows(&self) -> bool {
        matches!(self.outcome.decision, Decision::Allow(_))
    }

    /// The comparison with what the case expects; `None` without an expectation.
    pub(in crate::cli) fn expectation(&self) -> Option<&Result<(), Differences>> {
        self.expected.as_ref()
    }

    /// The decision on the request.
    pub(in crate::cli) fn decision(&self) -> &Decision {
        &self.outcome.decision
    }

    /// Whether the answer is as the case expects; `None` without an expectation.
    pub(super) fn is_as_expected(&self) -> Option<bool> {
        self.expected.as_ref().map(Result::is_ok)
    }
}

/// Hooks that record details, and find the refusals of earlier requests.
struct Recorder<'a> {
    details: Details,
    earlier: LedgerHooks<'a>,
}

impl CheckHooks for Recorder<'_> {
    fn verify(
        &mut self,
        snapshot: &Snapshot,
        credential: Credential<'_>,
        now: Timestamp,
    ) -> Verified {
        self.earlier.verify(snapshot, credential, now)
    }

    fn verify_from_banned(
        &mut self,
        snapshot: &Snapshot,
        credential: Credential<'_>,
        address: IpAddr,
        now: Timestamp,
    ) -> Option<Verified> {
        self.earlier.verify_from_banned(snapshot, credential, address, now)
    }

    fn network_ban(&self, address: IpAddr, now: Timestamp) -> Option<Ban> {
        self.earlier.network_ban(address, now)
    }

    fn has_refusals(&self, now: Timestamp) -> bool {
        self.earlier.has_refusals(now)
    }

    fn refusal(&self, charge: &Charge) -> Option<Refusal> {
        self.earlier.refusal(charge)
    }

    fn reservation_id(&mut self) -> Option<ReservationId> {
        self.earlier.reservation_id()
    }

    fn learnt_usage(&self, history: BucketId) -> Option<LearntUsage> {
        self.earlier.learnt_usage(history)
    }

    fn details(&mut self) -> Option<&mut Details> {
        Some(&mut self.details)
    }
}

/// Decides the request and lists the steps.
pub(super) fn explain(input: &ExplainInput<'_>, mut store: Ledger) -> Explanation {
    let snapshot = &input.found.snapshot;
    let too_large = matches!((&input.request.body, input.max_body), (Body::Whole(bytes), Some(max)) if bytes.len() > max);
    let mut recorder = Recorder { details: Details::default(), earlier: store.hooks() };
    let prepared =
        (!too_large).then(|| prepare(snapshot, input.request.raw(), input.now, &mut recorder));
    let details = recorder.details;
    let (outcome, admit_request) = match prepared {
        None => (
            Outcome::refused(Denial::new(Reason::BodyTooLarge, "the body is larger than body.max")),
            None,
        ),
        Some(Prepared::Decided(outcome)) => (outcome, None),
        Some(Prepared::Pending(pending)) => {
            let admit_request = pending.admit_request().clone();
            (store.conclude(pending, input.now, input.outage), Some(admit_request))
        }
    };
    let record = Record {
        input,
        evidence: &outcome.evidence,
        details: &details,
        admit_request: admit_request.as_ref(),
        denied: match &outcome.decision {
            Decision::Deny(denial) => Some(denial.reason),
            Decision::Allow(_) | Decision::Fail(_) => None,
        },
    };
    let failed =
        (!matches!(outcome.decision, Decision::Allow(_))).then_some(outcome.evidence.stage);
    let is_remote = record
        .issuer()
        .and_then(|index| input.found.sources.get(index))
        .is_some_and(|source| source.is_remote);
    // A key of a source that is not here may be known there.
    let is_key_elsewhere = record.denied == Some(Reason::NotReady) && record.api_key().is_some();
    // The endpoint of an issuer is not called here.
    let is_token_elsewhere =
        outcome.evidence.unknown_token().is_some() && !input.found.knows_statements;
    let unknown = (is_remote || is_key_elsewhere || is_token_elsewhere)
        && failed == Some(Stage::Verification(Check::Key));
    // The checks of a credential are one step.
    let stages = Stage::ALL
        .into_iter()
        .filter(|stage| !matches!(stage, Stage::Verification(check) if *check != Check::Shape));
    let steps = stages.map(|stage| record.step(stage, failed)).collect();
    let observed = Observed::of(&outcome, snapshot, "explain");
    Explanation { case: None, now: input.now, steps, outcome, observed, expected: None, unknown }
}

/// The data that steps are described from.
struct Record<'a> {
    input: &'a ExplainInput<'a>,
    evidence: &'a Evidence,
    details: &'a Details,
    admit_request: Option<&'a AdmitRequest>,
    /// The reason of the denial; `None` where the request is not denied.
    denied: Option<Reason>,
}

type Facts = Vec<(&'static str, Value)>;

/// Returns the result of a stage, where `failed` is the stage that denied the request.
fn state(stage: Stage, failed: Option<Stage>, needed: bool) -> State {
    match failed {
        Some(failed) if failed == stage => State::Failed,
        Some(failed) if failed < stage => State::NotReached,
        _ if needed => State::Passed,
        _ => State::NotNeeded,
    }
}

impl Record<'_> {
    fn step(&self, stage: Stage, failed: Option<Stage>) -> Step {
        let public = self.evidence.route.as_ref().is_some_and(|route| route.public);
        let route = self.evidence.route.as_deref();
        let needed = match stage {
            Stage::Request | Stage::Route => true,
            Stage::Transport => self.input.found.snapshot.policy.require_https,
            Stage::Credential | Stage::Verification(_) | Stage::Scopes => !public,
            Stage::Model => route.is_some_and(|route| route.model.is_some()),
            Stage::Conditions => route.is_some_and(|route| !route.conditions.is_empty()),
            Stage::Body | Stage::Content => route.is_some_and(Route::reads_body),
            Stage::Network => failed == Some(Stage::Network),
            Stage::Refusals => failed == Some(Stage::Refusals),
            Stage::Limits => {
                route.is_some_and(|route| !(route.limits.is_empty() && route.holds.is_empty()))
            }
            Stage::Store => self.admit_request.is_some_and(|request| !request.is_empty()),
        };
        let state = match (stage, failed) {
            (Stage::Verification(_), Some(Stage::Verification(_))) => State::Failed,
            _ => state(stage, failed, needed),
        };
        let facts = match (stage, state) {
            (Stage::Request, _) => self.request(),
            (_, State::NotReached | State::NotNeeded) => Vec::new(),
            (Stage::Transport, _) => vec![("scheme", json!(self.input.request.scheme))],
            (Stage::Network, _) => self
                .input
                .request
                .address
                .map(|address| ("address", json!(address)))
                .into_iter()
                .collect(),
            (Stage::Route, _) => route.map(route_facts).unwrap_or_default(),
            (Stage::Credential, _) => self.credential(),
            (Stage::Verification(_), _) => self.token(failed),
            (Stage::Scopes, _) => self.scopes(),
            (Stage::Model, _) => self.model(),
            (Stage::Conditions, _) => self.conditions(),
            (Stage::Body, _) => Vec::new(),
            (Stage::Content, _) => self.content(),
            (Stage::Limits, _) => self.admit_request.map(limit_facts).unwrap_or_default(),
            (Stage::Refusals, _) => self.answers(),
            (Stage::Store, _) => self.store(),
        };
        Step { stage, state, facts }
    }

    fn request(&self) -> Facts {
        let raw = self.input.request;
        let mut facts = vec![
            ("method", json!(raw.method)),
            ("host", json!(raw.host)),
            ("path", json!(raw.path)),
        ];
        if let Some(request) = &self.details.request {
            facts = vec![
                ("method", json!(request.method)),
                ("host", json!(request.host)),
                ("path", json!(request.path)),
            ];
            if let Some(decoded) = &request.decoded_path {
                facts.push(("decoded path", json!(decoded)));
            }
            facts.push(("https", json!(request.secure)));
            if !request.spoofed.is_empty() {
                facts.push(("identity headers of the client", json!(request.spoofed)));
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

    /// Returns the token of the cookie, or of the only `Authorization` header, verified or not.
    fn sent(&self) -> Option<&str> {
        if self.evidence.credential == Some(CredentialKind::Cookie) {
            let cookies = self.input.found.snapshot.policy.cookies.as_ref()?;
            let token = cookies.token(&self.headers()).ok().flatten()?;
            return std::str::from_utf8(token).ok();
        }
        let headers = &self.input.request.headers;
        let mut values =
            headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("authorization"));
        let text = std::str::from_utf8(&values.next()?.1).ok()?;
        text.split_once(' ')
            .map(|(_, token)| token.trim_start())
            .filter(|_| values.next().is_none())
    }

    fn headers(&self) -> Headers<'_> {
        let mut headers = Headers::default();
        for (name, value) in &self.input.request.headers {
            headers.push(name, value);
        }
        headers
    }

    /// Returns the API key of the request, if that is its credential.
    fn api_key(&self) -> Option<ApiKey<'_>> {
        if self.evidence.credential == Some(CredentialKind::OpaqueToken) {
            return None;
        }
        let keys = self.input.found.snapshot.policy.api_keys.as_ref();
        match authenticate::extract(&self.headers(), keys) {
            Ok(Credential::ApiKey(key)) => Some(key),
            _ => None,
        }
    }

    fn credential(&self) -> Facts {
        if let Some(key) = self.api_key() {
            let id =
                key.id().map_or_else(|| "none: a foreign format".to_owned(), |id| id.to_string());
            return vec![("kind", json!("api_key")), ("key id", json!(id))];
        }
        if self.evidence.credential == Some(CredentialKind::Certificate) {
            let names = certificate::names_of(self.input.request.certificate.as_bytes());
            let names = names.into_iter().map(|(kind, name)| (kind, json!(name)));
            return std::iter::once(("kind", json!("certificate"))).chain(names).collect();
        }
        let name = match self.evidence.credential {
            Some(CredentialKind::Cookie) => "cookie",
            Some(CredentialKind::OpaqueToken) => "opaque token",
            _ => "bearer token",
        };
        self.sent()
            .map(|token| (name, json!(format!("{} bytes", token.len()))))
            .into_iter()
            .collect()
    }

    /// Returns the index of the issuer that the token names.
    fn issuer(&self) -> Option<usize> {
        let claims = token_view::decode(self.sent()?)?.claims;
        let iss = match claims.get("iss") {
            None => None,
            Some(iss) => Some(iss.as_str()?),
        };
        let issuers = &self.input.found.snapshot.policy.issuers;
        let issuer = issuers.select(iss, claims.get("sub").and_then(Value::as_str))?;
        issuers.list().iter().position(|known| known.name == issuer.name)
    }

    /// Returns the sources of API keys that were looked through, and the record of the key.
    fn key_record(&self, key: ApiKey<'_>) -> Facts {
        let snapshot = &self.input.found.snapshot;
        let Some(keys) = &snapshot.policy.api_keys else { return Vec::new() };
        let mut facts = Vec::new();
        for (index, table) in snapshot.api_keys.iter().enumerate() {
            let is_redis = keys.redis_source() == Some(index);
            let name = if is_redis { "keys in Redis" } else { "keys of the file" };
            let note = match (table, is_redis) {
                (Some(table), _) => format!("{} records", table.len()),
                (None, true) => {
                    let max = keys.redis.map_or(0, |keys| keys.max);
                    format!(
                        "not here: `tollgate keys show --config FILE` prints a record; beyond {max} records (`replicate.max`) each is looked up when its key is used, and `/readyz` has their number"
                    )
                }
                (None, false) => "the file is not here".to_owned(),
            };
            facts.push((name, json!(note)));
        }
        let mut tables = snapshot.api_keys.iter().flatten();
        let Some(record) = tables.find_map(|table| table.find(key)) else {
            facts.push(("record", json!("none")));
            return facts;
        };
        let moment = |at| json!(Rfc3339(at).to_string());
        facts.push(("record", json!(record.id)));
        facts.push(("state", json!(record.state(self.input.now, &keys.lifetimes).label())));
        facts.push(("created", moment(record.created)));
        facts.push(("issued", moment(record.current.issued)));
        facts.push(("expires", moment(record.end(&keys.lifetimes))));
        let previous = record.previous.as_ref();
        facts.extend(previous.map(|old| ("previous secret until", moment(old.until))));
        if self.evidence.principal.is_none() {
            facts.push(("subject of the record", json!(record.subject)));
            let tenant = record.tenant.as_ref();
            facts.extend(tenant.map(|tenant| ("tenant of the record", json!(tenant))));
        }
        facts.extend(record.owner.as_ref().map(|owner| ("owner", json!(owner))));
        if !record.labels.is_empty() {
            let labels = record.labels.iter().map(|(name, value)| format!("{name}={value}"));
            facts.push(("labels", json!(labels.collect::<Vec<_>>())));
        }
        facts
    }

    fn token(&self, failed: Option<Stage>) -> Facts {
        let PolicyKeys { snapshot, sources, .. } = self.input.found;
        let decoded = self.sent().and_then(token_view::decode);
        let mut facts =
            decoded.as_ref().map(|decoded| said(decoded, self.input.now)).unwrap_or_default();
        facts.extend(self.api_key().map(|key| self.key_record(key)).unwrap_or_default());
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
            Stage::ALL
                .into_iter()
                .filter_map(|stage| match stage {
                    Stage::Verification(check) => {
                        Some(json!([check.label(), state(stage, failed, true).label()]))
                    }
                    _ => None,
                })
                .collect(),
        ));
        if let Some(principal) = &self.evidence.principal {
            let jti = decoded
                .as_ref()
                .and_then(|decoded| decoded.claims.get("jti"))
                .filter(|jti| !jti.is_null());
            facts.extend(principal_facts(principal, jti));
        }
        facts
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
        let omitted = self.evidence.principal.iter().filter_map(|held| held.omitted());
        let omitted = omitted.flat_map(Omitted::reasons);
        let omitted = omitted.map(|why| ("left out", json!(why)));
        // A token with `a,b` holds one scope of that name (RFC 6749 section 3.3).
        let joined = self.evidence.principal.iter().flat_map(|held| held.scopes());
        let joined = joined.filter(|scope| scope.contains(',')).map(|scope| {
            ("one scope", json!(format!("`{scope}`: only a space separates scopes, not a comma")))
        });
        needed.into_iter().chain(held).chain(omitted).chain(joined).collect()
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

    /// Returns each condition with its value, those after the denying one included.
    fn conditions(&self) -> Facts {
        let shown = |result: &ConditionResult| {
            let value = match &result.value {
                Ok(value) => value.to_string(),
                Err(reason) => format!("no value: {reason}"),
            };
            let shadow = in_shadow(result.is_shadow);
            ("condition", json!(format!("`{}`: {value}{shadow}", result.name)))
        };
        self.details.conditions.iter().map(shown).collect()
    }

    fn content(&self) -> Facts {
        let categories = &self.details.categories;
        if categories.is_empty() { Vec::new() } else { vec![("categories", json!(categories))] }
    }

    /// Returns the state of each limit.
    fn answers(&self) -> Facts {
        let answer = |status: &LimitStatus| {
            let verdict = &status.verdict;
            let room = if verdict.admitted { "room" } else { "no room" };
            let text = format!(
                "`{}`: {room}, {} of {} left",
                status.name, verdict.remaining, status.limit
            );
            ("answer", json!(text))
        };
        self.evidence.limits.iter().map(answer).collect()
    }

    fn store(&self) -> Facts {
        let mut facts = Vec::new();
        let Some(admit_request) = self.admit_request else { return facts };
        if let Some(keys) = &admit_request.revocation {
            let ours = keys.exact().chain(keys.before()).map(|(_, key)| key);
            let listed: Vec<String> = ours.chain(keys.foreign.iter().cloned()).collect();
            if self.denied == Some(Reason::Banned) {
                let holder = holder_entries(keys).map(|(_, entry)| entry.key());
                facts.push(("banned by one of", json!(holder.collect::<Vec<_>>())));
            } else {
                let is_revoked = self.denied == Some(Reason::Revoked);
                let name = if is_revoked { "revoked by one of" } else { "would be revoked by" };
                facts.push((name, json!(listed)));
            }
        }
        if let Some(route) = &self.evidence.route {
            facts.push(("on outage", json!(outage_word(route.on_outage))));
        }
        facts.extend(self.answers());
        if let Some(outage) = self.evidence.outage {
            facts.push(("outage", json!(outage.label())));
        }
        if self.input.assumed {
            facts
                .push(("assumed", json!("nothing is revoked or banned, and every bucket is full")));
        }
        facts
    }
}

/// Returns the contents of a token, verified or not.
fn said(decoded: &token_view::DecodedToken, now: Timestamp) -> Facts {
    let header = [("claimed alg", "alg"), ("claimed kid", "kid"), ("claimed typ", "typ")];
    let claims = [("claimed iss", "iss"), ("claimed aud", "aud"), ("claimed sub", "sub")];
    let dates = [("claimed iat", "iat"), ("claimed nbf", "nbf"), ("claimed exp", "exp")];
    let plain = header
        .iter()
        .map(|pair| (pair, &decoded.header))
        .chain(claims.iter().map(|pair| (pair, &decoded.claims)));
    let mut facts: Facts = plain
        .filter_map(|((said, name), object)| Some((*said, object.get(*name)?.clone())))
        .collect();
    for (said, name) in dates {
        let Some(value) = decoded.claims.get(name) else { continue };
        let moment = token_view::date(value, now).map(|moment| json!(format!("{value}, {moment}")));
        facts.push((said, moment.unwrap_or_else(|| value.clone())));
    }
    facts
}

fn route_facts(route: &Route) -> Facts {
    let mut facts = vec![("name", json!(route.name)), ("public", json!(route.public))];
    let rates = route.limits.iter().map(|limit| &*limit.name);
    let limits: Vec<&str> = rates.chain(route.holds.iter().map(|limit| &*limit.name)).collect();
    if !limits.is_empty() {
        facts.push(("limits", json!(limits)));
    }
    facts
}

/// Returns the facts of a principal. `jti` is the token's own: a principal stores its digest.
fn principal_facts(principal: &Principal, jti: Option<&Value>) -> Facts {
    let mut facts = vec![
        ("subject", json!(principal.subject())),
        ("holder", json!(principal.holder().label())),
    ];
    if let Some(key) = principal.key() {
        facts.push(("key id", json!(key.id)));
        facts.extend(key.tier.as_ref().map(|tier| ("tier", json!(tier))));
        facts.extend(key.models.as_ref().map(|models| ("models of the key", json!(models))));
        facts.extend(key.networks.as_ref().map(|list| ("networks of the key", json!(list))));
        let limits = key.limits.iter().map(|(name, rate)| format!("`{name}`: {rate}"));
        let limits: Vec<String> = limits.collect();
        if !limits.is_empty() {
            facts.push(("limits of the key", json!(limits)));
        }
        if key.weak {
            facts.push(("weak", json!("a foreign format; rotate the key")));
        }
    }
    facts.extend(principal.tenant().map(|tenant| ("tenant", json!(tenant))));
    facts.extend(principal.client().map(|client| ("client", json!(client))));
    let actors = principal.actors().map(|actor| {
        let is_own = actor.issuer == principal.issuer();
        let of = if is_own { String::new() } else { format!(" of `{}`", actor.issuer) };
        ("actor", json!(format!("`{}`{of}", actor.subject)))
    });
    facts.extend(actors);
    facts.push(("roles", json!(principal.roles().collect::<Vec<_>>())));
    facts.push(("scopes", json!(principal.scopes().collect::<Vec<_>>())));
    facts.extend(jti.map(|jti| ("jti", jti.clone())));
    facts.push(("good until", json!(token_view::whole_seconds(principal.expires_at()))));
    facts
}

fn limit_facts(admit_request: &AdmitRequest) -> Facts {
    let shown = |charge: &Charge| {
        let Charge { limit, interval, burst, cost, lease, is_shadow, .. } = charge;
        let every = Span::from_micros(*interval);
        let lease =
            lease.map_or(String::new(), |terms| format!(", leased by {} at most", terms.slice));
        json!(format!(
            "`{limit}`: {cost} of {burst}, one more every {every}, in bucket {}{lease}{}",
            charge.key(),
            in_shadow(*is_shadow)
        ))
    };
    let charges = admit_request.charges.iter().map(|charge| ("charge", shown(charge)));
    let holds = admit_request.reservation.iter().flat_map(|reservation| &reservation.holds);
    charges.chain(holds.map(|hold| ("hold", json!(hold_text(hold))))).collect()
}

/// Returns the words for a limit in shadow.
const fn in_shadow(is_shadow: bool) -> &'static str {
    if is_shadow { ", in shadow" } else { "" }
}

/// Returns what a request holds of a counter.
fn hold_text(hold: &Hold) -> String {
    let Hold { limit, amount, counter, unreported, .. } = hold;
    let of = match counter {
        Counter::Bucket { interval, burst } | Counter::Rate { interval, burst } => {
            format!("{burst}, one more every {}", Span::from_micros(*interval))
        }
        Counter::Budget { limit, ends } | Counter::Requests { limit, ends } => {
            format!("{limit} until {}", token_view::whole_seconds(ends.secs()))
        }
        Counter::Slots { limit } => format!("{limit} at once"),
    };
    let ends = match counter {
        Counter::Rate { .. } | Counter::Requests { .. } => ", spent at admission".to_owned(),
        Counter::Bucket { .. } | Counter::Budget { .. } if unreported < amount => {
            format!(", {unreported} at least if no usage is reported")
        }
        Counter::Bucket { .. } | Counter::Budget { .. } | Counter::Slots { .. } => String::new(),
    };
    format!("`{limit}`: {amount} of {of}{ends}, in {}{}", hold.key(), in_shadow(hold.is_shadow))
}

/// Returns the place where a request names its model, as configured.
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
