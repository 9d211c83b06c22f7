//! Tokens of a case file: made, signed, and tampered with.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value, json};
use tollgate_core::{credential::api_key::ISSUER, time::Timestamp};
use tollgate_testkit::{
    Algorithm, TokenParts, base64url, hmac_sha256, merged, pem, signed, thumbprint,
};

use super::{
    CaseError,
    api_keys::ApiKeys,
    keys::{Keys, SigningKey},
    spec::{SigningMethod, Tamper, TokenSpec},
    values::{Bytes, Offset},
};

/// Claims whose values may be offsets such as `+5m`.
const DATES: [&str; 4] = ["exp", "nbf", "iat", "auth_time"];

/// Makes the token of a case; `None` when it sends none.
///
/// # Errors
/// Returns [`CaseError`] where the case describes no possible token.
pub(super) fn mint(
    spec: &TokenSpec,
    keys: &Keys,
    api_keys: &ApiKeys,
    now: Timestamp,
) -> Result<Option<String>, CaseError> {
    if spec.none == Some(true) {
        return Ok(None);
    }
    if let Some(raw) = &spec.raw {
        return tampered(raw.clone(), spec, None, now).map(Some);
    }
    if let Some(name) = &spec.api_key {
        return api_keys.text(name).map(|text| Some(text.to_owned()));
    }
    let Some(name) = &spec.key else { return Ok(None) };
    let key = keys.get(name)?;
    let algorithm = match &spec.alg {
        None => key.algorithm,
        Some(name) => {
            Algorithm::parse(name).ok_or_else(|| CaseError::UnknownAlgorithm(name.clone()))?
        }
    };
    let header = match &spec.header_text {
        Some(text) => text.clone(),
        None => Value::Object(header(spec, key, algorithm, keys)?).to_string(),
    };
    let payload = match (&spec.claims_base64, &spec.claims_text) {
        (Some(Bytes(bytes)), _) => bytes.clone(),
        (None, Some(text)) => with_moments(text, now)?.into_bytes(),
        (None, None) => Value::Object(claims(spec, keys, now)?).to_string().into_bytes(),
    };
    let token = signed(&header, &payload, |message| signature(spec, key, algorithm, message))?;
    tampered(token, spec, Some((key, algorithm)), now).map(Some)
}

/// Returns the issuer that the token of a case names, for revocations without one.
pub(super) fn issuer(spec: &TokenSpec) -> &str {
    if spec.api_key.is_some() {
        return ISSUER;
    }
    let without = spec.claims_without.iter().any(|name| name == "iss");
    spec.claims.get("iss").filter(|_| !without).and_then(Value::as_str).unwrap_or_default()
}

fn header(
    spec: &TokenSpec,
    key: &SigningKey,
    algorithm: Algorithm,
    keys: &Keys,
) -> Result<Map<String, Value>, CaseError> {
    let Value::Object(own) = json!({ "alg": algorithm.name(), "kid": key.kid, "typ": "JWT" })
    else {
        return Ok(Map::new());
    };
    let mut header = merged(&own, &spec.header);
    for member in &spec.header_without {
        header.remove(member);
    }
    for value in header.values_mut() {
        let other = value.as_str().and_then(|text| text.strip_prefix("{jwk:")?.strip_suffix('}'));
        if let Some(name) = other {
            *value = keys.get(name)?.jwk.clone().unwrap_or(Value::Null);
        }
    }
    Ok(header)
}

fn claims(spec: &TokenSpec, keys: &Keys, now: Timestamp) -> Result<Map<String, Value>, CaseError> {
    let mut claims = stated(&spec.claims, keys, now)?;
    for name in &spec.claims_without {
        claims.remove(name);
    }
    if let Some(length) = spec.filler {
        claims.insert("filler".into(), Value::String("x".repeat(length)));
    }
    Ok(claims)
}

/// Returns claims with their times, and with the thumbprints of keys.
pub(super) fn stated(
    claims: &Map<String, Value>,
    keys: &Keys,
    now: Timestamp,
) -> Result<Map<String, Value>, CaseError> {
    let mut claims = dated(claims, now)?;
    if let Some(Value::Object(confirmation)) = claims.get_mut("cnf") {
        for value in confirmation.values_mut() {
            let key = value.as_str().and_then(|text| text.strip_prefix("{jkt:")?.strip_suffix('}'));
            if let Some(name) = key {
                *value = thumbprint(&keys.get(name)?.pair)?.into();
            }
        }
    }
    Ok(claims)
}

fn dated(claims: &Map<String, Value>, now: Timestamp) -> Result<Map<String, Value>, CaseError> {
    let mut dated = claims.clone();
    for name in DATES {
        // Only a text that looks like an offset is one: a date claim may be a text on purpose.
        if let Some(Value::String(text)) = claims.get(name)
            && (text == "now" || text.starts_with(['+', '-']))
        {
            dated.insert(name.to_owned(), text.parse::<Offset>()?.numeric_date(now));
        }
    }
    Ok(dated)
}

/// Replaces offsets such as `<+5m>`.
fn with_moments(text: &str, now: Timestamp) -> Result<String, CaseError> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('<') {
        let (offset, tail) = after.split_once('>').ok_or(CaseError::UnclosedMoment)?;
        out.push_str(before);
        out.push_str(&offset.parse::<Offset>()?.numeric_date(now).to_string());
        rest = tail;
    }
    out.push_str(rest);
    Ok(out)
}

fn signature(
    spec: &TokenSpec,
    key: &SigningKey,
    algorithm: Algorithm,
    message: &[u8],
) -> Result<Vec<u8>, CaseError> {
    let spki = || key.pair.to_spki();
    Ok(match spec.sign.unwrap_or(SigningMethod::Key) {
        SigningMethod::Key => sign(message, key, algorithm)?,
        SigningMethod::HmacPublicPem => {
            hmac_sha256(pem::encode("PUBLIC KEY", &spki()?).as_bytes(), message)
        }
        SigningMethod::HmacPublicDer => hmac_sha256(&spki()?, message),
        SigningMethod::HmacEmpty => hmac_sha256(b"", message),
        SigningMethod::Empty => Vec::new(),
    })
}

fn sign(message: &[u8], key: &SigningKey, algorithm: Algorithm) -> Result<Vec<u8>, CaseError> {
    key.pair
        .sign(algorithm, message)
        .map_err(|error| CaseError::Signing { kid: key.kid.clone(), error })
}

fn tampered(
    mut token: String,
    spec: &TokenSpec,
    key: Option<(&SigningKey, Algorithm)>,
    now: Timestamp,
) -> Result<String, CaseError> {
    for tamper in &spec.tamper {
        token = apply(&token, tamper, key, now).ok_or(CaseError::Tamper)??;
    }
    Ok(token)
}

fn apply(
    token: &str,
    tamper: &Tamper,
    key: Option<(&SigningKey, Algorithm)>,
    now: Timestamp,
) -> Option<Result<String, CaseError>> {
    let parts = TokenParts::of(token)?;
    let TokenParts { header, payload, signature } = parts;
    let object = |part: &str| {
        serde_json::from_slice::<Map<String, Value>>(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
    };
    let swapped = |base: Map<String, Value>, own: &Map<String, Value>| {
        base64url(Value::Object(merged(&base, own)).to_string())
    };
    Some(Ok(match tamper {
        Tamper::FlipSignature => parts.forged()?,
        Tamper::ZeroSignature => parts.with_signature(&vec![0; parts.signature_bytes()?.len()]),
        Tamper::ShortenSignature => {
            let mut bytes = parts.signature_bytes()?;
            bytes.pop()?;
            parts.with_signature(&bytes)
        }
        Tamper::DropSignature => format!("{header}.{payload}"),
        Tamper::PadSignature => format!("{token}="),
        Tamper::StrayBits => {
            format!("{}{}", token.get(..token.len() - 1)?, stray(token.chars().next_back()?)?)
        }
        Tamper::SwapHeader(own) => {
            format!("{}.{payload}.{signature}", swapped(object(header)?, own))
        }
        Tamper::SwapClaims(own) => match dated(own, now) {
            Ok(own) => format!("{header}.{}.{signature}", swapped(object(payload)?, &own)),
            Err(error) => return Some(Err(error)),
        },
        Tamper::Nest => {
            let (key, algorithm) = key?;
            let mut outer = object(header)?;
            outer.insert("cty".into(), json!("JWT"));
            let outer = Value::Object(outer).to_string();
            return Some(signed(outer, token, |message| sign(message, key, algorithm)));
        }
        Tamper::Append { text, times } => format!("{token}{}", text.repeat(*times)),
    }))
}

/// Returns the next character of the base64url alphabet, which a lenient decoder reads as the same
/// bytes.
fn stray(last: char) -> Option<char> {
    const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    ALPHABET.chars().skip_while(|c| *c != last).nth(1)
}
