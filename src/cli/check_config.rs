//! The command `tollgate check-config`.

use std::{io::Write, process::ExitCode};

use clap::Args;
use serde_json::json;

use super::{
    Output,
    config_file::{self, ConfigFile, ConfigText},
    failure,
    paint::Paint,
    printable,
};
use crate::config::{self, LoadError, Located};

const MORE: &str = "\
Examples:
  tollgate check-config tollgate.yaml
  helm template gate deploy/helm/tollgate | yq '.data[\"tollgate.yaml\"]' | tollgate check-config -
  tollgate check-config tollgate.yaml --output json | jq -r '.errors[] | \"\\(.line) \\(.message)\"'

Exit codes:
  0  no errors
  1  errors, which are listed
  2  the file cannot be read";

/// Report every error of a configuration file.
///
/// Each error has its file, line and key, and a remedy. Variables such as `${NAME}` are taken from
/// the environment. Files that the configuration names (secrets, key sets, certificates) are
/// opened: a missing one is a warning, because a file is often checked on another machine than the
/// one that serves it, and an error with `--require-files`. A note names what a route needs of the
/// proxy, such as the upgrade to a WebSocket.
#[derive(Debug, Args)]
#[command(after_long_help = MORE)]
pub struct CheckConfig {
    #[command(flatten)]
    config: ConfigFile,
    /// Count a file that the configuration names and that cannot be read as an error.
    #[arg(long)]
    require_files: bool,
    /// The format of the report.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

impl CheckConfig {
    /// Checks the file and prints to `out`.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn run(self, out: &mut dyn Write, paint: Paint) -> anyhow::Result<ExitCode> {
        let ConfigText { path, text } = config_file::read(self.config.path())?;
        let checked = config::compile_with_notes(&path, &text);
        let mut path = path.display().to_string();
        let (mut errors, mut warnings, notes) = match checked {
            Ok((_, notes)) => (Vec::new(), notes.unreadable, notes.proxy),
            // Of this file, or of the file of API keys that it names.
            Err(LoadError::Invalid { errors, path: of }) => {
                path = of;
                (errors, Vec::new(), Vec::new())
            }
            Err(error @ LoadError::Read(_)) => return Err(error.into()),
        };
        if self.require_files {
            errors.append(&mut warnings);
        }
        match self.output {
            Output::Text => {
                for (label, error) in errors
                    .iter()
                    .map(|error| ("", error))
                    .chain(warnings.iter().map(|warning| ("warning: ", warning)))
                    .chain(notes.iter().map(|note| ("note: ", note)))
                {
                    // The place first, as compilers write it, so that editors find it.
                    let line = printable::printable(&Located { path: &path, error }.to_string());
                    let (place, rest) = line.split_once(": ").unwrap_or((&line, ""));
                    writeln!(out, "{}: {label}{rest}", paint.bad(place))?;
                }
                if errors.is_empty() {
                    writeln!(out, "{path}: {}", paint.good("ok"))?;
                }
            }
            Output::Json => {
                let report = json!({
                    "file": path,
                    "ok": errors.is_empty(),
                    "errors": failure::locations(&path, &errors),
                    "warnings": failure::locations(&path, &warnings),
                    "notes": failure::locations(&path, &notes),
                });
                writeln!(out, "{}", printable::json(&report)?)?;
            }
        }
        Ok(if errors.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        check: CheckConfig,
    }

    fn run(text: &str, require_files: bool, output: Output) -> (String, ExitCode) {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("tollgate.yaml");
        std::fs::write(&file, text).unwrap();
        let mut out = Vec::new();
        let name = file.display().to_string();
        let mut check = Line::try_parse_from(["check-config", &name]).unwrap().check;
        (check.require_files, check.output) = (require_files, output);
        let code = check.run(&mut out, Paint::default()).unwrap();
        let printed = String::from_utf8(out).unwrap();
        (printed.replace(&format!("{}/", directory.path().display()), ""), code)
    }

    #[test]
    fn a_file_of_keys_that_serve_refuses_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let keys = directory.path().join("keys.json");
        let text = format!(
            "api_keys: {{ file: '{}' }}\nroutes: [{{ match: {{ methods: [GET], paths: [/a] }}, scopes: [] }}]",
            keys.display()
        );
        std::fs::write(&keys, " ".repeat(18 << 20)).unwrap();
        let (printed, code) = run(&text, false, Output::Text);
        assert!(
            printed.contains("at most 16 MiB and 100000 records; keep more in Redis"),
            "{printed}"
        );
        assert_eq!(code, ExitCode::from(1));
        let comment = format!("keys: []\n#{}", " ".repeat(5 << 20));
        std::fs::write(&keys, comment).unwrap();
        assert_eq!(run(&text, false, Output::Text).1, ExitCode::SUCCESS);
        let (printed, _) = run(&text, false, Output::Text);
        assert_eq!(printed, "tollgate.yaml: ok\n");
    }

    const WITH_FILE: &str = "issuers:
  - { issuer: absent, audiences: any, algorithms: [HS256], secret: \"file:/no/secret\" }
routes:
  - { match: { methods: [GET], paths: [/a] }, scopes: [] }
";

    #[test]
    fn a_missing_file_is_a_warning_or_an_error() {
        let place = "tollgate.yaml:2: ";
        let message = "issuers[0].secret: the file `/no/secret` does not exist on this machine\n";
        assert_eq!(
            run(WITH_FILE, false, Output::Text),
            (format!("{place}warning: {message}tollgate.yaml: ok\n"), ExitCode::SUCCESS)
        );
        assert_eq!(
            run(WITH_FILE, true, Output::Text),
            (format!("{place}{message}"), ExitCode::from(1))
        );
    }

    #[test]
    fn what_a_route_needs_of_the_proxy_is_a_note() {
        let text = "listen: { http: [{ address: \"127.0.0.1:0\", dialect: caddy }] }
routes:
  - match: { methods: [GET], paths: [/v1/live] }
    scopes: []
    websocket: { token_prefix: key., origins: [\"https://a.example\"] }
  - { match: { methods: [POST], paths: [/a.Service/Method] }, scopes: [] }
issuers:
  - { issuer: absent, audiences: any, algorithms: [HS256], secret: 0123456789abcdef0123456789abcdef }
";
        let (printed, code) = run(text, true, Output::Text);
        assert_eq!(code, ExitCode::SUCCESS, "{printed}");
        for part in [
            "tollgate.yaml:5: note: routes[0].websocket: `/v1/live` is a WebSocket",
            "tollgate.yaml:5: note: routes[0].websocket.token_prefix: only Envoy over gRPC",
            "tollgate.yaml:6: note: routes[1].match.paths: `/a.Service/Method` looks like gRPC",
        ] {
            assert!(printed.contains(part), "{part}: {printed}");
        }
        let (printed, _) = run(text, true, Output::Json);
        let report: serde_json::Value = serde_json::from_str(&printed).unwrap();
        assert_eq!(report["notes"].as_array().unwrap().len(), 3, "{printed}");
    }

    #[test]
    fn api_keys_need_headers_that_the_proxy_copies() {
        let file = |dialect: &str| {
            format!(
                "listen: {{ http: [{{ address: \"127.0.0.1:0\", dialect: {dialect} }}] }}
api_keys: {{ file: /no/keys.yaml }}
routes: [{{ match: {{ methods: [GET], paths: [/a] }}, scopes: [] }}]
"
            )
        };
        let note = "note: api_keys.header: the proxies of `listen.http` have to copy";
        for (dialect, noted) in [("nginx", true), ("traefik", true), ("envoy_http", false)] {
            let (printed, code) = run(&file(dialect), false, Output::Text);
            assert_eq!((code, printed.contains(note)), (ExitCode::SUCCESS, noted), "{printed}");
        }
    }

    #[test]
    fn an_error_in_the_file_of_keys_is_an_error_with_its_line() {
        let directory = tempfile::tempdir().unwrap();
        let keys = directory.path().join("keys.yaml");
        std::fs::write(&keys, "keys:\n- { id: broken }\n").unwrap();
        let text = format!(
            "api_keys: {{ file: {} }}
routes: [{{ match: {{ methods: [GET], paths: [/a] }}, scopes: [] }}]
",
            keys.display()
        );
        let (printed, code) = run(&text, false, Output::Text);
        assert_eq!(code, ExitCode::from(1), "{printed}");
        assert!(printed.contains("keys.yaml:2: keys[0].id: `broken` is not the id"), "{printed}");
    }

    #[test]
    fn the_json_report_has_errors_and_warnings() {
        let report = |text, require_files| {
            let (printed, _) = run(text, require_files, Output::Json);
            let report: serde_json::Value = serde_json::from_str(&printed).unwrap();
            let count = |key: &str| report[key].as_array().unwrap().len();
            (report["ok"].as_bool().unwrap(), count("errors"), count("warnings"))
        };
        assert_eq!(report(WITH_FILE, false), (true, 0, 1));
        assert_eq!(report(WITH_FILE, true), (false, 1, 0));
        assert_eq!(report("routes: 5", false), (false, 1, 0));
    }
}
