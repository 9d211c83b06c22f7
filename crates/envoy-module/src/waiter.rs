//! A check that is decided on another thread, and the filter that waits for it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{effect::Effect, host::Scheduler};

/// The place where the effect of a check is left for its filter.
#[derive(Debug)]
pub(crate) struct Waiter {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// How the filter is called; `None` when it is gone.
    scheduler: Option<Scheduler>,
    effect: Option<Effect>,
}

impl Waiter {
    /// Creates the place for a filter that is called by `scheduler`.
    pub(crate) fn new(scheduler: Scheduler) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State { scheduler: Some(scheduler), effect: None }) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves the effect and calls the filter.
    ///
    /// INVARIANT: the filter is called under the lock by which [`leave`](Self::leave) ends calls, so
    /// that none happens while a worker of the host ends: it destroys its filters first.
    ///
    /// # Errors
    /// Returns the effect of a filter that is gone.
    pub(crate) fn deliver(&self, effect: Effect) -> Result<(), Effect> {
        let mut state = self.state();
        let State { scheduler: Some(scheduler), effect: place } = &mut *state else {
            return Err(effect);
        };
        *place = Some(effect);
        scheduler.commit(0);
        Ok(())
    }

    /// Takes the effect.
    pub(crate) fn take(&self) -> Option<Effect> {
        self.state().effect.take()
    }

    /// Ends the wait of a filter that is gone, and returns the effect that it did not take.
    pub(crate) fn leave(&self) -> Option<Effect> {
        let mut state = self.state();
        state.scheduler = None;
        state.effect.take()
    }
}
