//! The listening sockets of a sidecar, kept by a process that does nothing else. Connections wait while
//! the sidecar is not there, and are not refused.

use std::{path::Path, sync::Arc};

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

use super::hand_over::{self, KEY};
use crate::{
    config::ListenConfig,
    listener::{ControlSocket, Listener, ListenerConfig, Protocol, SharedSocket},
};

/// Opens every listener of a configuration, and passes the sockets to each process that is started with
/// the same path of `--hand-over`, until SIGTERM or Ctrl-C.
///
/// # Errors
/// An address that cannot be bound, and a signal that cannot be handled.
pub async fn hold(listen: &ListenConfig, path: &Path) -> anyhow::Result<()> {
    let listen_for = |kind, name| signal(kind).with_context(|| format!("cannot listen for {name}"));
    let mut terminate = listen_for(SignalKind::terminate(), "SIGTERM")?;
    let mut interrupt = listen_for(SignalKind::interrupt(), "SIGINT")?;
    // The listeners own the files of Unix sockets.
    let (listeners, sockets) = open(listen).await?;
    let control = ControlSocket::bind(path, None).await.with_context(|| KEY)?;
    let sockets = Arc::new(sockets);
    tracing::info!(sockets = sockets.len(), "holding the listeners");
    loop {
        tokio::select! {
            stream = control.accept() => {
                let sockets = Arc::clone(&sockets);
                // In a task of its own: a peer that reads nothing holds up no other.
                tokio::spawn(async move {
                    match stream {
                        Ok(stream) => hand_over::lend(&stream, &sockets).await,
                        Err(error) => tracing::warn!("{KEY}: {error}"),
                    }
                });
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    drop(listeners);
    Ok(())
}

/// Opens the listeners of a configuration. TLS is negotiated by the process that serves.
async fn open(listen: &ListenConfig) -> anyhow::Result<(Vec<Listener>, Vec<SharedSocket>)> {
    // Every listener by name: a new one does not compile before it is held.
    let ListenConfig { grpc: _, access_log, ext_proc, http, settle, ops, admin, embedded: _ } =
        listen;
    let named = |key: &str, config: ListenerConfig| (key.to_owned(), config);
    let mut wanted: Vec<(String, ListenerConfig)> = Vec::new();
    wanted.extend(listen.grpc().map(|config| named("listen.grpc", config)));
    wanted.extend(access_log.clone().map(|config| named("listen.access_log", config)));
    wanted.extend(ext_proc.clone().map(|config| named("listen.ext_proc", config)));
    wanted.extend(settle.iter().map(|config| named("listen.settle", config.listener())));
    for (index, config) in http.iter().enumerate() {
        wanted.push((format!("listen.http[{index}]"), config.listener()));
    }
    wanted.push(named("listen.ops", ops.clone()));
    wanted.extend(admin.iter().map(|config| named("listen.admin", config.listener())));
    let (mut listeners, mut sockets) = (Vec::new(), Vec::new());
    for (key, config) in wanted {
        let config = ListenerConfig { tls: None, ..config };
        // It accepts no connection, so the protocol has no effect.
        let listener = Listener::bind(&key, &config, Protocol::Http).await?;
        sockets.push(listener.share(&key, &config.address)?);
        listeners.push(listener);
    }
    Ok((listeners, sockets))
}
