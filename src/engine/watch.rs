//! The configuration file under watch: read every two seconds, and reloaded while its text differs
//! from the one in force.
//!
//! The content is compared, not inotify events: a ConfigMap is swapped by symlink, some volumes
//! send no events, and both look the same to a reader.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::sync::{Mutex, Notify, watch};

use super::reload::{ReloadError, Reloader};
use crate::config::{self, TextDigest};

/// How often files are read.
const EVERY: Duration = Duration::from_secs(2);

/// A handle on the watched file. Dropping it does not end the watch.
#[derive(Clone, Debug)]
pub struct Watch {
    requests: Arc<Notify>,
    rounds: watch::Receiver<u64>,
}

impl Watch {
    /// Reloads the file now, whether or not it has changed. The result is logged and counted.
    pub fn request_reload(&self) {
        self.requests.notify_one();
    }

    /// Counts the rounds in which files were read: a signal for code that keeps the content of
    /// other files.
    pub fn rounds(&self) -> watch::Receiver<u64> {
        self.rounds.clone()
    }
}

/// Creates the watch of the file at `path` and the task that runs it.
pub(super) fn start(
    path: Option<PathBuf>,
    reloader: Arc<Mutex<Reloader>>,
) -> (Watch, impl Future<Output = ()> + Send + 'static) {
    let (finished, rounds) = watch::channel(0);
    let requests = Arc::<Notify>::default();
    let task = Task { path, reloader, rejected: None, requests: Arc::clone(&requests), finished };
    (Watch { requests, rounds }, task.run())
}

struct Task {
    /// The file; `None` where the configuration came from standard input.
    path: Option<PathBuf>,
    reloader: Arc<Mutex<Reloader>>,
    /// The text that failed last, where it would fail again.
    rejected: Option<TextDigest>,
    requests: Arc<Notify>,
    finished: watch::Sender<u64>,
}

impl Task {
    async fn run(mut self) {
        let mut tick = tokio::time::interval(EVERY);
        loop {
            let requested = tokio::select! {
                _ = tick.tick() => false,
                () = self.requests.notified() => true,
            };
            let mut reloader = self.reloader.lock().await;
            // The file comes first: what it removes must not wait for a secret that hangs.
            match &self.path {
                Some(path) => {
                    let result = reload(&mut reloader, path, &mut self.rejected, requested).await;
                    if let Some(result) = result {
                        reloader.report(&result);
                    }
                }
                None if requested => tracing::warn!(
                    "the configuration came from standard input and is not reloaded; restart to \
                     change it"
                ),
                None => {}
            }
            reloader.refresh_api_keys().await;
            reloader.refresh_secrets().await;
            drop(reloader);
            self.finished.send_modify(|rounds| *rounds += 1);
        }
    }
}

/// Reads the file, and puts it in force if it differs from what is in force or a reload was
/// requested. Returns `None` where there was nothing to do.
async fn reload(
    reloader: &mut Reloader,
    path: &Path,
    rejected: &mut Option<TextDigest>,
    requested: bool,
) -> Option<Result<(), ReloadError>> {
    let is_known = |text| reloader.is_applied(text) || *rejected == Some(text);
    let text = match config::read_text(path, is_known).await {
        Ok(text) => text,
        Err(error) => {
            *rejected = None;
            return Some(Err(error.into()));
        }
    };
    let digest = TextDigest::of(&text);
    if !requested && (reloader.is_in_force(digest) || *rejected == Some(digest)) {
        return None;
    }
    let result = match reloader.compile(path, text).await {
        Ok(loaded) => reloader.apply(loaded).await,
        Err(error) => Err(error),
    };
    // Any other failure may pass, such as a secret that is not there yet: the next round tries the
    // same text again.
    *rejected = result.as_ref().is_err_and(ReloadError::is_final).then_some(digest);
    Some(result)
}
