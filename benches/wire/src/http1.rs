//! Requests over HTTP/1.1, one at a time on each connection, with a token each.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    os::fd::{AsFd, BorrowedFd},
};

use anyhow::{Context as _, bail};
use clap::Args;

use crate::{
    address::Stream,
    drive::{Connection, Load},
    message::{self, Source, Which},
    verdict::Verdict,
};

/// The largest answer, headers and body.
const ANSWER: usize = 1 << 16;

/// Sends requests and measures.
#[derive(Debug, Args)]
pub(crate) struct Http {
    #[command(flatten)]
    load: Load,
    #[command(flatten)]
    which: Which,
    #[arg(long, default_value = "POST")]
    method: String,
    #[arg(long, default_value = "/v1/chat/completions")]
    path: String,
    /// The approximate size of the chat in the body, in bytes; 0 for no body.
    #[arg(long, default_value_t = 0)]
    body: usize,
}

impl Http {
    /// Opens as many connections as there are requests in flight: each has one at a time.
    pub(crate) fn run(mut self) -> anyhow::Result<()> {
        let body = message::chat(self.body);
        let (method, path) = (&self.method, &self.path);
        let source = Source::new(&self.which, |token, _| {
            let length = body.len();
            let mut request = format!(
                "{method} {path} HTTP/1.1\r\nhost: api.example.com\r\naccept: application/json\r\nauthorization: Bearer {token}\r\n\
                 user-agent: OpenAI/Python 3.54.0\r\nx-stainless-lang: python\r\nx-stainless-retry-count: 0\r\n"
            );
            if length > 0 {
                request.push_str(&format!(
                    "content-type: application/json\r\ncontent-length: {length}\r\n"
                ));
            }
            request.push_str("\r\n");
            [request.as_bytes(), &body].concat()
        })?;
        self.load.in_flight = self.load.in_flight.max(self.load.connections);
        let connections = (0..self.load.in_flight)
            .map(|_| {
                let stream = self
                    .load
                    .target
                    .connect()
                    .with_context(|| format!("{:?}", self.load.target))?;
                stream.nonblocking()?;
                let (out, input) = (Vec::with_capacity(1 << 14), vec![0; ANSWER]);
                Ok(Http1 { stream, out, written: 0, input, filled: 0, started: None })
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        println!("{}", self.load.run(connections, source, self.which.once)?);
        Ok(())
    }
}

struct Http1 {
    stream: Stream,
    out: Vec<u8>,
    written: usize,
    input: Vec<u8>,
    filled: usize,
    started: Option<u64>,
}

/// Returns the status and the length of an answer when it is complete.
fn answer(bytes: &[u8]) -> anyhow::Result<Option<u16>> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(bytes.get(..end).unwrap_or_default())?;
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1))
        .and_then(|code| code.parse().ok())
        .context("a status")?;
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let length = length.context("an answer without a content-length")?;
    Ok((bytes.len() >= end + 4 + length).then_some(status))
}

impl AsFd for Http1 {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Connection for Http1 {
    fn room(&self) -> usize {
        usize::from(self.started.is_none())
    }

    fn send(&mut self, source: &mut Source, started: u64) -> anyhow::Result<()> {
        source.write(&mut self.out);
        self.started = Some(started);
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

    fn read(&mut self, answered: &mut dyn FnMut(Verdict, u64)) -> anyhow::Result<()> {
        let Some(started) = self.started else { return Ok(()) };
        match self.stream.read(self.input.get_mut(self.filled..).unwrap_or_default()) {
            Ok(0) => bail!("the peer closed the connection"),
            Ok(count) => self.filled += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        if let Some(status) = answer(self.input.get(..self.filled).unwrap_or_default())? {
            self.filled = 0;
            self.started = None;
            answered(if status == 200 { Verdict::Ok } else { Verdict::Denied(status) }, started);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_when_its_body_is() {
        let text = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 3\r\nserver: envoy\r\n\r\nabc";
        for cut in 0..text.len() {
            assert_eq!(answer(&text[..cut]).unwrap(), None, "{cut}");
        }
        assert_eq!(answer(text).unwrap(), Some(401));
        assert!(answer(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
    }
}
