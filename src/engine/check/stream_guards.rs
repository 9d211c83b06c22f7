//! The credentials of responses that may be cut: those of checks whose responses have not begun.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tollgate_core::{
    admission::{AdmitRequest, AdmitResponse},
    authenticate,
    decision::{Decision, Dialect, Outcome},
    denial::Reason,
    identity::Principal,
};

use super::Checker;

/// The most responses that are waited for. The oldest one is forgotten beyond it, and is not cut.
const MOST: usize = 16_384;

/// What ends a stream.
#[derive(Clone, Debug)]
pub struct StreamGuard {
    /// The holder of the credential.
    pub principal: Arc<Principal>,
    /// The form of errors that the client reads.
    pub dialect: Dialect,
}

/// The guards of responses that have not begun, by the ids of their decisions.
#[derive(Debug, Default)]
pub(super) struct StreamGuards(Mutex<Waiting<StreamGuard>>);

impl StreamGuards {
    fn waiting(&self) -> MutexGuard<'_, Waiting<StreamGuard>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is kept until the response of a decision begins.
#[derive(Debug)]
struct Waiting<G> {
    guards: HashMap<Box<str>, G>,
    /// The ids in the order of their decisions, also those that were taken.
    order: VecDeque<Box<str>>,
}

impl<G> Default for Waiting<G> {
    fn default() -> Self {
        Self { guards: HashMap::new(), order: VecDeque::new() }
    }
}

impl<G> Waiting<G> {
    fn insert(&mut self, id: &str, guard: G) {
        while self.order.len() >= MOST
            && let Some(oldest) = self.order.pop_front()
        {
            self.guards.remove(&oldest);
        }
        self.order.push_back(id.into());
        self.guards.insert(id.into(), guard);
    }

    fn take(&mut self, id: &str) -> Option<G> {
        self.guards.remove(id)
    }
}

impl Checker {
    /// Keeps the credential of a request whose stream ends with it. Returns the name of its guard.
    pub(super) fn guard<'i>(&self, outcome: &Outcome, id: &'i str) -> Option<&'i str> {
        let Decision::Allow(grant) = &outcome.decision else { return None };
        if !grant.permit().route().cut_streams {
            return None;
        }
        let principal = Arc::clone(grant.permit().principal()?);
        self.guards
            .waiting()
            .insert(id, StreamGuard { principal, dialect: outcome.evidence.dialect });
        Some(id)
    }

    /// Removes the guard of a response that begins, by its name.
    pub fn take_guard(&self, id: &str) -> Option<StreamGuard> {
        self.guards.waiting().take(id)
    }

    /// Returns the reason why the credential of a stream is not accepted any more; `None` while it is,
    /// and while the store does not answer.
    pub async fn ended(&self, guard: &StreamGuard) -> Option<Reason> {
        let principal = &guard.principal;
        let ended = authenticate::ended(&self.live.load().snapshot, principal, (self.clock)());
        if ended.is_some() {
            return ended;
        }
        let revocation = Some(Arc::clone(principal.revocation()));
        let request = AdmitRequest { revocation, ..AdmitRequest::default() };
        match self.store.admit(&request).await {
            Ok(AdmitResponse::Revoked(_)) => Some(Reason::Revoked),
            Ok(AdmitResponse::Banned(_)) => Some(Reason::Banned),
            Ok(_) | Err(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_guards_are_forgotten() {
        let mut waiting = Waiting::default();
        for number in 0..=MOST {
            waiting.insert(&number.to_string(), number);
        }
        assert_eq!(waiting.take("0"), None);
        assert_eq!(waiting.take("1"), Some(1));
        assert_eq!(waiting.take("1"), None);
        assert_eq!((waiting.order.len(), waiting.guards.len()), (MOST, MOST - 1));
    }
}
