//! The facts of a request that its record in the ledger states, from its admission to its settlement.

use serde::{Deserialize, Serialize};

use super::{ChargeSubject, cost::CostTerms};
use crate::{revocation::sha256, text::hex};

/// The longest text that is recorded, in bytes. A longer one is recorded as `sha256:` and its hash: a
/// reservation, which has the facts, is sent through the proxy.
const MAX_TEXT: usize = 512;

/// Who sent a request, and what for. A reservation has them where a ledger is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestFacts {
    /// The id of the decision, as in the audit line. The core has none; the caller adds it.
    #[serde(rename = "d")]
    pub decision_id: String,
    /// The route of the request.
    #[serde(rename = "r")]
    pub route: String,
    /// The model, by its name in the policy.
    #[serde(rename = "m", default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The tenant of the request.
    #[serde(rename = "t", default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The issuer of the credential.
    #[serde(rename = "i", default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// The subject of the credential.
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The client of the credential.
    #[serde(rename = "c", default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// The id of the API key.
    #[serde(rename = "k", default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The actor for the subject.
    #[serde(rename = "a", default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// The tokens of a fixed charge.
    #[serde(rename = "f", default, skip_serializing_if = "Option::is_none")]
    pub fixed: Option<u64>,
    /// What its cost is computed from; `None` of a model without a price.
    #[serde(rename = "p", default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<CostTerms>,
}

impl RequestFacts {
    /// The facts of a request, without the id of its decision.
    pub(crate) fn of(
        subject: &ChargeSubject<'_>,
        fixed: Option<u64>,
        cost: Option<CostTerms>,
    ) -> Self {
        let principal = subject.principal;
        let text = |text: &str| recorded(text);
        Self {
            decision_id: String::new(),
            route: recorded(subject.route),
            model: subject.model.map(text),
            tenant: principal.and_then(|it| it.tenant()).map(text),
            issuer: principal.map(|it| it.issuer()).filter(|text| !text.is_empty()).map(text),
            subject: principal.map(|it| recorded(it.subject())),
            client: principal.and_then(|it| it.client()).map(text),
            key: principal.and_then(|it| it.key()).map(|key| key.id.to_string()),
            actor: principal.and_then(|it| it.actor_text()).map(text),
            fixed,
            cost,
        }
    }

    /// Returns the facts as a text, which [`read`](Self::read) reads.
    pub fn text(&self) -> String {
        // Texts and a number have a JSON form.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads the text of facts; `None` where it is none.
    pub fn read(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(text).ok()
    }
}

fn recorded(text: &str) -> String {
    if text.len() <= MAX_TEXT {
        return text.to_owned();
    }
    format!("sha256:{}", hex(&sha256(text.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_read_as_they_were_written() {
        let facts = RequestFacts {
            decision_id: "d".into(),
            route: "chat".into(),
            tenant: Some("acme".into()),
            fixed: Some(7),
            ..RequestFacts::default()
        };
        assert_eq!(facts.text(), r#"{"d":"d","r":"chat","t":"acme","f":7}"#);
        assert_eq!(RequestFacts::read(facts.text().as_bytes()), Some(facts));
        assert_eq!(RequestFacts::read(b"["), None);
    }

    #[test]
    fn a_long_text_is_recorded_as_its_hash() {
        assert_eq!(recorded(&"a".repeat(MAX_TEXT)).len(), MAX_TEXT);
        let long = recorded(&"a".repeat(MAX_TEXT + 1));
        assert_eq!((&long[..7], long.len()), ("sha256:", 7 + 64));
    }
}
