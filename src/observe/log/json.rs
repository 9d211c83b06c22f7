//! The log as JSON: one object for each event, with the fields of the event beside its time, level
//! and target. The time has the name and the form that it has in audit lines.

use std::{
    error::Error,
    fmt::{self, Write as _},
};

use serde::Serialize;
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

use crate::{
    log_list::LogList,
    observe::{now, rfc3339::Rfc3339},
};

/// The names that every object has; a field of an event with one of them is written with `_` behind
/// it.
const RESERVED: [&str; 3] = ["time", "level", "target"];

/// Writes events as JSON.
pub(super) struct JsonFormat;

impl<S, N> FormatEvent<S, N> for JsonFormat
where
    S: Subscriber + for<'l> LookupSpan<'l>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        let mut fields = Fields { json: String::new(), target: metadata.target().to_owned() };
        event.record(&mut fields);
        let (time, level) = (Rfc3339(now()), metadata.level());
        let target = json(&fields.target);
        writeln!(
            writer,
            r#"{{"time":"{time}","level":"{level}","target":{target}{}}}"#,
            fields.json
        )
    }
}

/// The fields of an event, each after a comma.
struct Fields {
    json: String,
    target: String,
}

/// Returns a value as JSON. Numbers, texts and lists of texts have no other form.
fn json(value: impl Serialize) -> String {
    serde_json::to_string(&value).unwrap_or_else(|_| "null".to_owned())
}

impl Fields {
    fn add(&mut self, field: &Field, value: impl Serialize) {
        let name = field.name();
        let mark = if RESERVED.contains(&name) { "_" } else { "" };
        // Writing into a string does not fail.
        let _ = write!(self.json, ",\"{name}{mark}\":{}", json(value));
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            // Events of libraries that log without `tracing` have these fields.
            "log.target" => value.clone_into(&mut self.target),
            name if name.starts_with("log.") => {}
            _ => self.add(field, value),
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        match value.downcast_ref::<LogList>() {
            Some(list) => self.add(field, list.items()),
            None => self.add(field, value.to_string()),
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        if !field.name().starts_with("log.") {
            self.add(field, value);
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value);
    }
}
