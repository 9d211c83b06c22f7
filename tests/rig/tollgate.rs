//! The binary of this build.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use super::{
    http::{Reply, Request},
    process::Process,
    until,
};

/// The bearer token of the admin API.
pub(crate) const ADMIN_TOKEN: &str = "admin-token-of-the-end-to-end-tests-0123456789";

/// A running `tollgate serve`.
pub(crate) struct Tollgate {
    pub(crate) process: Process,
    /// The port of `/healthz`, `/readyz` and `/metrics`.
    pub(crate) ops: u16,
    /// The port of the admin API.
    pub(crate) admin: u16,
    /// The path of its configuration file.
    pub(crate) config: PathBuf,
}

impl Tollgate {
    /// Starts it and waits until it is ready.
    pub(crate) fn start(dir: &Path, config: &str) -> Self {
        Self::start_program(Path::new(env!("CARGO_BIN_EXE_tollgate")), dir, config)
    }

    /// Starts another build of it and waits until it is ready.
    pub(crate) fn start_program(program: &Path, dir: &Path, config: &str) -> Self {
        let mut tollgate = Self::launch(program, dir, config);
        let ops = tollgate.ops;
        tollgate.process.until("readiness", |_| {
            (Request::get("/readyz").try_send(ops)?.status == 200).then_some(())
        });
        tollgate
    }

    /// Starts another build of it and waits until it listens.
    pub(crate) fn start_unready(program: &Path, dir: &Path, config: &str) -> Self {
        Self::launch(program, dir, config)
    }

    /// Starts it and waits until it listens: gRPC on `${DIR}/authz.sock`, ops and admin on ports
    /// that the system chooses, unless `config` has a section `listen`.
    pub(crate) fn unready(dir: &Path, config: &str) -> Self {
        Self::launch(Path::new(env!("CARGO_BIN_EXE_tollgate")), dir, config)
    }

    fn launch(program: &Path, dir: &Path, config: &str) -> Self {
        let path = write(dir, config);
        let mut command = Command::new(program);
        command.args(["serve", "--config"]).arg(&path).env("DIR", dir);
        let mut process = Process::start(dir, "tollgate", &mut command);
        let line = process.until("line with its addresses", |process| {
            process.err().lines().find(|line| line.contains("listening")).map(str::to_owned)
        });
        let (ops, admin) = (port(&line, "ops").unwrap(), port(&line, "admin").unwrap_or_default());
        Self { process, ops, admin, config: path }
    }

    /// Writes the configuration of a Tollgate inside of Envoy, whose audit lines go to a file.
    pub(crate) fn write_embedded(dir: &Path, config: &str) {
        let audit = match config.contains("audit:") {
            true => "",
            false => "\naudit: { to: \"file:${DIR}/tollgate.out\" }\n",
        };
        write(dir, &format!("{config}{audit}"));
    }

    /// The Tollgate inside of an Envoy, when it is ready.
    pub(crate) fn inside(dir: &Path, envoy: &mut Process) -> Self {
        let line = envoy.until("line with the addresses of the module", |envoy| {
            envoy.err().lines().find(|line| line.contains(": listening ")).map(str::to_owned)
        });
        let (ops, admin) = (port(&line, "ops").unwrap(), port(&line, "admin").unwrap_or_default());
        envoy.until("readiness of the module", |_| {
            (Request::get("/readyz").try_send(ops)?.status == 200).then_some(())
        });
        let process = Process::within(dir, "tollgate");
        Self { process, ops, admin, config: dir.join("tollgate.yaml") }
    }

    /// The port of its only HTTP listener.
    pub(crate) fn http_port(&self) -> u16 {
        let log = self.process.err();
        let line = log.lines().find(|line| line.contains("listening")).unwrap();
        let list = line.split_once("http=").or_else(|| line.split_once("\"http\":")).unwrap().1;
        let digits = list.split_once("127.0.0.1:").unwrap().1;
        digits.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
    }

    /// The port of a listener, by its name in the line with all addresses.
    pub(crate) fn port(&self, listener: &str) -> u16 {
        let log = self.process.err();
        let line = log.lines().find(|line| line.contains("listening")).unwrap();
        port(line, listener).unwrap()
    }

    pub(crate) fn ready(&self) -> Reply {
        Request::get("/readyz").send(self.ops)
    }

    /// Replaces the configuration file with a rename, as a ConfigMap does.
    pub(crate) fn rewrite(&self, dir: &Path, config: &str) {
        write(dir, config);
    }

    pub(crate) fn metrics(&self) -> String {
        Request::get("/metrics").send(self.ops).text()
    }

    /// The sum of the series of `name` that have all of `labels`.
    pub(crate) fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        sum_of_series(&self.metrics(), name, labels)
    }

    /// Waits for a metric to have a value.
    pub(crate) fn until_metric(&self, name: &str, labels: &[&str], value: f64) {
        until(&format!("{name}{labels:?} = {value}"), || {
            (self.metric(name, labels) == value).then_some(())
        });
    }

    /// The peak of its resident memory, in bytes.
    pub(crate) fn peak(&self) -> u64 {
        let status = self.process.proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
    }

    /// The audit lines written so far.
    pub(crate) fn audit(&self) -> Vec<serde_json::Value> {
        let text = self.process.out();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole
            .lines()
            .map(|line| {
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
            })
            .collect()
    }

    /// An authorized call of the admin API.
    pub(crate) fn admin(&self, request: Request) -> Reply {
        request.bearer(ADMIN_TOKEN).send(self.admin)
    }
}

/// The sum of the series of `name` that have all of `labels`, in the text of `/metrics`.
pub(crate) fn sum_of_series(text: &str, name: &str, labels: &[&str]) -> f64 {
    let series = text.lines().filter(|line| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
            && labels.iter().all(|label| line.contains(label))
    });
    series.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
}

/// Runs a subcommand to its end.
pub(crate) fn run(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.args(arguments).env("DIR", dir).current_dir(dir);
    command.output().unwrap()
}

/// Replaces the configuration file; a reader sees the old one or the new one, never a part.
fn write(dir: &Path, config: &str) -> PathBuf {
    let listen = format!(
        "listen: {{ grpc: \"unix:${{DIR}}/authz.sock\", ops: \"127.0.0.1:0\", admin: {{ address: \"127.0.0.1:0\", token: {ADMIN_TOKEN} }} }}\n"
    );
    let listen = if config.contains("listen:") { "" } else { &listen };
    let (path, new) = (dir.join("tollgate.yaml"), dir.join("tollgate.yaml.new"));
    std::fs::write(&new, format!("{listen}{config}")).unwrap();
    std::fs::rename(new, &path).unwrap();
    path
}

/// The port after `name=` or `"name":"` in a line of the log.
fn port(line: &str, name: &str) -> Option<u16> {
    let value = line
        .split_once(&format!("{name}="))
        .or_else(|| line.split_once(&format!("\"{name}\":\"")))?
        .1;
    let address: String =
        value.chars().take_while(|c| !c.is_whitespace() && *c != '"' && *c != ',').collect();
    address.rsplit_once(':')?.1.parse().ok()
}
