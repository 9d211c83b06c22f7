//! The route table against a matcher that tries every route, on random tables.
//!
//! The matcher is the documentation in code: host (exact, then the longest `*.suffix`, then any),
//! then the path segment by segment (literal, then `{x}`, then `{x*}`), then the method; and for an
//! encoded path the same, raw and decoded.

use std::collections::BTreeMap;

use proptest::prelude::{Just, Strategy, prop, prop_assert_eq, prop_oneof, proptest};
use serde_json::json;
use tollgate_core::{
    config::{Document, Errors},
    denial::Reason,
    policy::{Policy, PolicyConfig},
    request::{Host, RequestPath},
};

use super::cases;

/// A route as written in the file.
#[derive(Clone, Debug)]
struct Written {
    hosts: Vec<&'static str>,
    methods: Vec<&'static str>,
    paths: Vec<String>,
}

/// A part of a pattern, ordered from the best match to the worst.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Literal(String),
    One,
    Rest,
}

/// One way to match a route. `/*` has three of them.
#[derive(Clone, Debug)]
struct Way {
    route: usize,
    host: &'static str,
    method: &'static str,
    parts: Vec<Part>,
    names: Vec<String>,
}

fn ways(routes: &[Written]) -> Vec<Way> {
    let mut ways = Vec::new();
    for (route, written) in routes.iter().enumerate() {
        let hosts = if written.hosts.is_empty() { vec![""] } else { written.hosts.clone() };
        let mut methods = written.methods.clone();
        if methods.contains(&"GET") && !methods.contains(&"HEAD") {
            methods.push("HEAD");
        }
        for path in &written.paths {
            for parts in shapes(path) {
                for host in &hosts {
                    for method in &methods {
                        let names = names(path);
                        ways.push(Way { route, host, method, parts: parts.clone(), names });
                    }
                }
            }
        }
    }
    ways
}

fn names(path: &str) -> Vec<String> {
    path.split('/')
        .filter_map(|part| part.strip_prefix('{'))
        .map(|part| part.trim_end_matches(['*', '}']).to_owned())
        .collect()
}

fn shapes(path: &str) -> Vec<Vec<Part>> {
    let part = |text: &str| match text {
        text if text.starts_with('{') && text.ends_with("*}") => Part::Rest,
        text if text.starts_with('{') => Part::One,
        text => Part::Literal(text.to_owned()),
    };
    let texts: Vec<&str> = path[1..].split('/').collect();
    match texts.split_last().unwrap() {
        (&"*", before) => {
            let before: Vec<Part> = before.iter().map(|text| part(text)).collect();
            let with = |last: Part| [before.as_slice(), &[last]].concat();
            vec![before.clone(), with(Part::Literal(String::new())), with(Part::Rest)]
        }
        _ => vec![texts.into_iter().map(part).collect()],
    }
}

/// The values of the captures for a path; `None` if the path does not match.
fn walk(parts: &[Part], path: &str) -> Option<Vec<String>> {
    let mut values = Vec::new();
    // `/*` covers the path itself: no part remains before the first slash.
    let mut rest = path.strip_prefix('/');
    for part in parts {
        let text = rest?;
        let (segment, tail) =
            text.split_once('/').map_or((text, None), |(segment, tail)| (segment, Some(tail)));
        rest = tail;
        match part {
            Part::Literal(literal) if literal == segment => {}
            Part::One if !segment.is_empty() => values.push(segment.to_owned()),
            Part::Rest if !text.is_empty() => {
                values.push(text.to_owned());
                rest = None;
            }
            _ => return None,
        }
    }
    rest.is_none().then_some(values)
}

/// The rank of a host match; a smaller one is better.
fn host_rank(pattern: &str, host: &str) -> Option<(u8, usize)> {
    match pattern.strip_prefix('*') {
        _ if pattern.is_empty() => Some((2, 0)),
        Some(suffix) => host.ends_with(suffix).then_some((1, usize::MAX - suffix.len())),
        None => (pattern == host).then_some((0, 0)),
    }
}

type Place<'a> = (&'a str, &'a [Part]);

/// The best match of a path with its captures, regardless of the method.
fn best<'a>(ways: &'a [Way], host: &str, path: &str) -> Option<(Place<'a>, Vec<String>)> {
    ways.iter()
        .filter_map(|way| Some((host_rank(way.host, host)?, way, walk(&way.parts, path)?)))
        .min_by_key(|(rank, way, _)| (*rank, way.parts.clone()))
        .map(|(_, way, values)| ((way.host, way.parts.as_slice()), values))
}

type Met = (String, BTreeMap<String, String>);

fn expected(
    ways: &[Way],
    host: &str,
    raw: &str,
    decoded: &str,
    method: &str,
) -> Result<Met, Reason> {
    let decode = |text: &String| String::from_utf8(percent_decoded(text)).unwrap();
    let (place, values, plain) = match (best(ways, host, raw), best(ways, host, decoded)) {
        (None, None) => return Err(Reason::NoRoute),
        (Some((place, values)), Some((other, plain))) if place == other => (place, values, plain),
        _ => return Err(Reason::MalformedRequest),
    };
    let way = ways
        .iter()
        .find(|way| (way.host, way.parts.as_slice()) == place && way.method == method)
        .ok_or(Reason::NoRoute)?;
    let captures =
        |values: Vec<String>| way.names.iter().cloned().zip(values).collect::<BTreeMap<_, _>>();
    let taken = captures(values.iter().map(decode).collect());
    if taken == captures(plain) {
        Ok((way.route.to_string(), taken))
    } else {
        Err(Reason::MalformedRequest)
    }
}

fn percent_decoded(text: &str) -> Vec<u8> {
    let mut parts = text.split('%');
    let mut out = parts.next().unwrap().as_bytes().to_vec();
    for part in parts {
        out.push(u8::from_str_radix(&part[..2], 16).unwrap());
        out.extend(&part.as_bytes()[2..]);
    }
    out
}

fn compile(routes: &[Written]) -> Option<Policy> {
    let list: Vec<_> = routes
        .iter()
        .enumerate()
        .map(|(index, route)| {
            json!({
                "name": index.to_string(),
                "match": { "hosts": route.hosts, "methods": route.methods, "paths": route.paths },
                "public": true,
            })
        })
        .collect();
    let document = Document::parse(&json!({ "routes": list }).to_string(), &|_| None).unwrap();
    let config: PolicyConfig = document.read().unwrap();
    Policy::compile(&config, &mut Errors::default())
}

fn pattern() -> impl Strategy<Value = String> {
    let segment = prop::sample::select(vec!["a", "a", "b", "ab", "{x}", "{x}"]);
    let last = prop::sample::select(vec!["a", "b", "", "{z}", "{z*}", "*", "*"]);
    (prop::collection::vec(segment, 0..4), last).prop_map(|(segments, last)| {
        // A name is used once in a pattern.
        let mut path = String::new();
        for (at, segment) in segments.iter().enumerate() {
            path.push('/');
            path.push_str(&segment.replace('x', &format!("x{at}")));
        }
        format!("{path}/{last}")
    })
}

fn route() -> impl Strategy<Value = Written> {
    let hosts = prop_oneof![
        3 => Just(Vec::new()),
        2 => prop::sample::subsequence(vec!["h.example", "*.example", "*.h.example", "x.h.example", "example"], 1..3),
    ];
    let methods = prop::sample::subsequence(vec!["GET", "HEAD", "POST", "DELETE"], 1..3);
    (hosts, methods, prop::collection::vec(pattern(), 1..4))
        .prop_map(|(hosts, methods, paths)| Written { hosts, methods, paths })
}

/// Some of the letters and slashes as `%XX`.
fn path() -> impl Strategy<Value = String> {
    let segment = prop::sample::select(vec!["a", "a", "b", "ab", "c", "abc"]);
    let letter = prop_oneof![6 => Just(0u8), 1 => Just(1), 1 => Just(2)];
    (prop::collection::vec(segment, 0..5), prop::bool::ANY, prop::collection::vec(letter, 24))
        .prop_map(|(segments, slash, how)| {
            let mut path = format!("/{}", segments.join("/"));
            if slash && path.len() > 1 {
                path.push('/');
            }
            let mut how = how.into_iter().cycle();
            let mut encoded = String::from("/");
            for letter in path[1..].chars() {
                match how.next().unwrap() {
                    1 => encoded.push_str(&format!("%{:02x}", u32::from(letter))),
                    2 => encoded.push_str(&format!("%{:02X}", u32::from(letter))),
                    _ => encoded.push(letter),
                }
            }
            encoded
        })
}

proptest! {
    #![proptest_config(cases(4000))]

    #[test]
    fn the_table_finds_what_trying_every_route_finds(
        routes in prop::collection::vec(route(), 1..7),
        asked in prop::collection::vec(
            (
                path(),
                prop::sample::select(vec!["h.example", "x.h.example", "y.x.h.example", "example", "other", "notexample"]),
                prop::sample::select(vec!["GET", "HEAD", "POST", "DELETE", "PUT"]),
            ),
            1..24,
        ),
    ) {
        let ways = ways(&routes);
        let twice = (1..ways.len()).any(|at| {
            let (known, way) = (&ways[..at], &ways[at]);
            known.iter().any(|other| (other.host, other.method, &other.parts) == (way.host, way.method, &way.parts))
        });
        let policy = compile(&routes);
        prop_assert_eq!(policy.is_none(), twice, "two identical matches are an error, and nothing else is");
        let Some(policy) = policy else { return Ok(()) };
        for (path, host, method) in asked {
            let Ok(parsed) = RequestPath::parse(path.as_bytes()) else { continue };
            let found = policy.routes.find(&Host::parse(host.as_bytes()).unwrap(), &parsed, method);
            let expected = expected(&ways, host, &path, parsed.decoded(), method);
            let names: Vec<String> = routes.iter().flat_map(|route| &route.paths).flat_map(|path| names(path)).collect();
            let found = found
                .map(|(route, captures)| {
                    let taken = names.iter().filter_map(|name| Some((name.clone(), captures.get(name)?.to_owned()))).collect();
                    (route.name.clone(), taken)
                })
                .map_err(|denial| denial.reason);
            prop_assert_eq!(found, expected, "{} {}{}", method, host, path);
        }
    }
}
