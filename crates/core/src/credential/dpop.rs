//! DPoP (RFC 9449): the proof that a client has the key that its token is bound to.
//!
//! A binding and no identity: the token names the holder, and the proof, a JWT that the client signs
//! for each request, shows that the request comes from the holder. A proof is for one method, one URI
//! and one token. It is accepted once: the store remembers it for as long as it could be accepted
//! ([`ProofUse`]).

mod config;
mod nonce;
mod proof;
mod uri;
mod used;

use std::borrow::Cow;

use self::nonce::NonceState;
pub use self::{
    config::{Dpop, DpopConfig, DpopNonceConfig, NonceTerms},
    nonce::{NonceKeyError, NonceKeys},
    proof::{Expected, VerifiedProof, verify},
    used::{ProofRefusal, ProofUse, UsedProofs},
};

/// The header with the proof.
pub const HEADER: &str = "dpop";

/// The header in which a client gets a nonce (RFC 9449 section 8).
pub const NONCE_HEADER: &str = "dpop-nonce";

/// The content of the answer to a request with the scheme `DPoP`, beside its decision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProofAnswer {
    /// The fault of the proof or of the token, where it is one of the binding.
    pub fault: Option<ProofFault>,
    /// The nonce that the client has to use from now on; `None` where the one that it sent is good,
    /// or where none is required.
    pub nonce: Option<String>,
}

/// A fault of a proof, or of the token that it is for, as challenges name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProofFault {
    /// The proof is missing or wrong.
    Proof,
    /// The proof has no nonce, or one that is not accepted.
    Nonce,
    /// The token is not bound to the key of the proof, or was sent without the scheme `DPoP`.
    Token,
}

impl ProofFault {
    /// The attribute `error` of a challenge (RFC 9449 section 7.1).
    pub const fn error(self) -> &'static str {
        match self {
            Self::Proof => "invalid_dpop_proof",
            Self::Nonce => "use_dpop_nonce",
            Self::Token => "invalid_token",
        }
    }
}

/// The reason why a proof is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedProof {
    /// The fault, as a challenge names it.
    pub fault: ProofFault,
    /// The exact cause, as the end of a sentence about the proof.
    pub cause: Cow<'static, str>,
    /// Whether the signature does not verify with the key of the token: no client with this key makes
    /// such a proof.
    pub is_forged: bool,
}

impl RefusedProof {
    fn new(cause: impl Into<Cow<'static, str>>) -> Self {
        Self { fault: ProofFault::Proof, cause: cause.into(), is_forged: false }
    }
}
