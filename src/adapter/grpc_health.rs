//! The health service of gRPC, `grpc.health.v1.Health`.

use tonic_health::{
    pb::health_server::{Health, HealthServer},
    server::HealthReporter,
};

/// The longest health request: the name of a service. tonic's default of 4 MiB is in no budget.
const MAX_REQUEST_BYTES: usize = 4 << 10;

/// Returns the service and the handle that sets its state. The handle has one state for each
/// service name, and one for `""`, which is the whole process and is "serving" at the start.
#[must_use]
pub fn health() -> (HealthReporter, HealthServer<impl Health>) {
    let (reporter, server) = tonic_health::server::health_reporter();
    (reporter, server.max_decoding_message_size(MAX_REQUEST_BYTES))
}
