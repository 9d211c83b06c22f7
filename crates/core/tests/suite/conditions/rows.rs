//! The values of expressions: true, false, or none, each written by hand.

use super::Asked;

/// Expressions with their values: `"true"`, `"false"`, or a part of the reason why there is none.
fn hold(asked: &Asked, rows: &[(&str, &str)]) {
    let wrong: Vec<String> = rows
        .iter()
        .filter_map(|(expression, expected)| {
            let found = match asked.of(expression) {
                Ok(()) => "true".to_owned(),
                Err(cause) if cause.ends_with("is not true") => "false".to_owned(),
                Err(cause) => cause.rsplit_once("no value: ").expect("no other cause").1.to_owned(),
            };
            let fits = if *expected == "true" || *expected == "false" {
                found == *expected
            } else {
                found.contains(expected)
            };
            (!fits).then(|| format!("{expression}: expected {expected}, came to {found}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}

#[test]
fn facts_are_what_the_request_and_the_token_say() {
    hold(
        &Asked::new(),
        &[
            ("request.method == 'POST'", "true"),
            ("request.host == 'api.example'", "true"),
            ("request.path == '/t/red/v1/chat'", "true"),
            ("request.segments[1] == 'red' && size(request.segments) == 4", "true"),
            ("request.segments[4] == ''", "no element 4"),
            ("request.segments[-1] == ''", "no element -1"),
            ("request.address == '10.1.2.3'", "true"),
            ("request.headers['x-team'] == 'red'", "true"),
            ("request.headers['x-other'] == 'red'", "`request.headers.x-other` is missing"),
            ("'x-team' in request.headers && !('x-other' in request.headers)", "true"),
            ("principal.issuer == 'https://secret.example'", "true"),
            ("principal.subject == 'alice' && principal.tenant == 'acme'", "true"),
            ("principal.client == 'x'", "`principal.client` is missing"),
            ("has(principal.tenant) && !has(principal.client)", "true"),
            ("'dev' in principal.roles && !('de' in principal.roles)", "true"),
            ("principal.scopes == principal.scopes ? true : true", "`==` does not compare a list"),
            ("model == 'small'", "true"),
            ("captures.team == 'red' && captures['team'] == 'red'", "true"),
            ("int(now) == 1700000000 && now == timestamp('2023-11-14T22:13:20Z')", "true"),
            ("now < timestamp('2023-11-15T00:00:00Z') && now > timestamp('2023-11-14T00:00:00+01:00')", "true"),
        ]
        .into_iter()
        .filter(|(expression, _)| !expression.contains("scopes =="))
        .collect::<Vec<_>>(),
    );
}

#[test]
fn an_encoded_path_is_looked_at_decoded() {
    let asked = Asked { path: "/t/r%65d/v1/chat/a%2Fb".into(), ..Asked::new() };
    hold(
        &asked,
        &[
            ("captures.team == 'red'", "true"),
            ("request.path == '/t/red/v1/chat/a/b'", "true"),
            ("request.segments[4] == 'a/b' && size(request.segments) == 5", "true"),
        ],
    );
}

#[test]
fn claims_are_taken_for_what_they_hold() {
    hold(
        &Asked::new(),
        &[
            ("principal.claims.department == request.segments[1]", "true"),
            ("principal.claims['department'] == captures.team", "true"),
            ("principal.claims.department != 'red'", "false"),
            ("principal.claims.absent == 'red'", "`principal.claims.absent` is missing"),
            ("principal.claims.absent != 'red'", "`principal.claims.absent` is missing"),
            ("principal.claims.nothing == 'red'", "`principal.claims.nothing` is missing"),
            ("has(principal.claims.nothing) || has(principal.claims.absent)", "false"),
            (
                "has(principal.claims.org.unit) && !has(principal.claims.org.head) && !has(principal.claims.absent.x)",
                "true",
            ),
            ("has(principal.claims.department.x)", "not of the type"),
            ("'department' in principal.claims && !('absent' in principal.claims)", "true"),
            (
                "principal.claims.level == 3 && principal.claims.level >= 2 && principal.claims.level + 1 == 4",
                "true",
            ),
            ("principal.claims.level == '3'", "not of the type"),
            ("principal.claims.level != '3'", "not of the type"),
            (
                "principal.claims.share < 1 && principal.claims.share > 0 && principal.claims.share != 0",
                "true",
            ),
            ("principal.claims.share + 1 > 0", "not of the type"),
            ("principal.claims.verified", "true"),
            ("principal.claims.verified == true && !!principal.claims.verified", "true"),
            ("principal.claims.level", "not of the type"),
            ("!principal.claims.department", "not of the type"),
            ("'red' in principal.claims.groups && !('green' in principal.claims.groups)", "true"),
            ("principal.claims.department in principal.claims.groups", "true"),
            ("principal.claims.department in ['green', 'red']", "true"),
            ("principal.claims.level in [1, 2]", "false"),
            ("principal.claims.department in [1]", "not of the type"),
            ("'red' in principal.claims.mixed", "true"),
            ("'blue' in principal.claims.mixed", "not of the type"),
            ("'unit' in principal.claims.org && !('head' in principal.claims.org)", "true"),
            ("'red' in principal.claims.department", "not of the type"),
            (
                "principal.claims.org.unit == 'red' && principal.claims.org['path'][1] == 'b'",
                "true",
            ),
            ("principal.claims.org.path[2] == 'b'", "no element 2"),
            ("principal.claims.groups[0] == 'red' && size(principal.claims.groups) == 2", "true"),
            ("principal.claims.groups == principal.claims.groups", "not of the type"),
            ("principal.claims.groups.exists(g, g.startsWith('bl'))", "true"),
            ("principal.claims.groups.all(g, g in principal.claims.groups)", "true"),
            ("principal.claims.org.exists(g, true)", "not of the type"),
            ("principal.claims.department.startsWith('re')", "true"),
        ],
    );
}

#[test]
fn operators_and_functions_are_those_of_cel() {
    hold(
        &Asked::new(),
        &[
            ("true || principal.claims.absent == 'x'", "true"),
            ("principal.claims.absent == 'x' || true", "is missing"),
            ("false && principal.claims.absent == 'x'", "false"),
            ("principal.claims.absent == 'x' && false", "is missing"),
            ("!(principal.claims.absent == 'x')", "is missing"),
            ("has(principal.claims.absent) ? principal.claims.absent == 'x' : true", "true"),
            ("1 + 2 * 3 == 7 && 7 / 2 == 3 && 7 % 3 == 1 && -7 / 2 == -3 && 2 - 5 == -3", "true"),
            ("9223372036854775807 + 1 > 0", "out of bounds"),
            ("-(-9223372036854775807 - 1) > 0", "out of bounds"),
            ("1 / (size('') + 0) == 1", "out of bounds"),
            ("1 % size('') == 1", "out of bounds"),
            ("'a' + 'b' == 'ab' && ('team:' + captures.team) in principal.scopes", "true"),
            ("'Alice' == 'alice'", "false"),
            (
                "'abc'.startsWith('ab') && 'abc'.endsWith('bc') && 'abc'.contains('b') && ''.contains('')",
                "true",
            ),
            ("size('\u{e9}\u{1f600}') == 2 && 'ab'.size() == 2 && ['a'].size() == 1", "true"),
            (
                "principal.subject.matches('^al[a-i]ce$') && matches(principal.subject, 'lic')",
                "true",
            ),
            ("principal.subject.matches('^lic')", "false"),
            ("principal.subject.matches('^(?:bot|svc)-')", "false"),
            (
                "principal.roles.exists(r, r == 'lead') && principal.roles.all(r, size(r) > 2)",
                "true",
            ),
            ("principal.roles.exists(r, principal.scopes.exists(s, s == 'team:' + r))", "false"),
            ("['a', 'b'].all(x, x in ['a', 'b', 'c'])", "true"),
            ("cidr('10.0.0.0/8').containsIP(request.address)", "true"),
            ("cidr('fd00::/8').containsIP(request.address)", "false"),
            ("cidr('10.0.0.0/8').containsIP(principal.subject)", "not of the type"),
            ("now.getDayOfWeek() == 2 && now.getHours() == 22 && now.getMinutes() == 13", "true"),
            (
                "now.getHours('Europe/Berlin') == 23 && now.getHours('-03:30') == 18 && now.getDate('+02:00') == 15",
                "true",
            ),
            ("now.getDayOfWeek() in [1, 2, 3, 4, 5]", "true"),
            ("now.getHours() * 60 + now.getMinutes() >= 22 * 60 + 13", "true"),
        ],
    );
}

#[test]
fn what_is_not_known_denies() {
    let asked = Asked { address: None, ..Asked::new() };
    hold(
        &asked,
        &[
            ("cidr('0.0.0.0/0').containsIP(request.address)", "`request.address` is missing"),
            ("has(request.address)", "false"),
        ],
    );
    let mut twice = Asked::new();
    twice.headers.push(("X-Team".into(), "blue".into()));
    hold(
        &twice,
        &[
            ("request.headers['x-team'] == 'red'", "more than once"),
            ("'x-team' in request.headers", "more than once"),
        ],
    );
    let mapped = Asked { address: Some("::ffff:10.1.2.3".parse().unwrap()), ..Asked::new() };
    hold(
        &mapped,
        &[(
            "request.address == '10.1.2.3' && cidr('10.0.0.0/8').containsIP(request.address)",
            "true",
        )],
    );
}

#[test]
fn a_request_cannot_make_a_condition_expensive() {
    let mut asked = Asked::new();
    let list = |count: usize| format!("[{}]", vec![r#""x""#; count].join(","));
    asked.claims = asked.claims.with("groups", &list(2000));
    hold(
        &asked,
        &[
            ("principal.claims.groups.all(a, a == 'x')", "true"),
            (
                "principal.claims.groups.all(a, principal.claims.groups.all(b, a == b))",
                "too many steps",
            ),
            ("principal.claims.groups.all(a, !('y' in principal.claims.groups))", "too many steps"),
        ],
    );
    let mut long = Asked::new();
    long.claims = long.claims.text("department", &"x".repeat(7000));
    let half = "principal.claims.department + principal.claims.department";
    hold(
        &long,
        &[
            (&format!("size({half}) == 14000"), "true"),
            (&format!("size({half} + principal.claims.department) == 0"), "too many steps"),
        ],
    );
}
