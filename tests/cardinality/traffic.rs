//! The traffic: kinds of requests, each with something new, over one connection of a proxy.

use std::{
    fmt::Write as _,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, Ipv6Addr, TcpStream},
    ops::Range,
    path::{Path, PathBuf},
};

use serde_json::json;
use tempfile::TempDir;
use tollgate_core::credential::api_key::GeneratedKey;

use crate::rig::{
    api_key_file,
    issuer::{Issuer, Key, forged, now},
    tollgate::Tollgate,
};

/// The policy, but for its store.
pub(super) const CONFIG: &str = r#"
listen:
  http: [{ address: "127.0.0.1:0", dialect: traefik }]
  ops: "127.0.0.1:0"
audit: { to: none }
token_cache: { max: 1MiB }
api_keys: { file: "${DIR}/keys.json" }
models: [{ name: qwen, serves: [qwen] }]
issuers:
  - { issuer: "https://a.example", audiences: [inference-api], algorithms: [HS256], secret: "file:${DIR}/a", claims: { tenant: tenant } }
  - { issuer: "https://b.example", audiences: [inference-api], algorithms: [HS256], secret: "file:${DIR}/b", claims: { tenant: tenant } }
  - { issuer: "https://auth.example.com", audiences: [inference-api], algorithms: [RS256], jwks: { file: "${DIR}/jwks.json" } }
routes:
  - { match: { methods: [GET], paths: [/open] }, public: true, limits: [per-address] }
  - { match: { methods: [GET], paths: [/own] }, scopes: [], limits: [per-subject, per-token] }
  - { match: { methods: [GET], paths: [/token] }, scopes: [], limits: [per-token] }
  - { match: { methods: [GET], paths: [/tenant] }, scopes: [], limits: [per-tenant] }
  - { match: { methods: [GET], paths: [/day] }, scopes: [], limits: [day] }
  - { match: { methods: [GET], paths: [/free] }, scopes: [] }
  - { match: { methods: [GET], paths: [/model] }, scopes: [], model: { from: "header:x-model" } }
limits:
  - { name: per-address, by: [address], rate: 5/1h }
  - { name: per-subject, by: [subject], rate: 5/1h }
  - { name: per-token, by: [token], rate: 5/1h }
  - { name: per-tenant, by: [tenant], rate: 5/1h }
  - { name: day, by: [subject], requests: 5/day }
"#;

/// The shared secrets of the issuers `a`, of the others, and `b`, of the attacker.
const SECRETS: [(&str, &str); 2] = [
    ("a", "secret-of-the-issuer-a-0123456789-abcdefghij"),
    ("b", "secret-of-the-issuer-b-0123456789-abcdefghij"),
];

/// The issuers and the files of a Tollgate.
pub(super) struct World {
    dir: TempDir,
    issuers: [Issuer; 2],
    /// A token of the attacker whose signature is right.
    good: String,
}

impl World {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let issuers = SECRETS.map(|(name, secret)| {
            std::fs::write(dir.path().join(name), secret).unwrap();
            Issuer::with(&format!("https://{name}.example"), Key::secret(secret))
        });
        Issuer::new("https://auth.example.com").publish(dir.path());
        api_key_file(dir.path());
        std::fs::write(dir.path().join("metering"), "0123456789abcdef0123456789abcdef").unwrap();
        std::fs::write(dir.path().join("ledger"), "fedcba9876543210fedcba9876543210").unwrap();
        let mut world = Self { dir, issuers, good: String::new() };
        world.good = world.token("b", "mallory", "evil", "steady");
        world
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Starts the binary of this build, or that of `TOLLGATE_PROGRAM`.
    pub(super) fn start(&self, config: &str) -> Tollgate {
        let built = || env!("CARGO_BIN_EXE_tollgate").into();
        let program: PathBuf = std::env::var_os("TOLLGATE_PROGRAM").map_or_else(built, Into::into);
        Tollgate::start_program(&program, self.path(), config)
    }

    /// A token of `a` or `b`.
    pub(super) fn token(&self, issuer: &str, subject: &str, tenant: &str, jti: &str) -> String {
        // Valid for as long as the longest run.
        let exp = now() + 6 * 3600;
        let claims = json!({ "sub": subject, "tenant": tenant, "jti": jti, "exp": exp });
        self.issuers[usize::from(issuer == "b")].token(claims)
    }

    /// The requests of clients that were not seen before: each is allowed at any time.
    pub(super) fn newcomers(&self, label: &str) -> Vec<String> {
        let token = |issuer, tenant: &str| bearer(&self.token(issuer, label, tenant, label));
        let of_a = token("a", &format!("new-{label}"));
        let network = label.bytes().fold(7_u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte));
        vec![
            head("/own", "192.0.2.9", &of_a),
            head("/day", "192.0.2.9", &of_a),
            head("/tenant", "192.0.2.9", &of_a),
            head("/open", &format!("198.51.{network}.7"), ""),
        ]
    }
}

/// A kind of requests.
pub(super) struct Kind {
    pub(super) name: &'static str,
    /// The statuses that it may be answered with.
    statuses: &'static [u16],
    head: fn(&World, u64) -> String,
}

/// The kinds of a flood. Each request has something that no request before it had.
pub(super) const KINDS: &[Kind] = &[
    Kind { name: "addresses", statuses: &[200, 429], head: address },
    Kind {
        name: "subjects of a tenant",
        statuses: &[200, 429],
        head: |world, n| {
            let token = world.token("b", &format!("s{n}"), "evil", &n.to_string());
            head("/own", "192.0.2.1", &bearer(&token))
        },
    },
    Kind {
        name: "tenants of an issuer",
        statuses: &[200, 429],
        head: |world, n| {
            let token = world.token("b", "mallory", &format!("t{n}"), &n.to_string());
            head("/tenant", "192.0.2.1", &bearer(&token))
        },
    },
    Kind {
        name: "subjects with a budget",
        statuses: &[200, 429],
        head: |world, n| {
            let token = world.token("b", &format!("d{n}"), "evil", &n.to_string());
            head("/day", "192.0.2.1", &bearer(&token))
        },
    },
    Kind { name: "tokens of a subject", statuses: &[200, 429], head: token },
    Kind { name: "forged tokens", statuses: &[401], head: forgery },
    Kind { name: "expired tokens", statuses: &[401], head: expired },
    Kind {
        name: "key ids (`kid`)",
        statuses: &[401],
        head: |world, n| {
            let header = json!({ "alg": "RS256", "kid": format!("k{n}") });
            let claims = json!({ "iss": "https://auth.example.com", "jti": n.to_string() });
            let token = world.issuers[1].token(claims);
            let signed = with_header(&token, &header);
            head("/free", "192.0.2.1", &bearer(&signed))
        },
    },
    Kind {
        name: "issuers",
        statuses: &[401],
        head: |world, n| {
            let claims = json!({ "iss": format!("https://{n}.example"), "jti": n.to_string() });
            head("/free", "192.0.2.1", &bearer(&world.issuers[1].token(claims)))
        },
    },
    Kind { name: "API keys", statuses: &[401], head: api_key },
    Kind {
        name: "models",
        statuses: &[403],
        head: |world, n| {
            let headers = format!("{}X-Model: m{n}\r\n", bearer(&world.good));
            head("/model", "192.0.2.1", &headers)
        },
    },
    Kind { name: "hosts and paths", statuses: &[403], head: |_, n| unknown_place(n) },
    Kind { name: "forged credentials of other networks", statuses: &[401, 429], head: attack },
    Kind { name: "headers, cookies, traces, request ids", statuses: &[200], head: names },
];

impl Kind {
    /// Sends the requests with these numbers, and verifies the statuses of their answers.
    pub(super) fn send(&self, world: &World, connection: &mut Connection, numbers: Range<u64>) {
        let (mut from, end) = (numbers.start, numbers.end);
        while from < end {
            let to = (from + 50).min(end);
            let heads: Vec<String> = (from..to).map(|n| (self.head)(world, n)).collect();
            let statuses = connection.send_all(&heads.iter().collect::<Vec<_>>());
            let others = statuses.iter().find(|status| !self.statuses.contains(status));
            assert_eq!(others, None, "{} {from}: {statuses:?}", self.name);
            from = to;
        }
    }

    /// Sends one request. Returns its status where it may not have it.
    pub(super) fn send_one(
        &self,
        world: &World,
        connection: &mut Connection,
        number: u64,
    ) -> Option<u16> {
        let status = connection.send_all(&[&(self.head)(world, number)])[0];
        (!self.statuses.contains(&status)).then_some(status)
    }
}

fn address(_: &World, n: u64) -> String {
    // The /64 networks of one /32.
    let bits = 0x2001_0db8_u128 << 96 | u128::from(n & 0xffff_ffff) << 64 | 1;
    head("/open", &Ipv6Addr::from_bits(bits).to_string(), "")
}

fn token(world: &World, n: u64) -> String {
    let token = world.token("b", "mallory", "evil", &format!("j{n}"));
    head("/token", "192.0.2.1", &bearer(&token))
}

fn forgery(world: &World, n: u64) -> String {
    let token = forged(&world.token("b", "mallory", "evil", &format!("f{n}")));
    head("/free", "192.0.2.1", &bearer(&token))
}

/// A client that changes its address after some forged tokens, API keys and malformed tokens, and comes
/// back to it.
fn attack(world: &World, n: u64) -> String {
    let address = format!("203.0.113.{}", n / 100 % 200);
    let key = GeneratedKey::new(&[7; 16], &[1; 32]);
    let token = match n % 3 {
        0 => forged(&world.token("b", "mallory", "evil", &format!("g{n}"))),
        1 => key.expose().to_owned(),
        _ => format!("eyJh.{n}"),
    };
    head("/free", &address, &bearer(&token))
}

fn expired(world: &World, n: u64) -> String {
    let claims = json!({ "sub": "mallory", "jti": n.to_string(), "iat": 1000, "exp": 2000 });
    head("/free", "192.0.2.1", &bearer(&world.issuers[1].token(claims)))
}

fn api_key(_: &World, n: u64) -> String {
    let (mut id, mut secret) = ([0; 16], [0; 32]);
    id[..8].copy_from_slice(&(n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    secret[..8].copy_from_slice(&n.to_be_bytes());
    let key = GeneratedKey::new(&id, &secret);
    head("/free", "192.0.2.1", &bearer(key.expose()))
}

fn unknown_place(n: u64) -> String {
    let text = head(&format!("/nothing/{n}"), "192.0.2.1", "");
    text.replace("api.example.com", &format!("h{n}.example.com"))
}

fn names(world: &World, n: u64) -> String {
    let mut headers = bearer(&world.good);
    write!(
        headers,
        "X-Name-{n}: {n}\r\nCookie: c{n}={n}\r\ntraceparent: 00-{:032x}-{:016x}-01\r\n\
         tracestate: v{n}={n}\r\nX-Request-Id: {n}\r\nIdempotency-Key: {n}\r\n",
        n + 1,
        n + 1
    )
    .unwrap();
    head("/free", "192.0.2.1", &headers)
}

/// The same token with another header, whose signature fits no key.
fn with_header(token: &str, header: &serde_json::Value) -> String {
    let (_, rest) = token.split_once('.').unwrap();
    let (claims, signature) = rest.split_once('.').unwrap();
    let text = tollgate_testkit::base64url(header.to_string().as_bytes());
    format!("{text}.{claims}.{}", signature.repeat(8))
}

pub(super) fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

/// The check of a GET request, as Traefik sends it.
pub(super) fn head(path: &str, address: &str, headers: &str) -> String {
    format!(
        "GET /check HTTP/1.1\r\nHost: tollgate\r\nX-Forwarded-Method: GET\r\n\
         X-Forwarded-Uri: {path}\r\nX-Forwarded-Host: api.example.com\r\n\
         X-Forwarded-Proto: https\r\nX-Forwarded-For: {address}\r\n{headers}\r\n"
    )
}

/// One connection of a proxy.
pub(super) struct Connection(BufReader<TcpStream>);

impl Connection {
    pub(super) fn open(port: u16) -> Self {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(crate::rig::SOON)).unwrap();
        Self(BufReader::new(stream))
    }

    /// Sends requests, one after the other without waiting. Returns the statuses of the answers.
    pub(super) fn send_all(&mut self, heads: &[&String]) -> Vec<u16> {
        let text: String = heads.iter().map(|head| head.as_str()).collect();
        self.0.get_mut().write_all(text.as_bytes()).unwrap();
        heads.iter().map(|_| self.answer()).collect()
    }

    fn answer(&mut self) -> u16 {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        let status = line.split(' ').nth(1).unwrap_or_else(|| panic!("{line:?}")).parse().unwrap();
        let mut length = 0;
        loop {
            line.clear();
            self.0.read_line(&mut line).unwrap();
            let Some((name, value)) = line.split_once(':') else { break };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().unwrap();
            }
        }
        self.0.read_exact(&mut vec![0; length]).unwrap();
        status
    }
}
