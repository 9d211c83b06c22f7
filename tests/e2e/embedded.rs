//! Tollgate inside of Envoy: the tests of the sidecar, with the module in the place of the filter that
//! calls one.

use super::{allow, denials, request_normalization};
use crate::rig::envoy::{EMBEDDED_CURRENT, EMBEDDED_OLDEST};

#[test]
fn the_module_forwards_the_same_requests_and_no_others() {
    allow::identity(EMBEDDED_CURRENT);
    allow::forgeries(EMBEDDED_CURRENT);
    allow::forgeries_with_a_careless_envoy(EMBEDDED_CURRENT);
}

#[test]
fn every_reason_has_its_answer_from_the_module() {
    denials::reasons(EMBEDDED_CURRENT);
}

#[test]
fn the_module_reads_requests_as_the_sidecar_does() {
    request_normalization::paths(EMBEDDED_CURRENT);
    request_normalization::hosts_and_headers(EMBEDDED_CURRENT);
    request_normalization::bodies(EMBEDDED_CURRENT);
}

#[test]
#[ignore = "needs a large download: make test-all"]
fn the_module_works_in_the_oldest_envoy() {
    allow::identity(EMBEDDED_OLDEST);
    allow::forgeries(EMBEDDED_OLDEST);
    denials::reasons(EMBEDDED_OLDEST);
    request_normalization::bodies(EMBEDDED_OLDEST);
}
