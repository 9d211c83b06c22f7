//! An identity provider: keys, published in a file or by a key server, and tokens with the claims
//! that a test needs.

use std::{
    path::Path,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};
use tollgate_testkit::{Algorithm, KeyPair, KeyType, Token, TokenParts, jwk_set};

use super::{
    SCOPES,
    http::{Answer, Reply, Server},
};

/// A signing key and its name in the key set.
#[derive(Clone)]
pub(crate) struct Key {
    kid: String,
    pair: Arc<KeyPair>,
}

impl Key {
    /// RS256, 2048 bits: one for all tests, because RSA keys take long to make.
    pub(crate) fn rsa(kid: &str) -> Self {
        static PAIR: OnceLock<Arc<KeyPair>> = OnceLock::new();
        let pair = PAIR.get_or_init(|| Arc::new(KeyPair::generate(KeyType::Rsa).unwrap()));
        Self { kid: kid.to_owned(), pair: Arc::clone(pair) }
    }

    /// A P-256 key for ES256.
    pub(crate) fn ec(kid: &str) -> Self {
        Self::new(kid, KeyPair::generate(KeyType::P256).unwrap())
    }

    /// An Ed25519 key for EdDSA.
    pub(crate) fn ed(kid: &str) -> Self {
        Self::new(kid, KeyPair::generate(KeyType::Ed25519).unwrap())
    }

    /// A shared secret for HS256.
    pub(crate) fn secret(secret: &str) -> Self {
        Self::new("", KeyPair::secret(secret))
    }

    fn new(kid: &str, pair: KeyPair) -> Self {
        Self { kid: kid.to_owned(), pair: Arc::new(pair) }
    }

    fn algorithm(&self) -> Algorithm {
        self.pair.key_type().usual_algorithm()
    }

    /// The public half (RFC 7517).
    pub(crate) fn jwk(&self) -> Value {
        self.pair.jwk(&self.kid, self.algorithm()).unwrap()
    }

    /// The private half as PEM, for `tollgate token mint`.
    pub(crate) fn pem(&self) -> String {
        self.pair.to_pem().unwrap()
    }
}

/// An issuer and its keys.
pub(crate) struct Issuer {
    name: String,
    /// Its signing key.
    pub(crate) key: Key,
}

impl Issuer {
    /// An issuer with the RSA key `main`.
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

    /// A good token with these claims changed; `null` removes one.
    pub(crate) fn token(&self, claims: Value) -> String {
        self.token_with(json!({}), claims)
    }

    /// A good token with these members of the header and these claims changed.
    pub(crate) fn token_with(&self, header: Value, claims: Value) -> String {
        let now = now();
        let usual = json!({
            "iss": self.name, "aud": "inference-api", "sub": "alice", "iat": now, "exp": now + 600,
            "jti": format!("{:016x}", rand::random::<u64>()), "scope": SCOPES,
        });
        Token::new(self.key.algorithm())
            .kid(&self.key.kid)
            .header(header)
            .claims(usual)
            .claims(claims)
            .sign(&self.key.pair)
            .unwrap()
    }
}

/// A key set of these keys.
pub(crate) fn jwks(keys: &[&Key]) -> String {
    jwk_set(keys.iter().map(|key| key.jwk())).to_string()
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// The same token with another signature: one bit of it changed.
pub(crate) fn forged(token: &str) -> String {
    TokenParts::of(token).and_then(|parts| parts.forged()).unwrap()
}

/// The answer of a key server.
#[derive(Clone)]
pub(crate) enum Mood {
    /// Serves this key set.
    Serves(String),
    /// Answers with status 500.
    Fails,
    /// Sends no answer.
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

    /// Sets the answer from now on.
    pub(crate) fn now(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    /// The number of requests.
    pub(crate) fn hits(&self) -> usize {
        self.hits.load(Ordering::SeqCst)
    }

    /// The section `jwks` with this server.
    pub(crate) fn section(&self) -> String {
        format!(
            "{{ url: \"http://127.0.0.1:{}/jwks.json\", insecure_http: true, cool_down: 1s, timeout: 1s }}",
            self.port
        )
    }
}
