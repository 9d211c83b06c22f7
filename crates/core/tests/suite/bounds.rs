//! The bounds of the policy's file: for each key the last value that is accepted, and the first one
//! that is not.

use tollgate_core::policy::Policy;

use crate::harness::compile;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// The key, a place for its value (`$`) in the file, values that are accepted, values that are not,
/// and a part of the error about them.
type Row =
    (&'static str, &'static str, &'static [&'static str], &'static [&'static str], &'static str);

fn errors(policy: &str) -> Result<Policy, String> {
    compile(&policy.replace("SECRET", SECRET))
}

fn hold(rest: &str, rows: &[Row]) {
    let mut wrong = Vec::new();
    for (key, place, accepted, refused, part) in rows {
        for value in *accepted {
            if let Err(errors) = errors(&format!("{}\n{rest}", place.replace('$', value))) {
                wrong.push(format!("{key}: `{value}` is refused: {errors}"));
            }
        }
        for value in *refused {
            match errors(&format!("{}\n{rest}", place.replace('$', value))) {
                Ok(_) => wrong.push(format!("{key}: `{value}` is accepted")),
                Err(errors) if errors.contains(part) => {}
                Err(errors) => wrong.push(format!("{key}: `{value}`: {errors}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

const ROUTES: &str = "routes: [{ match: { paths: [/a] }, public: true }]";

#[test]
fn issuers() {
    const OF_FILE: &str =
        "issuers: [{ issuer: i, audiences: [a], algorithms: [RS256], jwks: { file: /jwks }, $ }]";
    const AUDIENCES: &str =
        "issuers: [{ issuer: i, audiences: $, algorithms: [RS256], jwks: { file: /jwks } }]";
    const URL: &str =
        "issuers: [{ issuer: i, audiences: [a], algorithms: [RS256], jwks: { url: '$' } }]";
    const ISSUER: &str =
        "issuers: [{ issuer: \"$\", audiences: [a], algorithms: [RS256], jwks: { file: /jwks } }]";
    const PROFILE: &str =
        "issuers: [{ issuer: i, algorithms: [RS256], jwks: { file: /jwks }, profile: rfc9068, $ }]";
    hold(
        ROUTES,
        &[
            ("audiences", AUDIENCES, &["[a]", "any"], &["[]"], "at least one audience"),
            ("audiences", AUDIENCES, &["[a, b]"], &["['']", "[a, '']"], "must not be empty"),
            ("audiences", AUDIENCES, &["['a b']"], &["[\"a\\u200b\"]"], "cannot be seen"),
            ("issuer", ISSUER, &["i", "absent"], &[""], "must not be empty"),
            ("issuer", ISSUER, &["https://i.example"], &["i\\u200b"], "cannot be seen"),
            ("leeway", OF_FILE, &["leeway: 0s", "leeway: 60s"], &["leeway: 61s"], "leeway"),
            (
                "max_lifetime",
                OF_FILE,
                &["max_lifetime: 31d"],
                &["max_lifetime: 32d"],
                "max_lifetime",
            ),
            (
                "url",
                URL,
                &["https://i.example/jwks", "https://i.example"],
                &["https://", "https:///jwks", "https://user@i.example/jwks", "ftp://i.example"],
                "address",
            ),
            (
                "profile",
                PROFILE,
                &["audiences: [a]", "audiences: [a], id_tokens: refused"],
                &[
                    "audiences: any",
                    "audiences: [a], audience_claim: client_id",
                    "audiences: [a], id_tokens: accepted",
                ],
                "it contradicts `profile: rfc9068`",
            ),
        ],
    );
}

#[test]
fn introspection() {
    const ISSUER: &str = "issuers: [{ issuer: i, audiences: any, introspection: { url: 'https://i.example/x', $ } }]";
    let too_long = "bearer: SECRET, prefix: ".to_owned() + &"a".repeat(65);
    let longest = "bearer: SECRET, prefix: ".to_owned() + &"a".repeat(64);
    hold(
        ROUTES,
        &[
            (
                "cache",
                ISSUER,
                &["bearer: SECRET, cache: 1s", "bearer: SECRET, cache: 10m"],
                &["bearer: SECRET, cache: 999ms", "bearer: SECRET, cache: 601s"],
                "must be 1s to 10m",
            ),
            (
                "timeout",
                ISSUER,
                &["bearer: SECRET, timeout: 1ms", "bearer: SECRET, timeout: 10s"],
                &["bearer: SECRET, timeout: 0s", "bearer: SECRET, timeout: 10001ms"],
                "more than 0 and at most 10s",
            ),
            (
                "max_calls",
                ISSUER,
                &["bearer: SECRET, max_calls: 1", "bearer: SECRET, max_calls: 256"],
                &["bearer: SECRET, max_calls: 0", "bearer: SECRET, max_calls: 257"],
                "must be 1 to 256",
            ),
            (
                "client_id",
                ISSUER,
                &["client_id: a, client_secret: SECRET"],
                &["client_id: '', client_secret: SECRET"],
                "the id must not be empty",
            ),
            (
                "credentials",
                ISSUER,
                &["bearer: SECRET"],
                &["timeout: 1s", "bearer: SECRET, client_id: a, client_secret: SECRET"],
                "write either",
            ),
        ],
    );
    assert!(errors(&format!("{}\n{ROUTES}", ISSUER.replace('$', &longest))).is_ok());
    assert!(errors(&format!("{}\n{ROUTES}", ISSUER.replace('$', &too_long))).is_err());
}

#[test]
fn two_issuers_of_opaque_tokens_are_told_apart_by_their_prefixes() {
    const BOTH: &str = "issuers:
  - { issuer: i, audiences: any, introspection: { url: 'https://i.example/x', bearer: SECRET, prefix: $ } }
  - { issuer: j, audiences: any, introspection: { url: 'https://j.example/x', bearer: SECRET, prefix: ab } }
";
    hold(
        ROUTES,
        &[("prefix", BOTH, &["ac", "b", "aab"], &["ab", "abc", "a"], "sent to one endpoint only")],
    );
}

#[test]
fn cookies() {
    const COOKIES: &str =
        "cookies: { name: __Host-t, origins: ['https://a.example'], remove: [$] }";
    let list = |count: usize| (0..count).map(|n| format!("c{n}")).collect::<Vec<_>>().join(", ");
    let with = |names: &str| errors(&format!("{}\n{ROUTES}", COOKIES.replace('$', names)));
    assert!(with(&list(64)).is_ok());
    assert!(with(&list(65)).is_err_and(|errors| errors.contains("at most 64 names")));
    assert!(with(&"n".repeat(128)).is_ok());
    assert!(
        with(&"n".repeat(129)).is_err_and(|errors| errors.contains("not the name of a cookie"))
    );
    assert!(with("''").is_err() && with("'a b'").is_err());
}

#[test]
fn secrets_of_nonces_and_reservations() {
    let list = |count: usize| vec![SECRET; count].join(", ");
    for section in [
        "dpop: { origins: ['https://a.example'], nonce: { secrets: [$], life: 5m } }",
        "metering: { secrets: [$], life: 30s }",
    ] {
        let with = |count| errors(&format!("{}\n{ROUTES}", section.replace('$', &list(count))));
        assert!(with(1).is_ok() && with(4).is_ok(), "{section}");
        for count in [0, 5] {
            let is_bound = |errors: String| errors.contains("list 1 to 4 secrets");
            assert!(with(count).is_err_and(is_bound), "{section}: {count}");
        }
    }
    hold(
        ROUTES,
        &[
            (
                "dpop.nonce.life",
                "dpop: { origins: ['https://a.example'], nonce: { secrets: [SECRET], life: $ } }",
                &["10s", "1h"],
                &["9s", "3601s"],
                "from 10s to 1h",
            ),
            (
                "metering.life",
                "metering: { secrets: [SECRET], life: $ }",
                &["5s", "10m"],
                &["4s", "601s"],
                "from 5s to 10m",
            ),
        ],
    );
}

#[test]
fn keys() {
    hold(
        ROUTES,
        &[
            (
                "api_keys.replicate.max",
                "api_keys: { redis: true, replicate: { max: $ } }",
                &["1", "10000000"],
                &["0", "10000001"],
                "must be 1 to 10000000",
            ),
            (
                "api_keys.replicate.max_staleness",
                "api_keys: { redis: true, replicate: { max_staleness: $ } }",
                &["1s", "1h"],
                &["999ms", "3601s"],
                "must be 1s to 1h",
            ),
            (
                "api_keys.replicate",
                "api_keys: { file: /keys, $ }",
                &["max_life: 1d"],
                &["replicate: { max: 9 }"],
                "set `redis: true`",
            ),
        ],
    );
}

#[test]
fn trust_domains() {
    const DOMAIN: &str = "issuers: [{ issuer: 'spiffe://a.example', algorithms: [ES256], jwks: { file: /jwks }, $ }]";
    hold(
        ROUTES,
        &[(
            "audiences",
            DOMAIN,
            &["audiences: [a]", "audiences: [a], audience_claim: aud"],
            &["audiences: any", "audiences: [a], audience_claim: azp"],
            "names its audience in `aud`",
        )],
    );
}

#[test]
fn client_certificates() {
    const SECTION: &str =
        "client_certificates: { authorities: 'file:/a', identities: [{ dns: a.b }], $ }";
    const SCOPES: &str =
        "client_certificates: { authorities: 'file:/a', identities: [{ dns: a.b, scopes: [$] }] }";
    hold(
        ROUTES,
        &[
            (
                "max_life",
                SECTION,
                &["max_life: 1s", "max_life: 3653d"],
                &["max_life: 999ms", "max_life: 3654d"],
                "must be 1s to 3653d",
            ),
            (
                "issuer",
                SECTION,
                &["issuer: ours"],
                &["issuer: ''", "issuer: \"a\\tb\""],
                "without control characters",
            ),
            ("issuer", SECTION, &[], &["issuer: 'spiffe://a'"], "is its trust domain"),
            ("scopes", SCOPES, &["a", "'infer:text'"], &["''", "'a b'", "é"], "is not a scope"),
        ],
    );
}

#[test]
fn prices() {
    const CURRENCY: &str = "models: [{ name: m }]
prices: { currency: $, models: [{ model: m, input: 0, output: 0 }] }";
    const PRICE: &str = "metering: { secrets: [SECRET] }
models: [{ name: m }]
prices: { currency: EUR, models: [{ model: m, input: 0, output: 0, second: 1, $ }] }";
    hold(
        ROUTES,
        &[(
            "max_seconds",
            PRICE,
            &["max_seconds: 1", "max_seconds: 1000000000"],
            &["max_seconds: 0", "max_seconds: 1000000001"],
            "from 1 to 10^9",
        )],
    );
    let with = |name: &str| errors(&format!("{}\n{ROUTES}", CURRENCY.replace('$', name)));
    assert!(with(&"A".repeat(16)).is_ok() && with("a-b_1").is_ok());
    for name in ["A".repeat(17), "''".to_owned(), "'a b'".to_owned()] {
        assert!(with(&name).is_err_and(|errors| errors.contains("letters, digits")), "{name}");
    }
}

#[test]
fn names_of_limits() {
    let with = |name: &str| {
        errors(&format!("limits: [{{ name: {name}, by: [address], rate: 1/1m }}]\n{ROUTES}"))
    };
    assert!(with(&"n".repeat(64)).is_ok() && with("A-b_c.9").is_ok());
    for name in ["n".repeat(65), "''".to_owned(), "'a b'".to_owned(), "é".to_owned()] {
        assert!(with(&name).is_err_and(|errors| errors.contains("1 to 64 letters")), "{name}");
    }
}

#[test]
fn limits() {
    const LIMIT: &str =
        "issuers: [{ issuer: i, audiences: any, algorithms: [HS256], secret: SECRET }]
metering: { secrets: [SECRET] }
limits: [{ name: l, by: [subject], $ }]";
    hold(
        ROUTES,
        &[
            (
                "max_debt_percent",
                LIMIT,
                &[
                    "tokens: 9/day, hold: estimate, max_debt_percent: 0",
                    "tokens: 9/day, hold: estimate, max_debt_percent: 1000",
                ],
                &["tokens: 9/day, hold: estimate, max_debt_percent: 1001"],
                "from 0 to 1000",
            ),
            (
                "may_raise_to",
                LIMIT,
                &["rate: 10/1m, may_raise_to: 11/1m", "requests: 10/day, may_raise_to: 11/day"],
                &[
                    "rate: 10/1m, may_raise_to: 10/1m",
                    "rate: 10/1m, may_raise_to: 9/1m",
                    "requests: 10/day, may_raise_to: 10/day",
                ],
                "could not raise the size",
            ),
            (
                "may_raise_to",
                LIMIT,
                &["tokens: 10/day, may_raise_to: 11/day", "tokens: 10/1m, may_raise_to: 11/1m"],
                &[
                    "requests: 10/day, may_raise_to: 11/hour",
                    "tokens: 10/day, may_raise_to: 300/month",
                    "tokens: 10/day, may_raise_to: 11/1m",
                    "tokens: 10/1m, may_raise_to: 11/day",
                ],
                "does not have the form",
            ),
        ],
    );
}
