//! The previous version of Tollgate and this one on one Redis, as in a rolling update and in a rollback:
//! no revocation is lost, limits are counted together, and each version starts on the other's data.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sys::signal::Signal;
use serde_json::json;
use tempfile::TempDir;

use crate::rig::{
    POLICY, http::Request, issuer::Issuer, part, redis::Redis, tollgate::Tollgate, until,
};

const ISSUER: &str = "https://auth.example.com";
const MARKER: &str = "{tollgate}:format";

/// Which program a replica runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    Previous,
    Current,
}

use Version::{Current, Previous};

impl Version {
    /// The path of its program.
    pub(super) fn program(self) -> PathBuf {
        match self {
            Previous => part("tollgate-previous", "previous"),
            Current => Path::new(env!("CARGO_BIN_EXE_tollgate")).to_owned(),
        }
    }
}

/// A replica with a directory of its own.
pub(super) struct Replica {
    pub(super) tollgate: Tollgate,
    pub(super) port: u16,
    _dir: TempDir,
}

/// A Redis, and an issuer whose tokens every replica accepts.
pub(super) struct Fleet {
    pub(super) redis: Redis,
    issuer: Issuer,
    dir: TempDir,
}

impl Fleet {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { redis: Redis::start(dir.path()), issuer: Issuer::new(ISSUER), dir }
    }

    /// Starts a replica whose limit on `/v1/models` is `limit`.
    pub(super) fn start(&self, version: Version, store: &str, limit: &str) -> Replica {
        let dir = tempfile::tempdir().unwrap();
        self.issuer.publish(dir.path());
        let shared = self.dir.path().display();
        let policy =
            POLICY.replace("    name: models\n", "    name: models\n    limits: [daily]\n");
        let admin = crate::rig::tollgate::ADMIN_TOKEN;
        let config = format!(
            "listen: {{ grpc: \"unix:${{DIR}}/authz.sock\", ops: \"127.0.0.1:0\", \
             admin: {{ address: \"127.0.0.1:0\", token: {admin} }}, \
             http: [{{ address: \"127.0.0.1:0\", dialect: traefik, body: deny }}] }}\n{policy}\
             limits: [{{ name: daily, by: [subject], {limit} }}]\n\
             store: {{ redis: {{ url: \"unix:{shared}/redis.sock\", \
             password: \"file:{shared}/redis.password\"{store} }} }}\n"
        );
        let tollgate = Tollgate::start_program(&version.program(), dir.path(), &config);
        Replica { port: tollgate.http_port(), tollgate, _dir: dir }
    }

    pub(super) fn token(&self, subject: &str) -> String {
        self.issuer.token(json!({ "sub": subject, "jti": format!("{subject}-1") }))
    }

    fn marker(&self) -> String {
        self.redis.command(&[
            "EVAL",
            &format!("return redis.call('GET', '{MARKER}') or 'none'"),
            "0",
        ])
    }
}

impl Replica {
    /// The status of a check of `GET /v1/models`.
    pub(super) fn check(&self, token: &str) -> u16 {
        check(token).send(self.port).status
    }

    pub(super) fn change(&self, method: &str, subject: &str) {
        let body = json!({ "issuer": ISSUER, "subject": subject }).to_string();
        let request = Request::new(method, "/v1/revocations")
            .header("Content-Type", "application/json")
            .body(body);
        assert_eq!(self.tollgate.admin(request).status, 200, "{method} {subject}");
    }

    /// Ends the replica, so that it returns its leased units.
    pub(super) fn stop(mut self) {
        self.tollgate.process.signal(Signal::SIGTERM);
        assert!(self.tollgate.process.ended(Duration::from_secs(20)).success());
    }
}

/// A check of `GET /v1/models`.
pub(super) fn check(token: &str) -> Request {
    Request::get("/")
        .header("X-Forwarded-Method", "GET")
        .header("X-Forwarded-Proto", "https")
        .header("X-Forwarded-Host", "api.example.com")
        .header("X-Forwarded-Uri", "/v1/models")
        .header("X-Forwarded-For", "192.0.2.1")
        .bearer(token)
}

/// Whether both replicas answer a check with this status, soon.
fn both(about: &str, replicas: [&Replica; 2], token: &str, status: u16) {
    for replica in replicas {
        until(about, || (replica.check(token) == status).then_some(()));
    }
}

#[test]
#[ignore = "builds the previous version: make test-all"]
fn a_revocation_by_either_version_applies_in_both() {
    for store in ["", ", replicate_revocations: { max_staleness: 2s }"] {
        for (first, second) in [(Previous, Current), (Current, Previous)] {
            let fleet = Fleet::new();
            let (one, other) = (
                fleet.start(first, store, "rate: 1000/1d"),
                fleet.start(second, store, "rate: 1000/1d"),
            );
            let about = format!("{first:?} and {second:?} with `{store}`");
            for (by, undone_by) in [(&one, &other), (&other, &one)] {
                let token = fleet.token("alice");
                both(&format!("{about}: allowed"), [&one, &other], &token, 200);
                by.change("POST", "alice");
                both(&format!("{about}: revoked"), [&one, &other], &token, 401);
                for replica in [&one, &other] {
                    assert_eq!(replica.check(&token), 401, "{about}: it stays revoked");
                }
                undone_by.change("DELETE", "alice");
                both(&format!("{about}: reinstated"), [&one, &other], &token, 200);
            }
        }
    }
}

#[test]
#[ignore = "builds the previous version: make test-all"]
fn both_versions_count_one_limit() {
    for (first, second) in [(Previous, Current), (Current, Previous)] {
        let fleet = Fleet::new();
        let (one, other) =
            (fleet.start(first, "", "rate: 20/1d"), fleet.start(second, "", "rate: 20/1d"));
        let token = fleet.token("alice");
        let statuses: Vec<u16> =
            (0..15).flat_map(|_| [one.check(&token), other.check(&token)]).collect();
        assert!(statuses[..20].iter().all(|status| *status == 200), "{first:?}: {statuses:?}");
        assert!(statuses[20..].iter().all(|status| *status == 429), "{first:?}: {statuses:?}");
    }
}

#[test]
#[ignore = "builds the previous version: make test-all"]
fn units_that_either_version_leases_are_charged_once_and_come_back() {
    const RATE: u64 = 200;
    let lease = "rate: 200/1d, lease: { slice: 10, life: 30s }";
    let store = ", replicate_revocations: { max_staleness: 2s }";
    for (first, second) in [(Previous, Current), (Current, Previous)] {
        let fleet = Fleet::new();
        let (one, other) = (fleet.start(first, store, lease), fleet.start(second, store, lease));
        let token = fleet.token("alice");
        let mut admitted = 0;
        for _ in 0..40 {
            for replica in [&one, &other] {
                admitted += u64::from(replica.check(&token) == 200);
            }
        }
        assert_eq!(admitted, 80, "{first:?} and {second:?}");
        one.stop();
        other.stop();
        let (redis, day) = (&fleet.redis, 86_400_000_000_u64);
        let key = redis.command(&[
            "EVAL",
            "return redis.call('KEYS', '{tollgate}:rate:daily:*')[1]",
            "0",
        ]);
        let full_at: u64 = redis.command(&["GET", &key]).parse().unwrap();
        let script = "local t = redis.call('TIME') return t[1] .. string.format('%06d', t[2])";
        let now: u64 = redis.command(&["EVAL", script, "0"]).parse().unwrap();
        let spent = (full_at - now).div_ceil(day / RATE);
        assert_eq!(spent, admitted, "{first:?} and {second:?}: unspent units are back");
    }
}

#[test]
#[ignore = "builds the previous version: make test-all"]
fn an_update_and_a_rollback_keep_revocations_and_counts() {
    for store in ["", ", replicate_revocations: { max_staleness: 2s }"] {
        let fleet = Fleet::new();
        let (alice, bob, carol) = (fleet.token("alice"), fleet.token("bob"), fleet.token("carol"));
        let limit = "rate: 10/1d";
        let old = fleet.start(Previous, store, limit);
        old.change("POST", "alice");
        assert_eq!((old.check(&carol), fleet.marker().as_str()), (200, "1"));
        old.stop();

        let new = fleet.start(Current, store, limit);
        assert_eq!(new.check(&alice), 401, "`{store}`: revoked before the update");
        assert_eq!((new.check(&carol), new.check(&bob)), (200, 200));
        assert_eq!(fleet.marker(), "1", "`{store}`: the format did not change");
        new.change("POST", "bob");
        new.stop();

        let old = fleet.start(Previous, store, limit);
        assert_eq!((old.check(&alice), old.check(&bob)), (401, 401), "`{store}`: after a rollback");
        let left = (0..10).filter(|_| old.check(&carol) == 200).count();
        assert_eq!(left, 8, "`{store}`: two of ten were charged before");
    }
}

#[test]
#[ignore = "builds the previous version: make test-all"]
fn a_ban_by_either_version_applies_in_both() {
    for store in ["", ", replicate_revocations: { max_staleness: 2s }"] {
        for (first, second) in [(Previous, Current), (Current, Previous)] {
            let fleet = Fleet::new();
            let (one, other) = (
                fleet.start(first, store, "rate: 1000/1d"),
                fleet.start(second, store, "rate: 1000/1d"),
            );
            let (alice, bob) = (fleet.token("alice"), fleet.token("bob"));
            let about = format!("{first:?} and {second:?} with `{store}`");
            both(&format!("{about}: allowed"), [&one, &other], &alice, 200);
            let ban = |by: &Replica, method: &str, body: &serde_json::Value| {
                let request = Request::new(method, "/v1/bans")
                    .header("Content-Type", "application/json")
                    .body(body.to_string());
                assert_eq!(by.tollgate.admin(request).status, 200, "{method} {body}");
            };
            let subject = json!({ "issuer": ISSUER, "subject": "alice" });
            let network = json!({ "network": "192.0.2.0/24" });
            ban(&one, "POST", &subject);
            both(&format!("{about}: banned"), [&one, &other], &alice, 403);
            both(&format!("{about}: not banned"), [&one, &other], &bob, 200);
            ban(&one, "POST", &network);
            both(&format!("{about}: the network is banned"), [&one, &other], &bob, 429);
            ban(&other, "DELETE", &network);
            ban(&other, "DELETE", &subject);
            both(&format!("{about}: lifted"), [&one, &other], &alice, 200);
        }
    }
}
