//! Tollgate's decision: who may use an inference endpoint, and how much of it.
//!
//! This crate takes values and returns values. It reads no clock, no environment, no file and no
//! socket, takes no lock and writes no log: `now` is an argument, an outage of the store is an
//! argument. [`check::prepare`] and [`check::Pending::conclude`] are the whole product on one screen.
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

pub mod admission;
pub mod check;
pub mod config;
pub mod credential;
pub mod decision;
pub mod denial;
pub mod identity;
mod json;
pub mod limit;
pub mod pattern;
pub mod permit;
pub mod policy;
pub mod request;
pub mod revocation;
pub mod route;
pub mod rule;
pub mod secret;
pub mod snapshot;
pub mod text;
pub mod time;
