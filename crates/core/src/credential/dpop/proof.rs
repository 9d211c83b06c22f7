//! The proof itself: a JWT that the client signs for one request (RFC 9449 sections 4.2 and 4.3).

use std::borrow::Cow;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use super::{
    Dpop, NonceKeys, NonceState, ProofFault, RefusedProof,
    uri::{HttpTarget, normalized_path},
};
use crate::{
    credential::jwt::{
        algorithm::Algorithm,
        key_set::{client_key, private_member, thumbprint_of},
    },
    denial::shown,
    json::Json,
    revocation::sha256,
    time::Timestamp,
};

/// The longest proof that is read, in bytes: all work on one is bounded by it. A proof with a key of
/// 4096 bits takes 2 KiB.
const MAX_PROOF: usize = 8 * 1024;

/// The longest `jti`, in bytes.
const MAX_JTI: usize = 256;

/// Members of a header that ask for something that is not supported. `crit` names further ones.
const UNSUPPORTED: [&str; 7] = ["crit", "b64", "zip", "enc", "p2c", "p2s", "epk"];

/// What a proof has to be for.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// The method of the request.
    pub method: &'a str,
    /// The path of the request, as sent and without the query.
    pub path: &'a str,
    /// The token, as sent.
    pub token: &'a [u8],
    /// The thumbprint of the key that the token is bound to (RFC 7638).
    pub thumbprint: &'a [u8; 32],
    /// The secrets of nonces; `None` where none are required.
    pub nonces: Option<&'a NonceKeys>,
    /// The moment of the request.
    pub now: Timestamp,
}

/// A proof that was verified. Whether it was used before, the store decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedProof {
    /// The first half of the SHA-256 of the key's thumbprint and the `jti`.
    pub id: [u8; 16],
    /// The nonce to use from now on, where the one of the proof is about to lapse.
    pub next_nonce: Option<String>,
}

/// Verifies a proof, the value of the one header `DPoP`. The signature comes last: a proof that is
/// wrong in another way costs none.
///
/// # Errors
/// The first check that failed.
///
/// # Examples
/// ```
/// use tollgate_core::{
///     config::{Document, Errors, Path},
///     credential::dpop::{DpopConfig, Expected, verify},
///     time::Timestamp,
/// };
///
/// let document = Document::parse("origins: ['https://api.example.com']", &|_| None).unwrap();
/// let config: DpopConfig = document.read().unwrap();
/// let config = config.compile(&Path::root(), &mut Errors::default());
/// let expected = Expected {
///     method: "GET",
///     path: "/v1/models",
///     token: b"eyJ.eyJ.c2ln",
///     thumbprint: &[0; 32],
///     nonces: None,
///     now: Timestamp::from_secs(1_800_000_000),
/// };
/// let refused = verify(b"not a proof", &expected, &config).unwrap_err();
/// assert!(refused.cause.contains("three parts"));
/// ```
pub fn verify(
    proof: &[u8],
    expected: &Expected<'_>,
    config: &Dpop,
) -> Result<VerifiedProof, RefusedProof> {
    if proof.len() > MAX_PROOF {
        return refuse("it is longer than 8 KiB");
    }
    let Some((signed, signature)) = std::str::from_utf8(proof).ok().and_then(three_parts) else {
        return refuse("it does not have three parts");
    };
    let (header, payload) = signed.split_once('.').unwrap_or_default();
    let header = object(header, "header")?;
    let (algorithm, jwk) = read_header(&header, expected, config)?;
    let claims = object(payload, "payload")?;
    check_request(&claims, expected, config)?;
    let next_nonce = check_nonce(&claims, expected, config)?;
    check_times(&claims, expected, config)?;
    let jti = match claims.get("jti") {
        Some(Json::Text(jti)) if (1..=MAX_JTI).contains(&jti.len()) => jti,
        _ => return refuse("its jti is not text of 1 to 256 bytes"),
    };
    let key = client_key(jwk, algorithm)
        .map_err(|why| RefusedProof::new(format!("its key cannot be used: {why}")))?;
    // Decoded here first, so that the crypto library only gets base64url without stray bits.
    if URL_SAFE_NO_PAD.decode(signature).is_err() {
        return refuse("its signature is not base64url");
    }
    if !key.verifies(algorithm, signed.as_bytes(), signature) {
        let cause = "its signature does not verify with its key";
        return Err(RefusedProof { is_forged: true, ..RefusedProof::new(cause) });
    }
    let digest = sha256(&[expected.thumbprint, jti.as_bytes()].concat());
    let id = std::array::from_fn(|at| digest.get(at).copied().unwrap_or_default());
    Ok(VerifiedProof { id, next_nonce })
}

fn refuse<T>(cause: impl Into<Cow<'static, str>>) -> Result<T, RefusedProof> {
    Err(RefusedProof::new(cause))
}

/// Splits a text of three parts into what is signed and the signature.
fn three_parts(text: &str) -> Option<(&str, &str)> {
    let (signed, signature) = text.rsplit_once('.')?;
    (signed.matches('.').count() == 1).then_some((signed, signature))
}

fn object(part: &str, name: &'static str) -> Result<Json, RefusedProof> {
    let bytes = URL_SAFE_NO_PAD.decode(part).ok();
    bytes.and_then(|bytes| Json::object(&bytes)).ok_or_else(|| {
        let cause =
            format!("its {name} is not one JSON object without repeated members, in base64url");
        RefusedProof::new(cause)
    })
}

/// Checks the header. Returns the algorithm, and the key: that of the token.
fn read_header<'j>(
    header: &'j Json,
    expected: &Expected<'_>,
    config: &Dpop,
) -> Result<(Algorithm, &'j Json), RefusedProof> {
    if header.get("typ").and_then(Json::text) != Some("dpop+jwt") {
        return refuse("its typ is not `dpop+jwt`");
    }
    if let Some(member) = UNSUPPORTED.iter().find(|member| header.get(member).is_some()) {
        return refuse(format!("its header has `{member}`, which is not supported"));
    }
    let Some(name) = header.get("alg").and_then(Json::text) else {
        return refuse("its alg is missing or not text");
    };
    let algorithm = Algorithm::parse(name).filter(|it| config.algorithms.contains(it));
    let Some(algorithm) = algorithm else {
        return refuse(format!("its algorithm `{}` is not in `dpop.algorithms`", shown(name)));
    };
    let Some(jwk @ Json::Map(_)) = header.get("jwk") else {
        return refuse("its jwk is missing or no object");
    };
    if let Some(member) = private_member(jwk) {
        return refuse(format!("its jwk has the private member `{member}`"));
    }
    let Some(thumbprint) = thumbprint_of(jwk) else {
        return refuse("its jwk is no public key of a type that is supported");
    };
    // A thumbprint is no secret.
    if thumbprint != *expected.thumbprint {
        return Err(RefusedProof {
            fault: ProofFault::Token,
            ..RefusedProof::new("its key is not the one that the token is bound to")
        });
    }
    Ok((algorithm, jwk))
}

/// Checks that the proof is for this request and this token.
fn check_request(
    claims: &Json,
    expected: &Expected<'_>,
    config: &Dpop,
) -> Result<(), RefusedProof> {
    let text = |name: &str| claims.get(name).and_then(Json::text);
    match text("htm") {
        Some(method) if method == expected.method => {}
        Some(method) => {
            let cause = format!("its htm is `{}`, not `{}`", shown(method), expected.method);
            return refuse(cause);
        }
        None => return refuse("its htm is missing or not text"),
    }
    let Some(uri) = text("htu") else { return refuse("its htu is missing or not text") };
    let Some(target) = HttpTarget::parse(uri) else {
        return refuse("its htu is no absolute URI of http or https");
    };
    if !config.origins.contains(&target.origin) {
        let origin = target.origin.to_string();
        return refuse(format!(
            "its htu has the origin `{}`, not one of dpop.origins",
            shown(&origin)
        ));
    }
    if normalized_path(expected.path).as_ref() != Some(&target.path) {
        return refuse(format!(
            "its htu has the path `{}`, not that of the request",
            shown(&target.path)
        ));
    }
    let hash = URL_SAFE_NO_PAD.encode(sha256(expected.token));
    match text("ath") {
        Some(ath) if *ath == *hash => Ok(()),
        Some(_) => refuse("its ath is not the hash of the token"),
        None => refuse("its ath is missing or not text"),
    }
}

/// Checks the nonce, where one is required. Returns the next one, where it is about to lapse.
fn check_nonce(
    claims: &Json,
    expected: &Expected<'_>,
    config: &Dpop,
) -> Result<Option<String>, RefusedProof> {
    let (Some(terms), Some(keys)) = (&config.nonce, expected.nonces) else { return Ok(None) };
    let needed = |cause: &'static str| {
        Err(RefusedProof { fault: ProofFault::Nonce, ..RefusedProof::new(cause) })
    };
    let Some(nonce) = claims.get("nonce").and_then(Json::text) else {
        return needed("it has no nonce; use the one of the header `DPoP-Nonce`");
    };
    match keys.state(nonce, terms.life, expected.now) {
        NonceState::Current => Ok(None),
        NonceState::Lapsing => Ok(Some(keys.issue(terms.life, expected.now))),
        NonceState::Refused => {
            needed("its nonce is not accepted any more; use the one of the header `DPoP-Nonce`")
        }
    }
}

/// Checks `iat`, and the other times that a JWT may have.
fn check_times(claims: &Json, expected: &Expected<'_>, config: &Dpop) -> Result<(), RefusedProof> {
    let (now, leeway) = (expected.now.numeric_date(), config.leeway.as_secs_f64());
    let number = |name: &str| claims.get(name).map(Json::number);
    let Some(Some(issued)) = number("iat") else {
        return refuse("its iat is missing or not a number");
    };
    if !(..=now + leeway).contains(&issued) {
        return refuse(format!(
            "its iat is in the future, with a leeway of {}; check the clocks",
            config.leeway
        ));
    }
    if !(now - config.max_age.as_secs_f64()..).contains(&issued) {
        return refuse(format!("it is older than {}; make one for each request", config.max_age));
    }
    match (number("exp"), number("nbf")) {
        (Some(None), _) | (_, Some(None)) => refuse("its exp or nbf is not a number"),
        (Some(Some(until)), _) if (..=now).contains(&until) => refuse("its exp has passed"),
        (_, Some(Some(since))) if !(..=now + leeway).contains(&since) => {
            refuse("its nbf is in the future")
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{Document, Errors, Path},
        credential::dpop::DpopConfig,
    };

    fn config(text: &str) -> Dpop {
        let document = Document::parse(text, &|_| None).unwrap();
        let config: DpopConfig = document.read().unwrap();
        config.compile(&Path::root(), &mut Errors::default())
    }

    fn digest(text: &str) -> [u8; 32] {
        URL_SAFE_NO_PAD.decode(text).unwrap().try_into().unwrap()
    }

    /// The token, the proof and the thumbprint of RFC 9449, figures 12 and 13 and section 6.1.
    #[test]
    fn the_example_of_the_rfc_is_accepted() {
        let proof = "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4\
            dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJoRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVF\
            RsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19.eyJqdGkiOiJlMWozVl9iS2ljOC1M\
            QUVCIiwiaHRtIjoiR0VUIiwiaHR1IjoiaHR0cHM6Ly9yZXNvdXJjZS5leGFtcGxlLm9yZy9wcm90ZWN0ZWRyZX\
            NvdXJjZSIsImlhdCI6MTU2MjI2MjYxOCwiYXRoIjoiZlVIeU8ycjJaM0RaNTNFc05yV0JiMHhXWG9hTnk1OUlp\
            S0NBcWtzbVFFbyJ9.2oW9RP35yRqzhrtNP86L-Ey71EOptxRimPPToA1plemAgR6pxHF8y6-yqyVnmcw6Fy1dqd\
            -jfxSYoMxhAJpLjA";
        let thumbprint = digest("0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I");
        let expected = Expected {
            method: "GET",
            path: "/protectedresource",
            token: b"Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU",
            thumbprint: &thumbprint,
            nonces: None,
            now: Timestamp::from_secs(1_562_262_620),
        };
        let config = config("origins: ['https://resource.example.org']");
        let verified = verify(proof.as_bytes(), &expected, &config).unwrap();
        assert_eq!(verified.next_nonce, None);
        let late = Expected { now: Timestamp::from_secs(1_562_262_679), ..expected };
        assert!(verify(proof.as_bytes(), &late, &config).unwrap_err().cause.contains("older than"));
    }

    #[test]
    fn the_times_of_a_proof_have_a_leeway() {
        let config = config("origins: ['https://a.example']\nmax_age: 60s\nleeway: 5s");
        for (claims, refused) in [
            (r#"{"iat":1000}"#, None),
            (r#"{"iat":1005}"#, None),
            (r#"{"iat":1005.5}"#, Some("iat is in the future")),
            (r#"{"iat":940}"#, None),
            (r#"{"iat":939}"#, Some("older than")),
            (r#"{"iat":"1000"}"#, Some("iat is missing")),
            (r#"{}"#, Some("iat is missing")),
            (r#"{"iat":1000,"exp":1001}"#, None),
            (r#"{"iat":1000,"exp":1000}"#, Some("exp has passed")),
            (r#"{"iat":1000,"exp":"1001"}"#, Some("not a number")),
            (r#"{"iat":1000,"nbf":1005}"#, None),
            (r#"{"iat":1000,"nbf":1006}"#, Some("nbf is in the future")),
            (r#"{"iat":1000,"nbf":null}"#, Some("not a number")),
            (r#"{"iat":1000,"exp":1001,"nbf":"1"}"#, Some("not a number")),
            (r#"{"iat":1000,"exp":1001,"nbf":1006}"#, Some("nbf is in the future")),
        ] {
            let expected = Expected {
                method: "GET",
                path: "/x",
                token: b"t",
                thumbprint: &[0; 32],
                nonces: None,
                now: Timestamp::from_secs(1000),
            };
            let json = Json::object(claims.as_bytes()).unwrap();
            let found = check_times(&json, &expected, &config).err();
            match (found, refused) {
                (None, None) => {}
                (Some(found), Some(part)) if found.cause.contains(part) => {}
                (found, _) => panic!("{claims}: {:?}", found.map(|found| found.cause)),
            }
        }
    }

    #[test]
    fn a_key_of_more_than_4096_bits_is_refused_before_it_is_used() {
        for (bytes, cause) in [(512, "signature"), (513, "more than 4096 bits"), (200, "2048")] {
            let modulus = URL_SAFE_NO_PAD.encode(vec![0xff; bytes]);
            let canonical = format!(r#"{{"e":"AQAB","kty":"RSA","n":"{modulus}"}}"#);
            let header = format!(r#"{{"typ":"dpop+jwt","alg":"RS256","jwk":{canonical}}}"#);
            let ath = URL_SAFE_NO_PAD.encode(sha256(b"t"));
            let claims = format!(
                r#"{{"jti":"1","htm":"GET","htu":"https://a.example/x","iat":1000,"ath":"{ath}"}}"#
            );
            let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part));
            let proof = format!("{header}.{claims}.AAAA");
            let expected = Expected {
                method: "GET",
                path: "/x",
                token: b"t",
                thumbprint: &sha256(canonical.as_bytes()),
                nonces: None,
                now: Timestamp::from_secs(1000),
            };
            let config = config("origins: ['https://a.example']");
            let refused = verify(proof.as_bytes(), &expected, &config).unwrap_err();
            assert!(refused.cause.contains(cause), "{bytes}: {}", refused.cause);
        }
    }
}
