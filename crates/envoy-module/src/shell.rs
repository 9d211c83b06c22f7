//! The engine of a policy file inside Envoy: its runtime, and its life.
//!
//! There is one engine for each file of the process, and it is kept until the process exits: a
//! listener that is removed and comes back finds its counts. All workers share it.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    num::NonZero,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use serde::Deserialize;
use thiserror::Error;
use tokio::runtime::{Builder, Handle, Runtime};
use tollgate::{
    app::{AdminSecret, OperatorServers},
    config::{self, LoadError, Loaded},
    engine::{Engine, check::Checker, settler::Settler, watch::Watch},
    observe::{self, exposition::InFlightStatus, log},
};

use crate::abi;

/// The reason why a configuration of the filter is refused.
#[derive(Debug, Error)]
pub enum ShellError {
    /// The configuration names no file.
    #[error(
        "`filter_config` names no policy file: write its path, or an object with the key `file`"
    )]
    NoPath,
    /// The policy file has errors, or cannot be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The engine does not start.
    #[error("{path}: {error:#}", path = path.display())]
    Start {
        /// The path of the policy file.
        path: PathBuf,
        /// What is missing, or cannot be used.
        error: anyhow::Error,
    },
    /// The runtime does not start.
    #[error("the threads of Tollgate cannot be started: {0}")]
    Runtime(std::io::Error),
}

/// The engine of a policy file.
#[derive(Debug)]
pub struct Shell {
    checker: Arc<Checker>,
    runtime: Handle,
    max_body: usize,
    bodies: Arc<BodyBudget>,
    engine: Option<Arc<Engine>>,
}

/// The bytes of bodies that are held for checks.
#[derive(Debug)]
struct BodyBudget {
    used: AtomicUsize,
    limit: usize,
}

impl BodyBudget {
    fn status(&self) -> InFlightStatus {
        InFlightStatus { bytes: self.used.load(Ordering::Relaxed) as u64, limit: self.limit as u64 }
    }
}

static SHELLS: Mutex<BTreeMap<PathBuf, Arc<Shell>>> = Mutex::new(BTreeMap::new());
static RUNTIME: OnceLock<Runtime> = OnceLock::new();

impl Shell {
    /// Returns the engine of the file at `path`, which is started for the first time.
    ///
    /// # Errors
    /// Returns [`ShellError`] where the file has errors, also if it is in use: the reload applies
    /// what has none.
    pub fn open(path: &Path) -> Result<Arc<Self>, ShellError> {
        let loaded = load(path)?;
        let mut shells = SHELLS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shell) = shells.get(path) {
            return Ok(Arc::clone(shell));
        }
        // The standard library of the module is its own, and so are this log and this panic hook. The
        // second file of a process keeps those of the first one.
        let variable = std::env::var(log::LEVEL_VARIABLE).ok();
        let _of_the_first = log::init(loaded.file.server.log, variable.as_deref());
        let shell = Arc::new(Self::start(path, loaded)?);
        shells.insert(path.to_owned(), Arc::clone(&shell));
        Ok(shell)
    }

    fn start(path: &Path, loaded: Loaded) -> Result<Self, ShellError> {
        let runtime = runtime()?;
        let _context = runtime.enter();
        let failed = |error| ShellError::Start { path: path.to_owned(), error };
        let server = &loaded.file.server;
        let (listen, body) = (server.listen.clone(), server.body);
        let (drain, max_stale) = (server.drain_timeout.std(), server.secrets.max_stale.std());
        let secret = || AdminSecret::read(&listen, max_stale);
        secret().map_err(failed)?;
        let engine =
            Engine::start(loaded, Arc::new(observe::now)).map_err(|error| failed(error.into()))?;
        let engine = Arc::new(engine);
        engine.settler().show_counters();
        // Envoy accepts connections when its configuration is loaded, and a hot restart ends the other process.
        runtime.block_on(async {
            let _held = tokio::time::timeout(READY_WITHIN, until_ready(&engine)).await;
        });
        let watch = engine.watch(path.to_owned());
        let checker = Arc::clone(engine.checker());
        let (max, max_in_flight) = (body.max.0, body.max_in_flight.0);
        let mut shell = Self::of_checker(checker, runtime.clone(), max, max_in_flight);
        shell.engine = Some(Arc::clone(&engine));
        let bodies = Arc::clone(&shell.bodies);
        let start = async move || {
            let bodies = Arc::clone(&bodies);
            let token = AdminSecret::read(&listen, max_stale)?;
            let in_flight = move || bodies.status();
            OperatorServers::start(&engine, &listen, token, drain, in_flight).await
        };
        runtime.spawn(async move { serve_operators(start, &watch).await });
        Ok(shell)
    }

    /// Creates a shell around a checker that has no engine, for tests.
    #[doc(hidden)]
    pub fn of_checker(
        checker: Arc<Checker>,
        runtime: Handle,
        max_body: usize,
        max_in_flight: usize,
    ) -> Self {
        let bodies = Arc::new(BodyBudget { used: AtomicUsize::new(0), limit: max_in_flight });
        Self { checker, runtime, max_body, bodies, engine: None }
    }

    /// The checker of the engine.
    pub(crate) fn checker(&self) -> &Arc<Checker> {
        &self.checker
    }

    /// The runtime on which checks wait.
    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// The queue of settlements; `None` without an engine.
    pub(crate) fn settler(&self) -> Option<&Arc<Settler>> {
        self.engine.as_ref().map(|engine| engine.settler())
    }

    /// The size of the largest body in bytes.
    pub(crate) fn max_body(&self) -> usize {
        self.max_body
    }

    /// Takes bytes for a body that is held. Returns whether there is room.
    pub(crate) fn hold_body(&self, bytes: usize) -> bool {
        let BodyBudget { used, limit } = &*self.bodies;
        let fits = |held: usize| held.checked_add(bytes).filter(|sum| sum <= limit);
        used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok()
    }

    /// Returns bytes of a body that is not held any more.
    pub(crate) fn release_body(&self, bytes: usize) {
        self.bodies.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// The configuration of the filter in JSON, as Envoy Gateway and a `Struct` pass it.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum FilterConfig {
    Path(PathBuf),
    Object(FilterObject),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FilterObject {
    file: PathBuf,
}

/// Returns the path of the policy file in a configuration of the filter: the path itself, or JSON.
///
/// # Errors
/// [`ShellError::NoPath`] for a configuration without a path.
pub fn policy_path(config: &[u8]) -> Result<PathBuf, ShellError> {
    let config = config.trim_ascii();
    let path = match config.first() {
        Some(b'"' | b'{') => match serde_json::from_slice(config) {
            Ok(FilterConfig::Path(path) | FilterConfig::Object(FilterObject { file: path })) => {
                path
            }
            Err(_) => return Err(ShellError::NoPath),
        },
        _ => PathBuf::from(OsStr::from_bytes(config)),
    };
    if path.as_os_str().is_empty() {
        return Err(ShellError::NoPath);
    }
    // Two spellings of one path are one engine, with one count for each limit.
    Ok(std::path::absolute(&path).unwrap_or(path))
}

/// Reads and compiles the file at `path`.
///
/// # Errors
/// Returns [`ShellError`] where the file cannot be read or has errors.
pub fn load(path: &Path) -> Result<Loaded, ShellError> {
    Ok(config::load(path)?)
}

/// How long Envoy waits for keys and a store before it accepts connections. Checks are denied after it until
/// they are there.
const READY_WITHIN: Duration = Duration::from_secs(2);

/// How often it is looked at meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(5);

async fn until_ready(engine: &Engine) {
    while !engine.readiness().missing().is_empty() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// How long to wait before listeners are bound again.
const BIND_AGAIN: Duration = Duration::from_secs(1);

/// Serves health, metrics and the admin API. While Envoy restarts, its predecessor has the ports:
/// they are bound again and again.
async fn serve_operators(start: impl AsyncFn() -> anyhow::Result<OperatorServers>, watch: &Watch) {
    let mut failures: u64 = 0;
    loop {
        match start().await {
            Ok(servers) => {
                let admin = servers.admin.as_ref().map(tracing::field::display);
                tracing::info!(ops = %servers.ops, admin, "listening");
                return servers.serve(watch).await;
            }
            Err(error) => {
                failures += 1;
                if failures.is_power_of_two() {
                    tracing::warn!(failures, "not listening yet, trying again: {error:#}");
                }
            }
        }
        tokio::time::sleep(BIND_AGAIN).await;
    }
}

/// The runtime of the module. Its threads wait for stores and key servers, and never for a worker.
fn runtime() -> Result<Handle, ShellError> {
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime.handle().clone());
    }
    let threads = thread::available_parallelism().map_or(1, NonZero::get).div_ceil(2).min(4);
    let mut builder = Builder::new_multi_thread();
    let builder = builder.worker_threads(threads).enable_all().thread_name("tollgate");
    let runtime = builder.build().map_err(ShellError::Runtime)?;
    abi::at_exit(at_exit);
    Ok(RUNTIME.get_or_init(|| runtime).handle().clone())
}

/// Closes every engine: settlements and audit lines are written, and leased units are returned.
///
/// On a thread of its own: the thread-local values of the main thread are gone when a process exits.
extern "C" fn at_exit() {
    // A panic must not end the exit of the process.
    let _closed = std::panic::catch_unwind(|| {
        let closing = thread::Builder::new().name("tollgate-exit".into()).spawn(close_engines);
        closing.map(thread::JoinHandle::join)
    });
}

fn close_engines() {
    let Some(runtime) = RUNTIME.get() else { return };
    let shells = std::mem::take(&mut *SHELLS.lock().unwrap_or_else(PoisonError::into_inner));
    for shell in shells.into_values() {
        if let Some(engine) = &shell.engine {
            runtime.block_on(engine.close());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_of_the_filter_names_the_policy_file() {
        for config in
            ["/etc/t.yaml", " /etc/t.yaml\n", r#""/etc/t.yaml""#, r#"{"file":"/etc/t.yaml"}"#]
        {
            assert_eq!(
                policy_path(config.as_bytes()).unwrap(),
                Path::new("/etc/t.yaml"),
                "{config}"
            );
        }
        let there = std::env::current_dir().unwrap();
        assert_eq!(policy_path(b"./t.yaml").unwrap(), there.join("t.yaml"));
        for config in ["", r#""""#, "{}", r#"{"file":"/a","on_error":"allow"}"#, r#"{"path":"/a"}"#]
        {
            assert!(policy_path(config.as_bytes()).is_err(), "{config}");
        }
    }
}
