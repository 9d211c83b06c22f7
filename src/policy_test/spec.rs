//! The words of a case file. What is left out of a case is taken from the file's `defaults`, then from here.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};
use tollgate_core::{policy::PolicyConfig, secret::SecretSource};
use tollgate_testkit::merged;

use super::{
    expect::Expectation,
    values::{Address, Bytes, HeaderList, Offset, OutageName},
};

/// A case file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileSpec {
    /// The policy, as in the configuration file. `tollgate explain --config` brings its own.
    pub(super) config: Option<PolicyConfig>,
    /// The moment of every request, in seconds since 1970. Default 1767225600, 2026-01-01T00:00:00Z.
    pub(super) now: Option<u64>,
    /// Keys to sign with, made when the file is read.
    #[serde(default)]
    pub(super) keys: BTreeMap<String, KeySpec>,
    #[serde(default)]
    pub(super) defaults: DefaultsSpec,
    pub(super) cases: Vec<CaseSpec>,
}

/// What every case of the file starts from.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct DefaultsSpec {
    pub(super) request: RequestSpec,
    pub(super) token: TokenSpec,
}

/// A key to sign with.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeySpec {
    /// The algorithm its tokens are signed with, and the `alg` of its JWK.
    pub(super) alg: String,
    /// Default: the key's name in the file.
    pub(super) kid: Option<String>,
    /// The issuer that publishes it, as `issuers[].issuer` spells it.
    pub(super) issuer: Option<String>,
    /// Default true, for a key with an `issuer`.
    pub(super) publish: Option<bool>,
    /// Use the key pair of this other key.
    pub(super) like: Option<String>,
    /// For HS*: the shared secret, such as `${GATE_SECRET}`, which stands for the same random text wherever the file has it.
    pub(super) secret: Option<SecretSource>,
    /// Members of the published JWK to add or replace.
    #[serde(default)]
    pub(super) jwk: Map<String, Value>,
    /// Members of the published JWK to leave out.
    #[serde(default)]
    pub(super) jwk_without: Vec<String>,
}

/// One case.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CaseSpec {
    /// One sentence: what must be so.
    pub(super) name: String,
    /// The moment, in seconds since 1970. Default: the file's.
    pub(super) now: Option<u64>,
    #[serde(default)]
    pub(super) request: RequestSpec,
    #[serde(default)]
    pub(super) token: TokenSpec,
    /// What happened before, in order.
    #[serde(default)]
    pub(super) earlier: Vec<EarlierSpec>,
    /// What was revoked before.
    #[serde(default)]
    pub(super) revoked: Vec<RevokedSpec>,
    /// Why the store cannot be asked.
    pub(super) outage: Option<OutageName>,
    /// What the answer must be; `explain` can do without.
    pub(super) expect: Option<Expectation>,
}

/// A request that came before; it differs from the case's own in what is written here.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EarlierSpec {
    /// How often it came. Default 1.
    #[serde(default = "once")]
    pub(super) times: u32,
    /// When, such as `-10s`. Default `now`.
    #[serde(default)]
    pub(super) at: Offset,
    #[serde(default)]
    pub(super) request: RequestSpec,
    #[serde(default)]
    pub(super) token: TokenSpec,
}

fn once() -> u32 {
    1
}

/// One revocation: exactly one of `jti`, `subject`, `client`, `tenant`, `token: true` and `foreign`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RevokedSpec {
    pub(super) jti: Option<String>,
    pub(super) subject: Option<String>,
    pub(super) client: Option<String>,
    pub(super) tenant: Option<String>,
    /// The case's own token, by its digest.
    #[serde(default)]
    pub(super) token: bool,
    /// A whole key in the blacklist of another service.
    pub(super) foreign: Option<String>,
    /// The `iss` it is about; default: that of the case's token.
    pub(super) issuer: Option<String>,
    /// The moment until which tokens are revoked (`subject`, `client`, `tenant`). Default `now`.
    #[serde(default)]
    pub(super) at: Offset,
}

/// A request. Every part may be left out.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RequestSpec {
    /// Default `GET`.
    pub(super) method: Option<String>,
    /// Default `https`; an empty text is a proxy that does not say.
    pub(super) scheme: Option<String>,
    /// Default `api.example.com`.
    pub(super) host: Option<String>,
    /// With the query. Default `/`. `{token}` stands for the token.
    pub(super) path: Option<String>,
    /// A map, or a list of `[name, value]` where a name may come twice; `[name, value, base64]` for bytes that are no text.
    /// A name hides the same name of the defaults. `{token}` in a value stands for the token.
    pub(super) headers: HeaderList,
    /// Headers of the defaults that are not sent.
    pub(super) headers_without: Vec<String>,
    /// The body as text.
    pub(super) body: Option<String>,
    /// The body as base64.
    pub(super) body_base64: Option<Bytes>,
    /// `absent`: no body comes, whatever the defaults say. `cut`: the proxy cut it.
    pub(super) body_is: Option<BodyState>,
    /// The client's address as the proxy reports it; the text `none` for none.
    pub(super) address: Option<Address>,
    /// Same-name headers were joined with a comma by the proxy. Default false.
    pub(super) joined_headers: Option<bool>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum BodyState {
    Absent,
    Cut,
}

impl RequestSpec {
    /// This request where it says something, `base` where it does not.
    pub(super) fn or_defaults(&self, base: &Self) -> Self {
        let own_body = self.body.is_some() || self.body_base64.is_some() || self.body_is.is_some();
        let body = if own_body { self } else { base };
        Self {
            method: self.method.clone().or_else(|| base.method.clone()),
            scheme: self.scheme.clone().or_else(|| base.scheme.clone()),
            host: self.host.clone().or_else(|| base.host.clone()),
            path: self.path.clone().or_else(|| base.path.clone()),
            headers: self.headers.or_defaults(&base.headers, &self.headers_without),
            headers_without: Vec::new(),
            body: body.body.clone(),
            body_base64: body.body_base64.clone(),
            body_is: body.body_is,
            address: self.address.or(base.address),
            joined_headers: self.joined_headers.or(base.joined_headers),
        }
    }
}

/// How the token is made and sent.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TokenSpec {
    /// No token is sent, whatever the defaults say.
    pub(super) none: Option<bool>,
    /// This text is the token.
    pub(super) raw: Option<String>,
    /// The name of the key to sign with.
    pub(super) key: Option<String>,
    /// Sign with this algorithm instead of the key's; the header says so too, unless it is replaced.
    pub(super) alg: Option<String>,
    /// Header members to add or replace; the key gives `alg` and `kid`, and `typ` is `JWT`. The text `{jwk:NAME}` stands for
    /// the public JWK of a key.
    pub(super) header: Map<String, Value>,
    pub(super) header_without: Vec<String>,
    /// The header as it is, instead.
    pub(super) header_text: Option<String>,
    /// Claims to add or replace. In `exp`, `nbf`, `iat` and `auth_time`, `now`, `+5m` and the like stand for moments.
    pub(super) claims: Map<String, Value>,
    pub(super) claims_without: Vec<String>,
    /// The claims as they are, instead; `<+5m>` stands for a moment.
    pub(super) claims_text: Option<String>,
    /// The claims as bytes that are no text, instead.
    pub(super) claims_base64: Option<Bytes>,
    /// Adds a claim `filler` of so many characters.
    pub(super) filler: Option<usize>,
    /// How it is signed. Default: with the key.
    pub(super) sign: Option<SigningMethod>,
    /// What is done to the signed token, in order.
    pub(super) tamper: Vec<Tamper>,
    /// The `Authorization` headers to send, `{token}` standing for the token. Default `[Bearer {token}]`.
    pub(super) authorization: Option<Vec<String>>,
}

impl TokenSpec {
    /// This token where it says something, `base` where it does not; claims and header member by member.
    pub(super) fn or_defaults(&self, base: &Self) -> Self {
        let own = self.raw.is_some() || self.key.is_some();
        let choose =
            |own: &Option<String>, base: &Option<String>| own.clone().or_else(|| base.clone());
        let list =
            |own: &Vec<String>, base: &Vec<String>| base.iter().chain(own).cloned().collect();
        Self {
            none: self.none.or(base.none.filter(|_| !own)),
            raw: if self.key.is_some() { None } else { choose(&self.raw, &base.raw) },
            key: choose(&self.key, &base.key),
            alg: choose(&self.alg, &base.alg),
            header: merged(&base.header, &self.header),
            header_without: list(&self.header_without, &base.header_without),
            header_text: choose(&self.header_text, &base.header_text),
            claims: merged(&base.claims, &self.claims),
            claims_without: list(&self.claims_without, &base.claims_without),
            claims_text: choose(&self.claims_text, &base.claims_text),
            claims_base64: self.claims_base64.clone().or_else(|| base.claims_base64.clone()),
            filler: self.filler.or(base.filler),
            sign: self.sign.or(base.sign),
            tamper: base.tamper.iter().chain(&self.tamper).cloned().collect(),
            authorization: self.authorization.clone().or_else(|| base.authorization.clone()),
        }
    }
}

/// How a token is signed.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum SigningMethod {
    /// With its key.
    Key,
    /// With HMAC-SHA256 under the key's public half, as PEM: the classical confusion of RS256 and HS256.
    HmacPublicPem,
    /// The same, as DER.
    HmacPublicDer,
    /// With HMAC-SHA256 under an empty secret.
    HmacEmpty,
    /// With an empty signature.
    Empty,
}

/// What is done to a signed token.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Tamper {
    /// Changes the first byte of the signature.
    FlipSignature,
    /// Makes every byte of the signature 0.
    ZeroSignature,
    /// Takes the last byte of the signature away.
    ShortenSignature,
    /// Leaves `header.payload`, without the second dot.
    DropSignature,
    /// Adds `=` to the signature.
    PadSignature,
    /// Sets bits in the signature's last character that stand for nothing.
    StrayBits,
    /// Replaces the header after signing.
    SwapHeader(Map<String, Value>),
    /// Adds or replaces claims after signing.
    SwapClaims(Map<String, Value>),
    /// Makes the token the payload of another one, signed with the same key.
    Nest,
    /// Adds text to its end, so many times.
    Append { text: String, times: usize },
}
