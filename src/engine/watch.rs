//! The configuration file under watch: read every two seconds, reloaded when its content changes.
//!
//! The content is compared, not inotify events: a ConfigMap is swapped by symlink, some volumes
//! send no events, and both look the same to a reader.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::sync::{Mutex, Notify, watch};

use super::reload::{ReloadError, Reloader};
use crate::config::{self, LoadError};

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
    path: PathBuf,
    reloader: Arc<Mutex<Reloader>>,
) -> (Watch, impl Future<Output = ()> + Send + 'static) {
    let (finished, rounds) = watch::channel(0);
    let requests = Arc::<Notify>::default();
    // The content that is in force already.
    let content = std::fs::read(&path).ok();
    let task = Task { path, reloader, content, requests: Arc::clone(&requests), finished };
    (Watch { requests, rounds }, task.run())
}

struct Task {
    path: PathBuf,
    reloader: Arc<Mutex<Reloader>>,
    /// The content that was last read; `None` after a read that failed.
    content: Option<Vec<u8>>,
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
            self.round(requested).await;
            self.finished.send_modify(|rounds| *rounds += 1);
        }
    }

    /// Reads the file, and reloads it if it has changed or a reload was requested.
    async fn round(&mut self, requested: bool) {
        let path = self.path.clone();
        // Reading and compiling block: a slow disk or a large policy must not delay checks.
        let read = tokio::task::spawn_blocking(move || std::fs::read(path)).await;
        let mut reloader = self.reloader.lock().await;
        let result = match read.unwrap_or_else(|error| Err(error.into())) {
            Ok(content) if !requested && Some(&content) == self.content.as_ref() => {
                return reloader.reload_upstream_keys();
            }
            Ok(content) => {
                self.content = Some(content);
                let path = self.path.clone();
                match tokio::task::spawn_blocking(move || config::load(&path)).await {
                    Ok(Ok(loaded)) => reloader.apply(loaded).await,
                    Ok(Err(error)) => Err(error.into()),
                    Err(_) => Err(ReloadError::Interrupted),
                }
            }
            Err(error) => {
                if self.content.take().is_none() && !requested {
                    return;
                }
                let path = self.path.display().to_string();
                Err(LoadError::Read { path, error }.into())
            }
        };
        reloader.report(&result);
    }
}
