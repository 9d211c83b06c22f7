//! Revocation: what can be revoked, and the keys under which a store lists it.

mod fingerprint;
mod keys;

use aws_lc_rs::digest;
use schemars::JsonSchema;
use serde::Deserialize;

pub(crate) use self::fingerprint::first_half;
pub use self::{
    fingerprint::Fingerprint,
    keys::{EntryKey, IssuerDigest, Keys, Names, issuer_digest},
};
use crate::{
    config::{Errors, Path},
    text::hex,
};

/// The section `revocation`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RevocationConfig {
    /// Keys of a denylist that another service maintains in the same Redis. A credential is revoked
    /// while the key exists. `{jti}`, `{sub}` and `{token_sha256}` are replaced by the token's
    /// values. Requires a single Redis (no cluster). Default: none.
    #[serde(default)]
    pub foreign: Vec<String>,
}

/// The kind of a revocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A revocation of one token by its id: [`Target::Jti`].
    Jti,
    /// A revocation of one token by its digest: [`Target::Token`].
    Token,
    /// A revocation of a subject: [`Target::Subject`].
    Subject,
    /// A revocation of a client: [`Target::Client`].
    Client,
    /// A revocation of a tenant: [`Target::Tenant`].
    Tenant,
    /// A revocation of an actor: [`Target::Actor`].
    Actor,
    /// A revocation of a signing key: [`Target::Kid`].
    Kid,
}

impl Kind {
    /// Every kind, in the order of the enum.
    pub const ALL: [Self; 7] =
        [Self::Jti, Self::Token, Self::Subject, Self::Client, Self::Tenant, Self::Actor, Self::Kid];

    /// Returns the prefix of the kind's keys: `jti`, `token`, `subject`, `client`, `tenant`,
    /// `actor`, `kid`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Jti => "jti",
            Self::Token => "token",
            Self::Subject => "subject",
            Self::Client => "client",
            Self::Tenant => "tenant",
            Self::Actor => "actor",
            Self::Kid => "kid",
        }
    }

    /// Whether names of this kind are unique within an issuer only.
    const fn is_issuer_scoped(self) -> bool {
        matches!(self, Self::Jti | Self::Subject | Self::Client | Self::Actor | Self::Kid)
    }
}

/// The target of a revocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// One token, by issuer and token id.
    Jti {
        /// The token's `iss`, empty for tokens without one.
        issuer: String,
        /// The token's `jti`.
        jti: String,
    },
    /// Every token of a subject issued up to the time of the revocation.
    Subject {
        /// The tokens' `iss`.
        issuer: String,
        /// The tokens' subject.
        subject: String,
    },
    /// Every token of a client issued up to the time of the revocation.
    Client {
        /// The tokens' `iss`.
        issuer: String,
        /// The client id.
        client: String,
    },
    /// Every token of a tenant, of any issuer, issued up to the time of the revocation.
    Tenant {
        /// The tenant's name.
        tenant: String,
    },
    /// One token by its [`token_digest`], for tokens without `jti`; a certificate by its SHA-256.
    Token {
        /// The digest of the token.
        sha256: [u8; 32],
    },
    /// Every token issued up to the time of the revocation that an agent holds, as its subject or
    /// its client, or acts in, at any place of its chain of actors.
    Actor {
        /// The issuer of the agent's name.
        issuer: String,
        /// The agent's name.
        actor: String,
    },
    /// Every token of an issuer that was signed with one key.
    Kid {
        /// The tokens' `iss`.
        issuer: String,
        /// The `kid` of the key.
        kid: String,
    },
}

impl Target {
    /// Returns the key below `{tollgate}:revoked:`. Text that a client or an issuer controls is
    /// hashed.
    pub fn key(&self) -> String {
        match self {
            Self::Jti { issuer, jti } => format!("jti:{}:{}", sha256_hex(issuer), sha256_hex(jti)),
            Self::Subject { issuer, subject } => {
                format!("subject:{}:{}", sha256_hex(issuer), sha256_hex(subject))
            }
            Self::Client { issuer, client } => {
                format!("client:{}:{}", sha256_hex(issuer), sha256_hex(client))
            }
            Self::Tenant { tenant } => format!("tenant:{}", sha256_hex(tenant)),
            Self::Token { sha256 } => format!("token:{}", hex(sha256)),
            Self::Actor { issuer, actor } => {
                format!("actor:{}:{}", sha256_hex(issuer), sha256_hex(actor))
            }
            Self::Kid { issuer, kid } => format!("kid:{}:{}", sha256_hex(issuer), sha256_hex(kid)),
        }
    }

    /// Returns the issuer within which the target is named; `None` for a tenant and a digest.
    pub fn issuer(&self) -> Option<&str> {
        match self {
            Self::Jti { issuer, .. }
            | Self::Subject { issuer, .. }
            | Self::Client { issuer, .. }
            | Self::Actor { issuer, .. }
            | Self::Kid { issuer, .. } => Some(issuer),
            Self::Tenant { .. } | Self::Token { .. } => None,
        }
    }

    /// Whether the entry revokes all tokens issued up to a time, rather than a token or the tokens of
    /// a key for good.
    pub const fn is_before(&self) -> bool {
        matches!(
            self,
            Self::Subject { .. } | Self::Client { .. } | Self::Tenant { .. } | Self::Actor { .. }
        )
    }

    /// Returns the label of the kind: see [`Kind::label`].
    pub const fn kind(&self) -> &'static str {
        let kind = match self {
            Self::Jti { .. } => Kind::Jti,
            Self::Subject { .. } => Kind::Subject,
            Self::Client { .. } => Kind::Client,
            Self::Tenant { .. } => Kind::Tenant,
            Self::Token { .. } => Kind::Token,
            Self::Actor { .. } => Kind::Actor,
            Self::Kid { .. } => Kind::Kid,
        };
        kind.label()
    }
}

/// A compiled `revocation.foreign` pattern.
#[derive(Clone, Debug)]
pub struct ExternalDenylist(String);

impl ExternalDenylist {
    /// Compiles the patterns and records every error.
    pub fn compile(config: &RevocationConfig, path: &Path, errors: &mut Errors) -> Vec<Self> {
        let path = path.key("foreign");
        let mut patterns = Vec::new();
        for (index, pattern) in config.foreign.iter().enumerate() {
            let bare =
                pattern.replace("{jti}", "").replace("{sub}", "").replace("{token_sha256}", "");
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

    /// Whether the pattern contains the token's `jti`.
    pub fn needs_jti(&self) -> bool {
        self.0.contains("{jti}")
    }

    /// Returns the key for one credential; `None` if it has no `jti` and the pattern contains one.
    pub fn key(&self, jti: Option<&str>, subject: &str, token: &[u8; 32]) -> Option<String> {
        // One pass over the pattern: inserted values are not searched for placeholders.
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

/// Returns the SHA-256 digest of bytes.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}

/// Returns the digest that a token is revoked by: SHA-256 of its signed part (header and payload), or of
/// the whole of an opaque one.
///
/// The signature is left out because an ECDSA signature can be rewritten into another valid one.
pub fn token_digest(token: &str) -> [u8; 32] {
    let is_signed = memchr::memchr_iter(b'.', token.as_bytes()).count() == 2;
    let signed = token.rsplit_once('.').filter(|_| is_signed);
    sha256(signed.map_or(token, |(signed, _)| signed).as_bytes())
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
    fn digests_are_sha_256() {
        assert_eq!(
            hex(&sha256(b"abc")),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn placeholders_are_replaced_once() {
        let compile = |pattern: &str| {
            let mut errors = Errors::default();
            let config = RevocationConfig { foreign: vec![pattern.to_owned()] };
            let mut compiled = ExternalDenylist::compile(&config, &Path::root(), &mut errors);
            if errors.is_empty() { compiled.pop() } else { None }
        };
        let token = sha256(b"t");
        assert_eq!(
            compile("blacklist:{jti}").unwrap().key(Some("j1"), "s", &token).unwrap(),
            "blacklist:j1"
        );
        assert_eq!(
            compile("{sub}/{jti}").unwrap().key(Some("{sub}"), "s", &token).unwrap(),
            "s/{sub}"
        );
        assert_eq!(compile("blacklist:{jti}").unwrap().key(None, "s", &token), None);
        assert_eq!(
            compile("b:{token_sha256}").unwrap().key(None, "s", &token).unwrap(),
            format!("b:{}", hex(&token))
        );
        for bad in ["blacklist", "blacklist:{id}", "b:{jti}:{x}", "b:{jti"] {
            assert!(compile(bad).is_none(), "{bad}");
        }
    }
}
