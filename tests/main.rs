//! The one integration binary: tests with real programs. `README.md` has the map.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests"
)]

mod architecture;
mod cardinality;
mod corpus;
mod degraded;
mod deploy;
mod docs;
mod e2e;
mod engine;
mod introspection;
mod jwks;
mod observe;
mod presets;
mod proxies;
mod rig;
mod store;
mod vocabulary;
mod wire;
