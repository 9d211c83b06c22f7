//! A process of the sidecar: its start, in place of another process where one runs, and its signals.

use std::{
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::{
    App,
    hand_over::{self, KEY, Predecessor},
    servers::StartSockets,
    socket_activation,
};
use crate::{
    config::Loaded,
    engine::watch::Watch,
    listener::{Address, ControlSocket, InheritedSockets, SharedSocket},
    log_list::LogList,
    observe,
};

/// How long a process that replaces another one may take to be ready.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// How long a process whose sockets are held waits to be ready, before it answers what it can. Proxies
/// wait longer for an answer.
const HELD_WITHIN: Duration = Duration::from_secs(5);

/// How often readiness is looked at meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The signals that a process handles.
struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        let listen = |kind, name| signal(kind).with_context(|| format!("cannot listen for {name}"));
        Ok(Self {
            hangup: listen(SignalKind::hangup(), "SIGHUP")?,
            terminate: listen(SignalKind::terminate(), "SIGTERM")?,
            interrupt: listen(SignalKind::interrupt(), "SIGINT")?,
        })
    }

    /// Completes at a signal that ends the process; SIGHUP reloads the file.
    async fn end(&mut self, watch: &Watch) {
        loop {
            tokio::select! {
                _ = self.hangup.recv() => watch.request_reload(),
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
            }
        }
    }
}

/// Serves the file at `path`, which was loaded as `loaded`, until SIGTERM or Ctrl-C. SIGHUP reloads
/// the file. Without a path the configuration is not reloaded.
///
/// Listeners use the sockets of `inherited`. With `hand_over`, the process replaces the one that listens
/// there, and is replaced by the next one.
///
/// # Errors
/// The errors of [`App::start`], a signal that cannot be handled, and a hand-over that fails.
pub async fn serve(
    path: Option<PathBuf>,
    loaded: Loaded,
    mut inherited: InheritedSockets,
    hand_over: Option<PathBuf>,
) -> anyhow::Result<()> {
    let mut signals = Signals::listen()?;
    let is_activated = inherited.has_held();
    let mut predecessor = match &hand_over {
        Some(path) => Predecessor::connect(path, &mut inherited).await?,
        None => None,
    };
    let is_lent = predecessor.as_ref().is_some_and(|process| process.is_holder);
    let begin = CancellationToken::new();
    let are_shared = hand_over.is_some() && !is_lent;
    let start = StartSockets { inherited, are_shared, begin: Some(begin.clone()) };
    let mut app = App::start_on(start, loaded, Arc::new(observe::now)).await?;
    socket_activation::check_used(&app.inherited)?;
    let successors = match &hand_over {
        Some(path) if are_shared => Some(app.listen_for_successors(path).await?),
        _ => None,
    };
    let watch = app.watch(path);
    let replaced = predecessor.as_mut().filter(|process| !process.is_holder);
    let may_begin = async {
        match replaced {
            Some(running) => app.until_it_may_replace(running).await,
            None if is_activated || is_lent => {
                app.until_it_may_answer().await;
                Ok(())
            }
            None => Ok(()),
        }
    };
    tokio::select! {
        result = may_begin => result?,
        () = signals.end(&watch) => return Ok(()),
    }
    begin.cancel();
    app.shared.iter().for_each(SharedSocket::own_file);
    app.log_addresses();
    if let Some(predecessor) = predecessor {
        predecessor.replace().await;
    }
    let is_replaced = {
        let mut replaced = pin!(async {
            match &successors {
                Some(successors) => hand_over::replaced(successors, &app.shared).await,
                None => std::future::pending().await,
            }
        });
        tokio::select! {
            () = signals.end(&watch) => false,
            () = replaced.as_mut() => true,
        }
    };
    // A process that starts from here on finds none to replace.
    drop(successors);
    if is_replaced {
        tracing::info!("another process serves now, shutting down");
        app.end().await;
    } else {
        tracing::info!("shutting down");
        app.stop().await;
    }
    Ok(())
}

impl App {
    /// Opens the socket at `path`, where a process that replaces this one gets the sockets.
    async fn listen_for_successors(&mut self, path: &Path) -> anyhow::Result<ControlSocket> {
        let path = &std::path::absolute(path)?;
        let inherited = self.inherited.take(KEY, &Address::Unix(path.clone()));
        let bound = ControlSocket::bind(path, inherited).await;
        let socket = bound.map_err(|error| anyhow::anyhow!("{KEY}: {error}"))?;
        self.shared.push(socket.share(KEY, path)?);
        Ok(socket)
    }

    /// Waits until this process may accept connections in place of one that does: it is ready, or the
    /// other one has ended.
    ///
    /// # Errors
    /// It is not ready in time.
    async fn until_it_may_replace(&self, running: &mut Predecessor) -> anyhow::Result<()> {
        tokio::select! {
            () = self.until_ready() => Ok(()),
            () = running.ended() => {
                tracing::warn!("the process that was to be replaced has ended; this one serves now");
                Ok(())
            }
            () = sleep(READY_WITHIN) => anyhow::bail!(
                "not ready within {} s: {}; the process that runs goes on",
                READY_WITHIN.as_secs(),
                self.engine.readiness().missing().join(", ")
            ),
        }
    }

    /// Waits until this process may accept connections that are queued meanwhile. Another process may
    /// serve; where none does, an answer is better than none.
    async fn until_it_may_answer(&self) {
        tokio::select! {
            () = self.until_ready() => {}
            () = sleep(HELD_WITHIN) => {}
        }
    }

    /// Waits until the sidecar is ready.
    async fn until_ready(&self) {
        while !self.engine.readiness().missing().is_empty() {
            sleep(LOOK_EVERY).await;
        }
    }

    fn log_addresses(&self) {
        let http = LogList::of(&self.http);
        let admin = self.admin.as_ref().map(tracing::field::display);
        let grpc = self.grpc.as_ref().map(tracing::field::display);
        let access_log = self.access_log.as_ref().map(tracing::field::display);
        let ext_proc = self.ext_proc.as_ref().map(tracing::field::display);
        let settle = self.settle.as_ref().map(tracing::field::display);
        let (http, ops) = (http.value(), &self.ops);
        tracing::info!(grpc, http, access_log, ext_proc, settle, %ops, admin, "listening");
    }
}
