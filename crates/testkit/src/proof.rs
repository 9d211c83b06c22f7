//! Proofs of DPoP (RFC 9449), and the thumbprints that bind tokens to keys.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Value, json};

use crate::{KeyError, KeyPair, Token, base64url};

/// Returns the SHA-256 thumbprint of a public key in base64url: `cnf.jkt` of a token (RFC 7638).
///
/// # Errors
/// The key is a shared secret.
pub fn thumbprint(key: &KeyPair) -> Result<String, KeyError> {
    let members: BTreeMap<String, Value> = key.bare_jwk()?.into_iter().collect();
    let canonical = json!(members).to_string();
    Ok(base64url(digest(&SHA256, canonical.as_bytes())))
}

/// Returns the proof for a request, whose members can be replaced before it is signed: for a method,
/// a URI, a token, a moment and a name.
///
/// # Errors
/// The key is a shared secret.
pub fn proof(
    key: &KeyPair,
    (method, uri): (&str, &str),
    token: &str,
    issued_at: u64,
    jti: &str,
) -> Result<Token, KeyError> {
    let algorithm = key.key_type().usual_algorithm();
    let jwk = key.bare_jwk()?;
    let hash = base64url(digest(&SHA256, token.as_bytes()));
    Ok(Token::new(algorithm).header(json!({ "typ": "dpop+jwt", "jwk": jwk })).claims(json!({
        "jti": jti,
        "htm": method,
        "htu": uri,
        "iat": issued_at,
        "ath": hash,
    })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KeyType;

    #[test]
    fn a_proof_has_the_public_key_only() {
        for key_type in [KeyType::Rsa, KeyType::P256, KeyType::Ed25519] {
            let key = KeyPair::generate(key_type).unwrap();
            let proof = proof(&key, ("GET", "https://a/b"), "t", 1, "one").unwrap();
            let text = proof.sign(&key).unwrap();
            assert_eq!(text.split('.').count(), 3);
            assert_eq!(thumbprint(&key).unwrap().len(), 43);
        }
    }
}
