//! Tollgate as a dynamic module of Envoy: an HTTP filter that decides in the proxy's own process,
//! with the engine, the policy file, the metrics and the audit lines of the sidecar.
//!
//! ```text
//! Envoy -> abi::hooks -> filter -> shell (the engine) -> effect -> host -> Envoy
//! ```
//!
//! `abi` has the names and types of Envoy's interface, `host` is its safe side, and these two are
//! all of the code that is `unsafe`. `filter` follows one request, `request` reads it, `effect` is
//! what a decision changes, and `shell` is the engine of a policy file.
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

pub mod abi;
mod document;
mod effect;
pub mod filter;
pub mod host;
mod request;
mod response;
pub mod shell;
mod waiter;
