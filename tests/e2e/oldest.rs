//! What Envoy decides by itself can differ between versions: the same on the oldest one that is supported.

use super::{allow, denials, failure, paths};
use crate::rig::envoy::OLDEST;

#[test]
#[ignore = "needs a large download: make test-all"]
fn the_oldest_envoy_passes_the_same_and_nothing_else() {
    allow::identity(OLDEST);
    allow::forgeries(OLDEST);
    allow::forgeries_with_a_careless_envoy(OLDEST);
    denials::reasons(OLDEST);
}

#[test]
#[ignore = "needs a large download: make test-all"]
fn the_oldest_envoy_reads_requests_the_same_way() {
    paths::paths(OLDEST);
    paths::hosts_and_headers(OLDEST);
    paths::bodies(OLDEST);
}

#[test]
#[ignore = "needs a large download: make test-all"]
fn the_oldest_envoy_fails_the_same_way() {
    failure::store(OLDEST);
    failure::tollgate(OLDEST);
}
