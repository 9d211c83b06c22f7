//! Many requests at once. A proxy sends as many checks, and one that finds no room (a stream beyond
//! the limit of a connection, a circuit breaker) fails before Tollgate reads it: the proxy decides.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use http::Request;
use http_body_util::Empty;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::time::timeout;

use super::{Probes, Verdict};

const NAME: &str = "bursts_are_answered";

const REMEDY: &str = "the proxy could not send all checks of the burst: raise the breakers of its cluster for Tollgate (`circuit_breakers` with `max_requests`, `max_pending_requests` and `max_connections`), let it use at most 200 streams of a connection (`max_concurrent_streams`), raise `max_outbound_control_frames` and `connect_timeout` (deploy/envoy/envoy.yaml has all of them); bound the connections of a proxy that opens one for each check (deploy/caddy/Caddyfile), of which Tollgate takes 512; and keep `failure_mode_allow: false`";

/// The requests on a connection of HTTP/2, which common proxies admit.
const STREAMS: u32 = 100;

/// The most connections of HTTP/1 at a time, below the open files of a process.
const CONNECTIONS: u32 = 128;

/// The time for all answers.
const DEADLINE: Duration = Duration::from_secs(30);

/// The answers to a burst without a credential.
#[derive(Debug, Default, PartialEq, Eq)]
struct Answers {
    /// Denied by Tollgate.
    denied: u32,
    /// Without an answer.
    closed: u32,
    /// Answered by something else, by status.
    others: BTreeMap<u16, u32>,
}

impl Answers {
    fn count(&mut self, status: u16, is_decision: bool) {
        if is_decision && status >= 400 {
            self.denied += 1;
        } else {
            *self.others.entry(status).or_default() += 1;
        }
    }

    /// What the answers mean.
    fn verdict(&self) -> Verdict {
        // 429 is a limit of the proxy itself, which sends no check.
        let failed = self.others.keys().any(|status| *status != 429);
        if self.others.keys().any(|status| *status < 400) {
            Verdict::Leak
        } else if failed || self.denied == 0 {
            Verdict::Fault
        } else {
            Verdict::Ok
        }
    }

    fn detail(&self, protocol: &str, path: &str) -> String {
        let sent = self.denied + self.closed + self.others.values().sum::<u32>();
        let mut parts = vec![format!("{} denied by Tollgate", self.denied)];
        parts.extend(self.others.iter().map(|(status, count)| format!("{count} got {status}")));
        if self.closed > 0 {
            parts.push(format!("{} were closed", self.closed));
        }
        format!("{sent} at once over {protocol}, GET {path}: {}", parts.join(", "))
    }
}

impl Probes<'_> {
    /// Tests that a burst of requests without a credential is answered by Tollgate.
    pub(super) async fn bursts(&mut self) -> anyhow::Result<()> {
        let (path, requests) = (self.protected.path.clone(), self.doctor.burst);
        if requests == 0 {
            self.add(NAME, Verdict::Skipped, "`--burst` is 0", None);
            return Ok(());
        }
        let (protocol, answers) = match self.burst_of_http2(&path, requests).await? {
            Some(answers) => ("HTTP/2", answers),
            None => ("HTTP/1.1", self.burst_of_http1(&path, requests.min(CONNECTIONS)).await?),
        };
        let verdict = answers.verdict();
        let remedy = (verdict != Verdict::Ok).then_some(REMEDY);
        self.add(NAME, verdict, answers.detail(protocol, &path), remedy);
        Ok(())
    }

    /// Sends all requests on connections of HTTP/2. Returns `None` if the proxy does not speak it.
    async fn burst_of_http2(&self, path: &str, requests: u32) -> anyhow::Result<Option<Answers>> {
        let mut clients = Vec::new();
        for _ in 0..requests.div_ceil(STREAMS) {
            let Some(stream) = self.target.connect_http2().await? else { return Ok(None) };
            let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
            let Ok(Ok((client, connection))) = timeout(DEADLINE, handshake).await else {
                return Ok(None);
            };
            tokio::spawn(connection);
            clients.push(client);
        }
        let host = self.doctor.host.as_deref().unwrap_or(&self.target.host);
        let uri = format!("{}://{host}{path}", self.target.scheme());
        let send = |mut client: http2::SendRequest<Empty<Bytes>>| {
            let request = Request::get(&uri).header("user-agent", "tollgate-doctor");
            async move {
                let reply = client.send_request(request.body(Empty::new()).ok()?).await.ok()?;
                let is_decision = reply.headers().contains_key("x-tollgate-decision-id");
                Some((reply.status().as_u16(), is_decision))
            }
        };
        // The first answer shows whether the proxy speaks HTTP/2.
        let Some(first) = clients.first() else { return Ok(None) };
        let Ok(Some(_)) = timeout(DEADLINE, send(first.clone())).await else { return Ok(None) };
        let all = (0..requests).zip(clients.iter().cycle());
        let sent = all.map(|(_, client)| timeout(DEADLINE, send(client.clone())));
        let mut answers = Answers::default();
        for answer in join_all(sent).await {
            match answer.ok().flatten() {
                Some((status, is_decision)) => answers.count(status, is_decision),
                None => answers.closed += 1,
            }
        }
        Ok(Some(answers))
    }

    /// Sends all requests on connections of their own.
    async fn burst_of_http1(&self, path: &str, requests: u32) -> anyhow::Result<Answers> {
        let mut answers = Answers::default();
        for reply in join_all((0..requests).map(|_| self.send("GET", path, &[], ""))).await {
            match reply? {
                Some(reply) => {
                    let is_decision = reply.header("x-tollgate-decision-id").is_some();
                    answers.count(reply.status, is_decision);
                }
                None => answers.closed += 1,
            }
        }
        Ok(answers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_decisions_of_tollgate_are_sound() {
        for (answers, verdict) in [
            (&[(401, true), (503, true)][..], Verdict::Ok),
            (&[(401, true), (200, false)], Verdict::Leak),
            (&[(401, true), (200, true)], Verdict::Leak),
            (&[(401, true), (403, false)], Verdict::Fault),
            (&[(401, true), (429, false)], Verdict::Ok),
            (&[(429, false)], Verdict::Fault),
            (&[], Verdict::Fault),
        ] {
            let mut counted = Answers::default();
            for (status, is_decision) in answers {
                counted.count(*status, *is_decision);
            }
            assert_eq!(counted.verdict(), verdict, "{answers:?}");
        }
        let mut counted = Answers { closed: 2, ..Answers::default() };
        counted.count(401, true);
        counted.count(403, false);
        let detail =
            "4 at once over HTTP/2, GET /a: 1 denied by Tollgate, 1 got 403, 2 were closed";
        assert_eq!(counted.detail("HTTP/2", "/a"), detail);
    }
}
