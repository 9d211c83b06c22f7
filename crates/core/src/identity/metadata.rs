//! The facts of a check that the proxy gets as dynamic metadata.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::{Errors, Path};

/// One fact of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MetadataFact {
    /// The id of the decision, as in the audit line.
    DecisionId,
    /// The name of the route.
    Route,
    /// The subject of the credential.
    Subject,
    /// The tenant of the credential.
    Tenant,
    /// The model, by its name in the policy.
    Model,
    /// The reason of a denial.
    Reason,
}

impl MetadataFact {
    /// Every fact, in the order in which they are sent.
    pub const ALL: [Self; 6] =
        [Self::DecisionId, Self::Route, Self::Subject, Self::Tenant, Self::Model, Self::Reason];

    /// The name of the member.
    pub const fn name(self) -> &'static str {
        match self {
            Self::DecisionId => "decision_id",
            Self::Route => "route",
            Self::Subject => "subject",
            Self::Tenant => "tenant",
            Self::Model => "model",
            Self::Reason => "reason",
        }
    }
}

/// The section `dynamic_metadata`: each member of Envoy's dynamic metadata costs Envoy time.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DynamicMetadataConfig {
    /// The facts of a check that Envoy gets, for access logs and other filters: over gRPC in the
    /// namespace `envoy.filters.http.ext_authz`, in its own process in `tollgate`. What settles a
    /// request (`reservation`, and the members of the body that Envoy writes) is sent whatever is
    /// listed. Default: all.
    pub send: Option<Vec<MetadataFact>>,
}

/// The compiled section `dynamic_metadata`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DynamicMetadata {
    sent: [bool; MetadataFact::ALL.len()],
}

impl Default for DynamicMetadata {
    /// All facts are sent.
    fn default() -> Self {
        Self { sent: [true; MetadataFact::ALL.len()] }
    }
}

impl DynamicMetadata {
    /// Compiles the section and records every error.
    pub(crate) fn compile(
        config: &DynamicMetadataConfig,
        path: &Path,
        errors: &mut Errors,
    ) -> Self {
        let Some(send) = &config.send else { return Self::default() };
        for (index, fact) in send.iter().enumerate() {
            if send.iter().take(index).any(|earlier| earlier == fact) {
                let path = path.key("send").index(index);
                errors.push(&path, format!("`{}` is listed twice", fact.name()));
            }
        }
        Self { sent: MetadataFact::ALL.map(|fact| send.contains(&fact)) }
    }

    /// Whether a fact is sent.
    pub fn sends(&self, fact: MetadataFact) -> bool {
        self.sent.get(fact as usize).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compile(text: &str) -> Result<Vec<&'static str>, String> {
        let config: DynamicMetadataConfig =
            serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        let mut errors = Errors::default();
        let compiled = DynamicMetadata::compile(&config, &Path::root(), &mut errors);
        let sent = MetadataFact::ALL.into_iter().filter(|fact| compiled.sends(*fact));
        let sent = sent.map(MetadataFact::name).collect();
        if errors.is_empty() { Ok(sent) } else { Err(format!("{errors:?}")) }
    }

    #[test]
    fn only_the_selected_facts_are_sent() {
        let all = ["decision_id", "route", "subject", "tenant", "model", "reason"];
        assert_eq!(compile("{}").unwrap(), all);
        assert_eq!(compile("{ send: [reason, subject] }").unwrap(), ["subject", "reason"]);
        assert!(compile("{ send: [] }").unwrap().is_empty());
    }

    #[test]
    fn unknown_and_repeated_facts_are_refused() {
        for text in ["{ send: [model, model] }", "{ send: [reservation] }", "{ sent: [] }"] {
            assert!(compile(text).is_err(), "{text}");
        }
    }
}
