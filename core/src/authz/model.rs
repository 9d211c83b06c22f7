//! Models: where a request names one, which name it has in the policy, and the scope that opens it.

use std::{collections::HashMap, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};

use super::scope::is_scope;
use crate::{
    authn::Principal,
    config::{Errors, Path},
    decision::{Denial, Reason},
    request::{Request, body::Pointer, malformed},
    route::Captures,
};

/// One entry of `models`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// The name in scopes, headers, metrics and limits.
    pub name: String,
    /// The names under which the upstream serves it, as clients send them. Default: the name itself.
    pub serves: Option<Vec<String>>,
}

/// `model` of a route.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelRuleConfig {
    /// Where the request names its model: `body` (short for `body:/model`), `path:NAME`, `query:NAME`, `header:NAME`, or `fixed:NAME`.
    pub from: ModelSource,
    /// The scope a credential needs, with `{model}` for the model's name: `model:{model}:inference`. Left out: no scope of its own.
    pub scope: Option<String>,
}

/// Where a request names its model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelSource {
    /// A string in the JSON body.
    Body(Pointer),
    /// A capture of the path.
    Path(String),
    /// A query parameter.
    Query(String),
    /// A header.
    Header(String),
    /// Always this one, whatever the request says.
    Fixed(String),
}

impl FromStr for ModelSource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, rest) = text.split_once(':').map_or((text, None), |(kind, rest)| (kind, Some(rest)));
        match (kind, rest.filter(|rest| !rest.is_empty())) {
            ("body", None) if rest.is_none() => "/model".parse().map(Self::Body),
            ("body", Some(pointer)) => pointer.parse().map(Self::Body),
            ("path", Some(name)) => Ok(Self::Path(name.to_owned())),
            ("query", Some(name)) => Ok(Self::Query(name.to_owned())),
            ("header", Some(name)) => Ok(Self::Header(name.to_ascii_lowercase())),
            ("fixed", Some(name)) => Ok(Self::Fixed(name.to_owned())),
            _ => Err(format!(
                "`{text}` is no place for a model; write `body`, `body:/pointer`, `path:NAME`, `query:NAME`, `header:NAME` or `fixed:NAME`"
            )),
        }
    }
}

impl<'de> Deserialize<'de> for ModelSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for ModelSource {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ModelSource".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^(body(:/.+)?|(path|query|header|fixed):.+)$" })
    }
}

/// The models of the policy. With none, a model's name is what the client sends.
#[derive(Debug, Default)]
pub struct Models {
    by_served: HashMap<String, String>,
}

impl Models {
    /// Compiles the list `models`, noting every error.
    pub fn compile(configs: &[ModelConfig], path: &Path, errors: &mut Errors) -> Self {
        let mut by_served: HashMap<String, String> = HashMap::new();
        for (index, config) in configs.iter().enumerate() {
            let path = path.index(index);
            if !is_scope(&config.name) {
                errors.push(
                    &path.key("name"),
                    format!(
                        "`{}` is not a model name; names stand in scopes and have no spaces, quotes or backslashes",
                        config.name
                    ),
                );
            }
            if configs.iter().take(index).any(|earlier| earlier.name == config.name) {
                errors.push(&path.key("name"), format!("two models are named `{}`", config.name));
            }
            let serves = config.serves.clone().unwrap_or_else(|| vec![config.name.clone()]);
            if serves.is_empty() {
                errors.push(&path.key("serves"), "list at least one name that clients send, or leave `serves` out");
            }
            for (at, served) in serves.into_iter().enumerate() {
                if checked(&served).is_err() {
                    errors.push(&path.key("serves").index(at), "a model's name is 1 to 256 characters without controls");
                }
                if let Some(other) = by_served.insert(served.clone(), config.name.clone()) {
                    errors.push(&path.key("serves").index(at), format!("`{served}` is already served by `{other}`"));
                }
            }
        }
        Self { by_served }
    }

    /// The policy name of what a client sent; `None` when no model of the policy is served under it.
    fn name(&self, sent: &str) -> Option<String> {
        if self.by_served.is_empty() { Some(sent.to_owned()) } else { self.by_served.get(sent).cloned() }
    }
}

/// A compiled `model` of a route.
#[derive(Debug)]
pub struct ModelRule {
    /// Where the model is.
    pub from: ModelSource,
    scope: Option<String>,
}

impl ModelRule {
    /// Compiles the rule; `captures` are the names in the route's paths, which must each have the one that `path:` names.
    pub fn compile(
        config: &ModelRuleConfig,
        models: &Models,
        captures: &[Vec<String>],
        path: &Path,
        errors: &mut Errors,
    ) -> Self {
        if let Some(scope) = &config.scope
            && (!is_scope(&scope.replace("{model}", "m")) || scope.replace("{model}", "").contains(['{', '}']))
        {
            errors.push(
                &path.key("scope"),
                format!("`{scope}` is not a scope; write one word, with `{{model}}` for the model's name"),
            );
        }
        match &config.from {
            ModelSource::Path(name) if !captures.iter().all(|names| names.contains(name)) => {
                errors.push(&path.key("from"), format!("not every path of this route has a capture `{{{name}}}`"));
            }
            ModelSource::Fixed(name) if models.name(name).is_none() => {
                errors.push(&path.key("from"), format!("`{name}` is served by none of the `models`"));
            }
            _ => {}
        }
        Self { from: config.from.clone(), scope: config.scope.clone() }
    }

    /// The scope a credential needs, with `{model}` for the model's name.
    pub fn scope(&self) -> Option<&str> {
        self.scope.as_deref()
    }

    /// Whether the body must be read.
    pub fn needs_body(&self) -> bool {
        matches!(self.from, ModelSource::Body(_))
    }

    /// The model's policy name, if the principal may use it.
    pub(super) fn check(
        &self,
        principal: &Principal,
        models: &Models,
        request: &Request<'_>,
        captures: &Captures,
    ) -> Result<String, Denial> {
        let sent = self.find(request, captures)?;
        let Some(name) = models.name(&sent) else {
            return Err(Denial::new(Reason::ModelForbidden, "no model of the policy is served under this name")
                .saying("this model is not open here")
                .about("model"));
        };
        let Some(template) = &self.scope else { return Ok(name) };
        // A name that cannot stand in a scope names no scope anyone has; said here, so that no space can make two of one.
        let needed = template.replace("{model}", &name);
        if is_scope(&needed) && principal.has_scope(&needed) {
            return Ok(name);
        }
        let denial = Denial::new(Reason::ModelForbidden, "the scope for the model is missing").about("model");
        Err(if is_scope(&needed) {
            denial.saying(format!("this model needs the scope `{needed}`")).needing([needed])
        } else {
            denial
        })
    }

    fn find(&self, request: &Request<'_>, captures: &Captures) -> Result<String, Denial> {
        let missing =
            |place: String| Denial::new(Reason::ModelMissing, "the request has nothing at the model's place").saying(place);
        let sent = match &self.from {
            ModelSource::Body(pointer) => request.body.json_string(pointer)?.into_owned(),
            ModelSource::Path(name) => {
                captures.get(name).ok_or_else(|| missing(format!("the path names no model (`{name}`)")))?.to_owned()
            }
            ModelSource::Query(name) => {
                request.path.query_value(name)?.ok_or_else(|| missing(format!("the query names no model (`{name}`)")))?
            }
            ModelSource::Header(name) => {
                let value = request.headers.one(name)?.ok_or_else(|| missing(format!("the header `{name}` names no model")))?;
                std::str::from_utf8(value).map_err(|_| malformed("the model is not UTF-8"))?.to_owned()
            }
            ModelSource::Fixed(name) => name.clone(),
        };
        checked(&sent)?;
        Ok(sent)
    }
}

fn checked(name: &str) -> Result<(), Denial> {
    if name.is_empty() || name.len() > 256 || name.chars().any(char::is_control) {
        return Err(malformed("the model is not 1 to 256 printable characters").about("model"));
    }
    Ok(())
}
