//! The health service of gRPC, `grpc.health.v1.Health`.

use tollgate_grpc_unary::Services;
use tonic_health::server::HealthReporter;

use super::in_flight::InFlight;

/// The longest health request: the name of a service. tonic's default of 4 MiB is in no budget.
const MAX_REQUEST_BYTES: usize = 4 << 10;

/// The method that answers once. All others open a stream.
const CHECK_PATH: &str = "/grpc.health.v1.Health/Check";

/// Adds the service to `services`, with its calls charged to `budget`, and returns the handle that
/// sets its state. The handle has one state for each service name, and one for `""`, which is the
/// whole process and is "serving" at the start.
#[must_use]
pub fn add(services: Services, budget: &InFlight) -> (HealthReporter, Services) {
    let (reporter, server) = tonic_health::server::health_reporter();
    let server = server.max_decoding_message_size(MAX_REQUEST_BYTES);
    let (calls, streams) = (budget.clone(), budget.clone());
    let services = services
        .generated_method(CHECK_PATH, server.clone(), move || calls.charge_call().ok())
        .generated(server, move || streams.charge_stream().ok());
    (reporter, services)
}
