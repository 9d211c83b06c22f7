//! Conditions: expressions in CEL (the Common Expression Language), all of which must be true for a
//! request to be admitted.
//!
//! An expression is parsed, checked and compiled when the file is read; a wrong name, function or
//! type stops the start. Compiled terms are evaluated by this module instead of the `cel` crate's
//! interpreter, which has no limit on its steps, compiles patterns on every evaluation, and returns
//! `false` for a comparison of different types instead of an error.

mod activation;
mod clock;
mod compile;
mod error;
mod parse;
mod term;

use std::{collections::BTreeSet, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};

pub(crate) use self::compile::Route;
pub(super) use self::compile::is_credential;
use self::term::Term;
pub use self::{activation::Activation, term::EvaluationError};
use crate::{
    config::{Errors, Mode, Path},
    denial::{Denial, Reason},
};

/// The maximum number of conditions of a route.
const MAX_CONDITIONS: usize = 16;

/// One of `conditions`: an expression, or `{ name, expression, message, mode }`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConditionConfig {
    /// The name in audit lines and `explain`. Default: the expression.
    pub name: Option<String>,
    /// The expression, in CEL.
    pub expression: String,
    /// The message for the client if the condition is not met. Default: the text of
    /// `condition_failed`.
    pub message: Option<String>,
    /// Whether the condition denies. With `shadow` a denial is logged (`would_deny`) and the request
    /// passes. Default `enforce`.
    pub mode: Mode,
}

impl<'de> Deserialize<'de> for ConditionConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Named {
            name: Option<String>,
            expression: String,
            message: Option<String>,
            #[serde(default)]
            mode: Mode,
        }
        struct ConditionVisitor;
        impl<'de> Visitor<'de> for ConditionVisitor {
            type Value = ConditionConfig;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an expression, or `{ name, expression, message, mode }`")
            }
            fn visit_str<E>(self, expression: &str) -> Result<ConditionConfig, E> {
                let (expression, mode) = (expression.to_owned(), Mode::default());
                Ok(ConditionConfig { name: None, expression, message: None, mode })
            }
            fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<ConditionConfig, A::Error> {
                let Named { name, expression, message, mode } =
                    Named::deserialize(MapAccessDeserializer::new(entries))?;
                Ok(ConditionConfig { name, expression, message, mode })
            }
        }
        deserializer.deserialize_any(ConditionVisitor)
    }
}

impl JsonSchema for ConditionConfig {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Condition".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mode = generator.subschema_for::<Mode>();
        let expression =
            "An expression in CEL over `request`, `principal`, `model`, `captures` and `now`.";
        json_schema!({ "oneOf": [
            { "type": "string", "maxLength": parse::LENGTH, "description": expression },
            {
                "type": "object",
                "properties": {
                    "name": { "type": "string", "description": "The name in audit lines and `explain`. Default: the expression." },
                    "expression": { "type": "string", "maxLength": parse::LENGTH, "description": expression },
                    "message": { "type": "string", "description": "The message for the client if the condition is not met. Default: a general sentence." },
                    "mode": mode
                },
                "required": ["expression"],
                "additionalProperties": false
            }
        ] })
    }
}

/// A compiled condition.
#[derive(Debug)]
pub struct Condition {
    name: String,
    message: Option<String>,
    term: Term,
    is_shadow: bool,
}

impl Condition {
    /// Compiles `conditions` of a route and records every error. Adds the claims that they read to
    /// `claims`.
    pub(crate) fn compile(
        configs: &[ConditionConfig],
        route: Route<'_>,
        claims: &mut BTreeSet<String>,
        path: &Path,
        errors: &mut Errors,
    ) -> Vec<Self> {
        if configs.len() > MAX_CONDITIONS {
            errors.push(path, format!("a route has at most {MAX_CONDITIONS} conditions"));
        }
        let mut conditions = Vec::with_capacity(configs.len());
        for (index, config) in configs.iter().take(MAX_CONDITIONS).enumerate() {
            let path = path.index(index);
            let printable = |text: &String| {
                (1..=256).contains(&text.len()) && !text.chars().any(char::is_control)
            };
            for (key, text) in [("name", &config.name), ("message", &config.message)] {
                if text.as_ref().is_some_and(|text| !printable(text)) {
                    errors
                        .push(&path.key(key), format!("`{key}` is 1 to 256 printable characters"));
                }
            }
            if config.name.is_some()
                && configs.iter().take(index).any(|earlier| earlier.name == config.name)
            {
                errors.push(&path.key("name"), "two conditions have this name");
            }
            let compiled = parse::parse(&config.expression)
                .and_then(|expression| compile::compile(&expression, route, claims));
            let plain =
                config.name.is_none() && config.message.is_none() && !config.mode.is_shadow();
            let at = if plain { path } else { path.key("expression") };
            let Some(term) = errors.take(&at, compiled) else { continue };
            let name = config.name.clone().unwrap_or_else(|| {
                config.expression.split_whitespace().collect::<Vec<_>>().join(" ")
            });
            let (message, is_shadow) = (config.message.clone(), config.mode.is_shadow());
            conditions.push(Self { name, message, term, is_shadow });
        }
        conditions
    }

    /// Returns the name, or the expression if it has none.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the condition is in shadow.
    pub const fn is_shadow(&self) -> bool {
        self.is_shadow
    }

    /// Evaluates the condition.
    ///
    /// # Errors
    /// The reason why it is neither true nor false, which denies as well.
    pub fn holds(&self, activation: &Activation<'_>) -> Result<bool, EvaluationError> {
        term::holds(&self.term, activation)
    }

    /// Checks that the condition is true.
    ///
    /// # Errors
    /// `condition_failed` if it is false or has no value.
    pub(crate) fn check(&self, activation: &Activation<'_>) -> Result<(), Denial> {
        let cause = match self.holds(activation) {
            Ok(true) => return Ok(()),
            Ok(false) => format!("the condition `{}` is not true", self.name),
            Err(error) => format!("the condition `{}` has no value: {error}", self.name),
        };
        let denial = Denial::new(Reason::ConditionFailed, cause);
        Err(match &self.message {
            Some(message) => denial.with_message(message),
            None => denial,
        })
    }
}
