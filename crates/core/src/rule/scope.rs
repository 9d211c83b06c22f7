//! Scopes: exact, case-sensitive words (RFC 6749 section 3.3).

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{
        MapAccess, SeqAccess, Visitor,
        value::{MapAccessDeserializer, SeqAccessDeserializer},
    },
};

use crate::{
    config::{Errors, Path},
    denial::{Denial, Reason, listed},
    identity::Principal,
    text::{is_scope, with_invisible_escaped},
};

/// `scopes` of a route: a list, all of which are required, or `{ any: [...] }`, one of which is
/// required.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScopeRule {
    /// All scopes are required. An empty list admits every valid credential.
    All(Vec<String>),
    /// At least one of the scopes is required.
    Any(Vec<String>),
}

impl ScopeRule {
    /// Compiles the rule, which is its own configuration, and records every error.
    #[must_use]
    pub fn compile(&self, path: &Path, errors: &mut Errors) -> Self {
        let (scopes, path) = match self {
            Self::All(scopes) => (scopes, path.clone()),
            Self::Any(scopes) => (scopes, path.key("any")),
        };
        if matches!(self, Self::Any(scopes) if scopes.is_empty()) {
            errors.push(&path, "one of no scopes can never be had; list at least one");
        }
        for (index, scope) in scopes.iter().enumerate() {
            if !is_scope(scope) {
                errors.push(
                    &path.index(index),
                    format!(
                        "`{}` is not a scope; scopes have no spaces, quotes or backslashes",
                        with_invisible_escaped(scope)
                    ),
                );
            }
        }
        self.clone()
    }

    /// Whether no scope is required.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::All(scopes) if scopes.is_empty())
    }

    /// Checks that a principal has the required scopes.
    ///
    /// # Errors
    /// `insufficient_scope`, with the required scopes.
    pub fn check(&self, principal: &Principal) -> Result<(), Denial> {
        let (enough, needed) = match self {
            Self::All(scopes) => (scopes.iter().all(|scope| principal.has_scope(scope)), scopes),
            Self::Any(scopes) => (scopes.iter().any(|scope| principal.has_scope(scope)), scopes),
        };
        if enough {
            return Ok(());
        }
        let joined = needed.join("`, `");
        let message = match self {
            Self::All(_) => format!("this endpoint needs the scope `{joined}`"),
            Self::Any(_) => format!("this endpoint needs one of the scopes `{joined}`"),
        };
        let cause = self.shortfall("of the route", principal);
        Err(Denial::new(Reason::InsufficientScope, cause)
            .with_message(message)
            .with_scopes(needed.iter().cloned()))
    }

    /// Returns the cause of a denial for these scopes, as [`missing_scopes`].
    pub(super) fn shortfall(&self, purpose: &str, principal: &Principal) -> String {
        match self {
            Self::All(needed) => missing_scopes(purpose, needed, false, principal),
            Self::Any(needed) => missing_scopes(purpose, needed, true, principal),
        }
    }
}

/// Returns the cause of a denial for missing scopes: which are missing, and which the credential has.
/// `purpose` names what needs them. With `is_any`, one of them would do.
pub(super) fn missing_scopes(
    purpose: &str,
    needed: &[String],
    is_any: bool,
    principal: &Principal,
) -> String {
    let missing: Vec<&str> =
        needed.iter().map(String::as_str).filter(|scope| !principal.has_scope(scope)).collect();
    let list = listed(missing.iter().copied());
    let missing = match missing.len() {
        1 => format!("the scope {list} {purpose} is missing"),
        _ if is_any => format!("every one of the scopes {list} {purpose} is missing"),
        _ => format!("the scopes {list} {purpose} are missing"),
    };
    let held = listed(principal.scopes());
    let held = if held.is_empty() { "no scopes".to_owned() } else { held };
    let omitted = principal.omitted().map(|omitted| omitted.scopes.as_slice()).unwrap_or_default();
    let mut cause = format!("{missing}; the credential has {held}");
    if !omitted.is_empty() {
        cause = format!("{cause}; left out: {}", omitted.join("; "));
    }
    cause
}

impl<'de> Deserialize<'de> for ScopeRule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct AnyOf {
            any: Vec<String>,
        }
        struct Rule;
        impl<'de> Visitor<'de> for Rule {
            type Value = ScopeRule;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of scopes, or `{ any: [...] }`")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<ScopeRule, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(items)).map(ScopeRule::All)
            }
            fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<ScopeRule, A::Error> {
                AnyOf::deserialize(MapAccessDeserializer::new(entries))
                    .map(|AnyOf { any }| ScopeRule::Any(any))
            }
        }
        deserializer.deserialize_any(Rule)
    }
}

impl JsonSchema for ScopeRule {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Scopes".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "oneOf": [
            { "type": "array", "items": { "type": "string" } },
            { "type": "object", "properties": { "any": { "type": "array", "items": { "type": "string" }, "minItems": 1 } }, "required": ["any"], "additionalProperties": false }
        ] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_has_no_spaces_quotes_or_backslashes_in_any_script() {
        for text in ["infer:text", "!", "~", "a,b", "模型:通义千问", "modèle", "модель"]
        {
            assert!(is_scope(text), "{text}");
        }
        for text in [
            "",
            "a b",
            "a\"b",
            "a\\b",
            "a\nb",
            "\u{7f}",
            "模 型",
            "a\u{3000}b",
            "a\u{a0}b",
            "a\u{85}b",
        ] {
            assert!(!is_scope(text), "{text:?}");
        }
    }
}
