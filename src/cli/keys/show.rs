//! Printed records. A digest is no secret, and a key is printed once.

use std::io::{self, Write};

use serde_json::json;
use tollgate_core::{
    credential::api_key::{GeneratedKey, KeySpec},
    identity::KeyId,
    time::Timestamp,
};

use super::redis_store::{KeyList, ListedKey};
use crate::cli::{Output, printable};

/// Prints a key that was just made, and notes on it.
pub(super) fn made(
    out: &mut dyn Write,
    output: Output,
    key: &GeneratedKey,
    record: &KeySpec,
    file: Option<&str>,
) -> anyhow::Result<()> {
    match output {
        Output::Json => {
            let report = json!({ "key": key.expose(), "record": record });
            writeln!(out, "{}", printable::json(&report)?)?;
        }
        Output::Text => {
            writeln!(out, "{}", key.expose())?;
            match file {
                // The key alone can be sent to a file or a variable.
                Some(_) => notes(&mut io::stderr().lock(), key.id(), record, file)?,
                None => notes(out, key.id(), record, file)?,
            }
        }
    }
    Ok(())
}

/// Prints the id of a new key, its end, and where its record is.
fn notes(
    out: &mut dyn Write,
    id: KeyId,
    record: &KeySpec,
    file: Option<&str>,
) -> anyhow::Result<()> {
    let expires = record.expires.map(|end| end.to_string()).unwrap_or_default();
    writeln!(out, "The key is shown once. Its id is {id}, and it expires at {expires}.")?;
    if record.scopes.is_empty() {
        writeln!(out, "It has no scopes: only routes with `scopes: []` accept it (--scope).")?;
    }
    match file {
        Some(file) => writeln!(out, "The record is in `{}`.", printable::printable(file))?,
        None => {
            writeln!(out, "Add its record to `keys` of the file of API keys:")?;
            writeln!(out, "{}", serde_json::to_string(record)?)?;
        }
    }
    Ok(())
}

/// Prints one record.
pub(super) fn record(
    out: &mut dyn Write,
    output: Output,
    record: &KeySpec,
    now: Timestamp,
) -> anyhow::Result<()> {
    match output {
        Output::Json => {
            let mut value = serde_json::to_value(record)?;
            if let Some(object) = value.as_object_mut() {
                object.insert("state".to_owned(), json!(state(record, now)));
            }
            writeln!(out, "{}", printable::json(&value)?)?;
        }
        Output::Text => {
            writeln!(out, "state: {}", state(record, now))?;
            let value = serde_json::to_value(record)?;
            for (name, value) in value.as_object().into_iter().flatten() {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                writeln!(out, "{name}: {}", printable::printable(&text))?;
            }
        }
    }
    Ok(())
}

/// Prints a line for each record.
pub(super) fn list(
    out: &mut dyn Write,
    output: Output,
    records: &[KeySpec],
    now: Timestamp,
) -> anyhow::Result<()> {
    if matches!(output, Output::Json) {
        for each in records {
            record(out, output, each, now)?;
        }
        return Ok(());
    }
    heading(out)?;
    for each in records {
        row(out, each, now)?;
    }
    Ok(())
}

/// Prints a page of the list of Redis. A record that no replica uses has the state `broken`.
pub(super) fn page(
    out: &mut dyn Write,
    output: Output,
    page: &KeyList,
    now: Timestamp,
) -> anyhow::Result<()> {
    let is_text = matches!(output, Output::Text);
    if is_text {
        heading(out)?;
    }
    for key in &page.keys {
        match key {
            ListedKey::Record(each) if is_text => row(out, each, now)?,
            ListedKey::Record(each) => record(out, output, each, now)?,
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
    match page.next {
        Some(next) if is_text => writeln!(out, "There are more: --cursor {next}")?,
        Some(next) => writeln!(out, "{}", json!({ "next": next }))?,
        None => {}
    }
    Ok(())
}

fn heading(out: &mut dyn Write) -> std::io::Result<()> {
    writeln!(out, "{:<12}  {:<9}  {:<27}  {:<16}  subject", "id", "state", "expires", "tenant")
}

fn row(out: &mut dyn Write, each: &KeySpec, now: Timestamp) -> std::io::Result<()> {
    let expires = each.expires.map(|end| end.to_string()).unwrap_or_default();
    let tenant = each.tenant.as_deref().unwrap_or("-");
    let line = format!(
        "{:<12}  {:<9}  {expires:<27}  {tenant:<16}  {}",
        each.id.as_str(),
        state(each, now),
        each.subject
    );
    writeln!(out, "{}", printable::printable(&line))?;
    Ok(())
}

/// Returns the state of a key at a time: `expired`, `rotating` during a grace, `weak` or `active`.
fn state(record: &KeySpec, now: Timestamp) -> &'static str {
    let in_grace = record.previous.as_ref().is_some_and(|previous| previous.until.0 > now);
    if record.expires.is_some_and(|end| end.0 <= now) {
        "expired"
    } else if in_grace {
        "rotating"
    } else if record.weak {
        "weak"
    } else {
        "active"
    }
}
