//! Fixed charges: what requests are charged whose usage is in no response.

use std::num::NonZeroU64;

use crate::{
    config::{Errors, Path},
    rule::size::runs_in_background,
    time::MAX_COUNT,
};

/// The fixed charges of a route, in tokens.
#[derive(Clone, Copy, Debug)]
pub(in crate::route) struct FixedCharges {
    /// That of all its requests (`fixed_tokens`).
    pub(in crate::route) all: Option<NonZeroU64>,
    /// That of requests with `background: true` (`background_tokens`).
    pub(in crate::route) background: Option<NonZeroU64>,
}

impl FixedCharges {
    /// Checks the charges of a route or a preset at `path`, and records every error.
    /// `charges_tokens`: one of its limits charges tokens.
    pub(in crate::route) fn check(self, charges_tokens: bool, path: &Path, errors: &mut Errors) {
        for (key, tokens) in [("fixed_tokens", self.all), ("background_tokens", self.background)] {
            let Some(tokens) = tokens else { continue };
            let at = path.key(key);
            if !charges_tokens {
                let text = "no limit in `limits` has `tokens` or `cost`; add one, or remove this";
                errors.push_presuming(&at, &[path.key("limits")], text);
            }
            if tokens.get() > MAX_COUNT {
                errors.push(&at, format!("`{tokens}` is larger than 2^53"));
            }
        }
        if self.all.is_some() && self.background.is_some() {
            errors.push(
                &path.key("background_tokens"),
                "`fixed_tokens` is the charge of every request; remove one of the two",
            );
        }
    }
}

/// Whether requests to a path of a route may run in the background.
pub(in crate::route) fn may_run_in_background(path: &str) -> bool {
    let last = path.rsplit('/').next().unwrap_or_default();
    last.contains(['*', '{']) || runs_in_background(path)
}

/// Whether a path is that of batches, whose usage is in no response.
pub(in crate::route) fn is_batch(path: &str) -> bool {
    path.trim_end_matches("/*").rsplit('/').any(|part| matches!(part, "batches" | "batch"))
}
