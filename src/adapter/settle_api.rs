//! `POST /v1/settle` on `listen.settle`: reports of usage over HTTP, from proxies that have no access
//! log over gRPC, and from servers and gateways that count for themselves.
//!
//! ```text
//! peer or reporter -> body -> entries -> Reservation, Ending, Reading -> Report -> the store -> results
//! ```
//!
//! Each entry is charged by the rules of an entry of Envoy's access log. A call is answered when the
//! store has answered, so that its sender knows what it has to send again; an entry that is sent again
//! is charged once.

mod calls;
pub(crate) mod config;
mod distinct;
mod entry;
mod results;

use std::{error::Error, sync::Arc};

use bytes::Bytes;
use http::{Method, Request, Response, header::ALLOW};
use http_body::Body;
use http_body_util::Full;

use self::{
    calls::Calls,
    config::{ReporterConfig, reporter_of},
    entry::Entry,
    results::{EntryResult, Results},
};
use super::access_log::report::Report;
use crate::{
    engine::settler::{ReportProblem, Settler},
    json_api::{self, Refusal, json_text, ok},
};

/// The path of reports.
pub const PATH: &str = "/v1/settle";

/// The path of the document.
pub const DOCUMENT_PATH: &str = "/v1/openapi.json";

/// The text of the document, in the format of OpenAPI 3.1.
pub const DOCUMENT: &str = include_str!("../../docs/settle-api.openapi.json");

/// The largest body, in bytes.
pub const MAX_BODY: usize = 1 << 20;

/// The most entries of a call.
pub const MAX_ENTRIES: usize = 256;

/// The reporters in force.
type Reporters = Arc<dyn Fn() -> Arc<Vec<ReporterConfig>> + Send + Sync>;

/// Answers the calls of the listener. Clones share their state.
#[derive(Clone)]
pub struct SettleApi {
    settler: Arc<Settler>,
    reporters: Reporters,
    /// Whether the listener admits its peers itself, so that a call without a token is trusted where
    /// no reporter is listed.
    trusts_peers: bool,
    calls: Calls,
}

impl std::fmt::Debug for SettleApi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SettleApi").finish_non_exhaustive()
    }
}

/// Who sends a call.
#[derive(Clone, Copy, Debug)]
enum Caller<'r> {
    /// A peer that the listener admits.
    Peer,
    /// A reporter, by its token.
    Reporter(&'r ReporterConfig),
}

impl Caller<'_> {
    /// Whether the caller settles requests of a route.
    fn settles(self, route: Option<&str>) -> bool {
        match self {
            Self::Peer => true,
            Self::Reporter(reporter) => reporter.settles(route),
        }
    }
}

impl SettleApi {
    /// Creates the API over `settler`. `reporters` returns those in force; `trusts_peers`: every peer
    /// of the listener may report where there are none.
    pub fn new(
        settler: Arc<Settler>,
        reporters: impl Fn() -> Arc<Vec<ReporterConfig>> + Send + Sync + 'static,
        trusts_peers: bool,
    ) -> Self {
        let calls = Calls::default();
        Self { settler, reporters: Arc::new(reporters), trusts_peers, calls }
    }

    /// Answers one call.
    pub async fn answer<B>(&self, request: Request<B>) -> Response<Full<Bytes>>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        self.call(request).await.unwrap_or_else(Refusal::answer)
    }

    async fn call<B>(&self, request: Request<B>) -> Result<Response<Full<Bytes>>, Refusal>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        // The token is checked first: without it a caller learns nothing.
        let reporters = (self.reporters)();
        let caller = match json_api::bearer(request.headers()) {
            _ if reporters.is_empty() && self.trusts_peers => Some(Caller::Peer),
            token => token.and_then(|token| reporter_of(token, &reporters)).map(Caller::Reporter),
        };
        let Some(caller) = caller else {
            self.settler.count_problem(ReportProblem::Unauthorized);
            return Err(Refusal::unauthorized(
                "send the token of a reporter as `Authorization: Bearer <token>`",
                "Bearer realm=\"tollgate-settle\"",
            ));
        };
        match (request.uri().path(), request.method()) {
            (PATH, &Method::POST) => self.settle(caller, request).await,
            (PATH, _) => Err(json_api::not_allowed("use POST").with(ALLOW, "POST")),
            (DOCUMENT_PATH, &Method::GET) => Ok(json_text(Bytes::from_static(DOCUMENT.as_bytes()))),
            (DOCUMENT_PATH, _) => Err(json_api::not_allowed("use GET").with(ALLOW, "GET")),
            _ => {
                let paths = format!("the paths are `{PATH}` and `{DOCUMENT_PATH}`");
                Err(Refusal::new(404, "not_found", paths))
            }
        }
    }

    /// Settles the requests of one call.
    async fn settle<B>(
        &self,
        caller: Caller<'_>,
        request: Request<B>,
    ) -> Result<Response<Full<Bytes>>, Refusal>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let Some(_place) = self.calls.begin(caller) else {
            let message = "too many calls are in progress; retry shortly";
            return Err(Refusal::new(503, "overloaded", message).retry_after(1));
        };
        let body = json_api::body(request, MAX_BODY).await?;
        let entries = entry::entries(&body)?;
        let Some(keys) = self.settler.keys() else {
            self.settler.count_problem(ReportProblem::NoSecret);
            let message = "no secret of `metering.secrets` can be used; retry later";
            return Err(Refusal::new(503, "not_ready", message).retry_after(1));
        };
        let mut results = Results::with_capacity(entries.len());
        let mut reports = Vec::with_capacity(entries.len());
        let mut foreign = 0_usize;
        for text in entries {
            let entry = match Entry::read(text) {
                Ok(entry) => entry,
                Err(message) => {
                    self.settler.count_problem(ReportProblem::Malformed);
                    results.push(EntryResult::Invalid { message: message.to_string() });
                    continue;
                }
            };
            let Ok(reservation) = entry.reservation(&keys) else {
                self.settler.count_problem(ReportProblem::Forged);
                results.push(EntryResult::Unknown);
                continue;
            };
            if !caller.settles(reservation.route.as_deref()) {
                self.settler.count_problem(ReportProblem::Foreign);
                results.push(EntryResult::Foreign);
                foreign += 1;
                continue;
            }
            let learnt = |history| self.settler.histories().learnt(history);
            let (ending, reading, bytes) = (entry.ending(), entry.reading(), entry.bytes());
            reports.push(Report::of(reservation, ending, reading, bytes, learnt));
            results.push_pending();
        }
        if let (Caller::Reporter(reporter), 1..) = (caller, foreign) {
            tracing::warn!(
                reporter = reporter.name,
                entries = foreign,
                "a reporter has reported requests of routes that are not its own"
            );
        }
        self.apply(reports, results).await
    }

    /// Sends the settlements of reports to the store, and fills in what each of them changed.
    async fn apply(
        &self,
        reports: Vec<Report>,
        mut results: Results,
    ) -> Result<Response<Full<Bytes>>, Refusal> {
        let settlements = reports.iter().map(|report| report.settlement.clone()).collect();
        let settled = self.settler.settle(settlements).await.map_err(|outage| {
            let message = format!(
                "the store is not available ({}); send the entries again, each is charged once",
                outage.label()
            );
            Refusal::new(503, "store_unavailable", message).retry_after(1)
        })?;
        for (report, settled) in reports.iter().zip(settled) {
            let result = EntryResult::of(&report.settlement, settled);
            // What an entry counts for the second time is counted already.
            if !matches!(result, EntryResult::Duplicate | EntryResult::Expired) {
                report.count(&self.settler);
            }
            results.fill(result);
        }
        Ok(ok(&results))
    }
}

#[cfg(test)]
mod tests;
