//! The command `tollgate test`: case files as tests of a policy.

use std::{io::Write, path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::bail;
use clap::Args;
use serde_json::{Value, json};
use tollgate_core::{config::Document, decision::Decision};

use super::{
    Output,
    config_file::{self, ConfigText},
    explain::{CaseRun, Explanation, read_cases},
    paint::Paint,
    printable,
};
use crate::{config, policy_test::Case};

const MORE: &str = "\
Examples:
  tollgate test cases.yaml
  tollgate test tollgate.yaml cases.yaml more-cases.yaml
  tollgate test --config tollgate.yaml cases.yaml --only expired
  tollgate test cases.yaml --output json | jq '.cases[] | select(.result == \"failed\")'

Exit codes:
  0  every case has the expected result
  1  some have not: they are listed
  2  a file cannot be used, or wrong usage";

/// Test a policy: decide the cases of files, and list those with another result.
///
/// Offline, without network and store. A case file (docs/cases.md) has requests with the expected
/// answers, and may have a policy of its own. Prints the cases that fail, each with its differences,
/// and a summary; `tollgate explain --case` prints every step.
#[derive(Debug, Args)]
#[command(after_long_help = MORE)]
pub struct Test {
    /// Case files; `-` is standard input. A file without `cases` is the configuration.
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// The configuration file; `-` is standard input. Default: the one in the case file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Only the cases whose names contain this text.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// A key set for an issuer whose keys are fetched; without `ISSUER=` where there is only one.
    /// May be given more than once.
    #[arg(long, value_name = "[ISSUER=]FILE")]
    jwks: Vec<String>,
    /// The form of the output.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// The result of one case.
struct CaseResult {
    file: String,
    line: Option<u64>,
    name: String,
    outcome: Outcome,
}

/// The comparison of a case with its expectation.
enum Outcome {
    Passed,
    Failed {
        difference: String,
        cause: String,
    },
    /// The case has no `expect`.
    Untested,
}

impl Test {
    /// Decides the cases and prints to `out`.
    ///
    /// # Errors
    /// A file cannot be read or is wrong.
    pub fn run(self, out: &mut dyn Write, paint: Paint) -> anyhow::Result<ExitCode> {
        let mut configuration = self.config.as_deref().map(config_file::read).transpose()?;
        let mut files = Vec::new();
        for path in &self.files {
            let text = read_cases(path)?;
            if is_case_file(&text) {
                files.push((path, text));
            } else if let Some(other) = &configuration {
                bail!(
                    "`{}` has no `cases`, and the configuration is `{}` already",
                    path.display(),
                    other.path.display()
                );
            } else {
                configuration = Some(ConfigText { path: path.clone(), text });
            }
        }
        if files.is_empty() {
            bail!("no file has `cases`; name a case file (docs/cases.md) beside the configuration");
        }
        let loaded = configuration
            .map(|ConfigText { path, text }| config::compile_file(&path, &text))
            .transpose()?;
        let (policy, max_body) = match loaded {
            Some(loaded) => (Some(Arc::new(loaded.policy)), Some(loaded.file.server.body.max.0)),
            None => (None, None),
        };
        let only = self.only.as_deref();
        let run = CaseRun { policy, max_body, jwks: &self.jwks, only };
        let mut results = Vec::new();
        for (path, text) in &files {
            run.each(path, text, |case, explanation| {
                results.push(CaseResult::of(&path.display().to_string(), case, &explanation));
                Ok(())
            })?;
        }
        let failed = results.iter().filter(|result| result.word() == "failed").count();
        match self.output {
            Output::Json => writeln!(out, "{}", printable::json(&report(&results))?)?,
            Output::Text => text(&results, paint, out)?,
        }
        Ok(ExitCode::from(u8::from(failed > 0)))
    }
}

/// Whether a file has the list `cases`. A file that cannot be read as YAML is taken for one, so
/// that its errors are those of a case file.
fn is_case_file(text: &str) -> bool {
    // The values of variables do not matter here, but they must be set.
    let value = Document::parse(text, &|_| Some("x".to_owned()))
        .and_then(|document| document.read::<Value>());
    value.map_or(true, |value| value.get("cases").is_some())
}

impl CaseResult {
    fn of(file: &str, case: &Case, explanation: &Explanation) -> Self {
        let outcome = match explanation.expectation() {
            None => Outcome::Untested,
            Some(Ok(())) => Outcome::Passed,
            Some(Err(difference)) => Outcome::Failed {
                difference: difference.to_string(),
                cause: match explanation.decision() {
                    Decision::Allow(_) => String::new(),
                    Decision::Deny(denial) => denial.cause.to_string(),
                    Decision::Fail(failure) => failure.cause.to_string(),
                },
            },
        };
        Self { file: file.to_owned(), line: case.line, name: case.name.clone(), outcome }
    }

    fn word(&self) -> &'static str {
        match self.outcome {
            Outcome::Passed => "passed",
            Outcome::Failed { .. } => "failed",
            Outcome::Untested => "untested",
        }
    }

    fn place(&self) -> String {
        match self.line {
            Some(line) => format!("{}:{line}", self.file),
            None => self.file.clone(),
        }
    }
}

fn count(results: &[CaseResult], word: &str) -> usize {
    results.iter().filter(|result| result.word() == word).count()
}

/// Prints the failures, the cases without an expectation, and the summary.
fn text(results: &[CaseResult], paint: Paint, out: &mut dyn Write) -> std::io::Result<()> {
    for result in results {
        let place = printable::printable(&format!("{}: {}", result.place(), result.name));
        match &result.outcome {
            Outcome::Passed => {}
            Outcome::Untested => {
                writeln!(out, "{} {place}: the case has no `expect`", paint.warn("untested"))?;
            }
            Outcome::Failed { difference, cause } => {
                writeln!(out, "{} {place}", paint.bad("FAILED"))?;
                writeln!(out, "  {}", printable::printable(difference))?;
                if !cause.is_empty() {
                    writeln!(out, "  because: {}", printable::printable(cause))?;
                }
            }
        }
    }
    let [passed, failed, untested] =
        ["passed", "failed", "untested"].map(|word| count(results, word));
    let summary = format!("{passed} passed, {failed} failed, {untested} untested");
    let summary = if failed > 0 { paint.bad(summary) } else { paint.good(summary) };
    writeln!(out, "{summary}")
}

fn report(results: &[CaseResult]) -> Value {
    let cases: Vec<Value> = results
        .iter()
        .map(|result| {
            let (difference, cause) = match &result.outcome {
                Outcome::Failed { difference, cause } => (Some(difference), Some(cause)),
                Outcome::Passed | Outcome::Untested => (None, None),
            };
            json!({
                "file": result.file,
                "line": result.line,
                "name": result.name,
                "result": result.word(),
                "difference": difference,
                "cause": cause.filter(|cause| !cause.is_empty()),
            })
        })
        .collect();
    json!({
        "ok": count(results, "failed") == 0,
        "passed": count(results, "passed"),
        "failed": count(results, "failed"),
        "untested": count(results, "untested"),
        "cases": cases,
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        test: Test,
    }

    const POLICY: &str = "routes: [{ match: { paths: [/health] }, public: true }]\n";
    const CASES: &str = "cases:
  - { name: health is open, request: { method: GET, path: /health }, expect: { decision: allow } }
  - { name: all is open, request: { method: GET, path: /all }, expect: { decision: allow } }
  - { name: the rest, request: { method: GET, path: /rest } }
";

    fn run(arguments: &[&str]) -> anyhow::Result<(String, ExitCode)> {
        let directory = tempfile::tempdir().unwrap();
        let own = format!("config: {{ {} }}\n{CASES}", POLICY.trim());
        for (name, text) in [
            ("tollgate.yaml", POLICY),
            ("cases.yaml", CASES),
            ("own.yaml", &own),
            ("good.yaml", &own.lines().take(3).collect::<Vec<_>>().join("\n")),
        ] {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        let path = |name: &str| directory.path().join(name).display().to_string();
        let arguments = arguments.iter().map(|argument| match argument.ends_with(".yaml") {
            true => path(argument),
            false => (*argument).to_owned(),
        });
        let line = Line::try_parse_from(["test".to_owned()].into_iter().chain(arguments))?;
        let mut out = Vec::new();
        let code = line.test.run(&mut out, Paint::default())?;
        Ok((String::from_utf8(out).unwrap().replace(&path(""), ""), code))
    }

    const FAILURE: &str = "\
FAILED cases.yaml:3: all is open
  decision: expected allow, is deny
  because: no route has this host and path
untested cases.yaml:4: the rest: the case has no `expect`
1 passed, 1 failed, 1 untested
";

    #[test]
    fn failures_are_listed_with_a_summary_however_the_files_are_named() {
        for arguments in [
            &["tollgate.yaml", "cases.yaml"][..],
            &["cases.yaml", "tollgate.yaml"],
            &["--config", "tollgate.yaml", "cases.yaml"],
        ] {
            let (text, code) = run(arguments).unwrap();
            assert_eq!((text.as_str(), code), (FAILURE, ExitCode::from(1)), "{arguments:?}");
        }
        let (text, code) = run(&["good.yaml"]).unwrap();
        assert_eq!((text.as_str(), code), ("1 passed, 0 failed, 0 untested\n", ExitCode::SUCCESS));
        let (text, _) = run(&["own.yaml", "good.yaml"]).unwrap();
        assert!(text.ends_with("2 passed, 1 failed, 1 untested\n"), "{text}");
        let (text, code) = run(&["own.yaml", "--only", "health"]).unwrap();
        assert_eq!((text.as_str(), code), ("1 passed, 0 failed, 0 untested\n", ExitCode::SUCCESS));
    }

    #[test]
    fn the_json_report_has_every_case() {
        let (text, _) = run(&["own.yaml", "--output", "json"]).unwrap();
        let report: Value = serde_json::from_str(&text).unwrap();
        let results: Vec<&str> = report["cases"]
            .as_array()
            .unwrap()
            .iter()
            .map(|case| case["result"].as_str().unwrap())
            .collect();
        assert_eq!(results, ["passed", "failed", "untested"]);
        assert_eq!((&report["ok"], &report["failed"]), (&false.into(), &1.into()));
    }

    #[test]
    fn files_that_make_no_test_are_refused_with_the_remedy() {
        for (arguments, message) in [
            (&["tollgate.yaml"][..], "no file has `cases`"),
            (&["cases.yaml"], "has no `config`; name the configuration with --config FILE"),
            (
                &["--config", "tollgate.yaml", "tollgate.yaml", "cases.yaml"],
                "has no `cases`, and the configuration is",
            ),
        ] {
            let error = run(arguments).unwrap_err().to_string();
            assert!(error.contains(message), "{arguments:?}: {error}");
        }
    }
}
