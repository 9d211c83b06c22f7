//! Printed records. A digest is no secret, and a key is printed once.

use std::io::{self, Write};

use serde_json::json;
use tollgate_core::{
    config::{Errors, Path},
    credential::api_key::{GeneratedKey, KeyLifetimes, KeySpec},
    identity::KeyId,
    time::{Timestamp, rfc3339::Rfc3339},
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

/// The form of printed records.
pub(super) struct View {
    /// The format of the report.
    pub(super) output: Output,
    /// The moment of the states.
    pub(super) now: Timestamp,
    /// The lives that bound the states.
    pub(super) lifetimes: KeyLifetimes,
}

impl View {
    /// Returns the word for the state of a key.
    fn state(&self, spec: &KeySpec) -> &'static str {
        let record = spec.compile(&KeyLifetimes::UNBOUNDED, &Path::root(), &mut Errors::default());
        record.map_or("broken", |record| record.state(self.now, &self.lifetimes).label())
    }

    /// Prints one record, and when its key was last used.
    pub(super) fn record(
        &self,
        out: &mut dyn Write,
        record: &KeySpec,
        used: Option<Timestamp>,
    ) -> anyhow::Result<()> {
        let state = self.state(record);
        let mut value = serde_json::to_value(record)?;
        if let (Some(object), Some(used)) = (value.as_object_mut(), used) {
            object.insert("last_used".to_owned(), json!(Rfc3339(used)));
        }
        match self.output {
            Output::Json => {
                if let Some(object) = value.as_object_mut() {
                    object.insert("state".to_owned(), json!(state));
                }
                writeln!(out, "{}", printable::json(&value)?)?;
            }
            Output::Text => {
                writeln!(out, "state: {state}")?;
                for (name, value) in value.as_object().into_iter().flatten() {
                    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                    writeln!(out, "{name}: {}", printable::printable(&text))?;
                }
            }
        }
        Ok(())
    }

    /// Prints a line for each record.
    pub(super) fn list(&self, out: &mut dyn Write, records: &[KeySpec]) -> anyhow::Result<()> {
        if matches!(self.output, Output::Json) {
            for each in records {
                self.record(out, each, None)?;
            }
            return Ok(());
        }
        heading(out, false)?;
        for each in records {
            self.row(out, each, "")?;
        }
        Ok(())
    }

    /// Prints a page of the list of Redis. A record that no replica uses has the state `broken`.
    pub(super) fn page(&self, out: &mut dyn Write, page: &KeyList) -> anyhow::Result<()> {
        let is_text = matches!(self.output, Output::Text);
        if is_text {
            heading(out, true)?;
        }
        for key in &page.keys {
            match key {
                ListedKey::Record(each, used) if is_text => {
                    let used = used.map_or("-".to_owned(), |used| Rfc3339(used).to_string());
                    self.row(out, each, &format!("  {used:<27}"))?;
                }
                ListedKey::Record(each, used) => self.record(out, each, *used)?,
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
        match page.next {
            Some(next) if is_text => writeln!(out, "There are more: --cursor {next}")?,
            Some(next) => writeln!(out, "{}", json!({ "next": next }))?,
            None => {}
        }
        Ok(())
    }

    /// Prints the line of a record. `used` is the column of the last use, where the list has one.
    fn row(&self, out: &mut dyn Write, each: &KeySpec, used: &str) -> std::io::Result<()> {
        let expires = each.expires.map(|end| end.to_string()).unwrap_or_default();
        let tenant = each.tenant.as_deref().unwrap_or("-");
        let line = format!(
            "{:<12}  {:<9}  {expires:<27}{used}  {tenant:<16}  {}",
            each.id.as_str(),
            self.state(each),
            each.subject
        );
        writeln!(out, "{}", printable::printable(&line))?;
        Ok(())
    }
}

fn heading(out: &mut dyn Write, has_uses: bool) -> std::io::Result<()> {
    let used = if has_uses { format!("  {:<27}", "last used") } else { String::new() };
    let (state, expires) = ("state", "expires");
    writeln!(out, "{:<12}  {state:<9}  {expires:<27}{used}  {:<16}  subject", "id", "tenant")
}
