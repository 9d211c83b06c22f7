//! Tools of chat requests, and MCP.

use tollgate_core::denial::Reason;

use super::{Bodies, no, verdict};

const POLICY: &str = "
routes:
  - { match: { paths: [/chat], methods: [POST] }, scopes: [], tools: 'tool:{name}' }
  - match: { paths: [/mcp], methods: [POST] }
    scopes: [mcp]
    mcp: { resources: 'read:{name}' }
    resource_metadata: https://api.example/.well-known/oauth-protected-resource/mcp
";

#[test]
fn every_tool_of_a_request_needs_its_scope() {
    let forbidden = no(Reason::ToolForbidden, "tools");
    Bodies::new(POLICY).hold(&[
        ("no tools", "x", "/chat", r#"{"tools":[],"tool_choice":"auto"}"#, Ok(())),
        ("no tools at all", "x", "/chat", r#"{"tools":null}"#, Ok(())),
        ("one", "tool:add", "/chat", r#"{"tools":[{"type":"function","function":{"name":"add"}}]}"#, Ok(())),
        ("one of two", "tool:add", "/chat", r#"{"tools":[{"type":"function","function":{"name":"add"}},{"function":{"name":"rm"}}]}"#, forbidden),
        ("the Responses API", "tool:add", "/chat", r#"{"tools":[{"type":"function","name":"rm"}]}"#, forbidden),
        ("Anthropic", "tool:add", "/chat", r#"{"tools":[{"name":"rm","input_schema":{"type":"object"}}]}"#, forbidden),
        ("both places", "tool:add", "/chat", r#"{"tools":[{"type":"function","name":"add","function":{"name":"rm"}}]}"#, forbidden),
        ("functions of old", "tool:add", "/chat", r#"{"functions":[{"name":"rm"}]}"#, forbidden),
        ("a choice", "tool:add", "/chat", r#"{"tool_choice":{"type":"function","function":{"name":"rm"}}}"#, forbidden),
        ("a choice, Anthropic", "tool:add", "/chat", r#"{"tool_choice":{"type":"tool","name":"rm"}}"#, forbidden),
        ("a choice of several", "tool:add", "/chat", r#"{"tool_choice":{"type":"allowed_tools","allowed_tools":{"tools":[{"type":"function","function":{"name":"rm"}}]}}}"#, forbidden),
        ("a choice of old", "tool:add", "/chat", r#"{"function_call":{"name":"rm"}}"#, forbidden),
        ("a tool of the server", "tool:add", "/chat", r#"{"tools":[{"type":"code_interpreter"}]}"#, forbidden),
        ("a tool of the server, with its scope", "tool:code_interpreter", "/chat", r#"{"tools":[{"type":"code_interpreter"}]}"#, Ok(())),
        ("a tool of the server under a good name", "tool:add", "/chat", r#"{"tools":[{"type":"mcp","name":"add"}]}"#, forbidden),
        ("a name that is no scope", "tool:a tool:b", "/chat", r#"{"tools":[{"name":"a tool:b"}]}"#, forbidden),
        ("an empty name", "tool:", "/chat", r#"{"tools":[{"name":""}]}"#, forbidden),
        ("no name", "tool:add", "/chat", r#"{"tools":[{"type":"function"}]}"#, no(Reason::MalformedRequest, "tools")),
        ("two names", "tool:add", "/chat", r#"{"tools":[{"name":"add","name":"rm"}]}"#, Err((Reason::MalformedRequest, None))),
        ("a name in another case (Go)", "tool:add", "/chat", r#"{"tools":[{"name":"add","Name":"rm"}]}"#, no(Reason::MalformedRequest, "name")),
        ("no list", "tool:add", "/chat", r#"{"tools":{"name":"add"}}"#, no(Reason::MalformedRequest, "tools")),
        ("what a model called before", "x", "/chat", r#"{"messages":[{"tool_calls":[{"function":{"name":"rm"}}]}]}"#, Ok(())),
    ]);
    let answer = Bodies::new(POLICY).json(
        "x",
        "/chat",
        r#"{"tools":[{"name":"add"},{"name":"rm"},{"name":"add"}]}"#,
    );
    assert!(answer.header("www-authenticate").unwrap().ends_with(", scope=\"tool:add tool:rm\""));
}

#[test]
fn mcp_calls_need_the_scope_of_what_they_call() {
    let forbidden = no(Reason::ToolForbidden, "tools");
    let malformed = |param| no(Reason::MalformedRequest, param);
    Bodies::new(POLICY).hold(&[
        (
            "a tool",
            "mcp tool:add",
            "/mcp",
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"add","arguments":{"name":"rm"}}}"#,
            Ok(()),
        ),
        ("another tool", "mcp tool:add", "/mcp", r#"{"method":"tools/call","params":{"name":"rm"}}"#, forbidden),
        ("a prompt", "mcp tool:p", "/mcp", r#"{"method":"prompts/get","params":{"name":"p"}}"#, Ok(())),
        ("another prompt", "mcp tool:p", "/mcp", r#"{"method":"prompts/get","params":{"name":"q"}}"#, forbidden),
        ("a resource", "mcp read:file:///a", "/mcp", r#"{"method":"resources/read","params":{"uri":"file:///a"}}"#, Ok(())),
        (
            "another resource",
            "mcp read:file:///a",
            "/mcp",
            r#"{"method":"resources/read","params":{"uri":"file:///b","name":"file:///a"}}"#,
            forbidden,
        ),
        (
            "a subscription",
            "mcp read:file:///a",
            "/mcp",
            r#"{"method":"resources/subscribe","params":{"uri":"file:///b"}}"#,
            forbidden,
        ),
        ("lists", "mcp x", "/mcp", r#"{"method":"tools/list"}"#, Ok(())),
        ("the handshake", "mcp x", "/mcp", r#"{"method":"initialize","params":{"clientInfo":{"name":"c"}}}"#, Ok(())),
        ("a notification", "mcp x", "/mcp", r#"{"method":"notifications/cancelled"}"#, Ok(())),
        ("an answer", "mcp x", "/mcp", r#"{"id":1,"result":{"method":"tools/call"}}"#, Ok(())),
        ("an unknown method", "mcp x", "/mcp", r#"{"method":"tools/install"}"#, no(Reason::ToolForbidden, "method")),
        (
            "methods are exact",
            "mcp tool:rm",
            "/mcp",
            r#"{"method":"Tools/Call","params":{"name":"rm"}}"#,
            no(Reason::ToolForbidden, "method"),
        ),
        (
            "a list of good calls",
            "mcp tool:a tool:b",
            "/mcp",
            r#"[{"method":"tools/call","params":{"name":"a"}},{"method":"tools/call","params":{"name":"b"}}]"#,
            Ok(()),
        ),
        (
            "a list with a bad call",
            "mcp tool:a",
            "/mcp",
            r#"[{"method":"tools/call","params":{"name":"a"}},{"method":"tools/call","params":{"name":"b"}}]"#,
            forbidden,
        ),
        ("an empty list", "mcp x", "/mcp", "[]", Ok(())),
        (
            "a list in a list",
            "mcp tool:a",
            "/mcp",
            r#"[[{"method":"tools/call","params":{"name":"b"}}]]"#,
            Err((Reason::MalformedRequest, None)),
        ),
        (
            "two names",
            "mcp tool:add",
            "/mcp",
            r#"{"method":"tools/call","params":{"name":"add","name":"rm"}}"#,
            Err((Reason::MalformedRequest, None)),
        ),
        (
            "two methods",
            "mcp tool:add",
            "/mcp",
            r#"{"method":"ping","method":"tools/call"}"#,
            Err((Reason::MalformedRequest, None)),
        ),
        ("a method in another case (Go)", "mcp x", "/mcp", r#"{"Method":"tools/call"}"#, malformed("method")),
        ("parameters by position", "mcp tool:add", "/mcp", r#"{"method":"tools/call","params":["rm"]}"#, malformed("params")),
        ("no name", "mcp tool:add", "/mcp", r#"{"method":"tools/call","params":{}}"#, malformed("params")),
        ("a number for a name", "mcp tool:add", "/mcp", r#"{"method":"tools/call","params":{"name":1}}"#, malformed("name")),
    ]);
}

#[test]
fn mcp_headers_agree_with_the_body() {
    let harness = Bodies::new(POLICY);
    let call = r#"{"method":"tools/call","params":{"name":"add"}}"#;
    let ask = |headers: &[(&str, &str)], body: &str| {
        let mut all = vec![("content-type", "application/json")];
        all.extend(headers);
        verdict(&harness.ask("mcp tool:add tool:rm", "/mcp", &all, body.as_bytes()))
            .map_err(|(reason, _)| reason)
    };
    assert_eq!(ask(&[("mcp-method", "tools/call"), ("mcp-name", "add")], call), Ok(()));
    assert_eq!(ask(&[("mcp-name", "=?base64?YWRk?=")], call), Ok(()));
    for headers in [
        [("mcp-method", "tools/call"), ("mcp-name", "rm")],
        [("mcp-method", "tools/list"), ("mcp-name", "add")],
        [("mcp-method", "tools/call"), ("Mcp-Name", "Add")],
        [("mcp-name", "add"), ("mcp-name", "add")],
        [("mcp-method", "tools/call"), ("mcp-name", "=?base64?cm0=?=")],
        [("mcp-method", ""), ("mcp-name", "add")],
    ] {
        assert_eq!(ask(&headers, call), Err(Reason::MalformedRequest), "{headers:?}");
    }
    assert_eq!(
        ask(&[("mcp-method", "tools/call")], &format!("[{call}]")),
        Err(Reason::MalformedRequest)
    );
    assert_eq!(
        ask(&[("mcp-name", "add")], r#"{"method":"tools/list"}"#),
        Err(Reason::MalformedRequest)
    );
}

#[test]
fn challenges_name_the_metadata_and_the_scope() {
    let harness = Bodies::new(POLICY);
    let denied =
        harness.json("mcp tool:add", "/mcp", r#"{"method":"tools/call","params":{"name":"rm"}}"#);
    let metadata =
        "resource_metadata=\"https://api.example/.well-known/oauth-protected-resource/mcp\"";
    assert_eq!(
        denied.header("www-authenticate").unwrap(),
        format!(
            "Bearer realm=\"tollgate\", {metadata}, error=\"insufficient_scope\", error_description=\"the credential may not use this tool\", scope=\"tool:rm\""
        )
    );
    let nobody =
        harness.0.ask_with_body("POST", "/mcp", &[], tollgate_core::request::RawBody::None);
    assert_eq!(
        nobody.header("www-authenticate").unwrap(),
        format!("Bearer realm=\"tollgate\", {metadata}, scope=\"mcp\"")
    );
}
