//! What holds for every input, tried with many. The seed is fixed, so that a run that fails fails again; `PROPTEST_RNG_SEED`
//! and `PROPTEST_CASES` look further.

mod config;
mod json_body;
mod request;
mod routes;
mod tokens;

pub use json_body::members;
use proptest::test_runner::{Config, RngSeed};

/// So many cases, or more where the environment asks for more.
pub fn cases(cases: u32) -> Config {
    let asked = Config::default();
    let rng_seed = match asked.rng_seed {
        RngSeed::Random => RngSeed::Fixed(0x746f_6c6c),
        fixed @ RngSeed::Fixed(_) => fixed,
    };
    Config { cases: cases.max(asked.cases), rng_seed, failure_persistence: None, ..asked }
}
