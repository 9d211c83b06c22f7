//! What a proven credential says of its holder, in little memory: a token stays in it for as long as it is remembered.

use std::sync::Arc;

use crate::{
    credential::jwt::{issuer::Issuer, key_set::KeySet},
    json::Json,
};
use crate::{revocation, time::Timestamp};

/// Proof of who asks. Made by [`super::jwt::verify`] and nothing else.
#[derive(Clone, Debug)]
pub struct Principal {
    issuer: Arc<Issuer>,
    /// Subject, tenant, client, scopes and roles, one after the other: one allocation instead of a dozen.
    text: Box<str>,
    /// Where each of the first four ends.
    ends: [u32; 4],
    has_issued_at: bool,
    /// The claims that some condition of the policy looks at.
    claims: Box<[(Arc<str>, Json)]>,
    expires_at: u64,
    revocation: Arc<revocation::Keys>,
    proof: Proof,
}

/// What a verification rests on, as long as the policy stays the same: the very key set that was used (held here, so that its
/// address is no other's), and the moments for which it holds: from when it was made to when the credential has expired,
/// leeway included.
#[derive(Clone, Debug)]
pub(super) struct Proof {
    pub(super) keys: Arc<KeySet>,
    pub(super) since: Timestamp,
    pub(super) until: Timestamp,
}

/// The parts of a [`Principal`].
pub(super) struct Said<'a> {
    pub(super) issuer: &'a Arc<Issuer>,
    pub(super) subject: &'a str,
    pub(super) tenant: Option<&'a str>,
    pub(super) client: Option<&'a str>,
    /// None of them holds a space.
    pub(super) scopes: &'a [String],
    /// None of them holds a line feed.
    pub(super) roles: &'a [String],
    pub(super) claims: Box<[(Arc<str>, Json)]>,
    /// Whether `iat`, which the keys hold, is the credential's.
    pub(super) has_issued_at: bool,
    pub(super) expires_at: u64,
    pub(super) revocation: revocation::Keys,
    pub(super) proof: Proof,
}

/// The order in `text`.
const SUBJECT: usize = 0;
const TENANT: usize = 1;
const CLIENT: usize = 2;
const SCOPES: usize = 3;
const ROLES: usize = 4;

impl Principal {
    pub(super) fn new(said: Said<'_>) -> Self {
        let mut text = String::new();
        let mut end = |part: &dyn Fn(&mut String)| {
            part(&mut text);
            // A token is at most 16 KiB long, and each of its claims is used a few times at most.
            u32::try_from(text.len()).unwrap_or(u32::MAX)
        };
        let optional =
            |part: Option<&str>, text: &mut String| text.push_str(part.unwrap_or_default());
        let ends = [
            end(&|text| text.push_str(said.subject)),
            end(&|text| optional(said.tenant, text)),
            end(&|text| optional(said.client, text)),
            end(&|text| {
                for scope in said.scopes {
                    text.push_str(scope);
                    text.push(' ');
                }
                if !said.scopes.is_empty() {
                    text.pop();
                }
            }),
        ];
        for role in said.roles {
            text.push_str(role);
            text.push('\n');
        }
        Self {
            issuer: Arc::clone(said.issuer),
            text: text.into(),
            ends,
            has_issued_at: said.has_issued_at,
            claims: said.claims,
            expires_at: said.expires_at,
            revocation: Arc::new(said.revocation),
            proof: said.proof,
        }
    }

    fn part(&self, part: usize) -> &str {
        let end = |at: usize| self.ends.get(at).map(|end| *end as usize);
        let from = part.checked_sub(1).and_then(end).unwrap_or(0);
        self.text.get(from..end(part).unwrap_or(self.text.len())).unwrap_or_default()
    }

    /// An identifier is never empty, so an empty part is an absent one.
    fn optional(&self, part: usize) -> Option<&str> {
        Some(self.part(part)).filter(|text| !text.is_empty())
    }

    /// The `iss` of the credential; empty for tokens of an issuer configured as `absent`.
    pub fn issuer(&self) -> &str {
        &self.issuer.name
    }

    /// The index of the issuer in the policy.
    pub(crate) fn issuer_index(&self) -> usize {
        self.issuer.index
    }

    /// Whether the credential would be verified with the same result at `now`, under the same policy and with `keys` as its
    /// issuer's.
    pub(crate) fn holds(&self, keys: Option<&Arc<KeySet>>, now: Timestamp) -> bool {
        let Proof { keys: used, since, until } = &self.proof;
        (*since..*until).contains(&now) && keys.is_some_and(|keys| Arc::ptr_eq(keys, used))
    }

    /// The subject.
    pub fn subject(&self) -> &str {
        self.part(SUBJECT)
    }

    /// The tenant, from the credential or fixed for its issuer.
    pub fn tenant(&self) -> Option<&str> {
        self.optional(TENANT)
    }

    /// The client the credential was issued to.
    pub fn client(&self) -> Option<&str> {
        self.optional(CLIENT)
    }

    /// The roles.
    pub fn roles(&self) -> impl Iterator<Item = &str> {
        self.part(ROLES).split_terminator('\n')
    }

    /// Whether it has exactly this role.
    pub fn has_role(&self, role: &str) -> bool {
        self.roles().any(|have| have == role)
    }

    /// The scopes, in the credential's order.
    pub fn scopes(&self) -> impl Iterator<Item = &str> {
        // None of them holds white space: a space would part it, and controls are refused.
        self.scope_list().split_ascii_whitespace()
    }

    /// The scopes as one string with a space between them (RFC 6749 section 3.3).
    pub fn scope_list(&self) -> &str {
        self.part(SCOPES)
    }

    /// Whether it has exactly this scope (RFC 6749 section 3.3: case-sensitive, no prefixes).
    pub fn has_scope(&self, scope: &str) -> bool {
        self.scopes().any(|have| have == scope)
    }

    /// A claim that some condition of the policy looks at.
    pub(crate) fn claim(&self, name: &str) -> Option<&Json> {
        self.claims.iter().find(|(known, _)| **known == *name).map(|(_, value)| value)
    }

    /// `iat` in whole seconds.
    pub fn issued_at(&self) -> Option<u64> {
        self.has_issued_at.then_some(self.revocation.issued_at)
    }

    /// `exp` in whole seconds, rounded down.
    pub fn expires_at(&self) -> u64 {
        self.expires_at
    }

    /// The kind of credential, as `x-tollgate-credential` says it.
    pub fn kind(&self) -> &'static str {
        "jwt"
    }

    /// Where a store finds whether it was revoked.
    pub fn revocation(&self) -> &Arc<revocation::Keys> {
        &self.revocation
    }

    /// Bytes it takes, what it points to included and what it shares left out.
    pub fn size(&self) -> usize {
        /// The revocation keys with their two reference counts.
        const KEYS: usize = size_of::<revocation::Keys>() + 2 * size_of::<usize>();
        let foreign = self.revocation.foreign.iter().map(|key| size_of::<String>() + key.len());
        let claims = self.claims.iter().map(|(name, value)| size_of_val(name) + value.size());
        size_of::<Self>() + KEYS + self.text.len() + foreign.sum::<usize>() + claims.sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{Errors, Path},
        credential::jwt::issuer::Issuers,
        revocation::{Keys, Names, issuer_digest},
        secret::Secret,
    };

    fn issuers() -> Issuers {
        let yaml = "{ issuer: i, audiences: any, algorithms: [HS256], secret: 0123456789abcdef0123456789abcdef }";
        Issuers::compile(
            &[serde_saphyr::from_str(yaml).unwrap()],
            &Path::root(),
            &mut Errors::default(),
        )
    }

    fn principal(tenant: Option<&str>, scopes: &[&str], roles: &[&str]) -> Principal {
        let owned = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let issuers = issuers();
        let issuer = issuers.find(Some("i")).unwrap();
        let names = Names {
            issuer: &issuer_digest("i"),
            token: [0; 32],
            jti: None,
            subject: "ann",
            client: None,
            tenant,
        };
        Principal::new(Said {
            issuer,
            subject: "ann",
            tenant,
            client: None,
            scopes: &owned(scopes),
            roles: &owned(roles),
            claims: Box::default(),
            has_issued_at: false,
            expires_at: 9,
            revocation: Keys::new(names, 0, Vec::new()),
            proof: Proof {
                keys: Arc::new(
                    KeySet::from_secret(&Secret::new([0; 32]), &issuer.algorithms).unwrap(),
                ),
                since: Timestamp::from_secs(1),
                until: Timestamp::from_secs(9),
            },
        })
    }

    #[test]
    fn every_part_comes_back_as_it_was() {
        let full = principal(Some("acme"), &["a:b", "c"], &["Premium User", "", "x"]);
        assert_eq!(
            (full.issuer(), full.subject(), full.tenant(), full.client(), full.issued_at()),
            ("i", "ann", Some("acme"), None, None)
        );
        assert_eq!(
            (full.scope_list(), full.scopes().collect::<Vec<_>>()),
            ("a:b c", vec!["a:b", "c"])
        );
        assert_eq!(full.roles().collect::<Vec<_>>(), ["Premium User", "", "x"]);
        assert!(
            full.has_role("Premium User")
                && !full.has_role("Premium")
                && full.has_scope("c")
                && !full.has_scope("a")
        );
        let bare = principal(None, &[], &[]);
        assert_eq!(
            (bare.tenant(), bare.scope_list(), bare.scopes().count(), bare.roles().count()),
            (None, "", 0, 0)
        );
        assert!(!bare.has_scope("") && !bare.has_role(""));
    }

    #[test]
    fn a_proof_holds_under_its_keys_and_in_its_time() {
        let principal = principal(None, &[], &[]);
        let keys = Arc::clone(&principal.proof.keys);
        let same = Arc::new(
            KeySet::from_secret(&Secret::new([0; 32]), &principal.issuer.algorithms).unwrap(),
        );
        for (now, keys, holds) in [
            (1, Some(&keys), true),
            (8, Some(&keys), true),
            (0, Some(&keys), false),
            (9, Some(&keys), false),
            (5, Some(&same), false),
            (5, None, false),
        ] {
            assert_eq!(principal.holds(keys, Timestamp::from_secs(now)), holds, "{now}");
        }
    }
}
