//! The principals that an override of a limit is for.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de::Visitor};

use crate::{
    config::{Errors, Path},
    identity::{ClaimPath, Part, Principal},
    json::Json,
};

/// The value of a claim: text, a whole number or a boolean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimValue {
    /// Text, compared exactly.
    Text(String),
    /// A whole number, exactly.
    Integer(i64),
    /// True or false.
    Bool(bool),
}

impl ClaimValue {
    /// Whether a claim has this value, or is a list with an element of this value.
    fn is_in(&self, claim: &Json) -> bool {
        match claim {
            Json::List(items) => items.iter().any(|item| self.is(item)),
            one => self.is(one),
        }
    }

    #[expect(
        clippy::cast_precision_loss,
        clippy::float_cmp,
        reason = "both are whole numbers of at most 2^53, or unequal"
    )]
    fn is(&self, json: &Json) -> bool {
        match (self, json) {
            (Self::Text(value), Json::Text(text)) => value == text,
            (Self::Integer(value), Json::Integer(number)) => value == number,
            // `5.0` is 5. Numbers beyond 2^53 with a fraction or an exponent are not exact.
            (Self::Integer(value), Json::Number(number)) => {
                number.abs() <= 9_007_199_254_740_992.0 && *number == *value as f64
            }
            (Self::Bool(value), Json::Bool(found)) => value == found,
            _ => false,
        }
    }
}

impl<'de> Deserialize<'de> for ClaimValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Value;
        impl Visitor<'_> for Value {
            type Value = ClaimValue;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text, a whole number or a boolean")
            }
            fn visit_str<E>(self, text: &str) -> Result<ClaimValue, E> {
                Ok(ClaimValue::Text(text.to_owned()))
            }
            fn visit_bool<E>(self, value: bool) -> Result<ClaimValue, E> {
                Ok(ClaimValue::Bool(value))
            }
            fn visit_i64<E>(self, value: i64) -> Result<ClaimValue, E> {
                Ok(ClaimValue::Integer(value))
            }
            fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<ClaimValue, E> {
                i64::try_from(value)
                    .map(ClaimValue::Integer)
                    .map_err(|_| E::custom("a number of a claim is below 2^63"))
            }
        }
        deserializer.deserialize_any(Value)
    }
}

impl JsonSchema for ClaimValue {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ClaimValue".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "string" }, { "type": "integer" }, { "type": "boolean" }] })
    }
}

/// The keys of an override that select principals.
#[derive(Clone, Copy, Debug)]
pub(super) struct SelectorKeys<'a> {
    pub(super) issuer: &'a Option<String>,
    pub(super) role: &'a Option<String>,
    pub(super) subject: &'a Option<String>,
    pub(super) client: &'a Option<String>,
    pub(super) tenant: &'a Option<String>,
    pub(super) tier: &'a Option<String>,
    pub(super) claim: &'a Option<ClaimPath>,
    pub(super) value: &'a Option<ClaimValue>,
}

/// The properties that a principal must have, all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Selector {
    issuer: Option<String>,
    role: Option<String>,
    subject: Option<String>,
    client: Option<String>,
    tenant: Option<String>,
    tier: Option<String>,
    claim: Option<(ClaimPath, ClaimValue)>,
}

impl Selector {
    /// Compiles the keys of an override and records every error.
    pub(super) fn compile(config: SelectorKeys<'_>, path: &Path, errors: &mut Errors) -> Self {
        let claim = match (config.claim, config.value) {
            (Some(claim), Some(value)) => {
                if claim.looks_like_alternatives() {
                    let message = format!(
                        "a list of names is a path: `{claim}`, a member of `{}`, which is no object; \
                         write one entry for each claim",
                        claim.top()
                    );
                    errors.push(&path.key("claim"), message);
                }
                Some((claim.clone(), value.clone()))
            }
            (None, None) => None,
            (Some(_), None) => {
                errors.push(&path.key("claim"), "write the claim's `value` beside it");
                None
            }
            (None, Some(_)) => {
                errors.push(&path.key("value"), "write the `claim` that has this value");
                None
            }
        };
        let SelectorKeys { role, subject, client, tenant, tier, .. } = config;
        let texts = [role, subject, client, tenant, tier];
        if texts.iter().all(|text| text.is_none())
            && config.claim.is_none()
            && config.value.is_none()
        {
            let message = "name the principals of the override: `role`, `subject`, `client`, `tenant`, `tier`, or `claim` and `value`";
            errors.push(path, message);
        }
        let issuer = config.issuer.clone();
        Self {
            // Tokens without `iss` have no issuer.
            issuer: issuer.map(|name| if name == "absent" { String::new() } else { name }),
            role: role.clone(),
            subject: subject.clone(),
            client: client.clone(),
            tenant: tenant.clone(),
            tier: tier.clone(),
            claim,
        }
    }

    /// Whether the selector reads a part of the identity.
    pub(super) fn uses(&self, part: Part) -> bool {
        match part {
            Part::Tenant => self.tenant.is_some(),
            Part::Client => self.client.is_some(),
            Part::Roles => self.role.is_some(),
            Part::Scopes | Part::Id => false,
        }
    }

    /// Whether a principal has all of the properties.
    pub(super) fn selects(&self, principal: &Principal) -> bool {
        let is = |wanted: &Option<String>, found: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| Some(wanted) == found)
        };
        // A client may choose the name of a user as its id.
        let subject = Some(principal.subject());
        let (user, client) =
            if principal.is_subject_client() { (None, subject) } else { (subject, None) };
        is(&self.issuer, Some(principal.issuer()))
            && is(&self.subject, user)
            && self
                .client
                .as_deref()
                .is_none_or(|wanted| principal.client() == Some(wanted) || client == Some(wanted))
            && is(&self.tenant, principal.tenant())
            && is(&self.tier, principal.key().and_then(|key| key.tier.as_deref()))
            && self.role.as_deref().is_none_or(|role| principal.has_role(role))
            && self.claim.as_ref().is_none_or(|(path, value)| {
                let claim = principal.claim(path.top()).and_then(|top| path.find_below(top));
                claim.is_some_and(|claim| value.is_in(claim))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_selects_its_own_type_and_number() {
        let value = |json: &str| serde_json::from_str::<ClaimValue>(json).unwrap();
        for (wanted, claim, expected) in [
            (r#""5""#, r#""5""#, true),
            (r#""5""#, "5", false),
            ("5", "5", true),
            ("5", "5.0", true),
            ("5", "5.5", false),
            ("5", "6.0", false),
            ("5", r#""5""#, false),
            ("9007199254740992", "9007199254740992.0", true),
            // Beyond 2^53 a number with a fraction is not exact.
            ("9007199254740994", "9007199254740994.0", false),
            ("true", "true", true),
            ("true", "false", false),
            ("true", r#""true""#, false),
        ] {
            let json = Json::object(format!(r#"{{"c":{claim}}}"#).as_bytes()).unwrap();
            assert_eq!(value(wanted).is(json.get("c").unwrap()), expected, "{wanted}: {claim}");
        }
        let refused = serde_json::from_str::<ClaimValue>("[5]").unwrap_err().to_string();
        assert!(refused.contains("text, a whole number or a boolean"), "{refused}");
        assert!(serde_json::from_str::<ClaimValue>("9223372036854775808").is_err());
    }
}
