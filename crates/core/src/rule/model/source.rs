//! Where a request names its model, as the configuration has it.

use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};
use thiserror::Error;

use crate::{
    config::from_text,
    request::body::{Pointer, PointerError},
};

/// `model` of a route.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelRuleConfig {
    /// Where the request names its model: `body` (short for `body:/model`), `form:NAME`,
    /// `path:NAME`, `query:NAME`, `header:NAME`, or `fixed:NAME`.
    pub from: ModelSource,
    /// The model that the upstream uses if a request names none. Without it, such a request is
    /// denied with `model_missing`.
    pub default: Option<String>,
    /// LoRA adapters. Each is treated as a model with a name and a scope of its own.
    pub adapters: Option<AdaptersConfig>,
    /// The scope that a credential requires, with `{model}` for the model's name:
    /// `model:{model}:inference`. Without it, no scope for the model is required.
    pub scope: Option<String>,
}

/// `model.adapters` of a route: where a request names an adapter.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdaptersConfig {
    /// The separator between base and adapter in a model's name (`:` for SGLang; the first one
    /// counts). A name that `models` lists completely is not split.
    pub separator: Option<char>,
    /// Members of the JSON body that name adapters, such as `/lora_path`: a string, a list of
    /// strings, or null.
    #[serde(default)]
    pub fields: Vec<String>,
}

/// Where a request names its model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelSource {
    /// A string in the JSON body.
    Body(Pointer),
    /// A field of a `multipart/form-data` body.
    Form(String),
    /// A capture of the path.
    Path(String),
    /// A query parameter.
    Query(String),
    /// The value of a header.
    Header(String),
    /// This model, regardless of the request.
    Fixed(String),
}

/// A text that is not a [`ModelSource`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ModelSourceError {
    /// The text names no known location.
    #[error(
        "`{0}` is no place for a model; write `body`, `body:/pointer`, `form:NAME`, `path:NAME`, \
         `query:NAME`, `header:NAME` or `fixed:NAME`"
    )]
    Unknown(String),
    /// The location in the body is malformed.
    #[error(transparent)]
    Pointer(#[from] PointerError),
}

impl FromStr for ModelSource {
    type Err = ModelSourceError;

    fn from_str(text: &str) -> Result<Self, ModelSourceError> {
        let (kind, rest) =
            text.split_once(':').map_or((text, None), |(kind, rest)| (kind, Some(rest)));
        match (kind, rest.filter(|rest| !rest.is_empty())) {
            ("body", None) if rest.is_none() => Ok(Self::Body("/model".parse()?)),
            ("body", Some(pointer)) => Ok(Self::Body(pointer.parse()?)),
            ("form", Some(name)) => Ok(Self::Form(name.to_owned())),
            ("path", Some(name)) => Ok(Self::Path(name.to_owned())),
            ("query", Some(name)) => Ok(Self::Query(name.to_owned())),
            ("header", Some(name)) => Ok(Self::Header(name.to_ascii_lowercase())),
            ("fixed", Some(name)) => Ok(Self::Fixed(name.to_owned())),
            _ => Err(ModelSourceError::Unknown(text.to_owned())),
        }
    }
}

impl<'de> Deserialize<'de> for ModelSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, "a place for a model such as `body`")
    }
}

impl JsonSchema for ModelSource {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ModelSource".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^(body(:/.+)?|(form|path|query|header|fixed):.+)$" })
    }
}
