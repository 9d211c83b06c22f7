//! The rules of a route that depend on the body, and the single pass over the body that they share.

mod shadow;

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;
use thiserror::Error;

pub(crate) use self::shadow::ShadowContent;
use super::{
    category::{Categories, CategoryRule, CategoryRuleConfig},
    fields::{Caps, CapsConfig, Fields, FieldsConfig, Media, forbidden_member},
    member::RouteMembers,
    model::{ModelRule, ModelSource, Models},
    scope::missing_scopes,
    shadow::{ShadowRule, ShadowRules},
    size::{ModelSize, SizedRequest, Sizing},
    tool::{McpConfig, check_tools, compile_template},
};
use crate::{
    config::{Errors, Path},
    denial::{Denial, Reason},
    identity::Principal,
    request::{
        Headers, Request,
        body::{
            Body, BodyFacts, FieldPlan, ForbiddenCause, ForbiddenMember, FormPlan, Outline, Parts,
            Plan, PlanError, Pointer, Wanted, cap_names, members::TableId,
        },
    },
    text::is_scope,
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
#[derive(Clone, Copy)]
pub(crate) struct Sections<'a> {
    pub(crate) model: Option<&'a ModelRule>,
    pub(crate) models: &'a Models,
    pub(crate) caps: Option<&'a CapsConfig>,
    pub(crate) fields: Option<&'a FieldsConfig>,
    pub(crate) raise: Option<&'a RaiseConfig>,
    pub(crate) tools: Option<&'a String>,
    pub(crate) mcp: Option<&'a McpConfig>,
    pub(crate) categories: Option<(&'a CategoryRuleConfig, &'a Arc<Categories>)>,
    pub(crate) members: Option<&'a RouteMembers>,
    /// The member that names the tenant.
    pub(crate) tenant: Option<&'a Pointer>,
    /// Whether the size of a request is computed.
    pub(crate) sized: bool,
}

impl Sections<'_> {
    /// The keys whose rules are enforced. `sized`: whether an enforced limit needs the size of a
    /// request.
    pub(crate) fn enforced(self, shadow: ShadowRules, sized: bool) -> Self {
        let is_enforced = |rule| !shadow.contains(rule);
        Self {
            caps: self.caps.filter(|_| is_enforced(ShadowRule::Caps)),
            raise: self.raise.filter(|_| is_enforced(ShadowRule::Raise)),
            tools: self.tools.filter(|_| is_enforced(ShadowRule::Tools)),
            mcp: self.mcp.filter(|_| is_enforced(ShadowRule::Mcp)),
            categories: self.categories.filter(|_| is_enforced(ShadowRule::Categories)),
            sized,
            ..self
        }
    }
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
    /// JSON whatever the content type; with a header that says how many bytes of the body it is, only those.
    Prefix(Box<Plan>, Option<String>),
    Form(Box<FormPlan>),
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
    members: Option<RouteMembers>,
    /// What tables say of the query.
    query: Option<FieldPlan>,
    /// Names that decide in the body, and that a server may read from the query as well.
    second_places: Vec<String>,
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
            members: sections.members.cloned(),
            query: None,
            second_places: Vec::new(),
        };
        if let Some(members) = sections.members {
            let wanted = Wanted { opened: members.opened.clone(), ..Wanted::default() };
            content.query =
                members.query.map(|query| FieldPlan::new(members.tables, query, &wanted, true));
        }
        let form = sections.members.and_then(|members| members.form);
        content.reading = match sections.model.map(|rule| &rule.from) {
            Some(ModelSource::Form(name)) => content.form(Some(name), sections, path, errors),
            _ if form.is_some() => content.form(None, sections, path, errors),
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

    fn json(&mut self, sections: &Sections<'_>) -> Result<Reading, ReadingError> {
        let tiers = sections.model.is_some();
        let caps = sections.sized
            || self.caps.as_ref().is_some_and(Caps::need_json)
            || (tiers && sections.models.need_body());
        let parts = sections.sized
            || self.caps.as_ref().is_some_and(Caps::need_content)
            || (tiers && sections.models.need_content())
            || self.raise.is_some()
            || self.fields.as_ref().is_some_and(|fields| fields.media == Media::Inline);
        let adapters = sections.model.is_some_and(|rule| !rule.adapters.is_empty());
        let categories = self.categories.as_ref().map(|(rule, _)| rule);
        if let Some((members, root)) =
            sections.members.and_then(|members| Some((members, members.json?)))
        {
            return self.json_members(members, root, caps, sections);
        }
        self.second_places = Self::second_places(self.fields.as_ref(), caps);
        let read = categories.is_some_and(|rule| rule.classify || rule.field.is_some())
            || self.needed
            || caps
            || parts
            || adapters
            || self.fields.is_some()
            || self.tools.is_some()
            || self.mcp.is_some()
            || sections.tenant.is_some();
        if !read {
            let length = self.caps.is_some() || (tiers && sections.models.have_caps());
            return Ok(if length { Reading::Length } else { Reading::Nothing });
        }
        let mut plan = Plan::default();
        if let Some(rule) = sections.model {
            match &rule.from {
                ModelSource::Body(pointer) => plan.model(pointer)?,
                // A server may prefer the body's name: the rule compares the two.
                ModelSource::Path(_) | ModelSource::Query(_) | ModelSource::Header(_)
                    if self.fields.as_ref().is_none_or(|fields| fields.admits("model")) =>
                {
                    plan.model(&"/model".parse().map_err(PlanError::from)?)?;
                }
                _ => {}
            }
            for pointer in &rule.adapters {
                plan.adapter(pointer)?;
            }
        }
        if let Some(pointer) = categories.and_then(|rule| rule.field.as_ref()) {
            plan.category(pointer)?;
        }
        if let Some(pointer) = sections.tenant {
            plan.tenant(pointer)?;
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

    /// The reading of a JSON body that tables describe.
    fn json_members(
        &self,
        members: &RouteMembers,
        root: TableId,
        caps: bool,
        sections: &Sections<'_>,
    ) -> Result<Reading, ReadingError> {
        let categories = self.categories.as_ref().map(|(rule, _)| rule);
        let model = match sections.model.map(|rule| &rule.from) {
            Some(ModelSource::Body(pointer)) => Some(pointer.last()),
            _ => None,
        };
        let wanted = Wanted {
            model,
            caps,
            tools: self.tools.is_some(),
            text: categories.filter(|rule| rule.classify).map_or(0, |rule| rule.scan),
            opened: members.opened.clone(),
        };
        let mut plan = Plan::members(members.tables, root, &wanted);
        if let Some(pointer) = categories.and_then(|rule| rule.field.as_ref()) {
            plan.category_in_members(pointer)?;
        }
        Ok(if members.any_body || members.prefix.is_some() {
            Reading::Prefix(Box::new(plan), members.prefix.clone())
        } else {
            Reading::Json(Box::new(plan))
        })
    }

    /// The reading of a form that tables describe.
    fn form_members(
        &self,
        members: &RouteMembers,
        root: TableId,
        model: Option<&str>,
        sections: &Sections<'_>,
    ) -> Reading {
        let caps = sections.sized
            || self.caps.as_ref().is_some_and(Caps::need_json)
            || sections.models.need_body();
        let categories = self.categories.as_ref().map(|(rule, _)| rule);
        let wanted = Wanted {
            caps,
            text: categories.filter(|rule| rule.classify).map_or(0, |rule| rule.scan),
            opened: members.opened.clone(),
            ..Wanted::default()
        };
        Reading::Form(Box::new(FormPlan {
            model: model.map(str::to_owned),
            fields: Some(FieldPlan::new(members.tables, root, &wanted, false)),
            ..FormPlan::default()
        }))
    }

    fn form(
        &mut self,
        model: Option<&str>,
        sections: &Sections<'_>,
        path: &Path,
        errors: &mut Errors,
    ) -> Reading {
        if let Some((members, root)) =
            sections.members.and_then(|members| Some((members, members.form?)))
        {
            return self.form_members(members, root, model, sections);
        }
        for (key, set) in [
            ("raise", self.raise.is_some()),
            ("tools", self.tools.is_some()),
            ("mcp", self.mcp.is_some()),
            ("tenant", sections.tenant.is_some()),
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
        let caps = sections.sized
            || self.caps.as_ref().is_some_and(Caps::need_json)
            || sections.models.need_body();
        self.second_places = Self::second_places(self.fields.as_ref(), caps);
        let forbidden: Vec<String> =
            fields.deny.iter().map(|pointer| pointer.last().to_owned()).collect();
        Reading::Form(Box::new(FormPlan {
            model: model.map(str::to_owned),
            forbidden,
            only: fields.allow,
            caps,
            fields: None,
        }))
    }

    /// Whether the body is read. If it cannot be sent, the route's requests are denied.
    pub(crate) fn reads_body(&self) -> bool {
        !matches!(self.reading, Reading::Nothing)
    }

    /// The places that a member of the body has besides it: a server that reads forms with Go takes the query first.
    fn second_places(fields: Option<&Fields>, caps: bool) -> Vec<String> {
        let denied = fields.into_iter().flat_map(|fields| &fields.deny);
        let mut names: Vec<String> = denied.map(|pointer| pointer.last().to_owned()).collect();
        if caps {
            names.extend(cap_names().map(str::to_owned));
        }
        names
    }

    /// Reads the body of a request.
    ///
    /// # Errors
    /// The errors of [`crate::request::Body::json`] and [`crate::request::Body::form`].
    pub(crate) fn read<'a>(
        &self,
        request: &Request<'_>,
        body: &Body<'a>,
    ) -> Result<BodyFacts<'a>, Denial> {
        let bodiless = !matches!(request.method, "POST" | "PUT" | "PATCH") && !self.needed;
        let optional = self.members.as_ref().is_some_and(|members| members.any_body);
        let mut facts = match &self.reading {
            Reading::Nothing => BodyFacts::default(),
            Reading::Length => BodyFacts { bytes: body.length()?, ..BodyFacts::default() },
            _ if (bodiless || optional) && body.length()? == 0 => BodyFacts::default(),
            Reading::Json(plan) => body.json(plan)?,
            Reading::Prefix(plan, header) => {
                let length = match header {
                    Some(header) => request.headers.one(header)?,
                    None => None,
                };
                body.json_prefix(length, plan)?
            }
            Reading::Form(plan) => body.form(plan)?,
        };
        if self.members.is_some() {
            Body::query(&request.path, self.query.as_ref(), &mut facts)?;
        } else if !self.second_places.is_empty() {
            for pair in request.path.query_pairs() {
                let (name, _) = pair?;
                if self.second_places.contains(&name) {
                    facts.forbidden.get_or_insert_with(|| {
                        ForbiddenMember::at(format!("?{name}"), ForbiddenCause::Denied)
                    });
                }
            }
        }
        Ok(facts)
    }

    /// Returns the size of a request in tokens. A form is as large as the context of the model:
    /// nothing in it bounds what the server reads of its files.
    ///
    /// # Errors
    /// The errors of [`crate::request::Body::outline`].
    pub(crate) fn size(
        &self,
        model: ModelSize,
        path: &str,
        body: &Body<'_>,
        facts: &BodyFacts<'_>,
        sizing: Sizing,
    ) -> Result<SizedRequest, Denial> {
        let outline = match &self.reading {
            Reading::Json(_) if facts.bytes > 0 => body.outline()?,
            Reading::Nothing | Reading::Length | Reading::Json(_) | Reading::Prefix(..) => {
                Outline { is_exact: true, ..Outline::default() }
            }
            Reading::Form(_) => Outline { is_open: true, is_exact: true, ..Outline::default() },
        };
        SizedRequest::of(sizing, path, model, facts, &outline)
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
        if let Some(member) = &facts.forbidden {
            return Err(forbidden_member(member));
        }
        if let Some(fields) = &self.fields {
            fields.check(facts)?;
        }
        if let Some(members) = &self.members {
            members.authorize(principal, facts)?;
        }
        let headers = &request.headers;
        self.check_rule(ShadowRule::Raise, principal, headers, facts)?;
        self.check_rule(ShadowRule::Tools, principal, headers, facts)?;
        self.check_rule(ShadowRule::Mcp, principal, headers, facts)?;
        self.check_rule(ShadowRule::Caps, principal, headers, facts)?;
        if let Some(caps) = tier {
            caps.check(facts)?;
        }
        self.check_rule(ShadowRule::Categories, principal, headers, facts)
    }

    /// Checks one of the rules that can be in shadow.
    #[inline]
    fn check_rule(
        &self,
        rule: ShadowRule,
        principal: &Principal,
        headers: &Headers<'_>,
        facts: &BodyFacts<'_>,
    ) -> Result<(), Denial> {
        match rule {
            ShadowRule::Raise => match &self.raise {
                Some(raise) => raise.authorize(principal, facts.parts),
                None => Ok(()),
            },
            ShadowRule::Tools => match &self.tools {
                Some(template) => check_tools(template, principal, facts),
                None => Ok(()),
            },
            ShadowRule::Mcp => match &self.mcp {
                Some(mcp) => mcp.authorize(principal, headers, facts),
                None => Ok(()),
            },
            ShadowRule::Caps => match &self.caps {
                Some(caps) => caps.check(facts),
                None => Ok(()),
            },
            ShadowRule::Categories => match &self.categories {
                Some((rule, categories)) => rule.check(categories, principal, headers, facts),
                None => Ok(()),
            },
            // It reads no body.
            ShadowRule::Actors => Ok(()),
        }
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
        let cause = missing_scopes("of content other than text", &missing, false, principal);
        Err(Denial::new(Reason::InsufficientScope, cause)
            .with_message(format!("content other than text needs the scope `{first}` here"))
            .with_param("messages")
            .with_scopes(missing))
    }
}
