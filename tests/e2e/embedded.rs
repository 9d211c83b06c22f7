//! Tollgate inside of Envoy: the tests of the sidecar, with the module in the place of the filter that
//! calls one.

mod differential;
mod hot_restart;
mod updates;

use std::{collections::BTreeSet, process::Command};

use serde_json::json;

use tollgate_envoy::abi::Callbacks;

use super::{allow, automatic_bans, budgets, denials, metering, request_normalization};
use crate::rig::{
    POLICY, SCOPES, chat,
    envoy::{CURRENT, EMBEDDED_CURRENT, EMBEDDED_OLDEST, Envoy, OLDEST},
    free_port,
    http::{Answer, Reply},
    issuer::Issuer,
    part,
    tollgate::Tollgate,
    upstream::Upstream,
};

/// A host without one of them refuses the module.
#[test]
fn envoy_exports_every_function_that_the_module_calls() {
    exports(CURRENT);
}

fn exports(version: &str) {
    let program = part(&format!("envoy-{version}"), "envoy");
    let bytes = std::fs::read(program).unwrap();
    let names: BTreeSet<&[u8]> = bytes
        .split(|byte| *byte == 0)
        .filter(|name| name.starts_with(b"envoy_dynamic_module_callback_"))
        .collect();
    for name in Callbacks::NAMES {
        assert!(names.contains(name.to_bytes()), "{version}: {}", name.to_string_lossy());
    }
}

#[test]
fn the_module_forwards_the_same_requests_and_no_others() {
    allow::identity(EMBEDDED_CURRENT);
    allow::forgeries(EMBEDDED_CURRENT);
    allow::forgeries_with_a_careless_envoy(EMBEDDED_CURRENT);
}

#[test]
fn the_module_bans_networks_automatically() {
    automatic_bans::bans(EMBEDDED_CURRENT);
}

#[test]
fn every_reason_has_its_answer_from_the_module() {
    denials::reasons(EMBEDDED_CURRENT);
}

#[test]
fn the_module_reads_requests_as_the_sidecar_does() {
    request_normalization::paths(EMBEDDED_CURRENT);
    request_normalization::hosts_and_headers(EMBEDDED_CURRENT);
    request_normalization::bodies(EMBEDDED_CURRENT);
}

#[test]
fn the_module_bounds_and_settles_requests() {
    budgets::bounded_and_charged(EMBEDDED_CURRENT);
    metering::budget(EMBEDDED_CURRENT);
    metering::places(EMBEDDED_CURRENT);
    metering::cut(EMBEDDED_CURRENT);
}

#[test]
fn nothing_is_charged_for_a_request_that_no_server_got() {
    unreached(EMBEDDED_CURRENT);
}

fn unreached(version: &str) {
    let dir = tempfile::tempdir().unwrap();
    let issuer = Issuer::new("https://auth.example.com");
    issuer.publish(dir.path());
    let policy = metering::policy("tokens: 5000/day", "60s");
    let listen = "listen: { embedded: true, ops: \"127.0.0.1:0\" }";
    Tollgate::write_embedded(dir.path(), &policy.replace(metering::LISTEN, listen));
    let mut envoy = Envoy::start(dir.path(), free_port(), version, |config| config);
    let tollgate = Tollgate::inside(dir.path(), &mut envoy.process);
    let token = issuer.token(json!({ "scope": SCOPES }));
    let left = || {
        let reply = envoy.send(&chat(&token));
        assert_eq!(reply.verdict(), (503, String::new()), "Envoy has no connection");
        tollgate.until_metric("tollgate_reservations_open", &[], 0.0);
        reply.one("x-ratelimit-remaining-tokens").unwrap().to_owned()
    };
    assert_eq!(left(), left());
    assert_eq!(tollgate.metric("tollgate_unmetered_total", &[]), 0.0);
}

#[test]
fn the_doctor_finds_no_leak_with_the_module() {
    let dir = tempfile::tempdir().unwrap();
    let issuer = Issuer::new("https://auth.example.com");
    issuer.publish(dir.path());
    let mirror = Upstream::answering(|request| {
        let headers = request.headers.iter().map(|(name, value)| format!("{name}: {value}\n"));
        let reply = Reply::new(200, headers.collect::<String>());
        Answer::Whole(reply.header("content-type", "text/plain"))
    });
    Tollgate::write_embedded(dir.path(), POLICY);
    let mut envoy = Envoy::start(dir.path(), mirror.port, EMBEDDED_CURRENT, |config| config);
    Tollgate::inside(dir.path(), &mut envoy.process);
    let url = format!("http://127.0.0.1:{}", envoy.port);
    let mut doctor = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    doctor.args(["doctor", &url, "--echo", "/v1/models", "--host", "api.example.com"]);
    let output = doctor.args(["--token", &issuer.token(json!({}))]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
#[ignore = "needs a large download: make test-all"]
fn the_module_works_in_the_oldest_envoy() {
    exports(OLDEST);
    allow::identity(EMBEDDED_OLDEST);
    allow::forgeries(EMBEDDED_OLDEST);
    denials::reasons(EMBEDDED_OLDEST);
    request_normalization::bodies(EMBEDDED_OLDEST);
    budgets::bounded_and_charged(EMBEDDED_OLDEST);
    metering::places(EMBEDDED_OLDEST);
    metering::cut(EMBEDDED_OLDEST);
    unreached(EMBEDDED_OLDEST);
}
