//! The keys of a case file. A field that a case omits is taken from the file's `defaults`, then
//! from the defaults documented here.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};
use tollgate_core::{
    credential::api_key::HolderSpec, network::Networks, policy::PolicyConfig, secret::SecretSource,
    time::Quota,
};
use tollgate_testkit::merged;

use super::{
    expect::Expectation,
    values::{Address, Bytes, HeaderList, Offset, OutageName},
};

/// A whole case file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileSpec {
    /// The policy, as in the configuration file. `tollgate explain --config` uses its own.
    pub(super) config: Option<PolicyConfig>,
    /// The time of every request, in seconds since 1970. Default 1767225600, 2026-01-01T00:00:00Z.
    pub(super) now: Option<u64>,
    /// Signing keys, made when the file is read.
    #[serde(default)]
    pub(super) keys: BTreeMap<String, KeySpec>,
    /// API keys, made when the file is read.
    #[serde(default)]
    pub(super) api_keys: BTreeMap<String, ApiKeySpec>,
    /// What the endpoints of issuers answer about opaque tokens.
    #[serde(default)]
    pub(super) introspection: Vec<StatementSpec>,
    #[serde(default)]
    pub(super) defaults: DefaultsSpec,
    pub(super) cases: Vec<CaseSpec>,
}

/// The answer of an introspection endpoint about a token.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StatementSpec {
    /// The opaque token.
    pub(super) token: String,
    /// The members of the answer; `exp`, `nbf` and `iat` may be times such as `+5m`, and a member of
    /// `cnf` may be `{jkt:NAME}`.
    #[serde(default)]
    pub(super) answer: Map<String, Value>,
    /// The answer as text, instead.
    pub(super) text: Option<String>,
}

/// The defaults of every case of the file.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct DefaultsSpec {
    pub(super) request: RequestSpec,
    pub(super) token: TokenSpec,
    pub(super) proof: ProofSpec,
}

/// A signing key.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeySpec {
    /// The algorithm of its signatures, and the `alg` of its JWK.
    pub(super) alg: String,
    /// Default: the key's name in the file.
    pub(super) kid: Option<String>,
    /// The issuer that publishes it, as `issuers[].issuer` spells it.
    pub(super) issuer: Option<String>,
    /// Default true, for a key with an `issuer`.
    pub(super) publish: Option<bool>,
    /// Use the key pair of this other key.
    pub(super) like: Option<String>,
    /// For HS*: the shared secret, such as `${GATE_SECRET}`, which is the same random text wherever
    /// the file uses it.
    pub(super) secret: Option<SecretSource>,
    /// Members of the published JWK to add or replace.
    #[serde(default)]
    pub(super) jwk: Map<String, Value>,
    /// Members of the published JWK to remove.
    #[serde(default)]
    pub(super) jwk_without: Vec<String>,
}

/// An API key: its record, or another secret of the id of one.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ApiKeySpec {
    /// The other key whose id this key has. It has no record: it is the `previous` secret of that
    /// key, or one that was never issued.
    pub(super) of: Option<String>,
    /// The text of a key of a foreign format. Its record is marked as weak.
    pub(super) raw: Option<String>,
    /// `false`: the key has no record. Default true.
    pub(super) issue: Option<bool>,
    /// Default: the key's name in the file.
    pub(super) subject: Option<String>,
    #[serde(default)]
    pub(super) holder: HolderSpec,
    pub(super) tenant: Option<String>,
    pub(super) owner: Option<String>,
    #[serde(default)]
    pub(super) scopes: Vec<String>,
    pub(super) models: Option<Vec<String>>,
    pub(super) tier: Option<String>,
    #[serde(default)]
    pub(super) limits: BTreeMap<String, Quota>,
    pub(super) networks: Option<Networks>,
    /// Default `now`, as all times relative to the time of the file.
    #[serde(default)]
    pub(super) created: Offset,
    pub(super) expires: Option<Offset>,
    /// The secret before the last rotation.
    pub(super) previous: Option<PreviousKeySpec>,
}

/// The secret before the last rotation.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PreviousKeySpec {
    /// The name of the key that has it.
    pub(super) key: String,
    /// The end of its grace.
    pub(super) until: Offset,
}

/// One case of the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CaseSpec {
    /// One sentence: what must hold.
    pub(super) name: String,
    /// The time, in seconds since 1970. Default: the file's.
    pub(super) now: Option<u64>,
    #[serde(default)]
    pub(super) request: RequestSpec,
    #[serde(default)]
    pub(super) token: TokenSpec,
    #[serde(default)]
    pub(super) proof: ProofSpec,
    /// Requests that were decided before, in order.
    #[serde(default)]
    pub(super) earlier: Vec<EarlierSpec>,
    /// Revocations that are in force.
    #[serde(default)]
    pub(super) revoked: Vec<RevokedSpec>,
    /// Bans, some of which may have ended.
    #[serde(default)]
    pub(super) banned: Vec<BannedSpec>,
    /// The outage of the store. Default: none.
    pub(super) outage: Option<OutageName>,
    /// The decision that is expected; `explain` does not need it.
    pub(super) expect: Option<Expectation>,
}

/// A request that was decided before. Omitted fields are those of the case's own request.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EarlierSpec {
    /// The number of times it was sent. Default 1.
    #[serde(default = "once")]
    pub(super) times: u32,
    /// The time, such as `-10s`. Default `now`.
    #[serde(default)]
    pub(super) at: Offset,
    #[serde(default)]
    pub(super) request: RequestSpec,
    #[serde(default)]
    pub(super) token: TokenSpec,
    #[serde(default)]
    pub(super) proof: ProofSpec,
    /// The tokens that it used when its response ended. Default: the response still arrives.
    #[serde(default)]
    pub(super) used: Option<u64>,
}

fn once() -> u32 {
    1
}

/// One revocation: exactly one of `jti`, `subject`, `client`, `tenant`, `actor`, `kid`, `key`,
/// `spiffe`, `token: true`, `certificate: true` and `foreign`.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RevokedSpec {
    pub(super) jti: Option<String>,
    pub(super) subject: Option<String>,
    pub(super) client: Option<String>,
    pub(super) tenant: Option<String>,
    pub(super) actor: Option<String>,
    /// The name of a signing key of the issuer.
    pub(super) kid: Option<String>,
    /// The id of an API key; `{id:NAME}` is that of a key of the file.
    pub(super) key: Option<String>,
    /// The SPIFFE ID of a workload.
    pub(super) spiffe: Option<String>,
    /// The case's own token, by its digest.
    #[serde(default)]
    pub(super) token: bool,
    /// The case's own certificate, by its digest.
    #[serde(default)]
    pub(super) certificate: bool,
    /// A whole key in the denylist of another service.
    pub(super) foreign: Option<String>,
    /// The `iss` of the revoked credential. Default: that of the case's token.
    pub(super) issuer: Option<String>,
    /// The time until which tokens are revoked (`subject`, `client`, `tenant`, `actor`, `spiffe`).
    /// Default `now`.
    #[serde(default)]
    pub(super) at: Offset,
}

/// One ban: exactly one of `subject`, `client`, `tenant`, `network`, `key` and `actor`.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BannedSpec {
    pub(super) subject: Option<String>,
    pub(super) client: Option<String>,
    pub(super) tenant: Option<String>,
    /// An address or a network.
    pub(super) network: Option<String>,
    /// Whether the ban of the network began by itself.
    #[serde(default)]
    pub(super) automatic: bool,
    /// The id of an API key; `{id:NAME}` is that of a key of the file.
    pub(super) key: Option<String>,
    pub(super) actor: Option<String>,
    /// The issuer of the banned subject, client or actor. Default: that of the case's token.
    pub(super) issuer: Option<String>,
    /// The moment when the ban ends. Default: when it is lifted.
    pub(super) until: Option<Offset>,
}

/// A request. Every field is optional.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RequestSpec {
    /// The method, by default `GET`.
    pub(super) method: Option<String>,
    /// Default `https`; an empty text means that the proxy does not report it.
    pub(super) scheme: Option<String>,
    /// The host, by default `api.example.com`.
    pub(super) host: Option<String>,
    /// With the query. Default `/`. `{token}` is replaced by the token.
    pub(super) path: Option<String>,
    /// A map, or a list of `[name, value]` where a name may repeat; `[name, value, base64]` for
    /// bytes that are not text. A name replaces the same name of the defaults. `{token}` in a value
    /// is replaced by the token.
    pub(super) headers: HeaderList,
    /// Headers of the defaults that are not sent.
    pub(super) headers_without: Vec<String>,
    /// The body as text.
    pub(super) body: Option<String>,
    /// The body as base64.
    pub(super) body_base64: Option<Bytes>,
    /// `absent`: there is no body, whatever the defaults contain. `cut`: the proxy truncated it.
    pub(super) body_is: Option<BodyState>,
    /// The client's address as the proxy reports it; `none` for no address.
    pub(super) address: Option<Address>,
    /// The certificate of the client in PEM, as Envoy reports it. Default: none.
    pub(super) certificate: Option<String>,
    /// Whether the proxy joined repeated headers with a comma. Default false.
    pub(super) joined_headers: Option<bool>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum BodyState {
    Absent,
    Cut,
}

impl RequestSpec {
    /// Returns this request, completed from `base`.
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
            certificate: self.certificate.clone().or_else(|| base.certificate.clone()),
            joined_headers: self.joined_headers.or(base.joined_headers),
        }
    }
}

/// The token of a request.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TokenSpec {
    /// No token is sent, whatever the defaults contain.
    pub(super) none: Option<bool>,
    /// The token as text.
    pub(super) raw: Option<String>,
    /// The name of an API key.
    pub(super) api_key: Option<String>,
    /// The name of the signing key.
    pub(super) key: Option<String>,
    /// An algorithm to sign with instead of the key's. The header names it too, unless it is
    /// replaced.
    pub(super) alg: Option<String>,
    /// Header members to add or replace. The key gives `alg` and `kid`, and `typ` is `JWT`. The
    /// text `{jwk:NAME}` is replaced by the public JWK of a key.
    pub(super) header: Map<String, Value>,
    pub(super) header_without: Vec<String>,
    /// The header as text, instead.
    pub(super) header_text: Option<String>,
    /// Claims to add or replace. In `exp`, `nbf`, `iat` and `auth_time`, values such as `now` and
    /// `+5m` are times. The text `{jkt:NAME}` in `cnf` is replaced by the thumbprint of a key.
    pub(super) claims: Map<String, Value>,
    pub(super) claims_without: Vec<String>,
    /// The claims as text, instead; `<+5m>` is replaced by a time.
    pub(super) claims_text: Option<String>,
    /// The claims as bytes that are not text, instead.
    pub(super) claims_base64: Option<Bytes>,
    /// Adds a claim `filler` with this number of characters.
    pub(super) filler: Option<usize>,
    /// The signature. Default: that of the key.
    pub(super) sign: Option<SigningMethod>,
    /// Changes to the signed token, in order.
    pub(super) tamper: Vec<Tamper>,
    /// The `Authorization` headers to send; `{token}` is replaced by the token. Default `[Bearer
    /// {token}]`.
    pub(super) authorization: Option<Vec<String>>,
}

impl TokenSpec {
    /// Returns this token, completed from `base`; claims and header member by member.
    pub(super) fn or_defaults(&self, base: &Self) -> Self {
        let own = self.raw.is_some() || self.key.is_some() || self.api_key.is_some();
        let choose =
            |own: &Option<String>, base: &Option<String>| own.clone().or_else(|| base.clone());
        let list =
            |own: &Vec<String>, base: &Vec<String>| base.iter().chain(own).cloned().collect();
        Self {
            none: self.none.or(base.none.filter(|_| !own)),
            raw: if self.key.is_some() || self.api_key.is_some() {
                None
            } else {
                choose(&self.raw, &base.raw)
            },
            api_key: if self.key.is_some() || self.raw.is_some() {
                self.api_key.clone()
            } else {
                choose(&self.api_key, &base.api_key)
            },
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

/// The proof of a request (DPoP): a JWT for its method, its URI and its token, in the header `DPoP`.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ProofSpec {
    /// No proof is sent, whatever the defaults contain.
    pub(super) none: Option<bool>,
    /// The proof as text.
    pub(super) raw: Option<String>,
    /// The name of the client's key. Its public JWK is in the header.
    pub(super) key: Option<String>,
    /// An algorithm to sign with instead of the key's.
    pub(super) alg: Option<String>,
    /// Header members to add or replace. `typ` is `dpop+jwt`, and `jwk` the public JWK of the key;
    /// `{jwk:NAME}` is that of another one.
    pub(super) header: Map<String, Value>,
    pub(super) header_without: Vec<String>,
    /// Claims to add or replace. `htm` and `htu` are those of the request with `https`, `iat` is now,
    /// `ath` the hash of the token, and `jti` the same for every proof.
    pub(super) claims: Map<String, Value>,
    pub(super) claims_without: Vec<String>,
    /// A nonce of the policy's secrets. Default: none.
    pub(super) nonce: Option<NonceState>,
    /// Adds a claim `filler` with this number of characters.
    pub(super) filler: Option<usize>,
    /// The signature. Default: that of the key.
    pub(super) sign: Option<SigningMethod>,
    /// Changes to the signed proof, in order.
    pub(super) tamper: Vec<Tamper>,
    /// The `DPoP` headers to send; `{proof}` is replaced by the proof. Default `["{proof}"]`.
    pub(super) headers: Option<Vec<String>>,
}

/// The state of a nonce.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum NonceState {
    /// It is accepted.
    Current,
    /// It is accepted, and about to lapse.
    Lapsing,
    /// It is not accepted any more.
    Lapsed,
}

impl ProofSpec {
    /// Returns this proof, completed from `base`; claims and header member by member.
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
            claims: merged(&base.claims, &self.claims),
            claims_without: list(&self.claims_without, &base.claims_without),
            nonce: self.nonce.or(base.nonce),
            filler: self.filler.or(base.filler),
            sign: self.sign.or(base.sign),
            tamper: base.tamper.iter().chain(&self.tamper).cloned().collect(),
            headers: self.headers.clone().or_else(|| base.headers.clone()),
        }
    }
}

/// The kinds of signature.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum SigningMethod {
    /// A signature with the key.
    Key,
    /// HMAC-SHA256 under the key's public half, as PEM: the classical confusion of RS256 and HS256.
    HmacPublicPem,
    /// HMAC-SHA256 under the key's public half, as DER.
    HmacPublicDer,
    /// HMAC-SHA256 under an empty secret.
    HmacEmpty,
    /// An empty signature.
    Empty,
}

/// The kinds of changes to a signed token.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Tamper {
    /// Changes the first byte of the signature.
    FlipSignature,
    /// Replaces every byte of the signature by 0.
    ZeroSignature,
    /// Removes the last byte of the signature.
    ShortenSignature,
    /// Leaves `header.payload`, without the second dot.
    DropSignature,
    /// Adds `=` to the signature.
    PadSignature,
    /// Sets bits in the signature's last character that decoders ignore.
    StrayBits,
    /// Replaces the header after signing.
    SwapHeader(Map<String, Value>),
    /// Adds or replaces claims after signing.
    SwapClaims(Map<String, Value>),
    /// Makes the token the payload of another one, signed with the same key.
    Nest,
    /// Appends text, this number of times.
    Append { text: String, times: usize },
}
