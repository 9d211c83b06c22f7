//! The path to a claim.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{SeqAccess, Visitor, value::SeqAccessDeserializer},
};

use crate::json::Json;

/// The path to a claim: names of members, of which the first is that of a top-level claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimPath(Vec<String>);

impl ClaimPath {
    /// The path to a top-level claim.
    pub(crate) fn top_level(name: &str) -> Self {
        Self(vec![name.to_owned()])
    }

    /// The path of these names.
    ///
    /// # Errors
    /// A message where there is no name, or an empty one.
    pub(crate) fn checked(names: Vec<String>) -> Result<Self, &'static str> {
        if names.is_empty() || names.iter().any(String::is_empty) {
            return Err("a claim's name must not be empty");
        }
        Ok(Self(names))
    }

    /// Whether the path is that of the top-level claim `name`.
    pub(crate) fn is_top(&self, name: &str) -> bool {
        matches!(self.0.as_slice(), [only] if only == name)
    }

    /// Returns the names of the path.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Returns the name of the top-level claim.
    pub(crate) fn top(&self) -> &str {
        self.0.first().map_or("", String::as_str)
    }

    /// Returns the claim of these claims; a null is an absent one.
    pub(crate) fn find<'j>(&self, claims: &'j Json) -> Option<&'j Json> {
        let found = self.0.iter().try_fold(claims, |json, name| json.get(name));
        found.filter(|json| !matches!(json, Json::Null))
    }

    /// Returns the first claim on the path that is there and is no object, and so ends the path
    /// before its end, with its own path.
    pub(crate) fn blocked<'j>(&self, claims: &'j Json) -> Option<(Self, &'j Json)> {
        let mut json = claims;
        for (at, name) in self.0.iter().enumerate().take(self.0.len().saturating_sub(1)) {
            json = json.get(name)?;
            match json {
                Json::Map(_) => {}
                Json::Null => return None,
                _ => return Some((Self(self.0.iter().take(at + 1).cloned().collect()), json)),
            }
        }
        None
    }

    /// Whether the path is misread: a list of claims that issuers write at the top level is meant as
    /// alternatives, and is a path here.
    pub(crate) fn looks_like_alternatives(&self) -> bool {
        /// Claims whose values are text or numbers: no path goes through them.
        const PLAIN: [&str; 20] = [
            "sub",
            "iss",
            "jti",
            "azp",
            "client_id",
            "cid",
            "appid",
            "oid",
            "uid",
            "tid",
            "tenant_id",
            "tenant",
            "org_id",
            "email",
            "upn",
            "name",
            "username",
            "preferred_username",
            "scope",
            "scp",
        ];
        /// Claims that are lists, or objects whose names are the roles.
        const WORDS: [&str; 5] = ["roles", "groups", "permissions", "scopes", "cognito:groups"];
        let is_plain = |name: &String| PLAIN.contains(&name.as_str());
        let is_known = |name: &String| is_plain(name) || WORDS.contains(&name.as_str());
        self.0.len() > 1 && (self.0.first().is_some_and(is_plain) || self.0.iter().all(is_known))
    }

    /// Returns the claim within its top-level claim; a null is an absent one.
    pub(crate) fn find_below<'j>(&self, top: &'j Json) -> Option<&'j Json> {
        let found = self.0.iter().skip(1).try_fold(top, |json, name| json.get(name));
        found.filter(|json| !matches!(json, Json::Null))
    }
}

impl fmt::Display for ClaimPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("."))
    }
}

impl<'de> Deserialize<'de> for ClaimPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Words;
        impl<'de> Visitor<'de> for Words {
            type Value = ClaimPath;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a claim's name, or a list of names as a path")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<ClaimPath, E> {
                ClaimPath::checked(vec![text.to_owned()]).map_err(E::custom)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<ClaimPath, A::Error> {
                let names = Vec::deserialize(SeqAccessDeserializer::new(items))?;
                ClaimPath::checked(names).map_err(serde::de::Error::custom)
            }
        }
        deserializer.deserialize_any(Words)
    }
}

impl JsonSchema for ClaimPath {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Claim".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "oneOf": [{ "type": "string", "minLength": 1 }, { "type": "array", "items": { "type": "string", "minLength": 1 }, "minItems": 1 }] })
    }
}
