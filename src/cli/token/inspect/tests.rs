use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use super::*;

const NOW: Timestamp = Timestamp::from_secs(1_767_225_600);

fn report(header: Value, claims: Value) -> TokenReport {
    let part = |json: Value| URL_SAFE_NO_PAD.encode(json.to_string());
    TokenReport::of(&format!("{}.{}.c2ln", part(header), part(claims)), NOW).unwrap()
}

#[test]
fn a_good_token_needs_only_its_issuer_and_audience() {
    let report = report(
        json!({ "alg": "RS256", "kid": "k" }),
        json!({ "iss": "https://a", "aud": "b", "sub": "c", "iat": 1_767_225_600, "exp": 1_767_225_900, "scope": "s" }),
    );
    assert_eq!(
        (report.findings.defects.as_slice(), report.findings.hints.as_slice()),
        (&[][..], &[][..])
    );
    let expected = ["`issuer: https://a`", "`audiences` with `b`", "`algorithms: [RS256]`"];
    assert_eq!(report.findings.needs, expected);
    let mut text = Vec::new();
    report.print(&mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    assert!(text.starts_with("NOT VERIFIED"), "{text}");
    assert!(text.contains("1767225900  2026-01-01T00:05:00Z (in 5m)"), "{text}");
    assert!(text.contains(&report.digest) && report.digest.len() == 64);
}

#[test]
fn a_tutorial_s_token_needs_what_the_tutorial_left_out() {
    let report = report(
        json!({ "alg": "HS256" }),
        json!({ "username": "alice", "exp": 1_767_225_600 + 3 * 86_400 }),
    );
    assert_eq!(report.findings.defects, [""; 0]);
    let needs = report.findings.needs.join("; ");
    for word in [
        "secret",
        "issuer: absent",
        "audiences: any",
        "without `iat`",
        "max_lifetime",
        "72h",
        "subject",
    ] {
        assert!(needs.contains(word), "{word}: {needs}");
    }
}

#[test]
fn what_no_policy_accepts_is_told() {
    for (header, claims, word) in [
        (json!({ "alg": "none" }), json!({ "exp": 1_767_225_900 }), "algorithm"),
        (json!({ "alg": "RS256" }), json!({}), "no exp"),
        (json!({ "alg": "RS256" }), json!({ "exp": "1767225900" }), "exp is not a number"),
        (json!({ "alg": "RS256" }), json!({ "exp": 1_767_225_540 }), "expired"),
        (
            json!({ "alg": "RS256" }),
            json!({ "exp": 1_767_225_900, "nbf": 1_767_225_661 }),
            "nbf is in the future",
        ),
        (json!({ "alg": "RS256" }), json!({ "exp": 1_767_225_600 + 40 * 86_400 }), "31 days"),
        (
            json!({ "alg": "RS256" }),
            json!({ "exp": 1_767_225_900, "sub": "a", "jti": "" }),
            "jti is not text",
        ),
        (json!({ "alg": "RS256", "typ": "logout+jwt" }), json!({ "exp": 1_767_225_900 }), "typ"),
    ] {
        let defects = report(header, claims).findings.defects.join("; ");
        assert!(defects.contains(word), "{word}: {defects}");
    }
}

/// Each of these claims made a token unusable that `inspect` had nothing to say about.
#[test]
fn every_claim_that_a_policy_must_settle_is_named() {
    for (claims, word) in [
        (json!({ "sub": 7 }), "`claims: { subject: sub }`, as sub is a number"),
        (json!({ "sub": 1.5 }), "`claims: { subject: … }` with another claim, as sub"),
        (json!({ "sub": " " }), "`claims: { subject: … }` with another claim, as sub"),
        (json!({ "jti": 7 }), "`required_claims` without `jti`"),
        (json!({ "sub": "" }), "with another claim, as sub"),
        (json!({ "sub": null, "client_id": "c\n" }), "with another claim, as client_id"),
        (json!({ "sub": null }), "`claims: { subject: … }` with the claim that names"),
        (json!({ "tenant_id": 7 }), "`claims: { tenant: tenant_id }`"),
        (json!({ "tenant_id": "a\nb" }), "tenant_id is not 1 to 256 printable"),
        (json!({ "tenant_id": { "id": 7 } }), "as tenant_id is not text"),
        (json!({ "client_id": ["c"] }), "as client_id is not text"),
        (json!({ "roles": { "admin": true } }), "as roles is not text or a list of texts"),
        (json!({ "roles": ["a", 7] }), "as roles has an element that is not text"),
        (json!({ "scope": 7 }), "without scope, as it is not text"),
    ] {
        let mut all = json!({ "sub": "c", "iat": 1_767_225_600, "exp": 1_767_225_900 });
        for (name, value) in claims.as_object().unwrap() {
            all[name] = value.clone();
        }
        let report = report(json!({ "alg": "RS256", "kid": "k" }), all);
        let needs = report.findings.needs.join("; ");
        assert!(needs.contains(word), "{claims}: {needs}");
    }
    let empty_kid = report(json!({ "alg": "RS256", "kid": "" }), json!({ "exp": 5 }));
    assert!(
        empty_kid.findings.needs.join("; ").contains("kid: optional"),
        "{:?}",
        empty_kid.findings.needs
    );
}

#[test]
fn an_id_token_needs_a_policy_that_accepts_it() {
    let of = |claims: Value| report(json!({ "alg": "RS256" }), claims);
    for claims in [json!({ "typ": "ID" }), json!({ "at_hash": "x" })] {
        let report = of(claims);
        assert!(
            report.findings.needs.join("; ").contains("`id_tokens: accepted`"),
            "{:?}",
            report.findings.needs
        );
    }
    let refresh = of(json!({ "typ": "Refresh" })).findings.defects.join("; ");
    assert!(refresh.contains("a token for the issuer itself"), "{refresh}");
    assert!(!of(json!({ "scope": "a" })).findings.needs.join("; ").contains("id_tokens"));
}

#[test]
fn an_audience_of_another_type_is_named() {
    for (aud, word) in [
        (json!(["a", 7]), "aud has an element that is a number, not text"),
        (json!([]), "aud is an empty list"),
        (json!({ "a": 1 }), "aud is an object, not text or a list of texts"),
        (json!(true), "aud is a boolean"),
    ] {
        let needs =
            report(json!({ "alg": "ES256" }), json!({ "aud": aud })).findings.needs.join("; ");
        assert!(needs.contains(word) && !needs.contains("audiences: any"), "{aud}: {needs}");
    }
    let needs = report(json!({ "alg": "ES256" }), json!({})).findings.needs.join("; ");
    assert!(needs.contains("as it has no aud"), "{needs}");
}

#[test]
fn an_algorithm_that_no_policy_can_list_is_named_and_not_recommended() {
    for (alg, word) in [
        ("none", "the algorithm `none` is no signature"),
        ("ES256K", "the algorithm `ES256K` is not supported"),
        ("HS1", "the algorithm `HS1` is not supported"),
    ] {
        let report = report(json!({ "alg": alg }), json!({ "sub": "c" }));
        let (defects, needs) =
            (report.findings.defects.join("; "), report.findings.needs.join("; "));
        assert!(defects.contains(word), "{defects}");
        assert!(!needs.contains("algorithms") && !needs.contains("secret"), "{needs}");
    }
    let needs = report(json!({ "alg": "Ed25519" }), json!({})).findings.needs.join("; ");
    assert!(needs.contains("`algorithms: [Ed25519]`"), "{needs}");
}

#[test]
fn a_signature_that_never_verifies_is_named() {
    let part = |json: Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let defects = |header: Value, claims: Value, signature: &[u8]| {
        let signature = URL_SAFE_NO_PAD.encode(signature);
        let token = format!("{}.{}.{signature}", part(header), part(claims));
        TokenReport::of(&token, NOW).unwrap().findings.defects.join("; ")
    };
    let der = |integer: u8| {
        let one = [&[0x02, integer][..], &vec![1; usize::from(integer)]].concat();
        let body = [one.clone(), one].concat();
        let size = u8::try_from(body.len()).unwrap();
        let head = if size < 128 { vec![0x30, size] } else { vec![0x30, 0x81, size] };
        [head, body].concat()
    };
    for (alg, signature, expected) in [
        ("ES256", der(32), Some("in DER")),
        ("ES384", der(48), Some("in DER")),
        ("ES512", der(66), Some("in DER")),
        ("ES256", vec![1; 63], Some("its signature has 63 bytes, and ES256 has 64")),
        ("ES256", vec![0x30; 64], None),
        ("RS256", der(32), None),
    ] {
        let found = defects(json!({ "alg": alg }), json!({}), &signature);
        match expected {
            Some(word) => assert!(found.contains(word), "{alg}: {found}"),
            None => assert!(!found.contains("signature"), "{alg}: {found}"),
        }
    }
    let header = json!({ "alg": "RS256", "nonce": "x" });
    for graph in [
        json!({ "iss": "https://sts.windows.net/72f988bf/" }),
        json!({ "aud": "00000003-0000-0000-c000-000000000000" }),
        json!({ "aud": "https://graph.microsoft.com/" }),
    ] {
        assert!(defects(header.clone(), graph, b"x").contains("only Graph can verify"));
    }
    assert!(!defects(header, json!({ "iss": "https://a.example" }), b"x").contains("Graph"));
}

#[test]
fn the_claims_of_well_known_issuers_are_suggested() {
    let report = report(
        json!({ "alg": "RS256", "kid": "k" }),
        json!({
            "sub": "c", "exp": 1_767_225_900, "azp": "chat-ui", "tid": "t",
            "realm_access": { "roles": ["premium", "GPU Team Leads"] },
        }),
    );
    let hints = report.findings.hints.join("\n");
    for expected in [
        "it has none of scope, scopes and scp",
        "`claims: { client: \"azp\" }`: \"chat-ui\"",
        "`claims: { tenant: \"tid\" }`: \"t\"",
        "`claims: { roles: [realm_access, roles] }`: [\"premium\",\"GPU Team Leads\"]",
    ] {
        assert!(hints.contains(expected), "{expected}: {hints}");
    }
}

#[test]
fn scopes_with_a_comma_or_a_space_are_named() {
    for (claims, word) in [
        (json!({ "sub": "c", "scope": "a,b" }), "scope has a comma"),
        (json!({ "sub": "c", "scp": ["a", "b c"] }), "scp has an element that is no scope"),
        (json!({ "sub": "c", "scp": ["a", "b\t"] }), "scp has an element that is no scope"),
        (json!({ "sub": "c", "scp": ["a", 7] }), "scp has an element that is no scope"),
    ] {
        let hints = report(json!({ "alg": "RS256" }), claims).findings.hints.join("; ");
        assert!(hints.contains(word), "{hints}");
    }
}

#[test]
fn the_json_says_that_nothing_is_verified() {
    let json = report(json!({ "alg": "none" }), json!({ "exp": 5 })).json();
    assert_eq!(
        (json["verified"].as_bool(), json["header"]["alg"].as_str()),
        (Some(false), Some("none"))
    );
}
