//! Envoy with the shipped configuration.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    http::{Reply, Request},
    part,
    process::Process,
    replace_once,
};

/// The version that the shipped configuration is written for.
pub(crate) const CURRENT: &str = "1.40.0";

/// The oldest version that is tested.
pub(crate) const OLDEST: &str = "1.39.3";

/// Addresses that the shipped configurations contain once each: of Envoy and its neighbours.
const INGRESS: &str = "address: 0.0.0.0, port_value: 8080";
const ADMIN: &str = "pipe: { path: /run/tollgate/envoy-admin.sock, mode: 384 }";
const UPSTREAM: &str = "address: 127.0.0.1, port_value: 8000";
/// The address of Tollgate.
pub(crate) const TOLLGATE: &str = "pipe: { path: /run/tollgate/authz.sock }";
/// The address of Tollgate's listener for the access log.
const ACCESS_LOG: &str = "pipe: { path: /run/tollgate/access-log.sock }";
/// The address of Tollgate's listener for external processing.
const EXT_PROC: &str = "pipe: { path: /run/tollgate/ext-proc.sock }";
/// The path of the policy file, for Tollgate inside of Envoy.
const POLICY_FILE: &str = "value: /etc/tollgate/tollgate.yaml";

/// The prefix of the versions in which Tollgate is a module of Envoy.
const EMBEDDED: &str = "embedded-";

/// The module in Envoy's current version.
pub(crate) const EMBEDDED_CURRENT: &str = "embedded-1.40.0";

/// The module in the oldest version of Envoy that is tested.
pub(crate) const EMBEDDED_OLDEST: &str = "embedded-1.39.3";

/// Whether Tollgate is a module of this version.
pub(crate) fn is_embedded(version: &str) -> bool {
    version.starts_with(EMBEDDED)
}

/// The directory of the module that this build made.
pub(crate) fn module_directory() -> PathBuf {
    let directory = std::env::current_exe().unwrap().parent().unwrap().to_owned();
    let module = directory.join("libtollgate_envoy.so");
    assert!(module.exists(), "{} is missing: cargo builds it with the tests", module.display());
    directory
}

/// A running Envoy.
pub(crate) struct Envoy {
    pub(crate) process: Process,
    pub(crate) port: u16,
}

impl Envoy {
    /// Starts it with `deploy/envoy/envoy.yaml` in front of the upstream at `upstream`, with the
    /// Tollgate of `dir`, and waits until it is ready.
    pub(crate) fn start(
        dir: &Path,
        upstream: u16,
        version: &str,
        edit: impl FnOnce(String) -> String,
    ) -> Self {
        let shipped = match is_embedded(version) {
            true => include_str!("../../deploy/envoy/envoy-embedded.yaml"),
            false => include_str!("../../deploy/envoy/envoy.yaml"),
        };
        let config = edit(shipped.to_owned());
        let upstream = format!("address: 127.0.0.1, port_value: {upstream}");
        Self::run(dir, version, replace_once(config, UPSTREAM, &upstream))
    }

    /// Starts it with `deploy/envoy/models.yaml` in front of the servers of `small` and of `large`.
    pub(crate) fn of_models(
        dir: &Path,
        small: u16,
        large: u16,
        edit: impl FnOnce(String) -> String,
    ) -> Self {
        let config = edit(include_str!("../../deploy/envoy/models.yaml").to_owned());
        Self::of_two(dir, config, [small, large])
    }

    /// Starts it with `deploy/envoy/envoy-tenants.yaml` in front of the servers of `red` and of
    /// `blue`.
    pub(crate) fn of_tenants(
        dir: &Path,
        red: u16,
        blue: u16,
        edit: impl FnOnce(String) -> String,
    ) -> Self {
        let config = edit(include_str!("../../deploy/envoy/envoy-tenants.yaml").to_owned());
        Self::of_two(dir, config, [red, blue])
    }

    /// Starts it in front of two servers.
    fn of_two(dir: &Path, config: String, [first, second]: [u16; 2]) -> Self {
        let config =
            [(8001, first), (8002, second)].into_iter().fold(config, |config, (shipped, port)| {
                let address = |port: u16| format!("address: 127.0.0.1, port_value: {port} }}");
                replace_once(config, &address(shipped), &address(port))
            });
        Self::run(dir, CURRENT, config)
    }

    /// Starts it with a configuration whose upstreams are replaced already.
    fn run(dir: &Path, version: &str, config: String) -> Self {
        let mut environment: Vec<(&str, &Path)> = Vec::new();
        let modules = module_directory_of(version);
        let config = match &modules {
            Some(modules) => {
                environment.push(("ENVOY_DYNAMIC_MODULES_SEARCH_PATH", modules));
                environment.push(("DIR", dir));
                let file = format!("value: \"{}/tollgate.yaml\"", dir.display());
                replace_once(config, POLICY_FILE, &file)
            }
            None => config,
        };
        let version = version.trim_start_matches(EMBEDDED);
        let program = part(
            &format!("envoy-{version}"),
            if version == CURRENT { "envoy" } else { "envoy-1.39.3" },
        );
        let socket = format!("pipe: {{ path: \"{}/authz.sock\" }}", dir.display());
        let free = "address: 127.0.0.1, port_value: 0";
        let admin = format!("socket_address: {{ {free} }}");
        // A test may have chosen the port, because others have to know it.
        let config =
            if config.contains(INGRESS) { replace_once(config, INGRESS, free) } else { config };
        let config = replace_once(config, ADMIN, &admin);
        let config = if config.contains(TOLLGATE) {
            replace_once(config, TOLLGATE, &socket)
        } else {
            config
        };

        let config = if config.contains(ACCESS_LOG) {
            let socket = format!("pipe: {{ path: \"{}/access-log.sock\" }}", dir.display());
            replace_once(config, ACCESS_LOG, &socket)
        } else {
            config
        };

        let config = if config.contains(EXT_PROC) {
            let socket = format!("pipe: {{ path: \"{}/ext-proc.sock\" }}", dir.display());
            replace_once(config, EXT_PROC, &socket)
        } else {
            config
        };

        // Two Envoys may share a directory.
        let name = (1..)
            .map(|n| format!("envoy{n}"))
            .find(|name| !dir.join(format!("{name}.yaml")).exists())
            .unwrap();
        let (path, address) = (dir.join(format!("{name}.yaml")), dir.join(format!("{name}.admin")));
        std::fs::write(&path, config).unwrap();
        let mut command = Command::new(program);
        command.envs(environment);
        command.arg("-c").arg(&path).arg("--admin-address-path").arg(&address);
        command.args([
            "--disable-hot-restart",
            "--concurrency",
            "1",
            "--log-level",
            "warning",
            "--file-flush-interval-msec",
            "50",
        ]);
        let mut process = Process::start(dir, &name, &mut command);
        let port = process.until("readiness", |_| {
            let admin =
                std::fs::read_to_string(&address).ok()?.rsplit_once(':')?.1.trim().parse().ok()?;
            let ready = Request::get("/ready").try_send(admin)?.status == 200;
            let listeners =
                Request::get("/listeners?format=json").try_send(admin).filter(|_| ready)?.json();
            let port =
                listeners["listener_statuses"][0]["local_address"]["socket_address"]["port_value"]
                    .as_u64()?;
            u16::try_from(port).ok().filter(|port| *port != 0)
        });
        Self { process, port }
    }

    pub(crate) fn send(&self, request: &Request) -> Reply {
        request.send(self.port)
    }

    /// The access log lines written so far.
    pub(crate) fn access_log(&self) -> Vec<serde_json::Value> {
        self.process.out().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

fn module_directory_of(version: &str) -> Option<PathBuf> {
    is_embedded(version).then(module_directory)
}

/// The failure policy of the proxy: a failed check lets the request through.
pub(crate) fn failure_mode_allow(config: String) -> String {
    replace_once(config, "failure_mode_allow: false", "failure_mode_allow: true")
}

/// Removes the settings that keep identity headers from reaching Tollgate.
pub(crate) fn careless(config: String) -> String {
    let config = replace_once(
        config,
        "headers_with_underscores_action: REJECT_REQUEST",
        "headers_with_underscores_action: ALLOW",
    );
    replace_once(
        config,
        "key_matcher: { prefix: \"x-tollgate-\"",
        "key_matcher: { prefix: \"x-unused-\"",
    )
}
