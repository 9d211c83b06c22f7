//! `/v1/bans`: `POST` bans, `DELETE` lifts a ban, and `GET ?limit=&cursor=` lists;
//! `POST /v1/bans/check` finds the bans of one target or one address. Targets are named in a body,
//! as in the rest of the API.

use std::{error::Error, future::Future, net::IpAddr};

use bytes::Bytes;
use http::{Method, Request, Response, header::ALLOW};
use http_body::Body;
use http_body_util::Full;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tollgate_core::{
    ban::{Kind, Target, automatic_network_of_key, network_of_key, parse_network},
    identity::KeyId,
    time::{Span, Timestamp},
};

use super::{
    Admin, EntryPage, Revocations, body,
    caller::{AdminAction, Caller},
    json_body,
    keys::KeyAdmin,
    record::AdminRecord,
    request, unavailable,
};
use crate::{
    json_api::{self, Refusal, ok},
    observe::{now, rfc3339},
    store::{BanQuery, Entry, InvalidBan, NewBan, Position, TTL_MAX, until},
};

/// The path of the bans.
pub(crate) const PATH: &str = "/v1/bans";

/// The path of questions for bans.
pub(crate) const CHECK_PATH: &str = "/v1/bans/check";

/// The longest issuer, subject and the like, in characters.
const MAX_TEXT: usize = 1024;

/// The operations on bans, implemented by the store and, for the command line, by a client of this
/// API.
pub trait Bans: Send + Sync {
    /// The reason why an operation failed.
    type Error: Error + Send + Sync + 'static;

    /// Adds a ban, or extends the one of its target. Returns the ban that holds.
    fn ban(&self, ban: &NewBan) -> impl Future<Output = Result<Entry, Self::Error>> + Send;

    /// Lifts a ban. Returns whether it was in force.
    fn lift(&self, target: &Target) -> impl Future<Output = Result<bool, Self::Error>> + Send;

    /// Lists at most `limit` bans after a position.
    fn list_bans(
        &self,
        after: Option<&Position>,
        limit: usize,
    ) -> impl Future<Output = Result<EntryPage, Self::Error>> + Send;

    /// Returns the bans in force that answer a question.
    fn bans_of(
        &self,
        query: &BanQuery,
    ) -> impl Future<Output = Result<Vec<Entry>, Self::Error>> + Send;
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Call {
    subject: Option<String>,
    client: Option<String>,
    tenant: Option<String>,
    network: Option<String>,
    key: Option<KeyId>,
    actor: Option<String>,
    address: Option<IpAddr>,
    issuer: Option<String>,
    #[serde(rename = "for")]
    span: Option<Span>,
    until: Option<String>,
    reason: Option<String>,
}

/// Handles a call of [`PATH`] or [`CHECK_PATH`] that is authorized.
pub(super) async fn call<R, B>(
    admin: &Admin<R>,
    caller: Caller<'_>,
    request: Request<B>,
    record: &mut AdminRecord<'_>,
) -> Result<Response<Full<Bytes>>, Refusal>
where
    R: Revocations + Bans,
    B: Body<Data = Bytes> + Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let bans = &admin.store;
    let is_check = request.uri().path() == CHECK_PATH;
    match *request.method() {
        Method::POST if is_check => {
            record.doing("check_ban");
            caller.require(AdminAction::ReadBans)?;
            let query = json_body::read::<Call>(&body(request).await?)?.query()?;
            record.finding(&query);
            let is_seen = match &query {
                BanQuery::Target(target) => sees(admin, caller, target).await?,
                BanQuery::Address(_) if caller.sees(None) => true,
                BanQuery::Address(_) => return Err(own_only()),
            };
            let found = if is_seen {
                bans.bans_of(&query).await.map_err(|error| unavailable(&error))?
            } else {
                // A target that the caller does not see is answered like one that is not banned.
                Vec::new()
            };
            let found: Vec<_> = found.iter().map(listed).collect();
            Ok(ok(&json!({ "banned": !found.is_empty(), "bans": found })))
        }
        Method::GET if !is_check => {
            record.doing("list_bans");
            caller.require(AdminAction::ReadBans)?;
            let (after, limit) = request::page(request.uri().query().unwrap_or_default())?;
            let page = match caller.tenants() {
                None => {
                    let page = bans.list_bans(after.as_ref(), limit).await;
                    page.map_err(|error| unavailable(&error))?
                }
                Some(tenants) => of_tenants(bans, tenants, after.as_ref(), limit).await?,
            };
            let entries: Vec<_> = page.entries.iter().map(listed).collect();
            let next = page.next.map(|next| next.to_string());
            Ok(ok(&json!({ "bans": entries, "next": next })))
        }
        Method::POST => {
            record.doing("ban");
            caller.require(AdminAction::WriteBans)?;
            let ban = json_body::read::<Call>(&body(request).await?)?.ban(now())?;
            record.banning(&ban);
            if !sees(admin, caller, ban.target()).await? {
                return Err(own_only());
            }
            if let Some(known) = (admin.issuers)() {
                let is_of_actor = matches!(ban.target(), Target::Actor { .. });
                let issuer = ban.target().issuer().filter(|_| !is_of_actor);
                request::check_issuer(issuer, &known)?;
            }
            let entry = bans.ban(&ban).await.map_err(|error| unavailable(&error))?;
            Ok(ok(&listed(&entry)))
        }
        Method::DELETE if !is_check => {
            record.doing("lift");
            caller.require(AdminAction::WriteBans)?;
            let target = json_body::read::<Call>(&body(request).await?)?.lifted()?;
            record.finding(&BanQuery::Target(target.clone()));
            if sees(admin, caller, &target).await?
                && bans.lift(&target).await.map_err(|error| unavailable(&error))?
            {
                let (kind, key) = (target.kind().label(), target.key());
                Ok(ok(&json!({ "kind": kind, "key": key, "lifted": true })))
            } else {
                let message = format!("there is no such ban; `GET {PATH}` lists them");
                Err(Refusal::new(404, "not_found", message))
            }
        }
        _ if is_check => Err(json_api::not_allowed("use POST").with(ALLOW, "POST")),
        _ => Err(json_api::not_allowed("use GET, POST or DELETE").with(ALLOW, "GET, POST, DELETE")),
    }
}

/// Whether a caller sees and changes the bans of a target: one without bounds those of every target,
/// another one those of its tenants and of their keys.
async fn sees<R: Send + Sync>(
    admin: &Admin<R>,
    caller: Caller<'_>,
    target: &Target,
) -> Result<bool, Refusal> {
    match target {
        Target::Tenant { tenant } => Ok(caller.sees(Some(tenant))),
        Target::Key { id } if !caller.sees(None) => match &admin.keys {
            Some(keys) => KeyAdmin::sees(keys, caller, id).await,
            None => Ok(false),
        },
        _ => Ok(caller.sees(None)),
    }
}

/// Lists the bans of some tenants. There is one for each at most.
async fn of_tenants<S: Bans>(
    bans: &S,
    tenants: &[String],
    after: Option<&Position>,
    limit: usize,
) -> Result<EntryPage, Refusal> {
    let mut entries: Vec<Entry> = Vec::new();
    for tenant in tenants {
        let query = BanQuery::Target(Target::Tenant { tenant: tenant.clone() });
        entries.extend(bans.bans_of(&query).await.map_err(|error| unavailable(&error))?);
    }
    entries.retain(|entry| after.is_none_or(|after| entry.position() > *after));
    entries.sort_by_cached_key(Entry::position);
    let has_more = entries.len() > limit;
    entries.truncate(limit);
    let next = entries.last().filter(|_| has_more).map(Entry::position);
    Ok(EntryPage { entries, next })
}

fn own_only() -> Refusal {
    let message = "the credential has tenants: it names one of them in `tenant`, or a key of one";
    Refusal::new(403, "forbidden", message)
}

impl Call {
    fn ban(self, now: Timestamp) -> Result<NewBan, Refusal> {
        let until = match (&self.until, self.span) {
            (Some(_), Some(_)) => {
                return Err(Refusal::invalid("state the end once, as `until` or as `for`"));
            }
            (Some(text), None) => {
                Some(rfc3339::parse(text).map_err(|error| Refusal::invalid(error.to_string()))?)
            }
            (None, Some(span)) if span < Span::from_millis(1) || span > TTL_MAX => {
                return Err(Refusal::invalid(format!("`for` is between 1ms and {TTL_MAX}")));
            }
            (None, span) => span.map(|span| after(now, span)),
        };
        let target = self.target()?;
        if let Some(reason) = &self.reason {
            json_body::check_text("reason", reason)?;
        }
        NewBan::new(target, now, until, self.reason).map_err(|error| match error {
            InvalidBan::End => Refusal::out_of_bounds(error.to_string()),
            InvalidBan::Reason(_) => Refusal::invalid(error.to_string()),
        })
    }

    fn lifted(self) -> Result<Target, Refusal> {
        self.names_only_a_target()?;
        self.target()
    }

    fn query(self) -> Result<BanQuery, Refusal> {
        self.names_only_a_target()?;
        let Some(address) = self.address else { return self.target().map(BanQuery::Target) };
        let is_other = self.key.is_some() || self.issuer.is_some();
        if self.names().into_iter().flatten().count() > 0 || is_other {
            return Err(Refusal::invalid("name one target, or one `address`"));
        }
        Ok(BanQuery::Address(address))
    }

    fn names_only_a_target(&self) -> Result<(), Refusal> {
        if self.until.is_some() || self.span.is_some() || self.reason.is_some() {
            return Err(Refusal::invalid(
                "`until`, `for` and `reason` have no meaning here; only name the target",
            ));
        }
        Ok(())
    }

    fn names(&self) -> [&Option<String>; 5] {
        [&self.subject, &self.client, &self.tenant, &self.network, &self.actor]
    }

    fn target(&self) -> Result<Target, Refusal> {
        let names = self.names();
        let count = names.into_iter().flatten().count() + usize::from(self.key.is_some());
        if count != 1 || self.address.is_some() {
            return Err(Refusal::invalid(
                "name exactly one of `subject`, `client`, `tenant`, `network`, `key` and `actor`",
            ));
        }
        let members = ["subject", "client", "tenant", "network", "actor", "issuer"];
        for (member, text) in members.iter().zip(names.into_iter().chain([&self.issuer])) {
            if let Some(text) = text {
                json_body::check_length(member, text, MAX_TEXT)?;
                json_body::check_text(member, text)?;
            }
        }
        if names.into_iter().flatten().any(String::is_empty) {
            return Err(Refusal::invalid("the value that names the target is empty"));
        }
        let issuer = || {
            self.issuer.clone().ok_or_else(|| {
                Refusal::invalid(
                    "name the `issuer` as the tokens do in `iss`; `\"\"` for tokens without one",
                )
            })
        };
        Ok(match self {
            Self { subject: Some(subject), .. } => {
                Target::Subject { issuer: issuer()?, subject: subject.clone() }
            }
            Self { client: Some(client), .. } => {
                Target::Client { issuer: issuer()?, client: client.clone() }
            }
            Self { actor: Some(actor), .. } => {
                Target::Actor { issuer: issuer()?, actor: actor.clone() }
            }
            Self { issuer: Some(_), .. } => {
                return Err(Refusal::invalid(
                    "`issuer` has no meaning for `tenant`, `network` and `key`; leave it out",
                ));
            }
            Self { key: Some(id), .. } => Target::Key { id: *id },
            Self { tenant: Some(tenant), .. } => Target::Tenant { tenant: tenant.clone() },
            Self { network, .. } => parse_network(network.as_deref().unwrap_or_default())
                .map(Target::Network)
                .map_err(|error| Refusal::invalid(error.to_string()))?,
        })
    }
}

/// The moment `span` after `now`.
pub fn after(now: Timestamp, span: Span) -> Timestamp {
    Timestamp::from_micros(now.micros().saturating_add(span.micros()))
}

/// Returns the members that name `target` in a body: the inverse of what this module reads.
pub fn selector(target: &Target) -> Map<String, Value> {
    let (name, value, issuer) = match target {
        Target::Network(network) => ("network", network.to_string(), None),
        Target::Subject { issuer, subject } => ("subject", subject.clone(), Some(issuer)),
        Target::Client { issuer, client } => ("client", client.clone(), Some(issuer)),
        Target::Tenant { tenant } => ("tenant", tenant.clone(), None),
        Target::Key { id } => ("key", id.to_string(), None),
        Target::Actor { issuer, actor } => ("actor", actor.clone(), Some(issuer)),
    };
    let issuer = issuer.map(|issuer| ("issuer".to_owned(), Value::from(issuer.as_str())));
    [(name.to_owned(), Value::from(value))].into_iter().chain(issuer).collect()
}

/// One ban in JSON, with moments in seconds since 1970. Written by the API, read by the command
/// line.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ListedBan {
    kind: String,
    key: String,
    /// The network in CIDR notation; other names are hashed, and cannot be shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    network: Option<String>,
    since: u64,
    /// `null`: until the ban is lifted.
    until: Option<u64>,
    reason: Option<String>,
}

/// Converts an entry to its JSON form.
pub(crate) fn listed(entry: &Entry) -> ListedBan {
    ListedBan {
        kind: Kind::of_key(&entry.key).map_or(entry.kind(), |kind| kind.label()).to_owned(),
        key: entry.key.clone(),
        network: network_of_key(&entry.key)
            .or_else(|| automatic_network_of_key(&entry.key))
            .map(|network| network.to_string()),
        since: entry.at.secs(),
        until: until(entry).map(Timestamp::secs),
        reason: entry.note.clone(),
    }
}

impl From<ListedBan> for Entry {
    fn from(json: ListedBan) -> Self {
        let ListedBan { kind: _, key, network: _, since, until, reason } = json;
        let ends = until.map_or(crate::store::NEVER, Timestamp::from_secs);
        Self { key, at: Timestamp::from_secs(since), ends, note: reason }
    }
}

#[cfg(test)]
mod tests;
