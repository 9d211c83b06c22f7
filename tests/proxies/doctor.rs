//! `tollgate doctor` against sound and against faulty configurations of proxies.

use std::process::Command;

use serde_json::Value;

use super::{
    dpop::{BoundClient, SECTIONS},
    proxy_rig::{Kind, POLICY, ProxyRig},
};
use crate::rig::{
    http::{Answer, Reply, Server},
    issuer::Issuer,
    replace_once,
};

/// An upstream that returns the headers it received, and answers every path.
fn mirror() -> Server {
    Server::start(|request| {
        let headers: Vec<String> =
            request.headers.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
        Answer::Whole(Reply::new(200, headers.concat()).header("content-type", "text/plain"))
    })
}

fn rig(kind: Kind, edit: impl FnOnce(String) -> String) -> ProxyRig {
    ProxyRig::build(kind, POLICY, Some(mirror().port), edit)
}

/// The exit code and the report.
fn doctor(rig: &ProxyRig, more: &[&str]) -> (Option<i32>, Value) {
    let url = format!("http://127.0.0.1:{}", rig.port);
    let token = rig.token();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.args([
        "doctor",
        &url,
        "--output",
        "json",
        "--echo",
        "/v1/models",
        "--token",
        &token,
        "--host",
        "api.example.com",
    ]);
    let output = command.args(more).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!text.contains(&token), "the report holds the token");
    let report = serde_json::from_str(&text).unwrap_or_else(|error| {
        panic!("{error}\n{text}\n{}", String::from_utf8_lossy(&output.stderr))
    });
    (output.status.code(), report)
}

/// The probes with this verdict.
fn with(report: &Value, verdict: &str) -> Vec<String> {
    let probes = report["probes"].as_array().unwrap().iter();
    probes
        .filter(|probe| probe["verdict"] == verdict)
        .map(|probe| probe["name"].as_str().unwrap().to_owned())
        .collect()
}

fn a_shipped_configuration_is_sound(kind: Kind) {
    let rig = rig(kind, |config| config);
    // Traefik opens a connection for each check, and cannot bound them.
    let burst = if kind == Kind::Traefik { "400" } else { "2000" };
    let (code, report) = doctor(&rig, &["--body-limit", "16MiB", "--burst", burst]);
    assert_eq!((code, &report["ok"]), (Some(0), &Value::Bool(true)), "{report:#}");
    assert_eq!(with(&report, "skipped"), [""; 0], "{report:#}");
    assert!(with(&report, "ok").len() >= 11, "{report:#}");
}
through_every_proxy!(a_shipped_configuration_is_sound);

/// Each fault with the finding that the doctor reports.
#[test]
fn mistakes_are_found() {
    let without = |line: &'static str| {
        move |config: String| {
            config
                .lines()
                .filter(|known| !known.contains(line))
                .map(|known| format!("{known}\n"))
                .collect()
        }
    };
    type Edit = Box<dyn FnOnce(String) -> String>;
    let rows: [(&str, Kind, Edit, &str, &str); 8] = [
        (
            "the target is the client's to say",
            Kind::Nginx,
            Box::new(without("X-Original-URI ")),
            "leak",
            "said_targets_are_not_believed",
        ),
        (
            "an identity header is not overwritten",
            Kind::Nginx,
            Box::new(without("proxy_set_header X-Tollgate-Tenant")),
            "leak",
            "forged_identity_does_not_arrive",
        ),
        (
            "statuses are not mapped",
            Kind::Nginx,
            Box::new(without("error_page 401 403 500")),
            "fault",
            "malformed_stays_400",
        ),
        (
            "a prefix goes around Tollgate",
            Kind::Nginx,
            Box::new(|config| {
                replace_once(
                    config,
                    "location / {",
                    "location ~ models$ { proxy_pass http://inference; }\n        location / {",
                )
            }),
            "leak",
            "protected_needs_a_credential",
        ),
        (
            "only known paths are checked",
            Kind::Nginx,
            Box::new(|config| {
                replace_once(
                    config,
                    "location / {",
                    "location / { proxy_pass http://inference; }\n        location /v1/ {",
                )
            }),
            "leak",
            "unlisted_is_denied",
        ),
        (
            "a public prefix is matched before the path is normalised",
            Kind::EnvoyHttp,
            Box::new(|config| {
                let config = replace_once(config, "normalize_path: true", "normalize_path: false");
                let open = "- match: { prefix: /health }\n                          route: { cluster: inference }\n                          typed_per_filter_config:\n                            envoy.filters.http.ext_authz:\n                              \"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute\n                              disabled: true\n                        - match: { prefix: / }";
                replace_once(config, "- match: { prefix: / }", open)
            }),
            "leak",
            "no_path_shadows_a_protected_one",
        ),
        (
            "forged identity is neither removed nor overwritten",
            Kind::EnvoyHttp,
            Box::new(|config| {
                let config = replace_once(
                    config,
                    "key_matcher: { prefix: \"x-tollgate-\", ignore_case: true }",
                    "key_matcher: { prefix: \"x-unused-\" }",
                );
                let config = replace_once(
                    config,
                    "patterns: [{ safe_regex: { regex: \".*\" } }]",
                    "patterns: [{ exact: authorization }, { prefix: x-forwarded- }]",
                );
                replace_once(
                    config,
                    "headers_with_underscores_action: REJECT_REQUEST",
                    "headers_with_underscores_action: ALLOW",
                )
            }),
            "leak",
            "forged_identity_does_not_arrive",
        ),
        (
            "bodies have no limit",
            Kind::Nginx,
            Box::new(|config| {
                replace_once(config, "client_max_body_size 16m", "client_max_body_size 0")
            }),
            "leak",
            "large_bodies_are_refused",
        ),
    ];
    for (what, kind, edit, verdict, name) in rows {
        let rig = rig(kind, edit);
        let (code, report) = doctor(&rig, &["--body-limit", "16MiB", "--post", "/v1/upload"]);
        assert!(with(&report, verdict).contains(&name.to_owned()), "{what}: {report:#}");
        assert_eq!((code, &report["ok"]), (Some(1), &Value::Bool(false)), "{what}");
        let probe = report["probes"]
            .as_array()
            .unwrap()
            .iter()
            .find(|probe| probe["name"] == name)
            .unwrap();
        assert!(probe["remedy"].is_string(), "{what}: {probe}");
    }
}

#[test]
fn probes_that_cannot_run_are_reported() {
    let rig = rig(Kind::Nginx, |config| config);
    let url = format!("http://127.0.0.1:{}", rig.port);
    let output =
        Command::new(env!("CARGO_BIN_EXE_tollgate")).args(["doctor", &url]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(
        text.contains("skipped  forged_identity_does_not_arrive: needs `--echo PATH`"),
        "{text}"
    );
    assert!(text.ends_with(" skipped\n"), "{text}");
    for (arguments, part) in [
        (&["ftp://x"][..], "needs a scheme"),
        (&["http://192.0.2.1", "--token", "x"], "in clear"),
        (&["http://127.0.0.1:1"], "cannot be reached"),
        (&[&*url, "--echo", "v1"], "not a path"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_tollgate"))
            .arg("doctor")
            .args(arguments)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && text.contains(part), "{arguments:?}: {text}");
    }
}

/// A client that waits for an answer before it ends its request would wait for the proxy.
#[test]
fn a_path_whose_bodies_are_held_is_found() {
    let path = "/inference.GRPCInferenceService/ModelStreamInfer";
    let sound = rig(Kind::EnvoyHttp, |config| config);
    let (code, report) = doctor(&sound, &["--stream", path]);
    assert_eq!(code, Some(0), "{report:#}");
    assert!(with(&report, "ok").contains(&"open_requests_are_answered".to_owned()), "{report:#}");
    let holding = rig(Kind::EnvoyHttp, |config| {
        replace_once(
            config,
            "disable_request_body_buffering: true",
            "disable_request_body_buffering: false",
        )
    });
    let (code, report) = doctor(&holding, &["--stream", path]);
    assert_eq!(code, Some(1), "{report:#}");
    assert_eq!(with(&report, "fault"), ["open_requests_are_answered"], "{report:#}");
}

/// A cluster without room for a burst: its checks fail, and the proxy decides.
#[test]
fn a_proxy_whose_checks_fail_in_a_burst_is_found() {
    for (failure_mode_allow, verdict) in [(false, "fault"), (true, "leak")] {
        let faulty = rig(Kind::EnvoyHttp, |config| {
            let config = config
                .lines()
                .filter(|line| !line.contains("max_pending_requests: 2000000"))
                .map(|line| format!("{line}\n"))
                .collect();
            let allow = format!("failure_mode_allow: {failure_mode_allow}");
            replace_once(config, "failure_mode_allow: false", &allow)
        });
        let (code, report) = doctor(&faulty, &[]);
        assert_eq!(code, Some(1), "{report:#}");
        assert_eq!(with(&report, verdict), ["bursts_are_answered"], "{report:#}");
        let (code, report) = doctor(&faulty, &["--burst", "0"]);
        assert_eq!(code, Some(0), "{report:#}");
        assert!(with(&report, "skipped").contains(&"bursts_are_answered".to_owned()));
    }
}

/// A policy without a route for GET that needs a credential is tested with POST.
#[test]
fn routes_that_only_post_opens_are_tested() {
    let policy = POLICY
        .replace("methods: [GET], paths: [/v1/models]", "methods: [POST], paths: [/v1/rerank]");
    assert_ne!(policy, POLICY);
    let rig = ProxyRig::build(Kind::EnvoyHttp, &policy, Some(mirror().port), |config| config);
    let url = format!("http://127.0.0.1:{}", rig.port);
    for more in [
        &["--post", "/v1/rerank"][..],
        &["--protected", "/v1/rerank"],
        &["--protected", "/v1/nothing"],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_tollgate"))
            .args(["doctor", &url, "--host", "api.example.com"])
            .args(more)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if more.contains(&"/v1/nothing") {
            assert_eq!(output.status.code(), Some(1), "{text}");
            assert!(text.contains("remedy: no route has this path for GET or POST"), "{text}");
        } else {
            assert_eq!(output.status.code(), Some(0), "{text}");
            assert!(
                text.contains("ok       protected_needs_a_credential: POST /v1/rerank: 401"),
                "{text}"
            );
        }
    }
}

/// A token that is bound to a key, and proofs of it that are wrong in one way each.
#[test]
fn proofs_that_pass_for_another_request_are_found() {
    const DPOP: &str = "dpop: { origins: [\"https://api.example.com\"] }\nstore: { memory: { single_replica: true } }\n";
    let sound = ProxyRig::build(
        Kind::EnvoyHttp,
        &format!("{POLICY}{SECTIONS}"),
        Some(mirror().port),
        |config| config,
    );
    // The proxy leaves the proofs out, so that none arrives.
    let without = ProxyRig::build(
        Kind::EnvoyHttp,
        &format!("{POLICY}{DPOP}"),
        Some(mirror().port),
        |config| {
            replace_once(
                config,
                "patterns: [{ safe_regex: { regex: \".*\" } }]",
                "patterns: [{ exact: authorization }, { prefix: x-forwarded- }]",
            )
        },
    );
    let origin = "https://api.example.com";
    for (rig, origin, code, refused) in [
        (&sound, origin, Some(0), None),
        (&sound, "https://other.example.com", Some(1), Some("invalid_proof")),
        (&without, origin, Some(1), Some("proof_required")),
    ] {
        let client = BoundClient::new(&rig.issuer);
        let key = rig.dir.path().join("client.pem");
        std::fs::write(&key, client.key_pem()).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_tollgate"))
            .args(["doctor", &format!("http://127.0.0.1:{}", rig.port), "--output", "json"])
            .args(["--host", "api.example.com", "--burst", "0", "--token", client.token()])
            .args(["--dpop-origin", origin, "--dpop-key"])
            .arg(&key)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!text.contains(client.token()), "the report has the token");
        let report: Value = serde_json::from_str(&text).unwrap_or_else(|error| {
            panic!("{error}\n{text}\n{}", String::from_utf8_lossy(&output.stderr))
        });
        assert_eq!(output.status.code(), code, "{report:#}");
        let name = "bound_token_needs_its_proof".to_owned();
        assert!(with(&report, "ok").contains(&name), "{report:#}");
        let good = report["probes"].as_array().unwrap().iter();
        let good = good.filter(|probe| probe["name"] == "good_proof_passes").collect::<Vec<_>>();
        let verdict = if refused.is_some() { "fault" } else { "ok" };
        assert_eq!((good.len(), &good[0]["verdict"]), (1, &Value::from(verdict)), "{report:#}");
        let detail = good[0]["detail"].as_str().unwrap();
        assert!(refused.is_none_or(|code| detail.ends_with(code)), "{detail}");
    }
}

#[test]
fn the_key_of_another_token_is_an_error() {
    let issuer = Issuer::new("https://auth.example.com");
    let (client, other) = (BoundClient::new(&issuer), BoundClient::new(&issuer));
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let (own, wrong, none) = (
        file("own.pem", &client.key_pem()),
        file("other.pem", &other.key_pem()),
        file("none.pem", "not a key"),
    );
    for (key, token, part) in [
        (&wrong, Some(client.token()), "not bound to the key of --dpop-key"),
        (&none, Some(client.token()), "the key of --dpop-key"),
        (&own, None, "--token"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_tollgate"))
            .args(["doctor", "http://127.0.0.1:1", "--dpop-key"])
            .arg(key)
            .args(token.into_iter().flat_map(|token| ["--token", token]))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && text.contains(part), "{part}: {text}");
    }
}
