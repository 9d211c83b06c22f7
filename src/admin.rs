//! The admin API on `listen.admin`: revocations, [`bans`], [`keys`] and [`offenders`], and its
//! [document](openapi).
//!
//! `POST /v1/revocations` revokes, `DELETE /v1/revocations` removes a revocation, and
//! `GET /v1/revocations?limit=&cursor=` lists. The target is named in a JSON body, for DELETE as
//! well: names of people and tokens do not belong into a URL, which logs keep. Every call needs the
//! bearer token, on loopback too, and writes one audit line. No answer has a CORS header, and a
//! call that changes something must be `application/json`, which a page of another origin cannot
//! send without a preflight request.

mod auth;
pub mod bans;
pub mod caller;
mod json_body;
pub mod keys;
pub mod offenders;
pub mod openapi;
mod record;
pub mod request;
pub mod store;
pub mod usage;

use std::{error::Error, fmt, future::Future, net::IpAddr, sync::Arc};

use bytes::Bytes;
use http::{Method, Request, Response, header::ALLOW};
use http_body::Body;
use http_body_util::Full;
use serde_json::json;
use tollgate_core::{policy::Policy, revocation::Target, secret::Secret, time::Span};

pub use self::auth::{MIN_TOKEN, WeakToken, check_token};
use self::{
    bans::Bans,
    caller::{AdminAction, AdminCredentialConfig, Caller},
    keys::{KeyAdmin, KeyRecords},
    offenders::OffenderSource,
    record::AdminRecord,
    usage::{UsageAdmin, UsageSums},
};
use crate::{
    error_text::describe,
    json_api::{self, Refusal, ok},
    observe::{audit::Audit, now, offenders::Offenders},
    store::{Entry, PAGE_MAX, Position, Revocation, StoreUnavailable},
};

/// The largest accepted body, in bytes.
const MAX_BODY: usize = 64 << 10;

/// The most entries that are read for one page of a list that has some of them.
const MOST_READ: usize = 10_000;

/// The path of the revocations.
pub(crate) const PATH: &str = "/v1/revocations";

/// The operations on revocations, implemented by the store and, for the command line, by a client
/// of this API.
pub trait Revocations: Send + Sync {
    /// The reason why an operation failed.
    type Error: Error + Send + Sync + 'static;

    /// Adds a revocation, or strengthens the one that exists for its target.
    fn revoke(
        &self,
        revocation: &Revocation,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Removes a revocation. Returns whether it existed.
    fn reinstate(&self, target: &Target) -> impl Future<Output = Result<bool, Self::Error>> + Send;

    /// Lists at most `limit` revocations after a position.
    fn list(
        &self,
        after: Option<&Position>,
        limit: usize,
    ) -> impl Future<Output = Result<EntryPage, Self::Error>> + Send;
}

/// A page of the list of revocations, or of bans.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EntryPage {
    /// The entries of this page.
    pub entries: Vec<Entry>,
    /// The position after which the next page begins; `None` on the last one.
    pub next: Option<Position>,
}

/// The state of the admin API.
pub struct Admin<R> {
    store: R,
    token: Box<dyn Fn() -> Option<Secret> + Send + Sync>,
    longest_life: Box<dyn Fn() -> Span + Send + Sync>,
    /// The issuers of the policy in force; `None` where they are not known.
    issuers: Box<dyn Fn() -> Option<Vec<Arc<str>>> + Send + Sync>,
    keys: Option<KeyAdmin>,
    usage: Option<UsageAdmin>,
    offenders: Option<Box<OffenderSource>>,
    /// The credentials in force.
    credentials: Box<dyn Fn() -> Arc<Vec<AdminCredentialConfig>> + Send + Sync>,
    audit: Arc<Audit>,
}

impl<R> fmt::Debug for Admin<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}

impl<R: Revocations + Bans> Admin<R> {
    /// Creates the state of an API over the revocations and bans of `store`. `token` returns the
    /// current bearer token,
    /// which may be replaced in its file. While it returns none, or one that [`check_token`]
    /// refuses, no call with it is accepted. `longest_life` returns the longest remaining life of a token
    /// that the policy accepts, for revocations without a `ttl`.
    pub fn new(
        store: R,
        token: impl Fn() -> Option<Secret> + Send + Sync + 'static,
        longest_life: impl Fn() -> Span + Send + Sync + 'static,
        audit: Arc<Audit>,
    ) -> Self {
        Self {
            store,
            token: Box::new(token),
            longest_life: Box::new(longest_life),
            issuers: Box::new(|| None),
            keys: None,
            usage: None,
            offenders: None,
            credentials: Box::new(Arc::default),
            audit,
        }
    }

    /// Refuses revocations and bans of issuers that the policy in force does not have. `issuers` returns
    /// those that it has.
    #[must_use]
    pub fn with_issuers(self, issuers: impl Fn() -> Vec<Arc<str>> + Send + Sync + 'static) -> Self {
        Self { issuers: Box::new(move || Some(issuers())), ..self }
    }

    /// Adds the API keys of `records`, which are managed while the policy in force uses Redis as a
    /// source of keys. `policy` returns that policy.
    #[must_use]
    pub fn with_keys(
        self,
        records: Option<Arc<dyn KeyRecords>>,
        policy: impl Fn() -> Arc<Policy> + Send + Sync + 'static,
    ) -> Self {
        Self { keys: Some(KeyAdmin::new(records, policy)), ..self }
    }

    /// Adds the sums of the ledger, which are read while the policy in force has one. `policy` returns
    /// that policy.
    #[must_use]
    pub fn with_usage(
        self,
        sums: Option<Arc<dyn UsageSums>>,
        policy: impl Fn() -> Arc<Policy> + Send + Sync + 'static,
    ) -> Self {
        Self { usage: Some(UsageAdmin::new(sums, policy)), ..self }
    }

    /// Adds the lists of those whose requests are refused most, which `offenders` returns.
    #[must_use]
    pub fn with_offenders(
        self,
        offenders: impl Fn(usize, Option<&[String]>) -> Offenders + Send + Sync + 'static,
    ) -> Self {
        Self { offenders: Some(Box::new(offenders)), ..self }
    }

    /// Adds callers that have fewer rights than the one with the token. `credentials` returns those
    /// in force, which each call reads once.
    #[must_use]
    pub fn with_credentials(
        self,
        credentials: impl Fn() -> Arc<Vec<AdminCredentialConfig>> + Send + Sync + 'static,
    ) -> Self {
        Self { credentials: Box::new(credentials), ..self }
    }
}

/// Handles one call from `peer` (`None` on a Unix socket).
pub async fn handle<R, B>(
    admin: &Admin<R>,
    peer: Option<IpAddr>,
    request: Request<B>,
) -> Response<Full<Bytes>>
where
    R: Revocations + Bans,
    B: Body<Data = Bytes> + Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let mut record =
        AdminRecord::begin(&admin.audit, now(), peer, request.method(), request.uri().path());
    let answer = match call(admin, request, &mut record).await {
        Ok(answer) => answer,
        Err(refusal) => {
            record.refused(refusal.code);
            refusal.answer()
        }
    };
    record.answered(answer.status());
    answer
}

async fn call<R, B>(
    admin: &Admin<R>,
    request: Request<B>,
    record: &mut AdminRecord<'_>,
) -> Result<Response<Full<Bytes>>, Refusal>
where
    R: Revocations + Bans,
    B: Body<Data = Bytes> + Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    // The token is checked first: without it a caller learns nothing, not even which paths exist.
    let (token, credentials) = ((admin.token)(), (admin.credentials)());
    let caller = auth::caller(request.headers(), token.as_ref(), &credentials)
        .ok_or_else(auth::unauthorized)?;
    record.by(caller.name());
    if !record.has_audit_slot() {
        return Err(Refusal::new(
            503,
            "overloaded",
            "the audit queue is full, and every call must be recorded; retry shortly",
        ));
    }
    match request.uri().path() {
        PATH => revocations(admin, caller, request, record).await,
        bans::PATH | bans::CHECK_PATH => bans::call(admin, caller, request, record).await,
        offenders::PATH => {
            let query = request.uri().query().unwrap_or_default();
            let source = admin.offenders.as_deref();
            offenders::call(source, caller, (request.method(), query), record)
        }
        openapi::PATH => openapi::call(request.method(), record),
        usage::PATH => {
            let query = request.uri().query().unwrap_or_default();
            usage::call(admin.usage.as_ref(), caller, (request.method(), query), record).await
        }
        path if keys::is_below(path) => keys::call(admin, caller, request, record).await,
        _ => {
            let paths = format!(
                "the paths are `{PATH}`, `{}`, `{}`, `{}`, `{}`, `{}` and `{}`",
                bans::PATH,
                bans::CHECK_PATH,
                keys::PATH,
                offenders::PATH,
                usage::PATH,
                openapi::PATH
            );
            Err(Refusal::new(404, "not_found", paths))
        }
    }
}

/// Handles a call of [`PATH`].
async fn revocations<R, B>(
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
    match *request.method() {
        Method::GET => {
            record.doing("list");
            caller.require(AdminAction::ReadRevocations)?;
            let (after, limit) = request::page(request.uri().query().unwrap_or_default())?;
            let page = listed_to(&admin.store, caller, after, limit).await?;
            let entries: Vec<_> = page.entries.iter().map(request::listed).collect();
            let next = page.next.map(|next| next.to_string());
            Ok(ok(&json!({ "revocations": entries, "next": next })))
        }
        Method::POST => {
            record.doing("revoke");
            caller.require(AdminAction::WriteRevocations)?;
            let revocation =
                request::revocation(&body(request).await?, now(), (admin.longest_life)())?;
            record.revoking(&revocation);
            if !sees(caller, revocation.target()) {
                return Err(Refusal::new(
                    403,
                    "forbidden",
                    "the credential revokes what belongs to its tenants only; name one in `tenant`",
                ));
            }
            if let Some(known) = (admin.issuers)() {
                let is_of_actor = matches!(revocation.target(), Target::Actor { .. });
                // The issuer of an actor may be one that issues no credentials itself.
                let issuer = revocation.target().issuer().filter(|_| !is_of_actor);
                request::check_issuer(issuer, &known)?;
            }
            admin.store.revoke(&revocation).await.map_err(|error| unavailable(&error))?;
            Ok(ok(&request::listed(&revocation.entry(now()))))
        }
        Method::DELETE => {
            record.doing("reinstate");
            caller.require(AdminAction::WriteRevocations)?;
            let target = request::target(&body(request).await?)?;
            record.naming(&target);
            // What the caller does not see is answered like what does not exist.
            if sees(caller, &target)
                && admin.store.reinstate(&target).await.map_err(|error| unavailable(&error))?
            {
                Ok(ok(&json!({ "kind": target.kind(), "key": target.key(), "reinstated": true })))
            } else {
                Err(Refusal::new(
                    404,
                    "not_found",
                    format!("there is no such revocation; `GET {PATH}` lists them"),
                ))
            }
        }
        _ => Err(json_api::not_allowed("use GET, POST or DELETE").with(ALLOW, "GET, POST, DELETE")),
    }
}

/// Whether a caller sees and changes revocations of a target. Those of subjects, clients and tokens
/// belong to no tenant.
fn sees(caller: Caller<'_>, target: &Target) -> bool {
    match target {
        Target::Tenant { tenant } => caller.sees(Some(tenant)),
        _ => caller.sees(None),
    }
}

/// Lists the revocations that a caller sees.
async fn listed_to<R: Revocations>(
    store: &R,
    caller: Caller<'_>,
    mut after: Option<Position>,
    limit: usize,
) -> Result<EntryPage, Refusal> {
    let Some(tenants) = caller.tenants() else {
        let page = store.list(after.as_ref(), limit).await;
        return page.map_err(|error| unavailable(&error));
    };
    let tenants = tenants.iter();
    let own: Vec<String> =
        tenants.map(|tenant| Target::Tenant { tenant: tenant.clone() }.key()).collect();
    let (mut entries, mut read) = (Vec::new(), 0);
    loop {
        let page = store.list(after.as_ref(), PAGE_MAX).await;
        let page = page.map_err(|error| unavailable(&error))?;
        let mut rest = page.entries.into_iter();
        for entry in rest.by_ref() {
            read += 1;
            let end = entry.ends;
            // INVARIANT: a cursor names an entry of the caller, or a moment and no entry.
            if read > MOST_READ && after.as_ref().is_some_and(|last| last.at() < end) {
                return Ok(EntryPage { entries, next: Some(Position::before(end)) });
            }
            after = Some(entry.position());
            if !own.contains(&entry.key) {
                continue;
            }
            entries.push(entry);
            if entries.len() == limit {
                let next = after.filter(|_| rest.len() > 0 || page.next.is_some());
                return Ok(EntryPage { entries, next });
            }
        }
        if page.next.is_none() {
            return Ok(EntryPage { entries, next: None });
        }
        after = page.next;
    }
}

fn unavailable(error: &(dyn Error + 'static)) -> Refusal {
    tracing::warn!("admin call failed: {}", describe(error));
    Refusal::new(
        503,
        "store_unavailable",
        format!("{error}; whether something changed is not known, and a retry does no harm"),
    )
    .retry_after(1)
}

/// Reads the whole body of a call that changes something.
async fn body<B>(request: Request<B>) -> Result<Bytes, Refusal>
where
    B: Body<Data = Bytes> + Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    json_api::body(request, MAX_BODY).await
}

#[cfg(test)]
pub(crate) mod tests;
