//! The configuration: no text causes a panic, and errors contain their path and no secret.

use proptest::prelude::{Strategy, any, prop, prop_assert_eq, prop_oneof, proptest};
use tollgate_core::{
    config::{ConfigError, Document, Errors, expand},
    policy::{Policy, PolicyConfig},
};

use super::cases;

const GOOD: &str = "issuers:
  - issuer: https://a.example
    audiences: [inference-api]
    algorithms: [RS256, ES256]
    jwks: { url: https://a.example/jwks, refresh: 5m }
    claims: { roles: [realm_access, roles] }
  - { issuer: absent, audiences: any, algorithms: [HS256], secret: hunter2-hunter2-hunter2-hunter2- }
models: [ { name: qwen, serves: [Qwen/Qwen2] } ]
routes:
  - match: { hosts: ['*.example.com'], methods: [POST], paths: [/v1/chat, '/v1/{x}/y', '/v1/{z*}'] }
    scopes: { any: [a, b] }
    model: { from: body, scope: 'model:{model}:use' }
    limits: [one]
    on_outage: error
  - { match: { paths: ['/static/*'] }, public: true }
limits:
  - { name: one, by: [subject], rate: 60/1m, burst: 20, overrides: [ { role: premium, rate: 600/1m } ] }
revocation: { foreign: ['b:{token_sha256}'] }
require_https: true
";

/// Parses, reads and compiles. Returns all errors of the first step that fails.
fn compile(text: &str) -> Result<(), Vec<ConfigError>> {
    let document = Document::parse(text, &|name| (name == "A").then(|| "value".to_owned()))?;
    let config: PolicyConfig = document.read()?;
    let mut errors = Errors::default();
    match Policy::compile(&config, &mut errors) {
        Some(_) => Ok(()),
        None => Err(document.locate(errors)),
    }
}

fn check(text: &str) -> Result<(), String> {
    let first = compile(text);
    if first != compile(text) {
        return Err("another answer the second time".into());
    }
    let Err(errors) = first else { return Ok(()) };
    if errors.is_empty() {
        return Err("refused without an error".into());
    }
    let lines =
        u64::try_from(text.split(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']).count()).unwrap();
    match errors.iter().find(|error| {
        error.message().is_empty() || error.line.is_some_and(|line| line == 0 || line > lines + 1)
    }) {
        Some(error) => Err(format!("{error} ({lines} lines)")),
        None => Ok(()),
    }
}

fn soup() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "issuers:", "routes:", "limits:", "match:", "paths:", "- ", "  ", "\n", "\n  ", "\n- ",
        ": ", "[", "]", "{", "}", ",", "'", "\"", "#", "&a ", "*a", "!!str ", "|", ">", "---\n",
        "...", "? ", "\t", "/v1", "${A}", "${B}", "${", "$${", "null", "~", "true", "yes", "1",
        "-1", "1e999", ".nan", "0x1", "\u{e9}", "\u{0}", "\u{feff}", "<<: ", "any", "[[[[",
    ]);
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(cases(1500))]

    #[test]
    fn no_text_stops_the_reader(text in prop_oneof![any::<String>(), soup()]) {
        prop_assert_eq!(check(&text), Ok(()), "{:?}", text);
    }

    #[test]
    fn no_change_of_a_good_file_stops_the_reader(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<char>(), 0..4u8), 1..4),
    ) {
        let mut text: Vec<char> = GOOD.chars().collect();
        for (at, with, how) in changes {
            let at = at.index(text.len() + 1);
            match how {
                0 if at < text.len() => text[at] = with,
                1 if at < text.len() => { text.remove(at); }
                2 => text.truncate(at),
                _ => text.insert(at, with),
            }
        }
        let text: String = text.into_iter().collect();
        prop_assert_eq!(check(&text), Ok(()), "{}", text);
    }

    /// Every value of a good file in turn, replaced by one of another kind.
    #[test]
    fn no_value_of_another_kind_stops_the_reader(
        at in any::<prop::sample::Index>(),
        with in prop::sample::select(vec![
            "null", "true", "0", "-5", "1.5", "[]", "{}", "[[1]]", "{ a: b }", "''", "x", "99999999999999999999999",
        ]),
    ) {
        let values: Vec<(usize, &str)> = GOOD.match_indices(": ").collect();
        let (start, _) = values[at.index(values.len())];
        let rest = &GOOD[start + 2..];
        let end = rest.find([',', '\n', '}', ']']).unwrap_or(rest.len());
        let text = format!("{}: {with}{}", &GOOD[..start], &rest[end..]);
        prop_assert_eq!(check(&text), Ok(()), "{}", text);
    }

    #[test]
    fn expansion_never_stops_and_plain_text_stays(text in any::<String>()) {
        let expanded = expand(&text, &|_| None);
        if !text.contains("${") {
            prop_assert_eq!(expanded.as_deref(), Ok(text.as_str()));
        }
        // An escaped text is read unchanged.
        let escaped = text.replace("${", "$${");
        if !text.contains("$${") && !text.ends_with('$') {
            prop_assert_eq!(expand(&escaped, &|_| None), Ok(text));
        }
    }
}

#[test]
fn the_good_file_is_good() {
    assert_eq!(compile(GOOD), Ok(()));
}

/// Invariant: the error about a malformed secret does not contain it.
#[test]
fn no_error_shows_a_secret() {
    let secret = "987654321098765";
    for written in [
        secret.to_owned(),
        format!("-{secret}"),
        format!("{secret}.5"),
        format!("[{secret}]"),
        format!("['{secret}']"),
        format!("{{ '{secret}': x }}"),
        format!("{{ x: '{secret}' }}"),
        format!("'{secret}' x"),
        format!("\"{secret}"),
        format!("'{secret}"),
        format!("!!int '{secret}'"),
        format!("*{secret}"),
    ] {
        let text = GOOD.replace("hunter2-hunter2-hunter2-hunter2-", &written);
        let errors = compile(&text).unwrap_err();
        for error in errors {
            assert!(!error.to_string().contains(secret), "{written}: {error}");
        }
    }
}
