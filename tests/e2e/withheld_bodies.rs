//! Clients without a token that never finish their bodies: Envoy's memory stays below the bound of
//! the shipped configuration, and other clients are served.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::{
    body::Frame,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpStream, sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::ReceiverStream;

use crate::rig::{
    POLICY, Rig,
    envoy::{CURRENT, OLDEST},
    http::Request,
};

const MIB: u64 = 1 << 20;
/// `max_heap_size_bytes` of the shipped configuration.
const BOUND: u64 = 768 * MIB;
/// The largest body that Envoy accepts.
const BODY: u64 = 16 * MIB;
/// Together they could hold 1040 MiB.
const STREAMS: usize = 65;
/// Streams of one HTTP/2 connection.
const STREAMS_EACH: usize = 10;
const PIECE: usize = 64 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    Http1,
    Http2,
}

type Pieces = StreamBody<ReceiverStream<Result<Frame<Bytes>, Infallible>>>;

/// A request whose body lacks its last byte. Ends when the request does.
fn withheld(sent: &Arc<AtomicU64>) -> hyper::Request<Pieces> {
    let (sender, receiver) = mpsc::channel(1);
    let sent = sent.clone();
    tokio::spawn(async move {
        let piece = Bytes::from(vec![b'x'; PIECE]);
        let mut left = BODY - 1;
        while left > 0 {
            let length = left.min(PIECE as u64);
            let frame = Frame::data(piece.slice(..usize::try_from(length).unwrap()));
            if sender.send(Ok(frame)).await.is_err() {
                return;
            }
            sent.fetch_add(length, Ordering::Relaxed);
            left -= length;
        }
        sender.closed().await;
    });
    hyper::Request::post("http://api.example.com/v1/chat/completions")
        .header("host", "api.example.com")
        .header("content-type", "application/json")
        .header("content-length", BODY)
        .body(StreamBody::new(ReceiverStream::new(receiver)))
        .unwrap()
}

/// Sends withheld bodies on one connection after the other, without end.
async fn attack(port: u16, version: Version, sent: Arc<AtomicU64>) {
    loop {
        let Ok(stream) = TcpStream::connect(("127.0.0.1", port)).await else { continue };
        match version {
            Version::Http1 => {
                let Ok((mut client, connection)) = http1::handshake(TokioIo::new(stream)).await
                else {
                    continue;
                };
                tokio::spawn(connection);
                if let Ok(answer) = client.send_request(withheld(&sent)).await {
                    let _ = answer.into_body().collect().await;
                }
            }
            Version::Http2 => {
                let Ok((mut client, connection)) =
                    http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await
                else {
                    continue;
                };
                tokio::spawn(connection);
                let mut streams = JoinSet::new();
                for _ in 0..STREAMS_EACH {
                    if client.ready().await.is_ok() {
                        streams.spawn(client.send_request(withheld(&sent)));
                    }
                }
                streams.join_all().await;
            }
        }
    }
}

/// The largest resident memory of Envoy so far.
fn peak(rig: &Rig) -> u64 {
    let status = rig.envoy.process.proc("status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

/// Holds the bound of memory in each attempt. How many of the other clients are served depends on
/// what else the machine does, so that one attempt of three may show it.
fn memory_is_bounded(envoy: &str, version: Version) {
    const ATTEMPTS: usize = 3;
    let mut seen = Vec::new();
    for _ in 0..ATTEMPTS {
        let (served, asked) = served_under_attack(envoy, version);
        if served * 10 >= asked * 8 {
            return;
        }
        seen.push(format!("{served} of {asked}"));
    }
    panic!("{version:?}: served within a second: {seen:?}");
}

/// How many requests of another client are served within a second, and how many were sent.
fn served_under_attack(envoy: &str, version: Version) -> (u32, u32) {
    let rig = Rig::on(envoy, POLICY, |config| config);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let sent = Arc::new(AtomicU64::new(0));
    let connections = match version {
        Version::Http1 => STREAMS,
        Version::Http2 => STREAMS.div_ceil(STREAMS_EACH),
    };
    for _ in 0..connections {
        runtime.spawn(attack(rig.envoy.port, version, sent.clone()));
    }
    let (mut asked, mut served) = (0_u32, 0_u32);
    let started = Instant::now();
    // Without a bound all of this is held, and more than this cannot be sent.
    let all = BODY * (connections.max(STREAMS) as u64) * 3 / 2;
    while sent.load(Ordering::Relaxed) < all || asked < 50 {
        assert!(started.elapsed() < Duration::from_secs(120), "{version:?}: {sent:?} bytes sent");
        assert!(peak(&rig) < BOUND, "{version:?}: {} MiB", peak(&rig) / MIB);
        let reply = Request::get("/health").try_send(rig.envoy.port);
        asked += 1;
        served += u32::from(
            reply.is_some_and(|reply| reply.status == 200 && reply.took < Duration::from_secs(1)),
        );
    }
    runtime.shutdown_background();
    println!("{envoy} {version:?}: {} MiB, {served} of {asked} served", peak(&rig) / MIB);
    (served, asked)
}

#[test]
fn envoy_s_memory_is_bounded() {
    memory_is_bounded(CURRENT, Version::Http1);
    memory_is_bounded(CURRENT, Version::Http2);
}

#[test]
#[ignore = "needs a large download: make test-all"]
fn the_oldest_envoy_s_memory_is_bounded() {
    memory_is_bounded(OLDEST, Version::Http1);
    memory_is_bounded(OLDEST, Version::Http2);
}
