//! A refusal and the table of its reasons.

mod reason;

use std::borrow::Cow;

pub use self::reason::Reason;
use crate::time::Span;

/// A refusal: its reason is for the client, its cause for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// The stable code, and with it the HTTP and gRPC status.
    pub reason: Reason,
    /// What exactly was wrong, for the audit line and `explain`. Never holds a secret.
    pub cause: Cow<'static, str>,
    /// The sentence for the client, where it can say more than the reason's own.
    pub message: Option<String>,
    /// The request's field at fault, OpenAI's `param`.
    pub param: Option<String>,
    /// The scopes that would have been needed (RFC 6750 section 3, attribute `scope`).
    pub needed: Vec<String>,
    /// When to come back.
    pub retry_after: Option<Span>,
}

impl Denial {
    /// A denial with the reason's standing text.
    pub fn new(reason: Reason, cause: impl Into<Cow<'static, str>>) -> Self {
        Self {
            reason,
            cause: cause.into(),
            message: None,
            param: None,
            needed: Vec::new(),
            retry_after: None,
        }
    }

    /// Says something more exact to the client.
    #[must_use]
    pub fn with_message(mut self, message: impl Into<String>) -> Self {
        self.message = Some(message.into());
        self
    }

    /// Names the field at fault.
    #[must_use]
    pub fn with_param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// Names the scopes that were missing.
    #[must_use]
    pub fn with_scopes(mut self, scopes: impl IntoIterator<Item = String>) -> Self {
        self.needed = scopes.into_iter().collect();
        self
    }

    /// Says when to come back.
    #[must_use]
    pub fn with_retry_after(mut self, span: Span) -> Self {
        self.retry_after = Some(span);
        self
    }
}

/// A 400 whose cause is for the operator and the client alike: it never holds the client's bytes.
pub(crate) fn malformed(cause: &'static str) -> Denial {
    Denial::new(Reason::MalformedRequest, cause)
        .with_message(format!("the request was refused: {cause}"))
}
