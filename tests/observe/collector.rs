//! A real OpenTelemetry collector that prints what it receives.

use std::{collections::BTreeMap, net::TcpStream, path::Path, process::Command};

use crate::rig::{free_port, part, process::Process, until};

/// A running collector.
pub(crate) struct Collector {
    pub(crate) process: Process,
    /// The port of OTLP/gRPC.
    pub(crate) grpc: u16,
    /// The port of OTLP/HTTP.
    pub(crate) http: u16,
}

/// A span, as the collector prints it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Span {
    pub(crate) resource: BTreeMap<String, String>,
    /// `Trace ID`, `Parent ID`, `ID`, `Name`, `Kind`, `Status code`.
    pub(crate) fields: BTreeMap<String, String>,
    pub(crate) attributes: BTreeMap<String, String>,
    pub(crate) events: Vec<String>,
}

impl Span {
    pub(crate) fn field(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }

    pub(crate) fn attribute(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }
}

impl Collector {
    pub(crate) fn start(dir: &Path) -> Self {
        Self::at(dir, free_port(), free_port())
    }

    /// Starts a collector on these ports and waits until it listens.
    pub(crate) fn at(dir: &Path, grpc: u16, http: u16) -> Self {
        let mut command = Command::new(part("rotel", "collector"));
        command.args([
            "start",
            "--exporter",
            "blackhole",
            "--debug-log",
            "traces",
            "--debug-log-verbosity",
            "detailed",
        ]);
        command.args([
            "--otlp-grpc-endpoint",
            &format!("127.0.0.1:{grpc}"),
            "--otlp-http-endpoint",
            &format!("127.0.0.1:{http}"),
        ]);
        command.arg("--pid-file").arg(dir.join("collector.pid"));
        let mut process = Process::start(dir, "collector", &mut command);
        process.until("both ports", |_| {
            [grpc, http]
                .iter()
                .all(|port| TcpStream::connect(("127.0.0.1", *port)).is_ok())
                .then_some(())
        });
        Self { process, grpc, http }
    }

    /// Returns the spans so far.
    pub(crate) fn spans(&self) -> Vec<Span> {
        parse(&self.process.out())
    }

    /// Waits for a span of this name.
    pub(crate) fn span(&self, name: &str) -> Span {
        until(&format!("the span `{name}`"), || {
            self.spans().into_iter().find(|span| span.field("Name") == name)
        })
    }
}

/// Parses what the collector prints. Attributes belong to the last span or resource before them.
fn parse(text: &str) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    let mut resource = BTreeMap::new();
    let mut in_resource = false;
    for line in text.lines() {
        if line.starts_with("ResourceSpans #") {
            resource = BTreeMap::new();
        } else if line.starts_with("Resource attributes:") {
            in_resource = true;
        } else if line.starts_with("Span #") {
            in_resource = false;
            spans.push(Span { resource: resource.clone(), ..Span::default() });
        } else if let Some((name, value)) =
            line.trim().strip_prefix("-> ").and_then(|line| line.split_once(": "))
        {
            let text = value.strip_prefix("Str(").and_then(|value| value.strip_suffix(')'));
            match (text, spans.last_mut()) {
                (Some(text), _) if in_resource => {
                    drop(resource.insert(name.to_owned(), text.to_owned()))
                }
                (Some(text), Some(span)) => {
                    drop(span.attributes.insert(name.to_owned(), text.to_owned()))
                }
                (None, Some(span)) if name == "Name" => span.events.push(value.to_owned()),
                _ => {}
            }
        } else if let (Some((name, value)), Some(span)) = (line.split_once(" : "), spans.last_mut())
        {
            span.fields.insert(name.trim().to_owned(), value.trim().to_owned());
        }
    }
    spans
}
