//! A case file: it is read, its policy compiled, its keys made, and its cases completed from the
//! defaults.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;
use tollgate_core::{
    config::{ConfigError, Document, Errors, Path},
    credential::{
        api_key::{ISSUER, KeyTable, PREFIX},
        certificate::{Authorities, digest_of, trust_domain_of},
        dpop::NonceKeys,
        introspection::{OpaqueToken, TokenDigest},
        jwt::{
            issuer::{Issuer, KeySource},
            key_set::{KeySet, KeySetError, SkippedKey},
        },
    },
    limit::reservation::{MIN_SECRET, ReservationKeys},
    policy::Policy,
    revocation::{Target, sha256, token_digest},
    secret::{Secret, SecretSource},
    snapshot::Snapshot,
    time::Timestamp,
};

use super::{
    Banned, Body, Case, CaseError, Earlier, Request, Revoked,
    api_keys::ApiKeys,
    keys::Keys,
    mint,
    proof::{self, ProofContext},
    spec::{
        BannedSpec, BodyState, CaseSpec, EarlierSpec, FileSpec, ProofSpec, RequestSpec,
        RevokedSpec, StatementSpec, TokenSpec,
    },
    values::Bytes,
};

/// The keys of an issuer and the keys that are skipped, or the reason why none is usable.
pub(crate) type ParsedKeySet = Result<(KeySet, Vec<SkippedKey>), KeySetError>;

/// The time of a file without `now`: 2026-01-01T00:00:00Z.
const NOW: Timestamp = Timestamp::from_secs(1_767_225_600);

/// A case file with its compiled policy and its keys.
pub struct CaseFile {
    spec: FileSpec,
    policy: Option<Arc<Policy>>,
    keys: Keys,
    api_keys: ApiKeys,
    lines: Vec<Option<u64>>,
}

impl CaseFile {
    /// Reads a case file, compiles its policy and makes its keys.
    ///
    /// # Errors
    /// Returns all errors at once, with lines.
    pub fn parse(text: &str) -> Result<Self, Vec<ConfigError>> {
        let secrets = RefCell::new(HashMap::new());
        let document = Document::parse(text, &|name| secret(&mut secrets.borrow_mut(), name))?;
        let spec: FileSpec = document.read()?;
        let root = Path::root();
        let mut errors = Errors::default();
        let keys = Keys::make(&spec.keys, &root.key("keys"), &mut errors);
        let mut of_policy = Errors::default();
        let policy = spec
            .config
            .as_ref()
            .and_then(|config| Policy::compile(config, &mut of_policy))
            .map(Arc::new);
        if let Some(policy) = &policy {
            for (name, issuer) in keys.issuers() {
                if !policy.issuers.list().iter().any(|known| spelled(known) == issuer) {
                    errors.push(
                        &root.key("keys").key(name).key("issuer"),
                        format!("the policy has no issuer `{issuer}`"),
                    );
                }
            }
        }
        let now = spec.now.map_or(NOW, Timestamp::from_secs);
        let api_keys = ApiKeys::make(
            &spec.api_keys,
            policy.as_deref(),
            now,
            &root.key("api_keys"),
            &mut errors,
        );
        let lines = (0..spec.cases.len())
            .map(|index| document.line(&root.key("cases").index(index)))
            .collect();
        let file = Self { spec, policy, keys, api_keys, lines };
        for (index, spec) in file.spec.cases.iter().enumerate() {
            errors.take(&root.key("cases").index(index), file.case(index, spec, None).map(drop));
        }
        let mut all = document.locate(of_policy.under("config"));
        all.extend(document.locate(errors));
        if all.is_empty() { Ok(file) } else { Err(all) }
    }

    /// The file's own policy.
    pub fn policy(&self) -> Option<&Arc<Policy>> {
        self.policy.as_ref()
    }

    /// Returns the key set that an issuer of the policy publishes, as JSON; `None` when no key of
    /// the file names the issuer. `issuer` is spelled as in the policy.
    pub fn jwks(&self, issuer: &str) -> Option<String> {
        self.keys.jwks(issuer).map(|jwks| jwks.to_string())
    }

    /// The table of the file's API keys.
    pub fn api_keys(&self) -> &KeyTable {
        &self.api_keys.table
    }

    /// Returns the file's policy with its keys. An issuer whose set has no usable key has none, as
    /// after a failed fetch.
    ///
    /// # Errors
    /// Returns [`CaseError`] where there is no policy, or where a secret of it is in a file or too
    /// short.
    pub fn snapshot(&self) -> Result<Snapshot, CaseError> {
        let policy = self.policy.as_ref().ok_or(CaseError::NoPolicy)?;
        let mut snapshot = Snapshot::without_keys(Arc::clone(policy));
        for (slot, issuer) in snapshot.keys.iter_mut().zip(policy.issuers.list()) {
            let set = self.key_set(issuer)?.and_then(Result::ok);
            *slot = set.map(|(set, _)| Arc::new(set));
        }
        for table in &mut snapshot.api_keys {
            *table = Some(Arc::new(self.api_keys.table.clone()));
        }
        snapshot.reservation_keys = stand_in_keys(policy);
        snapshot.nonce_keys = stand_in_nonce_keys(policy);
        snapshot.statements = Arc::new(self.statements(policy)?);
        let section = policy.client_certificates.as_ref();
        if let Some(source) = section.and_then(|section| section.authorities.as_ref()) {
            let authorities = Authorities::from_pem(inline(source)?.expose())?;
            snapshot.authorities = Some(Arc::new(authorities));
        }
        for source in &policy.upstream_keys {
            let key = [b"Bearer ", inline(source)?.expose()].concat();
            snapshot.upstream_keys.push(Some(Secret::new(key)));
        }
        Ok(snapshot)
    }

    /// Returns what the endpoints of issuers answer about the opaque tokens of the file.
    ///
    /// # Errors
    /// Returns [`CaseError`] for a token that no issuer of the policy introspects.
    pub fn statements(&self, policy: &Policy) -> Result<BTreeMap<TokenDigest, String>, CaseError> {
        let now = self.spec.now.map_or(NOW, Timestamp::from_secs);
        let statement = |spec: &StatementSpec| {
            let token = OpaqueToken::new(spec.token.as_bytes());
            let (_, digest) = token
                .identify(&policy.issuers)
                .ok_or_else(|| CaseError::NotIntrospected(spec.token.clone()))?;
            let answer = match &spec.text {
                Some(text) => text.clone(),
                None => Value::Object(mint::stated(&spec.answer, &self.keys, now)?).to_string(),
            };
            Ok((digest, answer))
        };
        self.spec.introspection.iter().map(statement).collect()
    }

    /// Returns the keys of one issuer and the keys that are skipped, or the reason why none of them
    /// is usable; `None` if this file has no keys of the issuer.
    ///
    /// # Errors
    /// Returns [`CaseError`] for a shared secret that is in a file or too short.
    pub fn key_set(&self, issuer: &Issuer) -> Result<Option<ParsedKeySet>, CaseError> {
        match &issuer.source {
            KeySource::Secret(source) => {
                let set = KeySet::from_secret(inline(source)?, &issuer.algorithms)?;
                Ok(Some(Ok((set, Vec::new()))))
            }
            KeySource::Unsigned => {
                Ok(Some(Ok((KeySet::from_secret(&Secret::new(""), &[])?, Vec::new()))))
            }
            KeySource::Jwks(_) => Ok(self
                .jwks(spelled(issuer))
                .map(|jwks| KeySet::of_issuer(&issuer.name, jwks.as_bytes(), &issuer.algorithms))),
        }
    }

    /// Returns every case, with tokens made for its time, or for `now`.
    ///
    /// # Errors
    /// Returns [`CaseError`] for a token that cannot be made; [`Self::parse`] has found it before.
    pub fn cases(&self, now: Option<Timestamp>) -> Result<Vec<Case>, CaseError> {
        self.spec
            .cases
            .iter()
            .enumerate()
            .map(|(index, spec)| self.case(index, spec, now))
            .collect()
    }

    fn case(
        &self,
        index: usize,
        spec: &CaseSpec,
        now: Option<Timestamp>,
    ) -> Result<Case, CaseError> {
        let now = now.or(spec.now.or(self.spec.now).map(Timestamp::from_secs)).unwrap_or(NOW);
        let base = &self.spec.defaults;
        let (sent, credential) =
            (spec.request.or_defaults(&base.request), spec.token.or_defaults(&base.token));
        let proof = spec.proof.or_defaults(&base.proof);
        let (request, token) = self.request(&sent, &credential, &proof, now)?;
        let revoked = spec
            .revoked
            .iter()
            .map(|spec| {
                let with_ids =
                    |id: &Option<String>| id.as_deref().map(|id| self.api_keys.with_ids(id));
                let (jti, key) = (with_ids(&spec.jti), with_ids(&spec.key));
                let spec = RevokedSpec { jti, key, ..spec.clone() };
                let sent = SentCredential {
                    token: token.as_deref(),
                    certificate: &request.certificate,
                    issuer: mint::issuer(&credential),
                };
                revoked(&spec, sent, now)
            })
            .collect::<Result<_, _>>()?;
        let banned = spec
            .banned
            .iter()
            .map(|spec| {
                let key = spec.key.as_deref().map(|key| self.api_keys.with_ids(key));
                let spec = BannedSpec { key, ..spec.clone() };
                Banned::of(&spec, mint::issuer(&credential), now)
            })
            .collect::<Result<_, _>>()?;
        let earlier = spec
            .earlier
            .iter()
            .map(|spec| self.earlier(spec, (&sent, &credential, &proof), now))
            .collect::<Result<_, _>>()?;
        Ok(Case {
            name: spec.name.clone(),
            line: self.lines.get(index).copied().flatten(),
            now,
            request,
            token,
            earlier,
            revoked,
            banned,
            outage: spec.outage.map(|word| word.0),
            expect: spec.expect.clone(),
        })
    }

    fn earlier(
        &self,
        spec: &EarlierSpec,
        (sent, credential, proof): (&RequestSpec, &TokenSpec, &ProofSpec),
        now: Timestamp,
    ) -> Result<Earlier, CaseError> {
        let at = spec.at.from(now);
        let (request, _) = self.request(
            &spec.request.or_defaults(sent),
            &spec.token.or_defaults(credential),
            &spec.proof.or_defaults(proof),
            now,
        )?;
        Ok(Earlier { times: spec.times, at, request, used: spec.used })
    }

    fn request(
        &self,
        spec: &RequestSpec,
        credential: &TokenSpec,
        proof: &ProofSpec,
        now: Timestamp,
    ) -> Result<(Request, Option<String>), CaseError> {
        let token = mint::mint(credential, &self.keys, &self.api_keys, now)?;
        let filled = |text: &str| {
            token.as_ref().map_or_else(|| text.to_owned(), |token| text.replace("{token}", token))
        };
        let mut headers: Vec<(String, Vec<u8>)> = Vec::new();
        for (name, value) in &spec.headers.0 {
            let value = std::str::from_utf8(value)
                .map_or_else(|_| value.clone(), |text| filled(text).into_bytes());
            headers.push((name.clone(), value));
        }
        let own = vec!["Bearer {token}".to_owned()];
        let credentials = credential.authorization.as_ref().or(token.as_ref().map(|_| &own));
        headers.extend(
            credentials
                .into_iter()
                .flatten()
                .map(|text| ("authorization".to_owned(), filled(text).into_bytes())),
        );
        let context = ProofContext {
            keys: &self.keys,
            api_keys: &self.api_keys,
            policy: self.policy.as_deref(),
            now,
        };
        let proofs = proof::headers(proof, spec, token.as_deref(), context)?;
        headers.extend(proofs.into_iter().map(|text| ("dpop".to_owned(), text.into_bytes())));
        let joined = spec.joined_headers.unwrap_or(false);
        let repeated = headers
            .iter()
            .enumerate()
            .any(|(at, (name, _))| headers.iter().take(at).any(|(other, _)| other == name));
        if joined && repeated {
            return Err(CaseError::JoinedHeaders);
        }
        let body = match (spec.body_is, &spec.body, &spec.body_base64) {
            (None, None, None) | (Some(BodyState::Absent), None, None) => Body::Absent,
            (Some(BodyState::Cut), None, None) => Body::Cut,
            (None, Some(text), None) => Body::Whole(text.clone().into_bytes()),
            (None, None, Some(Bytes(bytes))) => Body::Whole(bytes.clone()),
            _ => return Err(CaseError::BodyForms),
        };
        let or = |text: &Option<String>, default: &str| {
            text.clone().unwrap_or_else(|| default.to_owned())
        };
        let request = Request {
            method: or(&spec.method, "GET"),
            scheme: or(&spec.scheme, "https"),
            host: or(&spec.host, "api.example.com"),
            path: filled(&or(&spec.path, "/")),
            headers,
            joined,
            address: spec.address.and_then(|address| address.0),
            certificate: spec.certificate.clone().unwrap_or_default(),
            body,
        };
        Ok((request, token))
    }
}

/// Returns an issuer as the policy spells it.
fn spelled(issuer: &Issuer) -> &str {
    if issuer.name.is_empty() { "absent" } else { &issuer.name }
}

fn inline(source: &SecretSource) -> Result<&Secret, CaseError> {
    match source {
        SecretSource::Inline(secret) => Ok(secret),
        SecretSource::File(path) => Err(CaseError::SecretInFile(path.clone())),
    }
}

/// Returns the value of `${NAME_SECRET}`: random text, the same for every use of the name in the
/// file.
fn secret(made: &mut HashMap<String, String>, name: &str) -> Option<String> {
    if !name.ends_with("_SECRET") {
        return None;
    }
    if let Some(text) = made.get(name) {
        return Some(text.clone());
    }
    let mut bytes = [0; 48];
    SystemRandom::new().fill(&mut bytes).ok()?;
    Some(made.entry(name.to_owned()).or_insert(STANDARD.encode(bytes)).clone())
}

/// Returns the digest that a credential is revoked by: a key as a whole, a token without its
/// signature.
fn digest(token: &str) -> [u8; 32] {
    if token.starts_with(PREFIX) { sha256(token.as_bytes()) } else { token_digest(token) }
}

/// What a case sends, as far as revocations refer to it.
#[derive(Clone, Copy)]
struct SentCredential<'a> {
    token: Option<&'a str>,
    /// The certificate in PEM; empty if there is none.
    certificate: &'a str,
    /// The issuer that the token names.
    issuer: &'a str,
}

fn revoked(
    spec: &RevokedSpec,
    sent: SentCredential<'_>,
    now: Timestamp,
) -> Result<Revoked, CaseError> {
    let issuer = || spec.issuer.clone().unwrap_or_else(|| sent.issuer.to_owned());
    let domain = |id: &str| trust_domain_of(id).map(str::to_owned).unwrap_or_default();
    let mut found = Vec::new();
    found.extend(spec.jti.clone().map(|jti| Target::Jti { issuer: issuer(), jti }));
    found.extend(spec.subject.clone().map(|subject| Target::Subject { issuer: issuer(), subject }));
    found.extend(spec.client.clone().map(|client| Target::Client { issuer: issuer(), client }));
    found.extend(spec.tenant.clone().map(|tenant| Target::Tenant { tenant }));
    found.extend(spec.actor.clone().map(|actor| Target::Actor { issuer: issuer(), actor }));
    found.extend(spec.kid.clone().map(|kid| Target::Kid { issuer: issuer(), kid }));
    found.extend(spec.key.clone().map(|jti| Target::Jti { issuer: ISSUER.to_owned(), jti }));
    found
        .extend(spec.spiffe.clone().map(|id| Target::Subject { issuer: domain(&id), subject: id }));
    let token = sent.token.filter(|_| spec.token);
    found.extend(token.map(|token| Target::Token { sha256: digest(token) }));
    let certificate = Some(sent.certificate).filter(|_| spec.certificate);
    let certificate = certificate.and_then(|text| digest_of(text.as_bytes()));
    found.extend(certificate.map(|(sha256, _)| Target::Token { sha256 }));
    match (<[Target; 1]>::try_from(found), &spec.foreign) {
        (Ok([target]), None) => Ok(Revoked::Target { target, at: spec.at.from(now) }),
        (Err(none), Some(key)) if none.is_empty() => Ok(Revoked::ExternalDenylist(key.clone())),
        _ => Err(CaseError::Revocation),
    }
}

/// The secret of nonces of a policy, where no other process makes them: any secret will do.
pub(crate) fn stand_in_nonce_keys(policy: &Policy) -> Option<Arc<NonceKeys>> {
    policy.dpop.as_ref()?.nonce.as_ref()?;
    NonceKeys::new(vec![Secret::new(vec![0; MIN_SECRET])]).ok().map(Arc::new)
}

/// The secret of reservations of a policy, where no proxy reads them: any secret will do.
pub(crate) fn stand_in_keys(policy: &Policy) -> Option<Arc<ReservationKeys>> {
    policy.metering.as_ref()?;
    ReservationKeys::new(vec![Secret::new(vec![0; MIN_SECRET])]).ok().map(Arc::new)
}
