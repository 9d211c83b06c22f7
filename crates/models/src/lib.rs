//! Models of the sidecar's own concurrency. loom runs each model once for every order in which the
//! steps of its threads can follow each other, and for every value that an atomic may return.
//!
//! The tests compile the files of the sidecar themselves: `src/sync.rs` has loom's types where
//! `cfg(loom)` is set. [`Cache`] takes the place of quick_cache, which loom cannot look into.

mod cache;

pub use cache::{Cache, GuardResult, PlaceGuard, PlaceIsGone};
