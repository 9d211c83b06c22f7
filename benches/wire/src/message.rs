//! The messages: one template, into which the tokens are inserted in turn.

use std::{collections::HashMap, path::PathBuf};

use anyhow::{Context as _, ensure};
use clap::{Args, ValueEnum};
use envoy_types::pb::{
    envoy::{
        config::core::v3::{
            Address, HeaderMap, HeaderValue, Metadata, SocketAddress, address,
            socket_address::PortSpecifier,
        },
        service::auth::v3::{
            AttributeContext, CheckRequest,
            attribute_context::{HttpRequest, Peer, Request},
        },
    },
    google::protobuf::Timestamp,
};
use prost::Message as _;

use crate::tokens;

/// The way in which signatures are made invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Spoil {
    /// A different invalid signature each time, so that no two tokens are equal.
    Distinct,
    /// The same invalid signature for the same token.
    Repeated,
}

/// The options for tokens.
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// A file of tokens, sent in turn.
    #[arg(long)]
    tokens: PathBuf,
    /// Use only this number of tokens from the beginning.
    #[arg(long)]
    distinct: Option<usize>,
    /// Send each token once; the measurement ends after the last.
    #[arg(long)]
    pub(crate) once: bool,
    /// Make the signatures invalid.
    #[arg(long, value_enum)]
    spoil: Option<Spoil>,
    /// A file of proofs for the tokens in turn, each of which is sent once.
    #[arg(long)]
    pub(crate) proofs: Option<PathBuf>,
}

/// An endless source of messages, which differ in their token.
#[derive(Debug)]
pub(crate) struct Source {
    before: Vec<u8>,
    after: Vec<u8>,
    /// What is between token and proof, and the proofs; empty without them.
    between: Vec<u8>,
    proofs: Vec<String>,
    tokens: Vec<String>,
    spoil: Option<Spoil>,
    sent: usize,
}

impl Source {
    /// Creates a source from a function that returns the message for a token and its proof.
    pub(crate) fn new(
        which: &Which,
        message: impl Fn(&str, Option<&str>) -> Vec<u8>,
    ) -> anyhow::Result<Self> {
        let mut tokens = tokens::read(&which.tokens)?;
        if let Some(count) = which.distinct {
            ensure!(
                count <= tokens.len(),
                "{} has {} tokens",
                which.tokens.display(),
                tokens.len()
            );
            tokens.truncate(count);
        }
        let token = tokens.first().context("no tokens")?;
        let proofs = which.proofs.as_deref().map(tokens::read).transpose()?.unwrap_or_default();
        let proof = proofs.first();
        let whole = message(token, proof.map(String::as_str));
        let (before, after) = split(&whole, token).context("no token in the message")?;
        let (between, after) = match proof {
            Some(proof) => split(after, proof).context("no proof behind the token")?,
            None => (&[][..], after),
        };
        Ok(Self {
            before: before.to_vec(),
            after: after.to_vec(),
            between: between.to_vec(),
            proofs,
            tokens,
            spoil: which.spoil,
            sent: 0,
        })
    }

    /// Returns the number of messages with different tokens.
    pub(crate) fn distinct(&self) -> usize {
        self.tokens.len()
    }

    /// Returns the size of one message in bytes.
    pub(crate) fn len(&self) -> usize {
        let fixed = self.before.len() + self.between.len() + self.after.len();
        let length = |list: &[String]| list.first().map_or(0, String::len);
        fixed + length(&self.tokens) + length(&self.proofs)
    }

    /// Appends the next message.
    pub(crate) fn write(&mut self, into: &mut Vec<u8>) {
        let index = self.sent % self.tokens.len();
        let proof = self.sent.checked_rem(self.proofs.len()).and_then(|at| self.proofs.get(at));
        self.sent += 1;
        into.extend_from_slice(&self.before);
        into.extend_from_slice(self.tokens.get(index).map(String::as_bytes).unwrap_or_default());
        match self.spoil {
            None => {}
            Some(Spoil::Repeated) => spoil(into, 0),
            Some(Spoil::Distinct) => spoil(into, self.sent),
        }
        into.extend_from_slice(&self.between);
        into.extend_from_slice(proof.map(String::as_bytes).unwrap_or_default());
        into.extend_from_slice(&self.after);
    }
}

/// Returns what is before and after the first occurrence of a text.
fn split<'a>(whole: &'a [u8], text: &str) -> Option<(&'a [u8], &'a [u8])> {
    let at = whole.windows(text.len()).position(|part| part == text.as_bytes())?;
    Some((whole.get(..at)?, whole.get(at + text.len()..)?))
}

/// Writes a number over eight characters near the end of a token, inside its signature.
fn spoil(token: &mut [u8], mut number: usize) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let end = token.len().saturating_sub(32);
    for byte in token.iter_mut().take(end).rev().take(8) {
        *byte = ALPHABET.get(number % 64).copied().unwrap_or(b'A');
        number /= 64;
    }
}

/// The encoding of headers: `encode_raw_headers` of Envoy's filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Packing {
    /// A list with repeated headers and their bytes, as in the shipped Envoy configuration.
    Raw,
    /// A map of strings.
    Map,
}

/// What proves that a client may use its token.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Possession<'a> {
    /// The header `DPoP`, for a token that is sent with this scheme.
    pub(crate) proof: Option<&'a str>,
    /// The certificate of the client, as Envoy reports it.
    pub(crate) certificate: Option<&'a str>,
}

/// Returns a chat request as Envoy 1.40 encodes it with the shipped configuration (`noop --show`
/// prints what Envoy sends): 25 headers in their order, pseudo-headers included; and one with a proof.
pub(crate) fn check_request(
    token: &str,
    body: &[u8],
    packing: Packing,
    possession: Possession<'_>,
) -> CheckRequest {
    let length = body.len().to_string();
    let scheme = if possession.proof.is_some() { "DPoP" } else { "Bearer" };
    let authorization = format!("{scheme} {token}");
    let proof = possession.proof.map(|proof| ("dpop", proof));
    let headers = [
        (":authority", "api.example.com"),
        (":path", "/v1/chat/completions"),
        (":method", "POST"),
        (":scheme", "https"),
        ("content-length", &length),
        ("accept", "application/json"),
        ("authorization", &authorization),
        (
            "user-agent",
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36",
        ),
        ("content-type", "application/json"),
        ("accept-encoding", "gzip, deflate, br, zstd"),
        ("origin", "https://chat.example.com"),
        ("referer", "https://chat.example.com/"),
        ("x-stainless-arch", "x64"),
        ("x-stainless-async", "false"),
        ("x-stainless-lang", "python"),
        ("x-stainless-os", "Linux"),
        ("x-stainless-package-version", "3.54.0"),
        ("x-stainless-retry-count", "0"),
        ("x-stainless-runtime", "CPython"),
        ("x-stainless-runtime-version", "3.12.3"),
        ("x-forwarded-for", "10.1.2.3"),
        ("x-forwarded-proto", "https"),
        ("x-envoy-external-address", "10.1.2.3"),
        ("x-request-id", "6f0f5d2c-30c5-4f2e-9e58-0d5bba3ce8a1"),
        ("x-envoy-auth-partial-body", "false"),
    ];
    let (mut map, mut list) = (HashMap::new(), None);
    match packing {
        Packing::Raw => {
            let packed = |(key, value): (&str, &str)| HeaderValue {
                key: key.to_owned(),
                raw_value: value.as_bytes().to_vec(),
                ..HeaderValue::default()
            };
            let headers = headers.into_iter().chain(proof).map(packed).collect();
            list = Some(HeaderMap { headers });
        }
        Packing::Map => {
            let headers = headers.into_iter().chain(proof);
            map.extend(headers.map(|(key, value)| (key.to_owned(), value.to_owned())));
        }
    }
    let http = HttpRequest {
        id: "4437181724829736183".to_owned(),
        method: "POST".to_owned(),
        headers: map,
        header_map: list,
        path: "/v1/chat/completions".to_owned(),
        host: "api.example.com".to_owned(),
        scheme: "https".to_owned(),
        size: i64::try_from(body.len()).unwrap_or(-1),
        protocol: "HTTP/1.1".to_owned(),
        raw_body: body.to_vec(),
        ..HttpRequest::default()
    };
    let time = Timestamp { seconds: 1_795_327_200, nanos: 123_456_000 };
    let attributes = AttributeContext {
        source: Some(Peer {
            certificate: possession.certificate.unwrap_or_default().to_owned(),
            ..peer("10.1.2.3", 51034)
        }),
        destination: Some(peer("10.4.5.6", 8080)),
        request: Some(Request { time: Some(time), http: Some(http) }),
        metadata_context: Some(Metadata::default()),
        route_metadata_context: Some(Metadata::default()),
        ..AttributeContext::default()
    };
    CheckRequest { attributes: Some(attributes) }
}

fn peer(host: &str, port: u32) -> Peer {
    let port_specifier = Some(PortSpecifier::PortValue(port));
    let socket =
        SocketAddress { address: host.to_owned(), port_specifier, ..SocketAddress::default() };
    let address = Some(Address { address: Some(address::Address::SocketAddress(socket)) });
    Peer { address, ..Peer::default() }
}

/// Frames a message for gRPC: the flag for "not compressed", its length, the bytes.
pub(crate) fn framed(check: &CheckRequest) -> Vec<u8> {
    let message = check.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let mut framed = vec![0];
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(&message);
    framed
}

/// Returns a chat request of about this number of bytes, as clients send them; none for 0.
pub(crate) fn chat(bytes: usize) -> Vec<u8> {
    if bytes == 0 {
        return Vec::new();
    }
    let start = r#"{"model":"Qwen/Qwen2-72B-Instruct","temperature":0.7,"max_tokens":256,"stream":true,"messages":[{"role":"system","content":"You are a helpful assistant."}"#;
    let mut body = start.to_owned();
    let turn = r#",{"role":"user","content":"The quick brown fox jumps over the lazy dog, and the dog does not mind.\nWhat does the fox do next, and why? Answer in one paragraph of plain words, and say what you are not sure of. The paragraph may be short; no one minds, least of all the dog."}"#;
    while body.len() + turn.len() + 2 <= bytes {
        body.push_str(turn);
    }
    body.push_str("]}");
    body.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chat_is_json_of_about_the_size() {
        let body = chat(4096);
        assert!((3800..=4096).contains(&body.len()), "{}", body.len());
        let value: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(value["model"], "Qwen/Qwen2-72B-Instruct");
    }

    #[test]
    fn a_spoilt_token_differs_in_its_signature_only() {
        let good = format!("{}.{}", "a".repeat(400), "x".repeat(86));
        let spoilt = |number| {
            let mut token = good.clone().into_bytes();
            spoil(&mut token, number);
            String::from_utf8(token).unwrap()
        };
        assert_ne!(spoilt(1), spoilt(2));
        assert_eq!(spoilt(7)[..401], good[..401]);
        assert_eq!(spoilt(7).len(), good.len());
    }

    #[test]
    fn a_proof_is_inserted_behind_its_token() {
        let dir = std::env::temp_dir().join(format!("tollgate-proofs-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (tokens, proofs) = (dir.join("tokens"), dir.join("proofs"));
        std::fs::write(&tokens, "t-1\nt-2\n").unwrap();
        std::fs::write(&proofs, "p--1\np--2\np--3\n").unwrap();
        let which =
            Which { tokens, distinct: None, once: false, spoil: None, proofs: Some(proofs) };
        let mut source = Source::new(&which, |token, proof| {
            format!("<{token}|{}>", proof.unwrap_or_default()).into_bytes()
        })
        .unwrap();
        let mut written = Vec::new();
        (0..4).for_each(|_| source.write(&mut written));
        assert_eq!(written, b"<t-1|p--1><t-2|p--2><t-1|p--3><t-2|p--1>");
        assert_eq!(source.len(), 10);
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_check_request_has_the_size_of_a_real_one() {
        let token = "t".repeat(803);
        for (body, packing, size) in [
            (0, Packing::Raw, 1800..2100),
            (0, Packing::Map, 1800..2100),
            (4096, Packing::Raw, 5700..6200),
        ] {
            let check = check_request(&token, &chat(body), packing, Possession::default());
            let size_found = check.encoded_len();
            assert!(size.contains(&size_found), "{size_found}");
            let http = check.attributes.and_then(|attributes| attributes.request?.http).unwrap();
            assert_eq!(http.headers.len() + http.header_map.map_or(0, |map| map.headers.len()), 25);
        }
    }
}
