//! Identity providers that are down, slow, hostile or rotate: one process with one issuer for each
//! condition, all of them at once.

use std::net::{Ipv4Addr, TcpStream};

use serde_json::json;
use tokio::runtime::Runtime;

use super::{
    rig::{POLICY, Rig},
    row::{Answer, Metric, Row, Verified},
};
use crate::{
    jwks::server::{Answer as Keys, KeyServer, redirect},
    rig::{
        free_port,
        issuer::{Issuer, Key, jwks},
        until,
    },
};

const KNOWN: &str = "a token of a known key";
const UNKNOWN: &str = "a token of another key";

/// Tokens of known keys are accepted, and no others.
const KEPT: &[Answer] = &[
    Answer { to: KNOWN, status: 200, reason: "", headers: &[] },
    Answer {
        to: UNKNOWN,
        status: 401,
        reason: "unknown_key",
        headers: &[(
            "www-authenticate",
            "Bearer realm=\"tollgate\", error=\"invalid_token\", error_description=\"no key of the \
             token's issuer fits the token\"",
        )],
    },
];

/// A fetch failed, and there are keys.
const FAILED: &[Metric] = &[
    Metric::at_least("tollgate_jwks_fetches_total", &["result=\"failed\""], 1.0),
    Metric::is("tollgate_jwks_keys", &[], 1.0),
];

const FETCHED: &[Metric] = &[Metric::is("tollgate_jwks_keys", &[], 2.0)];

const RETRIED: &str = "the next fetch: within a minute, and within `jwks.cool_down` of a token with \
                       an unknown key";

const fn kept(condition: &'static str, log: &'static [&'static str]) -> Row {
    Row {
        condition,
        answers: KEPT,
        metrics: FAILED,
        log,
        audit: &["\"reason\":\"unknown_key\""],
        recovery: RETRIED,
        recovered: FETCHED,
    }
}

pub(super) const DOWN: Row = kept(
    "identity provider down",
    &["key refresh failed, keeping the previous keys: no connection to ..."],
);
pub(super) const SLOW: Row = kept(
    "identity provider slow: no answer within `jwks.timeout`",
    &["key refresh failed, keeping the previous keys: no whole answer within 2s"],
);
pub(super) const DRIPPING: Row = kept(
    "identity provider sends its answer in drips, without end",
    &["key refresh failed, keeping the previous keys: no whole answer within 2s"],
);
pub(super) const HUGE: Row = kept(
    "identity provider sends an endless body",
    &[
        "key refresh failed, keeping the previous keys: the answer of ... is larger than 1048576 bytes",
    ],
);
pub(super) const ERROR: Row = kept(
    "identity provider answers 500",
    &["key refresh failed, keeping the previous keys: ... answered 500"],
);
pub(super) const REDIRECTING: Row = kept(
    "identity provider redirects to another host",
    &[
        "key refresh failed, keeping the previous keys: ... is neither the host of the configured address nor in \
      `allowed_hosts`",
    ],
);
pub(super) const HTML: Row = kept(
    "identity provider sends HTML (`content-type: text/html`)",
    &[
        "key refresh failed, keeping the previous keys: not a JSON Web Key Set: it is a page of HTML \
      or XML",
    ],
);
pub(super) const CUT: Row = kept(
    "identity provider sends half of a key set",
    &["key refresh failed, keeping the previous keys: not a JSON Web Key Set: it is not one JSON \
      object"],
);
pub(super) const EMPTY: Row = kept(
    "identity provider sends an empty key set",
    &[
        "key refresh failed, keeping the previous keys: no key that this issuer may use: the set is \
      empty",
    ],
);
pub(super) const WRONG_KIND: Row = kept(
    "identity provider sends only keys of a kind that the issuer does not use",
    &[
        "key refresh failed, keeping the previous keys: no key that this issuer may use: ...its alg \
      is RS256, and the issuer's `algorithms` are EdDSA",
    ],
);

pub(super) const PRIVATE: Row = Row {
    condition: "identity provider publishes the private part of its only key",
    answers: &[Answer { to: KNOWN, status: 503, reason: "not_ready", headers: &[] }],
    metrics: &[
        Metric::at_least("tollgate_jwks_fetches_total", &["result=\"failed\""], 1.0),
        Metric::is("tollgate_jwks_keys", &[], 0.0),
    ],
    log: &["the previous keys are withdrawn, the issuer's tokens are denied: ..."],
    audit: &["\"reason\":\"not_ready\""],
    recovery: "the next fetch of a set with another key; the key itself never comes back",
    recovered: &[Metric::is("tollgate_jwks_keys", &[], 1.0)],
};

pub(super) const NEVER_UP: Row = Row {
    condition: "identity provider down since the start; others work",
    answers: &[Answer {
        to: "any token of it",
        status: 503,
        reason: "not_ready",
        headers: &[("retry-after", "1")],
    }],
    metrics: &[
        Metric::at_least("tollgate_jwks_fetches_total", &["result=\"failed\""], 1.0),
        Metric::is("tollgate_jwks_keys", &[], 0.0),
    ],
    log: &["key refresh failed, the issuer has no keys: no connection to ..."],
    audit: &["\"reason\":\"not_ready\""],
    recovery: RETRIED,
    recovered: FETCHED,
};

pub(super) const ROTATING: Row = Row {
    condition: "identity provider rotates its key with every fetch",
    answers: &[
        Answer {
            to: "a token of the next key, before the fetch that it causes",
            status: 401,
            reason: "unknown_key",
            headers: &[],
        },
        Answer { to: "a token of the key in use", status: 200, reason: "", headers: &[] },
        Answer {
            to: "a token of a key that is no longer listed",
            status: 401,
            reason: "unknown_key",
            headers: &[],
        },
    ],
    metrics: &[
        Metric::at_least("tollgate_jwks_fetches_total", &["result=\"ok\""], 3.0),
        Metric::is("tollgate_jwks_fetches_total", &["result=\"failed\""], 0.0),
    ],
    log: &["keys in use"],
    audit: &["\"reason\":\"unknown_key\""],
    recovery: "one fetch for each `jwks.cool_down`, however many keys are unknown",
    recovered: &[Metric::is("tollgate_jwks_keys", &[], 1.0)],
};

/// One identity provider with its key server.
struct Provider {
    row: &'static Row,
    host: &'static str,
    /// What it does to its answers; `None` where it is down.
    answer: Option<Keys>,
    known: Issuer,
    next: Issuer,
    server: Option<KeyServer>,
    port: u16,
}

impl Provider {
    fn new(runtime: &Runtime, row: &'static Row, host: &'static str, answer: Option<Keys>) -> Self {
        let name = format!("https://{host}.example.com");
        let known = Issuer::with(&name, Key::ed("known"));
        let next = Issuer::with(&name, Key::ed("next"));
        let server = runtime.block_on(KeyServer::start());
        server.answer(Keys::Body(known.jwks()));
        let port = server.address.port();
        Self { row, host, answer, known, next, server: Some(server), port }
    }

    /// Where it has never been up.
    fn down(row: &'static Row, host: &'static str) -> Self {
        let name = format!("https://{host}.example.com");
        let [known, next] = ["known", "next"].map(|kid| Issuer::with(&name, Key::ed(kid)));
        Self { row, host, answer: None, known, next, server: None, port: free_port() }
    }

    /// Its entry of `issuers`.
    fn section(&self) -> String {
        let Self { host, port, .. } = self;
        format!(
            "  - {{ issuer: \"https://{host}.example.com\", audiences: any, algorithms: [EdDSA], jwks: \
             {{ url: \"http://127.0.0.1:{port}/keys\", insecure_http: true, cool_down: 1s, timeout: 2s }} }}\n"
        )
    }

    /// Lets it misbehave.
    fn degrade(&mut self) {
        if self.row.condition == PRIVATE.condition {
            let mut key = self.known.key.jwk();
            key["d"] = json!("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A");
            self.answer = Some(Keys::Body(json!({ "keys": [key] }).to_string()));
        }
        match (&self.answer, &self.server) {
            (Some(answer), Some(server)) => server.answer(answer.clone()),
            _ => {
                self.server = None;
                let to = (Ipv4Addr::LOCALHOST, self.port);
                until("the closed port", || TcpStream::connect(to).is_err().then_some(()));
            }
        }
    }

    /// Lets it serve both keys.
    fn heal(&mut self, runtime: &Runtime) {
        let port = self.port;
        let server = self
            .server
            .get_or_insert_with(|| runtime.block_on(KeyServer::start_at(([127, 0, 0, 1], port))));
        let (known, next) = (&self.known.key, &self.next.key);
        server.answer(Keys::Body(match self.row.condition == PRIVATE.condition {
            true => jwks(&[next]),
            false => jwks(&[known, next]),
        }));
    }

    fn label(&self) -> String {
        format!("issuer=\"https://{}.example.com\"", self.host)
    }
}

pub(super) fn misbehave(verified: &Verified) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let new = |row, host, answer| Provider::new(&runtime, row, host, answer);
    let html = Keys::Whole(
        200,
        vec![("content-type", "text/html".to_owned())],
        "<html>maintenance</html>".to_owned(),
    );
    let cut = Issuer::with("", Key::ed("known")).jwks();
    let cut = cut[..cut.len() / 2].to_owned();
    let mut providers = [
        new(&DOWN, "down", None),
        new(&SLOW, "slow", Some(Keys::Hang)),
        new(&DRIPPING, "dripping", Some(Keys::Trickle)),
        new(&HUGE, "huge", Some(Keys::Endless)),
        new(&ERROR, "error", Some(Keys::Whole(500, Vec::new(), "{\"keys\":[]}".to_owned()))),
        new(&REDIRECTING, "redirecting", Some(redirect("http://localhost:1/keys"))),
        new(&HTML, "html", Some(html)),
        new(&CUT, "cut", Some(Keys::Body(cut))),
        new(&EMPTY, "empty", Some(Keys::Body("{\"keys\":[]}".to_owned()))),
        new(&PRIVATE, "private", Some(Keys::Body(String::new()))),
        new(&WRONG_KIND, "wrong-kind", Some(Keys::Body(jwks(&[&Key::rsa("known")])))),
    ];
    let mut never = Provider::down(&NEVER_UP, "never-up");
    let sections: String = providers.iter().chain([&never]).map(Provider::section).collect();
    let config = POLICY.replace("routes:\n", &format!("{sections}routes:\n"));
    let rig = Rig::start(&config);
    let reply = |issuer: &Issuer| rig.get("/free", &issuer.token(json!({})));
    for provider in &mut providers {
        until("the keys", || (reply(&provider.known).status == 200).then_some(()));
        provider.degrade();
    }
    verified.answer(never.row, "any token of it", &reply(&never.known));
    for provider in &providers {
        // It causes a fetch, for which no check waits.
        assert_eq!(reply(&provider.next).verdict(), (401, "unknown_key".to_owned()));
    }
    for provider in providers.iter().chain([&never]) {
        let label = provider.label();
        until(&format!("{}: a failed fetch", provider.host), || {
            let _ = reply(&provider.next);
            let labels = [label.as_str(), "result=\"failed\""];
            (rig.tollgate.metric("tollgate_jwks_fetches_total", &labels) >= 1.0).then_some(())
        });
        verified.observed(
            provider.row,
            &rig.tollgate,
            &[&label],
            &format!("{}.example.com", provider.host),
        );
    }
    for provider in &providers {
        verified.answer(provider.row, KNOWN, &reply(&provider.known));
        if provider.row.answers == KEPT {
            verified.answer(provider.row, UNKNOWN, &reply(&provider.next));
        }
    }
    assert_eq!(rig.get("/free", &rig.token("alice")).status, 200, "another issuer");

    for provider in providers.iter_mut().chain([&mut never]) {
        provider.heal(&runtime);
    }
    for provider in providers.iter().chain([&never]) {
        verified.recovered(provider.row, &rig.tollgate, &[&provider.label()], || {
            (reply(&provider.next).status == 200).then_some(())
        });
        let known = reply(&provider.known).status;
        let expected = if provider.row.condition == PRIVATE.condition { 401 } else { 200 };
        assert_eq!(known, expected, "{}", provider.host);
    }
}

pub(super) fn rotates(verified: &Verified) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut provider = Provider::new(&runtime, &ROTATING, "rotating", None);
    let config = POLICY.replace("routes:\n", &format!("{}routes:\n", provider.section()));
    let rig = Rig::start(&config);
    let started = std::time::Instant::now();
    let reply = |issuer: &Issuer| rig.get("/free", &issuer.token(json!({})));
    let server = provider.server.take().unwrap();
    let mut current = provider.known;
    assert_eq!(reply(&current).status, 200);
    for turn in 0..3 {
        let next = Issuer::with("https://rotating.example.com", Key::ed(&format!("key-{turn}")));
        server.answer(Keys::Body(next.jwks()));
        let (hits, early) = (server.hits(), reply(&next));
        // The fetch that an earlier token caused may come at the same time.
        if server.hits() == hits {
            let to = "a token of the next key, before the fetch that it causes";
            verified.answer(&ROTATING, to, &early);
        }
        until("the next key", || (reply(&next).status == 200).then_some(()));
        verified.answer(&ROTATING, "a token of the key in use", &reply(&next));
        let to = "a token of a key that is no longer listed";
        verified.answer(&ROTATING, to, &reply(&current));
        current = next;
    }
    let label = "issuer=\"https://rotating.example.com\"";
    verified.observed(&ROTATING, &rig.tollgate, &[label], "rotating.example.com");
    verified.recovered(&ROTATING, &rig.tollgate, &[label], || {
        (reply(&current).status == 200).then_some(())
    });
    let most = 3 + usize::try_from(started.elapsed().as_secs()).unwrap();
    assert!(server.hits() <= most, "{} fetches, at most one a second", server.hits());
}
