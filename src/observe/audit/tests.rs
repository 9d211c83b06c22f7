use std::{
    fs,
    sync::{Condvar, Mutex},
};

use tollgate_testkit::wait::until;

use super::*;
use crate::observe::tests::Written;

fn config(queue: u32, on_full: OnFull) -> AuditConfig {
    AuditConfig { to: AuditTarget::Stdout, queue, on_full }
}

/// Writes this value as a line of JSON.
fn json(value: impl serde::Serialize) -> impl FnOnce(&mut Vec<u8>) {
    move |line| serde_json::to_writer(line, &value).unwrap()
}

const LONG: Duration = Duration::from_secs(10);

fn wait_until(what: &str, met: impl Fn() -> bool) {
    until(what, || met().then_some(()));
}

/// A writer that can fail or block on command.
#[derive(Clone)]
struct Fickle(Arc<(Mutex<Mood>, Condvar)>, Written);

#[derive(Clone, Copy, PartialEq)]
enum Mood {
    Good,
    Failing,
    /// Takes three bytes, then fails.
    Torn,
    Stuck,
}

impl Fickle {
    fn new(mood: Mood) -> Self {
        Self(Arc::new((Mutex::new(mood), Condvar::new())), Written::default())
    }

    fn set(&self, mood: Mood) {
        *self.0.0.lock().unwrap() = mood;
        self.0.1.notify_all();
    }

    fn audit(&self, queue: u32, on_full: OnFull) -> Audit {
        Audit::to_writer(Box::new(self.clone()), &config(queue, on_full)).unwrap()
    }
}

impl Write for Fickle {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (mood, changed) = &*self.0;
        let mut mood =
            changed.wait_while(mood.lock().unwrap(), |mood| *mood == Mood::Stuck).unwrap();
        match *mood {
            Mood::Failing => Err(io::Error::other("disk full")),
            Mood::Torn => {
                *mood = Mood::Failing;
                self.1.write(&bytes[..3])
            }
            _ => self.1.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn lines_come_out_whole_and_in_order() {
    let written = Written::default();
    let audit = Audit::to_writer(Box::new(written.clone()), &config(10_000, OnFull::Drop)).unwrap();
    for number in 0..5000 {
        audit.write(None, json(number));
    }
    assert!(audit.close(LONG));
    assert_eq!(written.text(), (0..5000).map(|number| format!("{number}\n")).collect::<String>());
    assert_eq!(audit.dropped(), Dropped::default());
}

#[test]
fn a_full_queue_drops_and_counts() {
    let to = Fickle::new(Mood::Stuck);
    let audit = to.audit(3, OnFull::Drop);
    for number in 0..10 {
        audit.write(None, json(number));
    }
    assert_eq!(audit.dropped(), Dropped { full: 7, write: 0 });
    assert!(!audit.close(Duration::from_millis(20)), "it does not wait longer than configured");
    to.set(Mood::Good);
    wait_until("the three are written", || to.1.text() == "0\n1\n2\n");
    audit.write(None, json(11));
}

#[test]
fn what_comes_after_the_end_is_counted_as_dropped() {
    let written = Written::default();
    let audit = Audit::to_writer(Box::new(written.clone()), &config(3, OnFull::Drop)).unwrap();
    audit.write(None, json(1));
    assert!(audit.close(LONG));
    assert!(audit.close(LONG), "closing twice is harmless");
    wait_until("the thread has ended", || {
        audit.write(None, json(2));
        audit.dropped().full > 0
    });
    assert!(written.text().starts_with("1\n"));
}

#[test]
fn a_reserved_place_is_kept_and_given_back() {
    let to = Fickle::new(Mood::Stuck);
    let audit = to.audit(2, OnFull::Deny);
    let first = audit.reserve().unwrap();
    let second = audit.reserve().unwrap();
    assert!(first.is_some() && second.is_some());
    assert_eq!(audit.reserve().err(), Some(QueueFull));
    drop(second);
    assert!(audit.reserve().is_ok(), "an unused slot is free again");
    audit.write(first, json(1));
    audit.write(None, json(2));
    assert_eq!(audit.reserve().err(), Some(QueueFull), "lines that wait hold their slots");
    assert_eq!(audit.dropped(), Dropped::default());
    to.set(Mood::Good);
    wait_until("the slots are free again", || audit.reserve().is_ok());
    assert_eq!(to.1.text(), "1\n2\n");
}

#[test]
fn a_failing_disk_costs_lines_or_stops_checks() {
    let to = Fickle::new(Mood::Failing);
    let audit = to.audit(2, OnFull::Drop);
    audit.write(None, json(1));
    wait_until("the line is given up", || audit.dropped().write == 1);
    to.set(Mood::Good);
    audit.write(None, json(2));
    assert!(audit.close(LONG));
    assert_eq!(to.1.text(), "2\n");

    let to = Fickle::new(Mood::Failing);
    let audit = to.audit(2, OnFull::Deny);
    for number in 1..=2 {
        audit.write(audit.reserve().unwrap(), json(number));
    }
    assert_eq!(audit.reserve().err(), Some(QueueFull));
    to.set(Mood::Good);
    assert!(audit.close(LONG), "what waited is written");
    assert_eq!(to.1.text(), "1\n2\n");
    assert_eq!(audit.dropped(), Dropped::default());

    let to = Fickle::new(Mood::Failing);
    let audit = to.audit(2, OnFull::Deny);
    audit.write(audit.reserve().unwrap(), json(1));
    assert!(!audit.close(LONG), "at the end it is given up, and said");
    assert_eq!(audit.dropped(), Dropped { full: 0, write: 1 });
}

#[test]
fn a_torn_line_does_not_spoil_the_next() {
    let to = Fickle::new(Mood::Torn);
    let audit = to.audit(8, OnFull::Drop);
    audit.write(None, json("first"));
    wait_until("the line is given up", || audit.dropped().write == 1);
    to.set(Mood::Good);
    audit.write(None, json("second"));
    assert!(audit.close(LONG));
    assert_eq!(to.1.text(), "\"fi\n\"second\"\n");

    let to = Fickle::new(Mood::Torn);
    let audit = to.audit(8, OnFull::Deny);
    audit.write(audit.reserve().unwrap(), json("first"));
    wait_until("three bytes are out", || to.1.text().len() == 3);
    to.set(Mood::Good);
    assert!(audit.close(LONG));
    assert_eq!(to.1.text(), "\"first\"\n", "with `deny` the rest follows");
}

#[test]
fn a_pipe_without_a_reader_does_not_hold_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    let error = LogFile::open_within(path, Duration::from_millis(50)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
}

#[test]
fn a_file_is_appended_to_and_followed_when_it_is_rotated() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    fs::write(&path, "before\n").unwrap();
    let target = AuditTarget::File(path.to_str().unwrap().into());
    let audit = Audit::start(&AuditConfig { to: target, ..AuditConfig::default() }).unwrap();
    let read = |path: &std::path::Path| fs::read_to_string(path).unwrap_or_default();
    audit.write(None, json(1));
    wait_until("the first line is there", || read(&path) == "before\n1\n");
    let old = directory.path().join("audit.log.1");
    fs::rename(&path, &old).unwrap();
    audit.write(None, json(2));
    wait_until("the new file is made", || read(&path) == "2\n");
    // A directory takes the path: the old file stays in use until the path can be opened again.
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    audit.write(None, json(3));
    assert!(audit.close(LONG));
    assert_eq!(read(&old), "before\n1\n");
}

#[test]
fn a_new_file_is_not_for_everybody() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    LogFile::open(path.clone()).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o137, 0);
    let missing = AuditTarget::File(directory.path().join("no/such").to_str().unwrap().into());
    let error = Audit::start(&AuditConfig { to: missing, ..AuditConfig::default() })
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("cannot open the audit log `") && error.contains("no/such"),
        "{error}"
    );
}

#[test]
fn the_section_is_read_strictly() {
    for (text, expected) in [
        (serde_json::json!("stdout"), Some(AuditTarget::Stdout)),
        (serde_json::json!("none"), Some(AuditTarget::None)),
        (serde_json::json!("file:/var/log/a"), Some(AuditTarget::File("/var/log/a".into()))),
        (serde_json::json!("file:relative"), None),
        (serde_json::json!("stderr"), None),
        (serde_json::json!(""), None),
    ] {
        assert_eq!(serde_json::from_value::<AuditTarget>(text.clone()).ok(), expected, "{text}");
    }
    for (section, good) in [
        (serde_json::json!({}), true),
        (serde_json::json!({ "queue": 0 }), false),
        (serde_json::json!({ "queue": 1, "on_full": "deny" }), true),
        (serde_json::json!({ "to": "none", "on_full": "deny" }), false),
        (serde_json::json!({ "to": "none" }), true),
    ] {
        let mut errors = Errors::default();
        serde_json::from_value::<AuditConfig>(section.clone())
            .unwrap()
            .validate(&Path::root().key("audit"), &mut errors);
        assert_eq!(errors.is_empty(), good, "{section}");
    }
    assert!(serde_json::from_value::<AuditConfig>(serde_json::json!({ "file": "/x" })).is_err());
}

#[test]
fn off_writes_nothing_and_has_room() {
    let audit = Audit::off();
    assert!(audit.reserve().is_ok_and(|slot| slot.is_none()));
    audit.write(None, json(1));
    assert!(audit.close(Duration::ZERO));
    assert_eq!(audit.dropped(), Dropped::default());
}
