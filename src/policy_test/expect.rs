//! The decision that a case expects, the answer that an adapter gives, and their comparison.

use std::{borrow::Cow, collections::BTreeMap};

use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;
use tollgate_core::{
    decision::{
        Decision, Outcome,
        answer::{HeaderList, allowed, denied},
    },
    snapshot::Snapshot,
};

/// The kinds of decision.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The request is forwarded.
    Allow,
    /// The request is denied.
    Deny,
    /// The check fails, and the proxy decides.
    Fail,
}

/// Writes the word of the case file, for the differences that a user reads.
impl std::fmt::Debug for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Fail => "fail",
        })
    }
}

/// `expect` of a case. Omitted fields are not compared.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expectation {
    /// The expected decision.
    pub decision: Verdict,
    /// The HTTP status of a denial.
    pub status: Option<u16>,
    /// The reason, which is `code` in the body.
    pub reason: Option<String>,
    /// A part of the message for the client.
    pub message: Option<String>,
    /// A part of the `WWW-Authenticate` header.
    pub www_authenticate: Option<String>,
    /// Headers of the client's response, with their values.
    #[serde(default)]
    pub response: BTreeMap<String, String>,
    /// Headers that the client's response must have, with any value.
    #[serde(default)]
    pub response_with: Vec<String>,
    /// Headers that the client's response must not have.
    #[serde(default)]
    pub response_without: Vec<String>,
    /// Values in the body of a denial, by JSON pointer.
    #[serde(default)]
    pub body: BTreeMap<String, Value>,
    /// Headers set for the upstream, with their values.
    #[serde(default)]
    pub upstream: BTreeMap<String, String>,
    /// Headers set for the upstream, with any value.
    #[serde(default)]
    pub upstream_with: Vec<String>,
    /// Headers removed from the request.
    #[serde(default)]
    pub removed: Vec<String>,
    /// Headers that are forwarded as the client sent them: neither set nor removed.
    #[serde(default)]
    pub untouched: Vec<String>,
    /// The route's name. This field and the following ones are known to the core only.
    pub route: Option<String>,
    /// The model's policy name.
    pub model: Option<String>,
    /// A part of the cause for the operator.
    pub cause: Option<String>,
    /// The client that the credential was issued to.
    pub client: Option<String>,
    /// The kind of the subject: `user` or `client`.
    pub holder: Option<String>,
    /// The roles, in the credential's order.
    pub roles: Option<Vec<String>>,
    /// The rules and limits in shadow that would deny the request, with their reasons; `{}` for none.
    pub would_deny: Option<BTreeMap<String, String>>,
}

/// An answer as an adapter gives it.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The expected decision.
    pub decision: Verdict,
    /// The HTTP status of a denial.
    pub status: Option<u16>,
    /// The reason: `code` in the body of a denial, or the message of a failed check.
    pub reason: Option<String>,
    /// The body of a denial.
    pub body: Option<Value>,
    /// Headers set for the upstream, with the upstream's credential as `authorization`.
    pub set: Vec<(String, String)>,
    /// Headers removed from the request.
    pub removed: Vec<String>,
    /// Headers of the client's response: of the denial, or added to the upstream's.
    pub response: Vec<(String, String)>,
    /// Facts that only the core knows; `None` for an answer from the wire.
    pub internal: Option<Internal>,
}

/// Facts of a decision that only the core knows.
#[derive(Clone, Debug, Default)]
pub struct Internal {
    /// The route's name.
    pub route: Option<String>,
    /// The model's policy name.
    pub model: Option<String>,
    /// The cause for the operator.
    pub cause: String,
    /// The client that the credential was issued to.
    pub client: Option<String>,
    /// The kind of the subject.
    pub holder: Option<String>,
    /// The roles of the principal.
    pub roles: Vec<String>,
    /// The rules and limits in shadow that would deny the request, with their reasons.
    pub would_deny: BTreeMap<String, String>,
}

impl Observed {
    /// Returns the answer of the core, with the headers and the body of every adapter.
    pub fn of(outcome: &Outcome, snapshot: &Snapshot, decision_id: &str) -> Self {
        let Outcome { decision, evidence } = outcome;
        let owned = |list: HeaderList| {
            list.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
        };
        let internal = Internal {
            route: evidence.route.as_ref().map(|route| route.name.clone()),
            model: evidence.model.as_deref().map(str::to_owned),
            cause: String::new(),
            would_deny: evidence
                .would_deny
                .iter()
                .map(|denial| (denial.rule.clone(), denial.reason.code().to_owned()))
                .collect(),
            client: evidence
                .principal
                .as_ref()
                .and_then(|principal| principal.client().map(str::to_owned)),
            holder: evidence
                .principal
                .as_ref()
                .map(|principal| principal.holder().label().to_owned()),
            roles: evidence
                .principal
                .as_ref()
                .map(|principal| principal.roles().map(str::to_owned).collect())
                .unwrap_or_default(),
        };
        let mut observed = Self {
            decision: Verdict::Fail,
            status: None,
            reason: None,
            body: None,
            set: Vec::new(),
            removed: Vec::new(),
            response: Vec::new(),
            internal: None,
        };
        let cause = match decision {
            Decision::Allow(grant) => {
                let answer = allowed(grant, evidence, snapshot, decision_id);
                observed.decision = Verdict::Allow;
                observed.set = owned(HeaderList::of(|list| answer.set(list)));
                let credential = answer
                    .upstream_credential
                    .map(|secret| String::from_utf8_lossy(secret.expose()).into_owned());
                observed.set.extend(credential.map(|value| ("authorization".to_owned(), value)));
                observed.removed = answer.removed().map(Cow::into_owned).collect();
                observed.response = owned(HeaderList::of(|list| answer.response(list)));
                String::new()
            }
            Decision::Deny(denial) => {
                let answer = denied(denial, evidence, decision_id);
                observed.decision = Verdict::Deny;
                observed.status = Some(answer.status);
                observed.body = serde_json::from_str(&answer.body).ok();
                observed.reason = observed.body.as_ref().and_then(reason_of).map(str::to_owned);
                observed.response = owned(answer.headers);
                denial.cause.to_string()
            }
            Decision::Fail(failure) => {
                observed.reason = Some(failure.reason.code().to_owned());
                failure.cause.clone()
            }
        };
        observed.internal = Some(Internal { cause, ..internal });
        observed
    }
}

/// Returns the reason in the body of a denial, in either dialect.
pub fn reason_of(body: &Value) -> Option<&str> {
    body.pointer("/error/code")?.as_str()
}

/// Compares an answer with what a case expects.
///
/// # Errors
/// Returns all differences at once.
pub fn compare(expect: &Expectation, observed: &Observed) -> Result<(), Differences> {
    let mut found = Differences(Vec::new());
    found.equal("decision", Some(&expect.decision), Some(&observed.decision));
    found.equal("status", expect.status.as_ref(), observed.status.as_ref());
    found.equal("reason", expect.reason.as_ref(), observed.reason.as_ref());
    let message = observed.body.as_ref().and_then(|body| body.pointer("/error/message")?.as_str());
    found.contains("message", expect.message.as_deref(), message);
    let challenge = one(&observed.response, "www-authenticate");
    found.contains("www-authenticate", expect.www_authenticate.as_deref(), challenge);
    for (name, value) in &expect.response {
        found.equal(
            &format!("response header {name}"),
            Some(value.as_str()),
            one(&observed.response, name),
        );
    }
    for name in &expect.response_with {
        found.expect(one(&observed.response, name).is_some(), || {
            format!("response header {name} is not there once")
        });
    }
    for name in &expect.response_without {
        found.expect(one(&observed.response, name).is_none(), || {
            format!("response header {name} is there")
        });
    }
    for (pointer, value) in &expect.body {
        // An expected `null` also matches a member that is missing.
        let have =
            observed.body.as_ref().and_then(|body| body.pointer(pointer)).unwrap_or(&Value::Null);
        found.equal(&format!("body {pointer}"), Some(value), Some(have));
    }
    headers_for_the_upstream(expect, observed, &mut found);
    if let Some(internal) = &observed.internal {
        found.equal("route", expect.route.as_ref(), internal.route.as_ref());
        found.equal("model", expect.model.as_ref(), internal.model.as_ref());
        found.contains("cause", expect.cause.as_deref(), Some(&internal.cause));
        found.equal("client", expect.client.as_ref(), internal.client.as_ref());
        found.equal("holder", expect.holder.as_ref(), internal.holder.as_ref());
        found.equal("roles", expect.roles.as_ref(), Some(&internal.roles));
        found.equal("would_deny", expect.would_deny.as_ref(), Some(&internal.would_deny));
    }
    found.into_result()
}

fn headers_for_the_upstream(expect: &Expectation, observed: &Observed, found: &mut Differences) {
    let removed = |name: &str| observed.removed.iter().any(|removed| removed == name);
    for (name, value) in &expect.upstream {
        let have = one(&observed.set, name);
        // The value may be a secret, so it is not printed.
        found.expect(have == Some(value), || {
            format!("upstream header {name} is not the expected one")
        });
    }
    for name in &expect.upstream_with {
        found.expect(one(&observed.set, name).is_some(), || {
            format!("upstream header {name} is not set once")
        });
    }
    for name in &expect.removed {
        found.expect(removed(name), || format!("header {name} is not removed"));
    }
    for name in &expect.untouched {
        let touched = removed(name) || observed.set.iter().any(|(set, _)| set == name);
        found.expect(!touched, || format!("header {name} does not go on as it came"));
    }
    // INVARIANT: Envoy removes after it sets.
    for (name, _) in &observed.set {
        found.expect(!removed(name), || format!("header {name} is both set and removed"));
    }
}

/// Returns the value of a header that occurs once.
fn one<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let mut values = headers
        .iter()
        .filter(|(header, _)| header.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.as_str());
    values.next().filter(|_| values.next().is_none())
}

/// The differences between an answer and what a case expects.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{}", .0.join("; "))]
pub struct Differences(Vec<String>);

impl Differences {
    fn expect(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.0.push(otherwise());
        }
    }

    fn equal<T: PartialEq + std::fmt::Debug + ?Sized>(
        &mut self,
        what: &str,
        want: Option<&T>,
        have: Option<&T>,
    ) {
        self.expect(want.is_none() || want == have, || {
            format!("{what}: expected {}, is {}", shown(want), shown(have))
        });
    }

    fn contains(&mut self, what: &str, part: Option<&str>, have: Option<&str>) {
        let Some(part) = part else { return };
        let holds = have.is_some_and(|have| have.contains(part));
        self.expect(holds, || format!("{what}: expected a part {part:?}, is {}", shown(have)));
    }

    fn into_result(self) -> Result<(), Self> {
        if self.0.is_empty() { Ok(()) } else { Err(self) }
    }
}

fn shown<T: std::fmt::Debug + ?Sized>(value: Option<&T>) -> String {
    value.map_or_else(|| "absent".to_owned(), |value| format!("{value:?}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn denied() -> Observed {
        Observed {
            decision: Verdict::Deny,
            status: Some(401),
            reason: Some("expired".into()),
            body: Some(
                json!({ "error": { "code": "expired", "message": "the token has expired" } }),
            ),
            set: Vec::new(),
            removed: Vec::new(),
            response: vec![("www-authenticate".into(), "Bearer error=\"invalid_token\"".into())],
            internal: None,
        }
    }

    fn expect(json: Value) -> Expectation {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn what_is_expected_and_seen_agrees() {
        let expect = expect(json!({
            "decision": "deny", "status": 401, "reason": "expired", "message": "expired",
            "www_authenticate": "invalid_token", "body": { "/error/code": "expired" }, "response_without": ["retry-after"],
            "route": "only seen from inside",
        }));
        assert_eq!(compare(&expect, &denied()), Ok(()));
    }

    #[test]
    fn every_difference_is_listed_at_once() {
        let expect = expect(json!({
            "decision": "allow", "status": 403, "reason": "revoked", "message": "gone", "www_authenticate": "realm",
            "response": { "retry-after": "1" }, "response_without": ["www-authenticate"], "response_with": ["x-tollgate-decision-id"], "body": { "/error/type": "x" },
            "upstream": { "x-tollgate-subject": "a" }, "removed": ["authorization"],
        }));
        let listed = compare(&expect, &denied()).unwrap_err().to_string();
        assert_eq!(listed.split("; ").count(), 11, "{listed}");
    }

    #[test]
    fn a_header_both_set_and_removed_is_always_a_difference() {
        let expect = expect(json!({ "decision": "allow" }));
        let mut observed = Observed { decision: Verdict::Allow, ..denied() };
        observed.set = vec![("x-tollgate-subject".into(), "a".into())];
        assert_eq!(compare(&expect, &observed), Ok(()));
        observed.removed = vec!["x-tollgate-subject".into()];
        assert!(compare(&expect, &observed).is_err());
    }
}
