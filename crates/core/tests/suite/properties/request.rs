//! The normaliser: no input causes a panic, accepted input has one reading, and normalising it
//! again changes nothing.

use std::borrow::Cow;

use proptest::prelude::{
    Just, Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest,
};
use tollgate_core::{
    authenticate::extract,
    denial::Reason,
    request::{
        Body, Headers, Host, ProxyBehavior, RawBody, RawRequest, Request, RequestPath, body::Plan,
    },
};

use super::cases;

/// Text from pieces that attacks on paths use, or any bytes.
fn path() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop::sample::select(vec![
        "/", "/", "/", "a", "v1", ".", "..", "%", "%2f", "%2F", "%2e", "%5c", "%00", "%25", "%61",
        "%c3%a9", "%ff", "%3b", "%3f", ";", "?", "#", "\\", "=", "&", "+", " ", "\u{e9}", "*",
        "{x}",
    ]);
    let pieces =
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat().into_bytes());
    // Mostly harmless segments, so that many are accepted.
    let segment = prop::sample::select(vec![
        "a", "v1", "b.c", "%61", "%20x", "%c3%a9", "m%2Fn", "a-b", "..", "%2e", "x;y", "",
    ]);
    let segments = prop::collection::vec(segment, 1..5).prop_map(|segments| segments.join("/"));
    let query = prop::sample::select(vec![
        "",
        "?",
        "?model=a",
        "?a=%zz&model=%61",
        "?model=a&model=b",
        "#x",
    ]);
    let rooted =
        (segments, query).prop_map(|(segments, query)| format!("/{segments}{query}").into_bytes());
    prop_oneof![3 => rooted, 1 => pieces, 1 => prop::collection::vec(any::<u8>(), 0..64)]
}

fn host() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop::sample::select(vec![
        "a", "B", "example", ".", ".", "-", "_", ":", "443", "99999", "[", "]", "::1", "@", "/",
        "?", "#", "%", " ", ",", "\u{e9}", "0",
    ]);
    let pieces = prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat().into_bytes());
    let label = prop::sample::select(vec!["a", "API", "x-1", "x_1", "1", "example", "com"]);
    let end = prop::sample::select(vec!["", ".", ":443", ":0", ":65536", ".:1", ":", "/"]);
    let labels = (prop::collection::vec(label, 1..4), end)
        .prop_map(|(labels, end)| format!("{}{end}", labels.join(".")).into_bytes());
    prop_oneof![3 => labels, 2 => pieces, 1 => prop::collection::vec(any::<u8>(), 0..32)]
}

/// Decodes once, naively.
fn decoded(raw: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = raw;
    while let Some((before, after)) = rest.split_once('%') {
        out.extend(before.bytes());
        out.push(u8::from_str_radix(&after[..2], 16).unwrap());
        rest = &after[2..];
    }
    out.extend(rest.bytes());
    out
}

proptest! {
    #![proptest_config(cases(4000))]

    #[test]
    fn a_path_is_refused_or_has_one_reading(target in path()) {
        let first = RequestPath::parse(&target);
        prop_assert_eq!(&first, &RequestPath::parse(&target), "the same answer twice");
        let Ok(path) = first else { return Ok(()) };
        prop_assert!(target.starts_with(path.raw().as_bytes()));
        prop_assert_eq!(path.decoded().as_bytes(), decoded(path.raw()));
        prop_assert_eq!(path.is_encoded(), path.raw().contains('%'));
        for text in [path.raw(), path.decoded()] {
            prop_assert!(text.starts_with('/') && !text.contains("//") && !text.contains(['\\', ';', '#', '?']), "{}", text);
            prop_assert!(!text.split('/').any(|segment| segment == "." || segment == ".."), "{}", text);
            prop_assert!(!text.chars().any(char::is_control), "{:?}", text);
        }
        prop_assert!(!path.decoded().contains('%'), "nothing is left to decode");
        let again = RequestPath::parse(path.raw().as_bytes());
        prop_assert_eq!(again.map(|path| path.raw().to_owned()).ok(), Some(path.raw().to_owned()));
        // No query causes a panic.
        let _ = (path.query_value("model"), path.query_value(""));
    }

    #[test]
    fn a_host_is_refused_or_has_one_reading(raw in host()) {
        let first = Host::parse(&raw);
        prop_assert_eq!(&first, &Host::parse(&raw), "the same answer twice");
        let Ok(host) = first else { return Ok(()) };
        let text = host.as_str();
        prop_assert!(!text.is_empty() && !text.ends_with('.') && !text.bytes().any(|b| b.is_ascii_uppercase()), "{}", text);
        let again = |text: String| Host::parse(text.as_bytes()).ok();
        prop_assert_eq!(again(text.to_owned()), Some(host.clone()));
        // Case, a port and a trailing dot change nothing.
        prop_assert_eq!(again(text.to_ascii_uppercase()), Some(host.clone()));
        prop_assert_eq!(again(format!("{text}:8443")), Some(host.clone()));
        if !text.starts_with('[') {
            prop_assert_eq!(again(format!("{text}.")), Some(host.clone()));
        }
    }

    #[test]
    fn headers_are_read_as_they_came(
        list in prop::collection::vec((header_name(), header_value()), 0..8),
        joined in any::<bool>(),
    ) {
        let proxy = ProxyBehavior { joins_repeats: joined, ..ProxyBehavior::default() };
        let mut headers = Headers::with_capacity(list.len()).with_proxy(proxy);
        for (name, value) in &list {
            headers.push(name, value);
        }
        for name in ["authorization", "content-type", "x-tollgate-subject", ":path"] {
            let expected: Vec<&[u8]> =
                list.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_slice()).collect();
            prop_assert_eq!(headers.all(name).collect::<Vec<_>>(), expected.clone());
            match headers.one(name) {
                Ok(one) => {
                    prop_assert!(expected.len() <= 1 && one == expected.first().copied());
                    prop_assert!(!joined || one.is_none_or(|value| !value.contains(&b',')), "a comma may be a repetition");
                }
                Err(denial) => {
                    prop_assert_eq!(denial.reason, Reason::MalformedRequest);
                    prop_assert!(expected.len() > 1 || (joined && expected[0].contains(&b',')));
                }
            }
        }
        // Every name that a server could read as an identity header is found.
        let identity = |name: &str| name.to_lowercase().replace(['_', '.'], "-").starts_with("x-tollgate-");
        prop_assert_eq!(headers.spoofed().count(), list.iter().filter(|(name, _)| identity(name)).count());
        // A credential is in a single header, or there is none.
        if extract(&headers, None).is_ok() {
            let values: Vec<&[u8]> = headers.all("authorization").collect();
            prop_assert_eq!(values.len(), 1);
            prop_assert!(values[0].to_ascii_lowercase().starts_with(b"bearer ") && !values[0].contains(&b','));
        }
    }

    #[test]
    fn no_request_stops_the_normaliser(
        method in prop_oneof![3 => Just("GET".as_bytes().to_vec()), 1 => prop::collection::vec(any::<u8>(), 0..8)],
        scheme in prop_oneof![3 => Just("https".as_bytes().to_vec()), 1 => prop::collection::vec(any::<u8>(), 0..8)],
        host in prop_oneof![3 => Just("h".as_bytes().to_vec()), 1 => host()],
        path in prop_oneof![Just(b"/v1/x".to_vec()), path()],
        list in prop::collection::vec((header_name(), header_value()), 0..4),
        body in prop::collection::vec(any::<u8>(), 0..32),
    ) {
        let ask = || {
            let mut headers = Headers::default();
            for (name, value) in &list {
                headers.push(name, value);
            }
            let body = RawBody::Whole(&body);
            let raw = RawRequest { method: &method, scheme: &scheme, host: &host, path: &path, headers, address: None, peer_certificate: b"", body };
            let (head, body) = raw.split();
            Request::parse(head).map_err(|denial| denial.reason).map(|request| {
                let mut plan = Plan::default();
                plan.model(&"/model".parse().unwrap()).unwrap();
                let body = Body::new(body, &request.headers);
                let model = body.json(&plan).map(|facts| facts.model.map(Cow::into_owned));
                let Request { method, secure, host, path, .. } = request;
                (method.to_owned(), secure, host, path.decoded().to_owned(), model)
            })
        };
        let first = ask();
        prop_assert_eq!(&first, &ask(), "the same answer twice");
        match first {
            Ok((method, secure, ..)) => {
                prop_assert!(method.bytes().all(|b| b.is_ascii_uppercase() || b == b'-'));
                prop_assert_eq!(secure, matches!(scheme.as_slice(), b"https" | b"wss"));
            }
            Err(reason) => prop_assert_eq!(reason, Reason::MalformedRequest),
        }
    }
}

fn header_name() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "authorization",
        "Authorization",
        "content-type",
        "Content-Type",
        "content-length",
        "content-encoding",
        "host",
        "x-tollgate-subject",
        "X_Tollgate_Subject",
        "x.tollgate-tenant",
        "x-tollgate",
        "x",
        "",
        ":path",
        ":method",
        "cookie",
    ])
    .prop_map(str::to_owned)
}

fn header_value() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop::sample::select(vec![
        "Bearer",
        "bearer",
        " ",
        "a.b.c",
        ",",
        "=",
        "application/json",
        "; charset=utf-8",
        "12",
        "\t",
        "\u{e9}",
    ]);
    let whole = prop::sample::select(vec![
        "Bearer a.b.c",
        "bearer  a.b.c",
        "application/json",
        "5",
        "h",
        "a, b",
    ]);
    prop_oneof![
        5 => whole.prop_map(|value| value.as_bytes().to_vec()),
        2 => prop::collection::vec(piece, 0..5).prop_map(|pieces| pieces.concat().into_bytes()),
        1 => prop::collection::vec(any::<u8>(), 0..16),
    ]
}
