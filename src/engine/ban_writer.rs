//! The background task that bans networks with too many failed credentials, in the store that all
//! replicas share, and logs when such a ban begins and ends.

mod shadow;

use std::{collections::HashMap, sync::Arc, time::Duration};

use tollgate_core::{
    ban::{AutomaticBans, Kind},
    network::{Network, Networks},
    time::Timestamp,
};

use self::shadow::ShadowBans;
use super::{
    live::Live,
    network_bans::{BanActivity, BanResult, Offender},
};
use crate::{
    observe::{now, rfc3339::Rfc3339},
    store::{AutomaticBan, Store},
};

/// The most networks that are banned in one step, and the time between two steps.
const BATCH: usize = 64;
const PAUSE: Duration = Duration::from_secs(1);

/// The time after which a store that did not answer is called again.
const RETRY: Duration = Duration::from_secs(5);

/// The interval in which bans are looked up that this process began.
const LOOK: Duration = Duration::from_secs(5);

/// The most automatic bans that are in force, as far as this process knows.
const MOST_BANS: u64 = 10_000;

/// How many bans the networks of one provider may have for each one that is free.
const PART_OF_FREE: u64 = 7;

/// The network of a provider: a /16 of IPv4, a /32 of IPv6.
fn provider_of(network: Network) -> Network {
    Network::of_prefix(network.first_address(), 16, 32)
}

/// A ban that this process began.
#[derive(Clone, Copy, Debug)]
struct Begun {
    until: Timestamp,
    /// Whether the last look did not find it.
    was_missing: bool,
}

/// Bans the networks that wait.
pub(super) struct BanWriter {
    live: Arc<Live>,
    store: Arc<dyn Store>,
    activity: Arc<BanActivity>,
    /// The proxies, which are never banned.
    proxies: Networks,
    begun: HashMap<Network, Begun>,
    shadow: ShadowBans,
    /// Whether the store did not answer the last call.
    is_failing: bool,
}

impl BanWriter {
    /// Creates a writer of bans of the policy in force.
    pub(super) fn new(live: Arc<Live>, store: Arc<dyn Store>, proxies: Networks) -> Self {
        let activity = Arc::clone(live.ban_activity());
        let (begun, shadow) = (HashMap::new(), ShadowBans::default());
        Self { live, store, activity, proxies, begun, shadow, is_failing: false }
    }

    /// Runs until the task is aborted.
    pub(super) async fn run(mut self) {
        loop {
            tokio::select! {
                () = self.activity.arrived() => {}
                () = tokio::time::sleep(LOOK), if !self.begun.is_empty() => {}
            }
            for offender in self.activity.take(BATCH) {
                self.handle(offender).await;
            }
            self.look(now());
            tokio::time::sleep(if self.is_failing { RETRY } else { PAUSE }).await;
        }
    }

    async fn handle(&mut self, offender: Offender) {
        let state = self.live.load();
        // The policy may be another one since.
        let Some(bans) = &state.network_bans else { return };
        let (terms, network) = (bans.terms(), offender.network);
        if terms.is_exempt(network) || self.proxies.overlaps(network) {
            return self.activity.count_result(BanResult::Exempt);
        }
        if terms.is_shadow() {
            return self.would_ban(offender, terms);
        }
        let known = self.store.status().bans.map(|bans| {
            let counts = Kind::ALL.iter().zip(bans.counts);
            counts.filter(|(kind, _)| **kind == Kind::AutomaticNetwork).map(|(_, n)| n).sum()
        });
        if known.is_some_and(|known: u64| !self.has_room(network, known)) {
            return self.activity.count_result(BanResult::Dropped);
        }
        let ban = AutomaticBan { network, durations: terms.durations, reason: reason(offender) };
        match self.store.begin_ban(&ban).await {
            Ok(begun) => {
                self.is_failing = false;
                if !begun.is_new {
                    return;
                }
                self.activity.count_result(BanResult::Begun);
                self.begun.insert(network, Begun { until: begun.until, was_missing: false });
                tracing::warn!(
                    network = %network,
                    until = %Rfc3339(begun.until),
                    number = begun.number,
                    "a network is banned, {}",
                    ban.reason
                );
            }
            Err(outage) => {
                self.activity.count_result(BanResult::Failed);
                if !self.is_failing {
                    tracing::warn!(
                        network = %network,
                        "the automatic ban of a network cannot be stored ({}); it is tried again",
                        outage.label()
                    );
                }
                self.is_failing = true;
                self.activity.report(offender);
            }
        }
    }

    /// Whether there is room for the ban of a network beside those that are known: the networks of one
    /// provider have at most as many as the others leave free, seven times over, so that no client with many
    /// networks keeps another's from being banned.
    fn has_room(&self, network: Network, known: u64) -> bool {
        let provider = provider_of(network);
        let begun = self.begun.keys().filter(|other| provider_of(**other) == provider).count();
        let free = MOST_BANS.saturating_sub(known);
        (begun as u64) < free.saturating_mul(PART_OF_FREE)
    }

    fn would_ban(&mut self, offender: Offender, terms: &AutomaticBans) {
        let begun = self.shadow.begin(offender.network, &terms.durations, now());
        let Some((until, number)) = begun else { return };
        self.activity.count_result(BanResult::WouldBegin);
        tracing::warn!(
            network = %offender.network,
            until = %Rfc3339(until),
            number,
            "a network would be banned (automatic_bans.mode is shadow), {}",
            reason(offender)
        );
    }

    /// Logs the bans of this process that have ended, or were lifted.
    fn look(&mut self, now: Timestamp) {
        let store = &self.store;
        self.begun.retain(|network, begun| {
            if begun.until <= now {
                tracing::info!(network = %network, "the automatic ban of a network has ended");
                return false;
            }
            // Twice: the copy of the bans may not have a new one yet.
            let is_missing = store.network_ban(network.first_address()).is_none();
            if is_missing && begun.was_missing {
                tracing::info!(network = %network, "the automatic ban of a network was lifted");
                return false;
            }
            begun.was_missing = is_missing;
            true
        });
    }
}

/// The reason of a ban, which the list of bans shows.
fn reason(offender: Offender) -> String {
    let seconds = offender.reached.within.as_secs().saturating_add(1);
    format!("automatic: {} failed credentials in {seconds} s", offender.reached.failures)
}
