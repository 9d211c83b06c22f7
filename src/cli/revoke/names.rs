//! The names by which a target may be revoked: those of the options, and those in the claims of a
//! token.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::Value;
use tollgate_core::{
    identity::MAX_ACTORS,
    revocation::{Target, token_digest},
};

use super::{Selector, jwt, target};
use crate::{cli::argument, store::Entry};

/// The names that revocations are looked up by.
pub(super) struct Names {
    targets: Vec<Target>,
    /// The time of issue of a token, in seconds since 1970, where it has one.
    issued: Option<u64>,
}

impl Names {
    /// Returns the names of the options; of a token also those in its header and its claims, which
    /// are not verified.
    ///
    /// # Errors
    /// The token or the certificate cannot be read.
    pub(super) fn of(selector: &Selector) -> anyhow::Result<Self> {
        let Some(token) = &selector.what.token else {
            return Ok(Self { targets: vec![target(selector)?.0], issued: None });
        };
        Ok(Self::of_token(&jwt(&argument::token(token)?)?))
    }

    fn of_token(token: &str) -> Self {
        let mut parts = token.split('.').map(|part| {
            let bytes = URL_SAFE_NO_PAD.decode(part).ok()?;
            serde_json::from_slice::<Value>(&bytes).ok()
        });
        let (header, claims) = (parts.next().flatten(), parts.next().flatten());
        let (header, claims) = (header.unwrap_or_default(), claims.unwrap_or_default());
        let text = |of: &Value, name: &str| of[name].as_str().map(str::to_owned);
        let issuer = text(&claims, "iss").unwrap_or_default();
        let own = || issuer.clone();
        let subject = text(&claims, "sub");
        let client = text(&claims, "client_id").or_else(|| text(&claims, "azp"));
        let mut targets = vec![Target::Token { sha256: token_digest(token) }];
        targets.extend(text(&claims, "jti").map(|jti| Target::Jti { issuer: own(), jti }));
        targets.extend(text(&header, "kid").map(|kid| Target::Kid { issuer: own(), kid }));
        let agents = subject.iter().chain(&client).map(|name| (own(), name.clone()));
        let agents: Vec<_> = agents.chain(actors(&claims, &issuer)).collect();
        targets.extend(subject.map(|subject| Target::Subject { issuer: own(), subject }));
        targets.extend(client.map(|client| Target::Client { issuer: own(), client }));
        let agents = agents.into_iter().map(|(issuer, actor)| Target::Actor { issuer, actor });
        targets.extend(agents);
        let issued = claims.get("iat").and_then(Value::as_f64);
        let issued = issued.and_then(|iat| std::time::Duration::try_from_secs_f64(iat).ok());
        Self { targets, issued: issued.map(|issued| issued.as_secs()) }
    }

    /// Whether the entry revokes what has these names.
    pub(super) fn revoke(&self, entry: &Entry) -> bool {
        self.targets.iter().any(|target| {
            // A token that was issued after the moment of a revocation is not revoked by it.
            let later = self.issued.is_some_and(|issued| issued > entry.at.secs());
            target.key() == entry.key && !(target.is_before() && later)
        })
    }

    /// The kinds of names, each once, for messages.
    pub(super) fn kinds(&self) -> String {
        let mut kinds: Vec<&str> = self.targets.iter().map(Target::kind).collect();
        kinds.dedup();
        kinds.join(", ")
    }
}

/// Returns the issuer and the name of each actor in the claims of a token.
fn actors(claims: &Value, issuer: &str) -> Vec<(String, String)> {
    let chain = std::iter::successors(Some(&claims["act"]), |actor| Some(&actor["act"]));
    let named = chain.take(MAX_ACTORS).map_while(|actor| {
        let issuer = actor["iss"].as_str().unwrap_or(issuer);
        Some((issuer.to_owned(), actor["sub"].as_str()?.to_owned()))
    });
    named.collect()
}
