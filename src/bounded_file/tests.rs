use std::{
    process::Command,
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
};

use tollgate_testkit::wait;

use super::*;

/// A time that is over at once for work that waits, and long enough for work that does not.
const SHORT: Duration = Duration::from_millis(200);

const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn only_regular_files_of_bounded_size_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys");
    assert!(matches!(read(&path, 4).await, Err(FileError::Unreadable { .. })));
    std::fs::write(&path, "1234").unwrap();
    assert_eq!(read(&path, 4).await.unwrap(), b"1234");
    assert_eq!(read_blocking(&path, 4).unwrap(), b"1234");
    assert!(matches!(read(&path, 3).await, Err(FileError::TooLarge { max: 3, .. })));

    let pipe = directory.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let socket = directory.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(&pipe, &link).unwrap();
    for (path, expected) in [
        (directory.path(), "a directory"),
        (Path::new("/dev/zero"), "a device"),
        (pipe.as_path(), "a pipe"),
        (link.as_path(), "a pipe"),
        (socket.as_path(), "a socket"),
    ] {
        for read in [read(path, 4).await, read_blocking(path, 4)] {
            let error = read.unwrap_err();
            assert!(
                matches!(&error, FileError::Irregular { kind, .. } if *kind == expected),
                "{error}"
            );
        }
    }
}

#[tokio::test]
async fn a_read_that_hangs_has_one_thread_and_is_not_waited_for_again() {
    static WORK: Outstanding<&str, u32> = Outstanding::new();
    static STARTED: AtomicUsize = AtomicUsize::new(0);
    let (release, released) = mpsc::channel::<()>();
    let hang = move || {
        STARTED.fetch_add(1, Ordering::SeqCst);
        released.recv().unwrap();
        1
    };
    let never = || {
        STARTED.fetch_add(1, Ordering::SeqCst);
        2
    };
    assert!(matches!(WORK.run("hung", SHORT, hang).await, Err(Stalled::Hangs)));
    for _ in 0..100 {
        assert!(matches!(WORK.run("hung", SHORT, never).await, Err(Stalled::Hangs)));
        assert!(matches!(WORK.run_blocking("hung", SHORT, never), Err(Stalled::Hangs)));
    }
    assert_eq!(STARTED.load(Ordering::SeqCst), 1, "one thread for two hundred requests");
    assert_eq!(WORK.run("another", LONG, || 3).await.unwrap(), 3, "other files are read");
    release.send(()).unwrap();
    let works_again = async || WORK.run("hung", SHORT, || 4).await.ok();
    assert_eq!(wait::until_async("the end of the read", works_again).await, 4);
}

#[tokio::test]
async fn requests_at_the_same_time_share_one_read() {
    static WORK: Outstanding<(), String> = Outstanding::new();
    let (release, released) = mpsc::channel::<()>();
    let first = WORK.run((), LONG, move || {
        released.recv().unwrap();
        "content".to_owned()
    });
    let second = WORK.run((), LONG, || "not read twice".to_owned());
    let release = async { release.send(()).unwrap() };
    let (first, second, ()) = tokio::join!(first, second, release);
    assert_eq!((first.unwrap(), second.unwrap()), ("content".to_owned(), "content".to_owned()));
}

#[tokio::test]
async fn a_panic_does_not_block_the_path() {
    static WORK: Outstanding<(), u32> = Outstanding::new();
    assert!(WORK.run((), LONG, || panic!("expected by the test")).await.is_err());
    assert_eq!(WORK.run((), LONG, || 1).await.unwrap(), 1);
}

#[tokio::test]
async fn content_is_settled_when_two_reads_agree() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("secret");
    std::fs::write(&path, "ha").unwrap();
    let apart = Duration::from_millis(1);
    // The writer continues after the first look.
    let finish = |bytes: &[u8]| {
        if bytes == b"ha" {
            std::fs::write(&path, "half no more").unwrap();
        }
        false
    };
    assert_eq!(read_settled(&path, 64, apart, finish).await.unwrap(), b"half no more");
    let rewrite = |bytes: &[u8]| {
        std::fs::write(&path, [bytes, b"x"].concat()).unwrap();
        false
    };
    let unsettled = read_settled(&path, 64, apart, rewrite).await;
    assert!(matches!(unsettled, Err(FileError::Unsettled { .. })), "{unsettled:?}");
    std::fs::write(&path, "half no more").unwrap();
    let known = |bytes: &[u8]| bytes == b"half no more";
    let long = Duration::from_secs(3600);
    assert_eq!(read_settled(&path, 64, long, known).await.unwrap(), b"half no more");
}
