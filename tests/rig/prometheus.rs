//! A real Prometheus.

use std::path::Path;

use serde_json::Value;

use super::{free_port, http::Request, part, process::Process};

/// A running Prometheus.
pub(crate) struct Prometheus {
    _process: Process,
    pub(crate) port: u16,
}

impl Prometheus {
    /// Starts it with a configuration, and waits until it is ready.
    pub(crate) fn start(dir: &Path, config: &str) -> Self {
        let (file, port) = (dir.join("prometheus.yaml"), free_port());
        std::fs::write(&file, config).unwrap();
        let mut command = std::process::Command::new(part("prometheus", "prometheus"));
        command.arg(format!("--config.file={}", file.display()));
        command.arg(format!("--storage.tsdb.path={}", dir.join("tsdb").display()));
        command.arg(format!("--web.listen-address=127.0.0.1:{port}")).arg("--log.level=warn");
        let mut process = Process::start(dir, "prometheus", &mut command);
        process.until("readiness", |_| {
            (Request::get("/-/ready").try_send(port)?.status == 200).then_some(())
        });
        Self { _process: process, port }
    }

    /// Returns the series of an expression.
    pub(crate) fn ask(&self, query: &str) -> Vec<Value> {
        let query: String = query.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let answer = Request::get(&format!("/api/v1/query?query={query}")).send(self.port).json();
        assert_eq!(answer["status"], "success", "{answer}");
        answer["data"]["result"].as_array().unwrap().clone()
    }

    /// Returns the series of an expression; `None` where there is none.
    pub(crate) fn some(&self, query: &str) -> Option<Vec<Value>> {
        Some(self.ask(query)).filter(|found| !found.is_empty())
    }

    /// Returns the value of an expression with one series; `None` without one.
    pub(crate) fn value(&self, query: &str) -> Option<f64> {
        self.ask(query).first()?["value"][1].as_str()?.parse().ok()
    }
}
