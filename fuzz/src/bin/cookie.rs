//! The reader of cookies. Each line of an input is a header. What is read as the token is the only cookie of its name to a strict and to a
//! lenient parser, and neither finds the name in what the upstream gets.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tollgate_core::{credential::cookie::Cookies, request::Headers};
use tollgate_fuzz::snapshot;

const NAME: &str = "__Host-t";

static COOKIES: LazyLock<Cookies> = LazyLock::new(|| {
    let policy = format!(
        "
cookies: {{ name: {NAME}, origins: ['https://a.example'] }}
routes: [{{ match: {{ paths: [/x] }}, public: true }}]
"
    );
    snapshot(&policy).policy.cookies.clone().expect("the section")
});

/// The name and the value of each pair, as a browser sends them.
fn pairs(lines: &[&[u8]]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut found = Vec::new();
    for pair in lines.iter().flat_map(|line| line.split(|byte| *byte == b';')) {
        let pair = pair.trim_ascii();
        let end = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
        let value = pair.get(end + 1..).unwrap_or_default();
        found.push((pair[..end].trim_ascii().to_vec(), value.to_vec()));
    }
    found
}

fuzz_target!(|input: &[u8]| {
    let lines: Vec<&[u8]> = input.split(|byte| *byte == b'\n').collect();
    let mut headers = Headers::default();
    for line in &lines {
        headers.push("cookie", line);
    }
    let is_name = |name: &Vec<u8>| name.eq_ignore_ascii_case(NAME.as_bytes());
    let all = pairs(&lines);
    if let Ok(Some(token)) = COOKIES.token(&headers) {
        let mut named = all.iter().filter(|(name, _)| is_name(name));
        let (name, value) = named.next().expect("a cookie of the name");
        assert_eq!((name.as_slice(), value.as_slice()), (NAME.as_bytes(), token));
        assert!(named.next().is_none(), "only one");
    }
    let left = COOKIES.for_upstream(&headers).expect("a proxy that overwrites the header");
    match left {
        Some(left) => {
            assert!(!pairs(&[left.0.as_bytes()]).iter().any(|(name, _)| is_name(name)));
            assert!(left.0.bytes().all(|byte| matches!(byte, b' '..=b'~')));
        }
        None => assert!(!all.iter().any(|(name, _)| is_name(name))),
    }
});
