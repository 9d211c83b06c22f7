//! WebSockets without a library: a server that accepts every upgrade and returns what it receives,
//! and the client's half of a handshake.

use std::{
    io::{BufRead, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use super::http::Request;

/// A server that returns the bytes of upgraded connections, and answers other requests with 200.
pub(crate) struct EchoServer {
    pub(crate) port: u16,
    seen: Arc<Mutex<Vec<String>>>,
}

impl EchoServer {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&seen);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let record = Arc::clone(&record);
                std::thread::spawn(move || serve(stream, &record));
            }
        });
        Self { port, seen }
    }

    /// The heads of the requests for an upgrade that arrived since the last call, in lower case but for values.
    pub(crate) fn taken(&self) -> Vec<String> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

fn serve(mut stream: TcpStream, seen: &Mutex<Vec<String>>) {
    while let Some(head) = head(&mut stream) {
        if !head.to_ascii_lowercase().contains("upgrade: websocket") {
            if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_err() {
                return;
            }
            continue;
        }
        let offered = value(&head, "sec-websocket-protocol");
        let chosen = offered.as_deref().and_then(|list| list.split(',').next()).map(str::trim);
        let chosen =
            chosen.map(|name| format!("Sec-WebSocket-Protocol: {name}\r\n")).unwrap_or_default();
        seen.lock().unwrap().push(head);
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{chosen}\r\n"
        );
        let _ = stream.write_all(answer.as_bytes());
        let Ok(mut reader) = stream.try_clone() else { return };
        let _ = std::io::copy(&mut reader, &mut stream);
        return;
    }
}

/// The head of a message, up to and with its empty line.
fn head(stream: &mut TcpStream) -> Option<String> {
    let mut reader = BufReader::with_capacity(1, stream);
    let mut head = String::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        head.push_str(&line);
        if line == "\r\n" {
            return Some(head);
        }
    }
}

/// The value of a header of a head.
pub(crate) fn value(head: &str, name: &str) -> Option<String> {
    let mut lines = head.lines().filter_map(|line| line.split_once(':'));
    lines
        .find(|(known, _)| known.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim().to_owned())
}

/// A connection after a request for an upgrade.
pub(crate) struct Upgraded {
    stream: TcpStream,
    /// The head of the answer.
    pub(crate) head: String,
}

impl Upgraded {
    /// Asks for a WebSocket at `path` with these headers besides those of the handshake.
    pub(crate) fn open(port: u16, request: &Request) -> Self {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut text = format!("{} {} HTTP/1.1\r\n", request.method, request.path);
        for (name, value) in &request.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n");
        text.push_str("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n");
        stream.write_all(text.as_bytes()).unwrap();
        let head = head(&mut stream).expect("an answer to the handshake");
        Self { stream, head }
    }

    pub(crate) fn status(&self) -> u16 {
        self.head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    /// The value of a header of the answer.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        value(&self.head, name)
    }

    /// Whether the server returns what is sent.
    pub(crate) fn echoes(&mut self) -> bool {
        let mut returned = [0; 4];
        self.stream.write_all(b"ping").is_ok()
            && self.stream.read_exact(&mut returned).is_ok()
            && &returned == b"ping"
    }

    /// How long the connection lasts from now on.
    pub(crate) fn lasts(mut self) -> Duration {
        let started = Instant::now();
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).expect("the connection ends before the deadline");
        started.elapsed()
    }
}
