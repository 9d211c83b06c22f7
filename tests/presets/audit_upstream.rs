//! `tollgate audit-upstream` against a server that publishes a document as FastAPI does.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::Output,
    thread,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::tollgate;

/// A server that answers every request with `response`. It ends with the process.
fn server(response: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = Vec::new();
            let mut byte = [0; 1];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
                head.push(byte[0]);
            }
            assert!(
                head.starts_with(b"GET /openapi.json HTTP/1.1\r\n"),
                "{}",
                String::from_utf8_lossy(&head)
            );
            // The client may close the connection when it has read enough.
            let _ = stream.write_all(&response);
        }
    });
    address
}

fn ok(body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// A document in the form of vLLM's: operations with `summary`, `operationId` and parameters.
fn vllm() -> String {
    let operation = |id: &str| json!({ "summary": id, "operationId": id, "responses": { "200": { "description": "Successful Response" } } });
    let parameter = json!([{ "name": "response_id", "in": "path", "required": true, "schema": { "type": "string" } }]);
    json!({
        "openapi": "3.1.0",
        "info": { "title": "FastAPI", "version": "0.1.0" },
        "paths": {
            "/health": { "get": operation("health_health_get") },
            "/load": { "get": operation("get_server_load_metrics_load_get") },
            "/ping": { "get": operation("ping_ping_get"), "post": operation("ping_ping_post") },
            "/tokenize": { "post": operation("tokenize_tokenize_post") },
            "/v1/models": { "get": operation("show_available_models_v1_models_get") },
            "/v1/chat/completions": { "post": operation("create_chat_completion_v1_chat_completions_post") },
            "/v1/responses/{response_id}": { "get": operation("retrieve_responses"), "parameters": parameter },
            "/pooling": { "post": operation("create_pooling_pooling_post") },
            "/collective_rpc": { "post": operation("collective_rpc_collective_rpc_post") },
            "/brand_new_route": { "post": operation("brand_new") },
        },
    })
    .to_string()
}

fn audit(address: SocketAddr, arguments: &[&str]) -> Output {
    tollgate()
        .arg("audit-upstream")
        .arg(format!("http://{address}"))
        .args(arguments)
        .output()
        .unwrap()
}

fn config(directory: &TempDir, routes: &str) -> PathBuf {
    let path = directory.path().join("tollgate.yaml");
    let issuers = "issuers: [{ issuer: 'https://auth.example.com', audiences: any, algorithms: [RS256], jwks: { url: 'https://auth.example.com/jwks.json' } }]";
    std::fs::write(
        &path,
        format!(
            "{issuers}\nlimits: [{{ name: slow, by: [address], rate: 1/1h }}]\nroutes: {routes}\n"
        ),
    )
    .unwrap();
    path
}

fn operation<'a>(report: &'a Value, method: &str, path: &str) -> &'a Value {
    let all = report["operations"].as_array().unwrap();
    all.iter()
        .find(|one| one["method"] == method && one["path"] == path)
        .unwrap_or_else(|| panic!("{method} {path}: {report}"))
}

#[test]
fn a_preset_opens_nothing_dangerous() {
    let address = server(ok(&vllm()));
    let output = audit(address, &["--preset", "vllm", "--output", "json"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["dangerous"], &report["server"]), (&json!(false), &json!("FastAPI 0.1.0")));
    let row = |method, path| {
        let one = operation(&report, method, path);
        (
            one["listed"].as_bool().unwrap(),
            one["level"].as_str().unwrap(),
            one["open"].as_bool().unwrap(),
            one["reason"].as_str(),
        )
    };
    assert_eq!(row("GET", "/health"), (true, "harmless", true, None));
    assert_eq!(row("GET", "/load"), (true, "leak", false, Some("missing_credential")));
    assert_eq!(
        row("POST", "/v1/chat/completions"),
        (true, "dangerous", false, Some("missing_credential"))
    );
    assert_eq!(
        row("GET", "/v1/responses/{response_id}"),
        (true, "dangerous", false, Some("no_route"))
    );
    assert_eq!(row("POST", "/brand_new_route"), (false, "unknown", false, Some("no_route")));
    // A path that the document does not have is probed too.
    assert_eq!(operation(&report, "POST", "/invocations")["offered"], false);
}

#[test]
fn open_routes_of_a_configuration_are_found() {
    let directory = TempDir::new().unwrap();
    let address = server(ok(&vllm()));
    for (routes, arguments, open) in [
        (
            "[{ match: { paths: ['/*'], methods: [GET, POST] }, public: true, name: all }]",
            &["--preset", "vllm"][..],
            "POST /pooling",
        ),
        (
            "[{ preset: vllm }, { match: { paths: [/brand_new_route], methods: [POST] }, public: true }]",
            &[],
            "POST /brand_new_route",
        ),
        (
            "[{ preset: vllm }, { match: { paths: [/tokenize], methods: [POST] }, public: true, limits: [slow] }]",
            &[],
            "POST /tokenize",
        ),
        (
            "[{ preset: vllm }, { match: { hosts: ['*.example.com'], paths: [/collective_rpc], methods: [POST] }, public: true }]",
            &[],
            "POST /collective_rpc",
        ),
    ] {
        let file = config(&directory, routes);
        let output = audit(address, &[&["--config", file.to_str().unwrap()], arguments].concat());
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(
            output.status.code(),
            Some(1),
            "{routes}: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let (method, path) = open.split_once(' ').unwrap();
        let found = text.lines().any(|line| {
            line.starts_with("!!")
                && line.contains(method)
                && line.contains(path)
                && line.contains("OPEN")
        });
        assert!(found, "{routes}: {text}");
    }
    // Public documentation and metrics are the operator's choice, and are reported.
    let file =
        config(&directory, "[{ preset: vllm }, { match: { paths: [/load] }, public: true }]");
    let output = audit(address, &["--config", file.to_str().unwrap()]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(
        text.lines()
            .any(|line| line.contains("/load") && line.contains("OPEN") && line.contains("leak")),
        "{text}"
    );
}

#[test]
fn a_server_without_a_document_is_an_error() {
    let redirect = b"HTTP/1.1 307 Temporary Redirect\r\nlocation: http://192.0.2.1/\r\ncontent-length: 0\r\n\r\n".to_vec();
    let missing = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_vec();
    let huge =
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{}", 9 << 20, " ".repeat(9 << 20))
            .into_bytes();
    for (response, said) in [
        (redirect, "a redirect, and none is followed"),
        (missing, "the server answered 404"),
        (ok("<html>"), "it is not JSON"),
        (ok("{}"), "it has no `paths`"),
        (huge, "larger than 8 MiB"),
    ] {
        let output = audit(server(response), &["--preset", "vllm"]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains(said), "{said}: {error}");
    }
    let output = audit(server(ok(&vllm())), &["--preset", "vlm"]);
    assert!(
        String::from_utf8(output.stderr).unwrap().contains("there is no preset `vlm`; known: vllm")
    );
    assert_eq!(
        audit(server(ok(&vllm())), &[]).status.code(),
        Some(2),
        "neither preset nor configuration"
    );
}
