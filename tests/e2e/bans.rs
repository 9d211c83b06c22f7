//! Bans behind a real Envoy, with two processes of Tollgate on one Redis, and the command line.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::rig::{
    POLICY, Rig,
    http::Request,
    redis::{PASSWORD, Redis},
    tollgate::run,
    until,
};

const ISS: &str = "https://auth.example.com";

#[test]
fn the_command_line_bans_on_every_replica() {
    let dir = tempfile::tempdir().unwrap();
    let redis = Redis::start(dir.path());
    let place = dir.path().display().to_string();
    let store = redis.store().replace("${DIR}", &place);
    let rigs = [(); 2].map(|()| Rig::start(&format!("{POLICY}{store}")));
    let url = format!("unix://{place}/redis.sock?pass={PASSWORD}");
    std::fs::write(dir.path().join("redis.url"), url).unwrap();
    let ban = |arguments: &[&str]| {
        let (verb, rest) = arguments.split_first().unwrap();
        let line = [&["ban", verb, "--redis", "@redis.url"], rest].concat();
        let output = run(dir.path(), &line);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), text, String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let alice = |rig: &Rig| rig.token(json!({ "sub": "alice" }));
    let tokens = [alice(&rigs[0]), alice(&rigs[1])];
    let verdicts = || {
        rigs.each_ref().map(|rig| {
            let token = if std::ptr::eq(rig, &rigs[0]) { &tokens[0] } else { &tokens[1] };
            rig.envoy.send(&Request::get("/v1/models").bearer(token)).verdict()
        })
    };
    let all = |status: u16, code: &str| [(status, code.to_owned()), (status, code.to_owned())];
    assert_eq!(verdicts(), all(200, ""));

    let subject = ["--issuer", ISS, "--subject", "alice"];
    for (target, status, check) in [
        (&subject[..], 403, &subject[..]),
        (&["--network", "127.0.0.0/8"], 429, &["--address", "127.0.0.1"]),
    ] {
        let (code, text, error) = ban(&[&["add", "--reason", "test"], target].concat());
        assert_eq!(code, Some(0), "{text}{error}");
        let started = Instant::now();
        until("the ban applies in both", || (verdicts() == all(status, "banned")).then_some(()));
        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
        let (code, text, _) = ban(&[&["check"], check].concat());
        assert!(code == Some(0) && text.contains("  test\n"), "{text}");
        let (code, text, _) = ban(&["list"]);
        assert!(code == Some(0) && !text.contains("alice"), "{text}");
        let (code, text, error) = ban(&[&["lift"], target].concat());
        assert_eq!(code, Some(0), "{text}{error}");
        until("it is lifted in both", || (verdicts() == all(200, "")).then_some(()));
        assert_eq!(ban(&[&["check"], check].concat()).0, Some(1));
    }
    // What the audit lines explain: the kind and the end, and no name of another ban.
    let lines = rigs[0].tollgate.audit();
    let causes: Vec<&str> = lines
        .iter()
        .filter(|line| line["reason"] == "banned")
        .map(|line| line["cause"].as_str().unwrap())
        .collect();
    for cause in ["banned by subject until it is lifted", "banned by network until it is lifted"] {
        assert!(causes.contains(&cause), "{causes:?}");
    }
    // Each replica knows them as soon as it has started.
    assert_eq!(ban(&["add", "--network", "127.0.0.1"]).0, Some(0));
    let late = Rig::start(&format!("{POLICY}{store}"));
    let late = late.envoy.send(&Request::get("/v1/models").bearer(&tokens[0]));
    assert_eq!(late.status, 429, "{:?}", late.headers);
}

/// An operator learns why a command has no answer: the same in each of them.
#[test]
fn a_command_that_redis_refuses_names_the_cause() {
    let dir = tempfile::tempdir().unwrap();
    let _redis = Redis::start(dir.path());
    let place = dir.path().display().to_string();
    let port = crate::rig::free_port();
    for (url, expected) in [
        (format!("unix://{place}/redis.sock?pass=wrong"), "WRONGPASS"),
        (format!("redis://127.0.0.1:{port}"), "the connection is refused"),
    ] {
        for command in ["ban", "revoke"] {
            let output = run(dir.path(), &[command, "list", "--redis", &url]);
            let error = String::from_utf8_lossy(&output.stderr).to_lowercase();
            assert_eq!(output.status.code(), Some(2), "{command}: {error}");
            let names = error.contains("the store is not available (");
            assert!(names && error.contains(&expected.to_lowercase()), "{command}: {error}");
        }
    }
}
