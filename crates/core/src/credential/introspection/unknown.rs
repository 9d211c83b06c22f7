//! Tokens that are not known yet.

use crate::secret::Secret;

/// A token whose issuer has to state what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownToken {
    /// The issuer, by its index in the policy.
    pub issuer: usize,
    /// The token itself.
    pub token: Secret,
}
