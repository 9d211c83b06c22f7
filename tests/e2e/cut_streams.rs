//! Streams that end with their credentials, or when they have used more than their requests hold:
//! the binary as it ships behind a real Envoy with deploy/envoy/envoy-metered-cut.yaml.

use std::{
    io::{BufRead as _, BufReader},
    net::{Ipv4Addr, TcpStream},
    path::Path,
    process::{Child, Stdio},
    sync::{Arc, Mutex, mpsc},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::rig::{
    SCOPES, SOON,
    envoy::{CURRENT, Envoy},
    http::{Answer, Reply, Request, Server},
    issuer::Issuer,
    python::with_clients,
    tollgate::{ADMIN_TOKEN, Tollgate, run},
    until,
};

const ENVOY: &str = include_str!("../../deploy/envoy/envoy-metered-cut.yaml");

fn config() -> String {
    format!(
        r#"
listen:
  grpc: "unix:${{DIR}}/authz.sock"
  ops: "127.0.0.1:0"
  admin: {{ address: "127.0.0.1:0", token: {ADMIN_TOKEN} }}
  access_log: "unix:${{DIR}}/access-log.sock"
  ext_proc: "unix:${{DIR}}/ext-proc.sock"
metering: {{ secrets: [0123456789abcdef0123456789abcdef] }}
issuers:
  - issuer: https://auth.example.com
    audiences: [inference-api]
    algorithms: [RS256]
    leeway: 0s
    jwks: {{ file: "${{DIR}}/jwks.json" }}
    claims: {{ tenant: tenant }}
api_keys: {{ file: "${{DIR}}/keys.json" }}
models:
  - {{ name: qwen, serves: [qwen], context: 4096, max_output: 512, usage: continuous }}
routes:
  - match: {{ methods: [POST], paths: [/v1/chat/completions, /v1/messages, /v1/responses] }}
    scopes: [infer:text]
    model: {{ from: body, scope: "model:{{model}}:inference" }}
    limits: [limited]
    cut_streams: true
limits:
  - {{ name: limited, by: [subject], tokens: 100000/day }}
"#
    )
}

struct Chain {
    // Dropped in this order: the proxy first, the directory with the logs last.
    envoy: Envoy,
    tollgate: Tollgate,
    issuer: Issuer,
    streams: Arc<Mutex<Vec<mpsc::Sender<Vec<u8>>>>>,
    dir: TempDir,
}

const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\ntransfer-encoding: chunked\r\n";

impl Chain {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let issuer = Issuer::new("https://auth.example.com");
        issuer.publish(dir.path());
        std::fs::write(dir.path().join("keys.json"), r#"{"keys":[]}"#).unwrap();
        let streams = Arc::<Mutex<Vec<mpsc::Sender<Vec<u8>>>>>::default();
        let open = Arc::clone(&streams);
        let upstream = Server::start(move |request| {
            let body: Value = serde_json::from_slice(&request.body).unwrap();
            if body["stream"] == true {
                let (sender, bytes) = mpsc::channel();
                // As the client asks in its text.
                let coding = match body["messages"][0]["content"] == "gzip" {
                    true => "content-encoding: gzip\r\n\r\n",
                    false => "\r\n",
                };
                sender.send(format!("{HEAD}{coding}").into()).unwrap();
                open.lock().unwrap().push(sender);
                return Answer::Raw(bytes);
            }
            let usage = json!({ "prompt_tokens": 21, "completion_tokens": 9, "total_tokens": 30 });
            let body = json!({ "choices": [], "usage": usage }).to_string();
            Answer::Whole(Reply::new(200, body).header("content-type", "application/json"))
        });
        let tollgate = Tollgate::start(dir.path(), &config());
        let envoy = Envoy::start(dir.path(), upstream.port, CURRENT, |_| ENVOY.to_owned());
        Self { envoy, tollgate, issuer, streams, dir }
    }

    fn token(&self, claims: Value) -> String {
        let mut all = json!({ "scope": SCOPES });
        all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        self.issuer.token(all)
    }

    /// Begins a stream, and returns the connection of its client and the pieces of its server.
    fn begin(&self, path: &str, token: &str) -> (BufReader<TcpStream>, Stream) {
        self.begin_with(path, token, "hi")
    }

    fn begin_with(&self, path: &str, token: &str, text: &str) -> (BufReader<TcpStream>, Stream) {
        let body = json!({ "model": "qwen", "stream": true, "max_tokens": 64, "messages": [{ "role": "user", "content": text }] });
        let request = Request::post(path, body.to_string()).bearer(token);
        let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, self.envoy.port)).unwrap();
        client.set_read_timeout(Some(SOON)).unwrap();
        std::io::Write::write_all(&mut client, &request.bytes()).unwrap();
        let sender = until("the stream", || self.streams.lock().unwrap().pop());
        (BufReader::new(client), Stream(sender))
    }

    fn settled(&self, count: f64) {
        self.tollgate.until_metric("tollgate_settlements_total", &["result=\"charged\""], count);
    }

    /// A token that ends in three seconds.
    fn ending_token(&self) -> String {
        self.token(json!({ "sub": "bob", "exp": tollgate::observe::now().secs() + 3 }))
    }

    fn revoke(&self, token: &str) {
        let claims = token.split('.').nth(1).unwrap();
        let claims = base64::Engine::decode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, claims);
        let claims: Value = serde_json::from_slice(&claims.unwrap()).unwrap();
        let body = json!({ "jti": claims["jti"], "issuer": "https://auth.example.com" });
        let call = Request::post("/v1/revocations", body.to_string());
        assert_eq!(self.tollgate.admin(call).status, 200);
    }
}

/// Runs `tollgate keys` on the file of the keys, and returns what it prints as JSON.
fn keys(dir: &Path, arguments: &[&str]) -> Value {
    let place = ["--file", "keys.json", "--output", "json"];
    let output = run(dir, &[&["keys"], arguments, &place].concat());
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The pieces that the server sends.
struct Stream(mpsc::Sender<Vec<u8>>);

impl Stream {
    fn send(&self, text: &str) {
        // A stream that was cut is not read any more.
        let _ = self.0.send(format!("{:x}\r\n{text}\r\n", text.len()).into());
    }

    fn end(self) {
        let _ = self.0.send("0\r\n\r\n".into());
    }
}

/// Reads lines of the response until one has this text.
fn read_until(client: &mut BufReader<TcpStream>, text: &str) -> String {
    let mut all = String::new();
    while !all.contains(text) {
        assert!(client.read_line(&mut all).unwrap() > 0, "{all}");
    }
    all
}

/// Reads to the end of the response, whose last chunk is empty: it ended as it should.
fn rest(client: &mut BufReader<TcpStream>) -> String {
    let mut all = String::new();
    while client.read_line(&mut all).unwrap() > 0 {
        if all.ends_with("\r\n0\r\n") {
            break;
        }
    }
    assert!(all.ends_with("\r\n0\r\n"), "the response has no end: {all}");
    all
}

/// The event of the error, which is the last one.
fn last_event(text: &str) -> (&str, Value) {
    let (before, event) = text.rsplit_once("data: ").unwrap();
    let event = event.split_once("\n\n").unwrap().0;
    let name = before.rsplit_once("event: ").map_or("", |(_, name)| name.trim());
    (name, serde_json::from_str(event).unwrap())
}

fn usage(output: u64) -> String {
    let usage = json!({ "prompt_tokens": 11, "completion_tokens": output });
    format!("data: {}\n\n", json!({ "choices": [{}], "usage": usage }))
}

#[test]
fn a_stream_ends_with_its_credential() {
    let chain = Chain::start();
    for (number, path, name) in [
        (1.0, "/v1/chat/completions", ""),
        (2.0, "/v1/messages", "error"),
        (3.0, "/v1/responses", ""),
    ] {
        let token = chain.token(json!({}));
        let (mut client, stream) = chain.begin(path, &token);
        stream.send("data: {\"choices\":[{\"delta\":{\"content\":\"one\"}}]}\n\n");
        // The second event has not ended: none of it is forwarded.
        stream.send("data: {\"choices\":[{\"delta\":{\"content\":\"tw");
        read_until(&mut client, "one");
        chain.revoke(&token);
        let end = rest(&mut client);
        assert!(!end.contains("tw"), "{end}");
        let (found, event) = last_event(&end);
        assert_eq!((found, &event["error"]["code"]), (name, &json!("revoked")), "{end}");
        if path == "/v1/messages" {
            assert_eq!(event["type"], "error");
        }
        // The end is not that of the server: the request is charged its hold.
        chain.settled(number);
        let unmetered = ["ending=\"cut\""];
        chain.tollgate.until_metric("tollgate_unmetered_total", &unmetered, number);
        drop(stream);
    }
    // The end of a token is known beforehand.
    let now = tollgate::observe::now().secs();
    let (mut client, stream) =
        chain.begin("/v1/chat/completions", &chain.token(json!({ "exp": now + 3 })));
    stream.send("data: {\"choices\":[]}\n\n");
    let end = rest(&mut client);
    assert_eq!(last_event(&end).1["error"]["code"], "expired", "{end}");
    chain.settled(4.0);
    assert_eq!(chain.tollgate.metric("tollgate_unmetered_total", &["ending=\"complete\""]), 0.0);
}

/// What ends a stream.
type End<'a> = Box<dyn Fn() + 'a>;

/// Of two streams at a time the one ends whose credential is banned or removed, and only that one.
#[test]
fn a_stream_ends_with_a_ban_and_with_its_api_key() {
    let chain = Chain::start();
    let ban = |body: Value| {
        let reply = chain.tollgate.admin(Request::post("/v1/bans", body.to_string()));
        assert_eq!(reply.status, 200, "{}", reply.text());
    };
    let subject = chain.token(json!({ "sub": "carol" }));
    let tenant = chain.token(json!({ "sub": "dave", "tenant": "initech" }));
    let scopes: Vec<&str> = SCOPES.split(' ').flat_map(|scope| ["--scope", scope]).collect();
    let made = |name: &str| {
        let made = keys(chain.dir.path(), &[&["create", "--subject", name], &scopes[..]].concat());
        let id = made["record"]["id"].as_str().unwrap().to_owned();
        (made["key"].as_str().unwrap().to_owned(), id)
    };
    let ((banned, banned_id), (removed, removed_id)) = (made("banned"), made("removed"));
    let probe = |key: &str| {
        let body = json!({ "model": "qwen", "max_tokens": 64, "messages": [] });
        chain.envoy.send(&Request::post("/v1/chat/completions", body.to_string()).bearer(key))
    };
    until("the keys", || (probe(&banned).status == 200).then_some(()));
    assert_eq!(probe(&removed).status, 200);
    let (mut other, other_stream) = chain.begin("/v1/chat/completions", &chain.token(json!({})));
    let begun = |path: &str, token: &str| {
        let (mut client, stream) = chain.begin(path, token);
        stream.send("data: {\"choices\":[{\"delta\":{\"content\":\"one\"}}]}\n\n");
        read_until(&mut client, "one");
        (client, stream)
    };
    let iss = "https://auth.example.com";
    let ends: [(&str, &str, &str, End<'_>); 4] = [
        (
            "/v1/chat/completions",
            &subject,
            "banned",
            Box::new(|| ban(json!({ "issuer": iss, "subject": "carol", "for": "1h" }))),
        ),
        (
            "/v1/messages",
            &tenant,
            "banned",
            Box::new(|| ban(json!({ "tenant": "initech", "for": "1h" }))),
        ),
        (
            "/v1/chat/completions",
            &banned,
            "banned",
            Box::new(|| ban(json!({ "key": banned_id, "for": "1h" }))),
        ),
        (
            "/v1/messages",
            &removed,
            "invalid_api_key",
            Box::new(|| drop(keys(chain.dir.path(), &["revoke", &removed_id]))),
        ),
    ];
    for (path, token, code, end_it) in ends {
        let (mut client, stream) = begun(path, token);
        end_it();
        let end = rest(&mut client);
        let (name, event) = last_event(&end);
        let expected = if path == "/v1/messages" { "error" } else { "" };
        assert_eq!((name, &event["error"]["code"]), (expected, &json!(code)), "{end}");
        assert!(matches!(probe(token).status, 401 | 403), "{code}");
        drop(stream);
    }
    // The stream of another subject goes on.
    other_stream.send("data: {\"choices\":[{\"delta\":{\"content\":\"two\"}}]}\n\n");
    read_until(&mut other, "two");
    other_stream.end();
    assert!(!rest(&mut other).contains("error"));
}

/// A compressed stream has no events that another one could follow: it is not cut, and not changed.
#[test]
fn a_compressed_stream_is_not_cut() {
    let chain = Chain::start();
    let token = chain.token(json!({}));
    let (mut client, stream) = chain.begin_with("/v1/chat/completions", &token, "gzip");
    stream.send("\u{1f}compressed\n\n");
    read_until(&mut client, "compressed");
    chain.revoke(&token);
    // A stream that is cut later ends first.
    let (mut other, events) = chain.begin("/v1/chat/completions", &chain.ending_token());
    events.send("data: {}\n\n");
    assert_eq!(last_event(&rest(&mut other)).1["error"]["code"], "expired");
    drop(events);
    stream.send("the rest");
    stream.end();
    let end = rest(&mut client);
    assert!(end.contains("the rest") && !end.contains("revoked"), "{end}");
}

/// Envoy resets a response for which a piece arrives before its server has sent one: a model that
/// thinks is cut with its first event.
#[test]
fn a_stream_whose_server_has_sent_nothing_ends_with_its_first_piece() {
    let chain = Chain::start();
    let token = chain.token(json!({}));
    let (mut client, stream) = chain.begin("/v1/messages", &token);
    chain.revoke(&token);
    // Until a stream that is cut later has ended.
    let (mut other, events) = chain.begin("/v1/chat/completions", &chain.ending_token());
    events.send("data: {}\n\n");
    assert_eq!(last_event(&rest(&mut other)).1["error"]["code"], "expired");
    drop(events);
    stream.send("event: a\ndata: the answer\n\n");
    let end = rest(&mut client);
    assert!(!end.contains("the answer"), "{end}");
    let (name, event) = last_event(&end);
    assert_eq!((name, &event["error"]["code"]), ("error", &json!("revoked")), "{end}");
    drop(stream);
}

#[test]
fn a_stream_ends_that_has_used_more_than_it_holds() {
    let chain = Chain::start();
    let left = |reply: &Reply| -> u64 {
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.one("x-ratelimit-remaining-tokens").unwrap().parse().unwrap()
    };
    let token = chain.token(json!({}));
    let probe = || {
        let body = json!({ "model": "qwen", "max_tokens": 64, "messages": [] });
        let request = Request::post("/v1/chat/completions", body.to_string()).bearer(&token);
        left(&chain.envoy.send(&request))
    };
    let before = probe();
    chain.settled(1.0);
    let (mut client, stream) = chain.begin("/v1/chat/completions", &token);
    stream.send(&usage(12));
    read_until(&mut client, "\"completion_tokens\":12");
    stream.send(&usage(2000));
    let end = rest(&mut client);
    assert!(end.contains("\"completion_tokens\":2000"), "{end}");
    assert_eq!(last_event(&end).1["error"]["code"], "budget_exhausted", "{end}");
    chain.settled(2.0);
    assert_eq!(before - 30 - probe(), 2011, "what the server counted is charged");
    drop(stream);
}

#[test]
fn a_stream_that_is_not_cut_arrives_as_it_was_sent() {
    let chain = Chain::start();
    let token = chain.token(json!({}));
    let (mut client, stream) = chain.begin("/v1/chat/completions", &token);
    // A count at the end cuts nothing, as large as it may be.
    let text =
        format!(": a comment\r\n\r\ndata: one\r\ndata: two\n\n{}data: [DONE]\n\n", usage(2000));
    for piece in text.as_bytes().chunks(5) {
        stream.send(std::str::from_utf8(piece).unwrap());
    }
    // The last event has no end.
    stream.send("data: three");
    stream.end();
    let all = rest(&mut client);
    let mut body = String::new();
    let mut chunks = all.split_once("\r\n\r\n").unwrap().1;
    while let Some((size, after)) = chunks.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        body.push_str(&after[..size]);
        if size == 0 {
            break;
        }
        chunks = &after[size + 2..];
    }
    assert_eq!(body, format!("{text}data: three"));
    chain.settled(1.0);
    let request = json!({ "model": "qwen", "max_tokens": 64, "messages": [] });
    let request = Request::post("/v1/chat/completions", request.to_string()).bearer(&token);
    let reply = chain.envoy.send(&request);
    assert_eq!((reply.status, reply.json()["usage"]["total_tokens"].as_u64()), (200, Some(30)));
    chain.settled(2.0);
    assert_eq!(chain.tollgate.metric("tollgate_unmetered_total", &[]), 0.0);
}

/// Prints the first event of a stream, and the exception that ends it.
const CLIENT: &str = r#"
import sys
import anthropic, openai
url, token, sdk = sys.argv[1:]
try:
    if sdk == "openai":
        client = openai.OpenAI(base_url=url + "/v1", api_key=token, max_retries=0)
        stream = client.chat.completions.create(
            model="qwen", stream=True, max_tokens=64, messages=[{"role": "user", "content": "hi"}])
    else:
        client = anthropic.Anthropic(base_url=url, auth_token=token, max_retries=0)
        stream = client.messages.create(
            model="qwen", stream=True, max_tokens=64, messages=[{"role": "user", "content": "hi"}])
    for event in stream:
        print("event", flush=True)
    print("end")
except (openai.APIError, anthropic.APIError) as error:
    print([kind.__name__ for kind in type(error).__mro__][:2], error.body)
"#;

fn line(client: &mut Child) -> String {
    let mut byte = [0];
    let mut line = Vec::new();
    let out = client.stdout.as_mut().unwrap();
    while std::io::Read::read(out, &mut byte).unwrap() == 1 && byte != *b"\n" {
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap()
}

#[test]
#[ignore = "needs a large download: make test-all"]
fn the_clients_raise_the_error_of_a_stream_that_is_cut() {
    let chain = Chain::start();
    let url = format!("http://127.0.0.1:{}", chain.envoy.port);
    for (sdk, first) in [
        (
            "openai",
            "data: {\"id\":\"1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"qwen\",\"choices\":[]}\n\n",
        ),
        (
            "anthropic",
            "event: ping\ndata: {\"type\":\"ping\"}\n\nevent: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\n",
        ),
    ] {
        let token = chain.token(json!({}));
        let mut command = with_clients(&["sdks"]);
        command.args(["-c", CLIENT, &url, &token, sdk]).stdout(Stdio::piped());
        let mut client = command.spawn().unwrap();
        let sender = until("the stream", || chain.streams.lock().unwrap().pop());
        let stream = Stream(sender);
        stream.send(first);
        assert_eq!(line(&mut client), "event", "{sdk}");
        chain.revoke(&token);
        let raised = line(&mut client);
        assert!(client.wait().unwrap().success(), "{sdk}: {raised}");
        let class = if sdk == "openai" { "APIError" } else { "APIStatusError" };
        assert!(raised.contains(class) && raised.contains("'revoked'"), "{sdk}: {raised}");
    }
}
