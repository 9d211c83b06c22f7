//! `listen.admin`: the API that changes something. Revocations, and nothing else.
//!
//! `POST /v1/revocations` revokes, `DELETE /v1/revocations` takes it back, `GET /v1/revocations?limit=&cursor=` lists. What is revoked is
//! named in a JSON body, for DELETE too: names of people and tokens do not belong into a URL, where logs keep them. Every call needs
//! the bearer token, also on loopback, and every call leaves one audit line. No answer carries a CORS header, and a call that
//! changes something must be `application/json`, which no page of another origin can send without asking first.

mod answer;
mod auth;
mod record;
pub mod request;
pub mod store;

use std::{error::Error, fmt, future::Future, net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    Method, Request, Response,
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
};
use http_body::Body;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use serde_json::json;
use tollgate_core::{admission::Outage, revocation::Target, secret::Secret, time::Span};

pub use self::auth::{MIN_TOKEN, check_token};
use self::{
    answer::{Refusal, ok},
    record::AdminRecord,
};
use crate::observe::{audit::Audit, now, rfc3339::Rfc3339};

/// Most bytes of a body.
const MAX_BODY: usize = 64 << 10;

/// How long a body may take to arrive.
const BODY_DEADLINE: Duration = Duration::from_secs(5);

/// The only path.
pub(crate) const PATH: &str = "/v1/revocations";

/// What can be revoked through: the store, or for the command line an admin API.
pub trait Revocations: Send + Sync {
    /// Why it could not be done.
    type Error: Error + Send + Sync + 'static;

    /// Revokes. One that exists already is replaced.
    fn revoke(
        &self,
        revocation: &Revocation,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Takes a revocation back. Says whether there was one.
    fn reinstate(&self, target: &Target) -> impl Future<Output = Result<bool, Self::Error>> + Send;

    /// Lists revocations in no particular order: about `limit` of them, from where an earlier page's `next` says.
    fn list(
        &self,
        limit: usize,
        cursor: Option<&str>,
    ) -> impl Future<Output = Result<Page, Self::Error>> + Send;
}

/// One revocation to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// What.
    pub target: Target,
    /// Seconds since 1970. For subject, client and tenant: what was issued at this moment or before is revoked. For single tokens: when
    /// it was revoked, for the list.
    pub at: u64,
    /// How long the entry is kept. Afterwards the tokens it names must have expired by themselves.
    pub ttl: Span,
    /// Why, for whoever reads the list.
    pub note: Option<String>,
}

/// One entry of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its key below `{tollgate}:revoked:`, [`Target::key`]: the kind, then hashes.
    pub key: String,
    /// [`Revocation::at`].
    pub at: u64,
    /// When the entry ends, in seconds since 1970.
    pub expires: u64,
    /// [`Revocation::note`].
    pub note: Option<String>,
}

/// A part of the list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The entries.
    pub entries: Vec<Listed>,
    /// Where the next page starts, in letters, digits and `-_.:`; `None` on the last one.
    pub next: Option<String>,
}

/// The store could not be asked.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the store cannot be asked ({})", .0.label())]
pub struct StoreUnavailable(pub Outage);

/// What the handler needs.
pub struct Admin<R> {
    revocations: R,
    token: Box<dyn Fn() -> Option<Secret> + Send + Sync>,
    audit: Arc<Audit>,
}

impl<R> fmt::Debug for Admin<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}

impl<R: Revocations> Admin<R> {
    /// `token` gives the bearer token as it is now, so that it can be replaced in its file. While it gives none, or one that
    /// [`check_token`] refuses, every call is refused.
    pub fn new(
        revocations: R,
        token: impl Fn() -> Option<Secret> + Send + Sync + 'static,
        audit: Arc<Audit>,
    ) -> Self {
        Self { revocations, token: Box::new(token), audit }
    }
}

/// Answers one call from `peer` (`None` on a Unix socket).
pub async fn handle<R, B>(
    admin: &Admin<R>,
    peer: Option<IpAddr>,
    request: Request<B>,
) -> Response<Full<Bytes>>
where
    R: Revocations,
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
    R: Revocations,
    B: Body<Data = Bytes> + Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    // The token comes first: who has none learns nothing, not even what is here.
    if !auth::is_authorized(request.headers(), (admin.token)().as_ref()) {
        return Err(Refusal::unauthorized());
    }
    if !record.has_room() {
        return Err(Refusal::new(
            503,
            "overloaded",
            "the audit log is full, and no call may go unrecorded; retry shortly",
        ));
    }
    if request.uri().path() != PATH {
        return Err(Refusal::new(404, "not_found", format!("there is only `{PATH}` here")));
    }
    match *request.method() {
        Method::GET => {
            record.doing("list");
            let (limit, cursor) = request::page(request.uri().query().unwrap_or_default())?;
            let page =
                admin.revocations.list(limit, cursor).await.map_err(|error| unavailable(&error))?;
            Ok(ok(
                &json!({ "revocations": page.entries.iter().map(request::listed).collect::<Vec<_>>(), "next": page.next }),
            ))
        }
        Method::POST => {
            record.doing("revoke");
            let revocation = request::revocation(&body(request).await?, now())?;
            record.revoking(&revocation);
            admin.revocations.revoke(&revocation).await.map_err(|error| unavailable(&error))?;
            Ok(ok(&request::listed(&revocation.listed(now()))))
        }
        Method::DELETE => {
            record.doing("reinstate");
            let target = request::target(&body(request).await?)?;
            record.naming(&target);
            if admin.revocations.reinstate(&target).await.map_err(|error| unavailable(&error))? {
                Ok(ok(&json!({ "kind": target.kind(), "key": target.key(), "reinstated": true })))
            } else {
                Err(Refusal::new(
                    404,
                    "not_found",
                    format!("there is no such revocation; `GET {PATH}` lists them"),
                ))
            }
        }
        _ => Err(Refusal::new(405, "method_not_allowed", "use GET, POST or DELETE")
            .with(ALLOW, "GET, POST, DELETE")),
    }
}

fn unavailable(error: &dyn Error) -> Refusal {
    tracing::warn!(%error, "an admin call could not be carried out");
    Refusal::new(
        503,
        "store_unavailable",
        format!("{error}; nothing is known to have changed, so retry"),
    )
    .retry_after(1)
}

/// The whole body of a call that changes something.
async fn body<B>(request: Request<B>) -> Result<Bytes, Refusal>
where
    B: Body<Data = Bytes> + Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let kind = request.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let kind = kind.split(|byte| *byte == b';').next().unwrap_or_default();
    if !kind.trim_ascii().eq_ignore_ascii_case(b"application/json") {
        return Err(Refusal::new(
            415,
            "unsupported_media_type",
            "send a JSON body with `Content-Type: application/json`",
        ));
    }
    let body = Limited::new(request.into_body(), MAX_BODY).collect();
    match tokio::time::timeout(BODY_DEADLINE, body).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Refusal::new(
            413,
            "body_too_large",
            format!("the body is larger than {} KiB", MAX_BODY >> 10),
        )),
        Ok(Err(_)) => Err(Refusal::new(400, "invalid_request", "the body did not arrive whole")),
        Err(_) => Err(Refusal::new(
            408,
            "timeout",
            format!("the body did not arrive within {}s", BODY_DEADLINE.as_secs()),
        )),
    }
}

impl Revocation {
    /// As it will stand in the list, made at `now`.
    pub(crate) fn listed(&self, now: tollgate_core::time::Timestamp) -> Listed {
        let expires = now.secs().saturating_add(self.ttl.micros().div_ceil(1_000_000));
        Listed { key: self.target.key(), at: self.at, expires, note: self.note.clone() }
    }
}

impl Listed {
    /// The word for what is revoked, the first part of the key.
    pub fn kind(&self) -> &str {
        self.key.split(':').next().unwrap_or_default()
    }

    /// When the entry ends, as text.
    pub fn expires_text(&self) -> Rfc3339 {
        Rfc3339(tollgate_core::time::Timestamp::from_secs(self.expires))
    }
}

#[cfg(test)]
pub(crate) mod tests;
