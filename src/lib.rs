//! Tollgate: the sidecar around the decision of `tollgate-core`. Everything that touches a socket, a file or a clock is here.
//!
//! `main -> cli -> app -> {frontend, store, jwks, reload, observe, ops, admin} -> check -> tollgate-core`; see ARCHITECTURE.md.
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

pub mod admin;
pub mod app;
pub mod case;
pub mod check;
pub mod cli;
pub mod config;
pub mod frontend;
pub mod jwks;
pub mod listener;
pub mod live;
pub mod observe;
pub mod ops;
#[doc(hidden)]
pub mod pb;
pub mod ready;
pub mod reload;
pub mod secrets;
pub mod size;
pub mod store;
pub mod token_cache;
