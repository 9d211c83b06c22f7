//! Printed records. A digest is no secret, and a key is printed once.

use std::io::{self, Write};

use serde_json::{Value, json};
use tollgate_core::{
    config::{Errors, Path},
    credential::api_key::{KeyLifetimes, KeySpec},
    time::{Timestamp, rfc3339::Rfc3339},
};

use super::redis_store::{KeyList, ListedKey};
use crate::cli::{Output, printable};

/// Prints a key that was just made, and notes on it. `place` is where the record is; without one the
/// record is printed.
pub(super) fn made(
    out: &mut dyn Write,
    output: Output,
    key: &str,
    record: &Value,
    place: Option<&str>,
) -> anyhow::Result<()> {
    match output {
        Output::Json => {
            let report = json!({ "key": key, "record": record });
            writeln!(out, "{}", printable::json(&report)?)?;
        }
        Output::Text => {
            writeln!(out, "{}", printable::printable(key))?;
            match place {
                // The key alone can be sent to a file or a variable.
                Some(_) => notes(&mut io::stderr().lock(), record, place)?,
                None => notes(out, record, place)?,
            }
        }
    }
    Ok(())
}

/// Prints the id of a new key, its end, and where its record is.
fn notes(out: &mut dyn Write, record: &Value, place: Option<&str>) -> anyhow::Result<()> {
    let (id, expires) = (text(record, "id"), text(record, "expires"));
    let line = format!("The key is shown once. Its id is {id}, and it expires at {expires}.");
    writeln!(out, "{}", printable::printable(&line))?;
    if record.get("scopes").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        writeln!(out, "It has no scopes: only routes with `scopes: []` accept it (--scope).")?;
    }
    match place {
        Some(place) => writeln!(out, "The record is in `{}`.", printable::printable(place))?,
        None => {
            writeln!(out, "Add its record to `keys` of the file of API keys:")?;
            writeln!(out, "{}", serde_json::to_string(record)?)?;
        }
    }
    Ok(())
}

/// Returns a record and its state at a time.
///
/// # Errors
/// The record cannot be written as JSON.
pub(super) fn with_state(
    record: &KeySpec,
    now: Timestamp,
    lifetimes: &KeyLifetimes,
) -> anyhow::Result<Value> {
    let compiled = record.compile(&KeyLifetimes::UNBOUNDED, &Path::root(), &mut Errors::default());
    let state = compiled.map_or("broken", |compiled| compiled.state(now, lifetimes).label());
    let mut value = serde_json::to_value(record)?;
    if let Some(members) = value.as_object_mut() {
        members.insert("state".to_owned(), state.into());
    }
    Ok(value)
}

/// Adds the last use of the key to its record, where it is known.
pub(super) fn add_last_use(record: &mut Value, used: Option<Timestamp>) {
    if let (Some(members), Some(used)) = (record.as_object_mut(), used) {
        members.insert("last_used".to_owned(), json!(Rfc3339(used)));
    }
}

/// Prints one record, which has its state.
pub(super) fn record(out: &mut dyn Write, output: Output, record: &Value) -> anyhow::Result<()> {
    match output {
        Output::Json => writeln!(out, "{}", printable::json(record)?)?,
        Output::Text => {
            writeln!(out, "state: {}", printable::printable(text(record, "state")))?;
            let members = record.as_object().into_iter().flatten();
            for (name, value) in members.filter(|(name, _)| *name != "state") {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                writeln!(out, "{}", printable::printable(&format!("{name}: {text}")))?;
            }
        }
    }
    Ok(())
}

/// Prints a page of a list. A record that no replica uses has the state `broken`.
pub(super) fn page(out: &mut dyn Write, output: Output, page: &KeyList) -> anyhow::Result<()> {
    let is_text = matches!(output, Output::Text);
    if is_text {
        heading(out, page.has_uses)?;
    }
    for key in &page.keys {
        match key {
            ListedKey::Record(each) if is_text => row(out, each, page.has_uses)?,
            ListedKey::Record(each) => record(out, output, each)?,
            ListedKey::Broken(id, error) if is_text => {
                let line = format!("{id:<12}  {:<9}  {error}", "broken");
                writeln!(out, "{}", printable::printable(&line))?;
            }
            ListedKey::Broken(id, error) => {
                let value = json!({ "id": id, "state": "broken", "error": error });
                writeln!(out, "{}", printable::json(&value)?)?;
            }
        }
    }
    if is_text && page.copied < page.keys.len() {
        let others = page.keys.len() - page.copied;
        writeln!(
            out,
            "The last {others} of them are beyond `api_keys.replicate.max`: their records are \
             looked up when the keys are used."
        )?;
    }
    match &page.next {
        Some(next) if is_text => writeln!(out, "There are more: --cursor {next}")?,
        Some(next) => writeln!(out, "{}", json!({ "next": next.to_string() }))?,
        None => {}
    }
    Ok(())
}

fn heading(out: &mut dyn Write, has_uses: bool) -> std::io::Result<()> {
    let used = if has_uses { format!("  {:<27}", "last used") } else { String::new() };
    let (state, expires) = ("state", "expires");
    writeln!(out, "{:<12}  {state:<9}  {expires:<27}{used}  {:<16}  subject", "id", "tenant")
}

/// Prints the line of a record, with its last use where the list has that column.
fn row(out: &mut dyn Write, record: &Value, has_uses: bool) -> std::io::Result<()> {
    let text = |name| text(record, name);
    let or_dash = |name| Some(text(name)).filter(|text| !text.is_empty()).unwrap_or("-");
    let used = if has_uses { format!("  {:<27}", or_dash("last_used")) } else { String::new() };
    let line = format!(
        "{:<12}  {:<9}  {:<27}{used}  {:<16}  {}",
        text("id"),
        text("state"),
        text("expires"),
        or_dash("tenant"),
        text("subject")
    );
    writeln!(out, "{}", printable::printable(&line))
}

/// Returns a member of a record that is text.
fn text<'a>(record: &'a Value, name: &str) -> &'a str {
    record.get(name).and_then(Value::as_str).unwrap_or_default()
}
