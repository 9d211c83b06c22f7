//! An explanation as text, and as JSON.

use std::io::{self, Write};

use serde_json::{Map, Value, json};
use tollgate_core::decision::Decision;

use super::steps::{Explanation, State, Step};
use crate::{
    cli::{paint::Paint, printable::printable},
    observe::rfc3339::Rfc3339,
};

/// Prints the steps, one below the other.
pub(super) fn text(explanation: &Explanation, paint: Paint, out: &mut dyn Write) -> io::Result<()> {
    if let Some(case) = &explanation.case {
        writeln!(out, "# {}", printable(case))?;
    }
    let cause = cause(explanation);
    for step in &explanation.steps {
        let label = step.state.label();
        let state = match step.state {
            State::Passed => paint.good(label),
            State::Failed => paint.bad(label),
            State::NotNeeded | State::NotReached => paint.dim(label),
        };
        writeln!(out, "{:<12} {state}", step.stage.label())?;
        if step.state == State::Failed && !cause.is_empty() {
            writeln!(out, "  because: {}", printable(&cause))?;
        }
        for (name, value) in &step.facts {
            fact(name, value, out)?;
        }
    }
    answer(explanation, paint, out)?;
    match &explanation.expected {
        None => {}
        Some(Ok(())) => writeln!(out, "{:<12} {}", "case", paint.good("as expected"))?,
        Some(Err(difference)) => {
            writeln!(
                out,
                "{:<12} {}: {}",
                "case",
                paint.bad("NOT as expected"),
                printable(&difference.to_string())
            )?;
        }
    }
    writeln!(out)
}

fn fact(name: &str, value: &Value, out: &mut dyn Write) -> io::Result<()> {
    if name == "checks" {
        let checks = value.as_array().into_iter().flatten();
        for check in checks {
            let word = |at: usize| check.get(at).and_then(Value::as_str).unwrap_or_default();
            writeln!(out, "    {:<10} {}", word(0), word(1))?;
        }
        return Ok(());
    }
    let shown = match value {
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "none".into(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        other => plain(other),
    };
    writeln!(out, "  {name}: {}", printable(&shown))
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn answer(explanation: &Explanation, paint: Paint, out: &mut dyn Write) -> io::Result<()> {
    let observed = &explanation.observed;
    if explanation.unknown {
        let unknown = paint.warn("unknown");
        return writeln!(
            out,
            "{:<12} {unknown}, without the keys of the token's issuer (see --jwks), or the record of \
             the API key",
            "answer"
        );
    }
    match &explanation.outcome.decision {
        Decision::Allow(_) => writeln!(out, "{:<12} {}", "answer", paint.good("allow"))?,
        Decision::Deny(denial) => {
            writeln!(
                out,
                "{:<12} {}: HTTP {}, {}, gRPC {}",
                "answer",
                paint.bad("deny"),
                denial.http(),
                denial.reason.code(),
                denial.reason.grpc()
            )?;
        }
        Decision::Fail(failure) => writeln!(
            out,
            "{:<12} the check fails ({}): the proxy decides",
            "answer",
            failure.reason.code()
        )?,
    }
    for denial in explanation.outcome.evidence.would_deny.iter() {
        let (rule, reason) = (printable(&denial.rule), denial.reason.code());
        writeln!(out, "  in shadow, would deny: {rule}: {reason}: {}", printable(&denial.cause))?;
    }
    for (name, value) in &observed.set {
        writeln!(out, "  to the upstream: {name}: {}", printable(redacted(name, value)))?;
    }
    if !observed.removed.is_empty() {
        writeln!(out, "  removed from the request: {}", printable(&observed.removed.join(", ")))?;
    }
    for (name, value) in &observed.response {
        writeln!(out, "  to the client: {name}: {}", printable(value))?;
    }
    if let Some(body) = &observed.body {
        writeln!(out, "  body: {}", printable(&body.to_string()))?;
    }
    Ok(())
}

/// Replaces the upstream's own key, whose presence is all that is shown.
fn redacted<'a>(name: &str, value: &'a str) -> &'a str {
    if name == "authorization" { "[secret]" } else { value }
}

fn cause(explanation: &Explanation) -> String {
    explanation
        .observed
        .internal
        .as_ref()
        .map(|internal| internal.cause.clone())
        .unwrap_or_default()
}

/// Returns the explanation as one JSON object.
pub(super) fn json(explanation: &Explanation) -> Value {
    let observed = &explanation.observed;
    let list = |list: &[(String, String)]| {
        let pairs = list.iter().map(|(name, value)| (name.clone(), json!(redacted(name, value))));
        Value::Object(pairs.collect::<Map<_, _>>())
    };
    let (decision, grpc) = match &explanation.outcome.decision {
        _ if explanation.unknown => {
            return json!({ "at": Rfc3339(explanation.now), "steps": steps(explanation), "answer": { "decision": "unknown" } });
        }
        Decision::Allow(_) => ("allow", Some(0)),
        Decision::Deny(denial) => ("deny", Some(denial.reason.grpc())),
        Decision::Fail(_) => ("fail", None),
    };
    let cause = Some(cause(explanation)).filter(|cause| !cause.is_empty());
    let mut object = json!({
        "at": Rfc3339(explanation.now),
        "steps": steps(explanation),
        "answer": {
            "decision": decision, "status": observed.status, "grpc": grpc, "reason": observed.reason, "cause": cause,
            "upstream": list(&observed.set), "removed": observed.removed, "response": list(&observed.response),
            "body": observed.body,
        },
    });
    let would_deny: Vec<Value> = explanation
        .outcome
        .evidence
        .would_deny
        .iter()
        .map(|denial| {
            json!({ "rule": denial.rule, "reason": denial.reason.code(), "cause": denial.cause })
        })
        .collect();
    if let Some(answer) = object.pointer_mut("/answer").and_then(Value::as_object_mut)
        && !would_deny.is_empty()
    {
        answer.insert("would_deny".to_owned(), Value::Array(would_deny));
    }
    if let Some(members) = object.as_object_mut() {
        members.extend(explanation.case.as_ref().map(|case| ("case".to_owned(), json!(case))));
        members.extend(
            explanation.is_as_expected().map(|good| ("as_expected".to_owned(), json!(good))),
        );
        let difference = explanation.expected.as_ref().and_then(|expected| expected.as_ref().err());
        members.extend(
            difference.map(|difference| ("difference".to_owned(), json!(difference.to_string()))),
        );
    }
    object
}

fn steps(explanation: &Explanation) -> Vec<Value> {
    explanation.steps.iter().map(step).collect()
}

/// Returns a step as JSON; facts of one name become a list.
fn step(step: &Step) -> Value {
    let mut facts: Map<String, Value> = Map::new();
    for (name, value) in &step.facts {
        let name = name.replace([' ', ','], "_").replace("__", "_");
        if matches!(name.as_str(), "charge" | "answer" | "condition") {
            if let Value::Array(list) = facts.entry(name).or_insert_with(|| json!([])) {
                list.push(value.clone());
            }
        } else {
            facts.insert(name, value.clone());
        }
    }
    json!({ "step": step.stage.label(), "state": step.state.label(), "facts": facts })
}
