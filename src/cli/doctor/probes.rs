//! The probes: requests that a Tollgate behind a well configured proxy never lets through, or
//! answers in one way only, and the meaning of each answer.

mod bound_tokens;
mod bursts;
mod certificates;
mod large_headers;

use std::time::{Duration, Instant};

pub(super) use self::bound_tokens::BoundClient;
use super::{
    Doctor, Finding, Verdict,
    wire::{Reply, Target},
};
use crate::cli::progress::Progress;

/// The state that the probes share.
pub(super) struct Probes<'a> {
    pub(super) target: &'a Target,
    pub(super) doctor: &'a Doctor,
    /// The request that needs a credential.
    pub(super) protected: Protected,
    /// A random value that marks the requests of this run.
    pub(super) marker: String,
    pub(super) token: Option<String>,
    /// The certificate of a client, in PEM.
    pub(super) certificate: Option<String>,
    /// A client whose token is bound to a key.
    pub(super) bound: Option<BoundClient>,
    pub(super) findings: Vec<Finding>,
    pub(super) progress: Progress,
}

/// A request that needs a credential.
#[derive(Clone, Debug)]
pub(super) struct Protected {
    method: &'static str,
    path: String,
}

impl Default for Protected {
    fn default() -> Self {
        Self { method: "GET", path: "/v1/models".to_owned() }
    }
}

impl Protected {
    /// The end of the head, for a method with a body an empty one.
    fn rest(&self) -> &'static str {
        if self.method == "GET" { "" } else { "Content-Length: 0\r\n\r\n" }
    }
}

const REMEDY_PROTECTED: &str = "no route has this path for GET or POST; name one that needs a credential with `--protected PATH`";
const REMEDY_TARGET: &str = "the proxy forwards headers in which the client describes its own request; set every header of the dialect in the proxy (docs/proxies.md), and never trust those of clients";
const REMEDY_PATH: &str = "the proxy selects the requests to check by another spelling of the path than the upstream reads; check every path with Tollgate, and normalise before any rule";
const REMEDY_IDENTITY: &str = "remove the header from the client's request, in every spelling, before Tollgate's is set (deploy/ has the configuration for each proxy)";
const REMEDY_DECISION: &str = "after a check with the context extension `tollgate.phase: head` there must be a second ext_authz filter, with the body and without that extension (deploy/envoy/envoy-strangers.yaml)";
const REMEDY_STREAM: &str = "the proxy waits for the end of the body before it sends the check; switch that off for this path (`disable_request_body_buffering` in Envoy, deploy/envoy/envoy.yaml)";
const REMEDY_MAPPING: &str = "the proxy replaces Tollgate's answer; forward its status, headers and body (deploy/ has the configuration for each proxy)";

impl Probes<'_> {
    pub(super) async fn all(&mut self) -> anyhow::Result<()> {
        self.protected = self.find_protected().await?;
        self.progress.now("1/10: denials that reach the client");
        self.denials().await?;
        self.progress.now("2/10: targets that a client claims");
        self.claimed_targets().await?;
        self.progress.now("3/10: other spellings of the protected path");
        self.paths().await?;
        self.progress.now("4/10: methods");
        self.methods().await?;
        self.progress.now("5/10: forged identity");
        self.identity().await?;
        self.progress.now("6/10: two credentials");
        self.credentials().await?;
        self.certificates().await?;
        self.bound_tokens().await?;
        self.progress.now("7/10: a body that is too large");
        self.body_limit().await?;
        self.progress.now("8/10: requests that stay open");
        self.streams().await?;
        self.progress.now("9/10: large headers");
        self.large_headers().await?;
        self.progress.now("10/10: many requests at once");
        self.bursts().await
    }

    /// Returns the results, and clears the line of progress.
    pub(super) fn into_findings(self) -> Vec<Finding> {
        self.findings
    }

    fn add(
        &mut self,
        name: &'static str,
        verdict: Verdict,
        detail: impl Into<String>,
        remedy: Option<&'static str>,
    ) {
        self.findings.push(Finding { name, verdict, detail: detail.into(), remedy });
    }

    /// Adds one result for a group of probes: all leaks, or none.
    fn summarize(
        &mut self,
        name: &'static str,
        tried: usize,
        leaks: &[String],
        remedy: &'static str,
    ) {
        if leaks.is_empty() {
            self.add(name, Verdict::Ok, format!("{tried} tried, none passed"), None);
        } else {
            self.add(name, Verdict::Leak, leaks.join("; "), Some(remedy));
        }
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        rest: &str,
    ) -> anyhow::Result<Option<Reply>> {
        let host = self.doctor.host.as_deref().unwrap_or(&self.target.host);
        let mut text =
            format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: tollgate-doctor\r\n");
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("connection")) {
            text.push_str("Connection: close\r\n");
        }
        text.push_str(if rest.is_empty() { "\r\n" } else { rest });
        self.target.exchange(text.as_bytes()).await
    }

    fn authorization(&self) -> Option<String> {
        self.token.as_ref().map(|token| format!("Bearer {token}"))
    }

    /// Returns the request that needs a credential: the first candidate that Tollgate does not
    /// refuse for lack of a route, or else the first. Any other answer, a leak above all, is a
    /// finding of its own.
    async fn find_protected(&self) -> anyhow::Result<Protected> {
        let request = |method, path: &str| Protected { method, path: path.to_owned() };
        let candidates = match &self.doctor.protected {
            Some(path) => vec![request("GET", path), request("POST", path)],
            None => vec![Protected::default(), request("POST", &self.doctor.post)],
        };
        for candidate in &candidates {
            let Protected { method, path } = candidate;
            let reply = self.send(method, path, &[], candidate.rest()).await?;
            let code = reply.as_ref().and_then(Reply::code);
            if code.as_deref() != Some("no_route") {
                return Ok(candidate.clone());
            }
        }
        Ok(candidates.into_iter().next().unwrap_or_default())
    }

    /// Tests that denials reach the client unchanged.
    async fn denials(&mut self) -> anyhow::Result<()> {
        let Protected { method, path: protected } = self.protected.clone();
        let unlisted = format!("/{}", self.marker);
        let rows = [
            ("protected_needs_a_credential", method, protected.clone(), 401, "missing_credential"),
            ("unlisted_is_denied", "GET", unlisted, 403, "no_route"),
            // A path that proxies do not refuse themselves, and Tollgate does not let through.
            (
                "malformed_stays_400",
                "GET",
                format!("{protected};{}", self.marker),
                400,
                "malformed_request",
            ),
        ];
        for (name, method, path, status, code) in rows {
            let rest = Protected { method, path: String::new() }.rest();
            let Some(reply) = self.send(method, &path, &[], rest).await? else {
                self.add(
                    name,
                    Verdict::Fault,
                    format!("{method} {path}: no answer"),
                    Some(REMEDY_MAPPING),
                );
                continue;
            };
            let code_sent = reply.code();
            let detail = format!(
                "{method} {path}: {}{}",
                reply.status,
                code_sent.as_deref().map(|code| format!(" {code}")).unwrap_or_default()
            );
            if reply.passed() || (reply.status == 404 && code_sent.is_none()) {
                self.add(
                    name,
                    Verdict::Leak,
                    format!("{detail}: the request was not stopped"),
                    Some(REMEDY_PATH),
                );
            } else if reply.status != status || code_sent.as_deref() != Some(code) {
                let no_route =
                    code == "missing_credential" && code_sent.as_deref() == Some("no_route");
                let remedy = if no_route { REMEDY_PROTECTED } else { REMEDY_MAPPING };
                self.add(
                    name,
                    Verdict::Fault,
                    format!("{detail}, where {status} {code} was expected"),
                    Some(remedy),
                );
            } else if reply.header("x-tollgate-decision-id").is_none()
                || (status == 401 && reply.header("www-authenticate").is_none())
            {
                let missing = "without `x-tollgate-decision-id` or `WWW-Authenticate`";
                self.add(
                    name,
                    Verdict::Fault,
                    format!("{detail}, {missing}"),
                    Some(REMEDY_MAPPING),
                );
            } else {
                self.add(name, Verdict::Ok, detail, None);
            }
        }
        Ok(())
    }

    /// Tests headers in which a client claims another target.
    async fn claimed_targets(&mut self) -> anyhow::Result<()> {
        let request = self.protected.clone();
        let (protected, public) = (request.path.clone(), self.doctor.public.clone());
        let url = format!("https://{}{public}", self.target.host);
        let mut tried = 0;
        let mut leaks = Vec::new();
        for (part, value) in [
            ("URI", &*public),
            ("Uri", &public),
            ("URL", &url),
            ("Path", &public),
            ("Method", "OPTIONS"),
            ("Prefix", &public),
        ] {
            for family in ["X-Original-", "X-Forwarded-", "X_Original_", "X_Forwarded_"] {
                let name = format!("{family}{part}");
                let connection = format!("close, {name}");
                for headers in [
                    &[(&*name, value)][..],
                    &[(&*name, value), (&*name, value)],
                    &[(&*name, value), ("Connection", &connection)],
                ] {
                    tried += 1;
                    if self
                        .send(request.method, &protected, headers, request.rest())
                        .await?
                        .is_some_and(|reply| reply.passed())
                    {
                        leaks.push(format!("`{name}` opens {protected}"));
                        break;
                    }
                }
            }
        }
        self.summarize("said_targets_are_not_believed", tried, &leaks, REMEDY_TARGET);
        Ok(())
    }

    /// Tests spellings of the protected path that begin with the public one.
    async fn paths(&mut self) -> anyhow::Result<()> {
        let public = self.doctor.public.trim_end_matches('/').to_owned();
        let request = self.protected.clone();
        let (protected, method) = (request.path.clone(), request.method);
        let bare = protected.trim_start_matches('/');
        let back = |step: &str| public.split('/').skip(1).map(|_| step).collect::<String>();
        let encoded = bare.replace('/', "%2f");
        let rows = [
            format!("{public}/{}{bare}", back("../")),
            format!("{public}/{}{bare}", back("%2e%2e/")),
            format!("{public}/{}{bare}", back("..%2f")),
            format!("{public}%2f{}{encoded}", back("..%2f")),
            format!("{public}/{}{bare}", back("%252e%252e/")),
            format!("{public}/{}{bare}", back("..;/")),
            format!("{public};/{}{bare}", back("../")),
            format!("{public}/{}{bare}", back("..%5c")),
            format!("//{bare}"),
            format!("/./{bare}"),
            format!("/%2e/{bare}"),
            format!("{protected}%2f..%2f..{public}"),
            format!("{protected}?/../..{public}"),
            format!("{protected}%00{public}"),
        ];
        let mut leaks = Vec::new();
        for path in &rows {
            let reply = self.send(method, path, &[], request.rest()).await?;
            if reply.is_some_and(|reply| reply.passed()) {
                leaks.push(format!("{method} {path} passes without a credential"));
            }
        }
        self.summarize("no_path_shadows_a_protected_one", rows.len(), &leaks, REMEDY_PATH);
        Ok(())
    }

    async fn methods(&mut self) -> anyhow::Result<()> {
        let protected = self.protected.path.clone();
        let methods = ["HEAD", "POST", "PUT", "DELETE", "TRACE", "get", "TOLLGATE"];
        let mut leaks = Vec::new();
        for method in methods {
            if self
                .send(method, &protected, &[], "Content-Length: 0\r\n\r\n")
                .await?
                .is_some_and(|reply| reply.passed())
            {
                leaks.push(format!("{method} {protected} passes without a credential"));
            }
        }
        self.summarize(
            "no_method_goes_around",
            methods.len(),
            &leaks,
            "check every method with Tollgate",
        );
        Ok(())
    }

    /// Tests identity headers of the client, where the upstream echoes what it received.
    async fn identity(&mut self) -> anyhow::Result<()> {
        const NAMES: [&str; 4] = [
            "forged_identity_does_not_arrive",
            "trailers_carry_no_identity",
            "connection_takes_no_identity_away",
            "the_upstream_receives_a_decision",
        ];
        let Some(echo) = self.doctor.echo.clone() else {
            for name in NAMES {
                self.add(
                    name,
                    Verdict::Skipped,
                    "needs `--echo PATH`: a route whose upstream answers with the headers it got",
                    None,
                );
            }
            return Ok(());
        };
        let (marker, authorization) = (self.marker.clone(), self.authorization());
        let own: Vec<(&str, &str)> =
            authorization.iter().map(|value| ("Authorization", value.as_str())).collect();
        let plain = self.send("GET", &echo, &own, "").await?;
        let shows = |reply: &Option<Reply>, text: &str| {
            reply.as_ref().is_some_and(|reply| reply.body.to_ascii_lowercase().contains(text))
        };
        if !shows(&plain, "tollgate-doctor") {
            let status = plain.map_or("no answer".to_owned(), |reply| reply.status.to_string());
            for name in NAMES {
                let detail = format!(
                    "GET {echo} does not show the request's headers ({status}); is a `--token` missing?"
                );
                self.add(name, Verdict::Skipped, detail, None);
            }
            return Ok(());
        }
        let spellings = [
            "X-Tollgate-Subject",
            "X-Tollgate-Tenant",
            "X-Tollgate-Scopes",
            "X-Tollgate-Credential",
            "X-Tollgate-Model",
            "X-Tollgate-Issuer",
            "X-Tollgate-Key-Id",
            "X-Tollgate-Actor",
            "X-Tollgate-Decision-Id",
            "X-Tollgate-Admin",
            "X_Tollgate_Subject",
            "X-Tollgate_Subject",
            "x_tollgate-tenant",
            "X.Tollgate.Subject",
        ];
        let mut leaks = Vec::new();
        for name in spellings {
            let forged = [&own[..], &[(name, &*marker), (name, &*marker)]].concat();
            if shows(&self.send("GET", &echo, &forged, "").await?, &marker) {
                leaks.push(format!("`{name}` of the client's reaches the upstream"));
            }
        }
        self.summarize("forged_identity_does_not_arrive", spellings.len(), &leaks, REMEDY_IDENTITY);

        let trailing = [&own[..], &[("TE", "trailers"), ("Trailer", "X-Tollgate-Tenant")]].concat();
        let chunks = format!(
            "Transfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\nX-Tollgate-Tenant: {marker}\r\n\r\n"
        );
        let leaked = shows(&self.send("GET", &echo, &trailing, &chunks).await?, &marker);
        let leaks: Vec<String> = leaked
            .then(|| "a trailer `X-Tollgate-Tenant` reaches the upstream".to_owned())
            .into_iter()
            .collect();
        self.summarize("trailers_carry_no_identity", 1, &leaks, REMEDY_IDENTITY);

        let mut leaks = Vec::new();
        let known: Vec<&str> = ["x-tollgate-subject", "x-tollgate-decision-id"]
            .into_iter()
            .filter(|name| shows(&plain, name))
            .collect();
        for name in &known {
            let connection = format!("close, {name}");
            let reply = self
                .send("GET", &echo, &[&own[..], &[("Connection", &*connection)]].concat(), "")
                .await?;
            if shows(&reply, "tollgate-doctor")
                && !shows(&reply, &format!("{name}\""))
                && !shows(&reply, &format!("{name}:"))
            {
                leaks.push(format!("`Connection: {name}` takes the header away"));
            }
        }
        self.summarize(
            "connection_takes_no_identity_away",
            known.len(),
            &leaks,
            "refuse requests whose `Connection` names headers",
        );

        // A check of the head alone sets nothing.
        let mut missing = Vec::new();
        if !shows(&plain, "x-tollgate-decision-id") {
            missing.push(format!(
                "GET {echo} reaches the upstream without `x-tollgate-decision-id`: \
                 there was no check, or a check of the head only"
            ));
        }
        self.summarize("the_upstream_receives_a_decision", 1, &missing, REMEDY_DECISION);
        Ok(())
    }

    async fn credentials(&mut self) -> anyhow::Result<()> {
        let name = "two_credentials_are_none";
        let Some(authorization) = self.authorization() else {
            self.add(name, Verdict::Skipped, "needs `--token`", None);
            return Ok(());
        };
        let Protected { method, path: protected } = self.protected.clone();
        if method != "GET" {
            self.add(name, Verdict::Skipped, "needs a `--protected` path that GET opens", None);
            return Ok(());
        }
        if !self
            .send("GET", &protected, &[("Authorization", &authorization)], "")
            .await?
            .is_some_and(|reply| reply.passed())
        {
            self.add(name, Verdict::Skipped, format!("the token does not open {protected}"), None);
            return Ok(());
        }
        let other = "Bearer tollgate-doctor";
        let mut leaks = Vec::new();
        for (first, second) in [(&*authorization, other), (other, &authorization)] {
            let both = [("Authorization", first), ("Authorization", second)];
            if self.send("GET", &protected, &both, "").await?.is_some_and(|reply| reply.passed()) {
                leaks.push(format!("two `Authorization` headers open {protected}"));
            }
        }
        self.summarize(name, 2, &leaks, "forward repeated headers unchanged, or refuse them");
        Ok(())
    }

    async fn body_limit(&mut self) -> anyhow::Result<()> {
        let name = "large_bodies_are_refused";
        let Some(limit) = self.doctor.body_limit else {
            self.add(name, Verdict::Skipped, "needs `--body-limit SIZE`", None);
            return Ok(());
        };
        let path = self.doctor.post.clone();
        let authorization = self.authorization();
        let mut headers = vec![("Content-Type", "application/json")];
        headers.extend(authorization.iter().map(|value| ("Authorization", value.as_str())));
        let body = format!(
            "Content-Length: {}\r\n\r\n{{\"x\":\"{}\"}}",
            limit.0 + 1,
            "x".repeat((limit.0 + 1).saturating_sub(8))
        );
        let reply = self.send("POST", &path, &headers, &body).await?;
        let status = reply.as_ref().map_or(0, |reply| reply.status);
        let detail = format!(
            "POST {path} with {} bytes: {}",
            limit.0 + 1,
            if status == 0 { "closed".into() } else { status.to_string() }
        );
        match status {
            200..400 => self.add(
                name,
                Verdict::Leak,
                detail,
                Some("limit bodies in the proxy, not above Tollgate's `body.max`"),
            ),
            500.. => self.add(
                name,
                Verdict::Fault,
                detail,
                Some("the proxy's limit is above Tollgate's `body.max`, or its answer is replaced"),
            ),
            _ => self.add(name, Verdict::Ok, detail, None),
        }
        Ok(())
    }

    /// Tests that a request whose body has not ended is answered.
    async fn streams(&mut self) -> anyhow::Result<()> {
        // A proxy that waits for the body gives up after its own time-out, or the doctor after its.
        const PROMPT: Duration = Duration::from_secs(5);
        let name = "open_requests_are_answered";
        let headers =
            [("Content-Type", "application/grpc"), ("TE", "trailers"), ("Connection", "close, te")];
        // The beginning of a message, and no end.
        let rest = "Transfer-Encoding: chunked\r\n\r\n5\r\n\0\0\0\0\0\r\n";
        for path in self.doctor.stream.clone() {
            let started = Instant::now();
            let reply = self.send("POST", &path, &headers, rest).await?;
            let prompt = started.elapsed() < PROMPT;
            // gRPC has its own status, in an answer of 200.
            let denied =
                |reply: &Reply| reply.header("grpc-status").is_some_and(|code| code != "0");
            match reply {
                Some(reply) if prompt && reply.passed() && !denied(&reply) => self.add(
                    name,
                    Verdict::Leak,
                    format!("POST {path} without a credential: {}", reply.status),
                    Some(REMEDY_PATH),
                ),
                Some(reply) if prompt => {
                    self.add(name, Verdict::Ok, format!("POST {path}: {}", reply.status), None);
                }
                None if prompt => {
                    self.add(name, Verdict::Ok, format!("POST {path}: closed"), None);
                }
                _ => self.add(
                    name,
                    Verdict::Fault,
                    format!("POST {path}: no answer before the body ended"),
                    Some(REMEDY_STREAM),
                ),
            }
        }
        Ok(())
    }
}
