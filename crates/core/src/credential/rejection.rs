//! The result of a verification that failed.

use super::introspection::UnknownToken;
use crate::{
    denial::Denial,
    identity::{CredentialKind, KeyId, KeyVersion},
    stage::Check,
};

/// A credential that was not accepted.
#[derive(Clone, Debug)]
pub struct Rejection {
    /// The kind of the credential.
    pub kind: CredentialKind,
    /// The denial that the client gets.
    pub denial: Box<Denial>,
    /// The check that failed; those before it passed.
    pub check: Check,
    /// The source whose keys do not include the key of the credential, by its index in the
    /// policy: a refresh of the keys may help.
    pub refresh: Option<usize>,
    /// The id of the API key whose record decides, where its source has it and the table has not:
    /// once the record is in the table, the verification is repeated.
    pub record: Option<KeyId>,
    /// The token whose issuer has to state what it is: once there is an answer, the verification is
    /// repeated.
    pub introspect: Option<Box<UnknownToken>>,
    /// The keys with which the rejection is final: at any later moment the result is the same, as
    /// long as the policy and the keys are. `None` where time or other keys may change it, or
    /// where the rejection took no work.
    pub settled: Option<KeyVersion>,
}
