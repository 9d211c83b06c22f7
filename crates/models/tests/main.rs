//! The models. Each test runs every order of its threads' steps within a bound on preemptions, and
//! prints the number of executions (`make loom`). `LOOM_MAX_PREEMPTIONS` raises the bound.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod audit_queue;
#[path = "../../../src/byte_size.rs"]
#[allow(unreachable_pub, reason = "the file is public in the sidecar")]
mod byte_size;
/// The directory of the file whose own tests, which are not compiled here, are below it.
#[path = "../../../src/credential"]
#[allow(dead_code, unreachable_pub, reason = "a model uses a part of the file")]
mod credential {
    pub(crate) mod token_cache;
}
mod leases;
#[path = "../../../src/sync.rs"]
#[allow(unused_imports, reason = "each part uses some of the types")]
mod sync;
mod token_cache;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

/// Runs a model in every order, with at most `preemptions` interruptions of a thread that could go
/// on. `at_least` executions show that the threads did meet.
fn explore(
    name: &str,
    preemptions: usize,
    at_least: usize,
    model: impl Fn() + Sync + Send + 'static,
) {
    let executions = Arc::new(AtomicUsize::new(0));
    let mut builder = loom::model::Builder::new();
    // INVARIANT: the environment extends a search and never shortens it.
    let preemptions = builder.preemption_bound.map_or(preemptions, |most| most.max(preemptions));
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 50_000;
    let counter = Arc::clone(&executions);
    builder.check(move || {
        counter.fetch_add(1, Relaxed);
        model();
    });
    let executions = executions.load(Relaxed);
    println!("loom: {name}: {executions} executions with at most {preemptions} preemptions");
    assert!(executions >= at_least, "{name}: only {executions} executions");
}
