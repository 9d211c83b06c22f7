//! Plain HTTP on a listener, and the limits of listeners.

use std::process::{Command, Stdio};
use std::time::Duration;

use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tollgate::listener::{Address, Limits, Protocol};
use tollgate_testkit::wait::within;

use super::clients::{connect, http2};
use super::message_memory::Child;
use super::servers::{Running, SOON, Wanted};

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";

async fn tcp(server: &Running) -> TcpStream {
    match server.address {
        Address::Tcp(address) => TcpStream::connect(address).await.unwrap(),
        Address::Unix(_) => panic!("a TCP listener"),
    }
}

/// Sends a request and reads until the answer's body begins to arrive.
async fn ask(stream: &mut TcpStream, request: &[u8]) -> String {
    stream.write_all(request).await.unwrap();
    let mut answer = vec![0; 4096];
    let length = timeout(SOON, stream.read(&mut answer)).await.unwrap().unwrap();
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

/// Returns whether the server closes the connection without sending more.
async fn closes(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    match timeout(SOON, stream.read_to_end(&mut rest)).await {
        Ok(Ok(_)) => rest.is_empty(),
        Ok(Err(_reset)) => true,
        Err(_elapsed) => false,
    }
}

#[tokio::test]
async fn http_1_and_http_2_are_served_on_one_port() {
    let server = Wanted::default().http().await;
    let mut stream = tcp(&server).await;
    for _ in 0..2 {
        let answer = ask(&mut stream, GET).await;
        assert!(
            answer.starts_with("HTTP/1.1 200 OK")
                && answer.contains("HTTP/1.1 Some(Tcp(127.0.0.1:"),
            "{answer}"
        );
    }
    let mut client = http2(connect(&server.address).await.unwrap()).await;
    let request = http::Request::get("http://x/").body(Default::default()).unwrap();
    let body =
        client.send_request(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
    assert!(body.starts_with(b"HTTP/2.0 Some(Tcp("), "{body:?}");
}

#[tokio::test]
async fn header_blocks_are_bounded() {
    let server = Wanted::default().http().await;
    let lines = |count| format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(count)).into_bytes();
    let value =
        |length| format!("GET / HTTP/1.1\r\na: {}\r\n\r\n", "b".repeat(length)).into_bytes();
    let rows = [
        ("200 lines", lines(200), "200"),
        ("201 lines", lines(201), "431"),
        ("a cookie of 100 KiB", value(100 << 10), "200"),
        ("a cookie of 160 KiB", value(160 << 10), "431"),
    ];
    for (name, request, expected) in rows {
        let answer = ask(&mut tcp(&server).await, &request).await;
        assert_eq!(answer.get(9..12), Some(expected), "{name}: {answer}");
    }
}

/// A proxy that is still writing its headers when they are refused reads the refusal: the
/// connection is not reset under it.
#[tokio::test]
async fn a_refusal_reaches_a_peer_that_is_still_sending() {
    let server = Wanted::default().http().await;
    let mut stream = tcp(&server).await;
    let start = format!("GET / HTTP/1.1\r\na: {}", "b".repeat(160 << 10));
    stream.write_all(start.as_bytes()).await.unwrap();
    assert_ne!(timeout(SOON, stream.peek(&mut [0])).await.unwrap().unwrap(), 0);
    for _ in 0..8 {
        stream.write_all(&[b'b'; 16 << 10]).await.unwrap();
    }
    let mut answer = String::new();
    timeout(SOON, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

#[tokio::test]
async fn a_connection_without_a_request_is_closed() {
    let limits = Limits { first_request_timeout: Duration::from_millis(50), ..Default::default() };
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let rows: [(&str, &[u8]); 4] = [
        ("silent", b""),
        ("half a request", b"GET / HTTP/1.1\r\nho"),
        ("half an HTTP/2 preface", &preface[..10]),
        ("an HTTP/2 preface and nothing else", preface),
    ];
    for protocol in [Protocol::Http, Protocol::Grpc] {
        let wanted = Wanted { limits: limits.clone(), ..Default::default() };
        let server = match protocol {
            Protocol::Http => wanted.http().await,
            Protocol::Grpc => {
                wanted.grpc(Default::default(), super::servers::budget(1 << 20, 4 << 20)).await
            }
        };
        let mut streams = Vec::new();
        for (name, start) in &rows {
            let mut stream = tcp(&server).await;
            stream.write_all(start).await.unwrap();
            streams.push((name, stream));
        }
        for (name, mut stream) in streams {
            let mut rest = Vec::new();
            let end = timeout(SOON, stream.read_to_end(&mut rest)).await;
            assert!(end.is_ok(), "{name} is still open on {protocol:?}");
        }
    }
}

#[tokio::test]
async fn a_connection_ends_when_it_is_idle_and_when_it_is_old() {
    let short = Duration::from_millis(50);
    let rows = [
        (
            "idle",
            Limits { first_request_timeout: short, idle_timeout: short, ..Default::default() },
        ),
        ("old", Limits { max_age: short, ..Default::default() }),
    ];
    for (name, limits) in rows {
        let server = Wanted { limits, ..Default::default() }.http().await;
        let mut stream = tcp(&server).await;
        assert!(ask(&mut stream, GET).await.starts_with("HTTP/1.1 200 OK"), "{name}");
        assert!(closes(&mut stream).await, "{name}");
    }
}

#[tokio::test]
async fn a_connection_beyond_the_limit_is_closed_at_once() {
    let limits = Limits { max_connections: 2, ..Default::default() };
    let server = Wanted { limits, ..Default::default() }.http().await;
    let (mut first, mut second) = (tcp(&server).await, tcp(&server).await);
    assert!(ask(&mut first, GET).await.contains("200"));
    assert!(ask(&mut second, GET).await.contains("200"));
    assert!(closes(&mut tcp(&server).await).await);
    assert!(ask(&mut first, GET).await.contains("200"), "the other connections are kept");

    drop(second);
    let served = async {
        loop {
            let mut stream = tcp(&server).await;
            if stream.write_all(GET).await.is_ok() && stream.read_u8().await.is_ok() {
                break;
            }
        }
    };
    assert!(timeout(SOON, served).await.is_ok(), "a returned permit is used");
}

#[tokio::test]
async fn a_silent_connection_does_not_delay_the_end() {
    let server = Wanted::default().http().await;
    let (_silent, mut used) = (tcp(&server).await, tcp(&server).await);
    assert!(ask(&mut used, GET).await.contains("200"));
    server.stop.cancel();
    timeout(SOON / 2, server.task).await.unwrap().unwrap();
    assert!(closes(&mut used).await);
}

/// The process has no file descriptor left for the next connection. It must not use a core to wait
/// for one, and must serve again when there is one.
#[tokio::test]
async fn running_out_of_file_descriptors_is_survived() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("http.sock");
    let this = std::env::current_exe().unwrap();
    let mut command = Command::new("sh");
    command
        .args([
            "-c",
            "ulimit -n 40 && exec \"$0\" --exact wire::http_and_limits::few_files --ignored --nocapture",
        ])
        .arg(this)
        .env("TOLLGATE_TEST_SOCKET", &path)
        .stdout(Stdio::null());
    let child = Child::spawn(command, &path).await;

    let address = Address::Unix(path);
    let mut open = Vec::new();
    for _ in 0..60 {
        open.push(connect(&address).await.unwrap());
    }
    let before = child.cpu_ticks();
    let spins = within(Duration::from_millis(500), || {
        Some(child.cpu_ticks() - before).filter(|spent| *spent >= 15)
    });
    assert_eq!(spins, None, "hundredths of a second of CPU time in half a second");

    drop(open);
    let mut stream = connect(&address).await.unwrap();
    stream.write_all(GET).await.unwrap();
    let mut answer = [0; 12];
    timeout(SOON, stream.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
}

#[tokio::test]
#[ignore = "the child of running_out_of_file_descriptors_is_survived"]
async fn few_files() {
    // Without the variable there is no parent: all ignored tests are run.
    let Some(path) = std::env::var_os("TOLLGATE_TEST_SOCKET") else { return };
    let server = Wanted { address: Address::Unix(path.into()), ..Default::default() }.http().await;
    super::message_memory::parent_is_gone().await;
    server.stop.cancel();
}
