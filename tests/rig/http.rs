//! HTTP/1.1 without a library: a client that can send invalid requests, and a server that shows
//! exactly what arrived.

use std::{
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

/// The longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A request to send, or one that arrived.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// The request target, raw.
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn new(method: &str, path: &str) -> Self {
        let host = ("Host".to_owned(), "api.example.com".to_owned());
        Self {
            method: method.to_owned(),
            path: path.to_owned(),
            headers: vec![host],
            body: Vec::new(),
        }
    }

    pub(crate) fn get(path: &str) -> Self {
        Self::new("GET", path)
    }

    /// A POST request with a JSON body.
    pub(crate) fn post(path: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::new("POST", path).header("Content-Type", "application/json").body(body)
    }

    /// Adds a header, even if there is one with that name.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Removes every header of this name.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        self
    }

    pub(crate) fn bearer(self, token: &str) -> Self {
        self.header("Authorization", &format!("Bearer {token}"))
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// The values of a header.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        all(&self.headers, name)
    }

    /// The request as it is sent.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut text = format!("{} {} HTTP/1.1\r\n", self.method, self.path);
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if !self.body.is_empty() || self.method == "POST" {
            text.push_str(&format!("Content-Length: {}\r\n", self.body.len()));
        }
        text.push_str("Connection: close\r\n\r\n");
        [text.as_bytes(), &self.body].concat()
    }

    /// Sends it and waits for the answer; `None` when the connection ended without one.
    pub(crate) fn try_send(&self, port: u16) -> Option<Reply> {
        exchange(port, &self.bytes(), self.method != "HEAD")
    }

    /// Sends it and waits for the answer.
    pub(crate) fn send(&self, port: u16) -> Reply {
        self.try_send(port).unwrap_or_else(|| panic!("no answer to {} {}", self.method, self.path))
    }
}

/// Sends these bytes on a new connection and waits for the answer.
pub(crate) fn exchange(port: u16, bytes: &[u8], has_body: bool) -> Option<Reply> {
    let started = Instant::now();
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream.set_write_timeout(Some(TIMEOUT)).unwrap();
    // The peer may answer and close the connection before all of the body is sent.
    let _ = stream.write_all(bytes);
    let mut reader = BufReader::new(stream);
    let (first, headers) = head(&mut reader)?;
    let status = first.split(' ').nth(1)?.parse().ok()?;
    let body = body(&mut reader, &headers, has_body && status != 204)?;
    Some(Reply { status, headers, body, took: started.elapsed() })
}

/// An answer that arrived, or one to send.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// The time from the connection to the last byte.
    pub(crate) took: Duration,
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), took: Duration::ZERO }
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The value of a header that is not repeated.
    pub(crate) fn one(&self, name: &str) -> Option<&str> {
        let values = all(&self.headers, name);
        assert!(values.len() < 2, "`{name}` is repeated: {values:?}");
        values.first().copied()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in {}", self.text()))
    }

    /// The `code` of an error body.
    pub(crate) fn code(&self) -> String {
        serde_json::from_slice::<serde_json::Value>(&self.body)
            .ok()
            .and_then(|body| Some(body.get("error")?.get("code")?.as_str()?.to_owned()))
            .unwrap_or_default()
    }

    /// The status and the `code`, which is empty where the body is not an error of Tollgate.
    pub(crate) fn verdict(&self) -> (u16, String) {
        (self.status, self.code())
    }
}

fn all<'h>(headers: &'h [(String, String)], name: &str) -> Vec<&'h str> {
    headers
        .iter()
        .filter(|(known, _)| known.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.as_str())
        .collect()
}

/// Reads the start line and the headers.
fn head(reader: &mut impl BufRead) -> Option<(String, Vec<(String, String)>)> {
    let first = line(reader)?;
    let mut headers = Vec::new();
    loop {
        let line = line(reader)?;
        if line.is_empty() {
            return Some((first, headers));
        }
        let (name, value) = line.split_once(':')?;
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
}

fn line(reader: &mut impl BufRead) -> Option<String> {
    let mut line = Vec::new();
    reader.read_until(b'\n', &mut line).ok()?;
    let text = line.strip_suffix(b"\n")?;
    Some(String::from_utf8_lossy(text.strip_suffix(b"\r").unwrap_or(text)).into_owned())
}

/// Reads the body by its framing; without any, up to the end of the connection if `until_end`.
fn body(
    reader: &mut impl BufRead,
    headers: &[(String, String)],
    until_end: bool,
) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    if !until_end {
        return Some(body);
    }
    if all(headers, "transfer-encoding").contains(&"chunked") {
        loop {
            let size = usize::from_str_radix(line(reader)?.trim(), 16).ok()?;
            let at = body.len();
            body.resize(at + size, 0);
            reader.read_exact(&mut body[at..]).ok()?;
            line(reader)?;
            if size == 0 {
                return Some(body);
            }
        }
    }
    match all(headers, "content-length").first() {
        Some(length) => {
            body.resize(length.parse().ok()?, 0);
            reader.read_exact(&mut body).ok()?;
        }
        None => drop(reader.read_to_end(&mut body)),
    }
    Some(body)
}

/// A server on loopback whose answers come from a function.
pub(crate) struct Server {
    pub(crate) port: u16,
}

/// The answer of a handler.
pub(crate) enum Answer {
    /// A whole response.
    Whole(Reply),
    /// Server-sent events: each is sent when it is received here, and the response ends when the
    /// sender is dropped.
    Events(mpsc::Receiver<String>),
    /// A response in raw bytes: they are sent as they are received here, and the connection is
    /// closed when the sender is dropped.
    Raw(mpsc::Receiver<Vec<u8>>),
    /// No response: the connection stays open until the peer closes it.
    Silence,
}

impl Server {
    /// Serves until the process ends.
    pub(crate) fn start(handler: impl Fn(Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let handler = Arc::new(handler);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let handler = Arc::clone(&handler);
                std::thread::spawn(move || serve(&stream, &*handler));
            }
        });
        Self { port }
    }
}

fn serve(stream: &TcpStream, handler: &dyn Fn(Request) -> Answer) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut writer = stream;
    loop {
        let (first, headers) = head(&mut reader)?;
        let mut words = first.split(' ');
        let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
        let framed = ["content-length", "transfer-encoding"]
            .iter()
            .any(|name| !all(&headers, name).is_empty());
        let body = body(&mut reader, &headers, framed)?;
        match handler(Request { method, path, headers, body }) {
            Answer::Whole(reply) => {
                let mut text = format!(
                    "HTTP/1.1 {} Answer\r\ncontent-length: {}\r\n",
                    reply.status,
                    reply.body.len()
                );
                for (name, value) in &reply.headers {
                    text.push_str(&format!("{name}: {value}\r\n"));
                }
                text.push_str("\r\n");
                writer.write_all(&[text.as_bytes(), &reply.body].concat()).ok()?;
            }
            Answer::Events(events) => {
                let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
                writer.write_all(head.as_bytes()).ok()?;
                for event in events {
                    let data = format!("data: {event}\n\n");
                    writer.write_all(format!("{:x}\r\n{data}\r\n", data.len()).as_bytes()).ok()?;
                }
                writer.write_all(b"0\r\n\r\n").ok()?;
            }
            Answer::Raw(bytes) => {
                for bytes in bytes {
                    writer.write_all(&bytes).ok()?;
                }
                return stream.shutdown(std::net::Shutdown::Both).ok();
            }
            Answer::Silence => {
                std::io::copy(&mut reader, &mut std::io::sink()).ok()?;
                return None;
            }
        }
    }
}
