//! A kind of credential that only unit tests have: the whole of what a new kind needs.
//!
//! `x-test-key: SUBJECT` is accepted as it is, and rejected for good where the subject is `bad`.

use std::sync::{Arc, LazyLock};

use super::rejection::Rejection;
use crate::{
    denial::{Denial, Reason},
    identity::{
        Claims, CredentialKind, Generation, Holder, Identity, KeyVersion, Omitted, Principal,
        Validity,
    },
    request::Headers,
    revocation::{Keys, Names, issuer_digest, sha256},
    stage::Check,
    time::{Span, Timestamp},
};

static GENERATION: LazyLock<Generation> = LazyLock::new(Generation::new);

/// The key as the client sent it.
#[derive(Clone, Copy)]
pub struct Key<'a>(&'a [u8]);

impl<'a> Key<'a> {
    pub(crate) fn extract(headers: &Headers<'a>) -> Option<Self> {
        headers.all("x-test-key").next().map(Self)
    }

    pub(crate) fn bytes(self) -> &'a [u8] {
        self.0
    }

    pub(crate) fn verify(self, now: Timestamp) -> Result<Arc<Principal>, Rejection> {
        let keys = KeyVersion { source: 0, generation: GENERATION.clone() };
        let subject = std::str::from_utf8(self.0).unwrap();
        if subject == "bad" {
            return Err(Rejection {
                kind: CredentialKind::Test,
                denial: Box::new(Denial::new(Reason::BadSignature, "a bad key")),
                check: Check::Signature,
                refresh: None,
                record: None,
                introspect: None,
                settled: Some(keys),
            });
        }
        let until = Timestamp::from_micros(now.micros() + Span::from_secs(60).micros());
        let identity = Identity {
            kind: CredentialKind::Test,
            issuer: "".into(),
            subject,
            holder: Holder::User,
            tenant: None,
            is_tenant_fixed: false,
            client: None,
            scopes: &["read".to_owned()],
            omitted: Omitted::default(),
            roles: &[],
            claims: Claims::default(),
            issued_at: None,
            expires_at: until.secs(),
        };
        let names = Names {
            issuer: &issuer_digest(""),
            token: sha256(self.0),
            jti: None,
            subject,
            subject_is_client: false,
            client: None,
            tenant: None,
        };
        let validity = Validity { since: now, until, keys };
        Ok(Arc::new(Principal::new(identity, validity, Keys::new(names, 0, Vec::new())).unwrap()))
    }
}

/// The generation of the only key table.
pub(crate) fn generation() -> &'static Generation {
    &GENERATION
}
