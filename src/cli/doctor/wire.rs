//! HTTP/1.1 written by hand: no library sends such requests.

use std::{net::IpAddr, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use http::Uri;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::either::Either;

use crate::{cli::tls, error_text::describe, tls_roots::RootsError};

/// The time for one exchange.
const DEADLINE: Duration = Duration::from_secs(10);

/// Most bytes of an answer that are read.
const MAX_ANSWER: usize = 256 << 10;

/// A connection to the proxy, in clear text or by TLS.
pub(super) type Connected = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// The address of the proxy.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) host: String,
    port: u16,
    secure: bool,
}

impl Target {
    /// Reads `http://host:port` or `https://host`.
    ///
    /// # Errors
    /// The URL has a path, a query, a user name or another scheme.
    pub(super) fn parse(url: &str) -> anyhow::Result<Self> {
        let uri: Uri = url
            .parse()
            .context("the URL cannot be read; write `https://host` or `http://host:port`")?;
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => bail!("the URL needs a scheme; write `https://host` or `http://host:port`"),
        };
        let (Some(host), Some(authority)) = (uri.host(), uri.authority()) else {
            bail!("the URL names no host")
        };
        if !matches!(uri.path(), "" | "/")
            || uri.query().is_some()
            || authority.as_str().contains('@')
        {
            bail!(
                "the URL is the proxy's alone, without path, query or user; paths are given with `--protected`, `--public` and `--echo`"
            );
        }
        Ok(Self {
            host: host.to_owned(),
            port: uri.port_u16().unwrap_or(if secure { 443 } else { 80 }),
            secure,
        })
    }

    /// Whether a credential would cross a network in clear text.
    pub(super) fn is_clear(&self) -> bool {
        let host = self.bare();
        !self.secure
            && host != "localhost"
            && !host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }

    fn bare(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    /// The scheme of the URL.
    pub(super) fn scheme(&self) -> &'static str {
        if self.secure { "https" } else { "http" }
    }

    /// Sends these bytes on a connection of their own. Returns `None` when there is no answer,
    /// which is a refusal too.
    ///
    /// # Errors
    /// There is no connection.
    pub(super) async fn exchange(&self, bytes: &[u8]) -> anyhow::Result<Option<Reply>> {
        Ok(send(self.connect(&tls::connector).await?, bytes).await)
    }

    /// Opens a connection for HTTP/2. Returns `None` if the proxy does not offer it by TLS. In clear
    /// text, only the first answer shows whether it speaks it.
    ///
    /// # Errors
    /// There is no connection.
    pub(super) async fn connect_http2(&self) -> anyhow::Result<Option<Connected>> {
        let stream = self.connect(&tls::connector_for_http2).await?;
        let offered = match &stream {
            Either::Left(_) => true,
            Either::Right(stream) => stream.get_ref().1.alpn_protocol() == Some(b"h2"),
        };
        Ok(offered.then_some(stream))
    }

    async fn connect(
        &self,
        connector: &dyn Fn() -> Result<TlsConnector, RootsError>,
    ) -> anyhow::Result<Connected> {
        let connect = async {
            let stream = TcpStream::connect((self.bare(), self.port))
                .await
                .context("the proxy cannot be reached")?;
            if !self.secure {
                return anyhow::Ok(Either::Left(stream));
            }
            let name = ServerName::try_from(self.bare().to_owned())
                .context("the host is no name for a certificate")?;
            let stream = connector()?.connect(name, stream).await;
            let stream =
                stream.map_err(|error| anyhow!("no TLS with the proxy: {}", describe(&error)))?;
            Ok(Either::Right(Box::new(stream)))
        };
        let slow = || format!("no connection to the proxy within {} s", DEADLINE.as_secs());
        timeout(DEADLINE, connect).await.with_context(slow)?
    }
}

async fn send(stream: impl AsyncRead + AsyncWrite, bytes: &[u8]) -> Option<Reply> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut answer = Vec::new();
    let read = async {
        while answer.len() < MAX_ANSWER
            && !Reply::parse(&answer).is_some_and(|reply| reply.is_whole())
        {
            match reader.read_buf(&mut answer).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
    };
    let write = async {
        // A proxy that refuses early stops reading; its answer is on the way then.
        let _ = writer.write_all(bytes).await;
        std::future::pending::<()>().await;
    };
    let exchange = async {
        tokio::select! {
            () = read => {}
            () = write => {}
        }
    };
    // After the deadline, what was received is the whole answer.
    let _ = timeout(DEADLINE, exchange).await;
    Reply::parse(&answer)
}

/// An HTTP answer.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    head: String,
    pub(super) body: String,
}

impl Reply {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(bytes);
        let mut text = &*text;
        loop {
            let (head, body) = text.split_once("\r\n\r\n")?;
            let status = head.split(' ').nth(1)?.parse().ok()?;
            // 100 Continue and its like announce the final answer.
            if status >= 200 {
                return Some(Self { status, head: head.to_owned(), body: body.to_owned() });
            }
            text = body;
        }
    }

    /// Returns the value of a header.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(':'));
        lines
            .filter(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
            .next()
    }

    /// Returns the `code` of one of Tollgate's error bodies.
    pub(super) fn code(&self) -> Option<String> {
        // A chunked body has its sizes around the JSON.
        let json = self.body.get(self.body.find('{')?..=self.body.rfind('}')?)?;
        let body: Value = serde_json::from_str(json).ok()?;
        Some(body.pointer("/error/code")?.as_str()?.to_owned())
    }

    /// Whether the answer is complete by its framing.
    fn is_whole(&self) -> bool {
        match self.header("content-length").and_then(|length| length.parse::<usize>().ok()) {
            Some(length) => self.body.len() >= length,
            None => self.body.ends_with("\r\n0\r\n\r\n"),
        }
    }

    /// Whether the request was let through.
    pub(super) fn passed(&self) -> bool {
        self.status < 400
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_the_proxy_s_alone() {
        for url in ["https://api.example.com", "http://127.0.0.1:8080", "http://[::1]:8080/"] {
            assert!(Target::parse(url).is_ok(), "{url}");
        }
        for url in [
            "",
            "api.example.com",
            "ftp://a",
            "https://a/v1",
            "https://user:secret@a",
            "https://a/?x",
        ] {
            assert!(Target::parse(url).is_err(), "{url}");
        }
        assert!(Target::parse("http://10.0.0.1").unwrap().is_clear());
        assert!(!Target::parse("http://[::1]:80").unwrap().is_clear());
        assert!(!Target::parse("https://10.0.0.1").unwrap().is_clear());
    }

    #[test]
    fn answers_are_read_whatever_their_framing() {
        let chunked = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 403 Forbidden\r\nX-A: b\r\nTransfer-Encoding: chunked\r\n\r\n1c\r\n{\"error\":{\"code\":\"no_route\"}}\r\n0\r\n\r\n";
        let reply = Reply::parse(chunked).unwrap();
        assert_eq!(
            (reply.status, reply.header("x-a"), reply.code().as_deref()),
            (403, Some("b"), Some("no_route"))
        );
        assert!(Reply::parse(b"").is_none() && Reply::parse(b"HTTP/1.1 200").is_none());
    }
}
