//! Actors: who may act for the subject of a credential (RFC 8693 section 4.1).

use std::{fmt, sync::Arc};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};

use crate::{
    config::{Errors, Path},
    denial::{Denial, Reason, shown},
    identity::{Actor, MAX_ACTORS, Principal},
    text::is_identifier,
};

/// `actors` of a route: which tokens of a delegation it accepts.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ActorsConfig {
    /// The actors that may act for a subject: the outermost claim `act` of a token has to be one of
    /// them. Those within it are history. Default: every actor.
    pub allow: Option<Vec<ActorPattern>>,
    /// The most actors of a token, the current one and the earlier ones together: 0 to 8. With 0 a
    /// subject acts for itself only. Default 8.
    pub max_depth: Option<u32>,
    /// Whether, beside the actors of `allow`, a subject may act for itself: with a token that has no
    /// `act`, an API key or a certificate. Default false.
    #[serde(default)]
    pub direct: bool,
}

/// An entry of `actors.allow`: the name of an actor, or a map with its issuer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActorPattern {
    subject: String,
    issuer: Option<String>,
    token_issuer: Option<String>,
}

/// The map of an [`ActorPattern`].
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ActorPatternMap {
    /// The actor's `sub`, or its beginning with `*` at the end: `spiffe://prod.example.com/agents/*`.
    subject: String,
    /// The actor's issuer: `iss` of the claim `act`, or that of the token where it has none. Default:
    /// the issuer of the policy, which has to be the only one.
    issuer: Option<String>,
    /// The issuer of the tokens that name the actor. Default: `issuer`, as an issuer knows its own
    /// actors only.
    token_issuer: Option<String>,
}

impl<'de> Deserialize<'de> for ActorPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pattern;
        impl<'de> Visitor<'de> for Pattern {
            type Value = ActorPattern;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of an actor, or a map with `subject` and `issuer`")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<ActorPattern, E> {
                Ok(ActorPattern { subject: text.to_owned(), issuer: None, token_issuer: None })
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ActorPattern, A::Error> {
                let ActorPatternMap { subject, issuer, token_issuer } =
                    ActorPatternMap::deserialize(MapAccessDeserializer::new(map))?;
                Ok(ActorPattern { subject, issuer, token_issuer })
            }
        }
        deserializer.deserialize_any(Pattern)
    }
}

impl JsonSchema for ActorPattern {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ActorPattern".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let map = generator.subschema_for::<ActorPatternMap>();
        json_schema!({ "oneOf": [{ "type": "string", "minLength": 1 }, map] })
    }
}

/// The compiled `actors` of a route.
#[derive(Clone, Debug)]
pub struct ActorRule {
    /// `None`: every actor.
    allow: Option<Vec<AllowedActor>>,
    max_depth: usize,
    direct: bool,
}

/// A compiled entry of `actors.allow`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct AllowedActor {
    subject: SubjectPattern,
    issuer: String,
    token_issuer: String,
}

/// The subjects of an entry of `actors.allow`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum SubjectPattern {
    Exact(String),
    Prefix(String),
}

impl ActorRule {
    /// Compiles the rule and records every error. `issuers` are the issuers of tokens.
    pub(crate) fn compile(
        config: &ActorsConfig,
        issuers: &[Arc<str>],
        path: &Path,
        errors: &mut Errors,
    ) -> Self {
        let most = u32::try_from(MAX_ACTORS).unwrap_or(u32::MAX);
        let max_depth = config.max_depth.unwrap_or(most);
        if max_depth > most {
            let message = format!("a token with more than {MAX_ACTORS} actors is refused anyway");
            errors.push(&path.key("max_depth"), message);
        }
        let at = path.key("allow");
        match &config.allow {
            None if config.max_depth.is_none() => {
                errors.push(path, "set `allow` or `max_depth`, or remove `actors`");
            }
            None if config.direct => {
                let message = "without `allow` a subject may always act for itself; remove this";
                errors.push(&path.key("direct"), message);
            }
            None => {}
            Some(list) if list.is_empty() => {
                errors.push(&at, "list at least one actor; `max_depth: 0` admits none");
            }
            Some(_) if max_depth == 0 => {
                errors.push(&at, "with `max_depth: 0` no actor is admitted; remove one of the two");
            }
            Some(_) => {}
        }
        let allow = config.allow.as_ref().map(|list| {
            let entries = list.iter().enumerate();
            entries
                .filter_map(|(index, entry)| entry.compile(issuers, &at.index(index), errors))
                .collect()
        });
        Self { allow, max_depth: max_depth as usize, direct: config.direct }
    }

    /// Checks the actors of a credential.
    ///
    /// # Errors
    /// `actor_forbidden`.
    pub(crate) fn check(&self, principal: &Principal) -> Result<(), Denial> {
        let mut actors = principal.actors();
        let depth = actors.len();
        if depth > self.max_depth {
            let cause = format!(
                "the token has {depth} actors, and `actors.max_depth` of the route is {}",
                self.max_depth
            );
            return Err(forbidden(cause));
        }
        match (&self.allow, actors.next()) {
            (None, _) => Ok(()),
            (Some(_), None) if self.direct => Ok(()),
            (Some(_), None) => {
                let cause = "the credential names no actor (`act`), and the route has \
                             `actors.allow` without `direct: true`";
                Err(forbidden(cause.to_owned()).with_message(
                    "this endpoint is open to agents only, with a token that names one",
                ))
            }
            (Some(list), Some(actor)) => {
                if list.iter().any(|allowed| allowed.matches(actor, principal.issuer())) {
                    return Ok(());
                }
                let cause = format!(
                    "the actor `{}` of the issuer `{}`, in a token of `{}`, is not in \
                     `actors.allow` of the route",
                    shown(actor.subject),
                    shown(actor.issuer),
                    shown(principal.issuer()),
                );
                Err(forbidden(cause))
            }
        }
    }
}

fn forbidden(cause: String) -> Denial {
    Denial::new(Reason::ActorForbidden, cause)
}

impl AllowedActor {
    /// Whether an actor that a token of `token_issuer` names is the one of the entry. The same name
    /// of another issuer is another actor, and no issuer speaks for the actors of another one.
    fn matches(&self, actor: Actor<'_>, token_issuer: &str) -> bool {
        let is_subject = match &self.subject {
            SubjectPattern::Exact(subject) => subject == actor.subject,
            SubjectPattern::Prefix(prefix) => actor.subject.starts_with(prefix.as_str()),
        };
        is_subject && self.issuer == actor.issuer && self.token_issuer == token_issuer
    }
}

impl ActorPattern {
    fn compile(
        &self,
        issuers: &[Arc<str>],
        path: &Path,
        errors: &mut Errors,
    ) -> Option<AllowedActor> {
        let subject = match self.subject.strip_suffix('*') {
            Some(prefix) => SubjectPattern::Prefix(prefix.to_owned()),
            None => SubjectPattern::Exact(self.subject.clone()),
        };
        if !is_identifier(&self.subject) || self.subject.trim_end_matches('*').contains('*') {
            let message = "an actor is 1 to 256 printable characters, with `*` at the end only";
            errors.push(path, message);
            return None;
        }
        let root = path.parent().parent().parent().parent().parent();
        let known = |name: &str| issuers.iter().any(|issuer| **issuer == *name);
        let named = |name: &String| if name == "absent" { String::new() } else { name.clone() };
        let issuer = match (&self.issuer, issuers) {
            (Some(issuer), _) => named(issuer),
            (None, [only]) => only.to_string(),
            (None, _) => {
                let message = format!(
                    "the same name of another issuer is another actor, and the policy has not one \
                     issuer; write `{{ subject: \"{}\", issuer: ... }}`",
                    self.subject
                );
                errors.push_presuming(path, &[root.key("issuers")], message);
                return None;
            }
        };
        let token_issuer = self.token_issuer.as_ref().map_or_else(|| issuer.clone(), named);
        if !known(&token_issuer) {
            let message = format!(
                "no entry of `issuers` is `{token_issuer}`; where its actors are named by the \
                 tokens of another issuer, set `token_issuer`"
            );
            errors.push_presuming(path, &[root.key("issuers")], message);
        }
        Some(AllowedActor { subject, issuer, token_issuer })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::Document,
        policy::{Policy, PolicyConfig},
    };

    const ISSUER: &str = "audiences: [a], algorithms: [HS256], \
                          secret: 0123456789abcdef0123456789abcdef";

    /// The errors of a policy with two issuers, or one, and a route with these `actors`.
    fn errors(actors: &str, issuers: &[&str]) -> String {
        let issuers = issuers.iter().map(|name| format!("  - {{ issuer: {name}, {ISSUER} }}\n"));
        let issuers: String = issuers.collect();
        let text = format!(
            "issuers:\n{issuers}routes:\n  - {{ match: {{ methods: [POST], paths: [/a] }}, \
             scopes: [], actors: {actors} }}\n"
        );
        let document = Document::parse(&text, &|_| None).unwrap();
        let config: Result<PolicyConfig, _> = document.read();
        let Ok(config) = config else { return format!("{:?}", config.err()) };
        let mut errors = Errors::default();
        Policy::compile(&config, &mut errors);
        document.locate(errors).iter().map(|error| format!("{error}\n")).collect()
    }

    #[test]
    fn an_entry_has_one_meaning() {
        for actors in [
            "{ allow: [planner] }",
            "{ allow: [\"agents/*\", \"*\"], direct: true }",
            "{ max_depth: 0 }",
            "{ allow: [{ subject: planner, issuer: i }], max_depth: 2 }",
            "{ allow: [{ subject: planner, issuer: https://x, token_issuer: i }] }",
        ] {
            assert_eq!(errors(actors, &["i"]), "", "{actors}");
        }
        for (actors, expected) in [
            ("{}", "set `allow` or `max_depth`"),
            ("{ direct: true, max_depth: 1 }", "always act for itself"),
            ("{ allow: [] }", "at least one actor"),
            ("{ allow: [a], max_depth: 0 }", "no actor is admitted"),
            ("{ max_depth: 9 }", "more than 8 actors"),
            ("{ max_depth: -1 }", "max_depth"),
            ("{ allow: [\"a*b\"] }", "`*` at the end only"),
            ("{ allow: [\"\"] }", "1 to 256 printable"),
            ("{ allow: [{ issuer: i }] }", "subject"),
            ("{ allow: [{ subject: a, name: b }] }", "name"),
            ("{ allow: [{ subject: a, issuer: https://x }] }", "no entry of `issuers`"),
            ("{ allow: [{ subject: a, issuer: i, token_issuer: x }] }", "no entry of `issuers`"),
        ] {
            let found = errors(actors, &["i"]);
            assert!(found.contains(expected), "{actors}: {found}");
        }
    }

    #[test]
    fn a_name_alone_needs_a_single_issuer() {
        let found = errors("{ allow: [planner] }", &["i", "j"]);
        assert!(found.contains("is another actor"), "{found}");
        assert_eq!(errors("{ allow: [{ subject: planner, issuer: j }] }", &["i", "j"]), "");
    }

    #[test]
    fn an_actor_is_its_issuer_and_its_name() {
        let entry = |subject: &str, issuer: &str, token_issuer: &str| AllowedActor {
            subject: match subject.strip_suffix('*') {
                Some(prefix) => SubjectPattern::Prefix(prefix.to_owned()),
                None => SubjectPattern::Exact(subject.to_owned()),
            },
            issuer: issuer.to_owned(),
            token_issuer: token_issuer.to_owned(),
        };
        let actor = Actor { issuer: "i", subject: "agents/planner" };
        for (entry, token_issuer, expected) in [
            (entry("agents/planner", "i", "i"), "i", true),
            (entry("agents/*", "i", "i"), "i", true),
            (entry("*", "i", "i"), "i", true),
            (entry("agents/plan", "i", "i"), "i", false),
            (entry("agents/planner/", "i", "i"), "i", false),
            (entry("Agents/*", "i", "i"), "i", false),
            (entry("agents/planner", "j", "i"), "i", false),
            (entry("agents/planner", "i", "i"), "j", false),
            (entry("agents/planner", "i", "j"), "j", true),
        ] {
            assert_eq!(entry.matches(actor, token_issuer), expected, "{entry:?} by {token_issuer}");
        }
    }
}
