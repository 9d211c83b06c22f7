//! The same bodies through our reader and through others. If two of them find different models,
//! ours must refuse the body.
//!
//! Python's `json`, Starlette's form parser and Python's `email` are the real ones. A reader that
//! takes the first of two keys, and Go's `encoding/json`, which folds case, are emulated here.

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use tollgate_core::request::{
    Body, Headers, RawBody, RawRequest, Request,
    body::{FormPlan, Plan},
};

use crate::properties::members;

const FORM: &str = "multipart/form-data; boundary=b";

/// The model that each Python reader finds in each body.
fn python(bodies: &[(&str, Vec<u8>)]) -> Vec<Vec<Value>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = root.join("../../.parts/bin/python");
    let mut child = Command::new(&program)
        .arg("-B")
        .arg(root.join("tests/suite/body/readers.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| {
            panic!("{} does not start ({error}); run `tools/parts python`", program.display())
        });
    let cases: Vec<Value> = bodies
        .iter()
        .map(|(kind, body)| json!({ "content_type": kind, "body": STANDARD.encode(body) }))
        .collect();
    child.stdin.take().unwrap().write_all(json!(cases).to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "the readers failed; run `tools/parts python`");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The result of our reader: a model, none, or a refusal.
fn ours(kind: &str, body: &[u8]) -> Option<Value> {
    let mut headers = Headers::default();
    headers.push("content-type", kind.as_bytes());
    let body = RawBody::Whole(body);
    let raw = RawRequest {
        method: b"POST",
        scheme: b"https",
        host: b"h",
        path: b"/x",
        headers,
        address: None,
        peer_certificate: b"",
        body,
    };
    let (head, body) = raw.split();
    let body = Body::new(body, &Request::parse(head).unwrap().headers);
    let facts = if kind == "application/json" {
        let mut plan = Plan::default();
        plan.model(&"/model".parse().unwrap()).unwrap();
        body.json(&plan)
    } else {
        body.form(&FormPlan { model: Some("model".into()), ..FormPlan::default() })
    };
    facts.ok().map(|facts| json!(facts.model))
}

/// The first of several keys, and the last of those that Go reads as the key.
fn emulated(body: &[u8]) -> [Value; 2] {
    let members = members(body).unwrap_or_default();
    let first = members.iter().find(|(key, _)| key == "model");
    let go = members.iter().rfind(|(key, _)| key.to_lowercase() == "model");
    [first, go].map(|found| found.map_or(Value::Null, |(_, value)| value.clone()))
}

/// Bodies that each contain one trick, and bodies with a trick inserted at every position.
fn bodies() -> Vec<(&'static str, Vec<u8>)> {
    let mut json: Vec<Vec<u8>> = [
        r#"{"model":"a","messages":[]}"#,
        r#"{"model":"a","model":"b"}"#,
        r#"{"model":"a","mod\u0065l":"b"}"#,
        r#"{"model":"a","Model":"b"}"#,
        r#"{"MODEL":"b"}"#,
        r#"{"model":null}"#,
        r#"{"x":{"model":"b"},"model":"a"}"#,
        r#"{"model":"\u0061"}"#,
        r#"{"model":"\ud83d\ude00"}"#,
        r#"{"model":"\ud83d"}"#,
        r#"{"model":"a","x":NaN}"#,
        r#"{"model":"a","x":1e99}"#,
        r#"{"model":"a"} {"model":"b"}"#,
        r#"[{"model":"a"}]"#,
        "{}",
        "",
    ]
    .iter()
    .map(|body| body.as_bytes().to_vec())
    .collect();
    json.push([b"\xef\xbb\xbf".as_slice(), br#"{"model":"b"}"#].concat());
    json.push(r#"{"model":"b"}"#.encode_utf16().flat_map(u16::to_le_bytes).collect());
    let good = br#"{"x":[1,{"y":"z"}],"model":"a","n":1}"#;
    let tricks: [&[u8]; 12] = [
        b"\"model\":\"b\",",
        b",\"model\":\"b\"",
        b"\"Model\":\"b\",",
        b"{",
        b"}",
        b"\"",
        b"\\",
        b"\0",
        b"\xff",
        b"/**/",
        b"\xc2\xa0",
        b"\n",
    ];
    for trick in tricks {
        json.extend((0..=good.len()).map(|at| [&good[..at], trick, &good[at..]].concat()));
    }
    let part = |head: &str, value: &str| {
        format!("--b\r\nContent-Disposition: form-data; {head}\r\n\r\n{value}\r\n")
    };
    let good = format!(
        "{}{}--b--\r\n",
        part("name=\"model\"", "a"),
        part("name=\"file\"; filename=\"f\"", "x\r\n\r\ny")
    );
    let mut forms: Vec<Vec<u8>> = vec![good.clone().into_bytes()];
    for head in [
        "name=model",
        "name=\"Model\"",
        "name=\"model\"; name=\"x\"",
        "name=\"x\"; name=\"model\"",
        "name*=utf-8''model",
        "name=\"mod\\el\"",
        "name=\"x\\\"; name=\\\"model\"",
        "name=\"model\"; filename=\"f\"",
        "name=\"model \"",
        "name='model'",
        "NAME=\"model\"",
    ] {
        forms.push(
            format!("{}{}--b--\r\n", part("name=\"model\"", "a"), part(head, "b")).into_bytes(),
        );
        forms.push(format!("{}--b--\r\n", part(head, "b")).into_bytes());
    }
    let second = part("name=\"model\"", "b");
    let tricks = [
        second.as_str(),
        "--b--\r\n",
        "--b\r\n",
        "--b",
        "\r\n",
        "\n",
        "\r",
        "\"",
        ";",
        "\\",
        "\0",
        " ",
        "\r\n--b--",
        "Content-Type: multipart/mixed; boundary=b\r\n",
        "Content-Transfer-Encoding: base64\r\n",
    ];
    for trick in tricks {
        forms.extend(
            (0..=good.len()).map(|at| {
                [&good.as_bytes()[..at], trick.as_bytes(), &good.as_bytes()[at..]].concat()
            }),
        );
    }
    json.into_iter()
        .map(|body| ("application/json", body))
        .chain(forms.into_iter().map(|body| (FORM, body)))
        .collect()
}

#[test]
fn where_two_readers_disagree_we_refuse() {
    let bodies = bodies();
    let answers = python(&bodies);
    assert_eq!(answers.len(), bodies.len());
    let (mut accepted, mut split) = (0, 0);
    for ((kind, body), mut found) in bodies.iter().zip(answers) {
        if *kind == "application/json" {
            found.extend(emulated(body));
        }
        let disagree = found.iter().any(|other| *other != found[0]);
        split += usize::from(disagree);
        let Some(ours) = ours(kind, body) else { continue };
        accepted += 1;
        let text = String::from_utf8_lossy(body);
        assert!(
            found.iter().all(|other| *other == ours),
            "we read {ours}, the others {found:?}: {text:?}"
        );
    }
    // The bodies are effective: some are read, and the other readers disagree on many.
    assert!(accepted > 50 && split > 50, "{accepted} accepted, {split} read in two ways");
}
