//! The calls in progress: each may hold a body, and one reporter leaves places to the others.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::Caller;

/// The most calls at a time, and the most of one reporter. A body may take 5 s.
pub(super) const MAX_CALLS: usize = 16;
const OF_A_REPORTER: usize = MAX_CALLS / 2;

/// The number of calls in progress.
#[derive(Clone, Debug, Default)]
pub(super) struct Calls(Arc<Mutex<InProgress>>);

#[derive(Debug, Default)]
struct InProgress {
    all: usize,
    /// Those of reporters, by their names.
    of_reporters: BTreeMap<String, usize>,
}

/// The place of one call, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    calls: Calls,
    reporter: Option<String>,
}

impl Calls {
    fn in_progress(&self) -> MutexGuard<'_, InProgress> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a call; `None` while there are too many.
    pub(super) fn begin(&self, caller: Caller<'_>) -> Option<Place> {
        let mut in_progress = self.in_progress();
        if in_progress.all >= MAX_CALLS {
            return None;
        }
        let reporter = match caller {
            Caller::Peer => None,
            Caller::Reporter(reporter) => Some(reporter.name.clone()),
        };
        if let Some(name) = &reporter {
            let count = in_progress.of_reporters.entry(name.clone()).or_default();
            if *count >= OF_A_REPORTER {
                return None;
            }
            *count += 1;
        }
        in_progress.all += 1;
        Some(Place { calls: self.clone(), reporter })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut in_progress = self.calls.in_progress();
        in_progress.all -= 1;
        if let Some(name) = self.reporter.take()
            && let Some(count) = in_progress.of_reporters.get_mut(&name)
        {
            *count -= 1;
            if *count == 0 {
                in_progress.of_reporters.remove(&name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tollgate_core::credential::api_key::KeyDigest;

    use super::*;
    use crate::adapter::settle_api::config::ReporterConfig;

    fn reporter(name: &str) -> ReporterConfig {
        let digest = KeyDigest::of(name.as_bytes());
        ReporterConfig { name: name.into(), digest, routes: Vec::new(), every_route: true }
    }

    #[test]
    fn a_reporter_leaves_places_to_others() {
        let calls = Calls::default();
        let (one, other) = (reporter("one"), reporter("other"));
        let begin = |reporter| calls.begin(Caller::Reporter(reporter));
        let held: Vec<Place> = std::iter::from_fn(|| begin(&one)).collect();
        assert_eq!(held.len(), 8);
        let more: Vec<Place> = std::iter::from_fn(|| begin(&other)).collect();
        assert_eq!(more.len(), 8);
        assert!(calls.begin(Caller::Peer).is_none());
        drop(held);
        assert!(begin(&other).is_none() && begin(&one).is_some());
        drop(more);
        assert!(calls.in_progress().of_reporters.is_empty());
        let peers: Vec<Place> = std::iter::from_fn(|| calls.begin(Caller::Peer)).collect();
        assert_eq!(peers.len(), MAX_CALLS);
    }
}
