//! Proxies that ask over HTTP: a request per check, which describes the client's request in its headers and is answered with a
//! status. nginx, Traefik, Caddy, HAProxy, and Envoy's HTTP service: one [`Dialect`] each, which is a row of data.
//!
//! ```text
//! trusted peer -> body within the budget -> decode -> Checker -> encode
//! ```
//!
//! Nothing about the check's own request line, its `Host` or its framing is taken for the client's, except in the one dialect
//! whose checks are the client's request again. No path and no user agent is special: health is on `listen.ops`
//! (CVE-2026-34457 let a health checker's user agent through on every path).

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
use http::{Method, Request, header};
use http_body::Body;
use http_body_util::Full;
use tollgate_core::{
    denial::{Denial, Reason},
    time::Span,
};

pub use self::{
    config::{BodyPolicy, ForwardAuthConfig},
    decode::{decode, has_body},
    dialect::Dialect,
    encode::{ProxyResponse, encode},
};
use super::in_flight::{BodyError, InFlight, Refusal};
use crate::{
    engine::check::{CheckAnswer, Checker},
    listener::Peer,
};

/// Answers the checks of one listener. Clones share everything.
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
    /// Serves `checker`'s decisions in the dialect of `config`; bodies are held within `budget`.
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
        let held = if has_body { budget.read_body(body).await } else { budget.charge_call() };
        // Only a credential that was judged is sent on: the core refuses a second one.
        let credential = parts.headers.get(header::AUTHORIZATION);
        let encode =
            |answered: CheckAnswer<'_>| encode(config.dialect, answered.answer, credential);
        let mut reply = match &held {
            Ok(held) => {
                let read = || decode(config, &parts, has_body.then(|| &**held.bytes()));
                checker.check(None, read, encode).await
            }
            Err(unread) => checker.refuse(denial_of(*unread), encode),
        };
        // A check that repeats the client's HEAD is answered without a body, and without the length of one: Envoy takes a length
        // with nothing behind it for a failed check, which it may let pass.
        if parts.method == Method::HEAD {
            *reply.body_mut() = Full::default();
        }
        reply
    }

    /// Told ever more rarely: whoever causes this would fill the log too.
    fn log_untrusted(&self, peer: Option<Peer>) {
        let count = self.shared.untrusted.fetch_add(1, Ordering::Relaxed) + 1;
        if count.is_power_of_two() {
            let address = &self.shared.config.address;
            tracing::warn!(%address, ?peer, count, "refused a check: its sender is not among `trusted_proxies`");
        }
    }
}

fn denial_of(unread: BodyError) -> Denial {
    match unread {
        BodyError::Refused(Refusal::TooLarge) => {
            Denial::new(Reason::BodyTooLarge, "the body is larger than body.max")
        }
        BodyError::Refused(Refusal::NoRoom) => {
            Denial::new(Reason::Overloaded, "body.max_in_flight is used up")
                .with_retry_after(Span::from_secs(1))
        }
        BodyError::Incomplete => {
            Denial::new(Reason::MalformedRequest, "the check's body did not arrive")
        }
    }
}
