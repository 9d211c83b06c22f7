//! `tollgate usage` on the Redis of a test, as an operator runs it.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use super::super::redis_server::Server;
use crate::rig::tollgate::run;

const CONFIG: &str = "
store: { redis: { url: URL } }
metering: { secrets: [mmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmm] }
ledger: { keys: [{ id: k, secret: 'file:ledger-key' }], max_rows: 10 }
routes: [{ match: { paths: [/health] }, public: true }]
";

/// The configuration of an operator.
pub(super) struct Operator {
    dir: TempDir,
}

impl Operator {
    pub(super) fn of(server: &Server) -> Self {
        Self::at(&server.unix())
    }

    /// The same with Redis at a URL.
    pub(super) fn at(url: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("ledger-key");
        let config = CONFIG
            .replace("URL", url)
            .replace("file:ledger-key", &format!("file:{}", key.display()));
        std::fs::write(dir.path().join("tollgate.yaml"), config).unwrap();
        // As the keys of the writers, see `rig::keys`.
        std::fs::write(key, [7; 32]).unwrap();
        Self { dir }
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Runs a command: its exit code, and what it printed.
    pub(super) fn run(&self, arguments: &[&str]) -> (i32, String) {
        let place = ["--config", "tollgate.yaml"];
        let output = run(self.path(), &[&["usage"], arguments, &place].concat());
        let printed = String::from_utf8(output.stdout).unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        (output.status.code().unwrap(), format!("{printed}{errors}"))
    }

    pub(super) fn succeed(&self, arguments: &[&str]) -> String {
        let (code, text) = self.run(arguments);
        assert_eq!(code, 0, "{arguments:?}: {text}");
        text
    }

    /// Verifies the ledger and files of exports: the names of what was found.
    pub(super) fn findings(&self, exports: &[&str]) -> Vec<String> {
        let mut arguments = vec!["verify", "--output", "json"];
        for file in exports {
            arguments.extend(["--export", file]);
        }
        let (code, text) = self.run(&arguments);
        let json: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}"));
        let findings = json["findings"].as_array().unwrap();
        let names = findings.iter().map(|finding| finding["finding"].as_str().unwrap().to_owned());
        let names: Vec<String> = names.collect();
        assert_eq!(code, i32::from(!names.is_empty()), "{text}");
        assert_eq!(json["valid"], names.is_empty());
        names
    }

    /// Exports to a file, and returns its path.
    pub(super) fn export(&self, name: &str) -> PathBuf {
        self.succeed(&["export", "--file", name]);
        self.path().join(name)
    }

    /// The usage records of a file.
    pub(super) fn records(&self, name: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path().join(name)).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|line| line["kind"] == "usage").collect()
    }
}
