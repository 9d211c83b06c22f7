//! The rules of a route that depend on the body, and the single pass over the body that they share.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;
use thiserror::Error;

use super::{
    category::{Categories, CategoryRule, CategoryRuleConfig},
    fields::{Caps, CapsConfig, Fields, FieldsConfig, Media},
    model::{ModelRule, ModelSource, Models},
    scope::is_scope,
    tool::{McpConfig, check_tools, compile_template},
};
use crate::{
    config::{Errors, Path},
    denial::{Denial, Reason},
    identity::Principal,
    request::{
        Headers, Request,
        body::{Body, BodyFacts, FormPlan, Parts, Plan, PlanError},
    },
};

/// `raise` of a route: scopes that a request requires besides the route's if its body contains more
/// than text. Content whose key is left out requires no additional scope.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RaiseConfig {
    /// The scope for images, videos and files, such as `infer:multimodal`; also for audio if
    /// `audio` is left out.
    pub multimodal: Option<String>,
    /// The scope for audio, such as `infer:audio`.
    pub audio: Option<String>,
}

/// The keys of a route that concern its body.
pub(crate) struct Sections<'a> {
    pub(crate) model: Option<&'a ModelRule>,
    pub(crate) models: &'a Models,
    pub(crate) caps: Option<&'a CapsConfig>,
    pub(crate) fields: Option<&'a FieldsConfig>,
    pub(crate) raise: Option<&'a RaiseConfig>,
    pub(crate) tools: Option<&'a String>,
    pub(crate) mcp: Option<&'a McpConfig>,
    pub(crate) categories: Option<(&'a CategoryRuleConfig, &'a Arc<Categories>)>,
}

/// How the body of a request is read.
#[derive(Debug, Default)]
enum Reading {
    /// The body is not read.
    #[default]
    Nothing,
    /// Only the length of the body is read.
    Length,
    Json(Box<Plan>),
    Form(FormPlan),
}

/// A conflict between the keys of a route that read its body.
#[derive(Debug, Error)]
enum ReadingError {
    /// The plan for the JSON body has a conflict.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Prompts are classified on a route for JSON-RPC.
    #[error("an MCP server gets no prompts; remove `categories.classify` or `mcp`")]
    McpPrompts,
}

/// The compiled rules of a route for its body; by default none.
#[derive(Debug, Default)]
pub(crate) struct Content {
    reading: Reading,
    /// Whether a body is required regardless of the method.
    needed: bool,
    caps: Option<Caps>,
    fields: Option<Fields>,
    raise: Option<RaiseConfig>,
    tools: Option<String>,
    mcp: Option<McpConfig>,
    categories: Option<(CategoryRule, Arc<Categories>)>,
}

impl Content {
    /// Compiles the keys of a route and records every error.
    pub(crate) fn compile(sections: &Sections<'_>, path: &Path, errors: &mut Errors) -> Self {
        let caps = sections.caps.map(|caps| Caps::compile(caps, &path.key("caps"), errors));
        let fields =
            sections.fields.map(|fields| Fields::compile(fields, &path.key("fields"), errors));
        let raise = sections.raise.map(|raise| raise.compile(&path.key("raise"), errors));
        let tools =
            sections.tools.map(|template| compile_template(template, &path.key("tools"), errors));
        let mcp = sections.mcp.map(|mcp| mcp.compile(&path.key("mcp"), errors));
        let categories = sections.categories.map(|(config, categories)| {
            (
                CategoryRule::compile(config, categories, &path.key("categories"), errors),
                Arc::clone(categories),
            )
        });
        let mut content = Self {
            reading: Reading::Nothing,
            needed: matches!(
                sections.model.map(|rule| &rule.from),
                Some(ModelSource::Body(_) | ModelSource::Form(_))
            ),
            caps,
            fields,
            raise,
            tools,
            mcp,
            categories,
        };
        content.reading = match sections.model.map(|rule| &rule.from) {
            Some(ModelSource::Form(name)) => content.form(name, sections.models, path, errors),
            _ => match content.json(sections) {
                Ok(reading) => reading,
                Err(error) => {
                    errors.push(path, error.to_string());
                    Reading::Nothing
                }
            },
        };
        content
    }

    fn json(&self, sections: &Sections<'_>) -> Result<Reading, ReadingError> {
        let tiers = sections.model.is_some();
        let caps = self.caps.as_ref().is_some_and(Caps::need_json)
            || (tiers && sections.models.need_body());
        let parts = self.caps.as_ref().is_some_and(Caps::need_content)
            || (tiers && sections.models.need_content())
            || self.raise.is_some()
            || self.fields.as_ref().is_some_and(|fields| fields.media == Media::Inline);
        let adapters = sections.model.is_some_and(|rule| !rule.adapters.is_empty());
        let categories = self.categories.as_ref().map(|(rule, _)| rule);
        let read = categories.is_some_and(|rule| rule.classify || rule.field.is_some())
            || self.needed
            || caps
            || parts
            || adapters
            || self.fields.is_some()
            || self.tools.is_some()
            || self.mcp.is_some();
        if !read {
            let length = self.caps.is_some() || (tiers && sections.models.have_caps());
            return Ok(if length { Reading::Length } else { Reading::Nothing });
        }
        let mut plan = Plan::default();
        if let Some(rule) = sections.model {
            if let ModelSource::Body(pointer) = &rule.from {
                plan.model(pointer)?;
            }
            for pointer in &rule.adapters {
                plan.adapter(pointer)?;
            }
        }
        if let Some(pointer) = categories.and_then(|rule| rule.field.as_ref()) {
            plan.category(pointer)?;
        }
        if self.mcp.is_some() {
            plan.rpc()?;
        }
        if caps {
            plan.caps()?;
        }
        if self.tools.is_some() {
            plan.tools();
        }
        if let Some(fields) = &self.fields {
            for pointer in &fields.deny {
                plan.forbid(pointer)?;
            }
            if let Some(allow) = &fields.allow {
                plan.only(allow);
            }
        }
        if parts {
            plan.content();
        }
        if let Some(rule) = categories.filter(|rule| rule.classify) {
            if self.mcp.is_some() {
                return Err(ReadingError::McpPrompts);
            }
            plan.prompt_text(rule.scan)?;
        }
        Ok(Reading::Json(Box::new(plan)))
    }

    fn form(&self, model: &str, models: &Models, path: &Path, errors: &mut Errors) -> Reading {
        for (key, set) in [
            ("raise", self.raise.is_some()),
            ("tools", self.tools.is_some()),
            ("mcp", self.mcp.is_some()),
            (
                "categories",
                self.categories
                    .as_ref()
                    .is_some_and(|(rule, _)| rule.classify || rule.field.is_some()),
            ),
        ] {
            if set {
                errors.push(
                    &path.key(key),
                    format!("the route reads a form, and `{key}` is about JSON"),
                );
            }
        }
        if let Some(cap) = self.caps.as_ref().and_then(Caps::json_only) {
            errors.push(
                &path.key("caps").key(cap),
                format!("the route reads a form, where `{cap}` cannot be counted; use `files`"),
            );
        }
        let fields = self.fields.clone().unwrap_or_default();
        if fields.media == Media::Inline {
            errors.push(
                &path.key("fields").key("media"),
                "a form holds its media itself; remove `media`",
            );
        }
        let forbidden = fields.deny.iter().map(|pointer| pointer.last().to_owned()).collect();
        let caps = self.caps.as_ref().is_some_and(Caps::need_json) || models.need_body();
        Reading::Form(FormPlan {
            model: Some(model.to_owned()),
            forbidden,
            only: fields.allow,
            caps,
        })
    }

    /// Whether the body is read. If it cannot be sent, the route's requests are denied.
    pub(crate) fn reads_body(&self) -> bool {
        !matches!(self.reading, Reading::Nothing)
    }

    /// Reads the body of a request.
    ///
    /// # Errors
    /// The errors of [`crate::request::Body::json`] and [`crate::request::Body::form`].
    pub(crate) fn read<'a>(&self, method: &str, body: &Body<'a>) -> Result<BodyFacts<'a>, Denial> {
        let bodiless = !matches!(method, "POST" | "PUT" | "PATCH") && !self.needed;
        match &self.reading {
            Reading::Nothing => Ok(BodyFacts::default()),
            Reading::Length => Ok(BodyFacts { bytes: body.length()?, ..BodyFacts::default() }),
            Reading::Json(_) if bodiless && body.length()? == 0 => Ok(BodyFacts::default()),
            Reading::Json(plan) => body.json(plan),
            Reading::Form(plan) => body.form(plan),
        }
    }

    /// Checks the facts read from the body.
    ///
    /// # Errors
    /// `field_forbidden`, `insufficient_scope`, `tool_forbidden`, `category_forbidden`,
    /// `body_too_large`, `malformed_request`.
    pub(crate) fn check(
        &self,
        principal: &Principal,
        tier: Option<&Caps>,
        request: &Request<'_>,
        facts: &BodyFacts<'_>,
    ) -> Result<(), Denial> {
        if let Some(fields) = &self.fields {
            fields.check(facts)?;
        }
        if let Some(raise) = &self.raise {
            raise.authorize(principal, facts.parts)?;
        }
        if let Some(template) = &self.tools {
            check_tools(template, principal, facts)?;
        }
        if let Some(mcp) = &self.mcp {
            mcp.authorize(principal, &request.headers, facts)?;
        }
        for caps in self.caps.iter().chain(tier) {
            caps.check(facts)?;
        }
        if let Some((rule, categories)) = &self.categories {
            rule.check(categories, principal, &request.headers, facts)?;
        }
        Ok(())
    }

    /// Returns the prompt categories of a request.
    pub(crate) fn categories(&self, headers: &Headers<'_>, facts: &BodyFacts<'_>) -> Vec<String> {
        self.categories
            .as_ref()
            .map(|(rule, categories)| rule.names(categories, headers, facts))
            .unwrap_or_default()
    }
}

impl RaiseConfig {
    /// Compiles the rule, which is its own configuration, and records every error.
    fn compile(&self, path: &Path, errors: &mut Errors) -> Self {
        for (key, scope) in [("multimodal", &self.multimodal), ("audio", &self.audio)] {
            if scope.as_ref().is_some_and(|scope| !is_scope(scope)) {
                errors.push(&path.key(key), "write one scope, such as `infer:multimodal`");
            }
        }
        if self.multimodal.is_none() && self.audio.is_none() {
            errors.push(path, "set `multimodal` or `audio`, or remove `raise`");
        }
        self.clone()
    }

    fn authorize(&self, principal: &Principal, parts: Parts) -> Result<(), Denial> {
        let Parts { images, audio, videos, files } = parts;
        let more = images > 0 || videos > 0 || files > 0;
        let sound = self.audio.as_ref().or(self.multimodal.as_ref()).filter(|_| audio > 0);
        let needed: Vec<&String> =
            self.multimodal.as_ref().filter(|_| more).into_iter().chain(sound).collect();
        let missing: Vec<String> =
            needed.into_iter().filter(|scope| !principal.has_scope(scope)).cloned().collect();
        let Some(first) = missing.first() else { return Ok(()) };
        Err(Denial::new(
            Reason::InsufficientScope,
            "the scope for content other than text is missing",
        )
        .with_message(format!("content other than text needs the scope `{first}` here"))
        .with_param("messages")
        .with_scopes(missing))
    }
}
