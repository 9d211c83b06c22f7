//! Prompt categories: the category that a request declares, those that the operator's patterns find
//! in its text, and the scopes they require.
//!
//! This controls the intended use of a service. It is not a firewall: a reworded prompt is not
//! found.

mod patterns;

use std::{collections::BTreeSet, num::NonZeroUsize};

use schemars::JsonSchema;
use serde::Deserialize;

use self::patterns::{Patterns, PatternsError};
use super::{condition::is_credential, scope::ScopeRule};
use crate::{
    config::{Errors, Path},
    denial::{Denial, Reason, malformed, shown},
    identity::Principal,
    request::{
        Headers,
        body::{BodyFacts, Pointer},
    },
};

/// The maximum number of patterns of a policy.
const PATTERNS: usize = 256;
/// The maximum length of a pattern in bytes.
const LENGTH: usize = 1024;
/// The default of `scan_bytes`.
const SCAN: NonZeroUsize = NonZeroUsize::MIN.saturating_add(256 * 1024 - 1);
/// The maximum of `scan_bytes`.
const SCAN_MOST: usize = 16 * 1024 * 1024;

/// One entry of `categories`: prompts that require scopes of their own.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CategoryConfig {
    /// The name that requests declare.
    pub name: String,
    /// The scopes that a credential requires for such a prompt, besides those of the route: all of
    /// a list, or one of `{ any: [...] }`. `[]` admits every credential that may use the route.
    pub scopes: ScopeRule,
    /// Patterns that find such a prompt by its text, in the syntax of the `regex` crate. They match
    /// anywhere in the text, and case-sensitively unless the pattern starts with `(?i)`. Default:
    /// none, so that the category can only be declared.
    #[serde(default)]
    pub patterns: Vec<String>,
}

/// `categories` of a route. Disabled if it is left out.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CategoryRuleConfig {
    /// Where a request declares its category. Default: declarations are ignored.
    pub declared: Option<DeclaredConfig>,
    /// Whether the patterns of all categories are matched against the text of the prompt. Default
    /// false.
    #[serde(default)]
    pub classify: bool,
    /// The maximum size of the text that is classified, in bytes of UTF-8 after decoding JSON's
    /// escapes, up to 16777216. A request with more text is refused with `body_too_large`, because
    /// the rest would not be classified. Default 262144.
    #[serde(default = "scan")]
    pub scan_bytes: NonZeroUsize,
    /// The category of a prompt without one. Default: such a request is refused.
    pub default: Option<String>,
    /// Refuse a request whose declared category is not among those that the patterns find, if they
    /// find any. Default false: it requires the scopes of both.
    #[serde(default)]
    pub must_agree: bool,
}

impl CategoryRuleConfig {
    /// Whether a form can be in a category: it is classified, or its request declares one in a header.
    pub(crate) fn reads_forms(&self) -> bool {
        let header = self.declared.as_ref().is_some_and(|declared| declared.header.is_some());
        self.classify || header
    }
}

/// `categories.declared`: a header, a member, or both. A request that declares two different
/// categories is refused.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeclaredConfig {
    /// A header, such as `x-prompt-category`.
    pub header: Option<String>,
    /// A member of the JSON body, such as `/metadata/category`.
    pub field: Option<String>,
    /// Refuse a request that declares none. Default true.
    #[serde(default = "yes")]
    pub required: bool,
}

fn scan() -> NonZeroUsize {
    SCAN
}

fn yes() -> bool {
    true
}

/// The compiled list `categories`.
#[derive(Debug, Default)]
pub struct Categories {
    list: Vec<(String, ScopeRule)>,
    patterns: Patterns,
    /// The index of the category of each pattern.
    owners: Vec<usize>,
}

impl Categories {
    /// Compiles the list `categories` and records every error.
    pub fn compile(configs: &[CategoryConfig], path: &Path, errors: &mut Errors) -> Self {
        let mut categories = Self::default();
        let mut patterns: Vec<&str> = Vec::new();
        for (index, config) in configs.iter().enumerate() {
            let path = path.index(index);
            let plain =
                |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':' | b'/');
            if config.name.is_empty() || config.name.len() > 64 || !config.name.bytes().all(plain) {
                let message = format!(
                    "`{}` is no name of a category; use 1 to 64 of letters, digits and `-_.:/`",
                    config.name
                );
                errors.push(&path.key("name"), message);
            }
            if configs.iter().take(index).any(|earlier| earlier.name == config.name) {
                errors
                    .push(&path.key("name"), format!("two categories are named `{}`", config.name));
            }
            let scopes = config.scopes.compile(&path.key("scopes"), errors);
            for (at, pattern) in config.patterns.iter().enumerate() {
                let at = path.key("patterns").index(at);
                // Each pattern is compiled alone first, so that an error has its path.
                let alone = if pattern.is_empty() || pattern.len() > LENGTH {
                    Err(PatternsError::Length(LENGTH))
                } else {
                    Patterns::compile(&[pattern]).and_then(|alone| match alone.is_match("") {
                        true => Err(PatternsError::MatchesEmpty(pattern.clone())),
                        false => Ok(()),
                    })
                };
                if errors.take(&at, alone).is_some() {
                    patterns.push(pattern);
                    categories.owners.push(index);
                }
            }
            categories.list.push((config.name.clone(), scopes));
        }
        if patterns.len() > PATTERNS {
            errors.push(
                path,
                format!(
                    "there are {} patterns; at most {PATTERNS} are run together",
                    patterns.len()
                ),
            );
        } else if let Some(set) = errors.take(path, Patterns::compile(&patterns)) {
            categories.patterns = set;
        }
        categories
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.list.iter().position(|(known, _)| known == name)
    }

    fn name(&self, index: usize) -> &str {
        self.list.get(index).map_or("", |(name, _)| name)
    }
}

/// A compiled `categories` of a route.
#[derive(Debug)]
pub(super) struct CategoryRule {
    header: Option<String>,
    pub(super) field: Option<Pointer>,
    required: bool,
    pub(super) classify: bool,
    pub(super) scan: usize,
    default: Option<usize>,
    must_agree: bool,
}

impl CategoryRule {
    pub(super) fn compile(
        config: &CategoryRuleConfig,
        categories: &Categories,
        path: &Path,
        errors: &mut Errors,
    ) -> Self {
        let declared = config.declared.as_ref();
        let at = path.key("declared");
        if declared.is_some_and(|declared| declared.header.is_none() && declared.field.is_none()) {
            errors.push(&at, "set `header` or `field`, or both");
        }
        let header = declared
            .and_then(|declared| declared.header.as_ref())
            .map(|name| name.to_ascii_lowercase());
        if let Some(name) = &header
            && (name.is_empty()
                || is_credential(name)
                || !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')))
        {
            errors.push(
                &at.key("header"),
                format!(
                    "`{name}` is no header for a category; write a name such as `x-prompt-category`"
                ),
            );
        }
        let field = declared.and_then(|declared| declared.field.as_ref());
        let field = field.and_then(|field| errors.take(&at.key("field"), field.parse::<Pointer>()));
        let required = declared.is_some_and(|declared| declared.required);
        if declared.is_none() && !config.classify {
            errors.push(path, "set `declared` or `classify`, or remove `categories`");
        }
        if categories.list.is_empty() {
            errors.push(
                path,
                "there are no `categories` in the file, so that every request would be refused",
            );
        } else if config.classify && categories.patterns.is_empty() {
            errors.push(&path.key("classify"), "none of the `categories` has `patterns`");
        }
        if config.must_agree && (declared.is_none() || !config.classify) {
            errors.push(
                &path.key("must_agree"),
                "this compares what is declared with what is found; set `declared` and `classify`",
            );
        }
        if config.scan_bytes.get() > SCAN_MOST {
            errors.push(&path.key("scan_bytes"), format!("must be at most {SCAN_MOST}"));
        }
        let default = config.default.as_ref().and_then(|name| {
            let known = categories
                .find(name)
                .ok_or_else(|| format!("there is no category `{name}` among the `categories`"));
            errors.take(&path.key("default"), known)
        });
        if required && config.default.is_some() {
            errors.push(
                &path.key("default"),
                "every request must declare its category; set `declared.required: false`, or remove `default`",
            );
        }
        let scan = config.scan_bytes.get();
        Self {
            header,
            field,
            required,
            classify: config.classify,
            scan,
            default,
            must_agree: config.must_agree,
        }
    }

    /// Returns the index of the category that a request declares.
    fn declared(
        &self,
        categories: &Categories,
        headers: &Headers<'_>,
        facts: &BodyFacts<'_>,
    ) -> Result<Option<usize>, Denial> {
        let header = match &self.header {
            None => None,
            Some(name) => headers.one(name)?,
        };
        let field = facts.category.as_deref().map(str::as_bytes);
        let name = match (header, field) {
            (Some(header), Some(field)) if header != field => {
                return Err(malformed("the header and the body declare different categories"));
            }
            (Some(name), _) | (None, Some(name)) => name,
            (None, None) => return Ok(None),
        };
        let known = std::str::from_utf8(name).ok().and_then(|name| categories.find(name));
        known.map(Some).ok_or_else(|| {
            let declared = shown(&String::from_utf8_lossy(name));
            forbidden(format!("the declared category `{declared}` is none of the policy's"))
                .with_message("the declared category is not known here")
        })
    }

    /// Returns the categories that the patterns find.
    ///
    /// # Errors
    /// `body_too_large` and `category_forbidden` if not all of the prompt can be read.
    fn found(
        &self,
        categories: &Categories,
        facts: &BodyFacts<'_>,
    ) -> Result<BTreeSet<usize>, Denial> {
        if !self.classify {
            return Ok(BTreeSet::new());
        }
        let prompt = &facts.prompt_text;
        if prompt.truncated {
            return Err(Denial::new(
                Reason::BodyTooLarge,
                format!(
                    "the prompt is longer than `scan_bytes` ({}), so it cannot be classified",
                    self.scan
                ),
            )
            .with_message(format!(
                "the text of a prompt may have at most {} bytes here",
                self.scan
            )));
        }
        if prompt.opaque {
            return Err(forbidden("a prompt in tokens or embeddings cannot be classified")
                .with_message("send the prompt as text"));
        }
        let mut found = BTreeSet::new();
        categories
            .patterns
            .find(&prompt.text, |pattern| found.extend(categories.owners.get(pattern)));
        Ok(found)
    }

    /// Returns the categories of a request.
    fn of(
        &self,
        categories: &Categories,
        headers: &Headers<'_>,
        facts: &BodyFacts<'_>,
    ) -> Result<BTreeSet<usize>, Denial> {
        let declared = self.declared(categories, headers, facts)?;
        if declared.is_none() && self.required {
            let remedy = self.how_to_declare();
            return Err(forbidden(format!("the request declares no category; {remedy}"))
                .with_message(remedy));
        }
        let mut all = self.found(categories, facts)?;
        if let Some(declared) = declared
            && self.must_agree
            && !all.is_empty()
            && !all.contains(&declared)
        {
            let found: Vec<&str> = all.iter().map(|index| categories.name(*index)).collect();
            let cause = format!(
                "`{}` is declared, and `{}` is found",
                categories.name(declared),
                found.join("`, `")
            );
            return Err(forbidden(cause).with_message("the prompt is not of the declared category"));
        }
        all.extend(declared);
        if all.is_empty() {
            all.extend(self.default);
        }
        if all.is_empty() {
            return Err(forbidden("the prompt is in none of the categories")
                .with_message("this prompt is in no category that is open here"));
        }
        Ok(all)
    }

    fn how_to_declare(&self) -> String {
        let places: Vec<String> = [
            self.header.as_ref().map(|name| format!("the header `{name}`")),
            self.field.as_ref().map(|pointer| format!("`{pointer}` of the body")),
        ]
        .into_iter()
        .flatten()
        .collect();
        format!("declare the category of the prompt in {}", places.join(" or "))
    }

    /// Checks the scopes of every category of a request.
    ///
    /// # Errors
    /// `category_forbidden`, `body_too_large`, and `malformed_request` if header and body declare
    /// different categories.
    pub(super) fn check(
        &self,
        categories: &Categories,
        principal: &Principal,
        headers: &Headers<'_>,
        facts: &BodyFacts<'_>,
    ) -> Result<(), Denial> {
        for index in self.of(categories, headers, facts)? {
            let Some((name, scopes)) = categories.list.get(index) else { continue };
            if let Err(missing) = scopes.check(principal) {
                let needed = missing.needed.join("`, `");
                let quantity = if matches!(scopes, ScopeRule::Any(_)) {
                    "one of the scopes"
                } else {
                    "the scope"
                };
                return Err(forbidden(format!(
                    "the prompt is in the category `{name}`, and {}",
                    scopes.shortfall("of the category", principal)
                ))
                .with_message(format!(
                    "prompts of the category `{name}` need {quantity} `{needed}`"
                ))
                .with_scopes(missing.needed));
            }
        }
        Ok(())
    }

    /// Returns the names of a request's categories, for display.
    pub(super) fn names(
        &self,
        categories: &Categories,
        headers: &Headers<'_>,
        facts: &BodyFacts<'_>,
    ) -> Vec<String> {
        let all = self.of(categories, headers, facts).unwrap_or_default();
        all.into_iter().map(|index| categories.name(index).to_owned()).collect()
    }
}

fn forbidden(cause: impl Into<std::borrow::Cow<'static, str>>) -> Denial {
    Denial::new(Reason::CategoryForbidden, cause).with_param("category")
}
