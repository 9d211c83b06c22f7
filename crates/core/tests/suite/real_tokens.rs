//! Tokens as issuers send them, each with the configuration that it requires. The members follow
//! the vendors' own examples; times and keys are those of the test.

use tollgate_core::{identity::Principal, revocation::sha256};

use crate::{
    harness::Harness,
    keys::{KEYS, Signer, jwk_members},
    token::{NOW, signed},
};

struct Kind {
    /// The issuer's entry in the file.
    issuer: &'static str,
    /// The name of its key set; empty if it has a secret.
    key_set: Option<&'static str>,
    header: &'static str,
    /// The claims, with `IAT`, `NBF` and `EXP` for the times.
    claims: &'static str,
    signer: Signer,
}

impl Kind {
    fn harness(&self) -> Harness {
        let jwk =
            [format!(r#"{{"kid":"k1","use":"sig","alg":"RS256",{}}}"#, jwk_members(&KEYS.rsa))];
        let routes = "routes: [{ match: { paths: [/v1/models], methods: [GET] }, scopes: [] }]\n";
        let key_sets: Vec<(&str, &[String])> =
            self.key_set.into_iter().map(|name| (name, &jwk[..])).collect();
        Harness::new(&format!("issuers:\n  - {}\n{routes}", self.issuer), &key_sets)
    }

    fn token(&self) -> String {
        let times = [("IAT", NOW - 60), ("NBF", NOW - 60), ("EXP", NOW + 3540)];
        let claims = times
            .iter()
            .fold(self.claims.to_owned(), |text, (name, at)| text.replace(name, &at.to_string()));
        signed(self.signer, self.header, claims)
    }

    fn principal(&self) -> std::sync::Arc<Principal> {
        self.harness().principal(&self.token())
    }
}

/// Subject, tenant, client, the digest of jti, roles and scopes.
type Facts<'a> =
    (&'a str, Option<&'a str>, Option<&'a str>, Option<[u8; 32]>, Vec<&'a str>, Vec<&'a str>);

fn facts(principal: &Principal) -> Facts<'_> {
    (
        principal.subject(),
        principal.tenant(),
        principal.client(),
        principal.revocation().jti_digest().copied(),
        principal.roles().collect(),
        principal.scopes().collect(),
    )
}

/// The token of tutorials: HS256, without iss, aud and kid.
#[test]
fn a_tutorial_s_token() {
    let kind = Kind {
        issuer: "{ issuer: absent, audiences: any, algorithms: [HS256], secret: a-string-secret-at-least-256-bits-long }",
        key_set: None,
        header: r#"{"alg":"HS256","typ":"JWT"}"#,
        claims: r#"{"sub":"1234567890","name":"John Doe","admin":true,"iat":IAT,"exp":EXP}"#,
        signer: Signer::Hs256(b"a-string-secret-at-least-256-bits-long"),
    };
    assert_eq!(facts(&kind.principal()), ("1234567890", None, None, None, vec![], vec![]));
    // Those of PyJWT and FastAPI have no iat either, so a revocation cannot distinguish older ones
    // from newer ones. The configuration must state this.
    let bare = Kind {
        issuer: "{ issuer: absent, audiences: any, algorithms: [HS256], required_claims: [], tenant: acme, \
                 secret: a-string-secret-at-least-256-bits-long }",
        claims: r#"{"sub":"johndoe","scopes":["infer:text","model:qwen:inference"],"exp":EXP}"#,
        ..kind
    };
    let scopes = vec!["infer:text", "model:qwen:inference"];
    assert_eq!(facts(&bare.principal()), ("johndoe", Some("acme"), None, None, vec![], scopes));
    assert_eq!(bare.principal().issued_at(), None);
}

#[test]
fn keycloak() {
    let kind = Kind {
        issuer: "{ issuer: 'https://sso.example/realms/demo', audiences: [inference-api], algorithms: [RS256], \
                 jwks: { discovery: true }, claims: { client: azp, roles: [realm_access, roles] } }",
        key_set: Some("https://sso.example/realms/demo"),
        header: r#"{"alg":"RS256","typ":"JWT","kid":"k1"}"#,
        claims: r#"{"exp":EXP,"iat":IAT,"auth_time":IAT,"jti":"onrtac:6bd1f5b2-3ef6-4d0e-9a3c-0a4c1d7c9f55",
            "iss":"https://sso.example/realms/demo","aud":["inference-api","account"],
            "sub":"f0c1b1a7-5a0e-4b59-9f0f-1f4b8f5f9f11",
            "typ":"Bearer","azp":"notebook","sid":"6a5b","acr":"1","allowed-origins":["https://notebook.example"],
            "realm_access":{"roles":["offline_access","premium","uma_authorization"]},
            "resource_access":{"account":{"roles":["manage-account","view-profile"]}},"email":"alice@example.com",
            "scope":"openid email profile infer:text","email_verified":true,"preferred_username":"alice"}"#,
        signer: Signer::Rs256,
    };
    assert_eq!(
        facts(&kind.principal()),
        (
            "f0c1b1a7-5a0e-4b59-9f0f-1f4b8f5f9f11",
            None,
            Some("notebook"),
            Some(sha256(b"onrtac:6bd1f5b2-3ef6-4d0e-9a3c-0a4c1d7c9f55")),
            vec!["offline_access", "premium", "uma_authorization"],
            vec!["openid", "email", "profile", "infer:text"],
        )
    );
}

/// No jti, an issuer with a trailing slash, a claim whose name is an address.
#[test]
fn auth0() {
    let kind = Kind {
        issuer: "{ issuer: 'https://demo.eu.auth0.com/', audiences: ['https://inference.example/api'], algorithms: [RS256], \
                 jwks: { discovery: true }, \
                 claims: { client: azp, scopes: [scope, permissions], roles: 'https://inference.example/roles' } }",
        key_set: Some("https://demo.eu.auth0.com/"),
        header: r#"{"alg":"RS256","typ":"JWT","kid":"k1"}"#,
        claims: r#"{"https://inference.example/roles":["premium"],"iss":"https://demo.eu.auth0.com/",
            "sub":"auth0|5f7c8ec7c33c6c004bbafe82","aud":["https://inference.example/api","https://demo.eu.auth0.com/userinfo"],
            "iat":IAT,"exp":EXP,"azp":"my_client_id","scope":"openid infer:text","permissions":["model:qwen:inference"]}"#,
        signer: Signer::Rs256,
    };
    assert_eq!(
        facts(&kind.principal()),
        (
            "auth0|5f7c8ec7c33c6c004bbafe82",
            None,
            Some("my_client_id"),
            None,
            vec!["premium"],
            vec!["openid", "infer:text", "model:qwen:inference"],
        )
    );
}

/// Scopes of a person in scp, permissions of a program in roles, `uti` in place of jti.
#[test]
fn entra() {
    let kind = Kind {
        issuer: "{ issuer: 'https://login.microsoftonline.com/8f0e1a3c-0000-4000-8000-000000000001/v2.0', \
                 audiences: [11111111-2222-3333-4444-555555555555], algorithms: [RS256], jwks: { discovery: true }, \
                 claims: { tenant: tid, client: azp, scopes: [scp, roles] } }",
        key_set: Some(
            "https://login.microsoftonline.com/8f0e1a3c-0000-4000-8000-000000000001/v2.0",
        ),
        header: r#"{"typ":"JWT","alg":"RS256","x5t":"nOo3ZDrODXEK1jKWhXslHR_KXEg","kid":"k1"}"#,
        claims: r#"{"aud":"11111111-2222-3333-4444-555555555555",
            "iss":"https://login.microsoftonline.com/8f0e1a3c-0000-4000-8000-000000000001/v2.0","iat":IAT,"nbf":NBF,"exp":EXP,
            "aio":"E2ZgYPj","azp":"99999999-0000-0000-0000-000000000000","azpacr":"1",
            "oid":"22222222-0000-0000-0000-000000000000",
            "rh":"0.AX","roles":["Inference.Text"],"scp":"infer.text user.read",
            "sub":"AAAAAAAAAAAAAAAAAAAAAIkzqFVrSaSaFHy782bbtaQ",
            "tid":"8f0e1a3c-0000-4000-8000-000000000001","uti":"fqiBqXLPj0eQa82S-IYFAA","ver":"2.0"}"#,
        signer: Signer::Rs256,
    };
    assert_eq!(
        facts(&kind.principal()),
        (
            "AAAAAAAAAAAAAAAAAAAAAIkzqFVrSaSaFHy782bbtaQ",
            Some("8f0e1a3c-0000-4000-8000-000000000001"),
            Some("99999999-0000-0000-0000-000000000000"),
            None,
            vec!["Inference.Text"],
            vec!["infer.text", "user.read", "Inference.Text"],
        )
    );
}

/// No typ and no aud: the client's id is the audience. Names of groups contain a colon.
#[test]
fn cognito() {
    let kind = Kind {
        issuer: "{ issuer: 'https://cognito-idp.us-east-1.amazonaws.com/us-east-1_example', audiences: [1example23456789], \
                 audience_claim: client_id, algorithms: [RS256], jwks: { discovery: true }, \
                 claims: { roles: 'cognito:groups' } }",
        key_set: Some("https://cognito-idp.us-east-1.amazonaws.com/us-east-1_example"),
        header: r#"{"kid":"k1","alg":"RS256"}"#,
        claims: r#"{"sub":"aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee","device_key":"us-east-1_x",
            "cognito:groups":["testers","developers"],"iss":"https://cognito-idp.us-east-1.amazonaws.com/us-east-1_example",
            "version":2,"client_id":"1example23456789",
            "origin_jti":"x","event_id":"y","token_use":"access","scope":"phone openid inference/text","auth_time":IAT,"exp":EXP,
            "iat":IAT,"jti":"aaaaaaaa-0000","username":"my-test-user"}"#,
        signer: Signer::Rs256,
    };
    assert_eq!(
        facts(&kind.principal()),
        (
            "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee",
            None,
            Some("1example23456789"),
            Some(sha256(b"aaaaaaaa-0000")),
            vec!["testers", "developers"],
            vec!["phone", "openid", "inference/text"],
        )
    );
}

/// No typ, scopes as a list in scp, the client in cid.
#[test]
fn okta() {
    let kind = Kind {
        issuer: "{ issuer: 'https://demo.okta.com/oauth2/default', audiences: ['api://default'], algorithms: [RS256], \
                 jwks: { discovery: true }, required_claims: [iat, jti], claims: { client: cid, roles: groups } }",
        key_set: Some("https://demo.okta.com/oauth2/default"),
        header: r#"{"kid":"k1","alg":"RS256"}"#,
        claims: r#"{"ver":1,"jti":"AT.0mP4JKAZX1iACIT4vbEDF7LpvDVjxypPMf0D7uX39RE","iss":"https://demo.okta.com/oauth2/default",
            "aud":"api://default","iat":IAT,"exp":EXP,"cid":"nmdP1fcyvdVO11AL7ECm","uid":"00uapxd6g4gvBIjPe0h7",
            "scp":["openid","infer.text"],"auth_time":IAT,"sub":"alice@example.com","groups":["Everyone","Data Science"]}"#,
        signer: Signer::Rs256,
    };
    assert_eq!(
        facts(&kind.principal()),
        (
            "alice@example.com",
            None,
            Some("nmdP1fcyvdVO11AL7ECm"),
            Some(sha256(b"AT.0mP4JKAZX1iACIT4vbEDF7LpvDVjxypPMf0D7uX39RE")),
            vec!["Everyone", "Data Science"],
            vec!["openid", "infer.text"],
        )
    );
}

/// The example of RFC 9068 section 2.2.3, with the claims that it requires.
#[test]
fn rfc_9068() {
    let kind = Kind {
        issuer: "{ issuer: 'https://authorization-server.example.com/', audiences: ['https://rs.example.com/'], \
                 algorithms: [RS256], jwks: { discovery: true }, required_claims: [iat, jti, client_id] }",
        key_set: Some("https://authorization-server.example.com/"),
        header: r#"{"typ":"at+JWT","alg":"RS256","kid":"k1"}"#,
        claims: r#"{"iss":"https://authorization-server.example.com/","sub":"5ba552d67","aud":"https://rs.example.com/","exp":EXP,
            "jti":"dbe39bf3a3ba4238a513f51d6e1691c4","iat":IAT,"client_id":"s6BhdRkqt3","scope":"openid profile reademail"}"#,
        signer: Signer::Rs256,
    };
    assert_eq!(
        facts(&kind.principal()),
        (
            "5ba552d67",
            None,
            Some("s6BhdRkqt3"),
            Some(sha256(b"dbe39bf3a3ba4238a513f51d6e1691c4")),
            vec![],
            vec!["openid", "profile", "reademail"],
        )
    );
}
