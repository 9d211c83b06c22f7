//! The sidecar without its sockets: the policy and keys in force, their reload, and readiness.

pub mod live;
pub mod readiness;
pub mod reload;
