//! Tollgate: the sidecar around the decision of `tollgate-core`. Sockets, files and clocks are used
//! here only.
//!
//! [`engine`] is the sidecar without its sockets; [`app`] serves it over gRPC and HTTP.
//! ARCHITECTURE.md has the map and the layers.
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

pub mod adapter;
pub mod admin;
pub mod app;
mod background;
mod bounded_body;
pub mod bounded_file;
pub mod byte_size;
pub mod cli;
pub mod config;
pub mod credential;
pub mod engine;
mod error_text;
pub mod health;
mod json_api;
pub mod listener;
mod log_list;
mod network_budget;
pub mod observe;
pub mod policy_test;
#[doc(hidden)]
pub mod proto;
pub mod secrets;
pub mod store;
mod sync;
pub mod tls_roots;
mod waiting_list;
