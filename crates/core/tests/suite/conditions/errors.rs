//! Errors in expressions are reported when the file is read, with their path.

use super::{Asked, ISSUER, policy};
use crate::harness::compile;

#[test]
fn what_is_wrong_is_told_with_its_line() {
    let rows = [
        ("principal.subjct == 'a'", "there is no `principal.subjct`; a principal has issuer"),
        ("request.body == 'a'", "there is no `request.body`"),
        ("user.name == 'a'", "`user` is not known"),
        ("principal == 'a'", "`principal` has no value of its own"),
        ("principal.claims == 'a'", "name one claim"),
        ("request.headers == 'a'", "name one header"),
        ("request.headers['X-Team'] == 'a'", "in lower case"),
        ("request.headers['authorization'] == 'a'", "holds a credential"),
        ("request.headers.cookie == 'a'", "holds a credential"),
        ("captures.tenant == 'a'", "not every path of this route has a capture `{tenant}`"),
        ("request.method.length == 1", "text has no member `length`"),
        ("request.method", "a condition needs a truth value, and this is text"),
        ("1", "a condition needs a truth value, and this is an integer"),
        ("request.method == 1", "`==` compares text with an integer, which are never equal"),
        ("request.method < 'a'", "`<` does not compare text"),
        ("principal.roles == ['a']", "`==` does not compare a list of texts"),
        ("!request.method", "`!` needs a truth value, and this is text"),
        ("true && 1", "`&&` needs a truth value, and this is an integer"),
        ("true ? 1 : 'a'", "`?` needs the same on both sides"),
        ("1 in ['a']", "`in` looks for an integer in a list of texts"),
        ("'a' in 'abc'", "`in` looks for text in text"),
        ("'a' - 'b' == 'c'", "`-` does not join text and text"),
        ("now + 1 == 2", "`+` does not join a timestamp and an integer"),
        ("principal.roles['a'] == 'a'", "a list of texts has no member `a`"),
        ("principal.roles['a'][0] == 'a'", "a list of texts has no member `a`"),
        ("principal.roles[0][0] == 'a'", "text"),
        ("has(principal.issuer)", "`issuer` is always there"),
        ("request.path.matches(principal.subject)", "must be written out"),
        ("request.path.matches('(')", "is no pattern: unclosed group"),
        ("request.path.matches('(a|b)*a(a|b){20}')", "could make it slow"),
        ("request.path.matches('(?=a)')", "look-around"),
        ("request.path.matches('(a)\\\\1')", "backreferences are not supported"),
        ("request.path.matches('\\\\w{500}{100}')", "its automaton would take more than"),
        ("now.getHours('CEST') == 1", "`CEST` is no time zone"),
        ("now.getHours(principal.tenant) == 1", "must be written out"),
        ("now.getHours('UTC', 'UTC') == 1", "there is no function `getHours` with these arguments"),
        ("timestamp('tomorrow') < now", "is no moment since 1970"),
        ("cidr('10.0.0.1/8').containsIP(request.address)", "has bits behind its length"),
        ("cidr(request.address).containsIP(request.address)", "write `cidr"),
        ("cidr('10.0.0.0/8') == 'a'", "there is no function `cidr`"),
        ("startsWith('a', 'b')", "there is no function `startsWith`"),
        ("'a'.lowerAscii() == 'a'", "there is no function `lowerAscii`"),
        ("principal.roles.map(r, r) == ['a']", "only `has`, `all` and `exists`"),
        ("principal.roles.filter(r, true) == ['a']", "only `has`, `all` and `exists`"),
        ("principal.roles.exists_one(r, true)", "only `has`, `all` and `exists`"),
        ("principal.roles.all(now, true)", "`now` already means something"),
        ("principal.roles.all(r, principal.roles.all(r, true))", "`r` already means something"),
        (
            "principal.roles.all(a, principal.roles.all(b, principal.roles.all(c, true)))",
            "more than 2",
        ),
        ("principal.subject.all(c, true)", "need a list, and this is text"),
        ("principal.roles.all(r, r)", "`all` needs a truth value, and this is text"),
        ("null == null", "`null` is not supported"),
        ("1.5 < 2", "only integers"),
        ("1u == 1", "only integers"),
        ("b'a' == b'a'", "bytes are not supported"),
        ("{'a': true}['a']", "not supported"),
        ("[] == []", "at least one element"),
        ("['a', 1].exists(x, true)", "either texts or integers"),
        ("a ==", "this is not CEL: column 5"),
        ("", "this is not CEL"),
        ("true;", "this is not CEL"),
        ("'a", "unterminated"),
    ];
    let mut wrong = Vec::new();
    for (expression, expected) in rows {
        match compile(&policy(expression)) {
            Ok(_) => wrong.push(format!("{expression}: compiles")),
            Err(errors)
                if errors.starts_with("line 12: routes[0].conditions[0]: ")
                    && errors.contains(expected) => {}
            Err(errors) => wrong.push(format!("{expression}: {errors}")),
        }
    }
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}

#[test]
fn a_route_can_only_speak_of_what_it_has() {
    let public = "routes: [{ match: { paths: [/health] }, public: true, conditions: [\"principal.subject == 'a'\"] }]";
    assert!(compile(public).unwrap_err().contains("the route is public: there is no `principal`"));
    let claims = "routes: [{ match: { paths: [/health] }, public: true, conditions: [\"'a' in principal.claims\"] }]";
    assert!(compile(claims).unwrap_err().contains("the route is public"));
    let model = format!(
        "{ISSUER}routes: [{{ match: {{ methods: [GET], paths: [/x] }}, scopes: [], conditions: [\"model == 'a'\"] }}]"
    );
    assert!(compile(&model).unwrap_err().contains("the route has no `model`"));
    let preset = format!("{ISSUER}routes: [{{ preset: vllm, conditions: [\"model == 'a'\"] }}]");
    assert!(compile(&preset).unwrap_err().contains("the route has no `model`"));
    let preset =
        format!("{ISSUER}routes: [{{ preset: vllm, conditions: [\"now.getHours() >= 8\"] }}]");
    assert!(compile(&preset).is_ok());
}

#[test]
fn a_name_and_a_message_are_checked_and_the_place_is_told() {
    let with = |conditions: &str| {
        format!(
            "{ISSUER}routes:\n  - match: {{ methods: [GET], paths: [/x] }}\n    scopes: []\n    conditions:\n{conditions}"
        )
    };
    let two =
        with("      - { name: a, expression: 'true' }\n      - { name: a, expression: 'false' }\n");
    assert!(
        compile(&two)
            .unwrap_err()
            .contains("line 13: routes[0].conditions[1].name: two conditions have this name")
    );
    let empty = with("      - { name: '', expression: 'true', message: \"a\\nb\" }\n");
    let errors = compile(&empty).unwrap_err();
    assert!(
        errors.contains("`name` is 1 to 256") && errors.contains("`message` is 1 to 256"),
        "{errors}"
    );
    let wrong = with("      - 'true'\n      - name: b\n        expression: unknown\n");
    assert!(
        compile(&wrong)
            .unwrap_err()
            .contains("line 14: routes[0].conditions[1].expression: `unknown` is not known")
    );
    assert!(compile(&with("      - { name: b }\n")).unwrap_err().contains("expression"));
    assert!(compile(&with("      - 5\n")).unwrap_err().contains("an expression, or"));
    let many = with(&"      - 'true'\n".repeat(17));
    assert!(compile(&many).unwrap_err().contains("at most 16"));
}

#[test]
fn no_expression_of_any_shape_needs_a_large_stack() {
    let shapes = || {
        let mut compiled = 0;
        let mut run = |expression: String| {
            if compile(&policy(&expression)).is_ok() {
                drop(Asked::new().of(&expression));
                compiled += 1;
            }
        };
        for times in [1, 2, 10, 15, 30, 60, 120] {
            for (open, close) in [
                ("!", ""),
                ("(", ")"),
                ("true && ", ""),
                ("true || ", ""),
                ("true ? true : ", ""),
                ("[1].all(x, ", ")"),
            ] {
                run(format!("{}true{}", open.repeat(times), close.repeat(times)));
            }
            for chain in ["1 + ", "-"] {
                run(format!("{}1 < 1", chain.repeat(times)));
            }
            for chain in [".a", "[0]", "['a']"] {
                run(format!("principal.claims.department[0]{} == 1", chain.repeat(times)));
            }
        }
        compiled
    };
    // The stack of a tokio worker is four times as large.
    let stack = std::thread::Builder::new().stack_size(512 * 1024).spawn(shapes).unwrap();
    let compiled = stack.join().unwrap();
    assert!(compiled > 40, "{compiled}");
}
