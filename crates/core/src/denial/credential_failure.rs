//! Credentials that no honest client has.

/// The failure of a credential that counts against the client's network: no time, no scope and no
/// limit is one, and neither is a missing credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialFailure {
    /// The signature does not verify.
    BadSignature,
    /// No key has the name, the id or the secret of the credential.
    UnknownKey,
    /// The credential has not the form of its kind.
    Malformed,
}

impl CredentialFailure {
    /// Every failure, in the order of the enum.
    pub const ALL: [Self; 3] = [Self::BadSignature, Self::UnknownKey, Self::Malformed];

    /// Returns the label in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::BadSignature => "bad_signature",
            Self::UnknownKey => "unknown_key",
            Self::Malformed => "malformed",
        }
    }
}
