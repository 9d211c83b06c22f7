//! The audit line of a call, written when the call ends in any way. Targets are named as in other
//! audit lines: a token id by its hash.

use std::{borrow::Cow, net::IpAddr, thread, time::Instant};

use http::{Method, StatusCode};
use serde::Serialize;
use tollgate_core::{
    ban,
    credential::api_key::KeyRecord,
    identity::KeyId,
    revocation::{Target, sha256},
    text::hex,
    time::Timestamp,
};

use crate::{
    observe::{
        audit::{
            Audit, Slot,
            line::{TEXT, truncated},
        },
        rfc3339::Rfc3339,
    },
    store::{BanQuery, NewBan, Revocation},
};

/// The record of one call; dropping it writes the audit line.
pub(super) struct AdminRecord<'a> {
    audit: &'a Audit,
    slot: Option<Slot<'a>>,
    has_audit_slot: bool,
    started: Instant,
    time: Timestamp,
    who: String,
    peer: Option<IpAddr>,
    method: String,
    path: String,
    action: Option<&'static str>,
    target: Option<Target>,
    revocation: Option<Revocation>,
    ban: Option<BanQuery>,
    banned: Option<NewBan>,
    key: Option<(KeyId, Option<KeyRecord>)>,
    code: Option<&'static str>,
    status: Option<StatusCode>,
}

#[derive(Serialize)]
struct AdminLine<'a> {
    time: Rfc3339,
    event: &'static str,
    who: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_ip: Option<IpAddr>,
    method: Cow<'a, str>,
    path: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<&'static str>,
    #[serde(flatten)]
    target: Option<TargetLine<'a>>,
    #[serde(flatten)]
    revocation: Option<RevocationLine<'a>>,
    #[serde(flatten)]
    ban: Option<BanLine<'a>>,
    #[serde(flatten)]
    key: Option<KeyLine<'a>>,
    result: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    microseconds: u64,
}

#[derive(Serialize)]
#[serde(untagged)]
enum TargetLine<'a> {
    Jti { iss: Cow<'a, str>, jti_sha256: String },
    Subject { iss: Cow<'a, str>, sub: Cow<'a, str> },
    Client { iss: Cow<'a, str>, client: Cow<'a, str> },
    Tenant { tenant: Cow<'a, str> },
    Token { token_sha256: String },
    Network { network: String },
    Address { address: IpAddr },
    Key { key_id: String },
    Actor { iss: Cow<'a, str>, actor: Cow<'a, str> },
    Kid { iss: Cow<'a, str>, kid: Cow<'a, str> },
}

#[derive(Serialize)]
struct BanLine<'a> {
    /// `None`: until the ban is lifted.
    until: Option<Rfc3339>,
    /// The reason. `reason` is a code in other lines.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<Cow<'a, str>>,
}

#[derive(Serialize)]
struct KeyLine<'a> {
    key_id: String,
    #[serde(flatten)]
    terms: Option<KeyTermsLine<'a>>,
}

/// What a key is for; its digests are not part of it.
#[derive(Serialize)]
struct KeyTermsLine<'a> {
    sub: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<Cow<'a, str>>,
    scopes: String,
    exp: u64,
}

#[derive(Serialize)]
struct RevocationLine<'a> {
    at: u64,
    ttl_seconds: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<Cow<'a, str>>,
}

impl<'a> AdminRecord<'a> {
    pub(super) fn begin(
        audit: &'a Audit,
        time: Timestamp,
        peer: Option<IpAddr>,
        method: &Method,
        path: &str,
    ) -> Self {
        let (slot, has_audit_slot) = audit.reserve().map_or((None, false), |slot| (slot, true));
        Self {
            audit,
            slot,
            has_audit_slot,
            started: Instant::now(),
            time,
            who: "admin".to_owned(),
            peer,
            method: truncated(method.as_str().as_bytes(), TEXT).into_owned(),
            path: truncated(path.as_bytes(), TEXT).into_owned(),
            action: None,
            target: None,
            revocation: None,
            ban: None,
            banned: None,
            key: None,
            code: None,
            status: None,
        }
    }

    /// Returns whether the audit queue has room for the line of this call.
    pub(super) fn has_audit_slot(&self) -> bool {
        self.has_audit_slot
    }

    /// Sets the name of the caller.
    pub(super) fn by(&mut self, name: &str) {
        name.clone_into(&mut self.who);
    }

    pub(super) fn doing(&mut self, action: &'static str) {
        self.action = Some(action);
    }

    pub(super) fn naming(&mut self, target: &Target) {
        self.target = Some(target.clone());
    }

    pub(super) fn revoking(&mut self, revocation: &Revocation) {
        self.naming(revocation.target());
        self.revocation = Some(revocation.clone());
    }

    pub(super) fn finding(&mut self, query: &BanQuery) {
        self.ban = Some(query.clone());
    }

    pub(super) fn banning(&mut self, ban: &NewBan) {
        self.finding(&BanQuery::Target(ban.target().clone()));
        self.banned = Some(ban.clone());
    }

    pub(super) fn of_key(&mut self, id: KeyId) {
        self.key = Some((id, None));
    }

    pub(super) fn of_record(&mut self, record: &KeyRecord) {
        self.key = Some((record.id, Some(record.clone())));
    }

    pub(super) fn refused(&mut self, code: &'static str) {
        self.code = Some(code);
    }

    pub(super) fn answered(mut self, status: StatusCode) {
        self.status = Some(status);
    }

    fn result(&self) -> &'static str {
        match (self.code, self.status) {
            _ if thread::panicking() => "panic",
            // The store may have changed, although the caller received no answer.
            (_, None) => "cancelled",
            (Some(code), _) => code,
            (None, _) => "ok",
        }
    }
}

impl<'a> TargetLine<'a> {
    fn new(target: &'a Target) -> Self {
        let text = |text: &'a str| truncated(text.as_bytes(), TEXT);
        match target {
            Target::Jti { issuer, jti } => {
                Self::Jti { iss: text(issuer), jti_sha256: hex(&sha256(jti.as_bytes())) }
            }
            Target::Subject { issuer, subject } => {
                Self::Subject { iss: text(issuer), sub: text(subject) }
            }
            Target::Client { issuer, client } => {
                Self::Client { iss: text(issuer), client: text(client) }
            }
            Target::Tenant { tenant } => Self::Tenant { tenant: text(tenant) },
            Target::Token { sha256 } => Self::Token { token_sha256: hex(sha256) },
            Target::Actor { issuer, actor } => {
                Self::Actor { iss: text(issuer), actor: text(actor) }
            }
            Target::Kid { issuer, kid } => Self::Kid { iss: text(issuer), kid: text(kid) },
        }
    }

    fn of_ban(query: &'a BanQuery) -> Self {
        let text = |text: &'a str| truncated(text.as_bytes(), TEXT);
        match query {
            BanQuery::Address(address) => Self::Address { address: *address },
            BanQuery::Target(ban::Target::Network(network)) => {
                Self::Network { network: network.to_string() }
            }
            BanQuery::Target(ban::Target::Key { id }) => Self::Key { key_id: id.to_string() },
            BanQuery::Target(ban::Target::Subject { issuer, subject }) => {
                Self::Subject { iss: text(issuer), sub: text(subject) }
            }
            BanQuery::Target(ban::Target::Client { issuer, client }) => {
                Self::Client { iss: text(issuer), client: text(client) }
            }
            BanQuery::Target(ban::Target::Tenant { tenant }) => {
                Self::Tenant { tenant: text(tenant) }
            }
            BanQuery::Target(ban::Target::Actor { issuer, actor }) => {
                Self::Actor { iss: text(issuer), actor: text(actor) }
            }
        }
    }
}

impl<'a> KeyLine<'a> {
    fn new(id: KeyId, record: Option<&'a KeyRecord>) -> Self {
        let text = |text: &'a str| truncated(text.as_bytes(), TEXT);
        let terms = record.map(|record| KeyTermsLine {
            sub: text(&record.subject),
            tenant: record.tenant.as_deref().map(text),
            scopes: truncated(record.scopes.join(" ").as_bytes(), TEXT).into_owned(),
            exp: record.expires.secs(),
        });
        Self { key_id: id.to_string(), terms }
    }
}

impl Drop for AdminRecord<'_> {
    fn drop(&mut self) {
        let line = AdminLine {
            time: Rfc3339(self.time),
            event: "admin",
            who: Cow::Borrowed(&self.who),
            client_ip: self.peer,
            method: Cow::Borrowed(&self.method),
            path: Cow::Borrowed(&self.path),
            action: self.action,
            target: (self.target.as_ref().map(TargetLine::new))
                .or_else(|| self.ban.as_ref().map(TargetLine::of_ban)),
            revocation: self.revocation.as_ref().map(|revocation| RevocationLine {
                at: revocation.at().secs(),
                ttl_seconds: revocation.ttl().secs(),
                note: revocation.note().map(|note| truncated(note.as_bytes(), TEXT)),
            }),
            ban: self.banned.as_ref().map(|ban| BanLine {
                until: ban.until().map(Rfc3339),
                note: ban.reason().map(|reason| truncated(reason.as_bytes(), TEXT)),
            }),
            key: self.key.as_ref().map(|(id, record)| KeyLine::new(*id, record.as_ref())),
            result: self.result(),
            status: self.status.map(|status| status.as_u16()),
            microseconds: u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX),
        };
        self.audit.write(self.slot.take(), |bytes| {
            // Writing into memory does not fail.
            let _ = serde_json::to_writer(bytes, &line);
        });
    }
}
