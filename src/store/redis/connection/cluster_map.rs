//! The nodes of a Redis Cluster and their slots, as some of the nodes report them.
//!
//! The map is read when a connection is made, and again when one was lost since: a node that does not
//! have a slot any more names the one that has it, so that no one polls.

use std::{
    sync::{Arc, Mutex as SyncMutex, PoisonError},
    time::Duration,
};

use ::redis::{RedisError, Value, cmd, from_redis_value};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use rand::seq::SliceRandom as _;
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

use super::connector::Connector;
use crate::store::{config::Address, redis::error::ConnectionError};

/// The time limit of one query.
const QUERY: Duration = Duration::from_millis(400);

/// How long the other nodes may take once one has answered.
const OTHERS: Duration = Duration::from_millis(50);

/// The nodes that are queried at once.
const AT_ONCE: usize = 3;

/// The map of a cluster, which all connections to it share.
pub(super) struct ClusterMap {
    seeds: Vec<Address>,
    connector: Connector,
    /// The cluster as messages show it.
    shown: Arc<str>,
    known: SyncMutex<Known>,
    /// Held while the map is read, so that connections that were lost together read it once.
    reading: Mutex<()>,
}

#[derive(Default)]
struct Known {
    slots: Vec<SlotRange>,
    read_at: Option<Instant>,
}

/// Some slots, and the node that has them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct SlotRange {
    first: u16,
    last: u16,
    primary: Address,
}

/// The view that one node has of the cluster.
struct View {
    slots: Vec<SlotRange>,
    /// Whether the node is one of a cluster that works, and the epoch of its view: the view of a
    /// node that a partition separates is older.
    rank: (bool, u64),
}

impl ClusterMap {
    pub(super) fn new(seeds: &[Address], connector: Connector, shown: Arc<str>) -> Self {
        let (known, reading) = (SyncMutex::default(), Mutex::default());
        Self { seeds: seeds.to_vec(), connector, shown, known, reading }
    }

    /// Returns the node that has a slot, according to a map that was read at `since` or later.
    ///
    /// # Errors
    /// No node answers, or the slot has no node.
    pub(super) async fn owner(
        &self,
        slot: u16,
        since: Instant,
    ) -> Result<Address, ConnectionError> {
        if let Some(owner) = self.known_owner(slot, since) {
            return Ok(owner);
        }
        let reading = self.reading.lock().await;
        if let Some(owner) = self.known_owner(slot, since) {
            return Ok(owner);
        }
        let read_at = Instant::now();
        let slots = self.read().await?;
        *self.known() = Known { slots, read_at: Some(read_at) };
        drop(reading);
        self.known_owner(slot, since).ok_or_else(|| {
            self.undiscovered(format!("no node serves the slot {slot}; the cluster is incomplete"))
        })
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known_owner(&self, slot: u16, since: Instant) -> Option<Address> {
        let known = self.known();
        known.read_at.filter(|at| *at >= since)?;
        let range = known.slots.iter().find(|range| (range.first..=range.last).contains(&slot));
        range.map(|range| range.primary.clone())
    }

    fn undiscovered(&self, cause: String) -> ConnectionError {
        ConnectionError::Undiscovered { servers: Arc::clone(&self.shown), cause }
    }

    /// Reads the map from some nodes. The best view of them holds.
    async fn read(&self) -> Result<Vec<SlotRange>, ConnectionError> {
        let mut nodes: Vec<Address> = Vec::new();
        for range in &self.known().slots {
            if !nodes.contains(&range.primary) {
                nodes.push(range.primary.clone());
            }
        }
        nodes.shuffle(&mut rand::rng());
        for seed in &self.seeds {
            if !nodes.contains(seed) {
                nodes.push(seed.clone());
            }
        }
        let mut failure = None;
        for nodes in nodes.chunks(AT_ONCE) {
            let mut views: FuturesUnordered<_> =
                nodes.iter().map(|node| self.view_of(node)).collect();
            let mut best: Option<View> = None;
            loop {
                let next = async {
                    match best {
                        Some(_) => timeout(OTHERS, views.next()).await.unwrap_or_default(),
                        None => views.next().await,
                    }
                };
                match next.await {
                    Some(Ok(view)) => {
                        if best.as_ref().is_none_or(|best| best.rank < view.rank) {
                            best = Some(view);
                        }
                    }
                    Some(Err(error)) => drop(failure.get_or_insert(error)),
                    None => break,
                }
            }
            if let Some(View { slots, .. }) = best {
                return Ok(slots);
            }
        }
        let cause = failure.map(|error| format!("no node answers ({error})")).unwrap_or_default();
        Err(self.undiscovered(cause))
    }

    /// Reads the view of one node.
    async fn view_of(&self, node: &Address) -> Result<View, ConnectionError> {
        let shown: Arc<str> = node.to_string().into();
        let query = async {
            let mut opened = self.connector.open(node, &shown).await?;
            self.connector.log_in(&mut opened.redis, &shown).await?;
            let failed = |error: RedisError| ConnectionError::cluster(&shown, &error);
            let mut question = cmd("CLUSTER");
            question.arg("SLOTS");
            let slots: Vec<Vec<Value>> =
                question.query_async(&mut opened.redis).await.map_err(failed)?;
            let mut question = cmd("CLUSTER");
            question.arg("INFO");
            let info: String = question.query_async(&mut opened.redis).await.map_err(failed)?;
            Ok(View { slots: ranges(&slots, node), rank: rank(&info) })
        };
        let late = ConnectionError::Timeout { address: Arc::clone(&shown) };
        timeout(QUERY, query).await.unwrap_or(Err(late))
    }
}

/// Reads the answer to `CLUSTER SLOTS`: first and last slot, and their nodes, the primary first.
fn ranges(slots: &[Vec<Value>], from: &Address) -> Vec<SlotRange> {
    let range = |range: &Vec<Value>| {
        let [first, last, Value::Array(primary), ..] = range.as_slice() else { return None };
        let [host, port, ..] = primary.as_slice() else { return None };
        let host: Option<String> = from_redis_value(host.clone()).ok()?;
        let primary = address(host, from_redis_value(port.clone()).ok()?, from)?;
        let first = from_redis_value(first.clone()).ok()?;
        Some(SlotRange { first, last: from_redis_value(last.clone()).ok()?, primary })
    };
    slots.iter().filter_map(range).collect()
}

/// The address of a node, as the node `from` reports it. A host that is missing is that of `from`.
pub(super) fn address(host: Option<String>, port: u16, from: &Address) -> Option<Address> {
    let Address::Tcp { host: own, tls, .. } = from else { return None };
    let host = host.filter(|host| !host.is_empty()).unwrap_or_else(|| own.clone());
    // A node whose address is not known.
    (host != "?").then_some(Address::Tcp { host, port, tls: *tls })
}

/// The rank of a view, from the answer to `CLUSTER INFO`.
fn rank(info: &str) -> (bool, u64) {
    let field =
        |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let epoch = field("cluster_current_epoch").and_then(|epoch| epoch.trim().parse().ok());
    (field("cluster_state").is_some_and(|state| state.trim() == "ok"), epoch.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_view_of_a_working_cluster_with_the_latest_epoch_holds() {
        let info = |state, epoch| {
            rank(&format!("cluster_state:{state}\r\ncluster_current_epoch:{epoch}\r\n"))
        };
        assert!(info("ok", 3) > info("ok", 2));
        assert!(info("ok", 2) > info("fail", 9));
        assert_eq!(rank(""), (false, 0));
    }

    #[test]
    fn a_node_without_a_host_has_that_of_the_answering_one() {
        let from = Address::Tcp { host: "a".into(), port: 1, tls: true };
        let at = |host: &str, port| Some(Address::Tcp { host: host.into(), port, tls: true });
        assert_eq!(address(None, 2, &from), at("a", 2));
        assert_eq!(address(Some(String::new()), 2, &from), at("a", 2));
        assert_eq!(address(Some("b".into()), 2, &from), at("b", 2));
        assert_eq!(address(Some("?".into()), 2, &from), None);
    }
}
