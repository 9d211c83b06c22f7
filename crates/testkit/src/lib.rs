//! Key pairs and signed tokens: the one key maker and token minter of the project. And [`wait`],
//! with which tests wait for a condition, and [`bodies`] that are made to be slow to read.
//!
//! Tests, benchmarks, `tollgate token` and policy test cases make their keys and tokens here. The
//! sidecar verifies tokens with other code (`tollgate-core`), so that a fault of one side shows.
//!
//! ```
//! use serde_json::json;
//! use tollgate_testkit::{Algorithm, KeyPair, KeyType, Token, jwk_set};
//!
//! let key = KeyPair::generate(KeyType::P256)?;
//! let published = jwk_set([key.jwk("main", Algorithm::Es256)?]);
//! let token = Token::new(Algorithm::Es256)
//!     .kid("main")
//!     .claims(json!({ "iss": "https://auth.example.com", "sub": "alice" }))
//!     .sign(&key)?;
//! assert_eq!(token.split('.').count(), 3);
//! assert_eq!(published["keys"][0]["crv"], "P-256");
//! # Ok::<(), tollgate_testkit::KeyError>(())
//! ```

mod algorithm;
pub mod bodies;
mod key;
pub mod pem;
mod proof;
mod token;
pub mod wait;

pub use self::{
    algorithm::Algorithm,
    key::{KeyError, KeyPair, KeyType, der_integers, hmac_sha256, jwk_set},
    proof::{proof, thumbprint},
    token::{Token, TokenParts, base64url, merged, signed, unsigned},
};
