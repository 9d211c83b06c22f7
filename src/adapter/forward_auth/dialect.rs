//! What each proxy says and understands: one row of data per dialect. The decoder and the encoder read the rows and know no
//! proxy by name.

use std::fmt;

use schemars::JsonSchema;
use serde::Deserialize;

/// How a proxy asks over HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Dialect {
    /// nginx, by `auth_request` (no bodies) or by njs (with bodies).
    Nginx,
    /// Traefik's ForwardAuth.
    Traefik,
    /// Caddy's `forward_auth`.
    Caddy,
    /// HAProxy, by the Lua action in `deploy/haproxy`.
    Haproxy,
    /// Envoy's ext_authz with `http_service`.
    EnvoyHttp,
}

/// Where one part of the client's request stands in a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In this header (lower case), which the proxy sets itself.
    Header(&'static str),
    /// In the check's own request line: the check is the client's request again.
    Request,
}

/// Which checks have the client's body with them, on a listener whose `body` is `sent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bodies {
    /// None: the proxy cannot.
    Never,
    /// All of them.
    Always,
    /// Those with the method POST. A proxy that leaves a body out asks with another method.
    Posted,
}

/// How a proxy is told that an identity header has no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Absent {
    /// By an empty value: it replaces whatever the client sent under the name.
    Empty,
    /// By leaving it out: the proxy deletes every header that it was told to copy and did not get.
    LeftOut,
    /// By its name in the list that this header holds.
    Listed(&'static str),
}

/// Which statuses reach the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Statuses {
    /// Every one, with headers and body.
    All,
    /// 401 and 403 only, and no body. Everything else is sent as 403; [`STATUS`] and [`BODY`] say what the client should get.
    Refusals,
    /// Every one below 500. A 5xx is a failed check, which the proxy may let pass, so a denial is never sent as one.
    BelowServerErrors,
}

/// The true status of an answer under [`Statuses::Refusals`].
pub(super) const STATUS: &str = "x-tollgate-status";

/// The body of an answer under [`Statuses::Refusals`]: JSON in ASCII.
pub(super) const BODY: &str = "x-tollgate-body";

/// One row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) method: Place,
    /// Path and query.
    pub(super) path: Place,
    pub(super) host: Place,
    /// The header with `http` or `https`.
    pub(super) scheme: &'static str,
    /// The header with the client's address, or a list that ends with it.
    pub(super) address: &'static str,
    /// Whether the proxy joins repeated headers with commas, so that a comma may be a repetition.
    pub(super) joined: bool,
    pub(super) bodies: Bodies,
    pub(super) absent: Absent,
    pub(super) statuses: Statuses,
    /// What to do in the proxy so that bodies come.
    pub(super) remedy: &'static str,
}

impl Dialect {
    pub(super) const fn row(self) -> Row {
        match self {
            Self::Nginx => Row {
                method: Place::Header("x-original-method"),
                path: Place::Header("x-original-uri"),
                host: Place::Header("x-original-host"),
                scheme: "x-original-scheme",
                address: "x-real-ip",
                joined: false,
                bodies: Bodies::Posted,
                absent: Absent::Empty,
                statuses: Statuses::Refusals,
                remedy: "ask through njs (deploy/nginx/njs.conf), which sends bodies, and write `body: sent`",
            },
            Self::Traefik => Row {
                method: Place::Header("x-forwarded-method"),
                path: Place::Header("x-forwarded-uri"),
                host: Place::Header("x-forwarded-host"),
                scheme: "x-forwarded-proto",
                address: "x-forwarded-for",
                joined: false,
                bodies: Bodies::Always,
                absent: Absent::LeftOut,
                statuses: Statuses::All,
                remedy: "set `forwardBody: true` in the ForwardAuth middleware, and write `body: sent`",
            },
            Self::Caddy => Row {
                method: Place::Header("x-forwarded-method"),
                path: Place::Header("x-forwarded-uri"),
                host: Place::Header("x-forwarded-host"),
                scheme: "x-forwarded-proto",
                address: "x-forwarded-for",
                joined: false,
                bodies: Bodies::Never,
                absent: Absent::Empty,
                statuses: Statuses::All,
                remedy: "Caddy's forward_auth cannot send bodies: use another proxy for this route",
            },
            Self::Haproxy => Row {
                method: Place::Header("x-original-method"),
                path: Place::Header("x-original-uri"),
                host: Place::Header("x-original-host"),
                scheme: "x-original-scheme",
                address: "x-real-ip",
                joined: false,
                bodies: Bodies::Posted,
                absent: Absent::Empty,
                statuses: Statuses::All,
                remedy: "call `lua.tollgate` with the argument `body` (deploy/haproxy/haproxy.cfg), and write `body: sent`",
            },
            Self::EnvoyHttp => Row {
                method: Place::Request,
                path: Place::Request,
                host: Place::Request,
                scheme: "x-forwarded-proto",
                address: "x-forwarded-for",
                joined: true,
                bodies: Bodies::Always,
                absent: Absent::Listed("x-envoy-auth-headers-to-remove"),
                statuses: Statuses::BelowServerErrors,
                remedy: "set `with_request_body` in the ext_authz filter, and write `body: sent`",
            },
        }
    }

    /// Whether bodies can come at all.
    pub(super) fn can_send_bodies(self) -> bool {
        self.row().bodies != Bodies::Never
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
