//! The section `observe.tracing`.

use std::collections::BTreeMap;

use http::{HeaderName, Uri};
use schemars::JsonSchema;
use serde::Deserialize;
use thiserror::Error;
use tollgate_core::{
    config::{Errors, Path},
    secret::SecretSource,
    time::Span,
};

/// Spans for an OpenTelemetry collector: one for each sampled check. Default: none, at no cost.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TracingConfig {
    /// The collector: `http://host:port` or `https://host:port`. With `protocol: http`, a path may
    /// follow; `/v1/traces` is added to it.
    pub endpoint: String,
    /// `grpc` or `http`: OTLP over gRPC (a collector's port 4317), or OTLP in protobuf over
    /// HTTP/1.1 (port 4318). Default `grpc`.
    #[serde(default)]
    pub protocol: OtlpProtocol,
    /// The share of checks that are traced where the proxy sends no `traceparent`: 0 to 1. A
    /// `traceparent` decides by its sampled flag. Default 1: without a parent there is no proxy
    /// that samples.
    #[serde(default = "all")]
    pub sample_ratio: f64,
    /// Headers of each export, such as `authorization`. A value may be `file:/path`; the file is
    /// read again for each export.
    #[serde(default)]
    pub headers: BTreeMap<String, SecretSource>,
    /// `service.name` of the spans. Default `tollgate`.
    #[serde(default = "service_name")]
    pub service_name: String,
    /// Resource attributes of the spans, such as `k8s.pod.name: "${POD_NAME}"`.
    #[serde(default)]
    pub resource: BTreeMap<String, String>,
    /// A PEM file with the certificate authorities that `https` trusts, instead of the system's.
    pub tls_ca: Option<String>,
    /// Time for one export, 100ms to 60s. Default 10s.
    #[serde(default = "timeout")]
    pub timeout: Span,
    /// Checks that may wait to be exported. A check that finds so many waiting is not traced, and
    /// counted in `tollgate_trace_spans_dropped_total`. Default 4096: about two megabytes.
    #[serde(default = "queue")]
    pub queue: u32,
    /// Whether spans contain subject and tenant in clear. Default false: readers of traces need not
    /// learn who sent a request, and the decision id leads to the audit line that names the
    /// subject.
    #[serde(default)]
    pub identity: bool,
}

/// The section `observe.tracing.protocol`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OtlpProtocol {
    /// OTLP over gRPC.
    #[default]
    Grpc,
    /// OTLP over HTTP with protobuf.
    Http,
}

fn all() -> f64 {
    1.0
}

fn service_name() -> String {
    "tollgate".into()
}

fn timeout() -> Span {
    Span::from_secs(10)
}

fn queue() -> u32 {
    4096
}

/// The reason why an endpoint cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EndpointError {
    /// It is not an address of a collector.
    #[error("`{0}` is not `http://host:port` or `https://host:port`")]
    NotAnAddress(String),
    /// It has no port.
    #[error("`{0}` has no port; collectors have no default one")]
    NoPort(String),
    /// It has a query.
    #[error("`{0}` has a query; send what is secret in `headers`")]
    Query(String),
    /// It has a path, and the protocol is gRPC.
    #[error("`{0}` has a path, and gRPC has its own; remove it, or write `protocol: http`")]
    PathWithGrpc(String),
}

/// The address of a collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) tls: bool,
    pub(super) host: String,
    pub(super) port: u16,
    /// The path, without the slash at its end.
    pub(super) path: String,
}

impl Target {
    /// Reads the endpoint.
    ///
    /// # Errors
    /// See [`EndpointError`].
    pub(super) fn parse(endpoint: &str, protocol: OtlpProtocol) -> Result<Self, EndpointError> {
        let wrong = || EndpointError::NotAnAddress(endpoint.to_owned());
        let uri: Uri = endpoint.parse().map_err(|_| wrong())?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(wrong()),
        };
        let authority = uri
            .authority()
            .filter(|authority| !authority.as_str().contains('@'))
            .ok_or_else(wrong)?;
        let port =
            authority.port_u16().ok_or_else(|| EndpointError::NoPort(endpoint.to_owned()))?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let path = uri.path().trim_end_matches('/').to_owned();
        if uri.query().is_some() {
            return Err(EndpointError::Query(endpoint.to_owned()));
        }
        if protocol == OtlpProtocol::Grpc && !path.is_empty() {
            return Err(EndpointError::PathWithGrpc(endpoint.to_owned()));
        }
        Ok(Self { tls, host, port, path })
    }
}

impl TracingConfig {
    /// Adds the errors of the section.
    pub fn validate(&self, path: &Path, errors: &mut Errors) {
        match Target::parse(&self.endpoint, self.protocol) {
            Err(error) => errors.push(&path.key("endpoint"), error.to_string()),
            Ok(target) if self.tls_ca.is_some() && !target.tls => {
                errors.push(
                    &path.key("tls_ca"),
                    "only `https://` uses TLS; write it in `endpoint`, or remove `tls_ca`",
                );
            }
            Ok(_) => {}
        }
        if !(0.0..=1.0).contains(&self.sample_ratio) {
            errors.push(
                &path.key("sample_ratio"),
                format!("`{}` is not between 0 and 1", self.sample_ratio),
            );
        }
        if self.timeout < Span::from_millis(100) || self.timeout > Span::from_secs(60) {
            errors.push(&path.key("timeout"), "must be 100ms to 60s");
        }
        if !(1..=1_000_000).contains(&self.queue) {
            errors
                .push(&path.key("queue"), format!("`{}` is not between 1 and 1000000", self.queue));
        }
        for name in self.headers.keys() {
            let own = ["content-type", "content-length", "host", "te", "user-agent"];
            if HeaderName::from_bytes(name.as_bytes()).is_err()
                || own.contains(&name.to_ascii_lowercase().as_str())
            {
                errors.push(
                    &path.key("headers").key(name),
                    "is not the name of a header that can be added",
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tollgate_core::config::Document;

    use super::*;

    fn errors(text: &str) -> Vec<String> {
        let document = Document::parse(text, &|_| None).unwrap();
        match document.read::<TracingConfig>() {
            Err(errors) => errors.iter().map(ToString::to_string).collect(),
            Ok(config) => {
                let mut errors = Errors::default();
                config.validate(&Path::root(), &mut errors);
                document.locate(errors).iter().map(ToString::to_string).collect()
            }
        }
    }

    #[test]
    fn an_endpoint_is_enough() {
        for endpoint in
            ["http://otel-collector:4317", "https://[::1]:4317", "http://127.0.0.1:4317/"]
        {
            assert_eq!(errors(&format!("endpoint: {endpoint:?}")), [""; 0], "{endpoint}");
        }
        assert_eq!(
            errors(
                "{ endpoint: 'https://api.example.com:443/otlp', protocol: http, sample_ratio: 0.01 }"
            ),
            [""; 0]
        );
    }

    #[test]
    fn what_cannot_work_is_refused_and_named() {
        for (section, needle) in [
            ("endpoint: collector:4317", "is not `http://host:port`"),
            ("endpoint: 'http://collector'", "has no port"),
            ("endpoint: 'http://user:pass@collector:4317'", "is not `http://host:port`"),
            ("endpoint: 'http://collector:4317/v1/traces'", "write `protocol: http`"),
            (
                "{ endpoint: 'http://collector:4318/?key=x', protocol: http }",
                "send what is secret in `headers`",
            ),
            ("{ endpoint: 'http://c:4317', sample_ratio: 1.5 }", "not between 0 and 1"),
            ("{ endpoint: 'http://c:4317', sample_ratio: -1 }", "between 0 and 1"),
            ("{ endpoint: 'http://c:4317', tls_ca: /ca.pem }", "only `https://` uses TLS"),
            ("{ endpoint: 'http://c:4317', timeout: 1ms }", "100ms to 60s"),
            ("{ endpoint: 'http://c:4317', queue: 0 }", "not between 1"),
            ("{ endpoint: 'http://c:4317', headers: { 'a b': x } }", "not the name of a header"),
            (
                "{ endpoint: 'http://c:4317', headers: { Content-Type: x } }",
                "not the name of a header",
            ),
            ("{ endpoint: 'http://c:4317', protocol: thrift }", "thrift"),
        ] {
            let errors = errors(section);
            assert!(errors.len() == 1 && errors[0].contains(needle), "{section}: {errors:?}");
        }
    }
}
