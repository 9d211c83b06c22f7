//! Strangers on a listener: connections that are silent, idle, or kept open by a body that never
//! arrives or by a stream, and the proxy that is served nevertheless. Other machines are other
//! addresses of loopback.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tollgate::listener::{Address, Limits};
use tollgate_testkit::wait::until_async;

use super::{
    clients::{self, Answer, CHECK, call, connect, http2, message},
    message_memory::{Child, parent_is_gone},
    servers::{Checks, Running, SOON, Wanted, budget},
};

const MIB: u64 = 1 << 20;
const PROXY: Ipv4Addr = Ipv4Addr::LOCALHOST;
const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
const WATCH: &str = "http://tollgate/grpc.health.v1.Health/Watch";

async fn connect_from(address: Ipv4Addr, server: &Running) -> io::Result<TcpStream> {
    let Address::Tcp(to) = server.address else { panic!("a TCP listener") };
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((address, 0)))?;
    socket.connect(to).await
}

/// Whether the server closes the connection without sending anything.
async fn is_closed(stream: &mut TcpStream) -> bool {
    matches!(timeout(SOON, stream.read(&mut [0])).await.unwrap(), Ok(0) | Err(_))
}

/// Sends a request, and returns whether it is answered with 200.
async fn is_served(stream: &mut TcpStream) -> bool {
    let mut answer = [0; 4096];
    stream.write_all(GET).await.is_ok()
        && timeout(SOON, stream.read(&mut answer)).await.unwrap().is_ok()
        && answer.starts_with(b"HTTP/1.1 200")
}

fn with_places(max_connections: usize) -> Wanted {
    let limits = Limits { max_connections, ..Limits::default() };
    Wanted { limits, ..Wanted::default() }
}

#[tokio::test]
async fn a_peer_that_is_not_trusted_is_closed_at_accept_and_takes_no_place() {
    let wanted = Wanted { trusted: Some(r#"["127.0.0.1"]"#), ..with_places(2) };
    let server = wanted.http().await;
    let mut strangers = Vec::new();
    for _ in 0..50 {
        strangers.push(connect_from(STRANGER, &server).await.unwrap());
    }
    for stranger in &mut strangers {
        assert!(is_closed(stranger).await);
    }
    let mut proxies =
        [connect_from(PROXY, &server).await.unwrap(), connect_from(PROXY, &server).await.unwrap()];
    assert!(is_served(&mut proxies[0]).await && is_served(&mut proxies[1]).await);
    // Idle connections of a trusted proxy are not closed, not even for another one of the proxy.
    let mut third = connect_from(PROXY, &server).await.unwrap();
    assert!(is_closed(&mut third).await);
    assert!(is_served(&mut proxies[0]).await && is_served(&mut proxies[1]).await);
}

#[tokio::test]
async fn silent_connections_of_a_stranger_do_not_keep_the_proxy_out() {
    let server = Wanted::default().http().await;
    let mut strangers = Vec::new();
    for _ in 0..Limits::default().max_connections {
        strangers.push(connect_from(STRANGER, &server).await.unwrap());
    }
    let mut proxies = Vec::new();
    for _ in 0..16 {
        let mut proxy = connect_from(PROXY, &server).await.unwrap();
        assert!(is_served(&mut proxy).await);
        proxies.push(proxy);
    }
    // The stranger comes back, again and again, and only closes connections of its own.
    for _ in 0..100 {
        strangers.push(connect_from(STRANGER, &server).await.unwrap());
    }
    for proxy in &mut proxies {
        assert!(is_served(proxy).await);
    }
}

#[tokio::test]
async fn idle_connections_with_one_check_each_do_not_keep_the_proxy_out() {
    let server = with_places(64).grpc(Checks::default(), budget(MIB, 64 * MIB)).await;
    let mut strangers = Vec::new();
    for _ in 0..64 {
        let mut client = http2(connect_from(STRANGER, &server).await.unwrap()).await;
        assert!(call(&mut client, CHECK, message(1)).await.unwrap().is(0, "1"));
        strangers.push(client);
    }
    for _ in 0..8 {
        let mut proxy = http2(connect_from(PROXY, &server).await.unwrap()).await;
        assert!(call(&mut proxy, CHECK, message(2)).await.unwrap().is(0, "2"));
    }
    let mut open = 0;
    for stranger in &mut strangers {
        open += usize::from(call(stranger, CHECK, message(1)).await.is_ok());
    }
    assert!((56..64).contains(&open), "{open} of 64 are left");
}

/// Each of them has an address, so that the proxy's holds most: its connections were closed.
#[tokio::test]
async fn strangers_with_many_addresses_do_not_close_the_connections_of_the_proxy() {
    let server = with_places(32).grpc(Checks::default(), budget(MIB, 64 * MIB)).await;
    let mut proxies = Vec::new();
    for _ in 0..8 {
        let mut proxy = http2(connect_from(PROXY, &server).await.unwrap()).await;
        assert!(call(&mut proxy, CHECK, message(2)).await.unwrap().is(0, "2"));
        proxies.push(proxy);
    }
    let mut strangers = Vec::new();
    for number in 2..100 {
        let address = Ipv4Addr::new(127, 0, 1, number);
        if number % 2 == 0 {
            let silent = connect_from(address, &server).await.unwrap();
            strangers.push((Some(silent), None));
        } else {
            strangers.push((None, Some(open_call(&server, address, CHECK, never()).await)));
        }
    }
    for proxy in &mut proxies {
        assert!(call(proxy, CHECK, message(2)).await.unwrap().is(0, "2"));
    }
}

type AnyBody = UnsyncBoxBody<Bytes, io::Error>;

fn never() -> AnyBody {
    StreamBody::new(futures_util::stream::pending()).boxed_unsync()
}

fn whole(bytes: &'static [u8]) -> AnyBody {
    Full::new(Bytes::from_static(bytes)).map_err(|never| match never {}).boxed_unsync()
}

fn check() -> AnyBody {
    Full::new(message(1)).map_err(|never| match never {}).boxed_unsync()
}

/// Starts a call on a connection of its own and returns what keeps it open.
async fn open_call(
    server: &Running,
    from: Ipv4Addr,
    uri: &str,
    body: AnyBody,
) -> impl Sized + use<> {
    let stream = TokioIo::new(connect_from(from, server).await.unwrap());
    let (mut client, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    let request = Request::post(uri).header("content-type", "application/grpc").body(body).unwrap();
    client.ready().await.unwrap();
    let response = tokio::spawn(client.send_request(request));
    (client, response)
}

#[tokio::test]
async fn calls_that_never_end_do_not_keep_the_proxy_out() {
    for (name, uri) in [("withheld messages", CHECK), ("streams", WATCH)] {
        let server = with_places(32).grpc(Checks::default(), budget(MIB, 64 * MIB)).await;
        let mut strangers = Vec::new();
        for _ in 0..32 {
            let body = if uri == CHECK { never() } else { whole(b"\0\0\0\0\0") };
            strangers.push(open_call(&server, STRANGER, uri, body).await);
        }
        let mut proxy = http2(connect_from(PROXY, &server).await.unwrap()).await;
        assert!(call(&mut proxy, CHECK, message(2)).await.unwrap().is(0, "2"), "{name}");
    }
}

/// What a stranger has begun to send and withholds leaves room for others: one connection could take
/// all places of calls, and a few announced messages all of the bytes.
#[tokio::test]
async fn what_a_stranger_withholds_does_not_keep_others_out() {
    // 1024 calls, and 96 MiB for messages.
    let budget = budget(16 * MIB, 128 * MIB);
    let server = Wanted::default().grpc(Checks::default(), budget.clone()).await;
    let announced = || {
        let prefix = Bytes::from_static(b"\0\x00\xe0\0\0");
        let frames = futures_util::stream::iter([Ok(http_body::Frame::data(prefix))]);
        let rest = futures_util::stream::pending();
        StreamBody::new(futures_util::StreamExt::chain(frames, rest)).boxed_unsync()
    };
    for (name, body, calls, least) in [
        ("calls", never as fn() -> AnyBody, 300, 800 * (32 << 10)),
        ("messages", announced as fn() -> AnyBody, 10, 70 * MIB as usize),
    ] {
        let mut open = Vec::new();
        for address in [STRANGER, Ipv4Addr::new(127, 0, 0, 3)] {
            for _ in 0..4 {
                let stream = TokioIo::new(connect_from(address, &server).await.unwrap());
                let handshake = http2::handshake(TokioExecutor::new(), stream);
                let (client, connection) = handshake.await.unwrap();
                tokio::spawn(connection);
                for _ in 0..calls {
                    let request = Request::post(CHECK).header("content-type", "application/grpc");
                    // Longer than the test takes.
                    let request = request.header("grpc-timeout", "1H").body(body()).unwrap();
                    let mut client = client.clone();
                    open.push(tokio::spawn(async move { client.send_request(request).await }));
                }
            }
        }
        until_async("the attack", async || (budget.taken() >= least).then_some(())).await;
        let mut proxy = http2(connect_from(PROXY, &server).await.unwrap()).await;
        for size in [1, 1 << 20] {
            let answer = call(&mut proxy, CHECK, message(size)).await.unwrap();
            assert!(answer.is(0, &size.to_string()), "{name}: {answer:?}");
        }
        open.iter().for_each(|call| call.abort());
        until_async("the end of the attack", async || (budget.taken() == 0).then_some(())).await;
    }
}

#[tokio::test]
async fn a_check_that_waits_for_its_answer_keeps_its_connection() {
    let gate = std::sync::Arc::new(super::servers::Gate::default());
    let checks = Checks { gate: Some(gate.clone()), ..Checks::default() };
    let server = with_places(1).grpc(checks, budget(MIB, 64 * MIB)).await;
    let mut proxy = http2(connect_from(PROXY, &server).await.unwrap()).await;
    let waiting = tokio::spawn(async move { call(&mut proxy, CHECK, message(3)).await });
    gate.entered.notified().await;
    for _ in 0..20 {
        let mut stranger = connect_from(STRANGER, &server).await.unwrap();
        assert!(is_closed(&mut stranger).await);
    }
    gate.open.notify_one();
    assert!(waiting.await.unwrap().unwrap().is(0, "3"));
}

#[tokio::test]
async fn idle_connections_do_not_fill_a_unix_socket() {
    let dir = tempfile::tempdir().unwrap();
    let address = Address::Unix(dir.path().join("authz.sock"));
    let server = Wanted { address: address.clone(), ..with_places(8) }
        .grpc(Checks::default(), budget(MIB, 64 * MIB))
        .await;
    let mut silent = Vec::new();
    for _ in 0..8 {
        silent.push(connect(&address).await.unwrap());
    }
    let mut proxy = http2(connect(&server.address).await.unwrap()).await;
    assert!(call(&mut proxy, CHECK, message(4)).await.unwrap().is(0, "4"));
}

#[tokio::test]
async fn streams_of_one_connection_are_bounded_and_end_with_it() {
    let limits = Limits {
        first_request_timeout: Duration::from_millis(200),
        idle_timeout: Duration::from_millis(200),
        ..Limits::default()
    };
    let server =
        Wanted { limits, ..Wanted::default() }.grpc(Checks::default(), budget(MIB, 64 * MIB)).await;
    let stream = TokioIo::new(connect_from(PROXY, &server).await.unwrap());
    let (client, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut open = Vec::new();
    for at in 0..20 {
        let mut client = client.clone();
        let request = Request::post(WATCH).header("content-type", "application/grpc");
        client.ready().await.unwrap();
        let response = client.send_request(request.body(whole(b"\0\0\0\0\0")).unwrap()).await;
        let response = response.unwrap();
        let status = response.headers().get("grpc-status").map(|status| status.to_str().unwrap());
        let expected = if at < 4 { None } else { Some("8") };
        assert_eq!(status, expected, "stream {at}");
        open.push(response);
    }
    // An idle connection ends, though its streams would go on.
    timeout(SOON, connection).await.unwrap().unwrap().ok();
}

/// Health checks of an orchestrator are answered while strangers hold every stream there may be.
#[tokio::test]
async fn streams_leave_room_for_health_checks() {
    let server = Wanted::default().grpc(Checks::default(), budget(MIB, 4 * MIB)).await;
    let mut strangers = Vec::new();
    for _ in 0..20 {
        strangers.push(open_call(&server, STRANGER, WATCH, whole(b"\0\0\0\0\0")).await);
    }
    let mut proxy = http2(connect_from(PROXY, &server).await.unwrap()).await;
    let health = "http://tollgate/grpc.health.v1.Health/Check";
    until_async("a health check", async || {
        let request = Request::post(health).header("content-type", "application/grpc");
        let body = Full::new(Bytes::from_static(b"\0\0\0\0\0"));
        let answer = proxy.send_request(request.body(body).unwrap()).await.unwrap();
        let body = answer.into_body().collect().await.unwrap();
        (body.trailers()?.get("grpc-status")? == "0").then_some(())
    })
    .await;
    assert_eq!(call(&mut proxy, CHECK, message(5)).await.unwrap(), Answer::Verdict(0, "5".into()));
}

/// Everything that a peer can keep open on many connections, and the memory of the server: it grew
/// by 450 MB for the streams alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_stay_open_take_bounded_memory() {
    const CONNECTIONS: usize = 40;
    const CALLS: usize = 1024;
    const UNREAD: &str = "checks whose answer is not read";
    // What a listener with so many connections accepts on the last one.
    let streams = |connections: usize| (8 * CALLS / connections).min(CALLS);
    let other = "http://tollgate/x.Y/Other";
    let all = CONNECTIONS * CALLS;
    // How many of the calls are answered at once; the others stay open.
    type Row = (&'static str, &'static str, fn() -> AnyBody, usize);
    let rows: [Row; 5] = [
        ("streams", WATCH, || whole(b"\0\0\0\0\0"), all),
        ("streams whose request never arrives", WATCH, never, all - 4 * CONNECTIONS),
        ("unknown methods whose request never arrives", other, never, all),
        ("checks whose message never arrives", CHECK, never, all - 4 * CALLS),
        (UNREAD, CHECK, check, (1..=CONNECTIONS).map(streams).sum()),
    ];
    for (name, uri, body, at_once) in rows {
        // The peak depends on the moments at which the calls meet, so that a row has three attempts.
        let mut grown = Vec::new();
        while grown.last().is_none_or(|mib| *mib >= 64) {
            assert!(grown.len() < 3, "{name}: the server grew by {grown:?} MiB");
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("authz.sock");
            let child = serve_in_child(&path).await;
            let address = Address::Unix(path);
            let before = child.peak();
            let mut open = Vec::new();
            let mut calls = tokio::task::JoinSet::new();
            for _ in 0..CONNECTIONS {
                let stream = TokioIo::new(connect(&address).await.unwrap());
                let mut builder = http2::Builder::new(TokioExecutor::new());
                if name == UNREAD {
                    builder.initial_stream_window_size(0);
                }
                let (client, connection) = builder.handshake(stream).await.unwrap();
                tokio::spawn(connection);
                for _ in 0..CALLS {
                    let mut client = client.clone();
                    let request = Request::post(uri).header("content-type", "application/grpc");
                    let request = request.header("x-padding", "x".repeat(1000));
                    let request = request.body(body()).unwrap();
                    calls.spawn(async move { client.send_request(request).await });
                }
                open.push(client);
            }
            let mut answers = Vec::new();
            while answers.len() < at_once {
                answers.push(timeout(SOON, calls.join_next()).await.unwrap().unwrap().unwrap());
            }
            let mut probe = http2(connect(&address).await.unwrap()).await;
            let answer = timeout(SOON, clients::call(&mut probe, CHECK, message(1)));
            let answer = answer.await.unwrap().unwrap();
            assert!(answer.is(0, "1") || answer.is(7, "no room"), "{name}: {answer:?}");
            grown.push((child.peak() - before) >> 20);
            drop((open, calls, answers));
        }
    }
}

async fn serve_in_child(path: &Path) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "wire::strangers::served", "--ignored", "--nocapture"])
        .env("TOLLGATE_TEST_SOCKET", path)
        .stdout(Stdio::null());
    Child::spawn(command, path).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the child of calls_that_stay_open_take_bounded_memory"]
async fn served() {
    // Without the variable there is no parent: all ignored tests are run.
    let Some(path) = std::env::var_os("TOLLGATE_TEST_SOCKET") else { return };
    let server = Wanted { address: Address::Unix(path.into()), ..Default::default() }
        .grpc(Checks::default(), budget(16 * MIB, 128 * MIB))
        .await;
    parent_is_gone().await;
    server.stop.cancel();
}
