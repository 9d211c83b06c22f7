//! Random expressions, compared with the interpreter of the `cel` crate: wherever our evaluation is
//! true or false, its result is the same. (Where ours has no value, its interpreter may have one: a
//! comparison of different types is false there, and `error || true` is true.)

use cel::{Context, Value, parser::PrattParser};
use proptest::prelude::{BoxedStrategy, Just, Strategy, any, prop_oneof, proptest};
use serde::Serialize;
use serde_json::json;

use super::Asked;
use crate::properties::cases;

fn one_of(items: &'static [&'static str]) -> BoxedStrategy<String> {
    proptest::sample::select(items).prop_map(str::to_owned).boxed()
}

fn text() -> BoxedStrategy<String> {
    let leaf = one_of(&[
        "'red'",
        "'a'",
        "''",
        "'team:'",
        "request.method",
        "request.path",
        "request.segments[0]",
        "request.segments[1]",
        "request.segments[9]",
        "request.headers['x-team']",
        "principal.subject",
        "principal.tenant",
        "principal.client",
        "principal.claims.department",
        "principal.claims.org.unit",
        "principal.claims.groups[1]",
        "principal.claims.absent",
        "principal.claims.level",
        "captures.team",
        "model",
    ]);
    leaf.prop_recursive(2, 4, 2, |inner| {
        (inner.clone(), inner).prop_map(|(a, b)| format!("({a} + {b})"))
    })
    .boxed()
}

fn list() -> BoxedStrategy<String> {
    one_of(&[
        "request.segments",
        "principal.roles",
        "principal.scopes",
        "principal.claims.groups",
        "principal.claims.org.path",
        "['red', 'blue', 'a']",
    ])
}

fn integer() -> BoxedStrategy<String> {
    let leaf = prop_oneof![
        (-3..9i64).prop_map(|number| number.to_string()),
        Just("principal.claims.level".to_owned()),
        Just("principal.claims.absent".to_owned()),
        text().prop_map(|text| format!("size({text})")),
        list().prop_map(|list| format!("{list}.size()")),
    ];
    let sign = one_of(&["+", "-", "*", "/", "%"]);
    leaf.prop_recursive(3, 8, 2, move |inner| {
        (inner.clone(), sign.clone(), inner).prop_map(|(a, sign, b)| format!("({a} {sign} {b})"))
    })
    .boxed()
}

fn truth() -> BoxedStrategy<String> {
    let relation = one_of(&["==", "!="]);
    let order = one_of(&["==", "!=", "<", "<=", ">", ">="]);
    let leaf = prop_oneof![
        any::<bool>().prop_map(|truth| truth.to_string()),
        (text(), relation, text()).prop_map(|(a, sign, b)| format!("{a} {sign} {b}")),
        (integer(), order, integer()).prop_map(|(a, sign, b)| format!("{a} {sign} {b}")),
        (text(), list()).prop_map(|(text, list)| format!("{text} in {list}")),
        (text(), one_of(&["startsWith", "endsWith", "contains"]), text())
            .prop_map(|(a, method, b)| format!("{a}.{method}({b})")),
        one_of(&[
            "has(principal.tenant)",
            "has(principal.client)",
            "has(principal.claims.department)",
            "has(principal.claims.absent)",
            "has(principal.claims.org.unit)",
            "has(principal.claims.org.absent)",
            "'x-team' in request.headers",
            "'x-absent' in request.headers",
            "principal.claims.verified",
        ]),
        (list(), one_of(&["exists", "all"]), text())
            .prop_map(|(list, each, text)| format!("{list}.{each}(x, x == {text})")),
        (list(), one_of(&["exists", "all"]), list())
            .prop_map(|(list, each, other)| format!("{list}.{each}(x, x in {other})")),
    ];
    leaf.prop_recursive(4, 16, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|a| format!("!({a})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} && {b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} || {b})")),
            (inner.clone(), inner.clone(), inner)
                .prop_map(|(a, b, c)| format!("({a} ? {b} : {c})")),
        ]
    })
    .boxed()
}

/// The claims of [`Asked::new`]. Read from JSON, the interpreter's numbers would be unsigned.
#[derive(Serialize)]
struct Claims {
    department: &'static str,
    level: i64,
    verified: bool,
    groups: [&'static str; 2],
    org: serde_json::Value,
}

#[derive(Serialize)]
struct Principal {
    subject: &'static str,
    tenant: &'static str,
    roles: [&'static str; 2],
    scopes: [&'static str; 2],
    claims: Claims,
}

/// The values of [`Asked::new`] in the interpreter's types.
fn context() -> Context<'static, 'static> {
    let mut context = Context::default();
    let headers = json!({ "x-team": "red", "x-model": "small" });
    let request = json!({ "method": "POST", "path": "/t/red/v1/chat", "segments": ["t", "red", "v1", "chat"], "headers": headers });
    let org = json!({ "unit": "red", "path": ["a", "b"] });
    let claims =
        Claims { department: "red", level: 3, verified: true, groups: ["red", "blue"], org };
    let principal = Principal {
        subject: "alice",
        tenant: "acme",
        roles: ["dev", "lead"],
        scopes: ["infer:text", "team:red"],
        claims,
    };
    context.add_variable("request", request).unwrap();
    context.add_variable("principal", principal).unwrap();
    context.add_variable("captures", json!({ "team": "red" })).unwrap();
    context.add_variable("model", "small").unwrap();
    context
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn the_interpreter_says_the_same(expression in truth()) {
        let asked = Asked::new();
        // Some of them do not compile, or exceed the depth.
        if crate::harness::compile(&super::policy(&expression)).is_err() {
            return Ok(());
        }
        let ours = match asked.of(&expression) {
            Ok(()) => Some(true),
            Err(cause) if cause.ends_with("is not true") => Some(false),
            Err(_) => None,
        };
        let parsed = PrattParser::new().parse(&expression).unwrap();
        let theirs = match Value::resolve(&parsed, &context()) {
            Ok(Value::Bool(value)) => Some(value),
            _ => None,
        };
        if ours.is_some() {
            proptest::prop_assert_eq!(ours, theirs, "{}", expression);
        }
    }
}
