//! The texts of an identity in one allocation instead of a dozen.
//!
//! A token cache keeps identities by the hundred thousand: "Memory of remembered tokens" in
//! `docs/benchmarks.md`. The plain form is [`Texts`]; the test compares both.

use thiserror::Error;

/// An identity that cannot be kept as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum IdentityError {
    /// A text is present and empty.
    #[error("the {0} is empty")]
    Empty(&'static str),
    /// A scope holds white space, which separates scopes (RFC 6749 section 3.3).
    #[error("a scope holds white space")]
    Scope,
    /// A role holds a line feed.
    #[error("a role holds a line feed")]
    Role,
    /// The texts take more than 4 GiB.
    #[error("the identity is too long")]
    TooLong,
}

/// The texts of an identity, in plain form.
#[derive(Clone, Copy, Debug)]
pub(super) struct Texts<'a> {
    pub(super) subject: &'a str,
    pub(super) tenant: Option<&'a str>,
    pub(super) client: Option<&'a str>,
    pub(super) scopes: &'a [String],
    pub(super) roles: &'a [String],
}

/// The same texts, one after the other: subject, tenant, client, scopes with a space between
/// them, roles with a line feed after each.
#[derive(Clone, Debug)]
pub(super) struct PackedTexts {
    text: Box<str>,
    ends: Ends,
}

/// Where each part ends. The roles end with the text.
#[derive(Clone, Copy, Debug)]
struct Ends {
    subject: u32,
    tenant: u32,
    client: u32,
    scopes: u32,
}

impl PackedTexts {
    /// Packs the texts.
    ///
    /// # Errors
    /// A text that could not be separated from its neighbours again.
    pub(super) fn pack(texts: Texts<'_>) -> Result<Self, IdentityError> {
        let Texts { subject, tenant, client, scopes, roles } = texts;
        let named = [("subject", Some(subject)), ("tenant", tenant), ("client", client)];
        if let Some((name, _)) = named.into_iter().find(|(_, text)| *text == Some("")) {
            return Err(IdentityError::Empty(name));
        }
        if scopes.iter().any(|scope| scope.contains(|c: char| c.is_ascii_whitespace())) {
            return Err(IdentityError::Scope);
        }
        if roles.iter().any(|role| role.contains('\n')) {
            return Err(IdentityError::Role);
        }
        let mut text = String::new();
        let end = |text: &str| u32::try_from(text.len()).map_err(|_| IdentityError::TooLong);
        text.push_str(subject);
        let subject = end(&text)?;
        text.push_str(tenant.unwrap_or_default());
        let tenant = end(&text)?;
        text.push_str(client.unwrap_or_default());
        let client = end(&text)?;
        for (at, scope) in scopes.iter().enumerate() {
            if at > 0 {
                text.push(' ');
            }
            text.push_str(scope);
        }
        let scopes = end(&text)?;
        for role in roles {
            text.push_str(role);
            text.push('\n');
        }
        end(&text)?;
        Ok(Self { text: text.into(), ends: Ends { subject, tenant, client, scopes } })
    }

    /// The subject, never empty.
    pub(super) fn subject(&self) -> &str {
        self.between(0, self.ends.subject)
    }

    /// The tenant. A packed text is never empty, so an empty part is an absent one.
    pub(super) fn tenant(&self) -> Option<&str> {
        Some(self.between(self.ends.subject, self.ends.tenant)).filter(|text| !text.is_empty())
    }

    /// The client, as [`PackedTexts::tenant`].
    pub(super) fn client(&self) -> Option<&str> {
        Some(self.between(self.ends.tenant, self.ends.client)).filter(|text| !text.is_empty())
    }

    /// The scopes, with a space between them.
    pub(super) fn scope_list(&self) -> &str {
        self.between(self.ends.client, self.ends.scopes)
    }

    /// The roles, in order.
    pub(super) fn roles(&self) -> impl Iterator<Item = &str> {
        let roles = self.text.split_at(self.ends.scopes as usize).1;
        roles.split_terminator('\n')
    }

    /// How many bytes the texts take.
    pub(super) fn len(&self) -> usize {
        self.text.len()
    }

    /// INVARIANT: both ends are from `pack`, so that they are in order and between characters.
    fn between(&self, from: u32, to: u32) -> &str {
        self.text.split_at(to as usize).0.split_at(from as usize).1
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words() -> impl Strategy<Value = Vec<String>> {
        proptest::collection::vec("[a-z:é]{1,5}", 0..4)
    }

    proptest! {
        #[test]
        fn the_packed_form_is_the_plain_form(
            subject in "[a-z é|]{1,9}",
            tenant in proptest::option::of("[a-z é]{1,9}"),
            client in proptest::option::of("[a-z é]{1,9}"),
            scopes in words(),
            roles in proptest::collection::vec("[A-Z é]{0,5}", 0..4),
        ) {
            let (tenant, client) = (tenant.as_deref(), client.as_deref());
            let plain =
                Texts { subject: &subject, tenant, client, scopes: &scopes, roles: &roles };
            let packed = PackedTexts::pack(plain).unwrap();
            prop_assert_eq!(packed.subject(), plain.subject);
            prop_assert_eq!(packed.tenant(), plain.tenant);
            prop_assert_eq!(packed.client(), plain.client);
            prop_assert_eq!(packed.scope_list(), plain.scopes.join(" "));
            prop_assert!(packed.roles().eq(plain.roles));
        }
    }

    #[test]
    fn what_could_not_be_separated_again_is_refused() {
        let plain = Texts { subject: "ann", tenant: None, client: None, scopes: &[], roles: &[] };
        let one = |text: &str| [text.to_owned()];
        for (texts, error) in [
            (Texts { subject: "", ..plain }, IdentityError::Empty("subject")),
            (Texts { tenant: Some(""), ..plain }, IdentityError::Empty("tenant")),
            (Texts { client: Some(""), ..plain }, IdentityError::Empty("client")),
            (Texts { scopes: &one("a b"), ..plain }, IdentityError::Scope),
            (Texts { scopes: &one("a\tb"), ..plain }, IdentityError::Scope),
            (Texts { roles: &one("a\nadmin"), ..plain }, IdentityError::Role),
        ] {
            assert_eq!(PackedTexts::pack(texts).unwrap_err(), error, "{texts:?}");
        }
    }
}
