//! The kind of the holder of a token, as far as its claims tell.
//!
//! No claim of RFC 7519 distinguishes a user from a client, and RFC 9068 section 2.2 permits any
//! identifier as the `sub` of a client. Each rule here is documented by the issuers that it names.
//! Whatever no rule covers is unknown: an audit line that names a user where there is none misleads.

use super::super::issuer::{CLIENT_CLAIMS, SubjectSource};
use crate::{identity::Holder, json::Json};

/// The connections with which Auth0 prefixes the `sub` of users.
const AUTH0_CONNECTIONS: [&str; 12] = [
    "auth0",
    "google-oauth2",
    "windowslive",
    "github",
    "facebook",
    "apple",
    "linkedin",
    "waad",
    "samlp",
    "adfs",
    "email",
    "sms",
];

/// Returns the kind of the holder of a token with this subject, which is taken from `source`.
///
/// Clients are decided first: Cognito writes `auth_time` into their tokens as well.
pub(super) fn of(
    claims: &Json,
    subject: &str,
    source: &SubjectSource,
    client: Option<&str>,
) -> Holder {
    let claims = Texts(claims);
    // RFC 9068 section 2.2; Okta, Cognito and Google name a client by its id.
    let is_named = client == Some(subject)
        || source.is_client
        || CLIENT_CLAIMS.iter().any(|name| source.path.is_top(name))
        || claims.clients().any(|id| id == subject);
    if is_named || is_client(claims, subject) {
        Holder::Client
    } else if is_user(claims, subject) {
        Holder::User
    } else {
        Holder::Unknown
    }
}

fn is_client(claims: Texts<'_>, subject: &str) -> bool {
    let is = |name: &str, value: &str| claims.text(name) == Some(value);
    // Auth0.
    let by_auth0 = is("gty", "client-credentials")
        || subject.strip_suffix("@clients").is_some_and(|id| claims.clients().any(|it| it == id));
    // Entra ID: without the optional claim `idtyp`, a token for an application has no `scp`, and its
    // `oid` is its `sub`.
    let is_pair = claims.text("oid").is_some() && claims.text("oid") == claims.text("sub");
    let by_entra = is("idtyp", "app")
        || (is_pair && !is("idtyp", "user") && !claims.has("scp") && claims.has("tid"));
    // Keycloak: a service account is a user with this name, and its tokens have the client's address.
    let is_service_account = |name: &str| {
        let id = name.strip_prefix("service-account-");
        id.is_some_and(|id| claims.clients().any(|client| client.eq_ignore_ascii_case(id)))
    };
    let by_keycloak = claims.text("preferred_username").is_some_and(is_service_account)
        || (claims.has("clientHost") && claims.has("clientAddress"));
    let by_google =
        claims.text("email").is_some_and(|email| email.ends_with(".gserviceaccount.com"));
    let is_workload = subject.starts_with("spiffe://")
        || (subject.starts_with("system:serviceaccount:") && claims.has("kubernetes.io"));
    by_auth0 || by_entra || by_keycloak || by_google || is_workload
}

fn is_user(claims: Texts<'_>, subject: &str) -> bool {
    // OpenID Connect Core section 2 and Front-Channel Logout section 3: how and when an end user was
    // authenticated, and in which session. Old versions of Keycloak write 0 for a client.
    let by_openid = ["amr", "sid", "nonce", "preferred_username"].iter().any(|it| claims.has(it))
        || claims.0.get("auth_time").and_then(Json::number).is_some_and(|time| time > 0.0);
    let by_entra = claims.text("idtyp") == Some("user")
        || ["oid", "tid", "scp"].iter().all(|name| claims.has(name));
    let by_okta = claims.has("cid") && claims.has("uid");
    let by_cognito =
        claims.has("token_use") && (claims.has("username") || claims.has("cognito:username"));
    let by_auth0 = claims.has("azp")
        && subject.split_once('|').is_some_and(|(from, _)| AUTH0_CONNECTIONS.contains(&from));
    let by_google =
        claims.text("iss") == Some("https://accounts.google.com") && claims.has("email");
    by_openid || by_entra || by_okta || by_cognito || by_auth0 || by_google
}

/// The claims of a token.
#[derive(Clone, Copy)]
struct Texts<'j>(&'j Json);

impl<'j> Texts<'j> {
    fn text(self, name: &str) -> Option<&'j str> {
        self.0.get(name)?.text()
    }

    fn has(self, name: &str) -> bool {
        self.0.get(name).is_some_and(|value| !matches!(value, Json::Null))
    }

    /// The ids of the client that the token was issued to.
    fn clients(self) -> impl Iterator<Item = &'j str> {
        CLIENT_CLAIMS.iter().filter_map(move |name| self.text(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::ClaimPath;

    #[test]
    fn the_holder_is_what_the_issuer_documents_and_unknown_otherwise() {
        for (claims, expected, why) in [
            (r#"{"sub":"s"}"#, Holder::Unknown, "a tutorial's token"),
            (r#"{"sub":"s","client_id":"c"}"#, Holder::Unknown, "RFC 9068 permits it for a client"),
            (r#"{"sub":"c","client_id":"c"}"#, Holder::Client, "RFC 9068, Cognito"),
            (r#"{"sub":"c","cid":"c"}"#, Holder::Client, "Okta"),
            (r#"{"sub":"alice@example.com","cid":"c","uid":"00u1"}"#, Holder::User, "Okta"),
            (
                r#"{"sub":"i@clients","azp":"i","gty":"client-credentials"}"#,
                Holder::Client,
                "Auth0",
            ),
            (r#"{"sub":"i@clients","azp":"i"}"#, Holder::Client, "Auth0, without gty"),
            (r#"{"sub":"i@clients","azp":"other"}"#, Holder::Unknown, "an address of another name"),
            (r#"{"sub":"auth0|64f1","azp":"i"}"#, Holder::User, "Auth0"),
            (r#"{"sub":"acme|batch","azp":"i"}"#, Holder::Unknown, "no connection of Auth0"),
            (r#"{"sub":"p","oid":"o","tid":"t","scp":"x"}"#, Holder::User, "Entra"),
            (r#"{"sub":"o","oid":"o","tid":"t","roles":["x"]}"#, Holder::Client, "Entra, app only"),
            (r#"{"sub":"o","oid":"o","tid":"t","idtyp":"app"}"#, Holder::Client, "Entra, idtyp"),
            (r#"{"sub":"o","oid":"o","tid":"t","idtyp":"user"}"#, Holder::User, "Entra, idtyp"),
            (r#"{"sub":"o","oid":"o","tid":"t","scp":"x"}"#, Holder::User, "Azure AD B2C"),
            (r#"{"sub":"p","oid":"o","tid":"t"}"#, Holder::Unknown, "neither scp nor idtyp"),
            (
                r#"{"sub":"0f4c","azp":"Batch","preferred_username":"service-account-batch"}"#,
                Holder::Client,
                "Keycloak",
            ),
            (
                r#"{"sub":"0f4c","azp":"b","clientHost":"10.0.0.1","clientAddress":"10.0.0.1"}"#,
                Holder::Client,
                "Keycloak, without the scope profile",
            ),
            (
                r#"{"sub":"0f4c","azp":"b","clientHost":"h"}"#,
                Holder::Unknown,
                "one claim of the two",
            ),
            (r#"{"sub":"0f4c","azp":"b","clientAddress":"h"}"#, Holder::Unknown, "the other one"),
            (r#"{"sub":"0f4c","azp":"b","acr":"1","auth_time":0}"#, Holder::Unknown, "Keycloak"),
            (r#"{"sub":"9c0e","azp":"ui","preferred_username":"alice"}"#, Holder::User, "Keycloak"),
            (r#"{"sub":"9c0e","azp":"ui","sid":"x"}"#, Holder::User, "a session"),
            (
                r#"{"sub":"c","client_id":"c","token_use":"access","auth_time":5}"#,
                Holder::Client,
                "Cognito writes auth_time for clients",
            ),
            (
                r#"{"sub":"aa","client_id":"c","token_use":"access","username":"alice"}"#,
                Holder::User,
                "Cognito",
            ),
            (
                r#"{"iss":"https://accounts.google.com","sub":"11","azp":"12","email":"b@p.iam.gserviceaccount.com"}"#,
                Holder::Client,
                "a service account of Google",
            ),
            (
                r#"{"iss":"https://accounts.google.com","sub":"11","azp":"12","email":"b@gmail.com"}"#,
                Holder::User,
                "a user of Google",
            ),
            (r#"{"iss":"https://accounts.google.com","sub":"11"}"#, Holder::Unknown, "no email"),
            (
                r#"{"sub":"system:serviceaccount:batch:nightly","kubernetes.io":{}}"#,
                Holder::Client,
                "Kubernetes",
            ),
            (r#"{"sub":"spiffe://example.org/ns/batch"}"#, Holder::Client, "SPIFFE"),
            (r#"{"sub":"s","amr":["pwd"]}"#, Holder::User, "IdentityServer, Supabase"),
            (r#"{"sub":"s","amr":null,"sid":null}"#, Holder::Unknown, "a null is absent"),
        ] {
            let json: Json = serde_json::from_str(claims).unwrap();
            let sub = SubjectSource { path: ClaimPath::top_level("sub"), is_client: false };
            let subject = Texts(&json).text("sub").unwrap();
            assert_eq!(of(&json, subject, &sub, None), expected, "{why}: {claims}");
        }
    }

    #[test]
    fn a_subject_of_a_client_claim_is_a_client() {
        let json: Json = serde_json::from_str(r#"{"appid":"a"}"#).unwrap();
        let appid = SubjectSource { path: ClaimPath::top_level("appid"), is_client: false };
        assert_eq!(of(&json, "a", &appid, None), Holder::Client);
        let named = SubjectSource { path: ClaimPath::top_level("app"), is_client: true };
        assert_eq!(of(&json, "x", &named, None), Holder::Client);
        let json: Json = serde_json::from_str(r#"{"sub":"x"}"#).unwrap();
        let sub = SubjectSource { path: ClaimPath::top_level("sub"), is_client: false };
        assert_eq!(of(&json, "x", &sub, Some("x")), Holder::Client);
    }
}
