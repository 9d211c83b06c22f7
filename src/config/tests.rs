mod broken;

use super::*;

fn errors(text: &str) -> Vec<String> {
    compile(text, &|_| None).map(drop).unwrap_err().iter().map(ToString::to_string).collect()
}

#[test]
fn the_smallest_file_is_a_public_route() {
    let loaded =
        compile("routes: [{ match: { paths: [/health] }, public: true }]", &|_| None).unwrap();
    assert_eq!(loaded.file.server.body.max, ByteSize(16 << 20));
}

#[test]
fn an_unknown_feature_is_refused() {
    let text =
        "presets: [vllm]\nroutes: [{ match: { paths: [/health] }, public: true, plugins: [] }]\n";
    assert!(
        errors(text).iter().any(|error| error.contains("unknown key `presets`")),
        "{:?}",
        errors(text)
    );
    assert!(
        errors(text).iter().any(|error| error.contains("unknown key `plugins`")),
        "{:?}",
        errors(text)
    );
}

#[test]
fn sizes_need_a_unit() {
    let text = "body: { max: 5, max_in_flight: 1MB }\nroutes: [{ match: { paths: [/health] }, public: true }]";
    assert_eq!(errors(text).len(), 2, "{:?}", errors(text));
    assert!(
        errors("body: { max: 2MiB, max_in_flight: 1MiB }\nroutes: [{ match: { paths: [/a] }, public: true }]")[0]
            .contains("max_in_flight")
    );
}

/// A file in which much refers to much.
const FULL: &str = r#"
listen: { grpc: "unix:/run/a.sock", http: [{ address: "unix:/run/b.sock", dialect: nginx, body: sent }] }
body: { max: 1MiB, max_in_flight: 2MiB }
issuers:
  - { issuer: "https://a", audiences: [x], algorithms: [RS256], jwks: { url: "http://a", insecure_http: true }, required_claims: [iat, jti] }
  - { issuer: absent, audiences: any, algorithms: [HS256], secret: "file:/s", claims: { tenant: t }, required_claims: [jti] }
models: [{ name: m, serves: [m1] }, { name: n }]
tiers: [{ name: premium, models: [m], scope: "tier:premium" }]
limits:
  - { name: each, by: [subject, model], rate: 1/1s, burst: 2, overrides: [{ role: r, rate: 2/1s }] }
  - { name: where, by: [address], rate: 1/1s }
routes:
  - { match: { methods: [POST], paths: [/a, "/b/{x}"], hosts: [h.example.com] }, scopes: [s], model: { from: body, default: m1 }, limits: [each] }
  - { match: { methods: [POST], paths: ["/p/{x}"], hosts: [h.example.com] }, scopes: [], model: { from: "path:x" }, limits: [each] }
  - { match: { methods: [POST], paths: [/a], hosts: [i.example.com] }, scopes: [], on_outage: local }
  - { match: { paths: [/h] }, public: true, limits: [where] }
  - { preset: vllm, match: { hosts: [v.example.com] }, model: { scope: "m:{model}" }, limits: [each] }
store: { redis: { url: "rediss://r", username: u, password: p, tls_ca: /ca, local: { replicas: 2 } } }
"#;

/// Adds the JSON pointer of every value below `value`.
fn places(value: &serde_json::Value, at: &str, found: &mut Vec<String>) {
    if !at.is_empty() {
        found.push(at.to_owned());
    }
    match value {
        serde_json::Value::Object(map) => {
            map.iter().for_each(|(key, value)| places(value, &format!("{at}/{key}"), found))
        }
        serde_json::Value::Array(list) => {
            list.iter()
                .enumerate()
                .for_each(|(index, value)| places(value, &format!("{at}/{index}"), found));
        }
        _ => {}
    }
}

/// Returns the section of a path, and, in a list, its entry.
fn entry(path: &str) -> String {
    let path = path.trim_start_matches('/').replace(['[', '.'], "/").replace(']', "");
    let mut steps = path.split('/');
    let section = steps.next().unwrap_or_default();
    steps
        .next()
        .filter(|step| step.parse::<usize>().is_ok())
        .map_or(section.into(), |index| format!("{section}/{index}"))
}

/// Replaces or renames each value of a valid file: every error is about the entry that was changed,
/// and none follows from another.
#[test]
fn one_wrong_value_causes_no_error_elsewhere() {
    assert_eq!(errors_of(FULL), [""; 0]);
    let full: serde_json::Value =
        tollgate_core::config::Document::parse(FULL, &|_| None).unwrap().read().unwrap();
    let mut all = Vec::new();
    places(&full, "", &mut all);
    assert!(all.len() > 100, "{}", all.len());
    let mut misplaced = Vec::new();
    for at in all {
        let mut wrong = full.clone();
        *wrong.pointer_mut(&at).unwrap() = serde_json::json!({ "zzzzzz": [{}] });
        misplaced.extend(misplaced_errors(&wrong, &at, &entry(&at)));
        let (above, key) = at.rsplit_once('/').unwrap();
        let Some(map) = full.pointer(above).and_then(serde_json::Value::as_object) else {
            continue;
        };
        for name in [format!("{key}x"), "zzzzzzzz".to_owned()] {
            let mut map = map.clone();
            let value = map.remove(key).unwrap();
            map.insert(name.clone(), value);
            misplaced.extend(misplaced_errors(
                &with(&full, above, &map),
                &format!("{at} as {name}"),
                &entry(&format!("{above}/{name}")),
            ));
        }
    }
    assert!(misplaced.is_empty(), "\n{}", misplaced.join("\n"));
}

fn with(
    full: &serde_json::Value,
    above: &str,
    map: &serde_json::Map<String, serde_json::Value>,
) -> serde_json::Value {
    let mut changed = full.clone();
    *changed.pointer_mut(above).unwrap() = serde_json::Value::Object(map.clone());
    changed
}

fn errors_of(text: &str) -> Vec<String> {
    compile(text, &|_| None)
        .err()
        .unwrap_or_default()
        .iter()
        .map(|error| error.path.clone())
        .collect()
}

/// Returns the errors that are neither in the changed entry nor about its section or the file, or a
/// line about a file without errors.
fn misplaced_errors(file: &serde_json::Value, what: &str, entry_of_it: &str) -> Vec<String> {
    let found = compile(&file.to_string(), &|_| None).err().unwrap_or_default();
    let section = entry_of_it.split('/').next().unwrap_or_default();
    let near = |place: &str| place == entry_of_it || place == section || place.is_empty();
    let far = found
        .iter()
        .filter(|error| !near(&entry(&error.path)))
        .map(|error| format!("{what}: {error}"));
    far.chain(found.is_empty().then(|| format!("{what}: no error"))).collect()
}
