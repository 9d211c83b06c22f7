//! What is known of each step of a decision.

use serde_json::{Value, json};
use tollgate_core::{
    admission::AdmitRequest,
    authenticate,
    ban::holder_entries,
    credential::{Credential, api_key::ApiKey, certificate},
    decision::Evidence,
    denial::Reason,
    details::{ConditionResult, Details},
    identity::{CredentialKind, Omitted},
    limit::LimitStatus,
    request::Headers,
    route::Route,
    rule::scope::ScopeRule,
    stage::Stage,
};

use super::{
    facts::{
        Facts, in_shadow, limit_facts, outage_word, place, principal_facts, route_facts,
        token_facts,
    },
    keys::PolicyKeys,
    steps::{ExplainInput, State, Step},
};
use crate::{cli::token_view, observe::rfc3339::Rfc3339, policy_test::Body};

/// The data that steps are described from.
pub(super) struct Record<'a> {
    pub(super) input: &'a ExplainInput<'a>,
    pub(super) evidence: &'a Evidence,
    pub(super) details: &'a Details,
    pub(super) admit_request: Option<&'a AdmitRequest>,
    /// The reason of the denial; `None` where the request is not denied.
    pub(super) denied: Option<Reason>,
}

impl Record<'_> {
    /// Describes a stage, where `failed` is the one that denied the request.
    pub(super) fn step(&self, stage: Stage, failed: Option<Stage>) -> Step {
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
    pub(super) fn api_key(&self) -> Option<ApiKey<'_>> {
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
    pub(super) fn issuer(&self) -> Option<usize> {
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
        let mut facts = decoded
            .as_ref()
            .map(|decoded| token_facts(decoded, self.input.now))
            .unwrap_or_default();
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

/// Returns the result of a stage, where `failed` is the stage that denied the request.
fn state(stage: Stage, failed: Option<Stage>, needed: bool) -> State {
    match failed {
        Some(failed) if failed == stage => State::Failed,
        Some(failed) if failed < stage => State::NotReached,
        _ if needed => State::Passed,
        _ => State::NotNeeded,
    }
}
