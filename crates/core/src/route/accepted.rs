//! The description of the credentials that a route accepts, for clients that sent another one or
//! none.

use crate::{
    credential::api_key::ApiKeys,
    identity::{CredentialKind, CredentialKinds},
};

/// The description of the credentials that a route accepts.
#[derive(Clone, Debug)]
pub(crate) struct AcceptedCredentials {
    /// The attributes of a challenge, each with `, ` in front: the kinds, and the headers that may
    /// hold an API key.
    pub(crate) challenge: String,
    /// The way to send them: ``send `Authorization: Bearer <token>` ``.
    pub(crate) advice: String,
}

impl AcceptedCredentials {
    /// Describes the kinds that a route accepts under a policy with these API keys and this cookie.
    pub(crate) fn new(
        kinds: CredentialKinds,
        keys: Option<&ApiKeys>,
        cookie: Option<&str>,
    ) -> Self {
        let labels: Vec<&str> = kinds.labels().collect();
        let mut challenge = format!(", credentials=\"{}\"", labels.join(" "));
        let mut ways = Vec::new();
        let has_token =
            kinds.contains(CredentialKind::Jwt) || kinds.contains(CredentialKind::OpaqueToken);
        if has_token {
            ways.push("`Authorization: Bearer <token>`".to_owned());
        }
        if let Some(keys) = keys.filter(|_| kinds.contains(CredentialKind::ApiKey)) {
            let bearer = keys.is_bearer.then_some("authorization");
            let names: Vec<&str> = bearer.into_iter().chain(keys.headers.iter().copied()).collect();
            challenge.push_str(&format!(", key_headers=\"{}\"", names.join(" ")));
            let headers = names.iter().map(|name| match *name {
                "authorization" => "`Authorization: Bearer <key>`".to_owned(),
                "x-api-key" => "`X-API-Key: <key>`".to_owned(),
                name => format!("`{name}: <key>`"),
            });
            ways.push(format!("an API key as {}", alternatives(&headers.collect::<Vec<_>>())));
        }
        if let Some(name) = cookie.filter(|_| kinds.contains(CredentialKind::Cookie)) {
            ways.push(format!("the cookie `{name}`"));
        }
        let connect = "connect with a client certificate";
        let advice = match (ways.is_empty(), kinds.contains(CredentialKind::Certificate)) {
            (true, _) => connect.to_owned(),
            (false, false) => format!("send {}", ways.join(", or ")),
            (false, true) => format!("send {}, or {connect}", ways.join(", or ")),
        };
        Self { challenge, advice }
    }
}

/// Lists alternatives: `a`, `a or b`, `a, b or c`.
fn alternatives(list: &[String]) -> String {
    match list.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{Errors, Path},
        credential::api_key::ApiKeysConfig,
    };

    #[test]
    fn the_kinds_and_the_headers_are_named() {
        use CredentialKind::{ApiKey, Certificate, Cookie, Jwt};
        let all = r#"{ "file": "/k" }"#;
        let bearer = r#"{ "file": "/k", "header": ["authorization"] }"#;
        let header = r#"{ "file": "/k", "header": ["x-api-key"] }"#;
        for (kinds, config, challenge, advice) in [
            (
                &[Jwt, ApiKey][..],
                all,
                r#", credentials="jwt api_key", key_headers="authorization x-api-key api-key""#,
                "send `Authorization: Bearer <token>`, or an API key as `Authorization: Bearer \
                 <key>`, `X-API-Key: <key>` or `api-key: <key>`",
            ),
            (&[Jwt], all, r#", credentials="jwt""#, "send `Authorization: Bearer <token>`"),
            (
                &[ApiKey],
                bearer,
                r#", credentials="api_key", key_headers="authorization""#,
                "send an API key as `Authorization: Bearer <key>`",
            ),
            (
                &[ApiKey],
                header,
                r#", credentials="api_key", key_headers="x-api-key""#,
                "send an API key as `X-API-Key: <key>`",
            ),
            (
                &[Jwt, Certificate],
                all,
                r#", credentials="jwt certificate""#,
                "send `Authorization: Bearer <token>`, or connect with a client certificate",
            ),
            (
                &[Certificate],
                all,
                r#", credentials="certificate""#,
                "connect with a client certificate",
            ),
            (
                &[Jwt, Cookie],
                all,
                r#", credentials="jwt cookie""#,
                "send `Authorization: Bearer <token>`, or the cookie `__Host-t`",
            ),
        ] {
            let config: ApiKeysConfig = serde_json::from_str(config).unwrap();
            let keys = config.compile(&Path::root(), &mut Errors::default());
            let kinds = kinds.iter().copied().collect();
            let accepted = AcceptedCredentials::new(kinds, Some(&keys), Some("__Host-t"));
            assert_eq!((&*accepted.challenge, &*accepted.advice), (challenge, advice));
        }
    }
}
