//! Errors of case files.

use thiserror::Error;
use tollgate_core::credential::{
    api_key::KeyTableError, certificate::AuthoritiesError, jwt::key_set::KeySetError,
};
use tollgate_testkit::KeyError;

/// The reason why a case, a key or a policy of a case file cannot be used.
#[derive(Debug, Error)]
pub enum CaseError {
    /// No issuer of the policy introspects the token.
    #[error("no issuer of the policy has `introspection` for the token `{0}`")]
    NotIntrospected(String),
    /// The file has no policy.
    #[error("the case file has no `config`")]
    NoPolicy,
    /// A secret of the policy is not in the file itself.
    #[error("the secret is in the file `{0}`, which a case does not read")]
    SecretInFile(String),
    /// A secret of the policy cannot be used.
    #[error(transparent)]
    Secret(#[from] KeySetError),
    /// The authorities of client certificates cannot be used.
    #[error("client_certificates.authorities: {0}")]
    Authorities(#[from] AuthoritiesError),
    /// The text is no offset from `now`.
    #[error("`{0}` is not a moment; write `now`, or a sign and a duration such as `+5m` or `-30s`")]
    Moment(String),
    /// `claims_text` has an offset that does not end.
    #[error("`<` without `>` in `claims_text`")]
    UnclosedMoment,
    /// The file has no key of this name.
    #[error("there is no key `{name}`; known: {known}")]
    UnknownKey {
        /// The name at fault.
        name: String,
        /// The names of the file, with commas between them.
        known: String,
    },
    /// The file has no key of this name before the one that uses its pair.
    #[error("there is no key `{0}` to be like")]
    UnknownLike(String),
    /// The file has no API key of this name.
    #[error("there is no API key `{0}`")]
    UnknownApiKey(String),
    /// Two API keys cannot be in one table.
    #[error(transparent)]
    ApiKey(#[from] KeyTableError),
    /// A token is to be signed with an algorithm that does not exist.
    #[error("unknown algorithm `{0}` to sign with")]
    UnknownAlgorithm(String),
    /// A shared secret is not written in the file.
    #[error("a shared secret is written as `secret: \"${{NAME_SECRET}}\"`")]
    NoSecret,
    /// A key pair has a shared secret.
    #[error("only HS256, HS384 and HS512 have a `secret`")]
    SecretForPair,
    /// The file has more RSA keys than are made.
    #[error("a file has at most {0} RSA keys")]
    TooManyRsaKeys(usize),
    /// A key cannot be made.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A key cannot sign.
    #[error("the key `{kid}`: {error}")]
    Signing {
        /// The key's `kid`.
        kid: String,
        /// The cause of the error.
        error: KeyError,
    },
    /// A key cannot be published.
    #[error("its public half cannot be written as a JWK")]
    NoJwk,
    /// A token cannot be changed as `tamper` demands.
    #[error("the token cannot be tampered with in this way")]
    Tamper,
    /// A header comes twice although the proxy joins headers.
    #[error("with `joined_headers` a name comes once, its values joined with a comma")]
    JoinedHeaders,
    /// The body is written in two forms.
    #[error("write one of `body`, `body_base64` and `body_is`")]
    BodyForms,
    /// A revocation has no target, or two.
    #[error(
        "a revocation names exactly one of `jti`, `subject`, `client`, `tenant`, `token: true` and `foreign`"
    )]
    Revocation,
    /// A ban has no target, or two.
    #[error(
        "a ban names exactly one of `subject`, `client`, `tenant`, `network` and `key`, and only one of a network is `automatic`"
    )]
    Ban,
    /// A ban is of a network that cannot be banned.
    #[error(transparent)]
    Network(#[from] tollgate_core::ban::InvalidNetwork),
    /// A ban is of a key whose id has another form.
    #[error(transparent)]
    KeyId(#[from] tollgate_core::identity::KeyIdError),
}
