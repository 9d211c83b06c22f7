//! Properties that hold for every input, tested with random inputs.
//!
//! The seed is fixed, so a failure is reproducible. `PROPTEST_RNG_SEED` and `PROPTEST_CASES` extend
//! the search.

mod answers;
mod config;
mod costs;
mod decisions;
mod json_body;
mod request;
mod routes;
mod tokens;

pub use json_body::members;
use proptest::test_runner::{Config, RngSeed};

/// Runs `cases` cases, or more if the environment sets a larger number.
pub fn cases(cases: u32) -> Config {
    let asked = Config::default();
    let rng_seed = match asked.rng_seed {
        RngSeed::Random => RngSeed::Fixed(0x746f_6c6c),
        fixed @ RngSeed::Fixed(_) => fixed,
    };
    Config { cases: cases.max(asked.cases), rng_seed, failure_persistence: None, ..asked }
}
