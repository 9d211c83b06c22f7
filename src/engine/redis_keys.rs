//! The copy of the API keys in Redis: started while the policy in force has `api_keys.redis`.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use tollgate_core::policy::Policy;

use super::live::Live;
use crate::store::{KeyReplica, Opened};

/// The copy that the policy in force uses.
pub(super) struct RedisKeys {
    store: Arc<Opened>,
    /// The age at which the copy is no longer used.
    max_stale: Duration,
    /// Ends all copies.
    stop: CancellationToken,
    replica: Option<Arc<KeyReplica>>,
    /// Ends the task that puts the tables of the copy in force.
    following: Option<CancellationToken>,
}

impl RedisKeys {
    pub(super) const fn new(
        store: Arc<Opened>,
        max_stale: Duration,
        stop: CancellationToken,
    ) -> Self {
        Self { store, max_stale, stop, replica: None, following: None }
    }

    /// Returns the copy for a policy that is to be put in force: the one in force, or a new one.
    pub(super) fn prepare(&self, policy: &Policy) -> Option<Arc<KeyReplica>> {
        let bounds = policy.api_keys.as_ref()?.redis?;
        if let Some(replica) = &self.replica {
            return Some(Arc::clone(replica));
        }
        self.store.copy_keys(bounds, self.max_stale, self.stop.clone())
    }

    /// Takes over the copy of a policy that is in force now, and puts its tables in force whenever
    /// they change.
    pub(super) fn installed(
        &mut self,
        policy: &Policy,
        replica: Option<Arc<KeyReplica>>,
        live: &Arc<Live>,
    ) {
        let bounds = policy.api_keys.as_ref().and_then(|keys| keys.redis);
        if let (Some(replica), Some(bounds)) = (&replica, bounds) {
            replica.set_bounds(bounds);
        }
        match (&replica, &self.replica) {
            (Some(_), Some(_)) => return,
            (Some(replica), None) => {
                let stop = self.stop.child_token();
                let mut changes = replica.changes();
                let live = Arc::clone(live);
                let follow = async move {
                    loop {
                        // First: the table may have changed before the changes were observed.
                        live.refresh_redis_keys();
                        if changes.changed().await.is_err() {
                            return;
                        }
                    }
                };
                let ended = stop.clone();
                tokio::spawn(async move { ended.run_until_cancelled(follow).await });
                self.following = Some(stop);
            }
            (None, _) => {
                if let Some(following) = self.following.take() {
                    following.cancel();
                }
            }
        }
        self.replica = replica;
    }
}
