//! The kind of a token, as far as its claims tell: tokens that are for a client or for the issuer.
//!
//! A token for this service and an ID token can have the same issuer, keys and audience. The header's
//! `typ` tells them apart only where the issuer follows RFC 9068, which most do not.

use crate::{
    denial::{Denial, Reason, shown},
    json::Json,
};

/// Claims that ID tokens have, and access tokens of some issuers as well (OpenID Connect Core
/// sections 2 and 3.3.2.11).
const OF_ID_TOKENS: [&str; 3] = ["at_hash", "c_hash", "nonce"];
/// Claims that access tokens have, and ID tokens have not (RFC 9068 section 2.2, and the names of
/// Entra ID and Okta).
const OF_ACCESS_TOKENS: [&str; 5] = ["scope", "scopes", "scp", "client_id", "cid"];

/// Checks that a token is not an ID token, unless the issuer's are accepted, and no token that only
/// the issuer itself accepts. `is_access_token` is whether its header names it an access token.
///
/// # Errors
/// `wrong_token_type`.
pub(in crate::credential::jwt) fn check(
    claims: &Json,
    is_access_token: bool,
    accepts_id_tokens: bool,
) -> Result<(), Denial> {
    let text = |name: &str| claims.get(name).and_then(Json::text);
    let has = |name: &str| claims.get(name).is_some_and(|value| !matches!(value, Json::Null));
    // Keycloak.
    let typ = text("typ");
    let of_issuer = typ.filter(|typ| {
        ["Refresh", "Offline", "Logout"].iter().any(|kind| typ.eq_ignore_ascii_case(kind))
    });
    if let Some(typ) = of_issuer {
        let cause = format!("the claim `typ` is `{}`: a token for the issuer itself", shown(typ));
        return Err(Denial::new(Reason::WrongTokenType, cause));
    }
    if accepts_id_tokens {
        return Ok(());
    }
    // Keycloak, and Cognito.
    for (name, kind) in [("typ", "ID"), ("token_use", "id")] {
        if let Some(value) = text(name).filter(|value| value.eq_ignore_ascii_case(kind)) {
            return Err(id_token(&format!("the claim `{name}` is `{}`", shown(value))));
        }
    }
    let is_typed = is_access_token
        || typ.is_some_and(|typ| typ.eq_ignore_ascii_case("Bearer"))
        || text("token_use") == Some("access");
    match OF_ID_TOKENS.iter().find(|name| has(name)) {
        Some(name) if !is_typed && !OF_ACCESS_TOKENS.iter().any(|claim| has(claim)) => {
            let found = format!(
                "it has the claim `{name}` and none of an access token (`scope`, `scp`, \
                 `client_id`)"
            );
            Err(id_token(&found))
        }
        _ => Ok(()),
    }
}

fn id_token(found: &str) -> Denial {
    let cause = format!(
        "an ID token, which is for its client: {found}; send the access token, or set \
         `id_tokens: accepted`"
    );
    Denial::new(Reason::WrongTokenType, cause)
        .with_message("the token is an ID token; send the access token")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause(claims: &str, accepts_id_tokens: bool) -> Option<String> {
        let claims: Json = serde_json::from_str(claims).unwrap();
        check(&claims, false, accepts_id_tokens).err().map(|denial| denial.cause.into_owned())
    }

    #[test]
    fn id_tokens_are_known_by_the_claims_that_issuers_document() {
        for (claims, expected) in [
            (r#"{"typ":"ID","scope":"a"}"#, Some("`typ` is `ID`")),
            (r#"{"typ":"id"}"#, Some("`typ` is `id`")),
            (r#"{"token_use":"id"}"#, Some("`token_use` is `id`")),
            (r#"{"at_hash":"x"}"#, Some("`at_hash`")),
            (r#"{"c_hash":"x"}"#, Some("`c_hash`")),
            (r#"{"nonce":"x","azp":"c"}"#, Some("`nonce`")),
            (r#"{"nonce":"x","scope":null}"#, Some("`nonce`")),
            (r#"{"nonce":null}"#, None),
            (r#"{"nonce":"x","typ":"Bearer"}"#, None),
            (r#"{"nonce":"x","scp":"a"}"#, None),
            (r#"{"at_hash":"x","scope":""}"#, None),
            (r#"{"token_use":"access","nonce":"x"}"#, None),
            (r#"{"typ":"Bearer","scope":"a"}"#, None),
            (r#"{"typ":7}"#, None),
            (r#"{"sub":"s","email":"e","azp":"c"}"#, None),
        ] {
            let cause = cause(claims, false);
            match expected {
                Some(word) => {
                    assert!(
                        cause.as_ref().is_some_and(|it| it.contains(word)),
                        "{claims}: {cause:?}"
                    );
                }
                None => assert_eq!(cause, None, "{claims}"),
            }
        }
        let nonce: Json = serde_json::from_str(r#"{"nonce":"x"}"#).unwrap();
        assert!(check(&nonce, true, false).is_ok(), "typ is at+jwt");
    }

    #[test]
    fn tokens_for_the_issuer_are_never_accepted() {
        for typ in ["Refresh", "Offline", "Logout", "refresh"] {
            let cause = cause(&format!(r#"{{"typ":"{typ}"}}"#), true).unwrap();
            assert!(cause.contains("a token for the issuer itself"), "{cause}");
        }
        assert_eq!(cause(r#"{"typ":"ID","at_hash":"x","nonce":"n"}"#, true), None);
    }
}
