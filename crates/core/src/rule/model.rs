//! Models: where a request names its model, the model's name in the policy, and the scope it
//! requires.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    num::NonZeroU64,
    str::FromStr,
    sync::Arc,
};

use foldhash::fast::FixedState;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};
use thiserror::Error;

use super::{
    fields::{Caps, CapsConfig},
    scope::missing_scopes,
    size::{ModelSize, TEMPLATE},
};
use crate::{
    config::{Errors, Path, from_text},
    denial::{Denial, Reason, malformed, shown},
    identity::Principal,
    pattern::Captures,
    request::{
        Request,
        body::{BodyFacts, Pointer, PointerError},
    },
    text::is_scope,
};

/// One entry of `models`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// The name in scopes, headers, metrics and limits.
    pub name: String,
    /// The names under which the upstream serves the model, as clients send them. Default: the name
    /// itself.
    pub serves: Option<Vec<String>>,
    /// More names that clients may send for the model, if the upstream or the router in front of it
    /// accepts them. They are resolved first: scopes, tiers and limits use the name of this entry.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// The context of the model, in tokens, as the server has it (`--max-model-len`): a prompt and
    /// its answer together. Needed where a limit counts tokens.
    pub context: Option<NonZeroU64>,
    /// The most tokens of one answer. Default: the context.
    pub max_output: Option<u64>,
    /// The most tokens of one image, clip or file. Default: the context.
    pub max_tokens_per_media: Option<u64>,
    /// The most tokens that the chat template adds to a prompt, beside the messages: a default
    /// system prompt, instructions for tools. Default 512.
    pub template_tokens: Option<u64>,
    /// When the server reports the usage of a stream: `continuous` asks it to do so in each event
    /// (`stream_options.continuous_usage_stats` of vLLM and SGLang), so that a stream that is cut is
    /// charged what ran. Default `final`: at the end.
    pub usage: Option<UsageReports>,
}

/// `usage` of a model: when its server reports the usage of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UsageReports {
    /// At the end of the stream.
    Final,
    /// In each event, for requests with one answer.
    Continuous,
}

/// One entry of `tiers`: models that require an additional scope, and the caps for requests to
/// them.
///
/// A model in no tier requires no additional scope. A model in several tiers requires the scope of
/// one of them; the first of those in the file determines the caps, so list the largest tier first.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TierConfig {
    /// The name in messages.
    pub name: String,
    /// The names of the tier's `models`.
    pub models: Vec<String>,
    /// The scope that the models require, such as `tier:premium`.
    pub scope: String,
    /// The caps for requests to these models, in addition to the caps of the route.
    pub caps: Option<CapsConfig>,
}

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

/// The models of the policy. If it lists none, a model's name is the one that the client sends.
#[derive(Debug, Default)]
pub struct Models {
    /// The names of the policy. Clients only look up names, so hash flooding is no concern.
    by_served: HashMap<String, Arc<str>, FixedState>,
    tiers: Vec<Tier>,
    /// The sizes of the models that have some, by their names in the policy.
    sizes: HashMap<Arc<str>, ModelSize, FixedState>,
}

#[derive(Debug)]
struct Tier {
    models: HashSet<String, FixedState>,
    scope: String,
    caps: Option<Caps>,
}

impl Models {
    /// Returns every name of the list `models`; a name may be repeated.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_served.values().map(AsRef::as_ref)
    }

    /// Returns the names under which models are served, and their aliases, each after the name of its
    /// model in the policy.
    pub fn served_names(&self) -> impl Iterator<Item = (&str, &str)> {
        self.by_served.iter().map(|(served, name)| (name.as_ref(), served.as_str()))
    }

    /// Compiles the lists `models` and `tiers` and records every error.
    pub fn compile(
        configs: &[ModelConfig],
        tiers: &[TierConfig],
        root: &Path,
        errors: &mut Errors,
    ) -> Self {
        let mut by_served: HashMap<String, Arc<str>, FixedState> = HashMap::default();
        let mut sizes: HashMap<Arc<str>, ModelSize, FixedState> = HashMap::default();
        let models = root.key("models");
        for (index, config) in configs.iter().enumerate() {
            let path = models.index(index);
            if !is_scope(&config.name) {
                errors.push(
                    &path.key("name"),
                    format!(
                        "`{}` is not a model name; names are used in scopes and have no spaces, quotes or backslashes",
                        config.name
                    ),
                );
            }
            if configs.iter().take(index).any(|earlier| earlier.name == config.name) {
                errors.push(&path.key("name"), format!("two models are named `{}`", config.name));
            }
            let serves = config.serves.clone().unwrap_or_else(|| vec![config.name.clone()]);
            if serves.is_empty() {
                errors.push(
                    &path.key("serves"),
                    "list at least one name that clients send, or leave `serves` out",
                );
            }
            let name: Arc<str> = config.name.as_str().into();
            if let Some(size) = compile_size(config, &path, errors) {
                sizes.insert(Arc::clone(&name), size);
            }
            let serves = serves
                .into_iter()
                .enumerate()
                .map(|(at, served)| (path.key("serves").index(at), served));
            let aliases = config
                .aliases
                .iter()
                .enumerate()
                .map(|(at, alias)| (path.key("aliases").index(at), alias.clone()));
            for (at, served) in serves.chain(aliases) {
                if checked(&served).is_err() {
                    errors.push(&at, "a model's name is 1 to 256 characters without controls");
                }
                if let Some(other) = by_served.insert(served.clone(), Arc::clone(&name)) {
                    errors.push(&at, format!("`{served}` is already served by `{other}`"));
                }
            }
        }
        let tiers = compile_tiers(tiers, configs, &root.key("tiers"), errors);
        Self { by_served, tiers, sizes }
    }

    /// Returns the policy's name for a name that a client sent; `None` if the policy serves no such
    /// model.
    fn name(&self, sent: &str) -> Option<Arc<str>> {
        if self.by_served.is_empty() {
            Some(sent.into())
        } else {
            self.by_served.get(sent).cloned()
        }
    }

    /// Returns the sizes of a model, by its name in the policy.
    pub(crate) fn size(&self, name: &str) -> Option<ModelSize> {
        self.sizes.get(name).copied()
    }

    /// Returns a model without a size, if there is one; `Some(None)` where no model is listed.
    #[expect(clippy::option_option, reason = "all have a size, one has none, no model is known")]
    pub(crate) fn without_size(&self) -> Option<Option<&str>> {
        if self.by_served.is_empty() {
            return Some(None);
        }
        self.names().filter(|name| !self.sizes.contains_key(*name)).min().map(Some)
    }

    /// Whether the policy neither lists models nor has tiers, so that every name is one.
    pub(crate) fn are_open(&self) -> bool {
        self.by_served.is_empty() && self.tiers.is_empty()
    }

    /// Whether the names that a rule admits are few: those of the policy, a fixed one, or those for
    /// which the credential has a scope.
    pub(crate) fn bind(&self, rule: &ModelRuleConfig) -> bool {
        !self.by_served.is_empty()
            || matches!(rule.from, ModelSource::Fixed(_))
            || rule.scope.as_ref().is_some_and(|scope| scope.contains("{model}"))
    }

    /// Whether a tier has caps that require reading the body.
    pub(super) fn need_body(&self) -> bool {
        self.tiers.iter().filter_map(|tier| tier.caps.as_ref()).any(Caps::need_json)
    }

    /// Whether a tier caps content parts.
    pub(super) fn need_content(&self) -> bool {
        self.tiers.iter().filter_map(|tier| tier.caps.as_ref()).any(Caps::need_content)
    }

    /// Whether a tier has caps.
    pub(super) fn have_caps(&self) -> bool {
        self.tiers.iter().any(|tier| tier.caps.is_some())
    }

    /// Returns the caps of the tier that permits a principal to use a model; `None` for a model in
    /// no tier, or a tier without caps.
    fn admit(&self, name: &str, principal: &Principal) -> Result<Option<&Caps>, Denial> {
        let mut tiers = self.tiers.iter().filter(|tier| tier.models.contains(name)).peekable();
        if tiers.peek().is_none() {
            return Ok(None);
        }
        let mut needed = Vec::new();
        for tier in tiers {
            if principal.has_scope(&tier.scope) {
                return Ok(tier.caps.as_ref());
            }
            needed.push(tier.scope.clone());
        }
        let message = format!(
            "this model needs {} `{}`",
            if needed.len() == 1 { "the scope" } else { "one of the scopes" },
            needed.join("`, `")
        );
        let purpose = format!("of the tier of the model `{}`", shown(name));
        let cause = missing_scopes(&purpose, &needed, true, principal);
        Err(forbidden(name, cause).with_message(message).with_scopes(needed))
    }
}

/// Compiles the sizes of a model, if it has some, and records every error.
fn compile_size(config: &ModelConfig, path: &Path, errors: &mut Errors) -> Option<ModelSize> {
    let parts = [
        ("max_output", config.max_output),
        ("max_tokens_per_media", config.max_tokens_per_media),
        ("template_tokens", config.template_tokens),
    ];
    let Some(context) = config.context.map(NonZeroU64::get) else {
        let set = parts.into_iter().filter(|(_, number)| number.is_some()).map(|(key, _)| key);
        for key in set.chain(config.usage.map(|_| "usage")) {
            let text = format!("`{key}` needs the `context`; set that, too");
            errors.push_presuming(&path.key(key), &[path.key("context")], text);
        }
        return None;
    };
    for (key, number) in parts {
        if number.is_some_and(|number| number > context) {
            errors.push(&path.key(key), format!("it is more than the `context` of {context}"));
        }
    }
    Some(ModelSize {
        context,
        // A server reads 0 as no bound at all.
        max_output: config.max_output.unwrap_or(context).max(1),
        media: config.max_tokens_per_media.unwrap_or(context),
        template: config.template_tokens.unwrap_or(TEMPLATE),
        is_continuous: config.usage == Some(UsageReports::Continuous),
    })
}

fn compile_tiers(
    configs: &[TierConfig],
    models: &[ModelConfig],
    path: &Path,
    errors: &mut Errors,
) -> Vec<Tier> {
    let mut tiers = Vec::with_capacity(configs.len());
    for (index, config) in configs.iter().enumerate() {
        let path = path.index(index);
        if configs.iter().take(index).any(|earlier| earlier.name == config.name) {
            errors.push(&path.key("name"), format!("two tiers are named `{}`", config.name));
        }
        if !is_scope(&config.scope) {
            errors.push(
                &path.key("scope"),
                format!(
                    "`{}` is not a scope; write one word, such as `tier:premium`",
                    config.scope
                ),
            );
        }
        if config.models.is_empty() {
            errors.push(&path.key("models"), "list at least one of the `models`");
        }
        for (at, name) in config.models.iter().enumerate() {
            if !models.iter().any(|model| model.name == *name) {
                let message = format!("there is no model named `{name}` among the `models`");
                let models = path.parent().parent().key("models");
                errors.push_presuming(&path.key("models").index(at), &[models], message);
            }
        }
        let caps = config.caps.as_ref().map(|caps| Caps::compile(caps, &path.key("caps"), errors));
        tiers.push(Tier {
            models: config.models.iter().cloned().collect(),
            scope: config.scope.clone(),
            caps,
        });
    }
    tiers
}

/// Returns the path of the list `models` in the document that contains `path`, the `model` of a
/// route.
fn models_path(path: &Path) -> Path {
    path.parent().parent().parent().key("models")
}

/// A compiled `model` of a route.
#[derive(Debug)]
pub struct ModelRule {
    /// Where a request names its model.
    pub from: ModelSource,
    scope: Option<Template>,
    default: Option<String>,
    separator: Option<char>,
    /// Members of the body that name adapters.
    pub(super) adapters: Vec<Pointer>,
}

/// A scope that contains `{model}`.
#[derive(Debug)]
struct Template {
    text: String,
    /// The text before, between and after the occurrences of the model's name.
    parts: Vec<String>,
}

impl Template {
    fn new(text: &str) -> Self {
        Self { text: text.to_owned(), parts: text.split("{model}").map(str::to_owned).collect() }
    }

    /// Whether the template with `name` equals `scope`, compared without building the text.
    fn matches(&self, scope: &str, name: &str) -> bool {
        let mut rest = Some(scope);
        for (index, part) in self.parts.iter().enumerate() {
            rest =
                rest.and_then(|rest| if index == 0 { Some(rest) } else { rest.strip_prefix(name) });
            rest = rest.and_then(|rest| rest.strip_prefix(part.as_str()));
        }
        rest == Some("")
    }
}

/// A model that the principal may use, and the caps of its tier.
pub(crate) struct AdmittedModel<'a> {
    pub(crate) name: Arc<str>,
    pub(crate) caps: Option<&'a Caps>,
}

impl ModelRule {
    /// Compiles the rule and records every error.
    ///
    /// `captures` lists the names in each of the route's paths. Every path must have the capture
    /// that `path:` names.
    pub fn compile(
        config: &ModelRuleConfig,
        models: &Models,
        captures: &[Vec<String>],
        path: &Path,
        errors: &mut Errors,
    ) -> Self {
        if let Some(scope) = &config.scope
            && !is_template(scope, "{model}")
        {
            errors.push(
                &path.key("scope"),
                format!("`{scope}` is not a scope; write one word, with `{{model}}` for the model's name"),
            );
        }
        match &config.from {
            ModelSource::Path(name) if !captures.iter().all(|names| names.contains(name)) => {
                let message = format!("not every path of this route has a capture `{{{name}}}`");
                errors.push_presuming(&path.key("from"), &[path.parent().key("match")], message);
            }
            ModelSource::Fixed(name) if models.name(name).is_none() => {
                let message = format!("`{name}` is served by none of the `models`");
                errors.push_presuming(&path.key("from"), &[models_path(path)], message);
            }
            _ => {}
        }
        if let Some(name) = &config.default {
            if models.name(name).is_none() || checked(name).is_err() {
                let message = format!("`{name}` is served by none of the `models`");
                errors.push_presuming(&path.key("default"), &[models_path(path)], message);
            }
            if matches!(config.from, ModelSource::Fixed(_) | ModelSource::Path(_)) {
                errors.push(
                    &path.key("default"),
                    "a fixed model and one in the path are always there; remove `default`",
                );
            }
        }
        let adapters = config.adapters.clone().unwrap_or_default();
        let mut fields = Vec::new();
        for (index, field) in adapters.fields.iter().enumerate() {
            fields.extend(
                errors.take(
                    &path.key("adapters").key("fields").index(index),
                    field.parse::<Pointer>(),
                ),
            );
        }
        if !fields.is_empty() && matches!(config.from, ModelSource::Form(_)) {
            errors.push(
                &path.key("adapters").key("fields"),
                "a form has no JSON members; remove `fields`",
            );
        }
        Self {
            from: config.from.clone(),
            scope: config.scope.as_deref().map(Template::new),
            default: config.default.clone(),
            separator: adapters.separator,
            adapters: fields,
        }
    }

    /// Returns the scope that a credential requires, with `{model}` for the model's name.
    pub fn scope(&self) -> Option<&str> {
        self.scope.as_ref().map(|template| template.text.as_str())
    }

    /// Returns the request's model if the principal may use it and all its adapters.
    pub(crate) fn check<'m>(
        &self,
        principal: &Principal,
        models: &'m Models,
        request: &Request<'_>,
        captures: &Captures,
        facts: &BodyFacts<'_>,
    ) -> Result<AdmittedModel<'m>, Denial> {
        let sent = match self
            .find(request, captures, facts)?
            .or(self.default.as_deref().map(Cow::Borrowed))
        {
            Some(sent) => sent,
            None => {
                let (place, name) = self.place();
                return Err(Denial::new(
                    Reason::ModelMissing,
                    format!("the request has nothing at the model's place: {place} `{name}`"),
                )
                .with_message(format!("the request names no model; name it in {place} `{name}`"))
                .with_param(name));
            }
        };
        checked(&sent)?;
        self.agrees(request, &sent)?;
        self.body_agrees(facts, models, &sent)?;
        let (base, adapter) = match self.separator.and_then(|separator| sent.split_once(separator))
        {
            Some((base, adapter)) if !models.by_served.contains_key(&*sent) => {
                (base, Some(adapter))
            }
            _ => (&*sent, None),
        };
        let chosen = self.admit(base, principal, models)?;
        for adapter in adapter.into_iter().chain(facts.adapters.iter().map(AsRef::as_ref)) {
            checked(adapter)?;
            self.admit(adapter, principal, models)?;
        }
        Ok(chosen)
    }

    /// A query beside the model's own place may not name another: some servers read it first, others where the body
    /// has none.
    fn agrees(&self, request: &Request<'_>, sent: &str) -> Result<(), Denial> {
        let name = match &self.from {
            ModelSource::Query(_) => return Ok(()),
            ModelSource::Body(pointer) => pointer.last(),
            ModelSource::Form(name) => name,
            ModelSource::Path(_) | ModelSource::Header(_) | ModelSource::Fixed(_) => "model",
        };
        match request.path.query_value(name)? {
            Some(other) if other != sent => {
                Err(malformed("the query names another model than the rest of the request")
                    .with_param("model"))
            }
            _ => Ok(()),
        }
    }

    /// A body beside a path, query or header may not name another model: some servers prefer it. Two names of one
    /// model agree.
    fn body_agrees(
        &self,
        facts: &BodyFacts<'_>,
        models: &Models,
        sent: &str,
    ) -> Result<(), Denial> {
        let beside = matches!(
            self.from,
            ModelSource::Path(_) | ModelSource::Query(_) | ModelSource::Header(_)
        );
        match facts.model.as_deref() {
            Some(other) if beside && other != sent && models.name(other) != models.name(sent) => {
                Err(malformed("the body names another model than the path, query or header")
                    .with_param("model"))
            }
            _ => Ok(()),
        }
    }

    /// Checks one name: it must be known, and the principal must have its scope and that of a tier.
    fn admit<'m>(
        &self,
        sent: &str,
        principal: &Principal,
        models: &'m Models,
    ) -> Result<AdmittedModel<'m>, Denial> {
        let Some(name) = models.name(sent) else {
            let cause = format!("no model of the policy is served under `{}`", shown(sent));
            return Err(forbidden(sent, cause).with_message("this model is not open here"));
        };
        if let Some(key) = principal.key().filter(|key| !key.allows_model(&name)) {
            let cause =
                format!("the key `{}` may not be used for the model `{}`", key.id, shown(&name));
            return Err(forbidden(&name, cause));
        }
        if let Some(template) = &self.scope
            && !(principal.scopes().any(|scope| template.matches(scope, &name)) && is_scope(&name))
        {
            // A name with characters that scopes exclude would split into several scopes.
            let needed = template.text.replace("{model}", &name);
            if !is_scope(&needed) {
                let cause = format!("no scope can name the model `{}`", shown(&name));
                return Err(forbidden(&name, cause));
            }
            if !principal.has_scope(&needed) {
                let needed = [needed];
                let purpose = format!("of the model `{}`", shown(&name));
                let cause = missing_scopes(&purpose, &needed, false, principal);
                let message = format!("this model needs the scope `{}`", needed.concat());
                return Err(forbidden(&name, cause).with_message(message).with_scopes(needed));
            }
        }
        let caps = models.admit(&name, principal)?;
        Ok(AdmittedModel { name, caps })
    }

    fn place(&self) -> (&'static str, &str) {
        match &self.from {
            ModelSource::Body(pointer) => ("the body's member", pointer.last()),
            ModelSource::Form(name) => ("the form's field", name),
            ModelSource::Path(name) => ("the path's", name),
            ModelSource::Query(name) => ("the query's", name),
            ModelSource::Header(name) => ("the header", name),
            ModelSource::Fixed(name) => ("the policy's", name),
        }
    }

    fn find<'f>(
        &'f self,
        request: &'f Request<'_>,
        captures: &'f Captures,
        facts: &'f BodyFacts<'_>,
    ) -> Result<Option<Cow<'f, str>>, Denial> {
        Ok(match &self.from {
            ModelSource::Body(_) | ModelSource::Form(_) => {
                facts.model.as_deref().map(Cow::Borrowed)
            }
            ModelSource::Path(name) => captures.get(name).map(Cow::Borrowed),
            ModelSource::Query(name) => request.path.query_value(name)?.map(Cow::Owned),
            ModelSource::Header(name) => match request.headers.one(name)? {
                Some(value) => Some(
                    std::str::from_utf8(value)
                        .map_err(|_| malformed("the model is not UTF-8"))?
                        .into(),
                ),
                None => None,
            },
            ModelSource::Fixed(name) => Some(Cow::Borrowed(name)),
        })
    }
}

fn forbidden(model: &str, cause: String) -> Denial {
    Denial::new(Reason::ModelForbidden, cause).with_param("model").with_model(model)
}

/// Whether `text` is a scope in which at most the placeholder `hole` is to be replaced.
pub(super) fn is_template(text: &str, hole: &str) -> bool {
    is_scope(&text.replace(hole, "x")) && !text.replace(hole, "").contains(['{', '}'])
}

fn checked(name: &str) -> Result<(), Denial> {
    let printable = |name: &str| {
        name.bytes().all(|b| matches!(b, b' '..=b'~')) || !name.chars().any(char::is_control)
    };
    if name.is_empty() || name.len() > 256 || !printable(name) {
        return Err(malformed("the model is not 1 to 256 printable characters").with_param("model"));
    }
    Ok(())
}
