//! An identity provider: real keys, published in a file or by a key server, and tokens with whatever claims a test wants.

use std::{
    path::Path,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{
    hmac,
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
        RSA_PKCS1_SHA256, RsaKeyPair,
    },
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value, json};

use super::{
    SCOPES,
    http::{Answer, Reply, Server},
};

/// A signing key.
#[derive(Clone)]
pub(crate) struct Key {
    kid: String,
    pair: Arc<Pair>,
}

enum Pair {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
    Secret(Vec<u8>),
}

impl Key {
    /// RS256, 2048 bits: one for all tests, because making one takes a while.
    pub(crate) fn rsa(kid: &str) -> Self {
        static PAIR: OnceLock<Arc<Pair>> = OnceLock::new();
        let pair = PAIR
            .get_or_init(|| Arc::new(Pair::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap())));
        Self { kid: kid.to_owned(), pair: Arc::clone(pair) }
    }

    /// ES256.
    pub(crate) fn ec(kid: &str) -> Self {
        Self::of(kid, Pair::Ec(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap()))
    }

    /// EdDSA, Ed25519.
    pub(crate) fn ed(kid: &str) -> Self {
        Self::of(kid, Pair::Ed(Ed25519KeyPair::generate().unwrap()))
    }

    /// HS256.
    pub(crate) fn secret(secret: &str) -> Self {
        Self::of("", Pair::Secret(secret.as_bytes().to_vec()))
    }

    fn of(kid: &str, pair: Pair) -> Self {
        Self { kid: kid.to_owned(), pair: Arc::new(pair) }
    }

    fn algorithm(&self) -> &'static str {
        match &*self.pair {
            Pair::Rsa(_) => "RS256",
            Pair::Ec(_) => "ES256",
            Pair::Ed(_) => "EdDSA",
            Pair::Secret(_) => "HS256",
        }
    }

    /// The public half (RFC 7517).
    pub(crate) fn jwk(&self) -> Value {
        let mut jwk = match &*self.pair {
            Pair::Rsa(pair) => {
                let public = pair.public_key();
                let (n, e) = (public.modulus(), public.exponent());
                json!({ "kty": "RSA", "n": text(n.big_endian_without_leading_zero()), "e": text(e.big_endian_without_leading_zero()) })
            }
            Pair::Ec(pair) => {
                let point = &pair.public_key().as_ref()[1..];
                json!({ "kty": "EC", "crv": "P-256", "x": text(&point[..32]), "y": text(&point[32..]) })
            }
            Pair::Ed(pair) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "x": text(pair.public_key().as_ref()) })
            }
            Pair::Secret(_) => panic!("a shared secret is not published"),
        };
        jwk["kid"] = json!(self.kid);
        jwk["alg"] = json!(self.algorithm());
        jwk["use"] = json!("sig");
        jwk
    }

    /// The private half of an EC key as PEM, for `tollgate token mint`.
    pub(crate) fn pem(&self) -> String {
        let Pair::Ec(pair) = &*self.pair else { panic!("an EC key") };
        pem(pair.to_pkcs8v1().unwrap().as_ref())
    }

    fn sign(&self, signed: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &*self.pair {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, signed, &mut signature).unwrap();
                signature
            }
            Pair::Ec(pair) => pair.sign(&random, signed).unwrap().as_ref().to_vec(),
            Pair::Ed(pair) => pair.sign(signed).as_ref().to_vec(),
            Pair::Secret(secret) => {
                hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed).as_ref().to_vec()
            }
        }
    }

    /// A token of exactly these members.
    pub(crate) fn token(&self, header: &Value, claims: &Value) -> String {
        let signed = format!(
            "{}.{}",
            text(header.to_string().as_bytes()),
            text(claims.to_string().as_bytes())
        );
        format!("{signed}.{}", text(&self.sign(signed.as_bytes())))
    }
}

/// An issuer and its keys.
pub(crate) struct Issuer {
    name: String,
    /// Its signing key.
    pub(crate) key: Key,
}

impl Issuer {
    /// With the RSA key `main`.
    pub(crate) fn new(name: &str) -> Self {
        Self::with(name, Key::rsa("main"))
    }

    pub(crate) fn with(name: &str, key: Key) -> Self {
        Self { name: name.to_owned(), key }
    }

    /// Its key set.
    pub(crate) fn jwks(&self) -> String {
        jwks(&[&self.key])
    }

    /// Writes its key set to `jwks.json`.
    pub(crate) fn publish(&self, dir: &Path) {
        std::fs::write(dir.join("jwks.json"), self.jwks()).unwrap();
    }

    /// A good token, with some claims changed; `null` takes one away.
    pub(crate) fn token(&self, claims: Value) -> String {
        self.token_with(json!({}), claims)
    }

    /// The same with members of the header changed.
    pub(crate) fn token_with(&self, header: Value, claims: Value) -> String {
        let now = now();
        let standard = json!({
            "iss": self.name, "aud": "inference-api", "sub": "alice", "iat": now, "exp": now + 600,
            "jti": format!("{:016x}", rand::random::<u64>()), "scope": SCOPES,
        });
        let names = json!({ "alg": self.key.algorithm(), "kid": self.key.kid, "typ": "JWT" });
        self.key.token(&changed(names, header), &changed(standard, claims))
    }
}

/// A key set of these keys.
pub(crate) fn jwks(keys: &[&Key]) -> String {
    json!({ "keys": keys.iter().map(|key| key.jwk()).collect::<Vec<_>>() }).to_string()
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// The same token with another signature: one byte of it changed.
pub(crate) fn forged(token: &str) -> String {
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let mut bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
    bytes[0] ^= 1;
    format!("{signed}.{}", text(&bytes))
}

fn changed(base: Value, changes: Value) -> Value {
    let (Value::Object(mut base), Value::Object(changes)) = (base, changes) else {
        panic!("two objects")
    };
    for (name, value) in changes {
        match value {
            Value::Null => drop(base.remove(&name)),
            value => drop(base.insert(name, value)),
        }
    }
    Value::Object(Map::from_iter(base))
}

fn text(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn pem(der: &[u8]) -> String {
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> =
        body.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"))
}

/// What a key server does when it is asked.
#[derive(Clone)]
pub(crate) enum Mood {
    /// Serves this.
    Serves(String),
    /// Answers 500.
    Fails,
    /// Says nothing.
    Hangs,
}

/// A key server on loopback.
pub(crate) struct KeyServer {
    pub(crate) port: u16,
    mood: Arc<Mutex<Mood>>,
    hits: Arc<AtomicUsize>,
}

impl KeyServer {
    pub(crate) fn start(mood: Mood) -> Self {
        let (mood, hits) = (Arc::new(Mutex::new(mood)), Arc::new(AtomicUsize::new(0)));
        let server = Server::start({
            let (mood, hits) = (Arc::clone(&mood), Arc::clone(&hits));
            move |_| {
                hits.fetch_add(1, Ordering::SeqCst);
                let mood = mood.lock().unwrap().clone();
                match mood {
                    Mood::Serves(keys) => Answer::Whole(
                        Reply::new(200, keys).header("content-type", "application/json"),
                    ),
                    Mood::Fails => Answer::Whole(Reply::new(500, "no keys today")),
                    Mood::Hangs => Answer::Silence,
                }
            }
        });
        Self { port: server.port, mood, hits }
    }

    /// From now on.
    pub(crate) fn now(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    /// How often it was asked.
    pub(crate) fn hits(&self) -> usize {
        self.hits.load(Ordering::SeqCst)
    }

    /// The section `jwks` that asks it.
    pub(crate) fn section(&self) -> String {
        format!(
            "{{ url: \"http://127.0.0.1:{}/jwks.json\", insecure_http: true, cool_down: 1s, timeout: 1s }}",
            self.port
        )
    }
}
