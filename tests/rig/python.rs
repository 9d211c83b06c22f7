//! Servers and clients written in Python, run by the interpreter of `tools/parts python`.

use std::{cell::Cell, path::Path, process::Command};

use serde_json::Value;

use super::{part, process::Process};

/// The interpreter with a script of the repository, such as `tests/python_upstream.py`.
pub(crate) fn command(script: &str) -> Command {
    let mut command = Command::new(part("python", "python"));
    command.arg("-B").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(script));
    command
}

/// The interpreter with the clients of `tools/parts sdks`: directories of `.parts`, the first before
/// the others.
pub(crate) fn with_clients(packages: &[&str]) -> Command {
    let paths = packages.iter().map(|name| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(".parts").join(name);
        assert!(path.exists(), "the clients are missing: run `tools/parts sdks`");
        path
    });
    let mut command = Command::new(part("python", "python"));
    command.arg("-B").env("PYTHONPATH", std::env::join_paths(paths).unwrap());
    command
}

/// Starts llama.cpp's server with a small model.
pub(crate) fn llama_server(dir: &Path, arguments: &[&str]) -> PythonServer {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join(".parts/models/smollm2.gguf");
    assert!(model.exists(), "the model is missing: run `tools/parts model`");
    PythonServer::start(
        dir,
        &format!("model{}", arguments.concat()),
        command("tools/llama_server.py").args(arguments),
    )
}

/// A server that prints its port. The servers of this repository then print what they do, as lines
/// of JSON.
pub(crate) struct PythonServer {
    process: Process,
    pub(crate) port: u16,
    /// The number of lines that were read.
    read: Cell<usize>,
}

impl PythonServer {
    /// Starts it and waits until it listens.
    pub(crate) fn start(dir: &Path, name: &str, command: &mut Command) -> Self {
        let mut process = Process::start(dir, name, command);
        let port = process.until("line with its port", |process| {
            let out = process.out();
            out.lines()
                .find_map(|line| line.strip_prefix("listening on http://127.0.0.1:"))?
                .parse()
                .ok()
        });
        Self { process, port, read: Cell::new(0) }
    }

    /// The lines since the last call. A server prints a line before it answers.
    pub(crate) fn taken(&self) -> Vec<Value> {
        let out = self.process.out();
        let lines: Vec<&str> = out.lines().filter(|line| line.starts_with('{')).collect();
        let read = self.read.replace(lines.len());
        lines.iter().skip(read).map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}
