//! The probes with a token that is bound to a key (DPoP): each proof is wrong in one way, or is sent
//! again.

use anyhow::{Context as _, bail};
use serde_json::json;
use tollgate_testkit::{KeyPair, KeyType, proof, thumbprint};

use super::{Probes, Reply};
use crate::{
    cli::{argument, token_view},
    observe::now,
    secrets,
};

const NAME: &str = "bound_token_needs_its_proof";
const REMEDY: &str = "a bound token passes without its proof, or with one for another request; every instance behind this address needs the section `dpop`, and one store (docs/bound-tokens.md)";
const NAME_GOOD: &str = "good_proof_passes";
const REMEDY_GOOD: &str = "list the origin that clients use in `dpop.origins`, and forward the headers `DPoP` and `DPoP-Nonce` (docs/bound-tokens.md)";

/// A client with the key that its token is bound to.
pub(in crate::cli::doctor) struct BoundClient {
    key: KeyPair,
    token: String,
}

impl BoundClient {
    /// Reads the key of a bound token.
    ///
    /// # Errors
    /// The file is no private key, or the token is bound to another one.
    pub(in crate::cli::doctor) fn read(path: &str, token: Option<&str>) -> anyhow::Result<Self> {
        let token = token.context("--dpop-key needs the token, `--token`")?.to_owned();
        let text = argument::file(path, secrets::MAX)?;
        let text = String::from_utf8(text).context("the key of --dpop-key is not PEM")?;
        let key = KeyPair::from_pem(&text).context("the key of --dpop-key")?;
        let claims = token_view::decode(&token).context("the token cannot be read")?.claims;
        let bound = claims.get("cnf").and_then(|cnf| cnf.get("jkt")?.as_str());
        if bound != Some(thumbprint(&key)?.as_str()) {
            bail!("the token is not bound to the key of --dpop-key (`cnf.jkt`)");
        }
        Ok(Self { key, token })
    }

    /// Makes a proof for a method and a URI, signed with `key`.
    fn proof(
        &self,
        key: &KeyPair,
        target: (&str, &str),
        nonce: Option<&str>,
    ) -> anyhow::Result<String> {
        let jti = format!("{:032x}", rand::random::<u128>());
        let proof = proof(key, target, &self.token, now().secs(), &jti)?;
        Ok(proof.claims(json!({ "nonce": nonce })).sign(key)?)
    }
}

impl Probes<'_> {
    /// Sends the bound token of `--token` with proofs of the key of `--dpop-key`.
    pub(super) async fn bound_tokens(&mut self) -> anyhow::Result<()> {
        let Some(client) = self.bound.take() else { return Ok(()) };
        let protected = self.protected.clone();
        let (method, path) = (protected.method, protected.path.as_str());
        let host = self.doctor.host.as_deref();
        let origin = match host {
            Some(host) => format!("{}://{host}", self.target.scheme()),
            None => self.doctor.url.trim_end_matches('/').to_owned(),
        };
        let origin = self.doctor.dpop_origin.clone().unwrap_or(origin);
        let path_alone = path.split('?').next().unwrap_or_default();
        let uri = format!("{origin}{path_alone}");
        let bound = format!("DPoP {}", client.token);
        let bearer = format!("Bearer {}", client.token);

        // The first proof may be answered with a nonce.
        let first = client.proof(&client.key, (method, &uri), None)?;
        let reply = self.proved(&protected, &bound, &[first.as_str()]).await?;
        let nonce = reply.as_ref().and_then(|reply| reply.header("dpop-nonce"));
        let nonce = nonce.map(str::to_owned);
        let good = client.proof(&client.key, (method, &uri), nonce.as_deref())?;
        let reply = self.proved(&protected, &bound, &[good.as_str()]).await?;
        let code = reply.as_ref().and_then(Reply::code);
        let is_refused = matches!(
            code.as_deref(),
            Some(
                "invalid_proof"
                    | "proof_required"
                    | "missing_credential"
                    | "unsupported_confirmation"
            )
        );
        // Without an answer of the store, or any, no proof is accepted.
        if is_refused || reply.as_ref().is_none_or(|reply| reply.status >= 500) {
            let why = code.or_else(|| Some(reply?.status.to_string()));
            let why = why.as_deref().unwrap_or("no answer");
            let detail = format!("a proof for {method} {uri} is refused: {why}");
            self.add(NAME_GOOD, super::Verdict::Fault, detail, Some(REMEDY_GOOD));
        } else {
            let detail = format!("a proof for {method} {uri} is accepted");
            self.add(NAME_GOOD, super::Verdict::Ok, detail, None);
        }

        let stranger = KeyPair::generate(KeyType::P256)?;
        let elsewhere = format!("https://doctor.invalid{path_alone}");
        let other = if method == "GET" { "POST" } else { "GET" };
        let nonce = nonce.as_deref();
        let wrong = |key, target| client.proof(key, target, nonce);
        let rows = [
            ("as `Bearer`", &bearer, Vec::new()),
            ("as `Bearer`, with its proof", &bearer, vec![wrong(&client.key, (method, &uri))?]),
            ("without a proof", &bound, Vec::new()),
            ("with a proof that was sent before", &bound, vec![good.clone()]),
            (
                "with a proof for another origin",
                &bound,
                vec![wrong(&client.key, (method, &elsewhere))?],
            ),
            ("with a proof for another method", &bound, vec![wrong(&client.key, (other, &uri))?]),
            ("with the proof of another key", &bound, vec![wrong(&stranger, (method, &uri))?]),
            ("with two proofs", &bound, vec![wrong(&client.key, (method, &uri))?, first.clone()]),
        ];
        let (tried, mut leaks) = (rows.len(), Vec::new());
        for (name, authorization, proofs) in rows {
            let proofs: Vec<&str> = proofs.iter().map(String::as_str).collect();
            let reply = self.proved(&protected, authorization, &proofs).await?;
            if reply.is_some_and(|reply| reply.passed()) {
                leaks.push(format!("the token opens {path} {name}"));
            }
        }
        self.summarize(NAME, tried, &leaks, REMEDY);
        Ok(())
    }

    /// Sends a request with these proofs.
    async fn proved(
        &self,
        protected: &super::Protected,
        authorization: &str,
        proofs: &[&str],
    ) -> anyhow::Result<Option<Reply>> {
        let mut headers = vec![("Authorization", authorization)];
        headers.extend(proofs.iter().map(|proof| ("DPoP", *proof)));
        self.send(protected.method, &protected.path, &headers, protected.rest()).await
    }
}
