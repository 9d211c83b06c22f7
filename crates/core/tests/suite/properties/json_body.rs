//! The JSON body: our reader and serde_json accept the same bodies and find the same string, except
//! for ambiguous bodies, which ours refuses.

use std::{borrow::Cow, fmt};

use proptest::prelude::{
    Just, Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest,
};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::{Map, Value};
use tollgate_core::{
    denial::Reason,
    request::{Body, Headers, RawBody, RawRequest, Request, body::Plan},
};

use super::cases;

/// The string at `pointer`, through the whole normaliser.
fn read(body: &[u8], pointer: &str) -> Result<String, Reason> {
    let mut headers = Headers::default();
    headers.push("content-type", b"application/json");
    let raw = RawRequest {
        method: b"POST",
        scheme: b"https",
        host: b"h",
        path: b"/x",
        headers,
        address: None,
        peer_certificate: b"",
        body: RawBody::Whole(body),
    };
    let (head, body) = raw.split();
    let request = Request::parse(head).map_err(|denial| denial.reason)?;
    let body = Body::new(body, &request.headers);
    let mut plan = Plan::default();
    plan.model(&pointer.parse().unwrap()).unwrap();
    let facts = body.json(&plan).map_err(|denial| denial.reason)?;
    facts.model.map(Cow::into_owned).ok_or(Reason::ModelMissing)
}

/// The members of an object in order, with repetitions.
struct Members(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Members;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Members, A::Error> {
                let mut list = Vec::new();
                while let Some(entry) = entries.next_entry()? {
                    list.push(entry);
                }
                Ok(Members(list))
            }
        }
        deserializer.deserialize_map(All)
    }
}

/// The members of the body's object in order, with repetitions.
pub fn members(body: &[u8]) -> Option<Vec<(String, Value)>> {
    serde_json::from_slice::<Members>(body).ok().map(|Members(members)| members)
}

/// The result of our reader, compared with serde_json.
fn agrees(body: &[u8]) -> Result<(), String> {
    let ours = read(body, "/model");
    if ours != read(body, "/model") {
        return Err("another answer the second time".into());
    }
    let members = match serde_json::from_slice::<Members>(body) {
        Ok(Members(members)) => members,
        // A number beyond a double's range is JSON; our reader does not read numbers.
        Err(error) if error.to_string().starts_with("number out of range") => return Ok(()),
        Err(error) => {
            return if ours == Err(Reason::MalformedRequest) {
                Ok(())
            } else {
                Err(format!("{ours:?}, but {error}"))
            };
        }
    };
    let models: Vec<&Value> =
        members.iter().filter(|(key, _)| key == "model").map(|(_, value)| value).collect();
    let repeated =
        (1..members.len()).any(|at| members[..at].iter().any(|(key, _)| *key == members[at].0));
    let case = members.iter().any(|(key, _)| key != "model" && key.eq_ignore_ascii_case("model"));
    let expected = match models.as_slice() {
        _ if repeated || case || members.len() > 256 => Err(Reason::MalformedRequest),
        [] | [Value::Null] => Err(Reason::ModelMissing),
        [Value::String(model)] => Ok(model.clone()),
        _ => Err(Reason::MalformedRequest),
    };
    // serde_json accepts 128 levels, our reader 64.
    let deep = || members.iter().map(|(_, value)| depth(value)).max().unwrap_or(0) + 1 > 64;
    if ours == expected || (ours == Err(Reason::MalformedRequest) && deep()) {
        Ok(())
    } else {
        Err(format!("{ours:?} for {expected:?}"))
    }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 1,
    }
}

fn key() -> impl Strategy<Value = String> {
    let alike = prop::sample::select(vec![
        "Model",
        "MODEL",
        "mode\u{142}",
        "model ",
        "model\u{0}",
        "mod\u{e9}l",
    ]);
    prop_oneof![
        4 => prop::sample::select(vec!["model", "messages", "n", "a", "session", ""]).prop_map(str::to_owned),
        1 => alike.prop_map(str::to_owned),
        1 => any::<String>(),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        Just(Value::from("qwen")),
    ];
    leaf.prop_recursive(6, 48, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((key(), inner), 0..5)
                .prop_map(|members| Value::Object(members.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// An object in one of several styles: compact, spread out, or with every character escaped. Most
/// name a model.
fn body() -> impl Strategy<Value = Vec<u8>> {
    let name = prop_oneof![Just("qwen".to_owned()), any::<String>()];
    let model = prop_oneof![6 => name.prop_map(|name| Some(Value::from(name))), 1 => value().prop_map(Some), 1 => Just(None)];
    let other = prop_oneof![9 => prop::sample::select(vec!["messages", "n", "a", "session", ""]).prop_map(str::to_owned), 1 => key()];
    (prop::collection::vec((other, value()), 0..5), model, 0..3u8).prop_map(
        |(members, model, style)| {
            let mut object: Map<String, Value> = members.into_iter().collect();
            object.extend(model.map(|model| ("model".to_owned(), model)));
            let value = Value::Object(object);
            match style {
                0 => serde_json::to_vec(&value).unwrap(),
                1 => serde_json::to_vec_pretty(&value).unwrap(),
                _ => escaped(&value).into_bytes(),
            }
        },
    )
}

/// JSON with every character of every string as `\uXXXX`.
fn escaped(value: &Value) -> String {
    let text = |text: &str| {
        let units: Vec<String> = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
        format!("\"{}\"", units.concat())
    };
    match value {
        Value::String(string) => text(string),
        Value::Array(items) => {
            format!("[{}]", items.iter().map(escaped).collect::<Vec<_>>().join(" , "))
        }
        Value::Object(members) => {
            let members: Vec<String> = members
                .iter()
                .map(|(key, value)| format!("{} :{}", text(key), escaped(value)))
                .collect();
            format!("{{{}}}", members.join(","))
        }
        other => other.to_string(),
    }
}

/// Valid and invalid members in any order and number, occasionally without separators.
fn soup() -> impl Strategy<Value = Vec<u8>> {
    let member = prop::sample::select(vec![
        r#""model":"m""#,
        r#" "model" : "m" "#,
        r#""mod\u0065l":"m""#,
        r#""model":"\ud83d\ude00""#,
        r#""model":null"#,
        r#""model":["m"]"#,
        r#""Model":"x""#,
        r#""MODEL":"x""#,
        r#""mode\u004c":"x""#,
        r#""a":1"#,
        r#""a":[1,{"model":"x"}]"#,
        r#""b":{"c":{},"d":[]}"#,
        r#""b":-0.5e+3"#,
        r#""c":1e999"#,
        r#""c":NaN"#,
        r#""c":01"#,
        r#""d":"\ud800""#,
        r#""e":"\n""#,
        "\"f\":\"\n\"",
        r#""g":tru"#,
        r#""h":true"#,
        r#"model:"m""#,
        r#"'model':'m'"#,
        "",
    ]);
    let between = prop_oneof![12 => Just(","), 1 => Just(""), 1 => Just(",,"), 1 => Just(" "), 1 => Just("}{")];
    let open = prop_oneof![12 => Just("{"), 1 => Just("["), 1 => Just("\u{feff}{"), 1 => Just(" \n{"), 1 => Just("")];
    let close = prop_oneof![12 => Just("}"), 1 => Just("]"), 1 => Just("} "), 1 => Just("}\0"), 1 => Just("}x"), 1 => Just("")];
    (open, prop::collection::vec((member, between), 0..4), close).prop_map(
        |(open, members, close)| {
            let mut text = open.to_owned();
            for (at, (member, between)) in members.iter().enumerate() {
                text.push_str(if at == 0 { "" } else { between });
                text.push_str(member);
            }
            text.push_str(close);
            text.into_bytes()
        },
    )
}

/// A byte that occurs in JSON, or any byte.
fn byte() -> impl Strategy<Value = u8> {
    prop_oneof![3 => prop::sample::select(br#"{}[]:,"\ model0123456789-+.eEtrufalsn"#.to_vec()), 1 => any::<u8>()]
}

proptest! {
    #![proptest_config(cases(3000))]

    #[test]
    fn any_object_is_read_as_serde_json_reads_it(body in body()) {
        prop_assert_eq!(agrees(&body), Ok(()), "{}", String::from_utf8_lossy(&body));
    }

    #[test]
    fn a_changed_object_is_read_as_serde_json_reads_it(
        body in body(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), byte(), 0..3u8), 1..3),
    ) {
        let mut body = body;
        for (at, byte, how) in changes {
            let at = at.index(body.len().max(1));
            match how {
                0 if at < body.len() => body[at] = byte,
                1 if at < body.len() => { body.remove(at); }
                _ => body.insert(at, byte),
            }
        }
        prop_assert_eq!(agrees(&body), Ok(()), "{}", String::from_utf8_lossy(&body));
    }

    #[test]
    fn pieces_of_json_are_read_as_serde_json_reads_them(body in soup()) {
        prop_assert_eq!(agrees(&body), Ok(()), "{}", String::from_utf8_lossy(&body));
    }

    #[test]
    fn any_bytes_are_read_as_serde_json_reads_them(body in prop::collection::vec(any::<u8>(), 0..48)) {
        prop_assert_eq!(agrees(&body), Ok(()), "{:?}", body);
    }

    /// A nested model is found where serde_json's own pointer finds it.
    #[test]
    fn a_pointer_leads_where_it_leads_serde_json(
        inner in prop_oneof![4 => body().prop_map(|body| serde_json::from_slice(&body).unwrap()), 1 => value()],
        outer in value(),
    ) {
        let body = serde_json::json!({ "before": outer, "session": inner });
        let bytes = serde_json::to_vec(&body).unwrap();
        match (read(&bytes, "/session/model"), body.pointer("/session/model")) {
            (Ok(ours), Some(Value::String(theirs))) => prop_assert_eq!(&ours, theirs),
            (Ok(ours), theirs) => prop_assert!(false, "{} for {:?}", ours, theirs),
            (Err(Reason::ModelMissing), theirs) => {
                prop_assert!(theirs.is_none_or(Value::is_null) && (body["session"].is_object() || body["session"].is_null()));
            }
            (Err(reason), theirs) => {
                prop_assert_eq!(reason, Reason::MalformedRequest);
                let variant = |key: &String| key != "model" && key.eq_ignore_ascii_case("model");
                let variants = body["session"].as_object().is_some_and(|members| members.keys().any(variant));
                prop_assert!(variants || !body["session"].is_object() || !matches!(theirs, Some(Value::String(_)) | None));
            }
        }
    }
}

#[test]
fn depth_is_bounded_below_serde_json_s() {
    for levels in [1, 62, 63, 64, 65, 120, 127, 128, 10_000] {
        let body =
            format!("{{\"model\":\"m\",\"a\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
        // The object is the first level.
        let expected = if levels < 64 { Ok("m".to_owned()) } else { Err(Reason::MalformedRequest) };
        assert_eq!(read(body.as_bytes(), "/model"), expected, "{levels}");
    }
}
