//! Denials, and the table of their reasons.

mod reason;

use std::borrow::Cow;

pub use self::reason::Reason;
use crate::time::Span;

/// A refused request: the reason is for the client, the cause for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// The stable code, and with it the HTTP and gRPC status.
    pub reason: Reason,
    /// The exact cause, for the audit line and `explain`. Never contains a secret.
    pub cause: Cow<'static, str>,
    /// The sentence for the client, if it is more exact than the reason's default text.
    pub message: Option<String>,
    /// The field of the request that caused the denial (OpenAI's `param`).
    pub param: Option<String>,
    /// Whether `param` is a member that the policy or a preset lists: one of few names.
    pub listed: bool,
    /// The scopes that are required (RFC 6750 section 3, attribute `scope`).
    pub needed: Vec<String>,
    /// The time after which a retry may succeed.
    pub retry_after: Option<Span>,
}

impl Denial {
    /// Creates a denial with the reason's default text.
    pub fn new(reason: Reason, cause: impl Into<Cow<'static, str>>) -> Self {
        Self {
            reason,
            cause: cause.into(),
            message: None,
            param: None,
            listed: false,
            needed: Vec::new(),
            retry_after: None,
        }
    }

    /// Replaces the default text for the client.
    #[must_use]
    pub fn with_message(mut self, message: impl Into<String>) -> Self {
        self.message = Some(message.into());
        self
    }

    /// Names the field of the request that caused the denial.
    #[must_use]
    pub fn with_param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// Names a member that the policy or a preset lists.
    #[must_use]
    pub fn with_listed_member(mut self, place: impl Into<String>) -> Self {
        self.listed = true;
        self.with_param(place)
    }

    /// The member that was forbidden, as a metric's label: the last two names of its place, or `other` for a
    /// member that is not listed, whose name is the client's. `None` for other denials.
    pub fn member_label(&self) -> Option<&str> {
        let place = self.param.as_deref().filter(|_| self.reason == Reason::FieldForbidden)?;
        if !self.listed {
            return Some("other");
        }
        let start = place.rmatch_indices('.').nth(1).map_or(0, |(dot, _)| dot + 1);
        place.get(start..)
    }

    /// Lists the required scopes.
    #[must_use]
    pub fn with_scopes(mut self, scopes: impl IntoIterator<Item = String>) -> Self {
        self.needed = scopes.into_iter().collect();
        self
    }

    /// Sets the time after which a retry may succeed.
    #[must_use]
    pub fn with_retry_after(mut self, span: Span) -> Self {
        self.retry_after = Some(span);
        self
    }
}

/// Creates a 400 whose cause is shown to both operator and client. The cause is a constant, so it
/// never contains bytes of the client.
pub(crate) fn malformed(cause: &'static str) -> Denial {
    Denial::new(Reason::MalformedRequest, cause)
        .with_message(format!("the request was refused: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_label_of_a_member_is_one_of_few() {
        let denial =
            |place: &str| Denial::new(Reason::FieldForbidden, "x").with_listed_member(place);
        for (place, label) in [
            ("priority", "priority"),
            ("sampling_params.regex", "sampling_params.regex"),
            ("messages[].content[].image_url.uuid", "image_url.uuid"),
        ] {
            assert_eq!(denial(place).member_label(), Some(label), "{place}");
        }
        let unlisted = Denial::new(Reason::FieldForbidden, "x").with_param("of-the-client");
        assert_eq!(unlisted.member_label(), Some("other"));
        assert_eq!(Denial::new(Reason::NoRoute, "x").with_param("y").member_label(), None);
    }
}
