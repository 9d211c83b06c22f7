//! One key of a key set: what a JWK must be to verify tokens.

use std::borrow::Cow;

use aws_lc_rs::signature;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{
    DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse},
};
use serde::Deserialize;

use super::{
    key::{Key, MAX_KID, Material, SkippedKey},
    misfit,
};
use crate::{credential::jwt::algorithm::Algorithm, json::Json, revocation::sha256};

/// The maximum size of one key in bytes: its type keeps members that are not used, at many times
/// their size.
pub(super) const MAX_KEY: usize = 64 * 1024;

/// The reason why a key cannot be used.
type Unusable = Cow<'static, str>;

/// The members of the private part of a key (RFC 7518 section 6, RFC 8037 section 2).
const PRIVATE: [&str; 7] = ["d", "p", "q", "dp", "dq", "qi", "oth"];

/// One entry of a key set.
pub(super) enum Entry {
    /// A key with its name.
    Usable(Option<String>, Key),
    /// A key of a bundle that is for other purposes.
    Foreign,
    /// A key that cannot be used.
    Skipped(SkippedKey),
    /// A key whose private part is published, and its digest where it can be read: everyone who
    /// reads the set can sign with it.
    Exposed(SkippedKey, Option<[u8; 32]>),
}

/// The purpose of the keys that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Keys that sign tokens: `use` is `sig`, or absent.
    Signature,
    /// Keys of a SPIFFE bundle that sign JWT-SVIDs: `use` is `jwt-svid`, and there is a `kid`
    /// (SPIFFE Trust Domain and Bundle section 4.2, JWT-SVID section 5).
    JwtSvid,
}

/// The `use` of a key that signs JWT-SVIDs.
const JWT_SVID: &str = "jwt-svid";

/// Reads one key and its name, for an issuer that may use `algorithms`. An empty name is none.
pub(super) fn read(raw: &str, algorithms: &[Algorithm], purpose: Purpose) -> Entry {
    let skipped = |kid, reason| Entry::Skipped(SkippedKey { kid, reason });
    if raw.len() > MAX_KEY {
        return skipped(None, "it is larger than 64 KiB".into());
    }
    let Some(members) = Json::object(raw.as_bytes()) else {
        return skipped(None, misfit::reason(raw));
    };
    let has = |name: &&str| members.get(name).is_some_and(|value| !matches!(value, Json::Null));
    let private = PRIVATE.iter().find(|name| has(name));
    let kid = match members.get("kid") {
        Some(Json::Text(kid)) if !kid.is_empty() => Some(kid.clone()),
        // No name, and what a token calls the key.
        Some(Json::Integer(kid)) => Some(kid.to_string()),
        _ => None,
    };
    let is_name = |kid: &String| kid.len() <= MAX_KID && !kid.chars().any(char::is_control);
    let is_named = kid.as_ref().is_none_or(is_name);
    let kid = kid.filter(|_| is_named);
    if let Some(member) = private {
        let reason = format!(
            "its private part (`{member}`) is published, so that everyone who reads the set can \
             sign tokens; replace the key, and publish the public half only"
        );
        return Entry::Exposed(SkippedKey { kid, reason: reason.into() }, public_digest(&members));
    }
    if purpose == Purpose::JwtSvid {
        match (members.get("use").and_then(Json::text), &kid) {
            (Some(JWT_SVID), Some(_)) => {}
            (Some(JWT_SVID), None) => {
                return skipped(None, "it is for JWT-SVIDs and has no kid".into());
            }
            // Those for X509-SVIDs, and what later versions add, are ignored.
            _ => return Entry::Foreign,
        }
    }
    let Ok(jwk) = serde_json::from_str::<Jwk>(raw) else {
        return skipped(kid, misfit::reason(raw));
    };
    if !is_named {
        return skipped(None, "its kid is too long, or not printable".into());
    }
    match usable(&jwk, raw, algorithms, purpose) {
        Ok(key) => Entry::Usable(kid, key),
        Err(reason) => skipped(kid, reason),
    }
}

/// Returns the digest of the public half of a key, whatever its other members are.
fn public_digest(members: &Json) -> Option<[u8; 32]> {
    Some(material(&public_half(members)?).ok()?.thumbprint)
}

/// Returns the public half of a key, without its other members.
fn public_half(members: &Json) -> Option<Jwk> {
    let public = ["kty", "crv", "n", "e", "x", "y"].into_iter().filter_map(|name| {
        let text = members.get(name)?.text()?;
        Some((name.to_owned(), text.into()))
    });
    serde_json::from_value(serde_json::Value::Object(public.collect())).ok()
}

/// Returns the name of a member of the private part of a key, or of a shared secret.
pub(in crate::credential) fn private_member(members: &Json) -> Option<&'static str> {
    PRIVATE.into_iter().chain(["k"]).find(|name| members.get(name).is_some())
}

/// Returns the SHA-256 thumbprint of a public key (RFC 7638 section 3); `None` for a key of another
/// type, and for one without its members.
pub(in crate::credential) fn thumbprint_of(members: &Json) -> Option<[u8; 32]> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let member = |name: &str| {
        let text = members.get(name)?.text()?;
        (!text.is_empty() && text.bytes().all(is_plain)).then_some(text)
    };
    let canonical = match member("kty")? {
        "RSA" => format!(r#"{{"e":"{}","kty":"RSA","n":"{}"}}"#, member("e")?, member("n")?),
        "EC" => {
            let (curve, x, y) = (member("crv")?, member("x")?, member("y")?);
            format!(r#"{{"crv":"{curve}","kty":"EC","x":"{x}","y":"{y}"}}"#)
        }
        "OKP" => format!(r#"{{"crv":"{}","kty":"OKP","x":"{}"}}"#, member("crv")?, member("x")?),
        _ => return None,
    };
    Some(sha256(canonical.as_bytes()))
}

/// The most bytes of the modulus of a client's key: a larger one costs more time for each request.
const MAX_CLIENT_MODULUS: usize = 512;

/// Reads the public key of a client, for one algorithm.
pub(in crate::credential) fn client_key(
    members: &Json,
    algorithm: Algorithm,
) -> Result<Key, Unusable> {
    let text = |name: &str| members.get(name).and_then(Json::text);
    if members.get("use").is_some() && text("use") != Some("sig") {
        return Err("its use is not sig".into());
    }
    let named = text("alg").map(Algorithm::parse);
    if members.get("alg").is_some() && named != Some(Some(algorithm)) {
        return Err("its alg is not that of the signature".into());
    }
    if let Some(modulus) = text("n")
        && decode(modulus)?.len() > MAX_CLIENT_MODULUS
    {
        return Err("its modulus has more than 4096 bits".into());
    }
    let jwk = public_half(members).ok_or("its type or curve is not supported")?;
    let Parsed { fitting, key, thumbprint } = material(&jwk)?;
    if !fitting.contains(&algorithm) {
        return Err("the algorithm of the signature does not fit its type".into());
    }
    Ok(Key::new(vec![algorithm], true, thumbprint, key))
}

/// A key with the algorithms that fit its type.
struct Parsed {
    fitting: &'static [Algorithm],
    key: Material,
    thumbprint: [u8; 32],
}

/// Checks use, operations, curve and the key itself, which jsonwebtoken's `from_jwk` does not.
fn usable(
    jwk: &Jwk,
    raw: &str,
    algorithms: &[Algorithm],
    purpose: Purpose,
) -> Result<Key, Unusable> {
    if purpose == Purpose::Signature
        && matches!(jwk.common.public_key_use, Some(ref usage) if *usage != PublicKeyUse::Signature)
    {
        return Err("its use is not sig".into());
    }
    if matches!(jwk.common.key_operations, Some(ref operations) if !operations.contains(&KeyOperations::Verify))
    {
        return Err("its key_ops do not hold verify".into());
    }
    let Parsed { fitting, key, thumbprint } = material(jwk)?;
    let named = alg_member(raw)?;
    let bound = match &named {
        Some(named) => vec![
            Algorithm::parse(named)
                .filter(|algorithm| fitting.contains(algorithm))
                .ok_or("its alg does not fit its type")?,
        ],
        // RFC 7517 section 4.4: `alg` is optional. The issuer's list decides, not the token.
        None => fitting.to_vec(),
    };
    let listed: Vec<Algorithm> =
        algorithms.iter().copied().filter(|algorithm| bound.contains(algorithm)).collect();
    if listed.is_empty() {
        let what = if named.is_some() { "its alg is" } else { "it is for" };
        let (bound, listed) = (Algorithm::list(&bound), Algorithm::list(algorithms));
        return Err(format!("{what} {bound}, and the issuer's `algorithms` are {listed}").into());
    }
    Ok(Key::new(listed, named.is_some(), thumbprint, key))
}

/// Reads the key itself.
fn material(jwk: &Jwk) -> Result<Parsed, Unusable> {
    let decoded = || DecodingKey::from_jwk(jwk).map_err(|_| "its members cannot be decoded");
    let (fitting, key, thumbprint): (&'static [Algorithm], Material, [u8; 32]) = match &jwk
        .algorithm
    {
        AlgorithmParameters::RSA(parameters) => (
            &[
                Algorithm::RS256,
                Algorithm::RS384,
                Algorithm::RS512,
                Algorithm::PS256,
                Algorithm::PS384,
                Algorithm::PS512,
            ],
            Material::Jose(rsa(&parameters.n, &parameters.e)?),
            thumbprint("RSA", &[&parameters.n, &parameters.e])?,
        ),
        AlgorithmParameters::EllipticCurve(parameters) => match parameters.curve {
            EllipticCurve::P256 => {
                point(&signature::ECDSA_P256_SHA256_FIXED, &parameters.x, &parameters.y, 32)?;
                let thumbprint = thumbprint("P-256", &[&parameters.x, &parameters.y])?;
                (&[Algorithm::ES256], Material::Jose(decoded()?), thumbprint)
            }
            EllipticCurve::P384 => {
                point(&signature::ECDSA_P384_SHA384_FIXED, &parameters.x, &parameters.y, 48)?;
                let thumbprint = thumbprint("P-384", &[&parameters.x, &parameters.y])?;
                (&[Algorithm::ES384], Material::Jose(decoded()?), thumbprint)
            }
            EllipticCurve::P521 => {
                let key =
                    point(&signature::ECDSA_P521_SHA512_FIXED, &parameters.x, &parameters.y, 66)?;
                let thumbprint = thumbprint("P-521", &[&parameters.x, &parameters.y])?;
                (&[Algorithm::ES512], Material::P521(key), thumbprint)
            }
            _ => return Err("its type or curve is not supported".into()),
        },
        AlgorithmParameters::OctetKeyPair(parameters)
            if parameters.curve == EllipticCurve::Ed25519 =>
        {
            edwards_point(&parameters.x)?;
            (
                &[Algorithm::EdDSA],
                Material::Jose(decoded()?),
                thumbprint("Ed25519", &[&parameters.x])?,
            )
        }
        AlgorithmParameters::OctetKey(_) => {
            return Err("it is a shared secret, which no key set may publish".into());
        }
        _ => return Err("its type or curve is not supported".into()),
    };
    Ok(Parsed { fitting, key, thumbprint })
}

/// Returns the digest of a key: its type or curve, and the members that make the key. Zeros in front,
/// which change nothing, are left out, and each member is preceded by its length.
fn thumbprint(kind: &str, members: &[&str]) -> Result<[u8; 32], &'static str> {
    let mut bytes = kind.as_bytes().to_vec();
    for member in members {
        let member = decode(member)?;
        let member = without_zeros(&member);
        bytes.extend_from_slice(&(member.len() as u64).to_be_bytes());
        bytes.extend_from_slice(member);
    }
    Ok(sha256(&bytes))
}

/// Returns the member `alg` as written, so that a name unknown to jsonwebtoken is not read as "no
/// alg".
fn alg_member(raw: &str) -> Result<Option<String>, &'static str> {
    #[derive(Deserialize)]
    struct Alg {
        alg: Option<String>,
    }
    serde_json::from_str::<Alg>(raw).map(|Alg { alg }| alg).map_err(|_| "its alg is not a string")
}

fn decode(text: &str) -> Result<Vec<u8>, &'static str> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| "a member is not base64url")
}

/// Reads an RSA key.
///
/// Leading zeros, which some servers write although RFC 7518 section 6.3.1.1 forbids them, are
/// removed: the crypto library refuses them, and only when a signature is verified.
fn rsa(n: &str, e: &str) -> Result<DecodingKey, &'static str> {
    let (n, e) = (decode(n)?, decode(e)?);
    let (n, e) = (without_zeros(&n), without_zeros(&e));
    let bits = n.len() * 8 - n.first().map_or(0, |byte| byte.leading_zeros() as usize);
    if !(2048..=8192).contains(&bits) {
        return Err("its modulus has fewer than 2048 or more than 8192 bits");
    }
    if n.last().is_none_or(|byte| byte % 2 == 0) {
        return Err("its modulus is even");
    }
    let exponent =
        e.iter().try_fold(0u64, |sum, byte| sum.checked_mul(256).map(|sum| sum + u64::from(*byte)));
    if !exponent.is_some_and(|exponent| exponent >= 3 && exponent % 2 == 1 && exponent < 1 << 33) {
        return Err("its exponent is even, below 3 or above 2^33");
    }
    Ok(DecodingKey::from_rsa_raw_components(n, e))
}

fn without_zeros(number: &[u8]) -> &[u8] {
    let start = number.iter().position(|byte| *byte != 0).unwrap_or(number.len());
    number.get(start..).unwrap_or_default()
}

fn point(
    algorithm: &'static signature::EcdsaVerificationAlgorithm,
    x: &str,
    y: &str,
    length: usize,
) -> Result<signature::ParsedPublicKey, &'static str> {
    let (x, y) = (decode(x)?, decode(y)?);
    if x.len() != length || y.len() != length {
        return Err("its point has the wrong length");
    }
    let uncompressed = [&[4], x.as_slice(), y.as_slice()].concat();
    signature::ParsedPublicKey::new(algorithm, uncompressed)
        .map_err(|_| "its point is not on the curve")
}

/// The points of Ed25519 whose order divides 8, without the sign of x: 0, 1 and -1, two of order 8,
/// and the encodings of 0 and 1 that are not reduced.
///
/// With such a key a signature hardly depends on the message: for the neutral point, S = 0 and the
/// neutral point as R verify every message (RFC 8032 section 5.1.7).
const SMALL_ORDER: [[u8; 32]; 7] = {
    const fn ends(first: u8, between: u8, last: u8) -> [u8; 32] {
        let mut bytes = [between; 32];
        bytes[0] = first;
        bytes[31] = last;
        bytes
    }
    [
        ends(0, 0, 0),
        ends(1, 0, 0),
        ends(0xec, 0xff, 0x7f),
        ends(0xed, 0xff, 0x7f),
        ends(0xee, 0xff, 0x7f),
        *b"\x26\xe8\x95\x8f\xc2\xb2\x27\xb0\x45\xc3\xf4\x89\xf2\xef\x98\xf0\xd5\xdf\xac\x05\xd3\xc6\x33\x39\xb1\x38\x02\x88\x6d\x53\xfc\x05",
        *b"\xc7\x17\x6a\x70\x3d\x4d\xd8\x4f\xba\x3c\x0b\x76\x0d\x10\x67\x0f\x2a\x20\x53\xfa\x2c\x39\xcc\xc6\x4e\xc7\xfd\x77\x92\xac\x03\x7a",
    ]
};

fn edwards_point(x: &str) -> Result<(), &'static str> {
    let mut point =
        <[u8; 32]>::try_from(decode(x)?).map_err(|_| "its point has the wrong length")?;
    point[31] &= 0x7f;
    if SMALL_ORDER.contains(&point) { Err("its point has a small order") } else { Ok(()) }
}
