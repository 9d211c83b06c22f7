//! The operations of an OpenAPI document: its methods and paths (OpenAPI 3.1.0, section 4.8.8,
//! Paths Object).

use std::collections::BTreeSet;

use serde_json::{Map, Value};
use thiserror::Error;

/// The operations of a Path Item Object, in OpenAPI's spelling.
const OPERATIONS: [&str; 8] = ["get", "put", "post", "delete", "options", "head", "patch", "trace"];

/// Most operations that are reported.
const MAX_OPERATIONS: usize = 10_000;

/// The reason why a document is not read.
#[derive(Debug, Error)]
pub(super) enum DocumentError {
    /// The document is not JSON.
    #[error("it is not JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// The document has no paths.
    #[error("it has no `paths`")]
    NoPaths,
    /// The document has too many operations to report.
    #[error("it lists more than {MAX_OPERATIONS} operations")]
    TooMany,
}

/// One operation of a server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Operation {
    /// The path, with `{name}` for its parameters.
    pub(super) path: String,
    /// The method of the route.
    pub(super) method: String,
}

/// The operations of a server.
#[derive(Debug)]
pub(super) struct Offer {
    /// The name and the version of the server.
    pub(super) title: String,
    /// The operations, in the order of their paths.
    pub(super) operations: BTreeSet<Operation>,
    /// The whole document.
    pub(super) document: Value,
}

impl Offer {
    pub(super) fn read(document: &[u8]) -> Result<Self, DocumentError> {
        let document: Map<String, Value> = serde_json::from_slice(document)?;
        let paths =
            document.get("paths").and_then(Value::as_object).ok_or(DocumentError::NoPaths)?;
        let info_text = |name| {
            document
                .get("info")
                .and_then(|info| info.get(name))
                .and_then(Value::as_str)
                .unwrap_or("?")
        };
        let mut operations = BTreeSet::new();
        for (path, item) in paths {
            let item = item.as_object().into_iter().flat_map(Map::keys);
            for method in item.filter(|key| OPERATIONS.contains(&key.as_str())) {
                operations
                    .insert(Operation { path: path.clone(), method: method.to_ascii_uppercase() });
                if operations.len() > MAX_OPERATIONS {
                    return Err(DocumentError::TooMany);
                }
            }
        }
        let title =
            format!("{} {}", info_text("title"), info_text("version")).chars().take(200).collect();
        Ok(Self { title, operations, document: Value::Object(document) })
    }
}

impl Operation {
    /// Returns a path that the operation covers, with `x` for every parameter.
    pub(super) fn sample(&self) -> String {
        let mut sample = String::with_capacity(self.path.len());
        let mut rest = self.path.as_str();
        while let Some((before, after)) = rest.split_once('{') {
            let Some((_, tail)) = after.split_once('}') else { break };
            sample.push_str(before);
            sample.push('x');
            rest = tail;
        }
        sample.push_str(rest);
        sample
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_read_and_nothing_else() {
        let document = br#"{"openapi":"3.1.0","info":{"title":"vLLM\u001b[31m","version":"1"},"paths":{
            "/b":{"post":{},"parameters":[],"summary":"x"}, "/a":{"get":{}}, "/c":null, "/d":{"GET":{}}}}"#;
        let offer = Offer::read(document).unwrap();
        assert_eq!(offer.title, "vLLM\u{1b}[31m 1");
        let shown: Vec<String> =
            offer.operations.iter().map(|one| format!("{} {}", one.method, one.path)).collect();
        assert_eq!(shown, ["GET /a", "POST /b"]);
        assert!(matches!(Offer::read(b"<html>"), Err(DocumentError::Json(_))));
        assert!(matches!(Offer::read(b"{}"), Err(DocumentError::NoPaths)));
    }

    #[test]
    fn parameters_get_a_value() {
        let sample = |path: &str| Operation { path: path.into(), method: "GET".into() }.sample();
        assert_eq!(sample("/v1/responses/{response_id}/cancel"), "/v1/responses/x/cancel");
        assert_eq!(sample("/a/{b}-{c}"), "/a/x-x");
        assert_eq!(sample("/plain"), "/plain");
        assert_eq!(sample("/open{"), "/open{");
    }
}
