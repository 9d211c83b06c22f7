//! Conditions: which expressions compile, their values, and a comparison with CEL's own
//! interpreter.

mod against_cel;
mod errors;
mod rows;

use std::{net::IpAddr, sync::Arc};

use tollgate_core::{
    check::{NoHooks, Prepared, prepare},
    credential::jwt::key_set::KeySet,
    decision::Decision,
    denial::Reason,
    request::{Headers, RawBody, RawRequest},
    snapshot::Snapshot,
    time::Timestamp,
};

use crate::{
    harness::{SECRET, compile},
    keys::Signer,
    token::{Members, NOW, signed},
};

const ISSUER: &str = "
issuers:
  - issuer: https://secret.example
    audiences: [inference-api]
    algorithms: [HS256]
    secret: 0123456789abcdef0123456789abcdef
    claims: { roles: roles }
";

/// A policy of one route with one condition.
fn policy(expression: &str) -> String {
    let expression = serde_json::to_string(expression).unwrap();
    format!(
        "{ISSUER}routes:\n  - match: {{ methods: [POST], paths: ['/t/{{team}}/v1/chat/*'] }}\n    scopes: []\n    \
         model: {{ from: 'header:x-model' }}\n    conditions: [{expression}]\n"
    )
}

/// One request and its token.
#[derive(Clone)]
struct Asked {
    claims: Members,
    path: String,
    headers: Vec<(String, String)>,
    address: Option<IpAddr>,
    now: u64,
}

impl Asked {
    fn new() -> Self {
        let claims = Members::claims("https://secret.example")
            .text("sub", "alice")
            .text("tenant_id", "acme")
            .text("scope", "infer:text team:red")
            .with("roles", r#"["dev","lead"]"#)
            .text("department", "red")
            .with("level", "3")
            .with("share", "0.5")
            .with("verified", "true")
            .with("nothing", "null")
            .with("groups", r#"["red","blue"]"#)
            .with("mixed", r#"["red",1,null]"#)
            .with("org", r#"{"unit":"red","path":["a","b"],"head":null}"#);
        Self {
            claims,
            path: "/t/red/v1/chat".into(),
            headers: vec![("x-model".into(), "small".into()), ("x-team".into(), "red".into())],
            address: Some("10.1.2.3".parse().unwrap()),
            now: NOW,
        }
    }

    /// The cause of the denial, if the request is denied.
    fn of(&self, expression: &str) -> Result<(), String> {
        let policy =
            compile(&policy(expression)).unwrap_or_else(|errors| panic!("{expression}: {errors}"));
        let keys = KeySet::from_secret(
            &tollgate_core::secret::Secret::new(std::str::from_utf8(SECRET).unwrap()),
            &policy.issuers.list()[0].algorithms,
        );
        let snapshot = Snapshot {
            policy: Arc::new(policy),
            keys: vec![Some(Arc::new(keys.unwrap()))],
            upstream_keys: Vec::new(),
            api_keys: Vec::new(),
            authorities: None,
            reservation_keys: None,
            nonce_keys: None,
            statements: Arc::default(),
        };
        let token =
            signed(Signer::Hs256(SECRET), Members::header("HS256", "k").json(), self.claims.json());
        let authorization = format!("Bearer {token}");
        let mut headers = Headers::default();
        headers.push("authorization", authorization.as_bytes());
        for (name, value) in &self.headers {
            headers.push(name, value.as_bytes());
        }
        let raw = RawRequest {
            method: b"POST",
            scheme: b"https",
            host: b"API.example:443",
            path: self.path.as_bytes(),
            headers,
            address: self.address,
            peer_certificate: b"",
            body: RawBody::None,
        };
        match prepare(&snapshot, raw, Timestamp::from_secs(self.now), &mut NoHooks) {
            Prepared::Pending(_) => Ok(()),
            Prepared::Decided(outcome) => match outcome.decision {
                Decision::Deny(denial) if denial.reason == Reason::ConditionFailed => {
                    Err(denial.cause.into_owned())
                }
                other => panic!("{expression}: {other:?}"),
            },
        }
    }
}
