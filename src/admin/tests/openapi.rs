//! `docs/admin-api.openapi.json` against the API: its paths and methods, the members of bodies, and
//! the answers.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, json};
use tollgate_core::credential::api_key::KeyDigest;

use super::*;
use crate::admin::{
    bans, keys,
    keys::tests::{Memory, policy},
    offenders, openapi, usage,
};

const METHODS: [&str; 5] = ["get", "post", "put", "delete", "patch"];

fn document() -> Value {
    serde_json::from_str(include_str!("../../../docs/admin-api.openapi.json")).unwrap()
}

fn bench() -> Bench {
    let records = Arc::new(Memory::default()) as Arc<dyn KeyRecords>;
    let bench = Bench::with_keys(Some(records), policy(json!({ "redis": true })));
    let bench = bench.with_usage(Some(Arc::new(usage::tests::Sums(None))), usage::tests::policy());
    bench.with_offenders(offenders::tests::found)
}

/// Follows a reference.
fn resolved<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    let Some(reference) = schema["$ref"].as_str() else { return schema };
    document.pointer(reference.strip_prefix('#').unwrap()).expect(reference)
}

/// Checks a value against the parts of JSON Schema that the document uses.
fn check(document: &Value, schema: &Value, value: &Value, place: &str) {
    let schema = resolved(document, schema);
    let types: Vec<&str> = match &schema["type"] {
        Value::String(name) => vec![name],
        Value::Array(names) => names.iter().map(|name| name.as_str().unwrap()).collect(),
        other => panic!("{place}: no type: {other}"),
    };
    let is = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    assert!(types.contains(&is), "{place}: {value} is none of {types:?}");
    if let Some(values) = schema["enum"].as_array() {
        assert!(values.contains(value), "{place}: {value}");
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        check(document, &schema["items"], item, &format!("{place}[{index}]"));
    }
    for name in schema["required"].as_array().into_iter().flatten() {
        // A value that may be null has no members then.
        let is_there = |object: &Map<String, Value>| object.contains_key(name.as_str().unwrap());
        assert!(value.as_object().is_none_or(is_there), "{place}: {name} is missing");
    }
    for (name, member) in value.as_object().into_iter().flatten() {
        let place = format!("{place}.{name}");
        match (&schema["properties"][name], &schema["additionalProperties"]) {
            (Value::Null, Value::Object(_)) => {
                check(document, &schema["additionalProperties"], member, &place);
            }
            (Value::Null, _) => panic!("{place}: the document has no such member"),
            (schema, _) => check(document, schema, member, &place),
        }
    }
}

#[tokio::test]
async fn the_document_has_the_paths_and_methods_of_the_api() {
    let (document, bench) = (document(), bench());
    assert_eq!(document["openapi"], "3.1.0");
    let paths = document["paths"].as_object().unwrap();
    let id = format!("{}/{{id}}", keys::PATH);
    let expected = [
        bans::PATH.to_owned(),
        bans::CHECK_PATH.to_owned(),
        keys::PATH.to_owned(),
        format!("{}/import", keys::PATH),
        id.clone(),
        format!("{id}/rotate"),
        offenders::PATH.to_owned(),
        openapi::PATH.to_owned(),
        PATH.to_owned(),
        usage::PATH.to_owned(),
    ];
    assert_eq!(paths.keys().collect::<Vec<_>>(), expected.iter().collect::<Vec<_>>());
    let mut names = BTreeSet::new();
    for (path, operations) in paths {
        for method in METHODS {
            let at = path.replace("{id}", "7Jk2mN4pQ8rT");
            let (status, _) = bench.call(&method.to_uppercase(), &at, "{}").await;
            let is_documented = operations.get(method).is_some();
            assert_eq!(status != 405, is_documented, "{method} {path}: {status}");
            if let Some(name) = operations[method]["operationId"].as_str() {
                assert!(names.insert(name.to_owned()), "{name} is repeated");
            }
        }
    }
}

#[tokio::test]
async fn the_document_has_the_members_of_bodies() {
    let (document, bench) = (document(), bench());
    // Operations that are read by the same type.
    let mut known = BTreeMap::<BTreeSet<String>, BTreeSet<String>>::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for method in METHODS {
            let body = &operations[method]["requestBody"];
            if body.is_null() {
                continue;
            }
            let schema = resolved(&document, &body["content"]["application/json"]["schema"]);
            let forms: Vec<&Value> = match schema["oneOf"].as_array() {
                Some(forms) => forms.iter().collect(),
                None => vec![schema],
            };
            let properties = forms.iter().map(|form| form["properties"].as_object().unwrap());
            let members: BTreeSet<String> =
                properties.flat_map(|properties| properties.keys().cloned()).collect();
            let at = path.replace("{id}", "7Jk2mN4pQ8rT");
            let (_, json) = bench.call(&method.to_uppercase(), &at, r#"{"?":1}"#).await;
            let message = json["error"]["message"].as_str().unwrap();
            let (_, expected) = message.split_once("expected").expect(message);
            let read: BTreeSet<String> =
                expected.split('`').skip(1).step_by(2).map(str::to_owned).collect();
            assert!(members.is_subset(&read), "{method} {path}: {members:?}, {read:?}");
            known.entry(read).or_default().extend(members);
            for name in schema["required"].as_array().into_iter().flatten() {
                let name = name.as_str().unwrap();
                let mut body = json!({ "subject": "ci", "digest": KeyDigest::of(b"a") });
                body.as_object_mut().unwrap().remove(name);
                let (status, json) =
                    bench.call(&method.to_uppercase(), &at, &body.to_string()).await;
                assert!(status == 400 && json.to_string().contains(name), "{name}: {json}");
            }
        }
    }
    assert_eq!(known.len(), 4);
    for (read, documented) in known {
        assert_eq!(read, documented);
    }
}

#[tokio::test]
async fn answers_have_the_form_that_the_document_states() {
    let (document, bench) = (document(), bench());
    let (mut seen, mut id) = (BTreeSet::new(), String::new());
    let full = json!({
        "subject": "ci", "tenant": "acme", "owner": "ann", "scopes": ["a"], "models": ["m"],
        "tier": "gold", "limits": { "per-key": "5/1s" }, "networks": ["10.0.0.0/8"],
        "labels": { "team": "search" }, "holder": "user", "expires_in": "1d",
    });
    let import = json!({ "subject": "bot", "digest": KeyDigest::of(b"sk-old") });
    let target = json!({ "tenant": "acme" });
    let key = format!("{}/{{id}}", keys::PATH);
    let rotate = format!("{key}/rotate");
    let import_path = format!("{}/import", keys::PATH);
    for (method, path, body) in [
        ("post", keys::PATH, full),
        ("post", &import_path, import.clone()),
        ("post", &import_path, import),
        ("post", &import_path, json!({})),
        ("post", &rotate, json!({})),
        ("get", &key, json!({})),
        ("get", keys::PATH, json!({})),
        ("delete", &key, json!({})),
        ("delete", &key, json!({})),
        ("get", &key, json!({})),
        ("post", PATH, target.clone()),
        ("get", PATH, json!({})),
        ("delete", PATH, target.clone()),
        ("delete", PATH, target.clone()),
        ("post", bans::PATH, target.clone()),
        ("post", bans::PATH, json!({ "network": "192.0.2.0/24", "for": "1h" })),
        ("get", bans::PATH, json!({})),
        ("post", bans::CHECK_PATH, target.clone()),
        ("delete", bans::PATH, target),
        ("delete", bans::PATH, json!({})),
        ("get", offenders::PATH, json!({})),
        ("get", openapi::PATH, json!({})),
        ("get", usage::PATH, json!({})),
    ] {
        let mut at = path.replace("{id}", &id);
        if path == usage::PATH {
            at.push_str("?from=2026-11-30&to=2026-11-30&by=tenant,model,route,day,hour");
        }
        let (status, json) = bench.call(&method.to_uppercase(), &at, &body.to_string()).await;
        let answer = &document["paths"][path][method]["responses"][status.to_string()];
        assert!(answer.is_object(), "{method} {path}: {status} is not documented");
        if path == openapi::PATH {
            assert_eq!(json, document);
        } else {
            check(&document, &answer["content"]["application/json"]["schema"], &json, path);
        }
        if status == 200 {
            seen.insert((path.to_owned(), method));
        }
        if let (true, Some(made)) = (path == keys::PATH, json["record"]["id"].as_str()) {
            made.clone_into(&mut id);
        }
    }
    for (path, operations) in document["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys() {
            let is_seen = seen.iter().any(|(known, by)| known == path && by == method);
            assert!(is_seen, "{method} {path} has no answer here");
        }
    }
}
