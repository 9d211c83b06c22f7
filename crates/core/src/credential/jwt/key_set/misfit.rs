//! Why a text is no key, or no key set: what an operator has to change.

use std::borrow::Cow;

use crate::json::Json;

/// The members of a JWK that are text (RFC 7517 section 4, RFC 7518 section 6).
const TEXTS: [&str; 10] = ["kty", "kid", "alg", "use", "crv", "n", "e", "x", "y", "k"];
/// The members that are lists of texts.
const LISTS: [&str; 2] = ["key_ops", "x5c"];

/// Returns the reason why a text is not a JWK.
pub(super) fn reason(raw: &str) -> Cow<'static, str> {
    let Some(jwk) = Json::object(raw.as_bytes()) else {
        return "it is not a JWK: not one JSON object without repeated members".into();
    };
    let present = |name: &str| jwk.get(name).filter(|value| !matches!(value, Json::Null));
    for name in TEXTS {
        if let Some(value) = present(name)
            && value.text().is_none()
        {
            return format!("it is not a JWK: its {name} is {}, not text", value.type_name())
                .into();
        }
    }
    let is_text = |item: &Json| item.text().is_some();
    for name in LISTS {
        match present(name) {
            Some(Json::List(items)) if items.iter().all(is_text) => {}
            Some(_) => return format!("it is not a JWK: its {name} is not a list of texts").into(),
            None => {}
        }
    }
    let needed: &[&str] = match present("kty").and_then(Json::text) {
        None => return "it is not a JWK: it has no kty".into(),
        Some("RSA") => &["n", "e"],
        Some("EC") => &["crv", "x", "y"],
        Some("OKP") => &["crv", "x"],
        Some(_) => &[],
    };
    match needed.iter().find(|name| present(name).is_none()) {
        Some(name) => format!("it is not a JWK: it has no {name}").into(),
        None => "it is not a JWK".into(),
    }
}

/// Returns what a document is in place of a key set.
pub(super) fn document(document: &[u8]) -> &'static str {
    const PEM: &str = "-----BEGIN";
    let Ok(text) = std::str::from_utf8(document) else { return "it is not text" };
    let text = text.trim_start_matches('\u{feff}').trim();
    if text.is_empty() {
        return "it is empty";
    }
    if text.starts_with('<') {
        return "it is a page of HTML or XML";
    }
    if text.starts_with(PEM) {
        return "it is PEM; `tollgate token jwks` makes a key set of a public key";
    }
    if text.starts_with('[') {
        return "it is a list; a key set is an object with the list `keys`";
    }
    let Some(json) = Json::object(text.as_bytes()) else { return "it is not one JSON object" };
    let Json::Map(members) = &json else { return "it is not one JSON object" };
    if json.get("keys").is_some() {
        return "its `keys` are not a list";
    }
    if json.get("jwks_uri").is_some() {
        return "it is a discovery document; write `discovery: true`, or the address in its \
                `jwks_uri`";
    }
    if json.get("kty").is_some() {
        return "it is one key; a key set is an object with the list `keys`";
    }
    let is_pem = |(_, value): &(String, Json)| value.text().is_some_and(|it| it.starts_with(PEM));
    if !members.is_empty() && members.iter().all(is_pem) {
        return "it has certificates by kid; use the address of the issuer's JSON Web Key Set";
    }
    "it has no `keys`"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_none_names_the_member() {
        for (raw, expected) in [
            ("17", "not one JSON object"),
            (r#"{"kty":"EC","kty":"EC"}"#, "not one JSON object without repeated members"),
            (r#"{"kid":"a"}"#, "it has no kty"),
            (r#"{"kty":"RSA","kid":7,"n":"AQAB","e":"AQAB"}"#, "its kid is a number, not text"),
            (r#"{"kty":"RSA","n":"AQAB"}"#, "it has no e"),
            (r#"{"kty":"EC","crv":"P-256","x":"AA"}"#, "it has no y"),
            (r#"{"kty":"OKP","x":"AA"}"#, "it has no crv"),
            (r#"{"kty":"EC","key_ops":"verify"}"#, "its key_ops is not a list of texts"),
            (r#"{"kty":"EC","x5c":[1]}"#, "its x5c is not a list of texts"),
        ] {
            let reason = reason(raw);
            assert!(reason.contains(expected), "{raw}: {reason}");
        }
    }

    #[test]
    fn a_document_that_is_no_key_set_is_named() {
        for (text, expected) in [
            ("", "it is empty"),
            (" \n", "it is empty"),
            ("<html></html>", "HTML"),
            ("-----BEGIN PUBLIC KEY-----", "PEM"),
            ("[1]", "it is a list"),
            ("{", "not one JSON object"),
            ("null", "not one JSON object"),
            (r#"{"keys":{}}"#, "its `keys` are not a list"),
            (r#"{"issuer":"x","jwks_uri":"y"}"#, "discovery document"),
            (r#"{"kty":"RSA"}"#, "it is one key"),
            (r#"{"a":"-----BEGIN CERTIFICATE-----"}"#, "certificates by kid"),
            ("{}", "it has no `keys`"),
        ] {
            let found = document(text.as_bytes());
            assert!(found.contains(expected), "{text}: {found}");
        }
        assert_eq!(document(&[0xff]), "it is not text");
    }
}
