//! Protocol adapters: what a proxy sends becomes a check, and the answer becomes what it expects.

pub mod access_log;
pub mod ext_authz;
pub mod ext_proc;
pub mod forward_auth;
pub mod grpc_health;
pub mod in_flight;
pub mod response_meter;
pub mod settle_api;
