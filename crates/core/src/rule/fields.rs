//! Members of the body: caps on what a request costs, and forbidden members.

use std::num::NonZeroU64;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    config::{Errors, Path},
    denial::{Denial, Reason, shown},
    request::body::{
        BodyFacts, Cap, CappedNumber, ForbiddenCause, ForbiddenMember, Parts, Pointer,
    },
};

/// `caps` of a route or a tier: upper limits for one request. A larger number is refused with
/// `field_forbidden`, naming the member; a number that is not a plain integer with
/// `malformed_request`. A proxy's ext_authz cannot change a body, so no number is lowered.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CapsConfig {
    /// Tokens to generate: each of `max_tokens`, `max_completion_tokens`, `max_output_tokens`,
    /// `max_new_tokens` (also in `sampling_params` and `parameters`), `n_predict` and `num_predict`
    /// that the request contains.
    pub max_tokens: Option<u64>,
    /// Refuse requests that contain none of these members. Default false: the server's own default
    /// then applies, which for vLLM is the rest of the context.
    #[serde(default)]
    pub require_max_tokens: bool,
    /// The number of answers to one request (`n`).
    pub n: Option<u64>,
    /// The number of answers to choose from (`best_of`).
    pub best_of: Option<u64>,
    /// Prompts in one request: elements of `prompt`, `input`, `text`, `documents`, `queries`, `items`
    /// and the other members that servers take prompts from, all together.
    pub prompts: Option<u64>,
    /// The size of the body in bytes. A larger body is refused with `body_too_large`.
    pub input_bytes: Option<NonZeroU64>,
    /// The number of images.
    pub images: Option<u64>,
    /// The number of audio clips.
    pub audio: Option<u64>,
    /// The number of videos.
    pub videos: Option<u64>,
    /// The number of files and documents; in a form, of all files.
    pub files: Option<u64>,
}

/// `fields` of a route: members of the JSON body, or fields of the form.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FieldsConfig {
    /// Forbidden members, regardless of their value: `priority`, or
    /// `/sampling_params/custom_params` for a nested one.
    #[serde(default)]
    pub deny: Vec<String>,
    /// The only allowed members of the document. Default: every member.
    pub allow: Option<Vec<String>>,
    /// The references that content parts may contain. Default `any`.
    #[serde(default)]
    pub media: Media,
}

/// `fields.media`: the references that content parts may contain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Media {
    /// Every reference that the server fetches or opens.
    #[default]
    Any,
    /// Only `data:` URLs and bare base64 of more than 4096 bytes: no URL, no file, nothing that may
    /// be a path.
    Inline,
}

/// The compiled `caps` of a route or a tier.
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

    /// Whether a cap other than the length of the body is set.
    pub(super) fn need_json(&self) -> bool {
        let config = &self.config;
        [config.max_tokens, config.n, config.best_of, config.prompts].iter().any(Option::is_some)
            || self.need_content()
    }

    /// Returns the first cap that applies to JSON bodies only: in a form, media of every kind are
    /// files.
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

    /// Whether a cap on content parts is set.
    pub(super) fn need_content(&self) -> bool {
        let config = &self.config;
        [config.images, config.audio, config.videos, config.files].iter().any(Option::is_some)
    }

    /// Returns the maximum size of the body.
    pub(super) fn input_bytes(&self) -> Option<u64> {
        self.config.input_bytes.map(NonZeroU64::get)
    }

    pub(super) fn check(&self, facts: &BodyFacts<'_>) -> Result<(), Denial> {
        if let Some(most) = self.input_bytes()
            && facts.bytes > most
        {
            return Err(Denial::new(
                Reason::BodyTooLarge,
                format!(
                    "the body of {} bytes is over the cap `input_bytes` of {most}",
                    facts.bytes
                ),
            )
            .with_message(format!("the body may have at most {most} bytes here")));
        }
        let config = &self.config;
        for CappedNumber { cap, name, value } in &facts.caps {
            let most = match cap {
                Cap::Tokens | Cap::MoreTokens => config.max_tokens,
                Cap::Choices => config.n,
                Cap::BestOf => config.best_of,
            };
            at_most(name, *value, most)?;
        }
        if config.require_max_tokens && !facts.caps.iter().any(|number| number.cap == Cap::Tokens) {
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
        Some(most) if number > most => Err(Denial::new(
            Reason::FieldForbidden,
            format!("`{name}` is {number}, over its cap of {most}"),
        )
        .with_listed_member(name)
        .with_message(format!("`{name}` may be at most {most} here"))),
        _ => Ok(()),
    }
}

fn field_forbidden(cause: &'static str, name: &str) -> Denial {
    Denial::new(Reason::FieldForbidden, cause).with_listed_member(name)
}

/// The denial of a member that the route forbids.
pub(super) fn forbidden_member(member: &ForbiddenMember) -> Denial {
    let short: String = member.name.chars().take(64).collect();
    let name = shown(&member.name);
    let (cause, message) = match member.cause {
        ForbiddenCause::Denied => (
            format!("the route denies the member `{name}`"),
            format!("`{short}` may not be sent here"),
        ),
        ForbiddenCause::Unlisted => (
            format!("the member `{name}` is not among those that the route lists"),
            format!("`{short}` may not be sent here"),
        ),
        ForbiddenCause::Over(most) => (
            format!("the member `{name}` is no number of at most {most}"),
            format!("`{short}` may be at most {most} here"),
        ),
    };
    let denial = Denial::new(Reason::FieldForbidden, cause).with_message(message);
    match member.cause {
        ForbiddenCause::Unlisted => denial.with_param(&member.name),
        ForbiddenCause::Denied | ForbiddenCause::Over(_) => denial.with_listed_member(&member.name),
    }
}

/// The compiled `fields` of a route.
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

    /// Whether a member of the document is neither denied nor left out of `allow`.
    pub(super) fn admits(&self, name: &str) -> bool {
        !self.deny.iter().any(|pointer| pointer.to_string() == format!("/{name}"))
            && self.allow.as_ref().is_none_or(|allow| allow.iter().any(|known| known == name))
    }

    pub(super) fn check(&self, facts: &BodyFacts<'_>) -> Result<(), Denial> {
        if self.media == Media::Inline && facts.external_reference {
            return Err(field_forbidden(
                "a content part refers to a `url` or a file, and the route admits only `data:` URLs \
                 (`media: inline`)",
                "url",
            )
            .with_message("media may only be sent inline here, as `data:` URLs"));
        }
        Ok(())
    }
}
