//! Rolling updates and rollbacks under load, between the previous version of Tollgate and this one on one
//! Redis: no check fails, no revocation and no spend is lost, and each version settles what the other one
//! holds.

use std::{
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
        mpsc,
    },
};

use serde_json::json;
use tempfile::TempDir;
use tollgate_testkit::{Algorithm, KeyPair, Token};

use super::previous_version::{
    Fleet, Replica,
    Version::{self, Current, Previous},
    check,
};
use crate::rig::{
    envoy::{CURRENT, Envoy},
    http::{Answer, Request, Server},
    issuer::now,
    redis::Redis,
    replace_once,
    tollgate::Tollgate,
    until,
};

/// What Redis has of a limit, summed over all of its counters: spent and held.
fn counted(redis: &Redis, limit: &str) -> (u64, u64) {
    let script = format!(
        "local spent, held = 0, 0 \
         for _, key in ipairs(redis.call('KEYS', '{{tollgate}}:count:{limit}:*')) do \
           local s, h = string.match(redis.call('GET', key), '^(%d+) (%d+)$') \
           spent, held = spent + s, held + h \
         end \
         return spent .. ' ' .. held"
    );
    let found = redis.command(&["EVAL", &script, "0"]);
    let (spent, held) = found.split_once(' ').unwrap_or_else(|| panic!("{found}"));
    (spent.parse().unwrap(), held.parse().unwrap())
}

/// The ports of the replicas that get checks, as a load balancer knows them.
#[derive(Default)]
struct InService {
    ports: Mutex<Vec<u16>>,
    is_over: AtomicBool,
    allowed: AtomicU64,
    wrong: Mutex<Vec<String>>,
}

impl InService {
    /// Sends checks in turn to all replicas: those of `valid` are allowed, those of `revoked` are not.
    fn send(&self, valid: &str, revoked: &str) {
        for turn in 0.. {
            if self.is_over.load(Relaxed) {
                return;
            }
            let port = {
                let ports = self.ports.lock().unwrap();
                ports[turn % ports.len()]
            };
            let (token, expected) = if turn % 5 == 4 { (revoked, 401) } else { (valid, 200) };
            match check(token).try_send(port).map(|reply| reply.status) {
                Some(status) if status == expected => {
                    self.allowed.fetch_add(u64::from(status == 200), Relaxed);
                }
                other => {
                    self.wrong.lock().unwrap().push(format!("{other:?}, not {expected}"));
                    return;
                }
            }
        }
    }

    /// Waits until a replica refuses a token. Until then it may allow it, which is counted too.
    fn until_revoked(&self, replica: &Replica, token: &str) {
        until("the revocation", || {
            let status = replica.check(token);
            self.allowed.fetch_add(u64::from(status == 200), Relaxed);
            (status == 401).then_some(())
        });
    }

    fn progress(&self) {
        let before = self.allowed.load(Relaxed);
        until("more checks", || {
            let is_more = self.allowed.load(Relaxed) >= before + 40;
            (is_more || !self.wrong.lock().unwrap().is_empty()).then_some(())
        });
    }
}

struct EndOfLoad<'a>(&'a InService);

impl Drop for EndOfLoad<'_> {
    fn drop(&mut self) {
        self.0.is_over.store(true, Relaxed);
    }
}

/// Replaces two replicas of one version by two of the other, one after the other.
fn replaced_under_load(from: Version, to: Version, store: &str) {
    let fleet = Fleet::new();
    let limit = "requests: 1000000/day";
    let mut old: Vec<Replica> = (0..2).map(|_| fleet.start(from, store, limit)).collect();
    let (alice, bob, carol) = (fleet.token("alice"), fleet.token("bob"), fleet.token("carol"));
    old[0].change("POST", "bob");
    let load = InService::default();
    for replica in &old {
        load.until_revoked(replica, &bob);
    }
    load.ports.lock().unwrap().extend(old.iter().map(|replica| replica.port));
    let mut new: Vec<Replica> = Vec::new();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| load.send(&alice, &bob));
        }
        let _end = EndOfLoad(&load);
        load.progress();
        while let Some(leaving) = old.pop() {
            let arriving = fleet.start(to, store, limit);
            load.until_revoked(&arriving, &bob);
            let mut ports = load.ports.lock().unwrap();
            ports.push(arriving.port);
            ports.retain(|port| *port != leaving.port);
            drop(ports);
            new.push(arriving);
            leaving.stop();
            load.progress();
            // The versions are mixed after the first one.
            if let Some(staying) = old.first() {
                new[0].change("POST", "carol");
                load.until_revoked(staying, &carol);
            }
        }
    });
    assert_eq!(*load.wrong.lock().unwrap(), [""; 0], "{from:?} to {to:?} with `{store}`");
    for replica in &new {
        assert_eq!([replica.check(&bob), replica.check(&carol)], [401, 401]);
    }
    let allowed = load.allowed.load(Relaxed);
    assert_eq!(counted(&fleet.redis, "daily"), (allowed, 0), "{from:?} to {to:?} with `{store}`");
}

#[test]
#[ignore = "builds the previous version: make test-all"]
fn an_update_under_load_fails_no_check_and_loses_no_spend() {
    for store in ["", ", replicate_revocations: { max_staleness: 2s }"] {
        replaced_under_load(Previous, Current, store);
    }
}

#[test]
#[ignore = "builds the previous version: make test-all"]
fn a_rollback_under_load_fails_no_check_and_loses_no_spend() {
    for store in ["", ", replicate_revocations: { max_staleness: 2s }"] {
        replaced_under_load(Current, Previous, store);
    }
}

const METERED: &str = include_str!("../../deploy/envoy/envoy-metered.yaml");

const SECRET: &str = "the-secret-of-the-tokens-of-the-update-tests-0123456789";

/// The tokens that each response uses.
const USED: u64 = 59;

/// Requests of each of three clients.
const REQUESTS: u64 = 15;

/// Starts a replica for one part of the work: checks on `authz`, and reports of usage on `access_log`.
fn part_of(version: Version, shared: &Path, authz: &str, access_log: &str) -> (Tollgate, TempDir) {
    let (dir, shared) = (tempfile::tempdir().unwrap(), shared.display());
    let config = format!(
        "listen: {{ grpc: \"unix:{shared}/{authz}\", ops: \"127.0.0.1:0\", \
         access_log: \"unix:{shared}/{access_log}\" }}\n\
         audit: {{ to: none }}\n\
         store: {{ redis: {{ url: \"unix:{shared}/redis.sock\", \
         password: \"file:{shared}/redis.password\" }} }}\n\
         metering: {{ secrets: [{SECRET}] }}\n\
         issuers: [{{ issuer: i, audiences: any, algorithms: [HS256], secret: {SECRET}, \
         required_claims: [] }}]\n\
         models: [{{ name: m, context: 10000, max_output: 500, template_tokens: 100 }}]\n\
         routes:\n  - {{ match: {{ methods: [POST], paths: [/v1/chat/completions] }}, scopes: [], \
         model: {{ from: body }}, limits: [day] }}\n\
         limits: [{{ name: day, by: [subject], tokens: 100000000/day }}]\n"
    );
    (Tollgate::start_program(&version.program(), dir.path(), &config), dir)
}

/// Checks by one version, whose reservations the other one settles.
fn settled_by_the_other(checks: Version, settles: Version) {
    let dir = tempfile::tempdir().unwrap();
    let redis = Redis::start(dir.path());
    let usage = json!({ "usage": { "prompt_tokens": 11, "completion_tokens": 48,
        "total_tokens": USED } });
    let upstream = Server::start(move |_| {
        let (bytes, response) = mpsc::channel();
        let body = usage.to_string();
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n";
        let whole = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
        bytes.send(whole.into_bytes()).unwrap();
        Answer::Raw(response)
    });
    let (_checking, _files) = part_of(checks, dir.path(), "authz.sock", "unused-log.sock");
    let (settling, _more) = part_of(settles, dir.path(), "unused.sock", "access-log.sock");
    let socket = format!("path: \"{}/access-log.sock\"", dir.path().display());
    let envoy = Envoy::start(dir.path(), upstream.port, CURRENT, |_| {
        replace_once(METERED.to_owned(), "path: /run/tollgate/access-log.sock", &socket)
    });
    let now = now();
    let claims = json!({ "iss": "i", "sub": "alice", "iat": now, "exp": now + 600 });
    let token = Token::new(Algorithm::Hs256).claims(claims);
    let token = token.sign(&KeyPair::secret(SECRET)).unwrap();
    let chat = json!({ "model": "m", "messages": [{ "role": "user", "content": "hello" }] });
    let request = Request::post("/v1/chat/completions", chat.to_string()).bearer(&token);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..REQUESTS {
                    let reply = request.send(envoy.port);
                    assert_eq!(reply.status, 200, "{}", reply.text());
                }
            });
        }
    });
    let expected = (3 * REQUESTS * USED, 0);
    until(&format!("{expected:?} of {checks:?} by {settles:?}"), || {
        (counted(&redis, "day") == expected).then_some(())
    });
    let charged = ["result=\"charged\""];
    settling.until_metric("tollgate_settlements_total", &charged, (3 * REQUESTS) as f64);
}

#[test]
#[ignore = "builds the previous version: make test-all"]
fn each_version_settles_the_reservations_of_the_other() {
    settled_by_the_other(Previous, Current);
    settled_by_the_other(Current, Previous);
}
