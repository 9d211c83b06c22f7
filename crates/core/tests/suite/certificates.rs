//! Client certificates as credentials, and tokens that are bound to one.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, date_time_ymd, string::Ia5String,
};
use tollgate_core::{
    authenticate::{self, Verified},
    check::{CheckHooks, NoHooks, Prepared, prepare},
    credential::{
        Credential,
        certificate::{Authorities, names_of},
        jwt::key_set::KeySet,
    },
    decision::Decision,
    denial::Reason,
    identity::{CredentialKind, Principal},
    request::{Headers, RawBody, RawRequest},
    revocation::sha256,
    snapshot::Snapshot,
    time::Timestamp,
};

use crate::{
    harness::compile,
    keys::{KEYS, Signer, jwk_members},
    token::{Members, NOW, signed},
};

const SECTION: &str = "
client_certificates:
  authorities: file:/ca.pem
  identities:
    - { spiffe: 'spiffe://prod.example/ns/{namespace}/sa/{account}', subject: '{namespace}/{account}', tenant: '{namespace}', scopes: [infer:text], roles: [batch] }
    - { dns: '{client}.clients.example', scopes: [infer:text] }
    - { email: '{user}@example.com', scopes: [infer:text] }
    - { common_name: legacy, subject: old, tenant: acme, scopes: [infer:text] }
";

const ROUTES: &str = "
issuers:
  - { issuer: https://many.example, audiences: [inference-api], algorithms: [EdDSA], jwks: { file: /jwks } }
routes:
  - { match: { paths: [/certificate], methods: [GET] }, scopes: [infer:text], credentials: [certificate] }
  - { match: { paths: [/either], methods: [GET] }, scopes: [], credentials: [jwt, certificate] }
  - { match: { paths: [/token], methods: [GET] }, scopes: [] }
";

/// An authority that makes certificates.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new(change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, "authority");
        (params.not_before, params.not_after) =
            (date_time_ymd(2020, 1, 1), date_time_ymd(2030, 1, 1));
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate of a client with these changes, in PEM.
    fn client(&self, change: impl FnOnce(&mut CertificateParams)) -> String {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        (params.not_before, params.not_after) =
            (date_time_ymd(2023, 6, 1), date_time_ymd(2024, 6, 1));
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        params.signed_by(&key, &self.issuer).unwrap().pem()
    }

    fn named(&self, names: Vec<SanType>) -> String {
        self.client(|params| params.subject_alt_names = names)
    }
}

fn uri(text: &str) -> SanType {
    SanType::URI(Ia5String::try_from(text).unwrap())
}

fn dns(text: &str) -> SanType {
    SanType::DnsName(Ia5String::try_from(text).unwrap())
}

fn email(text: &str) -> SanType {
    SanType::Rfc822Name(Ia5String::try_from(text).unwrap())
}

fn escaped(pem: &str) -> String {
    pem.replace('\n', "%0A").replace(' ', "%20").replace('+', "%2B")
}

fn snapshot(section: &str, authorities: Option<&str>) -> Snapshot {
    // Without identities, no route can accept certificates.
    let has_identities = section.contains("identities");
    let routes = ROUTES.lines().filter(|line| has_identities || !line.contains("credentials:"));
    let routes: Vec<&str> = routes.collect();
    let policy = Arc::new(compile(&format!("{section}{}", routes.join("\n"))).unwrap());
    let document = format!("{{\"keys\":[{{\"kid\":\"ed\",{}}}]}}", jwk_members(&KEYS.ed));
    let algorithms = &policy.issuers.list()[0].algorithms;
    let keys = Arc::new(KeySet::parse(document.as_bytes(), algorithms).unwrap().0);
    Snapshot {
        keys: vec![Some(keys)],
        authorities: authorities
            .map(|pem| Arc::new(Authorities::from_pem(pem.as_bytes()).unwrap())),
        ..Snapshot::without_keys(policy)
    }
}

fn check_at(
    snapshot: &Snapshot,
    path: &str,
    headers: &[(&str, &str)],
    certificate: &str,
    now: u64,
) -> Result<Arc<Principal>, (Reason, String)> {
    let mut list = Headers::default();
    for (name, value) in headers {
        list.push(name, value.as_bytes());
    }
    let request = RawRequest {
        method: b"GET",
        scheme: b"https",
        host: b"api.example",
        path: path.as_bytes(),
        headers: list,
        address: None,
        peer_certificate: certificate.as_bytes(),
        body: RawBody::None,
    };
    match prepare(snapshot, request, Timestamp::from_secs(now), &mut NoHooks) {
        Prepared::Pending(pending) => Ok(pending.principal().cloned().unwrap()),
        Prepared::Decided(outcome) => match outcome.decision {
            Decision::Deny(denial) => {
                if denial.reason.http() == 401 {
                    assert!(outcome.evidence.principal.is_none(), "an unproven principal");
                }
                Err((denial.reason, denial.cause.into_owned()))
            }
            _ => panic!("nothing is allowed without the store"),
        },
    }
}

fn check(snapshot: &Snapshot, certificate: &str) -> Result<Arc<Principal>, (Reason, String)> {
    check_at(snapshot, "/certificate", &[], certificate, NOW)
}

#[test]
fn a_certificate_stands_for_the_identity_of_the_first_rule() {
    let authority = Authority::new(|_| {});
    let snapshot = snapshot(SECTION, Some(&authority.pem));
    let common_name = |name: &str| {
        authority.client(|params| params.distinguished_name.push(DnType::CommonName, name))
    };
    for (pem, issuer, subject, tenant) in [
        (
            authority.named(vec![uri("spiffe://prod.example/ns/batch/sa/nightly")]),
            "spiffe://prod.example",
            "batch/nightly",
            Some("batch"),
        ),
        (
            authority.named(vec![dns("other.example"), dns("App1.Clients.example")]),
            "tollgate:client-certificates",
            "app1.clients.example",
            None,
        ),
        (
            authority.named(vec![email("ann@example.com")]),
            "tollgate:client-certificates",
            "ann@example.com",
            None,
        ),
        (common_name("legacy"), "tollgate:client-certificates", "old", Some("acme")),
    ] {
        for form in [pem.clone(), escaped(&pem)] {
            let principal = check(&snapshot, &form).unwrap();
            assert_eq!(principal.kind(), CredentialKind::Certificate);
            assert_eq!(
                (principal.issuer(), principal.subject(), principal.tenant()),
                (issuer, subject, tenant)
            );
            assert!(principal.has_scope("infer:text"));
            assert_eq!(principal.issued_at(), Some(1_685_577_600));
            assert_eq!(principal.expires_at(), 1_717_200_000);
        }
    }
}

#[test]
fn an_operator_sees_the_names_of_a_certificate() {
    let authority = Authority::new(|_| {});
    let pem = authority.client(|params| {
        params.subject_alt_names = vec![dns("a.example"), uri("spiffe://a/b"), email("a@b")];
        params.distinguished_name.push(DnType::CommonName, "c");
    });
    let expected =
        [("spiffe", "spiffe://a/b"), ("dns", "a.example"), ("email", "a@b"), ("common_name", "c")];
    for form in [pem.clone(), escaped(&pem)] {
        let names = names_of(form.as_bytes());
        let names: Vec<_> = names.iter().map(|(kind, name)| (*kind, name.as_str())).collect();
        assert_eq!(names, expected);
    }
    assert!(names_of(b"no certificate").is_empty());
}

#[test]
fn what_is_wrong_with_a_certificate_is_refused() {
    let authority = Authority::new(|_| {});
    let other = Authority::new(|_| {});
    let expired = Authority::new(|params| {
        params.not_after = date_time_ymd(2023, 7, 1);
        params.distinguished_name.push(DnType::OrganizationName, "expired");
    });
    let limited = Authority::new(|params| {
        params.distinguished_name.push(DnType::OrganizationName, "limited");
        params.name_constraints = Some(rcgen::NameConstraints {
            permitted_subtrees: vec![rcgen::GeneralSubtree::DnsName("clients.example".into())],
            excluded_subtrees: Vec::new(),
        });
    });
    let trusted = format!("{}{}{}", authority.pem, expired.pem, limited.pem);
    let snapshot = snapshot(SECTION, Some(&trusted));
    let good = || vec![dns("a.clients.example")];
    let changed = |change: &dyn Fn(&mut CertificateParams)| {
        authority.client(|params| {
            params.subject_alt_names = good();
            change(params);
        })
    };
    assert!(check(&snapshot, &changed(&|_| {})).is_ok());
    assert!(check(&snapshot, &limited.named(good())).is_ok());
    let constrained = limited.named(vec![dns("a.clients.example"), dns("b.example")]);
    let id = "spiffe://prod.example/ns/a/sa/b";
    use Reason::{BadSignature, Expired, InvalidCertificate, NotYetValid, UnknownIssuer};
    // A signature of another key under the same name of an authority.
    let forged = other.named(good());
    let rows: Vec<(&str, String, Reason)> = vec![
        ("of an authority with the same name", forged, BadSignature),
        ("of an authority that has expired", expired.named(good()), UnknownIssuer),
        ("outside of the authority's names", constrained, InvalidCertificate),
        ("expired", changed(&|p| p.not_after = date_time_ymd(2023, 11, 1)), Expired),
        ("of the future", changed(&|p| p.not_before = date_time_ymd(2023, 12, 1)), NotYetValid),
        ("too long", changed(&|p| p.not_after = date_time_ymd(2025, 6, 1)), InvalidCertificate),
        (
            "of a server",
            changed(&|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
            InvalidCertificate,
        ),
        (
            "of a key that may not sign",
            changed(&|p| p.key_usages = vec![KeyUsagePurpose::KeyEncipherment]),
            InvalidCertificate,
        ),
        (
            "of an authority itself",
            changed(&|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
            InvalidCertificate,
        ),
        (
            "with a critical extension that is not known",
            changed(&|p| {
                let mut extension = CustomExtension::from_oid_content(&[1, 3, 99], vec![5, 0]);
                extension.set_criticality(true);
                p.custom_extensions.push(extension);
            }),
            InvalidCertificate,
        ),
        ("without a name", authority.named(Vec::new()), InvalidCertificate),
        (
            "with another name",
            authority.named(vec![dns("a.b.clients.example")]),
            InvalidCertificate,
        ),
        (
            "with two names that fit",
            authority.named(vec![dns("a.clients.example"), dns("b.clients.example")]),
            InvalidCertificate,
        ),
        (
            "with a NUL in a name",
            authority.named(vec![dns("a\0.clients.example")]),
            InvalidCertificate,
        ),
        (
            "with a NUL behind an id",
            authority.named(vec![uri(&format!("{id}\0"))]),
            InvalidCertificate,
        ),
        (
            "with an id beside another URI",
            authority.named(vec![uri(id), uri("https://a")]),
            InvalidCertificate,
        ),
        ("with two ids", authority.named(vec![uri(id), uri("spiffe://b/c")]), InvalidCertificate),
        ("with an id of another type", authority.named(vec![dns(id)]), InvalidCertificate),
        (
            "with an id of another domain",
            authority.named(vec![uri("spiffe://prod.example.evil/ns/a/sa/b")]),
            InvalidCertificate,
        ),
        (
            "with an id and a dotted segment",
            authority.named(vec![uri("spiffe://prod.example/ns/../sa/b")]),
            InvalidCertificate,
        ),
        (
            "with an address that has two ats",
            authority.named(vec![email("a@b@example.com")]),
            InvalidCertificate,
        ),
        (
            "with two common names",
            authority.client(|p| {
                p.distinguished_name.push(DnType::CommonName, "legacy");
                p.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 3]), "legacy2");
            }),
            InvalidCertificate,
        ),
        ("that is no certificate", "not a certificate".to_owned(), InvalidCertificate),
        (
            "that is two",
            format!("{}{}", authority.named(good()), authority.named(good())),
            InvalidCertificate,
        ),
        ("that is too long", "x".repeat(17_000), InvalidCertificate),
    ];
    for (says, pem, reason) in rows {
        let found = check(&snapshot, &pem).map(|principal| principal.subject().to_owned());
        assert_eq!(
            found.as_ref().map_err(|(reason, _)| *reason),
            Err(&reason).map_err(|r| *r),
            "{says}: {found:?}"
        );
    }
}

#[test]
fn the_period_of_a_certificate_includes_its_last_second() {
    let authority = Authority::new(|_| {});
    let snapshot = snapshot(SECTION, Some(&authority.pem));
    let pem = authority.named(vec![dns("a.clients.example")]);
    let at =
        |now| check_at(&snapshot, "/certificate", &[], &pem, now).map_err(|(reason, _)| reason);
    assert!(
        at(1_717_200_000)
            .is_ok_and(|it| it.validity().is_valid_at(Timestamp::from_secs(1_717_200_000)))
    );
    assert_eq!(at(1_717_200_001).unwrap_err(), Reason::Expired);
    assert!(at(1_685_577_600).is_ok());
    assert_eq!(at(1_685_577_599).unwrap_err(), Reason::NotYetValid);
}

/// Hooks that verify a credential, and keep whether a cache may remember the rejection.
#[derive(Default)]
struct Settled(Option<bool>);

impl CheckHooks for Settled {
    fn verify(
        &mut self,
        snapshot: &Snapshot,
        credential: Credential<'_>,
        now: Timestamp,
    ) -> Verified {
        let verified = authenticate::verify(snapshot, credential, now);
        let rejection = verified.as_ref().err();
        self.0 = rejection.map(|rejection| authenticate::is_settled(snapshot, rejection));
        verified
    }
}

#[test]
fn a_result_is_remembered_as_long_as_the_authorities_are_valid() {
    let ending = Authority::new(|params| params.not_after = date_time_ymd(2024, 1, 1));
    let coming = Authority::new(|params| {
        params.not_before = date_time_ymd(2024, 1, 1);
        params.distinguished_name.push(DnType::OrganizationName, "coming");
    });
    let until = 1_704_067_200;
    let pem = ending.named(vec![dns("a.clients.example")]);
    let of_ending = snapshot(SECTION, Some(&ending.pem));
    let principal = check(&of_ending, &pem).unwrap();
    let is_current =
        |secs| authenticate::is_current(&of_ending, &principal, Timestamp::from_secs(secs));
    assert!(is_current(until) && !is_current(until + 1), "with its authority");
    assert_eq!(principal.expires_at(), 1_717_200_000, "the certificate itself is longer valid");

    let settled = |snapshot: &Snapshot, pem: &str| {
        let mut hooks = Settled::default();
        let request = RawRequest {
            method: b"GET",
            scheme: b"https",
            host: b"api.example",
            path: b"/certificate",
            headers: Headers::default(),
            address: None,
            peer_certificate: pem.as_bytes(),
            body: RawBody::None,
        };
        let _decided = prepare(snapshot, request, Timestamp::from_secs(NOW), &mut hooks);
        hooks.0
    };
    let foreign = coming.named(vec![dns("a.clients.example")]);
    assert_eq!(settled(&of_ending, &foreign), Some(true), "of no authority, now and later");
    let both = snapshot(SECTION, Some(&format!("{}{}", ending.pem, coming.pem)));
    assert_eq!(settled(&both, &foreign), Some(false), "its authority is valid later");
    let found = check_at(&both, "/certificate", &[], &foreign, until + 1);
    assert_eq!(found.map(|principal| principal.subject().to_owned()).unwrap(), "a.clients.example");
}

#[test]
fn odd_certificates_of_an_authority_are_read_or_refused() {
    let authority = Authority::new(|_| {});
    let snapshot = snapshot(SECTION, Some(&authority.pem));
    let id = "spiffe://prod.example/ns/a/sa/b";
    // An extension with alternative names: each with its tag and its bytes.
    let raw = |names: &[(u8, &[u8])]| {
        let mut content = Vec::new();
        for (tag, bytes) in names {
            content.extend([0x80 | *tag, u8::try_from(bytes.len()).unwrap()]);
            content.extend_from_slice(bytes);
        }
        let mut sequence = vec![0x30, u8::try_from(content.len()).unwrap()];
        sequence.extend(content);
        authority.client(|params| {
            let extension = CustomExtension::from_oid_content(&[2, 5, 29, 17], sequence);
            params.custom_extensions.push(extension);
        })
    };
    let found = |pem: &str| {
        check(&snapshot, pem)
            .map(|principal| principal.subject().to_owned())
            .map_err(|(reason, _)| reason)
    };
    let refused = Err(Reason::InvalidCertificate);
    let (uri, name): (u8, u8) = (6, 2);
    assert_eq!(found(&raw(&[(uri, id.as_bytes())])).as_deref(), Ok("a/b"));
    assert_eq!(found(&raw(&[(uri, id.as_bytes()), (uri, b"\xff")])), refused, "two URIs");
    let good = b"a.clients.example";
    assert_eq!(found(&raw(&[(name, good), (name, b"\xff")])), refused, "a name that is no text");
    assert_eq!(found(&raw(&[(name, b"a.clients.example.")])), refused, "a dot at the end");
    assert_eq!(found(&raw(&[(name, b"*.clients.example")])), refused, "a wildcard");
    assert_eq!(found(&raw(&[(name, "\u{e4}.clients.example".as_bytes())])), refused, "no ASCII");
    let idna = found(&raw(&[(name, b"XN--4CA.clients.example")]));
    assert_eq!(idna.as_deref(), Ok("xn--4ca.clients.example"));
    let address: &[u8] = &[10, 0, 0, 1];
    assert_eq!(found(&raw(&[(7, address)])), refused, "an IP address");
    assert_eq!(found(&raw(&[(7, address), (name, good)])).as_deref(), Ok("a.clients.example"));
    assert_eq!(
        found(&raw(&[(uri, b"urn:x"), (uri, b"urn:y"), (name, good)])).as_deref(),
        Ok("a.clients.example")
    );

    for serial in [vec![0], vec![0x80, 1], vec![0xff; 20], vec![1; 40]] {
        let pem = authority.client(|params| {
            params.subject_alt_names = vec![dns("a.clients.example")];
            params.serial_number = Some(serial.clone().into());
        });
        assert_eq!(found(&pem).as_deref(), Ok("a.clients.example"), "{serial:?}");
    }
    for (from, to) in [(1900, 9999), (2023, 9999), (2023, 2051), (1960, 2024), (2051, 2052)] {
        let pem = authority.client(|params| {
            params.subject_alt_names = vec![dns("a.clients.example")];
            (params.not_before, params.not_after) =
                (date_time_ymd(from, 1, 1), date_time_ymd(to, 12, 31));
        });
        assert!(found(&pem).is_err(), "{from} to {to}");
    }
}

#[test]
fn a_route_accepts_certificates_only_where_it_names_them() {
    let authority = Authority::new(|_| {});
    let snapshot = snapshot(SECTION, Some(&authority.pem));
    let pem = authority.named(vec![dns("a.clients.example")]);
    let token = format!("Bearer {}", token(&Members::claims("https://many.example")));
    let with_token = [("authorization", token.as_str())];
    let kind = |path: &str, headers: &[(&str, &str)], pem: &str| {
        check_at(&snapshot, path, headers, pem, NOW)
            .map(|principal| principal.kind().label())
            .map_err(|(reason, _)| reason)
    };
    assert_eq!(kind("/token", &[], &pem), Err(Reason::MissingCredential));
    assert_eq!(kind("/token", &with_token, &pem), Ok("jwt"));
    assert_eq!(kind("/either", &[], &pem), Ok("certificate"));
    assert_eq!(kind("/either", &with_token, &pem), Ok("jwt"));
    assert_eq!(
        kind("/either", &[("authorization", "Bearer a.b.c")], &pem),
        Err(Reason::MalformedToken)
    );
    assert_eq!(kind("/certificate", &with_token, &pem), Err(Reason::CredentialNotAccepted));
    assert_eq!(kind("/certificate", &[], ""), Err(Reason::MissingCredential));
    let unready = snapshot_without_authorities();
    assert_eq!(check(&unready, &pem).unwrap_err().0, Reason::NotReady);
}

fn snapshot_without_authorities() -> Snapshot {
    snapshot(SECTION, None)
}

fn token(claims: &Members) -> String {
    signed(Signer::Ed, Members::header("EdDSA", "ed").json(), claims.json())
}

#[test]
fn a_bound_token_needs_its_certificate() {
    let authority = Authority::new(|_| {});
    let section = snapshot(SECTION, Some(&authority.pem));
    let bare = snapshot("client_certificates: {}", None);
    let none = snapshot("", None);
    // The certificate of a bound token may come from any authority (RFC 8705 section 3).
    let pem = Authority::new(|_| {}).named(vec![dns("x")]);
    let thumbprint = tollgate_testkit::base64url(sha256(&der(&pem)));
    let bound = |cnf: &str| {
        let token = token(&Members::claims("https://many.example").with("cnf", cnf));
        format!("Bearer {token}")
    };
    let good = bound(&format!(r#"{{"x5t#S256":"{thumbprint}"}}"#));
    let other = authority.named(vec![dns("a.clients.example")]);
    let found = |snapshot: &Snapshot, authorization: &str, pem: &str| {
        check_at(snapshot, "/token", &[("authorization", authorization)], pem, NOW)
            .map(|principal| principal.subject().to_owned())
            .map_err(|(reason, _)| reason)
    };
    for snapshot in [&section, &bare] {
        assert_eq!(found(snapshot, &good, &pem).as_deref(), Ok("user-1"));
        assert_eq!(found(snapshot, &good, &escaped(&pem)).as_deref(), Ok("user-1"));
        assert_eq!(found(snapshot, &good, &other), Err(Reason::InvalidProof));
        assert_eq!(found(snapshot, &good, ""), Err(Reason::ProofRequired));
        assert_eq!(found(snapshot, &good, "x"), Err(Reason::InvalidCertificate));
    }
    assert_eq!(found(&none, &good, &pem), Err(Reason::ProofRequired));
    for (cnf, reason) in [
        // Without the section `dpop` no proof is read.
        (format!(r#"{{"jkt":"{thumbprint}"}}"#), Reason::UnsupportedConfirmation),
        (
            format!(r#"{{"x5t#S256":"{thumbprint}","jkt":"{thumbprint}"}}"#),
            Reason::UnsupportedConfirmation,
        ),
        (format!(r#"{{"x5t#S256":"{thumbprint}","jku":"x"}}"#), Reason::UnsupportedConfirmation),
        (r#"{"jkt":"x"}"#.to_owned(), Reason::InvalidClaim),
        (r#"{"x5t":"x"}"#.to_owned(), Reason::UnsupportedConfirmation),
        ("{}".to_owned(), Reason::UnsupportedConfirmation),
        (r#"{"x5t#S256":"short"}"#.to_owned(), Reason::InvalidClaim),
        (format!(r#"{{"x5t#S256":"{thumbprint}="}}"#), Reason::InvalidClaim),
        (r#"{"x5t#S256":1}"#.to_owned(), Reason::InvalidClaim),
        ("null".to_owned(), Reason::InvalidClaim),
        (r#""x""#.to_owned(), Reason::InvalidClaim),
    ] {
        assert_eq!(found(&section, &bound(&cnf), &pem), Err(reason), "{cnf}");
    }
}

#[test]
fn a_token_that_is_bound_to_a_certificate_and_a_key_needs_both() {
    let sections = "client_certificates: {}\ndpop: { origins: ['https://api.example'] }";
    let snapshot = snapshot(sections, None);
    let pem = Authority::new(|_| {}).named(vec![dns("x")]);
    let other = Authority::new(|_| {}).named(vec![dns("x")]);
    let certificate = tollgate_testkit::base64url(sha256(&der(&pem)));
    let key = tollgate_testkit::KeyPair::generate(tollgate_testkit::KeyType::P256).unwrap();
    let jkt = tollgate_testkit::thumbprint(&key).unwrap();
    let cnf = format!(r#"{{"x5t#S256":"{certificate}","jkt":"{jkt}"}}"#);
    let token = token(&Members::claims("https://many.example").with("cnf", &cnf));
    let target = ("GET", "https://api.example/token");
    let proof = tollgate_testkit::proof(&key, target, &token, NOW, "one").unwrap();
    let (proof, bound) = (proof.sign(&key).unwrap(), format!("DPoP {token}"));
    let bearer = format!("Bearer {token}");
    let found = |headers: &[(&str, &str)], pem: &str| {
        let found = check_at(&snapshot, "/token", headers, pem, NOW);
        found.map(|_| ()).map_err(|(reason, _)| reason)
    };
    let both = [("authorization", bound.as_str()), ("dpop", proof.as_str())];
    assert_eq!(found(&both, &pem), Ok(()));
    assert_eq!(found(&both, &other), Err(Reason::InvalidProof));
    assert_eq!(found(&both, ""), Err(Reason::ProofRequired));
    assert_eq!(found(&both[..1], &pem), Err(Reason::ProofRequired));
    assert_eq!(found(&[("authorization", &bearer), both[1]], &pem), Err(Reason::ProofRequired));
}

fn der(pem: &str) -> Vec<u8> {
    let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    base64::Engine::decode(&base64::engine::general_purpose::STANDARD, body).unwrap()
}

#[test]
fn a_header_has_the_certificate_where_the_policy_says_so() {
    let authority = Authority::new(|_| {});
    let section = SECTION.replace(
        "client_certificates:\n",
        "client_certificates:\n  header: { name: X-Forwarded-Client-Cert, format: xfcc }\n",
    );
    let snapshot = snapshot(&section, Some(&authority.pem));
    let pem = authority.named(vec![dns("a.clients.example")]);
    let other = escaped(&authority.named(vec![dns("b.clients.example")]));
    let element = format!("By=spiffe://x;Cert=\"{}\"", escaped(&pem));
    let found = |values: &[&str]| {
        let headers: Vec<_> =
            values.iter().map(|value| ("x-forwarded-client-cert", *value)).collect();
        // What Envoy reports in the check is not read.
        check_at(&snapshot, "/certificate", &headers, &pem, NOW)
            .map(|principal| principal.subject().to_owned())
            .map_err(|(reason, _)| reason)
    };
    assert_eq!(found(&[&element]).as_deref(), Ok("a.clients.example"));
    let appended = format!("Cert=\"{other}\",{element}");
    assert_eq!(found(&[&appended]).as_deref(), Ok("a.clients.example"), "the last element");
    assert_eq!(found(&[&format!("{element},Hash=1")]), Err(Reason::InvalidCertificate));
    assert_eq!(found(&[&element, &element]), Err(Reason::AmbiguousCredential));
    assert_eq!(found(&[]), Err(Reason::MissingCredential));
}

#[test]
fn authorities_are_checked_when_they_are_read() {
    let authority = Authority::new(|_| {});
    let client = authority.named(vec![dns("a.clients.example")]);
    let error = |pem: &str| Authorities::from_pem(pem.as_bytes()).unwrap_err().to_string();
    assert!(error("").contains("no PEM block"));
    assert!(error(&format!("{}{client}", authority.pem)).contains("certificate 2 is not that of"));
    let idle = Authority::new(|params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature]);
    assert!(error(&idle.pem).contains("may not sign"));
    assert!(
        error("-----BEGIN CERTIFICATE-----\nAQID\n-----END CERTIFICATE-----\n")
            .contains("cannot be read")
    );
}

#[test]
fn errors_of_the_section_are_found_when_it_is_read() {
    let error = |section: &str| compile(&format!("{section}{ROUTES}")).unwrap_err();
    for (section, expected) in [
        ("", "`certificate` needs the section `client_certificates`"),
        ("client_certificates: {}", "`certificate` needs the section `client_certificates`"),
        ("client_certificates: { authorities: 'file:/a' }", "every certificate is refused"),
        ("client_certificates: { identities: [{ dns: a }] }", "`identities` need `authorities`"),
        (
            "client_certificates: { authorities: 'file:/a', identities: [{ dns: a, email: b }] }",
            "exactly one of `spiffe`",
        ),
        (
            "client_certificates: { authorities: 'file:/a', identities: [{ spiffe: 'spiffe://{a}/b' }] }",
            "the trust domain of a SPIFFE ID is written out",
        ),
        (
            "client_certificates: { authorities: 'file:/a', identities: [{ dns: '{a}.b', tenant: '{c}' }] }",
            "no capture `c`",
        ),
        (
            "client_certificates: { header: { name: authorization, format: pem } }",
            "has another meaning",
        ),
        (
            "client_certificates: { header: { name: 'a b', format: pem } }",
            "`a b` is not the name of a header",
        ),
        (
            "client_certificates: { header: { name: '', format: pem } }",
            "`` is not the name of a header",
        ),
        ("client_certificates: { max_life: 9999d }", "must be 1s to 3653d"),
    ] {
        let found = error(section);
        assert!(found.contains(expected), "{section}: {found}");
    }
}
