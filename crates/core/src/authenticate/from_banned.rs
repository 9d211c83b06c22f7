//! Credentials from a network that is banned automatically.

use super::Verified;
use crate::credential::Credential;

/// What becomes of a credential from a network that is banned automatically.
#[derive(Debug)]
pub enum FromBanned {
    /// The result is known, or takes neither a signature nor a call.
    Known(Verified),
    /// The credential is new, and is verified: the rate of new ones has room.
    New(Verified),
    /// The credential is refused unverified, or is one that no honest client has.
    Refused,
}

impl FromBanned {
    /// Decides about a credential. `known` returns the result of an earlier verification, `verify`
    /// verifies, and `may_verify` takes a verification from the rate of new credentials.
    ///
    /// A client of the network that guesses API keys learns of none whether it exists.
    pub fn of<'a>(
        credential: Credential<'a>,
        known: impl FnOnce(Credential<'a>) -> Option<Verified>,
        verify: impl FnOnce(Credential<'a>) -> Verified,
        may_verify: impl FnOnce() -> bool,
    ) -> Self {
        let verified = match credential {
            // A look-up in a table, without a signature and without a call.
            Credential::ApiKey(_) | Credential::Opaque(_) => verify(credential),
            other => match known(other) {
                Some(verified) => verified,
                None if may_verify() => return Self::New(verify(other)),
                None => return Self::Refused,
            },
        };
        match verified {
            // The record would be looked up in Redis, or the issuer would be called.
            Err(rejection) if rejection.record.is_some() || rejection.introspect.is_some() => {
                if may_verify() {
                    Self::New(Err(rejection))
                } else {
                    Self::Refused
                }
            }
            Err(rejection) if rejection.denial.failure.is_some() => Self::Refused,
            verified => Self::Known(verified),
        }
    }

    /// Returns the result; `None` where the credential is refused.
    pub fn verified(self) -> Option<Verified> {
        match self {
            Self::Known(verified) | Self::New(verified) => Some(verified),
            Self::Refused => None,
        }
    }
}
