//! The rule `model` of a route: which model a request names, and who may use it.

mod list;
mod source;

use std::{borrow::Cow, sync::Arc};

use self::list::{check_name, forbidden};
pub use self::{
    list::{ModelConfig, Models, TierConfig, UsageReports},
    source::{AdaptersConfig, ModelRuleConfig, ModelSource, ModelSourceError},
};
use super::{fields::Caps, scope::missing_scopes};
use crate::{
    config::{Errors, Path},
    denial::{Denial, Reason, malformed, shown},
    identity::Principal,
    pattern::Captures,
    request::{
        Request,
        body::{BodyFacts, Pointer},
    },
    text::is_scope,
};

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
            if models.name(name).is_none() || check_name(name).is_err() {
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
        check_name(&sent)?;
        self.agrees(request, &sent)?;
        self.body_agrees(facts, models, &sent)?;
        let (base, adapter) = match self.separator.and_then(|separator| sent.split_once(separator))
        {
            Some((base, adapter)) if !models.lists(&sent) => (base, Some(adapter)),
            _ => (&*sent, None),
        };
        let chosen = self.admit(base, principal, models)?;
        for adapter in adapter.into_iter().chain(facts.adapters.iter().map(AsRef::as_ref)) {
            check_name(adapter)?;
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

/// Whether `text` is a scope in which at most the placeholder `hole` is to be replaced.
pub(super) fn is_template(text: &str, hole: &str) -> bool {
    is_scope(&text.replace(hole, "x")) && !text.replace(hole, "").contains(['{', '}'])
}
