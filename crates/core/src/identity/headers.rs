//! The headers in which an upstream receives the identity of a request.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::{Errors, Path};

/// One identity header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum IdentityHeader {
    /// `x-tollgate-subject`: the subject of the credential.
    Subject,
    /// `x-tollgate-tenant`: the tenant of the credential.
    Tenant,
    /// `x-tollgate-scopes`: the scopes of the credential.
    Scopes,
    /// `x-tollgate-credential`: the kind of the credential.
    Credential,
    /// `x-tollgate-model`: the model, by its name in the policy.
    Model,
    /// `x-tollgate-issuer`: the issuer of the credential.
    Issuer,
    /// `x-tollgate-key-id`: the id of an API key.
    KeyId,
    /// `x-tollgate-actor`: the actor for the subject; of another issuer than that of the credential
    /// as its issuer, `%1F` and its name.
    Actor,
}

impl IdentityHeader {
    /// Every header, in the order in which they are sent.
    pub const ALL: [Self; 8] = [
        Self::Subject,
        Self::Tenant,
        Self::Scopes,
        Self::Credential,
        Self::Model,
        Self::Issuer,
        Self::KeyId,
        Self::Actor,
    ];

    /// The header's name, in lower case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Subject => "x-tollgate-subject",
            Self::Tenant => "x-tollgate-tenant",
            Self::Scopes => "x-tollgate-scopes",
            Self::Credential => "x-tollgate-credential",
            Self::Model => "x-tollgate-model",
            Self::Issuer => "x-tollgate-issuer",
            Self::KeyId => "x-tollgate-key-id",
            Self::Actor => "x-tollgate-actor",
        }
    }
}

/// The section `identity_headers`: each header that is set or removed costs the proxy time.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IdentityHeadersConfig {
    /// The headers that the upstream gets, beside `x-tollgate-decision-id`. The others are removed
    /// from every request. Default: all.
    pub send: Option<Vec<IdentityHeader>>,
    /// Whether the proxy itself removes every header that begins with `x-tollgate-`, in every
    /// spelling, before it sends a check, as `deploy/envoy/envoy.yaml` does. The names that are not
    /// sent are then left out of the answer; one that arrives in a check all the same is removed.
    /// `tollgate doctor --echo` tests it. Default: false.
    #[serde(default)]
    pub removed_by_proxy: bool,
}

/// The compiled section `identity_headers`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdentityHeaders {
    sent: [bool; IdentityHeader::ALL.len()],
    /// Whether the proxy removes the headers of clients itself.
    pub removed_by_proxy: bool,
}

impl Default for IdentityHeaders {
    /// All headers are sent, and the proxy removes none.
    fn default() -> Self {
        Self { sent: [true; IdentityHeader::ALL.len()], removed_by_proxy: false }
    }
}

impl IdentityHeaders {
    /// Compiles the section and records every error.
    pub(crate) fn compile(
        config: &IdentityHeadersConfig,
        path: &Path,
        errors: &mut Errors,
    ) -> Self {
        let removed_by_proxy = config.removed_by_proxy;
        let Some(send) = &config.send else { return Self { removed_by_proxy, ..Self::default() } };
        for (index, header) in send.iter().enumerate() {
            if send.iter().take(index).any(|earlier| earlier == header) {
                let path = path.key("send").index(index);
                errors.push(&path, format!("`{}` is listed twice", header.name()));
            }
        }
        Self { sent: IdentityHeader::ALL.map(|header| send.contains(&header)), removed_by_proxy }
    }

    /// Keeps the values of the headers that are sent. They have the order of
    /// [`IdentityHeader::ALL`].
    pub fn select<'a>(
        &self,
        values: [Option<&'a str>; IdentityHeader::ALL.len()],
    ) -> [Option<&'a str>; IdentityHeader::ALL.len()] {
        let mut values = values;
        for (value, _) in values.iter_mut().zip(self.sent).filter(|(_, sent)| !sent) {
            *value = None;
        }
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compile(text: &str) -> Result<IdentityHeaders, String> {
        let config: IdentityHeadersConfig =
            serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        let mut errors = Errors::default();
        let compiled = IdentityHeaders::compile(&config, &Path::root(), &mut errors);
        if errors.is_empty() { Ok(compiled) } else { Err(format!("{errors:?}")) }
    }

    #[test]
    fn only_the_selected_headers_have_a_value() {
        let values = ["s", "t", "c", "k", "m", "i", "id", "a"].map(Some);
        assert_eq!(compile("{}").unwrap().select(values), values);
        let two = compile("{ send: [model, subject] }").unwrap();
        assert_eq!(two.select(values), [Some("s"), None, None, None, Some("m"), None, None, None]);
        assert_eq!(compile("{ send: [] }").unwrap().select(values), [None; 8]);
    }

    #[test]
    fn unknown_and_repeated_names_are_refused() {
        for text in ["{ send: [subject, subject] }", "{ send: [role] }", "{ sent: [] }"] {
            assert!(compile(text).is_err(), "{text}");
        }
    }
}
