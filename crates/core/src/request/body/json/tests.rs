use std::borrow::Cow;

use super::{
    super::json_error::{DEPTH, KEYS, NUMBER},
    *,
};

fn string_at<'a>(body: &'a [u8], pointer: &str) -> Result<Option<Cow<'a, str>>, JsonError> {
    let mut plan = Plan::default();
    plan.model(&pointer.parse().unwrap()).unwrap();
    read(body, &plan).map(|facts| facts.model)
}

fn model(body: &str) -> Result<Option<String>, JsonError> {
    string_at(body.as_bytes(), "/model").map(|found| found.map(Cow::into_owned))
}

#[test]
fn the_string_is_found_at_every_position() {
    for body in [
        r#"{"model":"m"}"#,
        r#" { "messages" : [ { "model" : "x", "n" : -1.5e+3 } , [] , {} ] , "model" : "m" } "#,
        "{\"a\":null,\"b\":[true,false,0,10,0.5],\"model\":\"m\",\"c\":{\"d\":{}}}\n",
        r#"{"model":"\u006d"}"#,
        r#"{"mod\u0065l":"m"}"#,
        r#"{"emoji":"\ud83d\ude00","model":"m"}"#,
    ] {
        assert_eq!(model(body), Ok(Some("m".into())), "{body}");
    }
    let nested = "/session/model";
    assert_eq!(
        string_at(br#"{"model":"a","session":{"model":"b"}}"#, nested),
        Ok(Some("b".into()))
    );
    assert_eq!(
        string_at(br#"{"session":[]}"#, nested),
        Err(JsonError::WrongType("session".into()))
    );
}

#[test]
fn an_absent_model_is_absent_and_a_wrong_one_is_an_error() {
    assert_eq!(model(r#"{}"#), Ok(None));
    assert_eq!(model(r#"{"x":{"model":"m"}}"#), Ok(None));
    assert_eq!(model(r#"{"model":null}"#), Ok(None));
    for body in
        [r#"{"model":1}"#, r#"{"model":["m"]}"#, r#"{"model":{"a":"m"}}"#, r#"{"model":true}"#]
    {
        assert_eq!(model(body), Err(JsonError::WrongType("model".into())), "{body}");
    }
}

#[test]
fn what_two_readers_read_differently_is_refused() {
    let repeated = [
        r#"{"model":"a","model":"b"}"#,
        r#"{"model":"a","mod\u0065l":"b"}"#,
        r#"{"x":1,"x":2,"model":"a"}"#,
        r#"{"model":"a","model":"a"}"#,
    ];
    for body in repeated {
        assert_eq!(model(body), Err(JsonError::RepeatedKey), "{body}");
    }
    for body in
        [r#"{"model":"a","Model":"b"}"#, r#"{"MODEL":"b"}"#, r#"{"mode\u004c":"b","model":"a"}"#]
    {
        assert_eq!(model(body), Err(JsonError::CaseVariant("model".into())), "{body}");
    }
    let tasks = "/tasks";
    assert_eq!(
        string_at("{\"ta\u{17f}k\u{17f}\":\"x\"}".as_bytes(), tasks),
        Err(JsonError::CaseVariant("tasks".into()))
    );
}

#[test]
fn what_is_not_json_is_refused() {
    let bodies: [&[u8]; 35] = [
        b"",
        b" ",
        b"{",
        b"}",
        b"{]",
        b"\xef\xbb\xbf{\"model\":\"m\"}",
        b"\xff\xfe{\x00}\x00",
        b"{\"model\":\"m\"}x",
        b"{\"model\":\"m\"}\0",
        b"{\"model\":\"m\"}{}",
        b"{\"model\":\"m\",}",
        b"{,\"model\":\"m\"}",
        b"{model:\"m\"}",
        b"{'model':'m'}",
        b"{\"model\":\"m\" \"a\":1}",
        b"{\"model\" \"m\"}",
        b"{\"a\":NaN}",
        b"{\"a\":Infinity}",
        b"{\"a\":-}",
        b"{\"a\":01}",
        b"{\"a\":1.}",
        b"{\"a\":.5}",
        b"{\"a\":1e}",
        b"{\"a\":+1}",
        b"{\"a\":0x10}",
        b"{\"a\":tru}",
        b"{\"a\":[1,]}",
        b"{\"a\":[1 2]}",
        b"{\"a\":\"\x01\"}",
        b"{\"a\":\"\\x\"}",
        b"{\"a\":\"\\u12\"}",
        b"{\"a\":\"\\ud800\"}",
        b"{\"\\udc00\":1}",
        b"{\"a\":\"\xff\"}",
        b"/**/{}",
    ];
    for body in bodies {
        assert!(
            matches!(string_at(body, "/model"), Err(JsonError::Syntax(_))),
            "{}",
            String::from_utf8_lossy(body)
        );
    }
    for body in ["[]", "\"x\"", "1", "null", "[{\"model\":\"m\"}]"] {
        assert_eq!(model(body), Err(JsonError::NotAnObject), "{body}");
    }
}

#[test]
fn depth_and_keys_are_bounded() {
    let nested = |levels: usize| {
        format!("{{\"model\":\"m\",\"a\":{}{}}}", "[".repeat(levels), "]".repeat(levels))
    };
    assert_eq!(model(&nested(DEPTH - 1)), Ok(Some("m".into())));
    assert_eq!(model(&nested(DEPTH)), Err(JsonError::TooDeep));
    assert_eq!(model(&nested(100_000)), Err(JsonError::TooDeep));
    // An empty list is a level as well, where it is not the first element.
    let beside =
        |levels: usize| format!("{{\"a\":{}1,[]{}}}", "[".repeat(levels), "]".repeat(levels));
    assert_eq!(model(&beside(DEPTH - 2)), Ok(None));
    assert_eq!(model(&beside(DEPTH - 1)), Err(JsonError::TooDeep));
    for places in [r#"{"model":"m","a":[NUMBER]}"#, r#"{"model":"m","a":{"b":-0.NUMBER}}"#] {
        assert_eq!(model(&places.replace("NUMBER", &"1".repeat(NUMBER - 3))), Ok(Some("m".into())));
        assert_eq!(
            model(&places.replace("NUMBER", &"1".repeat(NUMBER + 1))),
            Err(JsonError::LongNumber)
        );
    }
    let keys = |count: usize| {
        format!(
            "{{\"model\":\"m\",{}}}",
            (1..count).map(|n| format!("\"k{n}\":0")).collect::<Vec<_>>().join(",")
        )
    };
    assert_eq!(model(&keys(KEYS)), Ok(Some("m".into())));
    assert_eq!(model(&keys(KEYS + 1)), Err(JsonError::TooManyKeys));
}

#[test]
fn serde_json_agrees_on_what_is_json() {
    // Every prefix of a body with all kinds of values: either both read it or neither.
    let body = r#"{"a":[1,-2.5e3,true,false,null,"x\n\u00e9\ud83d\ude00",{"b":{}}],"model":"m"}"#;
    for end in 0..=body.len() {
        let prefix = &body[..end];
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(prefix).is_ok(),
            model(prefix).is_ok(),
            "{prefix}"
        );
    }
}

#[test]
fn prompts_after_numbers_count() {
    let mut plan = Plan::default();
    plan.caps().unwrap();
    for (prompts, expected) in [
        ("[1,2]", 1),
        (r#"[1,2,"x","y"]"#, 2),
        (r#"["x",1,2,"y",[3],{}]"#, 4),
        (r#"[1, 2 ,"x"]"#, 1),
        ("[]", 1),
    ] {
        let body = format!("{{\"prompt\":{prompts}}}");
        assert_eq!(read(body.as_bytes(), &plan).unwrap().prompts, expected, "{body}");
    }
}
