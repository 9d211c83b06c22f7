//! The metrics of automatic bans. Networks have no series: the log and the audit lines name them.

use std::fmt;

use prometheus_client::encoding::DescriptorEncoder;

use super::{Scrape, family::Family};

/// The state of automatic bans.
#[derive(Clone, Copy, Debug)]
pub struct NetworkBanStatus {
    /// Failed credentials that were counted against the network of their client, by failure.
    pub failures: [(&'static str, u64); 3],
    /// Checks with a credential from banned networks, by what became of it.
    pub checks: [(&'static str, u64); 3],
    /// The networks with too many failed credentials, by what became of them.
    pub results: [(&'static str, u64); 5],
    /// The networks with failed credentials in the present time.
    pub networks: u64,
    /// The failed credentials of that one which has most.
    pub most: u64,
    /// The failed credentials that ban a network.
    pub threshold: u64,
}

impl Scrape {
    pub(super) fn network_bans(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "The most denied requests of one holder of a credential in the latest minute.";
        Family::gauge(encoder, "denied_subject_requests", help, None)?
            .alone(self.status.most_denials)?;
        let Some(status) = self.status.network_bans else { return Ok(()) };
        let help = "Failed credentials that count against the network of their client, by failure.";
        let mut family = Family::counter(encoder, "failed_credentials", help)?;
        for (failure, count) in status.failures {
            family.count(&[("failure", failure)], count)?;
        }
        let help =
            "Networks with failed credentials in the latest time of automatic_bans.failures.";
        Family::gauge(encoder, "failing_networks", help, None)?.alone(status.networks)?;
        let help = "The most failed credentials of one network in that time.";
        Family::gauge(encoder, "failing_network_failures", help, None)?.alone(status.most)?;
        let help = "The failed credentials that ban a network: automatic_bans.failures.";
        Family::gauge(encoder, "failing_network_limit", help, None)?.alone(status.threshold)?;
        let help = "Networks that reached that number, by what became of them.";
        let mut family = Family::counter(encoder, "automatic_bans", help)?;
        for (result, count) in status.results {
            family.count(&[("result", result)], count)?;
        }
        let help =
            "Credentials from networks that are banned automatically, by what became of them.";
        let mut family = Family::counter(encoder, "banned_network_credentials", help)?;
        for (result, count) in status.checks {
            family.count(&[("result", result)], count)?;
        }
        Ok(())
    }
}
