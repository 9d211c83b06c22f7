//! The doors: what proxies speak, turned into checks and back.

pub mod ext_authz;
pub mod forward_auth;
pub mod grpc;
pub mod in_flight;
mod wire;
