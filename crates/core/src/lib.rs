//! Tollgate's decision: who may use an inference endpoint, and how much of it.
//!
//! This crate takes values and returns values. It reads no clock, environment, file or socket,
//! takes no lock and writes no log: the current time and an outage of the store are arguments. A
//! check is [`check::prepare`], one query of the store by the caller, and
//! [`check::Pending::conclude`].
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

pub mod admission;
pub mod authenticate;
pub mod ban;
pub mod check;
pub mod config;
pub mod credential;
pub mod decision;
pub mod denial;
pub mod details;
pub mod identity;
mod json;
pub mod ledger;
pub mod limit;
pub mod network;
pub mod pattern;
pub mod permit;
pub mod policy;
pub mod request;
pub mod revocation;
pub mod room;
pub mod route;
pub mod rule;
pub mod secret;
pub mod snapshot;
pub mod stage;
pub mod text;
pub mod time;
