//! A real MCP server behind a real Envoy, called by the official client. The assertions are on the
//! tools that ran.

use std::{io::Write as _, process::Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::rig::{
    envoy::{CURRENT, Envoy},
    http::{Reply, Request},
    issuer::Issuer,
    python::{PythonServer, command},
    tollgate::Tollgate,
};

const METADATA: &str = "https://api.example.com/.well-known/oauth-protected-resource/mcp";

const POLICY: &str = r#"
issuers:
  - { issuer: https://auth.example.com, audiences: [inference-api], algorithms: [RS256], jwks: { file: "${DIR}/jwks.json" } }
routes:
  - match: { methods: [POST], paths: [/mcp] }
    scopes: [mcp]
    mcp: { tools: "tool:{name}" }
    resource_metadata: https://api.example.com/.well-known/oauth-protected-resource/mcp
  - match: { methods: [GET, DELETE], paths: [/mcp] }
    scopes: [mcp]
    resource_metadata: https://api.example.com/.well-known/oauth-protected-resource/mcp
"#;

struct Rig {
    envoy: Envoy,
    _tollgate: Tollgate,
    server: PythonServer,
    issuer: Issuer,
    _dir: TempDir,
}

impl Rig {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let issuer = Issuer::new("https://auth.example.com");
        issuer.publish(dir.path());
        let server = PythonServer::start(dir.path(), "mcp", &mut command("tests/mcp_server.py"));
        let tollgate = Tollgate::start(dir.path(), POLICY);
        let envoy = Envoy::start(dir.path(), server.port, CURRENT, |config| config);
        Self { envoy, _tollgate: tollgate, server, issuer, _dir: dir }
    }

    fn token(&self, scope: &str) -> String {
        self.issuer.token(json!({ "scope": scope }))
    }

    /// The tools that ran since the last call, with their arguments, and the number of requests.
    fn ran(&self) -> (Vec<Value>, usize) {
        let lines = self.server.taken();
        let ran = lines.iter().filter(|line| line["ran"].is_string());
        let ran = ran.map(|line| json!([line["ran"], line["with"]])).collect();
        (ran, lines.iter().filter(|line| line["http"].is_string()).count())
    }
}

/// Makes the calls with the official client and returns their results by name.
fn call(port: u16, calls: &Value) -> Value {
    let mut client = command("tests/mcp_client.py")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let input = json!({ "url": format!("http://127.0.0.1:{port}/mcp"), "calls": calls });
    client.stdin.take().unwrap().write_all(input.to_string().as_bytes()).unwrap();
    let output = client.wait_with_output().unwrap();
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The current protocol, and the one with a handshake, whose servers ignore `Mcp-Name`.
const MODES: [(&str, &str); 2] = [("auto", "2026-07-28"), ("legacy", "2025-11-25")];

#[test]
fn the_official_client_runs_the_tools_it_has_a_scope_for() {
    let rig = Rig::start();
    let add = |name: &str, mode: &str, token: &str| json!({ "name": format!("{name} {mode}"), "mode": mode, "token": token, "tool": "add", "arguments": { "a": 2, "b": 3 } });
    let remove = |name: &str, mode: &str, token: &str| json!({ "name": format!("{name} {mode}"), "mode": mode, "token": token, "tool": "remove_all", "arguments": { "path": name } });
    let (some, all, none) = (
        rig.token("mcp tool:add"),
        rig.token("mcp tool:add tool:remove_all"),
        rig.token("tool:add"),
    );

    let calls = MODES.map(|(mode, _)| {
        [add("open", mode, &some), remove("forbidden", mode, &some), remove("allowed", mode, &all)]
    });
    let seen = call(rig.envoy.port, &json!(calls.concat()));
    for (mode, version) in MODES {
        let of = |name: &str| &seen[format!("{name} {mode}")];
        assert_eq!(
            (&of("open")["result"], &of("open")["version"]),
            (&json!("5"), &json!(version)),
            "{seen}"
        );
        assert_eq!(of("open")["tools"], json!(["add", "remove_all"]));
        assert_eq!(of("allowed")["result"], "removed allowed", "{seen}");
        let forbidden = of("forbidden");
        assert!(forbidden["error"].is_string() && statuses(forbidden).contains(&403), "{seen}");
        assert_eq!(
            (&forbidden["scope"], &forbidden["metadata"]),
            (&json!("tool:remove_all"), &json!(METADATA)),
            "{seen}"
        );
    }
    let once = [json!(["add", [2, 3]]), json!(["remove_all", ["allowed"]])];
    assert_eq!(rig.ran().0, [once.clone(), once].concat());

    // None of these reaches the server. RFC 9728: a client without a token receives the address of
    // the metadata that names the authorization server.
    let calls = MODES.map(|(mode, _)| {
        let mut anonymous = add("anonymous", mode, "");
        anonymous.as_object_mut().unwrap().remove("token");
        let mut forged = remove("forged", mode, &some);
        forged["headers"] = json!({ "Mcp-Name": "add", "Mcp-Method": "tools/call" });
        [anonymous, forged, add("unscoped", mode, &none)]
    });
    let seen = call(rig.envoy.port, &json!(calls.concat()));
    for (mode, _) in MODES {
        for (name, status, scope) in [
            ("anonymous", 401, json!("mcp")),
            ("forged", 400, Value::Null),
            ("unscoped", 403, json!("mcp")),
        ] {
            let result = &seen[format!("{name} {mode}")];
            assert!(
                result["error"].is_string() && statuses(result).iter().all(|got| *got == status),
                "{name} {mode}: {result}"
            );
            assert_eq!(result["scope"], scope, "{name} {mode}: {result}");
            if status != 400 {
                assert_eq!(
                    (&result["metadata"], &result["discovery"][0]),
                    (&json!(METADATA), &json!(METADATA)),
                    "{name} {mode}"
                );
            }
        }
    }
    assert_eq!(rig.ran(), (Vec::new(), 0));
}

fn statuses(seen: &Value) -> Vec<u64> {
    seen["statuses"].as_array().unwrap().iter().map(|status| status.as_u64().unwrap()).collect()
}

/// A session of the protocol with a handshake, without a client library.
struct Session {
    id: String,
}

impl Session {
    fn open(port: u16, token: &str) -> Self {
        let hello = json!({
            "jsonrpc": "2.0", "id": 0, "method": "initialize",
            "params": { "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": { "name": "test", "version": "1" } },
        });
        let session = Self { id: String::new() };
        let reply = session.post(hello.to_string()).bearer(token).send(port);
        assert_eq!(reply.status, 200, "{}", reply.text());
        let session = Self { id: reply.one("mcp-session-id").unwrap().to_owned() };
        let ready = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
        assert_eq!(session.post(ready).bearer(token).send(port).status, 202);
        session
    }

    fn post(&self, body: impl Into<Vec<u8>>) -> Request {
        let request =
            Request::post("/mcp", body).header("Accept", "application/json, text/event-stream");
        if self.id.is_empty() { request } else { request.header("Mcp-Session-Id", &self.id) }
    }
}

const REMOVE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"remove_all","arguments":{"path":"/"}}}"#;
const ADD: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"add","arguments":{"a":2,"b":3}}}"#;

#[test]
fn no_forged_header_and_no_spelling_runs_a_forbidden_tool() {
    let rig = Rig::start();
    let port = rig.envoy.port;
    let token = rig.token("mcp tool:add");
    let session = Session::open(port, &token);
    let send = |request: Request| -> Reply { rig.envoy.send(&request.bearer(&token)) };

    let reply = send(session.post(ADD));
    assert!(reply.status == 200 && reply.text().contains(r#""text":"5""#), "{}", reply.text());
    assert_eq!(rig.ran().0, [json!(["add", [2, 3]])]);
    for (name, value) in
        [("Mcp-Name", "add"), ("Mcp-Method", "tools/call"), ("Mcp-Name", "=?base64?YWRk?=")]
    {
        let reply = send(session.post(ADD).header(name, value));
        assert_eq!(reply.status, 200, "{name}: {value}: {}", reply.text());
        assert_eq!(rig.ran().0.len(), 1, "{name}: {value}");
    }

    let forged = |name: &str, value: &str| session.post(REMOVE).header(name, value);
    let changed = |from: &str, to: &str| {
        assert!(REMOVE.contains(from));
        session.post(REMOVE.replace(from, to))
    };
    let name = r#""name":"remove_all""#;
    let rows = [
        ("plain", session.post(REMOVE), 403),
        ("a forged name", forged("Mcp-Name", "add"), 400),
        ("a forged method", forged("Mcp-Method", "tools/list"), 400),
        ("both", forged("Mcp-Name", "add").header("Mcp-Method", "tools/list"), 400),
        ("a name twice", forged("Mcp-Name", "remove_all").header("Mcp-Name", "add"), 400),
        ("an encoded name", forged("Mcp-Name", "=?base64?YWRk?="), 400),
        ("another version", forged("MCP-Protocol-Version", "2025-03-26"), 403),
        ("the last of two names wins", changed(name, r#""name":"add","name":"remove_all""#), 400),
        ("the first of two", changed(name, r#""name":"remove_all","name":"add""#), 400),
        ("an escaped second name", changed(name, r#""name":"add","n\u0061me":"remove_all""#), 400),
        ("another case", changed(name, r#""name":"add","Name":"remove_all""#), 400),
        ("an escaped name", changed(name, r#""n\u0061me":"remove\u005fall""#), 403),
        (
            "two methods",
            changed(r#""method":"tools/call""#, r#""method":"tools/list","method":"tools/call""#),
            400,
        ),
        ("two params", changed(r#""params":"#, r#""params":{"name":"add"},"params":"#), 400),
        ("a list", session.post(format!("[{ADD},{REMOVE}]")), 403),
        ("a list of one", session.post(format!("[{REMOVE}]")), 403),
        (
            "a list with a header",
            session.post(format!("[{ADD},{REMOVE}]")).header("Mcp-Name", "add"),
            400,
        ),
        ("a second document", session.post(format!("{ADD}{REMOVE}")), 400),
        ("a byte order mark", session.post(format!("\u{feff}{REMOVE}")), 400),
        ("no name", changed(name, r#""title":"add""#), 400),
        ("a method that is not open", changed("tools/call", "tools/run"), 403),
        ("a method in another case", changed("tools/call", "Tools/Call"), 403),
        (
            "text",
            session.post(REMOVE).without("Content-Type").header("Content-Type", "text/plain"),
            415,
        ),
    ];
    for (about, request, status) in rows {
        let reply = send(request);
        assert_eq!(reply.status, status, "{about}: {}", reply.text());
        assert_eq!(rig.ran(), (Vec::new(), 0), "{about}");
    }
    assert_eq!(send(session.post(REMOVE)).verdict(), (403, "tool_forbidden".into()));
    assert_eq!(
        Session { id: session.id.clone() }.post(ADD).send(port).verdict(),
        (401, "missing_credential".into())
    );
    assert_eq!(rig.ran(), (Vec::new(), 0));

    // Without Tollgate the forged header runs the tool: the test can fail.
    let direct = Session::open(rig.server.port, "");
    let reply = direct
        .post(REMOVE)
        .header("Mcp-Name", "add")
        .header("Mcp-Method", "tools/call")
        .send(rig.server.port);
    assert_eq!(
        (reply.status, rig.ran().0),
        (200, vec![json!(["remove_all", ["/"]])]),
        "{}",
        reply.text()
    );
}

#[test]
fn the_server_receives_the_subject_and_not_the_credential() {
    let rig = Rig::start();
    let token = rig.token("mcp tool:add");
    let session = Session::open(rig.envoy.port, &token);
    rig.server.taken();
    let reply =
        rig.envoy.send(&session.post(ADD).bearer(&token).header("X-Tollgate-Subject", "root"));
    assert_eq!(reply.status, 200, "{}", reply.text());
    let lines = rig.server.taken();
    assert_eq!(
        (&lines[0]["x-tollgate-subject"], &lines[0]["authorization"]),
        (&json!("alice"), &Value::Null)
    );
}
