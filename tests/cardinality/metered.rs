//! The traffic of a gateway that meters: requests that hold units of a budget, streams that renew their
//! hold while they run, and reports of what was used, over HTTP. The ledger records each of them.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::traffic::World;
use crate::rig::{SOON, http::Request};

/// What the configuration has for it: sections, and members of `listen`.
pub(super) const SECTIONS: &str = r#"
metering: { secrets: ["file:${DIR}/metering"], life: 10s }
ledger: { keys: [{ id: a, secret: "file:${DIR}/ledger" }] }
"#;
pub(super) const LISTEN: &str = r#"listen:
  settle: { address: "unix:${DIR}/settle.sock" }
"#;
pub(super) const GATEWAY: &str =
    r#"{ address: "unix:${DIR}/gateway.sock", dialect: nginx, body: sent, settlement: reported }"#;

/// A route whose requests hold tokens of a budget and of a rate, and one of the requests at once.
pub(super) const ROUTE: &str = r"
  - { match: { methods: [POST], paths: [/v1/chat/completions] }, scopes: [], model: { from: body }, limits: [budget, tokens, at-once] }
";
pub(super) const LIMITS: &str = r"
  - { name: budget, by: [subject], tokens: 1000000000/month }
  - { name: tokens, by: [subject], tokens: 50000000/1m }
  - { name: at-once, by: [subject], concurrent: 1000 }
";

/// The gateway, and the results of its reports.
pub(super) struct Gateway {
    dir: PathBuf,
    tokens: Vec<String>,
    /// The reservations of streams that run.
    running: Vec<String>,
    sent: u64,
}

impl Gateway {
    pub(super) fn new(world: &World) -> Self {
        // Few holders, whose counters last until the end of the month.
        let token = |n: u32| world.token("a", &format!("metered-{n}"), "acme", &format!("m{n}"));
        let tokens = (0..16).map(token).collect();
        Self { dir: world.path().to_owned(), tokens, running: Vec::new(), sent: 0 }
    }

    /// Sends a request and what is to be reported then. Returns what was answered otherwise than it should.
    ///
    /// Of ten requests five are streams, which run for three further turns, two are reported twice, and
    /// one is never reported: its hold expires.
    pub(super) fn turn(&mut self) -> Vec<String> {
        let number = self.sent;
        self.sent += 1;
        let is_stream = number.is_multiple_of(2);
        let token = &self.tokens[usize::try_from(number).unwrap() % self.tokens.len()];
        let body = json!({ "model": "qwen", "stream": is_stream, "messages": [] }).to_string();
        let request = Request::post("/check", body)
            .header("X-Original-Method", "POST")
            .header("X-Original-URI", "/v1/chat/completions")
            .header("X-Original-Host", "api.example.com")
            .header("X-Real-IP", "192.0.2.1")
            .bearer(token);
        let (status, text) = send(&self.dir.join("gateway.sock"), &request);
        let name = "x-tollgate-reservation: ";
        let reservation = text.lines().find_map(|line| line.strip_prefix(name));
        let Some(reservation) = reservation.map(|text| text.trim().to_owned()) else {
            return vec![format!("a metered check: {status}: {text}")];
        };
        if number % 10 == 9 {
            return Vec::new();
        }
        if is_stream {
            self.running.push(reservation.clone());
            let mut failed = self.report(&reservation, "running", &["renewed"]);
            if self.running.len() > 3 {
                let ended = self.running.remove(0);
                failed.extend(self.report(&ended, "complete", &["settled"]));
            }
            return failed;
        }
        let mut failed = self.report(&reservation, "complete", &["settled"]);
        if number % 10 < 4 {
            failed.extend(self.report(&reservation, "complete", &["duplicate"]));
        }
        failed
    }

    /// Reports a request. 503 is no loss: the machine has other work, and the hold expires.
    fn report(&self, reservation: &str, ending: &str, expected: &[&str]) -> Vec<String> {
        let usage = json!({ "prompt_tokens": 20, "completion_tokens": 10 });
        let entry = json!({ "reservation": reservation, "ending": ending, "usage": usage });
        let body = json!({ "entries": [entry] }).to_string();
        let request = Request::post("/v1/settle", body);
        let (status, text) = send(&self.dir.join("settle.sock"), &request);
        let json = text.rsplit("\r\n\r\n").next().unwrap_or_default();
        let json: Value = serde_json::from_str(json.trim()).unwrap_or_default();
        let result = json["results"][0]["result"].as_str().unwrap_or_default();
        if status == 503 || expected.contains(&result) {
            Vec::new()
        } else {
            vec![format!("a report that a request is {ending}: {status}: {text}")]
        }
    }
}

/// Sends a request on a connection of its own. Returns the status and the whole answer.
///
/// nginx gets a denial as a 403 with the status for the client beside it.
fn send(socket: &Path, request: &Request) -> (u16, String) {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(&request.bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let denied = text.lines().find_map(|line| line.strip_prefix("x-tollgate-status: "));
    let status = denied.or_else(|| text.split(' ').nth(1)).unwrap_or_default();
    (status.trim().parse().unwrap_or_default(), text)
}
