//! The composition root: builds the rooms, binds the listeners, gets ready, drains.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use prost::Message as _;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::Notify,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tollgate_core::{
    authn::{issuer::KeySource, jwks::KeySet},
    decision::{Denial, Dialect, Evidence, Reason, answer},
    policy::Policy,
    time::Span,
};

use crate::{
    admin::Admin,
    check::{Checker, Clock},
    config::{File, Loaded},
    frontend::{
        envoy::{self, EnvoyAuthorization},
        grpc,
        in_flight::{Bounded, Bounds},
    },
    jwks::Engine,
    listener::{self, Address, Listener, Protocol, Tls},
    live::Live,
    observe::Observer,
    ops::Ops,
    pb::envoy::service::auth::v3::authorization_server::AuthorizationServer,
    ready::Readiness,
    reload::Reloader,
    secrets, store,
};

/// How long load balancers get to notice that readiness is off before connections are ended.
const NOTICE: Duration = Duration::from_millis(500);

/// A gate that answers.
#[derive(Debug)]
pub struct App {
    /// Where gRPC is served.
    pub grpc: Address,
    /// Where health and metrics are served.
    pub ops: Address,
    /// Where the admin API is served.
    pub admin: Option<Address>,
    /// Whether it is ready.
    pub readiness: Arc<Readiness>,
    live: Arc<Live>,
    engine: Arc<Engine>,
    observer: Arc<Observer>,
    looked: Arc<Notify>,
    stop: CancellationToken,
    servers: JoinSet<()>,
    drain: Duration,
}
