//! Clients that leave, connect too often, and send HTTP in floods or drips; and a process without
//! CPU time.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use tokio::net::TcpSocket;

use super::{
    held_socket::HeldSocket,
    redis::on_redis,
    rig::{POLICY, Rig, check},
    row::{Answer, Metric, Row, Verified},
};
use crate::rig::{
    http2_frames::{cancelled_requests, frame, preface, request_headers},
    redis::Redis,
    until, within,
};

const OTHERS: &str = "other checks";
const SERVED: &[Answer] = &[Answer { to: OTHERS, status: 200, reason: "", headers: &[] }];
const NOTHING_IN_FLIGHT: &[Metric] = &[Metric::is("tollgate_in_flight_bytes", &[], 0.0)];

pub(super) const SATURATED: Row = Row {
    condition: "the CPU is saturated by other processes",
    answers: &[Answer { to: "any token", status: 200, reason: "", headers: &[] }],
    metrics: &[
        Metric::at_least("tollgate_checks_total", &["decision=\"allow\""], 100.0),
        Metric::is("tollgate_checks_total", &["reason=\"overloaded\""], 0.0),
    ],
    log: &[],
    audit: &["\"decision\":\"allow\""],
    recovery: "with the CPU; answers are later, not others",
    recovered: NOTHING_IN_FLIGHT,
};

pub(super) const STOPPED: Row = Row {
    condition: "Tollgate gets no CPU time for two seconds while it waits for Redis",
    answers: &[Answer {
        to: "the check that waited, whatever `on_outage` is",
        status: 503,
        reason: "overloaded",
        headers: &[("retry-after", "1")],
    }],
    metrics: &[
        Metric::at_least("tollgate_store_errors_total", &["outage=\"starved\""], 1.0),
        Metric::is("tollgate_outage_allowed_total", &[], 0.0),
    ],
    log: &[],
    audit: &["\"reason\":\"overloaded\"...\"cause\":"],
    recovery: "with the CPU; Redis' circuit stays as it was",
    recovered: NOTHING_IN_FLIGHT,
};

pub(super) const CANCELLED: Row = Row {
    condition: "clients disconnect while their checks wait for Redis",
    answers: SERVED,
    metrics: &[
        Metric::at_least("tollgate_checks_total", &["decision=\"cancelled\""], 20.0),
        Metric::is("tollgate_in_flight_bytes", &[], 0.0),
    ],
    log: &[],
    audit: &["\"decision\":\"cancelled\""],
    recovery: "at once: what the check held is free; a charge that was sent is kept",
    recovered: NOTHING_IN_FLIGHT,
};

pub(super) const CONNECTIONS: Row = Row {
    condition: "10 000 connections to a listener",
    answers: &[
        Answer { to: "a proxy that was connected before", status: 200, reason: "", headers: &[] },
        Answer { to: "`/readyz` on `listen.ops`", status: 200, reason: "", headers: &[] },
    ],
    metrics: &[Metric::at_most("process_open_fds", &[], 1200.0)],
    log: &[
        "closed a connection: the limit is reached",
        "closed an idle connection for a new one: the limit is reached; list the proxies in \
         `trusted_proxies`",
    ],
    audit: &[],
    recovery: "a place is free as soon as its connection ends",
    recovered: &[],
};

pub(super) const RAPID_RESET: Row = Row {
    condition: "HTTP/2 rapid reset: 20 000 requests, each cancelled at once",
    answers: SERVED,
    metrics: &[Metric::is("tollgate_in_flight_bytes", &[], 0.0)],
    log: &[],
    audit: &[],
    recovery: "nothing to recover: a proxy forwards the resets of its clients, so the connection \
               stays",
    recovered: NOTHING_IN_FLIGHT,
};

pub(super) const CONTINUATION: Row = Row {
    condition: "HTTP/2 CONTINUATION flood: headers without an end",
    answers: SERVED,
    metrics: &[Metric::is("tollgate_in_flight_bytes", &[], 0.0)],
    log: &[],
    audit: &[],
    recovery: "the connection is closed before its headers are kept; others are not affected",
    recovered: NOTHING_IN_FLIGHT,
};

pub(super) const SLOWLORIS: Row = Row {
    condition: "slowloris: 300 connections that send their headers in single bytes",
    answers: &[
        Answer { to: "`/readyz` on `listen.ops`", status: 200, reason: "", headers: &[] },
        Answer { to: OTHERS, status: 200, reason: "", headers: &[] },
    ],
    metrics: &[Metric::at_most("process_open_fds", &[], 200.0)],
    log: &["closed an idle connection for a new one: the limit is reached"],
    audit: &[],
    recovery: "a connection without a whole request loses its place to the next one at once",
    recovered: &[],
};

pub(super) fn saturated(verified: &Verified) {
    let rig = Rig::start(POLICY);
    let token = rig.token("alice");
    let stop = AtomicBool::new(false);
    let threads = 4 * thread::available_parallelism().unwrap().get();
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let _stop = StopOnDrop(&stop);
        for _ in 0..100 {
            verified.answer(&SATURATED, "any token", &rig.get("/free", &token));
        }
    });
    verified.observed(&SATURATED, &rig.tollgate, &[], "");
    verified.recovered(&SATURATED, &rig.tollgate, &[], || rig.allows("/free", &token));
}

/// Ends the busy threads, also when an assertion fails.
struct StopOnDrop<'s>(&'s AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A Tollgate whose Redis is behind a socket that can be held.
struct Held {
    rig: Rig,
    socket: HeldSocket,
    _redis: Redis,
}

impl Held {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let redis = Redis::start(dir.path());
        let socket =
            HeldSocket::start(&dir.path().join("held.sock"), &dir.path().join("redis.sock"));
        let keys = "url: \"unix:${DIR}/held.sock\", password: \"file:${DIR}/redis.password\", \
                    deadline: 500ms";
        let rig = Rig::start_in(dir, &on_redis(keys));
        until("the connection", || rig.allows("/deny", &rig.token("first")));
        Self { rig, socket, _redis: redis }
    }

    /// Waits until a check is in flight. `None`: it was answered before that was seen.
    fn in_flight(&self) -> Option<()> {
        within(Duration::from_secs(1), || {
            let bytes = self.rig.tollgate.metric("tollgate_in_flight_bytes", &[]);
            (bytes > 0.0).then_some(())
        })
    }
}

pub(super) fn stopped(verified: &Verified) {
    let held = Held::start();
    let token = held.rig.token("alice");
    held.socket.hold();
    let process = &held.rig.tollgate.process;
    let pause_a_check = || {
        thread::scope(|scope| {
            let reply = scope.spawn(|| held.rig.get("/error", &token));
            if held.in_flight().is_some() {
                process.pause();
                // The time that passes is the condition.
                let since = Instant::now();
                until("two seconds", || (since.elapsed() > Duration::from_secs(2)).then_some(()));
                process.resume();
            }
            reply.join().unwrap()
        })
    };
    // On a busy machine Redis' deadline may pass before the pause.
    let paused = (0..5).map(|_| pause_a_check());
    let reply = paused.into_iter().find(|reply| reply.code() == "overloaded").unwrap();
    verified.answer(&STOPPED, "the check that waited, whatever `on_outage` is", &reply);
    held.socket.release();
    verified.observed(&STOPPED, &held.rig.tollgate, &[], "");
    let mut number = 0;
    verified.recovered(&STOPPED, &held.rig.tollgate, &[], || {
        number += 1;
        held.rig.allows("/deny", &held.rig.token(&format!("fresh-{number}")))
    });
}

pub(super) fn cancelled(verified: &Verified) {
    const CLIENTS: usize = 20;
    let held = Held::start();
    let bytes = check("/deny", &held.rig.token("alice")).bytes();
    held.socket.hold();
    let connect = |_| {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, held.rig.http())).unwrap();
        stream.write_all(&bytes).unwrap();
        stream
    };
    let labels = ["decision=\"cancelled\""];
    // On a busy machine Redis' deadline may pass before the end of a connection.
    until("checks without a client", || {
        let clients: Vec<TcpStream> = (0..CLIENTS).map(connect).collect();
        held.in_flight()?;
        drop(clients);
        (held.rig.tollgate.metric("tollgate_checks_total", &labels) >= 20.0).then_some(())
    });
    verified.observed(&CANCELLED, &held.rig.tollgate, &[], "");
    held.socket.release();
    let rig = &held.rig;
    let mut number = 0;
    verified.recovered(&CANCELLED, &rig.tollgate, &[], || {
        number += 1;
        rig.allows("/deny", &rig.token(&format!("fresh-{number}")))
    });
    verified.answer(&CANCELLED, OTHERS, &rig.get("/deny", &rig.token("other")));
}

/// A connection of a proxy over HTTP/1.1 that stays open.
struct Connected(TcpStream);

impl Connected {
    fn open(rig: &Rig) -> Self {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, rig.http())).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self(stream)
    }

    /// The status of a check.
    fn check(&mut self, token: &str) -> u16 {
        let bytes = String::from_utf8(check("/free", token).bytes()).unwrap();
        let bytes = bytes.replace("Connection: close", "Connection: keep-alive");
        self.0.write_all(bytes.as_bytes()).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        let head = String::from_utf8(head).unwrap();
        head.split(' ').nth(1).unwrap().parse().unwrap()
    }
}

/// Opens connections from an address of another machine, and keeps the last 600 of them.
fn connections(port: u16, count: usize, bytes: &[u8]) -> Vec<tokio::net::TcpStream> {
    const KEPT: usize = 600;
    let runtime = runtime();
    runtime.block_on(async {
        let mut kept = std::collections::VecDeque::new();
        for _ in 0..count {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind(SocketAddr::from(([127, 0, 0, 2], 0))).unwrap();
            // A listener that is full may close it at once.
            let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let Ok(stream) = socket.connect(to).await else { continue };
            let _ = stream.try_write(bytes);
            kept.push_back(stream);
            if kept.len() > KEPT {
                kept.pop_front();
            }
        }
        kept.into()
    })
}

fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: std::sync::OnceLock<tokio::runtime::Runtime> = std::sync::OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
    })
}

/// A fourth of the row's number: a full listener takes its time in a debug build.
pub(super) fn many_connections(verified: &Verified) {
    connect_many(verified, [1200, 700, 600]);
}

pub(super) fn ten_thousand_connections(verified: &Verified) {
    connect_many(verified, [4000, 4000, 2000]);
}

/// Opens this many connections to the listeners for checks over HTTP, over gRPC, and to
/// `listen.ops`.
fn connect_many(verified: &Verified, [http, grpc, ops]: [usize; 3]) {
    let rig = Rig::start(POLICY);
    let token = rig.token("alice");
    let mut proxy = Connected::open(&rig);
    assert_eq!(proxy.check(&token), 200);
    let (tollgate, row) = (&rig.tollgate, &CONNECTIONS);
    let mut kept = Vec::new();
    for (port, count) in [(rig.http(), http), (tollgate.port("grpc"), grpc), (tollgate.ops, ops)] {
        kept.push(connections(port, count, b""));
        verified.answered(row, "a proxy that was connected before", proxy.check(&token), "", &[]);
        verified.answer(row, "`/readyz` on `listen.ops`", &rig.tollgate.ready());
    }
    verified.observed(row, &rig.tollgate, &[], "");
    drop(kept);
    verified.recovered(row, &rig.tollgate, &[], || {
        let reply = check("/free", &token).try_send(rig.http())?;
        (reply.status == 200).then_some(())
    });
}

pub(super) fn slow_headers(verified: &Verified) {
    let rig = Rig::start(POLICY);
    let token = rig.token("alice");
    let kept = connections(rig.tollgate.ops, 300, b"GET /readyz HTTP/1.1\r\nx-slow: 1");
    for stream in &kept {
        // One more byte each; those that were closed refuse it.
        let _ = stream.try_write(b"2");
    }
    for _ in 0..10 {
        let ready = rig.tollgate.ready();
        verified.answer(&SLOWLORIS, "`/readyz` on `listen.ops`", &ready);
        verified.answer(&SLOWLORIS, OTHERS, &rig.get("/free", &token));
    }
    verified.observed(&SLOWLORIS, &rig.tollgate, &[], "");
    drop(kept);
    verified.recovered(&SLOWLORIS, &rig.tollgate, &[], || {
        (rig.tollgate.ready().status == 200).then_some(())
    });
}

/// Sends raw frames on a new connection, and reads until the peer answers the last ping or closes.
/// Returns the number of bytes that were sent, and the kinds of the frames that arrived.
fn send_frames(port: u16, frames: impl Iterator<Item = Vec<u8>> + Send) -> (usize, Vec<u8>) {
    let mut reading = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    reading.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut writing = reading.try_clone().unwrap();
    thread::scope(|scope| {
        let sent = scope.spawn(move || {
            let mut sent = 0;
            for bytes in frames {
                if writing.write_all(&bytes).is_err() {
                    break;
                }
                sent += bytes.len();
            }
            sent
        });
        let mut kinds = Vec::new();
        loop {
            let mut head = [0; 9];
            if reading.read_exact(&mut head).is_err() {
                break;
            }
            let length = usize::from(head[1]) << 8 | usize::from(head[2]);
            if reading.read_exact(&mut vec![0; length]).is_err() {
                break;
            }
            kinds.push(head[3]);
            // The answer to the ping.
            if (head[3], head[4]) == (6, 1) {
                break;
            }
        }
        (sent.join().unwrap(), kinds)
    })
}

const GRPC_PATH: &str = "/envoy.service.auth.v3.Authorization/Check";
const GOAWAY: u8 = 7;
const PING: u8 = 6;

pub(super) fn rapid_reset(verified: &Verified) {
    const CALLS: u32 = 20_000;
    let rig = Rig::start(POLICY);
    let token = rig.token("alice");
    for (port, path) in [(rig.http(), "/check"), (rig.tollgate.port("grpc"), GRPC_PATH)] {
        let calls = cancelled_requests(&request_headers(3, path), false, CALLS);
        let frames = [preface(), calls, frame(PING, 0, 0, b"the end.")];
        thread::scope(|scope| {
            let attack = scope.spawn(|| send_frames(port, frames.into_iter()));
            while !attack.is_finished() {
                verified.answer(&RAPID_RESET, OTHERS, &rig.get("/free", &token));
            }
            let (_, kinds) = attack.join().unwrap();
            assert!(kinds.ends_with(&[PING]), "{kinds:?}");
            assert!(!kinds.contains(&GOAWAY), "{kinds:?}");
        });
    }
    verified.answer(&RAPID_RESET, OTHERS, &rig.get("/free", &token));
    verified.observed(&RAPID_RESET, &rig.tollgate, &[], "");
    verified.recovered(&RAPID_RESET, &rig.tollgate, &[], || rig.allows("/free", &token));
}

pub(super) fn continuation_flood(verified: &Verified) {
    const MIB: usize = 1 << 20;
    let rig = Rig::start(POLICY);
    let token = rig.token("alice");
    let before = rig.tollgate.peak();
    // A literal field that is not indexed: the name `x`, and a value of 100 bytes.
    let field = [b"\x00\x01x\x64".as_slice(), &[b'a'; 100]].concat();
    let fields = field.repeat(100);
    for (port, path) in [(rig.http(), "/check"), (rig.tollgate.port("grpc"), GRPC_PATH)] {
        // Without END_HEADERS, so that only CONTINUATION may follow.
        let begin = [preface(), frame(1, 0, 1, &request_headers(3, path))];
        let more = std::iter::repeat_with(|| frame(9, 0, 1, &fields)).take(64 * MIB / fields.len());
        let (sent, kinds) = send_frames(port, begin.into_iter().chain(more));
        // Beyond what it reads, the buffers of two sockets take some MiB.
        assert!(sent < 32 * MIB, "{sent} bytes were taken: {kinds:?}");
        verified.answer(&CONTINUATION, OTHERS, &rig.get("/free", &token));
    }
    let grown = rig.tollgate.peak() - before;
    assert!(grown < 16 * MIB as u64, "{} KiB for headers", grown / 1024);
    verified.observed(&CONTINUATION, &rig.tollgate, &[], "");
    verified.recovered(&CONTINUATION, &rig.tollgate, &[], || rig.allows("/free", &token));
}
