//! The reader of the configuration file. What is accepted is a policy that lets nothing pass without a credential but through a route
//! that the file calls public; JSON text, which is YAML as well, has one reading; and every error is in the file.
#![no_main]

use std::{str, sync::Arc};

use libfuzzer_sys::fuzz_target;
use tollgate::config::{TextDigest, compile};
use tollgate_core::{
    check::{NoHooks, Prepared, prepare},
    request::{Headers, RawBody, RawRequest},
    snapshot::Snapshot,
    time::Timestamp,
};
use tollgate_fuzz::json::{Reading, Tree};

/// The value of the environment variables that a file may name. Names that begin with `NO` have none.
const VALUE: &str = "0123456789abcdef0123456789abcdef";

fn environment(name: &str) -> Option<String> {
    (!name.starts_with("NO")).then(|| VALUE.to_owned())
}

fuzz_target!(|input: &[u8]| {
    let Ok(text) = str::from_utf8(input) else { return };
    let loaded = match compile(text, &environment) {
        Ok(loaded) => loaded,
        Err(errors) => {
            assert!(!errors.is_empty());
            let lines = 1 + text.split(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']).count();
            for error in errors {
                assert!(
                    error.line.is_none_or(|line| (1..=lines as u64).contains(&line)),
                    "{error}"
                );
                assert!(!error.message().is_empty());
            }
            return;
        }
    };
    assert_eq!(loaded.digest, TextDigest::of(text));
    let public = public_routes(text);
    let snapshot = Snapshot::without_keys(Arc::new(loaded.policy));
    for (method, path) in
        [("GET", "/"), ("GET", "/x"), ("POST", "/v1/chat/completions"), ("GET", "/health")]
    {
        for host in ["api.example", "localhost"] {
            anonymous(&snapshot, (method, host, path), public);
        }
    }
});

/// Sends a request without a credential.
fn anonymous(snapshot: &Snapshot, (method, host, path): (&str, &str, &str), public: Option<usize>) {
    let raw = RawRequest {
        method: method.as_bytes(),
        scheme: b"https",
        host: host.as_bytes(),
        path: path.as_bytes(),
        headers: Headers::default(),
        address: None,
        peer_certificate: b"",
        body: RawBody::Whole(b"{\"model\":\"m\"}"),
    };
    let now = Timestamp::from_secs(1_800_000_000);
    if let Prepared::Pending(pending) = prepare(snapshot, raw, now, &mut NoHooks) {
        assert!(pending.route().public, "{path} passes without a credential");
        assert!(public != Some(0), "{path} is public, and the file calls no route public");
    }
}

/// The number of routes that a file in JSON calls public; `None` for a file that is not JSON, or whose routes are those of a preset.
fn public_routes(text: &str) -> Option<usize> {
    let tree: Tree = serde_json::from_str(text).ok()?;
    assert!(tree.is_unambiguous(), "a key is repeated");
    // The parser of YAML reads one that is not in an object, or not text, as another kind of value.
    let Tree::Object(sections) = &tree else { panic!("no object: {tree:?}") };
    if sections.iter().any(|(name, _)| name != "routes" && name != "version") {
        return None;
    }
    let routes = tree.get("routes", Reading::Last).map(Tree::elements).unwrap_or_default();
    let is_plain = |route: &&Tree| route.get("preset", Reading::Last).is_none();
    if !routes.iter().all(|route| is_plain(&route)) {
        return None;
    }
    Some(routes.iter().filter(|route| route.get("public", Reading::Last).is_some()).count())
}
