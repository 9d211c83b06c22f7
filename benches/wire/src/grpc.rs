//! gRPC in raw HTTP/2 frames (RFC 9113), so that a request costs less than its answer. As with
//! Envoy, the headers of each request but the first are ten bytes: indices into the table that the
//! first request fills (RFC 7541). Headers of answers are not decoded, because the result is in the
//! message.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    os::fd::{AsFd, BorrowedFd},
    path::PathBuf,
};

use anyhow::{Context as _, bail, ensure};
use clap::Args;

use crate::{
    address::Stream,
    drive::{Connection, Load},
    message::{self, Packing, Possession, Source, Which},
    verdict::Verdict,
};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;

/// The largest payload of a frame by default.
const FRAME: usize = 16384;
/// Slots for streams: a power of two, above the number in flight.
const SLOTS: usize = 4096;
/// Bytes of answers after which the connection's window is extended.
const REOPEN: u32 = 1 << 28;

/// Send checks over gRPC.
#[derive(Debug, Args)]
pub(crate) struct Check {
    #[command(flatten)]
    load: Load,
    #[command(flatten)]
    which: Which,
    /// The approximate size of the chat in the body, in bytes; 0 for no body.
    #[arg(long, default_value_t = 0)]
    body: usize,
    /// The encoding of the client's headers.
    #[arg(long, value_enum, default_value = "raw")]
    headers: Packing,
    /// The certificate of the client, in PEM.
    #[arg(long)]
    certificate: Option<PathBuf>,
}

impl Check {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let body = message::chat(self.body);
        let certificate = self.certificate.as_ref().map(std::fs::read_to_string).transpose()?;
        // As Envoy encodes it.
        let certificate = certificate.map(|pem| {
            pem.replace('\n', "%0A").replace(' ', "%20").replace('+', "%2B").replace('=', "%3D")
        });
        let certificate = certificate.as_deref();
        let source = Source::new(&self.which, |token, proof| {
            let possession = Possession { proof, certificate };
            message::framed(&message::check_request(token, &body, self.headers, possession))
        })?;
        let room = self.load.in_flight.div_ceil(self.load.connections);
        let connections = (0..self.load.connections)
            .map(|_| {
                Http2::connect(
                    self.load
                        .target
                        .connect()
                        .with_context(|| format!("{:?}", self.load.target))?,
                    room,
                )
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        println!("{}", self.load.run(connections, source, self.which.once)?);
        Ok(())
    }
}

/// A stream without an answer yet.
#[derive(Debug, Default)]
struct Waiting {
    open: bool,
    started: u64,
    verdict: Option<Verdict>,
    /// The first part of a message in several frames.
    part: Vec<u8>,
}

struct Http2 {
    stream: Stream,
    out: Vec<u8>,
    written: usize,
    input: Vec<u8>,
    filled: usize,
    waiting: Vec<Waiting>,
    in_flight: usize,
    most: usize,
    next_id: u32,
    /// The windows of the peer: of the connection, and of a new stream.
    window: i64,
    stream_window: i64,
    consumed: u32,
}

impl Http2 {
    /// Connects, for at most `most` requests at a time.
    fn connect(stream: Stream, most: usize) -> anyhow::Result<Self> {
        let mut this = Self {
            stream,
            out: Vec::with_capacity(1 << 20),
            written: 0,
            input: vec![0; 1 << 20],
            filled: 0,
            waiting: (0..SLOTS).map(|_| Waiting::default()).collect(),
            in_flight: 0,
            most,
            next_id: 1,
            window: 65535,
            stream_window: 65535,
            consumed: 0,
        };
        this.out.extend_from_slice(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        this.frame(6, SETTINGS, 0, 0);
        this.out.extend_from_slice(&INITIAL_WINDOW_SIZE.to_be_bytes());
        this.out.extend_from_slice(&(1u32 << 24).to_be_bytes());
        this.frame(4, WINDOW_UPDATE, 0, 0);
        this.out.extend_from_slice(&(1u32 << 30).to_be_bytes());
        this.write()?;
        // The peer's settings are needed, so the read blocks until they arrive.
        let streams = this.most;
        this.most = 0;
        while this.most == 0 {
            let count = this
                .stream
                .read(this.input.get_mut(this.filled..).unwrap_or_default())
                .context("no settings")?;
            ensure!(count > 0, "the peer closed the connection");
            this.filled += count;
            this.most = streams;
            if !this.frames(&mut |_, _| {})? {
                this.most = 0;
            }
        }
        this.stream.nonblocking()?;
        this.write()?;
        Ok(this)
    }

    fn frame(&mut self, length: usize, kind: u8, flags: u8, stream: u32) {
        let [_, a, b, c] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
        self.out.extend_from_slice(&[a, b, c, kind, flags]);
        self.out.extend_from_slice(&stream.to_be_bytes());
    }

    /// Writes the headers of a request: the first time in full, for the table, then as indices.
    fn headers(&mut self, id: u32) {
        const NAMED: [(&str, &str); 6] = [
            ("te", "trailers"),
            ("grpc-timeout", "2000m"),
            ("content-type", "application/grpc"),
            ("x-envoy-internal", "true"),
            ("x-forwarded-for", "10.4.5.6"),
            ("x-envoy-expected-rq-timeout-ms", "2000"),
        ];
        // Index of the oldest of the eight entries that the first request adds, after 61 static
        // ones.
        const OLDEST: u8 = 61 + 8;
        let mut block = vec![0x83, 0x86]; // :method POST, :scheme http
        if id == 1 {
            let literal = |block: &mut Vec<u8>, text: &str| {
                block.push(u8::try_from(text.len()).unwrap_or(0x7e)); // all are shorter than 127
                block.extend_from_slice(text.as_bytes());
            };
            block.push(0x44); // :path
            literal(&mut block, "/envoy.service.auth.v3.Authorization/Check");
            block.push(0x41); // :authority
            literal(&mut block, "tollgate");
            for (name, value) in NAMED {
                block.push(0x40);
                literal(&mut block, name);
                literal(&mut block, value);
            }
        } else {
            // The newest entry has index 62, the oldest the largest index.
            block.extend((62..=OLDEST).rev().map(|index| 0x80 | index));
        }
        self.frame(block.len(), HEADERS, END_HEADERS, id);
        self.out.extend_from_slice(&block);
    }

    /// Handles every whole frame that was read, and keeps the rest. Returns whether there was one.
    fn frames(&mut self, answer: &mut dyn FnMut(Verdict, u64)) -> anyhow::Result<bool> {
        let input = std::mem::take(&mut self.input);
        let mut at = 0;
        while let Some(&[a, b, c, kind, flags, s0, s1, s2, s3]) =
            input.get(at..self.filled).and_then(|rest| rest.first_chunk())
        {
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            let Some(payload) =
                input.get(at + 9..at + 9 + length).filter(|_| at + 9 + length <= self.filled)
            else {
                break;
            };
            let stream = u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]);
            self.handle(kind, flags, stream, payload, answer)?;
            at += 9 + length;
        }
        self.input = input;
        self.input.copy_within(at..self.filled, 0);
        self.filled -= at;
        Ok(at > 0)
    }

    fn handle(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
        answer: &mut dyn FnMut(Verdict, u64),
    ) -> anyhow::Result<()> {
        match kind {
            DATA => {
                self.consumed += u32::try_from(payload.len())?;
                if self.consumed > REOPEN {
                    self.frame(4, WINDOW_UPDATE, 0, 0);
                    self.out.extend_from_slice(&self.consumed.to_be_bytes());
                    self.consumed = 0;
                }
                let waiting = self.waiting.get_mut(slot(stream)).context("a stream")?;
                waiting.take(payload);
                if flags & END_STREAM != 0 {
                    self.end(stream, answer);
                }
            }
            HEADERS if flags & END_STREAM != 0 => self.end(stream, answer),
            RST_STREAM if self.waiting.get(slot(stream)).is_some_and(|waiting| waiting.open) => {
                // After a whole answer a reset means that the request was not read to its end.
                self.end(stream, answer);
            }
            SETTINGS if flags & ACK == 0 => {
                for entry in payload.chunks_exact(6) {
                    let [k0, k1, v0, v1, v2, v3] = entry.first_chunk().copied().unwrap_or_default();
                    let value = u32::from_be_bytes([v0, v1, v2, v3]);
                    match u16::from_be_bytes([k0, k1]) {
                        MAX_CONCURRENT_STREAMS => {
                            ensure!(
                                value as usize >= self.most,
                                "the peer takes only {value} requests on a connection"
                            );
                        }
                        INITIAL_WINDOW_SIZE => self.stream_window = i64::from(value),
                        _ => {}
                    }
                }
                self.frame(0, SETTINGS, ACK, 0);
            }
            PING if flags & ACK == 0 => {
                self.frame(payload.len(), PING, ACK, 0);
                self.out.extend_from_slice(payload);
            }
            GOAWAY => bail!("the peer ends the connection (GOAWAY)"),
            WINDOW_UPDATE if stream == 0 => {
                let more = payload
                    .first_chunk()
                    .map(|bytes| u32::from_be_bytes(*bytes))
                    .context("a window")?;
                self.window += i64::from(more);
            }
            _ => {}
        }
        Ok(())
    }

    fn end(&mut self, stream: u32, answer: &mut dyn FnMut(Verdict, u64)) {
        if let Some(waiting) = self.waiting.get_mut(slot(stream)).filter(|waiting| waiting.open) {
            waiting.open = false;
            self.in_flight -= 1;
            answer(waiting.verdict.take().unwrap_or(Verdict::Failed), waiting.started);
        }
    }
}

impl Waiting {
    fn take(&mut self, payload: &[u8]) {
        if self.part.is_empty() {
            self.verdict = whole(payload).map(judge);
            if self.verdict.is_some() {
                return;
            }
        }
        self.part.extend_from_slice(payload);
        self.verdict = whole(&self.part).map(judge);
    }
}

fn slot(stream: u32) -> usize {
    (stream as usize >> 1) % SLOTS
}

/// Returns a gRPC message when it is complete.
fn whole(bytes: &[u8]) -> Option<&[u8]> {
    let &[_, a, b, c, d] = bytes.first_chunk()?;
    bytes.get(5..5 + u32::from_be_bytes([a, b, c, d]) as usize)
}

/// Returns the result in a `CheckResponse`: `status.code` (1.1), and for a denial
/// `denied_response.status.code` (2.1.1).
fn judge(message: &[u8]) -> Verdict {
    let code = |path: &[u64]| {
        let (last, outer) = path.split_last()?;
        let inner =
            outer.iter().try_fold(message, |message, number| bytes_field(message, *number))?;
        Some(varint_field(inner, *last).unwrap_or(0))
    };
    match (code(&[1, 1]), code(&[2, 1, 1])) {
        (Some(0), None) => Verdict::Ok,
        (Some(1..), Some(status)) => Verdict::Denied(u16::try_from(status).unwrap_or(0)),
        _ => Verdict::Failed,
    }
}

/// One field of a protobuf message.
enum Field<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    Other,
}

/// Removes the first field from a message.
fn field<'a>(message: &mut &'a [u8]) -> Option<(u64, Field<'a>)> {
    let key = varint(message)?;
    let mut skip = |count: usize| {
        let (head, rest) = message.split_at_checked(count)?;
        *message = rest;
        Some(head)
    };
    let found = match key & 7 {
        1 => skip(8).map(|_| Field::Other)?,
        5 => skip(4).map(|_| Field::Other)?,
        0 => Field::Varint(varint(message)?),
        2 => {
            let length = usize::try_from(varint(message)?).ok()?;
            let (head, rest) = message.split_at_checked(length)?;
            *message = rest;
            Field::Bytes(head)
        }
        _ => return None,
    };
    Some((key >> 3, found))
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn bytes_field(mut message: &[u8], wanted: u64) -> Option<&[u8]> {
    while !message.is_empty() {
        match field(&mut message)? {
            (number, Field::Bytes(bytes)) if number == wanted => return Some(bytes),
            _ => {}
        }
    }
    None
}

fn varint_field(mut message: &[u8], wanted: u64) -> Option<u64> {
    while !message.is_empty() {
        match field(&mut message)? {
            (number, Field::Varint(value)) if number == wanted => return Some(value),
            _ => {}
        }
    }
    None
}

impl AsFd for Http2 {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Connection for Http2 {
    fn room(&self) -> usize {
        let taken = self.waiting.get(slot(self.next_id)).is_none_or(|waiting| waiting.open);
        // A request is sent only when the window fits the largest message.
        if taken || self.window < i64::try_from(FRAME).unwrap_or(0) {
            0
        } else {
            self.most.saturating_sub(self.in_flight)
        }
    }

    fn send(&mut self, source: &mut Source, started: u64) -> anyhow::Result<()> {
        let (id, length) = (self.next_id, source.len());
        ensure!(
            length <= FRAME && i64::try_from(length)? <= self.stream_window,
            "a message is larger than a frame"
        );
        self.next_id += 2;
        ensure!(self.next_id < 1 << 31, "the connection has no stream ids left");
        self.headers(id);
        self.frame(length, DATA, END_STREAM, id);
        source.write(&mut self.out);
        self.window -= i64::try_from(length)?;
        self.in_flight += 1;
        let waiting = self.waiting.get_mut(slot(id)).context("a slot")?;
        waiting.part.clear();
        (waiting.open, waiting.started, waiting.verdict) = (true, started, None);
        Ok(())
    }

    fn write(&mut self) -> anyhow::Result<()> {
        while self.unwritten() {
            match self.stream.write(self.out.get(self.written..).unwrap_or_default()) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        self.out.clear();
        self.written = 0;
        Ok(())
    }

    fn unwritten(&self) -> bool {
        self.written < self.out.len()
    }

    fn read(&mut self, answer: &mut dyn FnMut(Verdict, u64)) -> anyhow::Result<()> {
        match self.stream.read(self.input.get_mut(self.filled..).unwrap_or_default()) {
            Ok(0) => bail!("the peer closed the connection"),
            Ok(count) => {
                self.filled += count;
                self.frames(answer)?;
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::{
        envoy::{
            service::auth::v3::{
                CheckResponse, DeniedHttpResponse, OkHttpResponse, check_response::HttpResponse,
            },
            r#type::v3::HttpStatus,
        },
        google::rpc,
    };
    use prost::Message as _;

    use super::*;

    fn response(code: Option<i32>, http_response: Option<HttpResponse>) -> Vec<u8> {
        let status =
            code.map(|code| rpc::Status { code, message: "m".into(), ..rpc::Status::default() });
        CheckResponse { status, http_response, ..CheckResponse::default() }.encode_to_vec()
    }

    fn denied(code: i32) -> HttpResponse {
        let status = Some(HttpStatus { code });
        HttpResponse::DeniedResponse(DeniedHttpResponse {
            status,
            body: "no".into(),
            ..DeniedHttpResponse::default()
        })
    }

    #[test]
    fn an_answer_is_judged_by_its_fields() {
        let ok = || Some(HttpResponse::OkResponse(OkHttpResponse::default()));
        assert_eq!(judge(&response(Some(0), ok())), Verdict::Ok);
        assert_eq!(judge(&response(Some(0), None)), Verdict::Ok);
        assert_eq!(judge(&response(Some(16), Some(denied(401)))), Verdict::Denied(401));
        assert_eq!(judge(&response(Some(7), Some(denied(429)))), Verdict::Denied(429));
        // Envoy treats an empty answer as allow, so it is a fault of the server.
        assert_eq!(judge(&response(None, None)), Verdict::Failed);
        assert_eq!(judge(&response(Some(7), ok())), Verdict::Failed);
    }

    #[test]
    fn a_message_in_two_frames_is_read() {
        let mut framed = vec![0, 0, 0, 0, 0];
        framed.extend(response(Some(16), Some(denied(401))));
        framed[4] = u8::try_from(framed.len() - 5).unwrap();
        for cut in 1..framed.len() {
            let mut waiting = Waiting::default();
            waiting.take(&framed[..cut]);
            assert_eq!(waiting.verdict, None, "{cut}");
            waiting.take(&framed[cut..]);
            assert_eq!(waiting.verdict, Some(Verdict::Denied(401)), "{cut}");
        }
    }
}
