//! Tests of the core through its public API. Expected values are written by hand, from the documents
//! named.
//!
//! - `checklist`: the security checklist for tokens, a row for every line J01 to J25 (RFC 8725, 7515,
//!   7518, 7519) and A01 to A07 (RFC 9068, RFC 6750), and a regression test for each known bug of a
//!   JWT library.
//! - `wycheproof`: raw signatures.
//! - `real_tokens`: tokens as issuers send them.
//! - `certificates`: client certificates, and tokens that are bound to one.
//! - `body`, `categories`, `conditions`: the rules of a route.
//! - `bounds`: the bounds of the keys of the file.
//! - `lease`, `escrow`: leased limits, and escrows for outages, in simulations.
//! - `limits`: limits by themselves, number by number.
//! - `corpus`: every row of the decision corpus.
//! - `presets`: every listed route of every inference server.
//! - `members`: every member of their tables.
//! - `properties`: properties of every input; `shadow`: what is in shadow changes no decision.
//!
//! `harness`, `keys` and `token` are shared by the tests of credentials.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub
)]

mod body;
mod bounds;
mod categories;
mod certificates;
mod checklist;
mod conditions;
mod corpus;
mod escrow;
mod harness;
mod keys;
mod lease;
mod limits;
mod members;
mod presets;
mod properties;
mod real_tokens;
mod shadow;
mod token;
mod upstream_key;
mod wycheproof;

/// The reader of case files, which is a part of the sidecar: `tollgate test` runs cases as well.
#[allow(dead_code, unused_imports, reason = "the sidecar uses the rest")]
#[path = "../../../../src"]
mod sidecar {
    pub mod policy_test;
}
