//! The errors in an expression.

use std::borrow::Cow;

use thiserror::Error;

use super::clock::ClockError;
use crate::network::NetworkError;

/// An expression that cannot be compiled.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum ConditionError {
    /// The text is not CEL.
    #[error("this is not CEL{}", .0.as_ref().map_or_else(String::new, |cause| format!(": {cause}")))]
    Syntax(Option<String>),
    /// The expression exceeds a size limit.
    #[error("the expression {0}")]
    TooLarge(String),
    /// A name, a function or a type is wrong, or a construct is not supported.
    #[error("{0}")]
    Invalid(Cow<'static, str>),
    /// A network is malformed.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// A time zone or a timestamp is malformed.
    #[error(transparent)]
    Clock(#[from] ClockError),
}

impl From<&'static str> for ConditionError {
    fn from(message: &'static str) -> Self {
        Self::Invalid(message.into())
    }
}

impl From<String> for ConditionError {
    fn from(message: String) -> Self {
        Self::Invalid(message.into())
    }
}
