//! The places of a listener's connections. When all are taken, a new connection gets the place of an
//! idle one that was never used, or else of one that was used least, so that no stranger keeps a
//! proxy out.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::task::AbortHandle;
use tollgate_grpc_unary::{Activity, Withheld};

use super::stream::Peer;

/// The peers that are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum PeerGroup {
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// The first 64 bits of an IPv6 address: one machine usually has all addresses behind them.
    V6([u16; 4]),
    /// The user of a process that connected to the Unix socket. `None` if the system does not name
    /// it.
    Unix(Option<u32>),
}

impl PeerGroup {
    /// The group of a peer. `user` is the one of a process on the other end of a Unix socket.
    pub(super) fn of(peer: Peer, user: Option<u32>) -> Self {
        match peer.ip().map(|address| address.to_canonical()) {
            Some(IpAddr::V4(address)) => Self::V4(address),
            Some(IpAddr::V6(address)) => {
                let [a, b, c, d, ..] = address.segments();
                Self::V6([a, b, c, d])
            }
            None => Self::Unix(user),
        }
    }
}

/// The places of one listener.
#[derive(Debug)]
pub(super) struct Places {
    most: usize,
    /// Whether a full listener closes idle connections.
    evicts: bool,
    table: Arc<Mutex<Table>>,
}

#[derive(Debug, Default)]
struct Table {
    /// In the order in which they were accepted.
    connections: BTreeMap<u64, Connection>,
    held: HashMap<PeerGroup, Held>,
    next: u64,
}

/// What the peers of a group hold.
#[derive(Debug, Default)]
struct Held {
    connections: usize,
    withheld: Arc<Withheld>,
}

#[derive(Debug)]
struct Connection {
    group: PeerGroup,
    activity: Arc<Activity>,
    /// Ends the connection; `None` until its task is started.
    task: Option<AbortHandle>,
}

/// The place of one connection, which is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    table: Arc<Mutex<Table>>,
    id: u64,
    activity: Arc<Activity>,
    replaced: bool,
    /// The number of connections when this one was accepted, itself among them.
    connections: usize,
}

impl Places {
    /// Returns `most` free places.
    pub(super) fn new(most: usize, evicts: bool) -> Self {
        Self { most, evicts, table: Arc::default() }
    }

    /// Takes a place. If none is free, an idle connection is closed for it. Returns `None` if no
    /// connection may be closed.
    pub(super) fn take(&self, group: PeerGroup) -> Option<Place> {
        let mut table = lock(&self.table);
        let full = table.connections.len() >= self.most;
        if full && !(self.evicts && table.evict_for(group)) {
            return None;
        }
        let id = table.next;
        table.next += 1;
        let held = table.held.entry(group).or_default();
        held.connections += 1;
        let activity = Arc::new(Activity::of_peer(Arc::clone(&held.withheld)));
        let connection = Connection { group, activity: Arc::clone(&activity), task: None };
        table.connections.insert(id, connection);
        let connections = table.connections.len();
        Some(Place { table: Arc::clone(&self.table), id, activity, replaced: full, connections })
    }

    /// Notes the task of the connection with this number.
    pub(super) fn started(&self, id: u64, task: AbortHandle) {
        if let Some(connection) = lock(&self.table).connections.get_mut(&id) {
            connection.task = Some(task);
        }
    }
}

impl Table {
    /// Closes one idle connection for a new one of `newcomer`. Returns whether one was closed.
    ///
    /// Connections without any answered check are closed first, those of the group that has most of
    /// them before others: a stranger with many addresses holds one of each. Then comes the used
    /// connection with the fewest answers, and of those with equally many one of the group that
    /// holds most. A group that holds less than the newcomer's own loses none, and the own group
    /// loses none that was used.
    fn evict_for(&mut self, newcomer: PeerGroup) -> bool {
        let of_group = |group: PeerGroup| self.held.get(&group).map_or(0, |held| held.connections);
        let own = of_group(newcomer);
        let held = |connection: &Connection| of_group(connection.group);
        let mut unused = HashMap::<PeerGroup, usize>::new();
        let idle: Vec<_> = self
            .connections
            .iter()
            .filter(|(_, connection)| {
                connection.task.is_some()
                    && !connection.activity.is_answering()
                    && held(connection) >= own
            })
            .map(|(id, connection)| (*id, connection, connection.activity.answered()))
            .filter(|(_, connection, answered)| *answered == 0 || connection.group != newcomer)
            .inspect(|(_, connection, answered)| {
                *unused.entry(connection.group).or_default() += usize::from(*answered == 0);
            })
            .collect();
        let first = idle.into_iter().min_by_key(|(id, connection, answered)| {
            let of_group = match answered {
                0 => unused.get(&connection.group).copied().unwrap_or(0),
                _ => held(connection),
            };
            (*answered, Reverse(of_group), *id)
        });
        let Some(connection) = first.map(|(id, ..)| id).and_then(|id| self.remove(id)) else {
            return false;
        };
        if let Some(task) = connection.task {
            task.abort();
        }
        true
    }

    fn remove(&mut self, id: u64) -> Option<Connection> {
        let connection = self.connections.remove(&id)?;
        if let Some(held) = self.held.get_mut(&connection.group) {
            held.connections -= 1;
            if held.connections == 0 {
                self.held.remove(&connection.group);
            }
        }
        Some(connection)
    }
}

impl Place {
    /// The number of the connection.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// The number of connections when this one was accepted, itself among them.
    pub(super) fn connections(&self) -> usize {
        self.connections
    }

    /// Whether another connection was closed for this one.
    pub(super) fn replaced_another(&self) -> bool {
        self.replaced
    }

    /// The calls of the connection.
    pub(super) fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.table).remove(self.id);
    }
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(address: &str) -> PeerGroup {
        PeerGroup::of(Peer::Tcp(format!("{address}:1").parse().unwrap()), None)
    }

    /// Takes a place for a connection whose task has started.
    fn start(places: &Places, address: &str) -> Option<Place> {
        let place = places.take(group(address))?;
        places.started(place.id(), tokio::spawn(std::future::pending::<()>()).abort_handle());
        Some(place)
    }

    /// Answers checks on a connection.
    fn answer(place: &Place, checks: usize) {
        for _ in 0..checks {
            place.activity().record_call();
            drop(place.activity().begin_answer());
        }
    }

    fn holds(places: &Places, place: &Place) -> bool {
        lock(&places.table).connections.contains_key(&place.id())
    }

    #[test]
    fn addresses_of_one_machine_are_one_group() {
        for (one, other, same) in [
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("[::ffff:10.0.0.1]", "10.0.0.1", true),
            ("[2001:db8:0:1::1]", "[2001:db8:0:1:ffff::9]", true),
            ("[2001:db8:0:1::1]", "[2001:db8:0:2::1]", false),
        ] {
            assert_eq!(group(one) == group(other), same, "{one} {other}");
        }
        assert_ne!(PeerGroup::of(Peer::Unix, Some(1)), PeerGroup::of(Peer::Unix, Some(2)));
    }

    #[tokio::test]
    async fn a_newcomer_gets_the_place_of_the_one_who_holds_most() {
        let places = Places::new(4, true);
        let proxy = start(&places, "10.0.0.1").unwrap();
        let strangers = [(); 3].map(|()| start(&places, "10.0.0.2").unwrap());
        answer(&strangers[0], 1);
        let second = start(&places, "10.0.0.1").unwrap();
        assert!(second.replaced_another() && !proxy.replaced_another());
        assert!(holds(&places, &proxy) && holds(&places, &second));
        let held = strangers.each_ref().map(|place| holds(&places, place));
        assert_eq!(held, [true, false, true], "one that sent no request goes first");
    }

    #[tokio::test]
    async fn a_connection_that_answers_keeps_its_place() {
        let places = Places::new(2, true);
        let held = [(); 2].map(|()| start(&places, "10.0.0.2").unwrap());
        let answering = held.each_ref().map(|place| place.activity().begin_answer());
        assert!(start(&places, "10.0.0.1").is_none());
        drop(answering);
        assert!(start(&places, "10.0.0.1").is_some());
    }

    #[tokio::test]
    async fn an_address_that_holds_most_keeps_its_used_connections() {
        let places = Places::new(2, true);
        let held = [(); 2].map(|()| start(&places, "10.0.0.1").unwrap());
        answer(&held[0], 1);
        let third = start(&places, "10.0.0.1").unwrap();
        assert!(holds(&places, &held[0]) && !holds(&places, &held[1]));
        answer(&third, 1);
        assert!(start(&places, "10.0.0.1").is_none());
    }

    /// One address each, so that the proxy's group holds most.
    #[tokio::test]
    async fn strangers_with_many_addresses_replace_each_other() {
        let places = Places::new(8, true);
        let proxies = [(); 3].map(|()| start(&places, "10.0.0.1").unwrap());
        for (proxy, checks) in proxies.iter().zip([2, 3, 300]) {
            answer(proxy, checks);
        }
        // A call whose message is withheld is no answered check.
        let stranger = |number: usize| {
            let place = start(&places, &format!("10.0.1.{number}")).unwrap();
            place.activity().record_call();
            place
        };
        let strangers: Vec<Place> = (1..100).map(stranger).collect();
        assert!(proxies.iter().all(|place| holds(&places, place)));
        assert_eq!(strangers.iter().filter(|place| holds(&places, place)).count(), 5);

        // Those with a check each go before the proxy's connections that were used more.
        strangers.iter().for_each(|place| answer(place, 1));
        let more: Vec<Place> = (100..104).map(stranger).collect();
        more.iter().for_each(|place| answer(place, 1));
        assert!(proxies.iter().all(|place| holds(&places, place)));
    }

    #[tokio::test]
    async fn strangers_take_no_place_of_one_who_holds_less() {
        let places = Places::new(3, true);
        let proxy = start(&places, "10.0.0.1").unwrap();
        let strangers = [(); 2].map(|()| start(&places, "10.0.0.2").unwrap());
        let answering = strangers.each_ref().map(|place| place.activity().begin_answer());
        assert!(start(&places, "10.0.0.2").is_none(), "the own ones are busy");
        assert!(holds(&places, &proxy));
        drop(answering);
    }

    #[tokio::test]
    async fn where_only_proxies_connect_none_is_closed() {
        let places = Places::new(1, false);
        let place = start(&places, "10.0.0.1").unwrap();
        assert!(start(&places, "10.0.0.3").is_none());
        drop(place);
        assert!(start(&places, "10.0.0.3").is_some());
    }
}
