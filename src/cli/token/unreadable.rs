//! What a text is that is no signed JWT as a request has it, and what to do about it.

use serde_json::Value;
use tollgate_core::credential::api_key::{ApiKey, PREFIX};

/// Beginnings of tokens and keys that are no JWTs, and what they are.
const OPAQUE: [(&str, &str); 10] = [
    ("ya29.", "an access token of Google, which only Google can read; send an ID token"),
    ("ghp_", "a token of GitHub"),
    ("gho_", "a token of GitHub"),
    ("ghs_", "a token of GitHub; its workflows have ID tokens, which are JWTs"),
    ("github_pat_", "a token of GitHub"),
    ("glpat-", "a token of GitLab; its jobs have ID tokens, which are JWTs"),
    ("hvs.", "a token of Vault"),
    ("sk-", "an API key"),
    ("v2.", "a PASETO, which is no JWT"),
    ("v4.", "a PASETO, which is no JWT"),
];

/// Returns what is wrong with the form of a text, in the words of an operator; `None` where it has
/// the form of a signed JWT.
pub(super) fn reason(text: &str) -> Option<String> {
    let lower = text.to_ascii_lowercase();
    if text.is_empty() {
        return Some("it is empty".into());
    }
    if text.starts_with("-----BEGIN") {
        return Some("it is PEM, a key or a certificate, and no token".into());
    }
    if text.starts_with(['{', '[']) {
        let named = serde_json::from_str::<Value>(text).ok();
        let member = ["access_token", "id_token", "token"]
            .into_iter()
            .find(|name| named.as_ref().is_some_and(|json| json.get(name).is_some()));
        return Some(match member {
            Some(name) => format!("it is JSON; the token is its `{name}`"),
            None => "it is JSON, and a token is three parts of base64url with dots".into(),
        });
    }
    if lower.starts_with("authorization:") || lower.starts_with("bearer ") {
        return Some(
            "it begins with the header's name or with `Bearer`; inspect what follows it".into(),
        );
    }
    if text.starts_with(['"', '\'', '`']) || text.ends_with(['"', '\'', '`']) {
        return Some("it is in quotes; remove them".into());
    }
    if let Some((at, character)) =
        text.char_indices().find(|(_, character)| !character.is_ascii_graphic())
    {
        let remedy = match character {
            '\n' | '\r' => "a line break; join its lines",
            ' ' | '\t' => "a space or a tab; remove it",
            _ => "which no token has; copy the token again",
        };
        return Some(format!("it has U+{:04X} at byte {at}, {remedy}", u32::from(character)));
    }
    let parts: Vec<&str> = text.split('.').collect();
    match parts.as_slice() {
        [_, _, _] => {}
        [_, _, _, _, _] => {
            return Some(
                "it is encrypted (a JWE, five parts), so that only its receiver can read it; let the \
                 issuer sign tokens for this service (Auth0: request one with `audience`)"
                    .into(),
            );
        }
        [_] if text.starts_with(PREFIX) => return Some(api_key(text)),
        _ => {
            let known = OPAQUE.iter().find(|(prefix, _)| text.starts_with(prefix));
            return Some(match (known, parts.len()) {
                (Some((_, what)), _) => format!("it is {what}"),
                (None, 1) => {
                    "it is opaque, one part without dots: only its issuer can read it; let \
                              the issuer make JWTs for this service"
                        .into()
                }
                (None, 2) => {
                    "it has two parts, so that the signature is missing; an unsigned token \
                              ends with a dot"
                        .into()
                }
                (None, many) => {
                    format!("it has {many} parts with dots, and a signed JWT has three")
                }
            });
        }
    }
    if parts.iter().any(|part| part.contains('=')) {
        return Some("its parts have padding (`=`), which base64url in a JWT has not".into());
    }
    if parts.iter().any(|part| part.contains(['+', '/'])) {
        return Some("its parts are base64 with `+` or `/` in place of base64url".into());
    }
    None
}

/// Describes a text with the prefix of an API key of Tollgate.
fn api_key(text: &str) -> String {
    match ApiKey::read(text.as_bytes()).map(ApiKey::id) {
        Ok(Some(id)) => format!(
            "it is an API key of Tollgate with a good checksum; `tollgate keys show {id}` prints its \
             record and its state"
        ),
        Ok(None) => "it is an API key of a foreign format".to_owned(),
        Err(denial) => format!(
            "it is an API key of Tollgate that was cut or mistyped ({}); `tollgate keys show` prints \
             its record, by the id that follows `tgk_`",
            denial.cause
        ),
    }
}

#[cfg(test)]
mod tests {
    use tollgate_core::credential::api_key::GeneratedKey;

    use super::*;

    #[test]
    fn a_text_that_is_no_jwt_is_named_with_its_remedy() {
        let id = "7Jk2mN4pQ8rT".parse().unwrap();
        let good = GeneratedKey::with_id(id, &[7; 32]).expose().to_owned();
        for (text, expected) in [
            ("", "empty"),
            ("-----BEGIN PUBLIC KEY-----", "PEM"),
            (r#"{"access_token":"a.b.c"}"#, "the token is its `access_token`"),
            (r#"{"error":"x"}"#, "it is JSON"),
            ("Bearer a.b.c", "`Bearer`"),
            ("authorization: bearer a.b.c", "`Bearer`"),
            ("\"a.b.c\"", "in quotes"),
            ("'a.b.c", "in quotes"),
            ("a.b\n.c", "U+000A at byte 3, a line break"),
            ("a.b .c", "a space or a tab"),
            ("a.b\u{a0}.c", "U+00A0 at byte 3"),
            ("a.b\u{200b}.c", "U+200B"),
            ("a.b.c.d.e", "it is encrypted"),
            ("a..c.d.e", "it is encrypted"),
            ("6fe0c5a9d1", "it is opaque"),
            ("ya29.a0AfH6", "Google"),
            ("sk-proj-1", "an API key"),
            ("tgk_7Jk2mN4pQ8rT_x", "cut or mistyped"),
            (&good, "`tollgate keys show 7Jk2mN4pQ8rT` prints its record"),
            ("v4.public.AAAA.BBBB", "PASETO"),
            ("a.b", "the signature is missing"),
            ("a.b.c.d", "it has 4 parts"),
            ("a=.b.c", "padding"),
            ("a+.b.c", "base64 with `+`"),
        ] {
            let reason = reason(text).unwrap();
            assert!(reason.contains(expected), "{text}: {reason}");
        }
        assert_eq!(reason("a.b.c"), None);
        assert_eq!(reason("a.b."), None);
    }
}
