//! Rules for bodies: models, tiers, caps, fields, content, tools, MCP. Each row has a sentence, and
//! its expected values are written by hand.

mod content;
mod docs;
mod fields;
mod forms;
mod models;
mod readers;
mod tools;

use tollgate_core::{denial::Reason, request::RawBody};

use crate::{
    harness::{Answer, Harness, SECRET, compile},
    keys::Signer,
    token::{Members, signed},
};

const ISSUER: &str = "
issuers:
  - { issuer: https://secret.example, audiences: [inference-api], algorithms: [HS256], secret: 0123456789abcdef0123456789abcdef }
";

/// A policy of routes and the given sections, with one issuer.
pub struct Bodies(Harness);

/// The request (scopes of the token, path, body) and the expected decision (reason and OpenAI's
/// `param`).
pub type Row<'a> = (&'a str, &'a str, &'a str, &'a str, Result<(), (Reason, Option<&'a str>)>);

impl Bodies {
    pub fn new(policy: &str) -> Self {
        Self(Harness::new(&format!("{ISSUER}{policy}"), &[]))
    }

    pub fn ask(&self, scopes: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let claims = Members::claims("https://secret.example").text("scope", scopes);
        let token =
            signed(Signer::Hs256(SECRET), Members::header("HS256", "k").json(), claims.json());
        let authorization = format!("Bearer {token}");
        let mut list: Vec<(&str, &[u8])> = vec![("authorization", authorization.as_bytes())];
        list.extend(headers.iter().map(|(name, value)| (*name, value.as_bytes())));
        self.0.ask_with_body("POST", path, &list, RawBody::Whole(body))
    }

    pub fn json(&self, scopes: &str, path: &str, body: &str) -> Answer {
        self.ask(scopes, path, &[("content-type", "application/json")], body.as_bytes())
    }

    /// Checks every row and reports all that differ.
    pub fn hold(&self, rows: &[Row<'_>]) {
        let wrong: Vec<String> = rows
            .iter()
            .filter_map(|(says, scopes, path, body, expected)| {
                let answer = self.json(scopes, path, body);
                let found = verdict(&answer);
                let expected =
                    expected.map_err(|(reason, param)| (reason, param.map(str::to_owned)));
                (found != expected)
                    .then(|| format!("{says}: expected {expected:?}, came to {found:?}"))
            })
            .collect();
        assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
    }
}

/// The reason and OpenAI's `param`.
pub fn verdict(answer: &Answer) -> Result<(), (Reason, Option<String>)> {
    match answer {
        Answer::Accepted(_) => Ok(()),
        Answer::Refused { reason, answer, .. } => {
            let body: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
            Err((*reason, body["error"]["param"].as_str().map(str::to_owned)))
        }
    }
}

/// The errors of a policy that does not compile.
pub fn errors(policy: &str) -> String {
    compile(&format!("{ISSUER}{policy}")).unwrap_err()
}

/// The expected denial of a row.
pub fn no(reason: Reason, param: &str) -> Result<(), (Reason, Option<&str>)> {
    Err((reason, Some(param)))
}
