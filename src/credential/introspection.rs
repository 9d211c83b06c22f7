//! Opaque tokens: what their issuers state about them (RFC 7662), in a bounded cache.
//!
//! A token is identified by SHA-256 of its issuer, the endpoint and its text; the token itself is not
//! stored. Every rule of a route, the revocations and the limits apply on a hit as on a miss.
//!
//! - An answer is used for `introspection.cache`, and never after the token has expired.
//! - Tokens that were refused are stored for [`REJECTED_FOR`], in a cache of their own: tokens that
//!   are made up do not evict others.
//! - All checks with one token wait for one call. The calls at once, those of one client network, the
//!   tokens that wait, the checks that wait for a token, and the new tokens of each client network are
//!   bounded.
//! - A call that fails is a 503 for the checks that wait for it, and is not remembered.

mod endpoint;

use std::{
    fmt,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use quick_cache::{Weighter, sync::Cache};
use thiserror::Error;
use tollgate_core::{
    authenticate::{self, Verified},
    credential::{
        Credential, Rejection,
        introspection::{self, OpaqueToken, TokenDigest, UnknownToken},
    },
    identity::Principal,
    policy::Policy,
    snapshot::Snapshot,
    time::{Span, Timestamp},
};

use self::endpoint::Endpoint;
use crate::{
    network_budget::NetworkBudget,
    waiting_list::{AddedCheck, WaitingList},
};

/// How long a token that was refused is stored.
pub const REJECTED_FOR: Span = Span::from_secs(5);

/// The most that accepted tokens take, in bytes.
const ACCEPTED_BYTES: u64 = 16 << 20;
/// The most that refused tokens take, in bytes.
const REJECTED_BYTES: u64 = 1 << 20;
/// The approximate size of an entry beside its contents.
const OVERHEAD: usize = 160;
/// The most tokens that wait for an answer.
const MOST_WAITING: usize = 1024;
/// The new tokens of a client network in a second.
const PER_SECOND: u64 = 50;
/// The new tokens that a client network may send at once.
const BURST: u64 = 200;

/// The reason why there is no answer about a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum IntrospectionError {
    /// The client's network has sent too many new tokens.
    #[error("the network of the client has sent too many opaque tokens that are not known")]
    NoBudget,
    /// Too many tokens wait.
    #[error("too many opaque tokens wait for their issuers")]
    Full,
    /// The endpoint did not answer, or not with a statement.
    #[error("the introspection endpoint of the issuer did not answer")]
    Unavailable,
}

/// What the issuers of one policy state.
#[derive(Default)]
pub struct Introspection {
    state: Option<State>,
}

struct State {
    /// The endpoints of the issuers, by their indices.
    endpoints: Vec<Option<Endpoint>>,
    accepted: Cache<TokenDigest, Arc<Accepted>, Size>,
    rejected: Cache<TokenDigest, Arc<Rejected>, Size>,
    /// The tokens that wait for an answer, with their checks.
    waiting: Mutex<WaitingList<TokenDigest, Result<(), IntrospectionError>>>,
    budget: NetworkBudget,
    started: Instant,
    failures: AtomicU64,
}

/// A token that its issuer vouches for.
struct Accepted {
    principal: Arc<Principal>,
    since: Timestamp,
    until: Timestamp,
}

/// A token that was refused.
struct Rejected {
    rejection: Rejection,
    since: Timestamp,
}

/// Weighs entries by their size in bytes.
#[derive(Clone, Copy, Debug)]
struct Size;

impl Weighter<TokenDigest, Arc<Accepted>> for Size {
    fn weight(&self, _: &TokenDigest, accepted: &Arc<Accepted>) -> u64 {
        (OVERHEAD + accepted.principal.size()) as u64
    }
}

impl Weighter<TokenDigest, Arc<Rejected>> for Size {
    fn weight(&self, _: &TokenDigest, rejected: &Arc<Rejected>) -> u64 {
        let denial = &rejected.rejection.denial;
        let text = denial.cause.len() + denial.message.as_deref().map_or(0, str::len);
        (OVERHEAD + size_of::<Rejected>() + text) as u64
    }
}

impl Introspection {
    /// Prepares the endpoints of a policy. Nothing is allocated where it has none.
    pub fn new(policy: &Policy) -> Self {
        let endpoints: Vec<Option<Endpoint>> =
            policy.issuers.list().iter().map(|issuer| Endpoint::of(issuer)).collect();
        let entries = |bytes: u64| usize::try_from(bytes / 512).unwrap_or(usize::MAX);
        let state = endpoints.iter().any(Option::is_some).then(|| State {
            endpoints,
            accepted: Cache::with_weighter(entries(ACCEPTED_BYTES), ACCEPTED_BYTES, Size),
            rejected: Cache::with_weighter(entries(REJECTED_BYTES), REJECTED_BYTES, Size),
            waiting: Mutex::default(),
            budget: NetworkBudget::new(PER_SECOND, BURST),
            started: Instant::now(),
            failures: AtomicU64::new(0),
        });
        Self { state }
    }

    /// Whether some issuer has an endpoint.
    pub fn has_endpoints(&self) -> bool {
        self.state.is_some()
    }

    /// Returns the known result for a token, or the rejection that has it as an unknown one.
    ///
    /// # Errors
    /// As [`authenticate::verify`].
    pub fn verify(&self, snapshot: &Snapshot, token: OpaqueToken<'_>, now: Timestamp) -> Verified {
        let known = self.state.as_ref().and_then(|state| {
            let (_, digest) = token.identify(&snapshot.policy.issuers)?;
            state.known(digest, snapshot, now)
        });
        known.unwrap_or_else(|| authenticate::verify(snapshot, Credential::Opaque(token), now))
    }

    /// Waits until the issuer of a token has stated what it is. `clock` returns the time that the
    /// statement is verified at. This needs a runtime.
    ///
    /// # Errors
    /// See [`IntrospectionError`].
    pub async fn look_up(
        self: &Arc<Self>,
        policy: &Arc<Policy>,
        unknown: &UnknownToken,
        client: Option<IpAddr>,
        clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    ) -> Result<(), IntrospectionError> {
        let state = self.state.as_ref().ok_or(IntrospectionError::Unavailable)?;
        let identified = OpaqueToken::new(unknown.token.expose()).identify(&policy.issuers);
        let (_, digest) = identified.ok_or(IntrospectionError::Unavailable)?;
        if !state.budget.take(client, state.started.elapsed()) {
            return Err(IntrospectionError::NoBudget);
        }
        let AddedCheck { answer, is_first } =
            state.wait_for(digest).ok_or(IntrospectionError::Full)?;
        if is_first {
            let (owner, policy, unknown) = (Arc::clone(self), Arc::clone(policy), unknown.clone());
            // A task of its own: a check that is given up must not end the call for the others.
            tokio::spawn(async move {
                let Some(state) = &owner.state else { return };
                // Answers the checks also if the call panics.
                let mut ending =
                    Ending { state, digest, result: Err(IntrospectionError::Unavailable) };
                ending.result = state.call(digest, &policy, (&unknown, client), &*clock).await;
            });
        }
        answer.await.unwrap_or(Err(IntrospectionError::Unavailable))
    }
}

/// The end of a call, with whatever result.
struct Ending<'s> {
    state: &'s State,
    digest: TokenDigest,
    result: Result<(), IntrospectionError>,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        let checks = self.state.waiting().remove(&self.digest);
        if let Some(checks) = checks {
            checks.answer(self.result);
        }
    }
}

impl State {
    fn known(&self, digest: TokenDigest, snapshot: &Snapshot, now: Timestamp) -> Option<Verified> {
        if let Some(accepted) = self.accepted.get(&digest)
            && (accepted.since..accepted.until).contains(&now)
            && authenticate::is_current(snapshot, &accepted.principal, now)
        {
            return Some(Ok(Arc::clone(&accepted.principal)));
        }
        let rejected = self.rejected.get(&digest)?;
        let is_recent =
            rejected.since <= now && now.micros() - rejected.since.micros() < REJECTED_FOR.micros();
        is_recent.then(|| Err(rejected.rejection.clone()))
    }

    /// Adds a check that waits for a token; the first one makes the call.
    fn wait_for(&self, digest: TokenDigest) -> Option<AddedCheck<Result<(), IntrospectionError>>> {
        let mut waiting = self.waiting();
        let has_room = waiting.len() < MOST_WAITING;
        waiting.add(digest, has_room)
    }

    /// Calls the endpoint of a token, and stores the result.
    async fn call(
        &self,
        digest: TokenDigest,
        policy: &Policy,
        (unknown, client): (&UnknownToken, Option<IpAddr>),
        clock: &(dyn Fn() -> Timestamp + Send + Sync),
    ) -> Result<(), IntrospectionError> {
        let endpoint = self.endpoints.get(unknown.issuer).and_then(Option::as_ref);
        let (Some(endpoint), Some(issuer)) = (endpoint, policy.issuers.list().get(unknown.issuer))
        else {
            return Err(IntrospectionError::Unavailable);
        };
        let fail = |cause: &dyn fmt::Display| {
            let count = self.failures.fetch_add(1, Relaxed) + 1;
            if count.is_power_of_two() {
                tracing::warn!(
                    count,
                    issuer = &*issuer.name,
                    "an opaque token could not be introspected, and its requests are denied with 503 \
                     not_ready: {cause}"
                );
            }
            IntrospectionError::Unavailable
        };
        let response = endpoint.call(&unknown.token, client).await.map_err(|error| fail(&error))?;
        let (token, now) = (OpaqueToken::new(unknown.token.expose()), clock());
        let (issuers, denylists) = (&policy.issuers, &policy.denylists);
        let read = introspection::read(token, issuer, &response, issuers, denylists, now);
        match read.map_err(|error| fail(&error))? {
            Ok(principal) => {
                let until =
                    Timestamp::from_micros(now.micros().saturating_add(endpoint.cache.micros()));
                self.accepted.insert(digest, Arc::new(Accepted { principal, since: now, until }));
            }
            Err(rejection) => {
                // INVARIANT: what the issuer does not vouch for any more is not served from the cache.
                self.accepted.remove(&digest);
                self.rejected.insert(digest, Arc::new(Rejected { rejection, since: now }));
            }
        }
        Ok(())
    }

    fn waiting(&self) -> MutexGuard<'_, WaitingList<TokenDigest, Result<(), IntrospectionError>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Introspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Introspection").finish_non_exhaustive()
    }
}
