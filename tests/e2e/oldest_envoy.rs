//! Envoy's own behaviour can differ between versions: the same tests with the oldest supported
//! version.

use super::{allow, denials, redis_outage, request_normalization, settlement, tollgate_outage};
use crate::rig::envoy::OLDEST;

#[test]
#[ignore = "needs a large download: make test-all"]
fn the_oldest_envoy_forwards_the_same_requests_and_no_others() {
    allow::identity(OLDEST);
    allow::forgeries(OLDEST);
    allow::forgeries_with_a_careless_envoy(OLDEST);
    denials::reasons(OLDEST);
}

#[test]
#[ignore = "needs a large download: make test-all"]
fn the_oldest_envoy_reads_requests_the_same_way() {
    request_normalization::paths(OLDEST);
    request_normalization::hosts_and_headers(OLDEST);
    request_normalization::bodies(OLDEST);
}

#[test]
#[ignore = "needs a large download: make test-all"]
fn the_oldest_envoy_fails_the_same_way() {
    redis_outage::failure_policies(OLDEST);
    tollgate_outage::failure_policies(OLDEST);
}

#[test]
#[ignore = "needs a large download: make test-all"]
fn the_oldest_envoy_reports_the_same_usage() {
    // `transform` of this version writes each member that the check did not return, as `null`: it
    // needs the current one, as docs/metering.md says.
    settlement::shapes(OLDEST);
    settlement::cuts(OLDEST);
}
