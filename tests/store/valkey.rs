//! The tests of the store on real Valkey servers, in a run of their own.

use std::process::Command;

use super::redis_server::PROGRAM;
use crate::rig::part;

/// The contract, scripts against the model, and one server of each kind: single, replicated with Sentinels,
/// and in a cluster.
const TESTS: &[&str] = &[
    "store::contract::redis_on_a_unix_socket",
    "store::contract::redis_on_tcp_in_another_database",
    "store::contract::redis_with_a_user_that_may_do_only_this",
    "store::differential::the_script_counts_as_the_reference_does",
    "store::leases::leased_units_are_spent_without_a_call",
    "store::local_fallback::revocations_are_followed",
    "store::logins::a_refused_login_shows_no_password",
    "store::outages::a_call_that_timed_out_is_charged_once",
    "store::sentinels::sentinels_and_servers_have_logins_of_their_own_and_a_wrong_name_lists_the_right_ones",
    "store::shards::what_a_check_counts_is_in_the_slot_of_its_tenant_and_all_nodes_count",
];

#[test]
#[ignore = "needs Valkey: tools/parts valkey"]
fn the_store_is_the_same_on_valkey() {
    let valkey = part("valkey-server", "valkey");
    let this = std::env::current_exe().unwrap();
    let mut run = Command::new(this);
    run.args(["--exact", "--test-threads", "2"]).args(TESTS).env(PROGRAM, valkey);
    let output = run.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains(&format!("{} passed", TESTS.len())), "a test has another name: {text}");
}
