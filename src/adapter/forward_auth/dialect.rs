//! The differences between proxies: one row of data for each dialect. The decoder and the encoder
//! read the rows and contain no name of a proxy.

use std::fmt;

use schemars::JsonSchema;
use serde::Deserialize;

/// The proxy that sends the checks of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Dialect {
    /// nginx, by `auth_request` (no bodies) or by njs (with bodies).
    Nginx,
    /// Traefik's ForwardAuth middleware.
    Traefik,
    /// Caddy's directive `forward_auth`.
    Caddy,
    /// HAProxy, by the Lua action in `deploy/haproxy`.
    Haproxy,
    /// Envoy's ext_authz with `http_service`.
    EnvoyHttp,
}

/// The place of one part of the client's request in a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestPart {
    /// This header (lower case), which the proxy sets itself.
    Header(&'static str),
    /// The check's own request line: the check repeats the client's request.
    RequestLine,
}

/// The checks that contain the client's body, on a listener whose `body` is `sent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyForwarding {
    /// None: the proxy cannot send bodies.
    Never,
    /// Proxies that check all requests.
    Always,
    /// Checks with the method POST. A proxy that omits a body uses another method.
    PostOnly,
}

/// The way to report to a proxy that an identity header has no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AbsentHeader {
    /// An empty value, which replaces the client's value.
    Empty,
    /// No header: the proxy deletes every header that it is configured to copy and does not get.
    Omitted,
    /// Its name in the list in this header.
    Listed(&'static str),
}

/// The statuses that the proxy forwards to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StatusMapping {
    /// All, with headers and body.
    All,
    /// 401 and 403, without a body. Any other status is sent as 403; [`STATUS`] and [`BODY`] have
    /// the values for the client.
    UnauthorizedAndForbidden,
    /// All below 500. A 5xx is a failed check to this proxy, which it may forward, so a denial is
    /// never sent as one.
    BelowServerErrors,
}

/// The true status of an answer under [`StatusMapping::UnauthorizedAndForbidden`].
pub(super) const STATUS: &str = "x-tollgate-status";

/// The body of an answer under [`StatusMapping::UnauthorizedAndForbidden`]: JSON in ASCII.
pub(super) const BODY: &str = "x-tollgate-body";

/// The reservation of a request, on listeners whose proxy reports usage.
pub(super) const RESERVATION: &str = "x-tollgate-reservation";

/// What the proxy writes into the body of a request, on the same listeners.
pub(super) const CHANGES: &str = "x-tollgate-body-changes";

/// The row of one dialect.
#[derive(Clone, Copy, Debug)]
pub(super) struct DialectSpec {
    pub(super) method: RequestPart,
    /// Path and query.
    pub(super) path: RequestPart,
    pub(super) host: RequestPart,
    /// The header with `http` or `https`.
    pub(super) scheme: &'static str,
    /// The header with the client's address, or a list that ends with it.
    pub(super) address: &'static str,
    /// Whether the proxy joins repeated headers with commas, so that a comma may be a repetition.
    pub(super) joined: bool,
    pub(super) bodies: BodyForwarding,
    pub(super) absent: AbsentHeader,
    pub(super) statuses: StatusMapping,
    /// Whether the shipped configuration forwards `Sec-WebSocket-Protocol` as the answer has it.
    pub(super) protocols: bool,
    /// The change in the proxy after which it sends bodies.
    pub(super) remedy: &'static str,
}

impl Dialect {
    pub(super) const fn spec(self) -> DialectSpec {
        match self {
            Self::Nginx => DialectSpec {
                method: RequestPart::Header("x-original-method"),
                path: RequestPart::Header("x-original-uri"),
                host: RequestPart::Header("x-original-host"),
                scheme: "x-original-scheme",
                address: "x-real-ip",
                joined: false,
                bodies: BodyForwarding::PostOnly,
                absent: AbsentHeader::Empty,
                statuses: StatusMapping::UnauthorizedAndForbidden,
                protocols: true,
                remedy: "use njs (deploy/nginx/njs.conf), which sends bodies, and write \
                         `body: sent`",
            },
            Self::Traefik => DialectSpec {
                method: RequestPart::Header("x-forwarded-method"),
                path: RequestPart::Header("x-forwarded-uri"),
                host: RequestPart::Header("x-forwarded-host"),
                scheme: "x-forwarded-proto",
                address: "x-forwarded-for",
                joined: false,
                bodies: BodyForwarding::Always,
                absent: AbsentHeader::Omitted,
                statuses: StatusMapping::All,
                protocols: false,
                remedy: "set `forwardBody: true` in the ForwardAuth middleware, and write \
                         `body: sent`",
            },
            Self::Caddy => DialectSpec {
                method: RequestPart::Header("x-forwarded-method"),
                path: RequestPart::Header("x-forwarded-uri"),
                host: RequestPart::Header("x-forwarded-host"),
                scheme: "x-forwarded-proto",
                address: "x-forwarded-for",
                joined: false,
                bodies: BodyForwarding::Never,
                absent: AbsentHeader::Empty,
                statuses: StatusMapping::All,
                protocols: false,
                remedy: "Caddy's forward_auth cannot send bodies: use another proxy for this route",
            },
            Self::Haproxy => DialectSpec {
                method: RequestPart::Header("x-original-method"),
                path: RequestPart::Header("x-original-uri"),
                host: RequestPart::Header("x-original-host"),
                scheme: "x-original-scheme",
                address: "x-real-ip",
                joined: false,
                bodies: BodyForwarding::PostOnly,
                absent: AbsentHeader::Empty,
                statuses: StatusMapping::All,
                protocols: false,
                remedy: "call `lua.tollgate` with the argument `body` \
                         (deploy/haproxy/haproxy.cfg), and write `body: sent`",
            },
            Self::EnvoyHttp => DialectSpec {
                method: RequestPart::RequestLine,
                path: RequestPart::RequestLine,
                host: RequestPart::RequestLine,
                scheme: "x-forwarded-proto",
                address: "x-forwarded-for",
                joined: true,
                bodies: BodyForwarding::Always,
                absent: AbsentHeader::Listed("x-envoy-auth-headers-to-remove"),
                statuses: StatusMapping::BelowServerErrors,
                protocols: false,
                remedy: "set `with_request_body` in the ext_authz filter, and write `body: sent`",
            },
        }
    }

    /// Returns whether the shipped configuration forwards `Sec-WebSocket-Protocol` as an answer has
    /// it.
    pub fn rewrites_protocols(self) -> bool {
        self.spec().protocols
    }

    /// Returns whether the proxy removes the headers that an answer lists.
    pub fn removes_listed_headers(self) -> bool {
        matches!(self.spec().absent, AbsentHeader::Listed(_))
    }

    /// Returns whether a shipped configuration reports usage, and writes into bodies.
    pub(super) fn can_settle(self) -> bool {
        self == Self::Nginx
    }

    /// Returns whether the proxy can send bodies.
    pub(super) fn can_send_bodies(self) -> bool {
        self.spec().bodies != BodyForwarding::Never
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nginx => "nginx",
            Self::Traefik => "traefik",
            Self::Caddy => "caddy",
            Self::Haproxy => "haproxy",
            Self::EnvoyHttp => "envoy_http",
        })
    }
}
