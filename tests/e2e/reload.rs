//! The reload of the configuration file.

use nix::sys::signal::Signal;
use serde_json::json;

use crate::rig::{POLICY, Rig, http::Request, until};

#[test]
fn a_valid_file_takes_effect_and_an_invalid_one_changes_nothing() {
    let rig = Rig::start(POLICY);
    let dir = rig.dir.path();
    let token = rig.token(json!({}));
    let status = |path: &str| rig.envoy.send(&Request::get(path).bearer(&token)).status;
    let with =
        |path: &str| POLICY.replace("paths: [/v1/models]", &format!("paths: [/v1/models, {path}]"));
    assert_eq!((status("/v1/models"), status("/first")), (200, 403));

    // A changed file is noticed without a signal.
    rig.tollgate.rewrite(dir, &with("/first"));
    until("the first change", || (status("/first") == 200).then_some(()));
    assert_eq!(rig.tollgate.metric("tollgate_config_reload_failed", &[]), 0.0);

    // Every error is reported at once with its line; the previous policy stays in force.
    rig.tollgate.rewrite(
        dir,
        &with("/second").replace("RS256", "RS257").replace("public: true", "publik: true"),
    );
    rig.tollgate.until_metric("tollgate_config_reload_failed", &[], 1.0);
    assert_eq!((status("/first"), status("/second"), status("/health")), (200, 403, 200));
    let log = rig.tollgate.process.err();
    assert!(log.contains("publik") && log.contains("RS257"), "{log}");
    assert!(log.contains("tollgate.yaml:"), "{log}");
    assert_eq!(rig.tollgate.ready().status, 200);

    // A section which needs a restart keeps no change of the policy out.
    let moved = "listen: { grpc: \"unix:${DIR}/elsewhere.sock\", ops: \"127.0.0.1:0\" }\n";
    rig.tollgate.rewrite(dir, &with("/third"));
    rig.tollgate.until_metric("tollgate_config_reload_failed", &[], 0.0);
    assert_eq!(status("/third"), 200);
    rig.tollgate.rewrite(dir, &format!("{moved}{}", with("/fourth")));
    rig.tollgate.until_metric("tollgate_config_reload_failed", &[], 1.0);
    assert_eq!((status("/third"), status("/fourth")), (403, 200));
    assert!(rig.tollgate.process.err().contains("listen changed, which needs a restart"));

    // A file that is removed, and then written again.
    std::fs::remove_file(&rig.tollgate.config).unwrap();
    rig.tollgate.process.signal(Signal::SIGHUP);
    until("the missing file", || {
        rig.tollgate.process.err().contains("cannot be read").then_some(())
    });
    assert_eq!(status("/fourth"), 200);

    // A signal causes a reload at once.
    rig.tollgate.rewrite(dir, &with("/fifth"));
    rig.tollgate.process.signal(Signal::SIGHUP);
    until("the last change", || (status("/fifth") == 200).then_some(()));
    rig.tollgate.until_metric("tollgate_config_reload_failed", &[], 0.0);
}

#[test]
fn a_reload_under_load_fails_no_request() {
    let rig = Rig::start(POLICY);
    let token = rig.token(json!({}));
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let load: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut count = 0;
                    while !done.load(std::sync::atomic::Ordering::Relaxed) {
                        let reply = rig.chat(&token);
                        assert_eq!(reply.status, 200, "{}", reply.text());
                        count += 1;
                    }
                    count
                })
            })
            .collect();
        for n in 0..10 {
            rig.tollgate.rewrite(
                rig.dir.path(),
                &POLICY.replace("paths: [/v1/models]", &format!("paths: [/v1/models, /n{n}]")),
            );
            rig.tollgate.process.signal(Signal::SIGHUP);
            let path = format!("/n{n}");
            until("the change", || {
                (rig.envoy.send(&Request::get(&path).bearer(&token)).status == 200).then_some(())
            });
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(load.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>() > 10);
    });
}
