//! An audit log whose reader has stopped: a full pipe as standard output.

use std::{
    io::Read as _,
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
    thread,
};

use super::{
    rig::{ISSUER, POLICY, Rig, script, with_listeners},
    row::{Answer, Metric, Row, Verified},
};
use crate::rig::{issuer::Issuer, tollgate::Tollgate, until};

pub(super) const BLOCKED: Row = Row {
    condition: "nothing reads the audit log (a full pipe), `on_full: drop`",
    answers: &[Answer { to: "any token", status: 200, reason: "", headers: &[] }],
    metrics: &[
        Metric::at_least("tollgate_audit_dropped_total", &["cause=\"full\""], 1.0),
        Metric::is("tollgate_audit_queue", &[], 8.0),
    ],
    log: &["audit lines are dropped: `audit.queue` is full, because the log is not written fast \
            enough"],
    audit: &[],
    recovery: "with the reader; lines of the meantime beyond `audit.queue` are lost",
    recovered: &[Metric::is("tollgate_audit_queue", &[], 0.0)],
};

pub(super) const BLOCKED_DENY: Row = Row {
    condition: "nothing reads the audit log (a full pipe), `on_full: deny`",
    answers: &[Answer {
        to: "any request, once `audit.queue` is full",
        status: 503,
        reason: "overloaded",
        headers: &[("retry-after", "1")],
    }],
    metrics: &[
        Metric::at_least("tollgate_checks_total", &["reason=\"overloaded\""], 1.0),
        Metric::is("tollgate_audit_queue", &[], 8.0),
    ],
    log: &[
        "checks are denied: `audit.queue` is full, because the log is not written fast enough, \
            and `audit.on_full` is `deny`",
    ],
    audit: &[],
    recovery: "with the reader; no line of an allowed request is lost",
    recovered: &[Metric::is("tollgate_audit_queue", &[], 0.0)],
};

/// Starts a Tollgate whose standard output is a pipe that nothing reads.
fn with_full_pipe(audit: &str) -> Rig {
    let dir = tempfile::tempdir().unwrap();
    assert!(Command::new("mkfifo").arg(dir.path().join("pipe")).status().unwrap().success());
    // Open in both directions, so that the start does not wait for a reader.
    let program = script(dir.path(), "exec \"$TOLLGATE\" \"$@\" 1<>\"$DIR/pipe\"");
    let issuer = Issuer::new(ISSUER);
    issuer.publish(dir.path());
    let config = with_listeners(&format!("{audit}{POLICY}"));
    Rig::of(Tollgate::start_program(&program, dir.path(), &config), issuer, dir)
}

/// Reads the pipe from now on.
fn read(pipe: &Path) -> Arc<Mutex<Vec<u8>>> {
    let (mut pipe, text) = (std::fs::File::open(pipe).unwrap(), Arc::<Mutex<Vec<u8>>>::default());
    let shared = Arc::clone(&text);
    thread::spawn(move || {
        let mut bytes = [0; 16 * 1024];
        while let Ok(length @ 1..) = pipe.read(&mut bytes) {
            shared.lock().unwrap().extend_from_slice(&bytes[..length]);
        }
    });
    text
}

pub(super) fn drops(verified: &Verified) {
    let rig = with_full_pipe("audit: { queue: 8 }\n");
    let token = rig.token("alice");
    let dropped = || rig.tollgate.metric("tollgate_audit_dropped_total", &["cause=\"full\""]);
    // The queue is full for a moment as well when the pipe is not.
    until("a queue from which no line is written", || {
        let before = dropped();
        for _ in 0..50 {
            assert_eq!(rig.get("/free", &token).status, 200);
        }
        (dropped() == before + 50.0).then_some(())
    });
    verified.observed(&BLOCKED, &rig.tollgate, &[], "");
    verified.answer(&BLOCKED, "any token", &rig.get("/free", &token));
    let text = read(&rig.path().join("pipe"));
    let last = rig.token("after-the-block");
    verified.recovered(&BLOCKED, &rig.tollgate, &[], || {
        rig.allows("/free", &last)?;
        let text = String::from_utf8_lossy(&text.lock().unwrap()).into_owned();
        text.contains("\"sub\":\"after-the-block\"").then_some(())
    });
}

pub(super) fn denies(verified: &Verified) {
    let rig = with_full_pipe("audit: { queue: 8, on_full: deny }\n");
    let token = rig.token("alice");
    let mut allowed = 0;
    until("the full queue", || {
        // It is full for a moment as well when the pipe is not.
        let now = (0..50).filter(|_| rig.get("/free", &token).status == 200).count();
        allowed += now;
        (now == 0).then_some(())
    });
    let to = "any request, once `audit.queue` is full";
    verified.answer(&BLOCKED_DENY, to, &rig.get("/free", &token));
    verified.observed(&BLOCKED_DENY, &rig.tollgate, &[], "");
    let text = read(&rig.path().join("pipe"));
    verified.recovered(&BLOCKED_DENY, &rig.tollgate, &[], || {
        rig.allows("/free", &token).inspect(|()| allowed += 1)
    });
    until("a line for each allowed request", || {
        let text = String::from_utf8_lossy(&text.lock().unwrap()).into_owned();
        (text.matches("\"decision\":\"allow\"").count() == allowed).then_some(())
    });
}
