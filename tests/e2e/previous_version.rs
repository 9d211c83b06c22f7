//! The previous version of Tollgate and this one on one Redis, as in a rolling update and in a rollback:
//! no revocation is lost, limits are counted together, and each version starts on the other's data.

use std::{path::Path, time::Duration};

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
enum Version {
    Previous,
    Current,
}

use Version::{Current, Previous};

/// A replica with a directory of its own.
struct Replica {
    tollgate: Tollgate,
    port: u16,
    _dir: TempDir,
}

/// A Redis, and an issuer whose tokens every replica accepts.
struct Fleet {
    redis: Redis,
    issuer: Issuer,
    dir: TempDir,
}

impl Fleet {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { redis: Redis::start(dir.path()), issuer: Issuer::new(ISSUER), dir }
    }

    /// Starts a replica whose limit on `/v1/models` is `limit`.
    fn start(&self, version: Version, store: &str, limit: &str) -> Replica {
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
        let program = match version {
            Previous => part("tollgate-previous", "previous"),
            Current => Path::new(env!("CARGO_BIN_EXE_tollgate")).to_owned(),
        };
        let tollgate = Tollgate::start_program(&program, dir.path(), &config);
        Replica { port: tollgate.http_port(), tollgate, _dir: dir }
    }

    fn token(&self, subject: &str) -> String {
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
    fn check(&self, token: &str) -> u16 {
        let request = Request::get("/")
            .header("X-Forwarded-Method", "GET")
            .header("X-Forwarded-Proto", "https")
            .header("X-Forwarded-Host", "api.example.com")
            .header("X-Forwarded-Uri", "/v1/models")
            .header("X-Forwarded-For", "192.0.2.1")
            .bearer(token);
        request.send(self.port).status
    }

    fn change(&self, method: &str, subject: &str) {
        let body = json!({ "issuer": ISSUER, "subject": subject }).to_string();
        let request = Request::new(method, "/v1/revocations")
            .header("Content-Type", "application/json")
            .body(body);
        assert_eq!(self.tollgate.admin(request).status, 200, "{method} {subject}");
    }

    /// Ends the replica, so that it returns its leased units.
    fn stop(mut self) {
        self.tollgate.process.signal(Signal::SIGTERM);
        assert!(self.tollgate.process.ended(Duration::from_secs(20)).success());
    }
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
        assert_eq!((old.check(&carol), fleet.marker().as_str()), (200, "none"));
        old.stop();

        let new = fleet.start(Current, store, limit);
        assert_eq!(new.check(&alice), 401, "`{store}`: revoked before the update");
        assert_eq!((new.check(&carol), new.check(&bob)), (200, 200));
        assert_eq!(fleet.marker(), "1", "`{store}`: the format of the previous version");
        new.change("POST", "bob");
        new.stop();

        let old = fleet.start(Previous, store, limit);
        assert_eq!((old.check(&alice), old.check(&bob)), (401, 401), "`{store}`: after a rollback");
        let left = (0..10).filter(|_| old.check(&carol) == 200).count();
        assert_eq!(left, 8, "`{store}`: two of ten were charged before");
    }
}

/// The previous version knows no bans: it goes on, and its revocations are not disturbed.
#[test]
#[ignore = "builds the previous version: make test-all"]
fn bans_apply_in_this_version_and_do_not_disturb_the_previous_one() {
    for store in ["", ", replicate_revocations: { max_staleness: 2s }"] {
        let fleet = Fleet::new();
        let old = fleet.start(Previous, store, "rate: 1000/1d");
        let new = fleet.start(Current, store, "rate: 1000/1d");
        let (alice, bob) = (fleet.token("alice"), fleet.token("bob"));
        both(&format!("`{store}`: allowed"), [&old, &new], &alice, 200);
        let ban = |method: &str, body: serde_json::Value| {
            let request = Request::new(method, "/v1/bans")
                .header("Content-Type", "application/json")
                .body(body.to_string());
            assert_eq!(new.tollgate.admin(request).status, 200, "{method} {body}");
        };
        let subject = json!({ "issuer": ISSUER, "subject": "alice" });
        let network = json!({ "network": "192.0.2.0/24" });
        ban("POST", subject.clone());
        until("the ban applies", || (new.check(&alice) == 403).then_some(()));
        assert_eq!((old.check(&alice), new.check(&bob)), (200, 200), "`{store}`");
        // Revocations of either version still reach both.
        old.change("POST", "bob");
        both(&format!("`{store}`: revoked"), [&old, &new], &bob, 401);
        new.change("DELETE", "bob");
        both(&format!("`{store}`: reinstated"), [&old, &new], &bob, 200);
        ban("POST", network.clone());
        until("the ban of the network applies", || (new.check(&bob) == 429).then_some(()));
        assert_eq!(old.check(&bob), 200, "`{store}`");
        ban("DELETE", network);
        ban("DELETE", subject);
        both(&format!("`{store}`: lifted"), [&old, &new], &alice, 200);
        old.stop();
        new.stop();
    }
}
