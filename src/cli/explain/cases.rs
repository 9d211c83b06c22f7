//! The cases of a case file, decided and explained one after the other.

use std::{path::Path, sync::Arc};

use anyhow::{Context as _, bail};
use tollgate_core::policy::Policy;

use super::{
    keys,
    steps::{self, ExplainInput, Explanation},
};
use crate::{
    cli::argument,
    policy_test::{Case, CaseFile},
};

/// Most bytes of a case file.
const MAX_CASES: usize = 64 << 20;

/// A case file, and what its cases are decided with.
pub(in crate::cli) struct CaseRun<'a> {
    /// The policy of `--config`; `None` for that of the case file.
    pub(in crate::cli) policy: Option<Arc<Policy>>,
    /// `body.max`, where the configuration is a whole file.
    pub(in crate::cli) max_body: Option<usize>,
    /// Key sets, as `--jwks` names them.
    pub(in crate::cli) jwks: &'a [String],
    /// Only cases whose names contain this text.
    pub(in crate::cli) only: Option<&'a str>,
}

/// Reads the text of a case file; `-` is standard input.
///
/// # Errors
/// It cannot be read, or is no text.
pub(in crate::cli) fn read(path: &Path) -> anyhow::Result<String> {
    String::from_utf8(argument::file(path, MAX_CASES)?)
        .with_context(|| format!("cannot read `{}`", path.display()))
}

impl CaseRun<'_> {
    /// Decides the cases of `text`, the file at `path`, and calls `each` with each result.
    ///
    /// # Errors
    /// The file is wrong or has no such case, or an error of `each`.
    pub(in crate::cli) fn each(
        &self,
        path: &Path,
        text: &str,
        mut each: impl FnMut(&Case, Explanation) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let shown = path.display();
        let file = CaseFile::parse(text).map_err(|errors| {
            let lines: Vec<String> =
                errors.iter().map(|error| format!("{shown}: {error}")).collect();
            anyhow::Error::msg(lines.join("\n"))
        })?;
        let own = self.policy.is_none();
        let policy = self.policy.clone().or_else(|| file.policy().cloned()).with_context(|| {
            format!("`{shown}` has no `config`; name the configuration with --config FILE")
        })?;
        let found = keys::find(policy, Some(&file), own, self.jwks)?;
        let named = |case: &Case| self.only.is_none_or(|only| case.name.contains(only));
        let cases: Vec<Case> = file.cases(None)?.into_iter().filter(named).collect();
        if cases.is_empty() {
            bail!("`{shown}` has no such case");
        }
        for case in &cases {
            let input = ExplainInput {
                found: &found,
                request: &case.request,
                now: case.now,
                max_body: self.max_body,
                outage: case.outage,
                assumed: false,
            };
            let explanation = steps::explain(&input, case.store(&found.snapshot)).of(case);
            each(case, explanation)?;
        }
        Ok(())
    }
}
