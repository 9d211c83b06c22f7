//! Random policies, requests and stores.

use std::{net::IpAddr, sync::Arc};

use proptest::prelude::{Just, Strategy, any, prop, prop_oneof};
use serde_json::{Value, json};
use tollgate_core::{
    ban,
    check::{Prepared, prepare},
    config::{Document, Errors},
    credential::jwt::{algorithm::Algorithm, key_set::KeySet},
    decision::{Decision, Outcome},
    denial::Reason,
    policy::{Policy, PolicyConfig},
    request::{Headers, RawBody, RawRequest},
    revocation,
    secret::Secret,
    snapshot::Snapshot,
    time::Timestamp,
};
use tollgate_testkit::{KeyPair, signed};

use crate::sidecar::policy_test::{Banned, Ledger, Revoked};

/// The time of the first request, in seconds.
pub const NOW: u64 = 1_700_000_000;
/// The leeway of the issuer, in seconds.
pub const LEEWAY: u64 = 30;

const ISSUER: &str = "https://a.example";
const SECRET: &str = "0123456789abcdef0123456789abcdef";
const SCOPES: [&str; 5] = ["infer:text", "infer:image", "admin", "model:m1", "model:m2"];
const SUBJECTS: [&str; 2] = ["alice", "bob"];
const CLIENTS: [&str; 2] = ["app", "bot"];
const TENANTS: [&str; 2] = ["acme", "other"];
const PATHS: [&str; 6] = ["/a", "/a/{x}", "/{y}/c", "/a/*", "/d/{z*}", "/{w*}"];
const SENT_PATHS: [&str; 6] = ["/a", "/a/b", "/a/c", "/a/b/c", "/d/e", "/e"];
const ADDRESSES: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
const NETWORKS: [&str; 2] = ["192.0.2.0/24", "2001:db8::/64"];

/// A policy as it is written.
#[derive(Clone, Debug)]
pub struct Scene {
    routes: Vec<Route>,
    limits: Vec<Limit>,
    required_claims: Vec<&'static str>,
}

#[derive(Clone, Debug)]
struct Route {
    name: String,
    path: &'static str,
    is_public: bool,
    scopes: Vec<&'static str>,
    /// Whether one of the scopes is enough.
    any: bool,
    has_model: bool,
    has_tenant: bool,
    limits: Vec<String>,
}

#[derive(Clone, Debug)]
struct Limit {
    name: String,
    by: &'static str,
    /// Requests in this time, or in each window of the calendar.
    size: u64,
    per: &'static str,
    burst: Option<u64>,
    is_shadow: bool,
}

/// A request with its token.
#[derive(Clone, Debug)]
pub struct Sent {
    path: &'static str,
    /// The scopes of the token.
    pub scopes: Vec<&'static str>,
    /// Whether the request has a token.
    pub has_token: bool,
    subject: &'static str,
    client: Option<&'static str>,
    tenant: Option<&'static str>,
    jti: Option<&'static str>,
    expires: i64,
    team: Option<&'static str>,
    model: Option<&'static str>,
    address: &'static str,
}

/// What is revoked or banned.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    Subject(&'static str),
    Client(&'static str),
    Tenant(&'static str),
    Jti(&'static str),
    Network(usize),
}

/// A decision without its texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decided {
    Allowed(String),
    Denied(Reason),
    Failed,
}

impl Decided {
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allowed(_))
    }

    /// Whether a limit refuses.
    pub fn is_limited(&self) -> bool {
        matches!(self, Self::Denied(Reason::RateLimited | Reason::BudgetExhausted))
    }
}

fn one_of<const N: usize>(of: [&'static str; N]) -> impl Strategy<Value = &'static str> {
    prop::sample::select(of.to_vec())
}

pub fn scope_name() -> impl Strategy<Value = &'static str> {
    one_of(SCOPES)
}

pub fn required_claim() -> impl Strategy<Value = &'static str> {
    one_of(["iat", "jti", "nbf", "tenant_id", "client_id"])
}

/// Seconds after the first request, or before it.
pub fn offset() -> impl Strategy<Value = i64> {
    prop::sample::select(vec![-7200, -1, 0, 1, 30, 7200])
}

fn limit() -> impl Strategy<Value = Limit> {
    let per = one_of(["1s", "10s", "1m", "hour", "day"]);
    let by = one_of(["subject", "tenant", "client", "route", "address"]);
    (by, 1..5_u64, per, prop::option::of(1..5_u64), prop::bool::weighted(0.15)).prop_map(
        |(by, size, per, burst, is_shadow)| {
            let burst = burst.filter(|_| per.starts_with('1'));
            Limit { name: String::new(), by, size, per, burst, is_shadow }
        },
    )
}

fn route() -> impl Strategy<Value = Route> {
    let scopes = prop::sample::subsequence(SCOPES[..3].to_vec(), 0..3);
    let limits = prop::collection::vec(0..3_usize, 0..3);
    let flags = (
        prop::bool::weighted(0.15),
        any::<bool>(),
        prop::bool::weighted(0.25),
        prop::bool::weighted(0.25),
    );
    (one_of(PATHS), flags, scopes, limits).prop_map(
        |(path, (is_public, any, has_model, has_tenant), scopes, mut limits)| {
            limits.sort_unstable();
            limits.dedup();
            let limits = limits.iter().map(|index| format!("l{index}")).collect();
            let any = any && !scopes.is_empty();
            let name = String::new();
            Route { name, path, is_public, scopes, any, has_model, has_tenant, limits }
        },
    )
}

/// A policy. Two routes may have one path, so that not every one compiles.
pub fn scene() -> impl Strategy<Value = Scene> {
    let limits = prop::collection::vec(limit(), 3);
    let claims = prop::sample::subsequence(vec!["iat", "jti", "client_id"], 0..2);
    (prop::collection::vec(route(), 2..6), limits, claims).prop_map(
        |(mut routes, mut limits, required_claims)| {
            for (index, limit) in limits.iter_mut().enumerate() {
                limit.name = format!("l{index}");
            }
            for (index, route) in routes.iter_mut().enumerate() {
                route.name = format!("r{index}");
                if route.is_public {
                    // Nothing is known about who sends the request.
                    let is_known = |name: &String| {
                        limits
                            .iter()
                            .any(|l| l.name == *name && matches!(l.by, "route" | "address"))
                    };
                    route.limits.retain(is_known);
                }
            }
            Scene { routes, limits, required_claims }
        },
    )
}

pub fn sent() -> impl Strategy<Value = Sent> {
    let holder = (
        one_of(SUBJECTS),
        prop::option::weighted(0.8, one_of(CLIENTS)),
        prop::option::weighted(0.8, one_of(TENANTS)),
        prop::option::weighted(0.8, one_of(["1", "2"])),
    );
    let scopes = prop_oneof![
        3 => Just(SCOPES.to_vec()),
        2 => prop::sample::subsequence(SCOPES.to_vec(), 0..=5),
    ];
    let expires = prop_oneof![
        5 => Just(600_i64),
        1 => prop::sample::select(vec![-3600, -31, -29, 1, 80_000]),
    ];
    let rest = (
        prop::option::weighted(0.8, one_of(TENANTS)),
        prop::option::weighted(0.9, one_of(["m1", "m2", "m3"])),
        one_of(ADDRESSES),
        prop::bool::weighted(0.9),
    );
    (one_of(SENT_PATHS), holder, scopes, expires, rest).prop_map(
        |(
            path,
            (subject, client, tenant, jti),
            scopes,
            expires,
            (team, model, address, has_token),
        )| {
            Sent {
                path,
                scopes,
                has_token,
                subject,
                client,
                tenant,
                jti,
                expires,
                team,
                model,
                address,
            }
        },
    )
}

/// Requests, each with the time since the one before in microseconds. Most are the same again, so
/// that limits have something to count.
pub fn sequence() -> impl Strategy<Value = Vec<(Sent, u64)>> {
    let wait = prop_oneof![4 => Just(0_u64), 2 => 1..2_000_000_u64, 1 => 1..90_000_000_u64];
    let other = prop::option::weighted(0.3, sent());
    (sent(), prop::collection::vec((other, wait), 1..12)).prop_map(|(first, steps)| {
        steps
            .into_iter()
            .map(|(other, wait)| (other.unwrap_or_else(|| first.clone()), wait))
            .collect()
    })
}

pub fn target() -> impl Strategy<Value = Target> {
    prop_oneof![
        one_of(SUBJECTS).prop_map(Target::Subject),
        one_of(CLIENTS).prop_map(Target::Client),
        one_of(TENANTS).prop_map(Target::Tenant),
        one_of(["1", "2"]).prop_map(Target::Jti),
        (0..NETWORKS.len()).prop_map(Target::Network),
    ]
}

/// The revocation of a target at a moment; `None` for a network.
pub fn revocation(target: &Target, at: i64) -> Option<Revoked> {
    let issuer = ISSUER.to_owned();
    let target = match *target {
        Target::Subject(subject) => {
            revocation::Target::Subject { issuer, subject: subject.to_owned() }
        }
        Target::Client(client) => revocation::Target::Client { issuer, client: client.to_owned() },
        Target::Tenant(tenant) => revocation::Target::Tenant { tenant: tenant.to_owned() },
        Target::Jti(jti) => revocation::Target::Jti { issuer, jti: jti.to_owned() },
        Target::Network(_) => return None,
    };
    Some(Revoked::Target { target, at: moment(at) })
}

/// The ban of a target until a moment; `None` for a token.
pub fn ban(target: &Target, ends: i64) -> Option<Banned> {
    let issuer = ISSUER.to_owned();
    let target = match *target {
        Target::Subject(subject) => ban::Target::Subject { issuer, subject: subject.to_owned() },
        Target::Client(client) => ban::Target::Client { issuer, client: client.to_owned() },
        Target::Tenant(tenant) => ban::Target::Tenant { tenant: tenant.to_owned() },
        Target::Network(index) => {
            ban::Target::Network(ban::parse_network(NETWORKS[index]).unwrap())
        }
        Target::Jti(_) => return None,
    };
    Some(Banned { target, until: Some(moment(ends)), is_automatic: false })
}

pub fn revocations() -> impl Strategy<Value = Vec<Revoked>> {
    prop::collection::vec((target(), offset()), 0..3)
        .prop_map(|list| list.iter().filter_map(|(target, at)| revocation(target, *at)).collect())
}

pub fn bans() -> impl Strategy<Value = Vec<Banned>> {
    prop::collection::vec((target(), offset()), 0..3)
        .prop_map(|list| list.iter().filter_map(|(target, ends)| ban(target, *ends)).collect())
}

fn moment(offset: i64) -> Timestamp {
    Timestamp::from_secs(NOW.saturating_add_signed(offset))
}

impl Scene {
    pub fn compile(&self) -> Option<Compiled> {
        let text = self.json().to_string();
        let document = Document::parse(&text, &|_| None).unwrap();
        let config: PolicyConfig = document.read().unwrap_or_else(|errors| panic!("{errors:?}"));
        let policy = Arc::new(Policy::compile(&config, &mut Errors::default())?);
        let keys = KeySet::from_secret(&Secret::new(SECRET), &[Algorithm::HS256]).unwrap();
        let snapshot =
            Snapshot { keys: vec![Some(Arc::new(keys))], ..Snapshot::without_keys(policy) };
        Some(Compiled { snapshot, revoked: Vec::new(), banned: Vec::new() })
    }

    fn json(&self) -> Value {
        let limits = self.limits.iter().map(|limit| {
            let Limit { name, by, size, per, burst, is_shadow } = limit;
            let kind = if per.starts_with('1') { "rate" } else { "requests" };
            let mode = if *is_shadow { "shadow" } else { "enforce" };
            let mut json = json!({ "name": name, "by": [by], "mode": mode });
            json[kind] = format!("{size}/{per}").into();
            if let Some(burst) = burst {
                json["burst"] = (*burst).into();
            }
            json
        });
        let routes = self.routes.iter().map(|route| {
            let matches = json!({ "paths": [route.path], "methods": ["GET"] });
            let mut json = json!({ "name": route.name, "match": matches, "limits": route.limits });
            if route.is_public {
                json["public"] = true.into();
                return json;
            }
            json["scopes"] =
                if route.any { json!({ "any": route.scopes }) } else { json!(route.scopes) };
            if route.has_model {
                json["model"] = json!({ "from": "header:x-model", "scope": "model:{model}" });
            }
            if route.has_tenant {
                json["tenant"] = json!({ "header": "x-team" });
            }
            json
        });
        json!({
            "issuers": [{
                "issuer": ISSUER, "audiences": ["api"], "algorithms": ["HS256"], "secret": SECRET,
                "required_claims": self.required_claims, "claims": { "tenant": "tenant_id" },
            }],
            "models": [{ "name": "m1" }, { "name": "m2" }],
            "limits": limits.collect::<Vec<_>>(),
            "routes": routes.collect::<Vec<_>>(),
        })
    }

    pub fn is_public(&self, route: &str) -> bool {
        self.routes.iter().any(|known| known.name == route && known.is_public)
    }

    /// The same policy, whose routes require another scope, except where one of some is enough.
    pub fn requiring(&self, scope: &'static str) -> Self {
        let mut scene = self.clone();
        for route in scene.routes.iter_mut().filter(|route| !route.any) {
            if !route.scopes.contains(&scope) {
                route.scopes.push(scope);
            }
        }
        scene
    }

    pub fn requiring_claim(&self, claim: &'static str) -> Self {
        let mut scene = self.clone();
        if !scene.required_claims.contains(&claim) {
            scene.required_claims.push(claim);
        }
        scene
    }

    /// The same policy with one larger limit.
    pub fn enlarged(&self, which: usize, more: u64) -> Self {
        let mut scene = self.clone();
        let at = which % scene.limits.len();
        let limit = &mut scene.limits[at];
        limit.size += more;
        limit.burst = limit.burst.map(|burst| burst + more);
        scene
    }

    /// The same policy with one of the limits in shadow.
    pub fn relaxed(&self, which: usize) -> Self {
        let mut scene = self.clone();
        let at = which % scene.limits.len();
        scene.limits[at].is_shadow = true;
        scene
    }

    /// The same policy with one more limit, in shadow, on every route.
    pub fn with_shadow(&self, which: usize) -> Self {
        let mut scene = self.clone();
        let by = ["route", "address", "subject", "tenant", "client"];
        for (name, by) in [("s0", by[which % 2]), ("s1", by[which % 5])] {
            let (name, size) = (name.to_owned(), which as u64 % 3);
            let limit = Limit { name, by, size, per: "1m", burst: None, is_shadow: true };
            scene.limits.push(limit);
        }
        for route in &mut scene.routes {
            let name = if route.is_public { "s0" } else { "s1" };
            route.limits.insert(which % (route.limits.len() + 1), name.to_owned());
        }
        scene
    }

    /// The same policy with its routes, and its limits, in another order.
    pub fn shuffled(&self, seed: u64) -> Self {
        let mut scene = self.clone();
        let rank = |name: &str| {
            let letters = name.bytes().fold(seed, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
            });
            (letters, name.to_owned())
        };
        scene.routes.sort_by_cached_key(|route| rank(&route.name));
        scene.limits.sort_by_cached_key(|limit| rank(&limit.name));
        scene
    }
}

impl Sent {
    pub fn expires_at(&self) -> u64 {
        NOW.saturating_add_signed(self.expires)
    }

    /// Whether a revocation or a ban of the target is about this request.
    pub fn is_of(&self, target: &Target) -> bool {
        match *target {
            Target::Subject(subject) => self.has_token && self.subject == subject,
            Target::Client(client) => self.has_token && self.client == Some(client),
            Target::Tenant(tenant) => self.has_token && self.tenant == Some(tenant),
            Target::Jti(jti) => self.has_token && self.jti == Some(jti),
            Target::Network(index) => self.address == ADDRESSES[index],
        }
    }

    fn token(&self) -> String {
        let mut claims = json!({
            "iss": ISSUER, "aud": "api", "sub": self.subject, "iat": NOW - 7000,
            "exp": self.expires_at(), "scope": self.scopes.join(" "),
        });
        for (name, value) in
            [("client_id", self.client), ("tenant_id", self.tenant), ("jti", self.jti)]
        {
            if let Some(value) = value {
                claims[name] = value.into();
            }
        }
        let key = KeyPair::secret(SECRET.to_owned());
        let sign = |message: &[u8]| key.sign(tollgate_testkit::Algorithm::Hs256, message);
        signed(r#"{"alg":"HS256"}"#, claims.to_string(), sign).unwrap()
    }
}

/// A compiled policy with what is revoked and banned.
#[derive(Clone)]
pub struct Compiled {
    snapshot: Snapshot,
    revoked: Vec<Revoked>,
    banned: Vec<Banned>,
}

/// Requests that are decided one after the other.
pub struct Run<'a> {
    snapshot: &'a Snapshot,
    ledger: Ledger,
    micros: u64,
}

impl Compiled {
    pub fn with_store(&self, revoked: &[Revoked], banned: &[Banned]) -> Self {
        let (revoked, banned) = (revoked.to_vec(), banned.to_vec());
        Self { revoked, banned, snapshot: self.snapshot.clone() }
    }

    pub fn run(&self) -> Run<'_> {
        let ledger = Ledger::new(&self.revoked, &self.banned);
        Run { snapshot: &self.snapshot, ledger, micros: NOW * 1_000_000 }
    }

    pub fn decide(&self, sent: &Sent) -> Decided {
        self.run().decide(sent, 0)
    }

    pub fn decide_all(&self, requests: &[(Sent, u64)]) -> Vec<Decided> {
        let mut run = self.run();
        requests.iter().map(|(sent, wait)| run.decide(sent, *wait)).collect()
    }
}

impl Run<'_> {
    /// Decides a request so many microseconds after the one before.
    pub fn decide(&mut self, sent: &Sent, wait: u64) -> Decided {
        match self.outcome(sent, wait) {
            Outcome { decision: Decision::Allow(_), evidence } => {
                Decided::Allowed(evidence.route.unwrap().name.clone())
            }
            Outcome { decision: Decision::Deny(denial), .. } => Decided::Denied(denial.reason),
            Outcome { decision: Decision::Fail(_), .. } => Decided::Failed,
        }
    }

    /// Decides a request, and returns after how many microseconds a limit that refuses it says to
    /// send it again.
    pub fn retry_after(&mut self, sent: &Sent, wait: u64) -> Option<u64> {
        match self.outcome(sent, wait).decision {
            Decision::Deny(denial) if Decided::Denied(denial.reason).is_limited() => {
                denial.retry_after.map(|span| span.micros())
            }
            _ => None,
        }
    }

    fn outcome(&mut self, sent: &Sent, wait: u64) -> Outcome {
        self.micros += wait;
        let now = Timestamp::from_micros(self.micros);
        let token = sent.has_token.then(|| format!("Bearer {}", sent.token()));
        let mut headers = Headers::default();
        let values =
            [("authorization", token.as_deref()), ("x-team", sent.team), ("x-model", sent.model)];
        for (name, value) in values {
            if let Some(value) = value {
                headers.push(name, value.as_bytes());
            }
        }
        let address: IpAddr = sent.address.parse().unwrap();
        let raw = RawRequest {
            method: b"GET",
            scheme: b"https",
            host: b"api.example",
            path: sent.path.as_bytes(),
            headers,
            address: Some(address),
            peer_certificate: b"",
            body: RawBody::None,
        };
        match prepare(self.snapshot, raw, now, &mut self.ledger.hooks()) {
            Prepared::Decided(outcome) => outcome,
            Prepared::Pending(pending) => self.ledger.conclude(pending, now, None),
        }
    }
}
