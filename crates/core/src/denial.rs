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
