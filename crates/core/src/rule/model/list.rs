//! The models of the policy and their tiers: the lists `models` and `tiers`.

use std::{
    collections::{HashMap, HashSet},
    num::NonZeroU64,
    sync::Arc,
};

use foldhash::fast::FixedState;
use schemars::JsonSchema;
use serde::Deserialize;

use super::source::{ModelRuleConfig, ModelSource};
use crate::{
    config::{Errors, Path},
    denial::{Denial, Reason, malformed, shown},
    identity::Principal,
    rule::{
        fields::{Caps, CapsConfig},
        scope::missing_scopes,
        size::{ModelSize, TEMPLATE},
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
                if check_name(&served).is_err() {
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

    /// Whether the list has this name completely.
    pub(super) fn lists(&self, sent: &str) -> bool {
        self.by_served.contains_key(sent)
    }

    /// Returns the policy's name for a name that a client sent; `None` if the policy serves no such
    /// model.
    pub(super) fn name(&self, sent: &str) -> Option<Arc<str>> {
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
    pub(in crate::rule) fn need_body(&self) -> bool {
        self.tiers.iter().filter_map(|tier| tier.caps.as_ref()).any(Caps::need_json)
    }

    /// Whether a tier caps content parts.
    pub(in crate::rule) fn need_content(&self) -> bool {
        self.tiers.iter().filter_map(|tier| tier.caps.as_ref()).any(Caps::need_content)
    }

    /// Whether a tier has caps.
    pub(in crate::rule) fn have_caps(&self) -> bool {
        self.tiers.iter().any(|tier| tier.caps.is_some())
    }

    /// Returns the caps of the tier that permits a principal to use a model; `None` for a model in
    /// no tier, or a tier without caps.
    pub(super) fn admit(&self, name: &str, principal: &Principal) -> Result<Option<&Caps>, Denial> {
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

/// Returns the denial of a model.
pub(super) fn forbidden(model: &str, cause: String) -> Denial {
    Denial::new(Reason::ModelForbidden, cause).with_param("model").with_model(model)
}

/// Checks the form of a name that a client sends.
pub(super) fn check_name(name: &str) -> Result<(), Denial> {
    let printable = |name: &str| {
        name.bytes().all(|b| matches!(b, b' '..=b'~')) || !name.chars().any(char::is_control)
    };
    if name.is_empty() || name.len() > 256 || !printable(name) {
        return Err(malformed("the model is not 1 to 256 printable characters").with_param("model"));
    }
    Ok(())
}
