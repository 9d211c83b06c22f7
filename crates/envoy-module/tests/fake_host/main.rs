//! The module in a host that is not Envoy: the hooks are called as Envoy calls them, and the host
//! frees what it lent at each change, which valgrind and a sanitizer can see.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests"
)]

mod corpus;
mod envoy;
mod lifecycle;
mod memory;
#[path = "../../../../tests/corpus/stored.rs"]
mod stored;
