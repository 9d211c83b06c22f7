//! Checks over HTTP: the proxy sends one request for each check, whose headers describe the
//! client's request, and reads the answer from the status. nginx, Traefik, Caddy, HAProxy and
//! Envoy's HTTP service have one [`Dialect`] each, which is a row of data.
//!
//! ```text
//! trusted peer -> body within the budget -> decode -> Checker -> encode
//! ```
//!
//! The check's own request line, `Host` and framing are not used as the client's, except in the one
//! dialect whose check repeats the client's request. No path and no user agent is special: health
//! is on `listen.ops` (CVE-2026-34457: a health checker's user agent was allowed on every path).

mod config;
mod decode;
mod dialect;
mod encode;
#[cfg(test)]
mod tests;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use http::{Method, Request, header, request::Parts};
use http_body::Body;
use http_body_util::Full;
use tollgate_core::{
    denial::{Denial, Reason},
    request::RawRequest,
    time::Span,
};

pub use self::{
    config::{BodyPolicy, ForwardAuthConfig, RouteNeeds, SettlementPolicy},
    decode::{decode, has_body},
    dialect::Dialect,
    encode::{ProxyResponse, encode},
};
use super::in_flight::{BodyError, ChargedBytes, InFlight, Refusal};
use crate::{
    engine::check::{Answer, CheckAnswer, Checker, INLINE, LargeRequest},
    listener::Peer,
};

/// Answers the checks of one listener. Clones share their state.
#[derive(Clone, Debug)]
pub struct ForwardAuth {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: ForwardAuthConfig,
    checker: Arc<Checker>,
    budget: InFlight,
    untrusted: AtomicU64,
}

impl ForwardAuth {
    /// Answers with the decisions of `checker`, in the dialect of `config`. Bodies are charged to
    /// `budget`.
    #[must_use]
    pub fn new(config: ForwardAuthConfig, checker: Arc<Checker>, budget: InFlight) -> Self {
        Self { shared: Arc::new(Shared { config, checker, budget, untrusted: AtomicU64::new(0) }) }
    }

    /// Answers one check.
    pub async fn answer<B>(&self, request: Request<B>) -> ProxyResponse
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let Shared { config, checker, budget, .. } = &*self.shared;
        let peer = request.extensions().get::<Peer>().copied();
        if !config.trusts(peer) {
            self.log_untrusted(peer);
            return encode::forbidden();
        }
        let (parts, body) = request.into_parts();
        let has_body = has_body(config, &parts.method);
        let charged = if has_body { budget.read_body(body).await } else { budget.charge_call() };
        let mut reply = match charged {
            Ok(charged) if charged.bytes().len() > INLINE => {
                let shared = Arc::clone(&self.shared);
                let check = Arc::new(LargeCheck { shared, parts: parts.clone(), charged });
                let encode = |answered: CheckAnswer<'_>| respond(config, &parts, answered);
                checker.check_large(None, &check, encode).await
            }
            Ok(charged) => {
                let read = || decode(config, &parts, has_body.then(|| &**charged.bytes()));
                let encode = |answered: CheckAnswer<'_>| respond(config, &parts, answered);
                checker.check(None, read, encode).await
            }
            Err(error) => {
                checker.refuse(denial_of(error), |answered| respond(config, &parts, answered))
            }
        };
        // The check repeats the client's HEAD. Its answer has no body and no content length: Envoy
        // treats a length without a body as a failed check, which `failure_mode_allow` forwards.
        if parts.method == Method::HEAD {
            *reply.body_mut() = Full::default();
        }
        reply
    }

    /// Logs an untrusted peer, at powers of two, so that peers cannot fill the log.
    fn log_untrusted(&self, peer: Option<Peer>) {
        let count = self.shared.untrusted.fetch_add(1, Ordering::Relaxed) + 1;
        if count.is_power_of_two() {
            let address = &self.shared.config.address;
            let peer = peer.map(tracing::field::display);
            tracing::warn!(
                %address, peer, count,
                "refused a check: its sender is not listed in `trusted_proxies`"
            );
        }
    }
}

/// A check with a large body.
struct LargeCheck {
    shared: Arc<Shared>,
    parts: Parts,
    charged: ChargedBytes,
}

impl LargeRequest for LargeCheck {
    fn read(&self) -> Result<RawRequest<'_>, Denial> {
        decode(&self.shared.config, &self.parts, Some(self.charged.bytes()))
    }
}

/// Encodes an answer. The first credential is the verified one: the core refuses a request with two.
fn respond(config: &ForwardAuthConfig, parts: &Parts, answered: CheckAnswer<'_>) -> ProxyResponse {
    // A handshake that is not changed keeps the protocols that the client offers.
    let kept = match &answered.answer {
        Answer::Allow(answer) if answer.upgrade.is_none() => {
            encode::protocols(config.dialect, &parts.headers)
        }
        _ => None,
    };
    let metadata = answered.metadata;
    let mut reply = encode(config.dialect, answered.answer, &parts.headers);
    if config.reports() {
        encode::settlement(reply.headers_mut(), metadata);
    }
    if let Some(protocols) = kept {
        reply.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, protocols);
    }
    reply
}

fn denial_of(error: BodyError) -> Denial {
    match error {
        BodyError::Refused(Refusal::TooLarge) => {
            Denial::new(Reason::BodyTooLarge, "the body is larger than body.max")
        }
        BodyError::Refused(Refusal::NoRoom) => {
            Denial::new(Reason::Overloaded, "body.max_in_flight is used up")
                .with_retry_after(Span::from_secs(1))
        }
        BodyError::Refused(Refusal::Late) | BodyError::Incomplete => {
            Denial::new(Reason::MalformedRequest, "the check's body did not arrive")
        }
    }
}
