//! A Redis that fails over to its replica while a response arrives: a real Envoy, the binary, and two
//! real Redis servers. The replica lacks the last writes, as replication is asynchronous.

use serde_json::json;

use super::metering::{Chain, policy};
use crate::{
    rig::until,
    store::redis_server::{self, Server},
};

/// A server that copies another one.
pub(crate) fn replica_of(primary: &Server) -> Server {
    let port = primary.port().to_string();
    let replica = redis_server::start(&["--replicaof", "127.0.0.1", &port]);
    until("the copy", || {
        let text: String =
            redis::cmd("INFO").arg("replication").query(&mut replica.client()).unwrap();
        text.contains("master_link_status:up").then_some(())
    });
    replica
}

/// What the counter of the limit has: spent and held.
fn count(server: &Server) -> Option<String> {
    let keys: Vec<String> =
        redis::cmd("KEYS").arg("{tollgate}:count:limited:*").query(&mut server.client()).unwrap();
    redis::cmd("GET").arg(keys.first()?).query(&mut server.client()).unwrap()
}

#[test]
fn a_running_response_is_held_again_after_a_failover_and_charged_once() {
    let mut primary = redis_server::start(&[]);
    let replica = replica_of(&primary);
    let address = format!("127.0.0.1:{}", primary.port());
    let store = format!("store: {{ redis: {{ url: \"redis://{address}\" }} }}\n");
    let chain = Chain::start(&format!("{}{store}", policy("tokens: 5000/day", "60s")));
    assert_eq!(chain.send().status, 200);
    chain.settled(1.0);
    until("the copy of the charge", || (count(&replica)? == "30 0").then_some(()));

    // What the primary acknowledges from now on is lost: a hold, and a charge.
    redis::cmd("REPLICAOF").arg("NO").arg("ONE").exec(&mut replica.client()).unwrap();
    let (reply, events) = chain.stream();
    assert_eq!(chain.send().status, 200);
    chain.settled(2.0);
    let before = until("the hold", || count(&primary));
    let (spent, held) = before.split_once(' ').unwrap();
    assert_eq!(spent, "60");
    assert_eq!(count(&replica).unwrap(), "30 0");
    primary.kill();
    // The replica takes the address of the primary.
    let port = primary.port();
    until("the address", || {
        let set = redis::cmd("CONFIG").arg("SET").arg("port").arg(port).exec(&mut replica.client());
        set.is_ok().then_some(())
    });

    // A report that the response runs has the authenticated reservation, which holds again.
    until("the hold", || (count(&replica)? == format!("30 {held}")).then_some(()));
    let usage = json!({ "choices": [], "usage": { "prompt_tokens": 21, "completion_tokens": 19 } });
    events.send(usage.to_string()).unwrap();
    events.send("[DONE]".to_owned()).unwrap();
    drop(events);
    assert_eq!(reply.join().unwrap().unwrap().status, 200);
    // The loss is that of the request that began and ended within the lost writes.
    until("the charge", || (count(&replica)? == "70 0").then_some(()));
    assert_eq!(chain.send().status, 200);
    until("the next charge", || (count(&replica)? == "100 0").then_some(()));
    chain.tollgate.until_metric("tollgate_settlements_dropped_total", &[], 0.0);
}
