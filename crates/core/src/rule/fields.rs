//! Members of the body: how much a request may ask for, and what it may not say at all.

use std::num::NonZeroU64;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    config::{Errors, Path},
    denial::{Denial, Reason},
    request::body::{BodyFacts, Cap, Parts, Pointer},
};

/// `caps` of a route or a tier: the most a request may ask for. What is over is refused with `field_forbidden`, naming the
/// member; what is no plain integer with `malformed_request`. A proxy's ext_authz cannot change a body, so nothing is lowered.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CapsConfig {
    /// Tokens to generate: `max_tokens`, `max_completion_tokens`, `max_output_tokens`, `max_new_tokens` (also in
    /// `sampling_params` and `parameters`), `n_predict`, `num_predict`; each of them that is there.
    pub max_tokens: Option<u64>,
    /// Refuse requests that name none of those. Default false: the server's own default then holds, which for vLLM is the
    /// rest of the context.
    #[serde(default)]
    pub require_max_tokens: bool,
    /// Answers to one request (`n`).
    pub n: Option<u64>,
    /// Answers to choose from (`best_of`).
    pub best_of: Option<u64>,
    /// Prompts in one request: elements of `prompt`, `input`, `inputs`, `text`, `texts`, `input_ids`, `documents` or `queries`.
    pub prompts: Option<u64>,
    /// Bytes of the body. What is over is refused with `body_too_large`.
    pub input_bytes: Option<NonZeroU64>,
    /// Images.
    pub images: Option<u64>,
    /// Audio clips.
    pub audio: Option<u64>,
    /// Videos.
    pub videos: Option<u64>,
    /// Files and documents; in a form, every file.
    pub files: Option<u64>,
}

/// `fields` of a route: members of the JSON body, or fields of the form.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FieldsConfig {
    /// Members that may not be there, whatever their value: `priority`, or `/sampling_params/custom_params` for one further down.
    #[serde(default)]
    pub deny: Vec<String>,
    /// The only members of the document that may be there. Left out: any.
    pub allow: Option<Vec<String>>,
    /// What content parts may refer to. Default `any`.
    #[serde(default)]
    pub media: Media,
}

/// `fields.media`: what content parts may refer to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Media {
    /// Anything that the server is willing to fetch or open.
    #[default]
    Any,
    /// `data:` URLs and bare base64 of more than 4096 bytes only: no URL, no file, nothing that may be a path.
    Inline,
}

/// Compiled caps.
#[derive(Clone, Debug)]
pub struct Caps {
    config: CapsConfig,
}

impl Caps {
    pub(super) fn compile(config: &CapsConfig, path: &Path, errors: &mut Errors) -> Self {
        if config.require_max_tokens && config.max_tokens.is_none() {
            errors.push(
                &path.key("require_max_tokens"),
                "set `max_tokens` too, or a request could name any number",
            );
        }
        let caps = Self { config: config.clone() };
        if config.input_bytes.is_none() && !caps.need_json() {
            errors.push(path, "set at least one cap, or remove `caps`");
        }
        caps
    }

    /// Whether anything but the length matters.
    pub(super) fn need_json(&self) -> bool {
        let config = &self.config;
        [config.max_tokens, config.n, config.best_of, config.prompts].iter().any(Option::is_some)
            || self.need_content()
    }

    /// The first cap that only a JSON body shows: in a form, media of every kind are files.
    pub(super) fn json_only(&self) -> Option<&'static str> {
        let Self { config } = self;
        let kinds = [
            ("prompts", config.prompts),
            ("images", config.images),
            ("audio", config.audio),
            ("videos", config.videos),
        ];
        kinds.into_iter().find(|(_, cap)| cap.is_some()).map(|(name, _)| name)
    }

    /// Whether content parts matter.
    pub(super) fn need_content(&self) -> bool {
        let config = &self.config;
        [config.images, config.audio, config.videos, config.files].iter().any(Option::is_some)
    }

    /// The largest body.
    pub(super) fn input_bytes(&self) -> Option<u64> {
        self.config.input_bytes.map(NonZeroU64::get)
    }

    pub(super) fn check(&self, facts: &BodyFacts<'_>) -> Result<(), Denial> {
        if let Some(most) = self.input_bytes()
            && facts.bytes > most
        {
            return Err(Denial::new(
                Reason::BodyTooLarge,
                "the body is over the cap `input_bytes`",
            )
            .with_message(format!("the body may have at most {most} bytes here")));
        }
        let config = &self.config;
        for (cap, name, number) in &facts.caps {
            let most = match cap {
                Cap::Tokens => config.max_tokens,
                Cap::Choices => config.n,
                Cap::BestOf => config.best_of,
            };
            at_most(name, *number, most)?;
        }
        if config.require_max_tokens && !facts.caps.iter().any(|(cap, ..)| *cap == Cap::Tokens) {
            return Err(field_forbidden("the request names no `max_tokens`", "max_tokens")
                .with_message("this endpoint needs `max_tokens` in the request"));
        }
        let Parts { images, audio, videos, files } = facts.parts;
        at_most("prompts", facts.prompts, config.prompts)?;
        at_most("images", images, config.images)?;
        at_most("audio", audio, config.audio)?;
        at_most("videos", videos, config.videos)?;
        at_most("files", files, config.files)
    }
}

fn at_most(name: &str, number: u64, most: Option<u64>) -> Result<(), Denial> {
    match most {
        Some(most) if number > most => {
            Err(field_forbidden("a number in the body is over its cap", name)
                .with_message(format!("`{name}` may be at most {most} here")))
        }
        _ => Ok(()),
    }
}

fn field_forbidden(cause: &'static str, name: &str) -> Denial {
    Denial::new(Reason::FieldForbidden, cause).with_param(name)
}

/// Compiled `fields`.
#[derive(Clone, Debug, Default)]
pub(super) struct Fields {
    pub(super) deny: Vec<Pointer>,
    pub(super) allow: Option<Vec<String>>,
    pub(super) media: Media,
}

impl Fields {
    pub(super) fn compile(config: &FieldsConfig, path: &Path, errors: &mut Errors) -> Self {
        let mut deny = Vec::with_capacity(config.deny.len());
        for (index, field) in config.deny.iter().enumerate() {
            let at = path.key("deny").index(index);
            let pointer = if field.starts_with('/') { field.clone() } else { format!("/{field}") };
            deny.extend(errors.take(&at, pointer.parse::<Pointer>()));
            if config.allow.as_ref().is_some_and(|allow| allow.contains(field)) {
                errors.push(&at, format!("`{field}` is allowed and denied; remove one of the two"));
            }
        }
        if *config == FieldsConfig::default() {
            errors.push(path, "set `deny`, `allow` or `media`, or remove `fields`");
        }
        Self { deny, allow: config.allow.clone(), media: config.media }
    }

    pub(super) fn check(&self, facts: &BodyFacts<'_>) -> Result<(), Denial> {
        if let Some(name) = &facts.forbidden {
            return Err(field_forbidden(
                "the body has a member that the route does not allow",
                name,
            )
            .with_message(format!(
                "`{}` may not be sent here",
                name.chars().take(64).collect::<String>()
            )));
        }
        if self.media == Media::Inline && facts.external_reference {
            return Err(field_forbidden("a content part refers to a URL or a file", "url")
                .with_message("media may only be sent inline here, as `data:` URLs"));
        }
        Ok(())
    }
}
