//! The lists of those whose requests are refused most, for operators: networks with failed
//! credentials, and subjects with denied requests. They are no labels of metrics, which any client
//! could multiply.

use std::time::Duration;

use tollgate_core::{
    ban::{Ban, Target},
    denial::Reason,
    network::Network,
};

/// Those whose requests were refused most in the latest time, as one replica has seen them.
#[derive(Clone, Debug, Default)]
pub struct Offenders {
    /// The networks with the most failed credentials; `None` where the policy has no automatic bans.
    pub networks: Option<FailingNetworks>,
    /// The subjects with the most denied requests.
    pub subjects: DeniedSubjects,
}

/// The networks with the most failed credentials, the first one has most.
#[derive(Clone, Debug)]
pub struct FailingNetworks {
    /// The time in which failures are counted.
    pub window: Duration,
    /// The failures that ban a network.
    pub limit: u64,
    /// The networks with the most failures.
    pub list: Vec<FailingNetwork>,
}

/// A network with failed credentials.
#[derive(Clone, Debug)]
pub struct FailingNetwork {
    /// The network, with the prefix that automatic bans have.
    pub network: Network,
    /// The failed credentials, those that were refused unverified included.
    pub failures: u32,
    /// The credentials that were refused unverified, as the network was banned.
    pub refused: u32,
    /// The ban in force.
    pub ban: Option<Ban>,
}

/// The subjects with the most denied requests, the first one has most.
#[derive(Clone, Debug, Default)]
pub struct DeniedSubjects {
    /// The time in which denied requests are counted.
    pub window: Duration,
    /// The subjects with the most denied requests.
    pub list: Vec<DeniedSubject>,
}

/// A holder of valid credentials whose requests are denied.
#[derive(Clone, Debug)]
pub struct DeniedSubject {
    /// The holder, as a ban names it: a subject, a client without one, or an API key.
    pub holder: Target,
    /// The tenant of the latest credential.
    pub tenant: Option<String>,
    /// The denied requests.
    pub denials: u32,
    /// The reason of the latest one.
    pub reason: Reason,
}
