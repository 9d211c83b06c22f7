//! Revocation: what can be revoked, and under which key a store finds it.

use std::sync::Arc;

use aws_lc_rs::digest;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::{Errors, Path};

/// The section `revocation`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RevocationConfig {
    /// Keys of a blacklist that another service keeps in the same Redis: a credential is revoked while the key exists.
    /// `{jti}`, `{sub}` and `{token_sha256}` are filled in. Needs a single Redis (no cluster); default: none.
    #[serde(default)]
    pub foreign: Vec<String>,
}

/// What a revocation names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// One token, by issuer and token id.
    Jti {
        /// The token's `iss`, empty for tokens without one.
        issuer: String,
        /// The token's `jti`.
        jti: String,
    },
    /// Every token of a subject issued until the revocation's moment.
    Subject {
        /// The tokens' `iss`.
        issuer: String,
        /// The subject.
        subject: String,
    },
    /// Every token of a client issued until the revocation's moment.
    Client {
        /// The tokens' `iss`.
        issuer: String,
        /// The client id.
        client: String,
    },
    /// Every token of a tenant, of whatever issuer, issued until the revocation's moment.
    Tenant {
        /// The tenant.
        tenant: String,
    },
    /// One token, by [`token_digest`]: for tokens without `jti`.
    Token {
        /// The digest.
        sha256: [u8; 32],
    },
}

impl Target {
    /// The key below `{tollgate}:revoked:`. Everything a client or an issuer controls is hashed.
    pub fn key(&self) -> String {
        match self {
            Self::Jti { issuer, jti } => format!("jti:{}:{}", sha256_hex(issuer), sha256_hex(jti)),
            Self::Subject { issuer, subject } => format!("subject:{}:{}", sha256_hex(issuer), sha256_hex(subject)),
            Self::Client { issuer, client } => format!("client:{}:{}", sha256_hex(issuer), sha256_hex(client)),
            Self::Tenant { tenant } => format!("tenant:{}", sha256_hex(tenant)),
            Self::Token { sha256 } => format!("token:{}", hex(sha256)),
        }
    }

    /// Whether the entry revokes what was issued until a moment (and not one token for good).
    pub const fn is_before(&self) -> bool {
        matches!(self, Self::Subject { .. } | Self::Client { .. } | Self::Tenant { .. })
    }

    /// The word for the kind: `jti`, `subject`, `client`, `tenant`, `token`.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Jti { .. } => "jti",
            Self::Subject { .. } => "subject",
            Self::Client { .. } => "client",
            Self::Tenant { .. } => "tenant",
            Self::Token { .. } => "token",
        }
    }
}

/// The keys under which one credential could be revoked: digests, computed once, when it is verified, and written out where a
/// store asks for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// Hex SHA-256 of `iss`, one for all tokens of an issuer.
    issuer: Arc<str>,
    token: [u8; 32],
    jti: Option<[u8; 32]>,
    subject: [u8; 32],
    client: Option<[u8; 32]>,
    tenant: Option<[u8; 32]>,
    /// The credential's `iat` in whole seconds; 0 when it has none, so that every T revokes it.
    pub issued_at: u64,
    /// Whole keys of other services' blacklists.
    pub foreign: Vec<String>,
}

/// What a credential can be revoked by, before it is hashed.
#[derive(Clone, Copy, Debug)]
pub struct Names<'a> {
    /// [`issuer_digest`] of its issuer.
    pub issuer: &'a Arc<str>,
    /// Its [`token_digest`].
    pub token: [u8; 32],
    /// Its `jti`.
    pub jti: Option<&'a str>,
    /// Its subject.
    pub subject: &'a str,
    /// Its client.
    pub client: Option<&'a str>,
    /// Its tenant.
    pub tenant: Option<&'a str>,
}

impl Keys {
    /// The keys of a credential issued at `issued_at` (seconds; 0 when it does not say).
    pub fn new(names: Names<'_>, issued_at: u64, foreign: Vec<String>) -> Self {
        let digest = |text: &str| sha256(text.as_bytes());
        Self {
            issuer: Arc::clone(names.issuer),
            token: names.token,
            jti: names.jti.map(digest),
            subject: digest(names.subject),
            client: names.client.map(digest),
            tenant: names.tenant.map(digest),
            issued_at,
            foreign,
        }
    }

    /// Hex SHA-256 of the credential's `iss`.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// SHA-256 of its subject.
    pub fn subject(&self) -> &[u8; 32] {
        &self.subject
    }

    /// SHA-256 of its client.
    pub fn client(&self) -> Option<&[u8; 32]> {
        self.client.as_ref()
    }

    /// SHA-256 of its tenant.
    pub fn tenant(&self) -> Option<&[u8; 32]> {
        self.tenant.as_ref()
    }

    /// SHA-256 of the credential's `jti`.
    pub fn jti_digest(&self) -> Option<&[u8; 32]> {
        self.jti.as_ref()
    }

    /// Entries that revoke by existing: kind and key below `{tollgate}:revoked:`, as [`Target::key`] writes it.
    pub fn exact(&self) -> impl Iterator<Item = (&'static str, String)> {
        self.exact_marks().map(|mark| (mark.kind, mark.key()))
    }

    /// Entries that hold a moment T in seconds and revoke what was issued at T or before: kind and key, as for
    /// [`Keys::exact`].
    pub fn before(&self) -> impl Iterator<Item = (&'static str, String)> {
        self.before_marks().map(|mark| (mark.kind, mark.key()))
    }

    /// As [`Keys::exact`], before they are written out.
    pub fn exact_marks(&self) -> impl Iterator<Item = Mark<'_>> {
        let token = Mark { kind: "token", issuer: None, digest: &self.token };
        std::iter::once(token).chain(self.jti.as_ref().map(|jti| self.of_issuer("jti", jti)))
    }

    /// As [`Keys::before`], before they are written out.
    pub fn before_marks(&self) -> impl Iterator<Item = Mark<'_>> {
        let subject = self.of_issuer("subject", &self.subject);
        let client = self.client.as_ref().map(|client| self.of_issuer("client", client));
        let tenant = self.tenant.as_ref().map(|digest| Mark { kind: "tenant", issuer: None, digest });
        std::iter::once(subject).chain(client).chain(tenant)
    }

    fn of_issuer<'a>(&'a self, kind: &'static str, digest: &'a [u8; 32]) -> Mark<'a> {
        Mark { kind, issuer: Some(&self.issuer), digest }
    }
}

/// One entry that would revoke a credential.
#[derive(Clone, Copy, Debug)]
pub struct Mark<'a> {
    kind: &'static str,
    issuer: Option<&'a str>,
    digest: &'a [u8; 32],
}

impl Mark<'_> {
    /// The word for its kind: see [`Target::kind`].
    pub const fn kind(self) -> &'static str {
        self.kind
    }

    /// Its key, as [`Target::key`] writes it.
    pub fn key(self) -> String {
        let mut key = Vec::with_capacity(8 + 2 * 65);
        self.write(&mut key);
        // Words and hex, which are text.
        String::from_utf8(key).unwrap_or_default()
    }

    /// Appends its key.
    pub fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.kind.as_bytes());
        out.push(b':');
        if let Some(issuer) = self.issuer {
            out.extend_from_slice(issuer.as_bytes());
            out.push(b':');
        }
        out.extend_from_slice(hex_digits(self.digest).as_flattened());
    }

    /// The fingerprint of its key.
    pub fn fingerprint(self) -> Option<Fingerprint> {
        let mut print = Fingerprint::start(self.kind)?;
        if let Some(issuer) = self.issuer {
            print = print.fold(hex_halves(issuer)?);
        }
        let ([first, second, ..], _) = self.digest.as_chunks::<8>() else { return None };
        Some(print.fold([u64::from_be_bytes(*first), u64::from_be_bytes(*second)]))
    }
}

/// Hex SHA-256 of an `iss`, as it stands in keys.
pub fn issuer_digest(issuer: &str) -> Arc<str> {
    sha256_hex(issuer).into()
}

/// A key of a revocation in sixteen bytes, for tables of millions: of each hash in it the first half, folded. To find a second
/// key with the same one takes 2^128 hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint([u64; 2]);

impl Fingerprint {
    /// The fingerprint of a key as [`Target::key`] writes it; `None` for other text, which revokes no credential.
    pub fn of(key: &str) -> Option<Self> {
        let (kind, digests) = key.split_once(':')?;
        digests.split(':').try_fold(Self::start(kind)?, |print, digest| Some(print.fold(hex_halves(digest)?)))
    }

    fn start(kind: &str) -> Option<Self> {
        let kind: u64 = match kind {
            "jti" => 1,
            "token" => 2,
            "subject" => 3,
            "client" => 4,
            "tenant" => 5,
            _ => return None,
        };
        // An odd multiplier spreads the kinds over all bits: they must differ also after being turned.
        Some(Self([kind.wrapping_mul(0x9e37_79b9_7f4a_7c15), kind.wrapping_mul(0xf39c_c060_5ced_c835)]))
    }

    /// Adds the first half of a digest.
    const fn fold(self, [first, second]: [u64; 2]) -> Self {
        let Self([high, low]) = self;
        Self([low.rotate_left(23) ^ first, high.rotate_left(41) ^ second])
    }

    /// Its two halves, each as good as random.
    pub const fn halves(self) -> [u64; 2] {
        self.0
    }
}

/// The first sixteen bytes of a digest in hex.
fn hex_halves(digest: &str) -> Option<[u64; 2]> {
    let half = |from: usize| u64::from_str_radix(digest.get(from..from + 16)?, 16).ok();
    Some([half(0)?, half(16)?])
}

/// A compiled `revocation.foreign` pattern.
#[derive(Clone, Debug)]
pub struct Foreign(String);

impl Foreign {
    /// Compiles the patterns.
    pub fn compile(config: &RevocationConfig, path: &Path, errors: &mut Errors) -> Vec<Self> {
        let path = path.key("foreign");
        let mut patterns = Vec::new();
        for (index, pattern) in config.foreign.iter().enumerate() {
            let bare = pattern.replace("{jti}", "").replace("{sub}", "").replace("{token_sha256}", "");
            if bare.len() == pattern.len() || bare.contains(['{', '}']) {
                let message = format!(
                    "`{pattern}` must hold `{{jti}}`, `{{sub}}` or `{{token_sha256}}` and no other braces, such as `blacklist:{{jti}}`"
                );
                errors.push(&path.index(index), message);
            } else {
                patterns.push(Self(pattern.clone()));
            }
        }
        patterns
    }

    /// Whether the pattern needs the token's `jti`.
    pub fn needs_jti(&self) -> bool {
        self.0.contains("{jti}")
    }

    /// The key for one credential; `None` when it has no `jti` and the pattern needs one.
    pub fn key(&self, jti: Option<&str>, subject: &str, token: &[u8; 32]) -> Option<String> {
        // One pass over the pattern: what is filled in is never itself searched for placeholders.
        let mut key = String::new();
        let mut rest = self.0.as_str();
        while let Some(open) = rest.find('{') {
            let (before, from) = rest.split_at(open);
            key.push_str(before);
            let (name, after) = from.split_once('}')?;
            match name {
                "{jti" => key.push_str(jti?),
                "{sub" => key.push_str(subject),
                _ => key.push_str(&hex(token)),
            }
            rest = after;
        }
        key.push_str(rest);
        Some(key)
    }
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    push_hex(&mut text, bytes);
    text
}

/// Appends lower-case hex.
pub fn push_hex(text: &mut String, bytes: &[u8]) {
    let (chunks, rest) = bytes.as_chunks::<16>();
    for digits in chunks.iter().map(hex_digits) {
        // Digits are ASCII, so this does not fail, here and below.
        text.push_str(std::str::from_utf8(digits.as_flattened()).unwrap_or_default());
    }
    for digits in rest.iter().map(|byte| hex_digits(&[*byte])) {
        text.push_str(std::str::from_utf8(digits.as_flattened()).unwrap_or_default());
    }
}

/// Two digits for each byte, in lower case.
fn hex_digits<const N: usize>(bytes: &[u8; N]) -> [[u8; 2]; N] {
    let digit = |nibble: u8| nibble + if nibble < 10 { b'0' } else { b'a' - 10 };
    bytes.map(|byte| [digit(byte >> 4), digit(byte & 15)])
}

/// SHA-256 of some bytes.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}

/// The digest a token is revoked by: SHA-256 of its signed part (header and payload), which no one can rewrite.
pub fn token_digest(token: &str) -> [u8; 32] {
    sha256(token.rsplit_once('.').map_or(token, |(signed, _)| signed).as_bytes())
}

fn sha256_hex(text: &str) -> String {
    hex(&sha256(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_hashed_part_by_part() {
        let key = Target::Jti { issuer: "https://a".into(), jti: "x:y\r\n*".into() }.key();
        let expected = "jti:efecb25e86793df1d8ba8b6d2fb5a2cdaa4d2dd6a7e1a7e8a6ee25d9b3aa0d6e:";
        assert_eq!(key.len(), expected.len() + 64);
        assert!(key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b':'));
        let other = Target::Jti { issuer: "https://ax".into(), jti: ":y\r\n*".into() }.key();
        assert_ne!(key, other);
    }

    #[test]
    fn a_credential_and_a_target_meet_under_the_same_keys() {
        let names = Names {
            issuer: &issuer_digest("i"),
            token: [7; 32],
            jti: Some("j"),
            subject: "s",
            client: Some("c"),
            tenant: Some("t"),
        };
        let keys = Keys::new(names, 0, Vec::new());
        let listed: Vec<_> = keys.exact().chain(keys.before()).collect();
        let issuer = || "i".to_owned();
        let targets = [
            Target::Token { sha256: [7; 32] },
            Target::Jti { issuer: issuer(), jti: "j".into() },
            Target::Subject { issuer: issuer(), subject: "s".into() },
            Target::Client { issuer: issuer(), client: "c".into() },
            Target::Tenant { tenant: "t".into() },
        ];
        assert_eq!(listed, targets.map(|target| (target.kind(), target.key())));
        assert_eq!(keys.before().count(), 3);
        let bare = Keys::new(Names { jti: None, client: None, tenant: None, ..names }, 0, Vec::new());
        assert_eq!((bare.exact().count(), bare.before().count()), (1, 1));
        let fingerprints = |marks: Vec<Mark<'_>>| marks.into_iter().map(Mark::fingerprint).collect::<Vec<_>>();
        let of_keys: Vec<_> = listed.iter().map(|(_, key)| Fingerprint::of(key)).collect();
        assert_eq!(fingerprints(keys.exact_marks().chain(keys.before_marks()).collect()), of_keys);
        assert!(of_keys.iter().all(Option::is_some));
    }

    #[test]
    fn fingerprints_tell_keys_apart() {
        let mut seen = std::collections::HashSet::new();
        let parts = ["", "a", "b", "https://a"];
        for (one, other) in parts.iter().flat_map(|one| parts.iter().map(move |other| ((*one).to_owned(), (*other).to_owned()))) {
            for target in [
                Target::Jti { issuer: one.clone(), jti: other.clone() },
                Target::Subject { issuer: one.clone(), subject: other.clone() },
                Target::Client { issuer: one.clone(), client: other.clone() },
                Target::Tenant { tenant: format!("{one} {other}") },
                Target::Token { sha256: sha256(format!("{one} {other}").as_bytes()) },
            ] {
                let key = target.key();
                assert!(seen.insert(Fingerprint::of(&key).unwrap().halves()), "{key}");
            }
        }
        assert_eq!(seen.len(), 5 * 16);
        for text in
            ["", "jti", "jti:", "jti:abc", "other:0", "tenant:zz", &format!("x{}", Target::Tenant { tenant: "a".into() }.key())]
        {
            assert_eq!(Fingerprint::of(text), None, "{text}");
        }
    }

    #[test]
    fn hex_is_the_usual_one() {
        assert_eq!(hex(&[0, 1, 0xab, 0xff]), "0001abff");
        assert_eq!(hex(&sha256(b"abc")), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn foreign_patterns_are_filled_in_once() {
        let compile = |pattern: &str| {
            let mut errors = Errors::default();
            let config = RevocationConfig { foreign: vec![pattern.to_owned()] };
            let mut compiled = Foreign::compile(&config, &Path::root(), &mut errors);
            if errors.is_empty() { compiled.pop() } else { None }
        };
        let token = sha256(b"t");
        assert_eq!(compile("blacklist:{jti}").unwrap().key(Some("j1"), "s", &token).unwrap(), "blacklist:j1");
        assert_eq!(compile("{sub}/{jti}").unwrap().key(Some("{sub}"), "s", &token).unwrap(), "s/{sub}");
        assert_eq!(compile("blacklist:{jti}").unwrap().key(None, "s", &token), None);
        assert_eq!(compile("b:{token_sha256}").unwrap().key(None, "s", &token).unwrap(), format!("b:{}", hex(&token)));
        for bad in ["blacklist", "blacklist:{id}", "b:{jti}:{x}", "b:{jti"] {
            assert!(compile(bad).is_none(), "{bad}");
        }
    }
}
