//! Redis down, frozen, slow, full, read-only, replaced and emptied, for each `on_outage`.

use serde_json::json;

use super::{
    held_socket::HeldSocket,
    rig::{ISSUER, Rig},
    row::{Answer, Metric, Row, Verified},
};
use crate::{
    e2e::failover::replica_of,
    rig::{http::Request, redis::Redis, until},
    store::redis_server,
};

/// The answers while Redis gives none.
const OUTAGE: &[Answer] = &[
    Answer {
        to: "`on_outage: deny`",
        status: 503,
        reason: "store_unavailable",
        headers: &[("retry-after", "1")],
    },
    Answer { to: "`allow`", status: 200, reason: "", headers: &[] },
    Answer {
        to: "`error`: the check fails, which over HTTP is",
        status: 503,
        reason: "store_unavailable",
        headers: &[],
    },
    Answer { to: "`local`", status: 200, reason: "", headers: &[] },
    Answer {
        to: "`local` beyond the replica's share",
        status: 429,
        reason: "rate_limited",
        headers: &[],
    },
    Answer { to: "a revoked token, each of them", status: 401, reason: "revoked", headers: &[] },
];

const UP: &[Metric] = &[
    Metric::is("tollgate_store_up", &[], 1.0),
    Metric::is("tollgate_store_circuit", &["state=\"closed\""], 1.0),
];

pub(super) const DOWN: Row = Row {
    condition: "Redis is down",
    answers: OUTAGE,
    metrics: &[
        Metric::is("tollgate_store_up", &[], 0.0),
        Metric::is("tollgate_store_circuit", &["state=\"open\""], 1.0),
        Metric::at_least("tollgate_store_errors_total", &["outage=\"circuit_open\""], 1.0),
    ],
    log: &[
        "store.redis: the connection to ... was closed",
        "store.redis: cannot connect to ...: the connection is refused; no server listens there",
    ],
    audit: &["\"reason\":\"store_unavailable\""],
    recovery: "one connection at a time is tried, with pauses of at most 2 s",
    recovered: UP,
};

pub(super) const FROZEN: Row = Row {
    condition: "Redis is frozen: connections are open, nothing is answered",
    answers: OUTAGE,
    metrics: &[
        Metric::is("tollgate_store_up", &[], 0.0),
        Metric::at_least("tollgate_store_errors_total", &["outage=\"deadline\""], 1.0),
        Metric::at_least("tollgate_store_errors_total", &["outage=\"circuit_open\""], 1.0),
    ],
    log: &["store.redis: ... did not answer within the deadline"],
    audit: &["\"reason\":\"store_unavailable\""],
    recovery: "the same; charges that were sent are kept, each once",
    recovered: UP,
};

pub(super) const FROZEN_AT_START: Row = Row {
    condition: "Redis is frozen when Tollgate starts",
    answers: &[
        Answer {
            to: "`on_outage: deny`",
            status: 503,
            reason: "store_unavailable",
            headers: &[("retry-after", "1")],
        },
        Answer { to: "`allow`", status: 200, reason: "", headers: &[] },
        Answer {
            to: "`local`: the revocations are not known yet",
            status: 503,
            reason: "store_unavailable",
            headers: &[],
        },
    ],
    metrics: &[Metric::is("tollgate_store_up", &[], 0.0), Metric::is("tollgate_ready", &[], 1.0)],
    log: &[
        "store.redis: cannot connect to ...: no answer within 1s",
        "store.redis: the copy of the bans and revocations is not refreshed (deadline): ... did not answer within \
         the deadline",
    ],
    audit: &["\"reason\":\"store_unavailable\""],
    recovery: "the same; Tollgate starts, and is ready, without Redis",
    recovered: UP,
};

pub(super) const SLOW: Row = Row {
    condition: "Redis is slow: its answers arrive after `store.redis.deadline`",
    answers: OUTAGE,
    metrics: &[Metric::at_least("tollgate_store_errors_total", &["outage=\"deadline\""], 1.0)],
    log: &[],
    audit: &["\"reason\":\"store_unavailable\""],
    recovery: "the next answer in time; five late ones in a row open the circuit",
    recovered: UP,
};

pub(super) const FULL: Row = Row {
    condition: "Redis is full (`maxmemory-policy noeviction`)",
    answers: OUTAGE,
    metrics: &[Metric::at_least("tollgate_store_errors_total", &["outage=\"refused\""], 1.0)],
    log: &["store.redis: ... refuses: its memory is full; raise `maxmemory` (OOM)"],
    audit: &["\"reason\":\"store_unavailable\""],
    recovery: "the next call with room; nothing was charged meanwhile",
    recovered: UP,
};

pub(super) const READ_ONLY: Row = Row {
    condition: "Redis is a read-only replica: its primary was moved",
    answers: OUTAGE,
    metrics: &[Metric::at_least("tollgate_store_errors_total", &["outage=\"refused\""], 1.0)],
    log: &["store.redis: ... refuses: it is a read-only replica (READONLY)"],
    audit: &["\"reason\":\"store_unavailable\""],
    recovery: "a new connection is made at once, until the address leads to a primary",
    recovered: UP,
};

pub(super) const FAILOVER: Row = Row {
    condition: "Redis fails over: the primary is lost, a replica takes its address",
    answers: OUTAGE,
    metrics: &[
        Metric::is("tollgate_store_up", &[], 0.0),
        Metric::at_least("tollgate_store_errors_total", &["outage=\"circuit_open\""], 1.0),
    ],
    log: &["store.redis: cannot connect to ...: the connection is refused"],
    audit: &["\"reason\":\"store_unavailable\""],
    recovery: "as when Redis is down; revocations that were copied hold, the last writes of the \
               primary are lost",
    recovered: UP,
};

pub(super) const FLUSHED: Row = Row {
    condition: "Redis was emptied (`FLUSHALL`, `SCRIPT FLUSH`, a restart without its data)",
    answers: &[
        Answer { to: "any token", status: 200, reason: "", headers: &[] },
        Answer {
            to: "a token that was revoked, or whose limit was used up",
            status: 200,
            reason: "",
            headers: &[],
        },
    ],
    metrics: &[
        Metric::is("tollgate_store_errors_total", &[], 0.0),
        Metric::is("tollgate_store_up", &[], 1.0),
    ],
    log: &["store.redis: the changes of the bans and revocations do not go on from the last one \
            that was read; everything is read again. If Redis was emptied or replaced, what it lost \
            is lost here too: ..."],
    audit: &[],
    recovery: "scripts are loaded again by the next call. **Revocations, bans and API keys in Redis \
               are lost**: keep `appendonly yes`, and revoke again",
    recovered: &[],
};

const BEYOND: &str = "a request beyond its limit";
const AFTERWARDS: &str = "the same after its usual wait";

pub(super) const SET_BACK: Row = Row {
    condition: "the clock of Redis is set back an hour, or that of its successor is an hour behind",
    answers: &[
        Answer { to: BEYOND, status: 429, reason: "rate_limited", headers: &[] },
        Answer { to: AFTERWARDS, status: 200, reason: "", headers: &[] },
    ],
    metrics: &[
        Metric::is("tollgate_store_errors_total", &[], 0.0),
        Metric::is("tollgate_store_up", &[], 1.0),
    ],
    log: &[],
    audit: &["\"reason\":\"rate_limited\""],
    recovery: "none is needed: limits, reservations and proofs go on with a time that never goes back; \
               revocations and bans end up to an hour later",
    recovered: UP,
};

/// One route for each `on_outage`.
const CONFIG: &str = r#"issuers:
  - { issuer: "https://auth.example.com", audiences: [inference-api], algorithms: [RS256], jwks: { file: "${DIR}/jwks.json" } }
limits:
  - { name: per-subject, by: [subject], rate: 1/1h, burst: 4 }
routes:
  - { match: { methods: [GET], paths: [/deny] }, scopes: [], limits: [per-subject] }
  - { match: { methods: [GET], paths: [/allow] }, scopes: [], limits: [per-subject], on_outage: allow }
  - { match: { methods: [GET], paths: [/error] }, scopes: [], limits: [per-subject], on_outage: error }
  - { match: { methods: [GET], paths: [/local] }, scopes: [], limits: [per-subject], on_outage: local }
"#;

/// The configuration with these keys of `store.redis`.
pub(super) fn on_redis(keys: &str) -> String {
    let local = "local: { replicas: 2, refresh: 100ms, max_staleness: 60s }";
    format!("{CONFIG}store: {{ redis: {{ {keys}, {local} }} }}\n")
}

/// A Tollgate on a Redis, with a revoked token.
struct OnRedis {
    rig: Rig,
    gone: String,
}

impl OnRedis {
    /// Starts it with these keys of `store.redis`. `reads` counts how often the revocations were
    /// copied.
    fn start(dir: tempfile::TempDir, redis: &str, reads: impl Fn() -> u64) -> Self {
        let rig = Rig::start_in(dir, &on_redis(redis));
        let gone = rig.token("gone");
        let entry = json!({ "issuer": ISSUER, "jti": "gone" }).to_string();
        until("the connection", || rig.allows("/deny", &rig.token("first")));
        assert_eq!(rig.tollgate.admin(Request::post("/v1/revocations", entry)).status, 200);
        // The second read from now began after the revocation.
        let before = reads();
        until("the copy of the revocations", || (reads() >= before + 2).then_some(()));
        Self { rig, gone }
    }

    /// Sends checks until the metrics of the row are those of the outage.
    fn degrade(&self, verified: &Verified, row: &Row) {
        until(row.condition, || {
            let reply = self.rig.get("/deny", &self.rig.token("probe"));
            (reply.status == 503).then_some(())
        });
        // The circuit opens after several failures.
        if row.metrics.iter().any(|metric| metric.labels == ["outage=\"circuit_open\""]) {
            until("the open circuit", || {
                let _ = self.rig.get("/deny", &self.rig.token("probe"));
                let open = ["outage=\"circuit_open\""];
                (self.rig.tollgate.metric("tollgate_store_errors_total", &open) >= 1.0)
                    .then_some(())
            });
        }
        self.answers(verified, row, &mut || {});
        verified.observed(row, &self.rig.tollgate, &[], "");
    }

    /// Verifies the answers of an outage. `between` is called between two checks.
    fn answers(&self, verified: &Verified, row: &Row, between: &mut dyn FnMut()) {
        let token = self.rig.token("alice");
        let mut verify = |to: &str, path: &str, token: &str| {
            verified.answer(row, to, &self.rig.get(path, token));
            between();
        };
        verify("`on_outage: deny`", "/deny", &token);
        verify("`allow`", "/allow", &token);
        verify("`error`: the check fails, which over HTTP is", "/error", &token);
        // The share of four is two.
        // Its buckets are those of the row.
        let local = self.rig.token(row.condition);
        verify("`local`", "/local", &local);
        verify("`local`", "/local", &local);
        verify("`local` beyond the replica's share", "/local", &local);
        for path in ["/deny", "/allow", "/error", "/local"] {
            verify("a revoked token, each of them", path, &self.gone);
        }
    }

    /// Waits until Redis decides again. The revoked token is refused before and after.
    fn recover(&self, verified: &Verified, row: &Row) {
        // Charges without an answer are kept, so that the subject is another one each time.
        let mut number = 0;
        verified.recovered(row, &self.rig.tollgate, &[], || {
            number += 1;
            let reply = self.rig.get("/deny", &self.rig.token(&format!("fresh-{number}")));
            assert_ne!(self.rig.get("/allow", &self.gone).status, 200);
            (reply.status == 200).then_some(())
        });
        assert_eq!(self.rig.get("/allow", &self.gone).verdict(), (401, "revoked".to_owned()));
    }
}

/// A Tollgate and a Redis with a socket in one directory.
fn with_socket() -> (OnRedis, Redis) {
    let dir = tempfile::tempdir().unwrap();
    let redis = Redis::start(dir.path());
    let url = "url: \"unix:${DIR}/redis.sock\", password: \"file:${DIR}/redis.password\"";
    let on = OnRedis::start(dir, url, || redis.calls("xrange"));
    (on, redis)
}

pub(super) fn down_and_frozen(verified: &Verified) {
    let (on, mut redis) = with_socket();
    redis.pause();
    on.degrade(verified, &FROZEN);
    redis.resume();
    on.recover(verified, &FROZEN);
    redis.kill();
    on.degrade(verified, &DOWN);
    redis.restart();
    on.recover(verified, &DOWN);
}

pub(super) fn frozen_at_start(verified: &Verified) {
    let dir = tempfile::tempdir().unwrap();
    let redis = Redis::start(dir.path());
    redis.pause();
    let url = "url: \"unix:${DIR}/redis.sock\", password: \"file:${DIR}/redis.password\"";
    let rig = Rig::start_in(dir, &on_redis(url));
    let row = &FROZEN_AT_START;
    until("the open circuit", || {
        (rig.tollgate.metric("tollgate_store_up", &[]) == 0.0).then_some(())
    });
    let token = rig.token("alice");
    verified.answer(row, "`on_outage: deny`", &rig.get("/deny", &token));
    verified.answer(row, "`allow`", &rig.get("/allow", &token));
    let to = "`local`: the revocations are not known yet";
    verified.answer(row, to, &rig.get("/local", &token));
    verified.observed(row, &rig.tollgate, &[], "");
    redis.resume();
    verified.recovered(row, &rig.tollgate, &[], || rig.allows("/deny", &token));
    // The directory is dropped after the server.
    drop(redis);
    drop(rig);
}

pub(super) fn full(verified: &Verified) {
    let (on, redis) = with_socket();
    assert_eq!(redis.command(&["CONFIG", "SET", "maxmemory", "1"]), "+OK");
    on.degrade(verified, &FULL);
    assert_eq!(redis.command(&["CONFIG", "SET", "maxmemory", "0"]), "+OK");
    on.recover(verified, &FULL);
    // Nothing was charged.
    let token = on.rig.token("alice");
    let statuses: Vec<u16> = (0..5).map(|_| on.rig.get("/deny", &token).status).collect();
    assert_eq!(statuses, [200, 200, 200, 200, 429]);
}

pub(super) fn emptied(verified: &Verified) {
    let (on, redis) = with_socket();
    let (rig, limited) = (&on.rig, on.rig.token("limited"));
    assert_eq!(rig.get("/deny", &on.gone).status, 401);
    // The bucket is used up by another replica, so that this one remembers no refusal.
    until("the charges", || {
        (rig.get("/deny", &limited).one("ratelimit")?.contains("r=0")).then_some(())
    });
    for words in [&["FLUSHALL"][..], &["SCRIPT", "FLUSH"]] {
        assert_eq!(redis.command(words), "+OK");
    }
    verified.answer(&FLUSHED, "any token", &rig.get("/deny", &rig.token("alice")));
    let to = "a token that was revoked, or whose limit was used up";
    for token in [&on.gone, &limited] {
        verified.answer(&FLUSHED, to, &rig.get("/deny", token));
    }
    verified.observed(&FLUSHED, &rig.tollgate, &[], "");
    let entry = json!({ "issuer": ISSUER, "jti": "gone" }).to_string();
    assert_eq!(rig.tollgate.admin(Request::post("/v1/revocations", entry)).status, 200);
    verified.recovered(&FLUSHED, &rig.tollgate, &[], || {
        (rig.get("/deny", &on.gone).status == 401).then_some(())
    });
}

/// Puts every moment that scripts have stored an hour ahead, which is what they are where the clock is set
/// back by one: no test may set the clock of its machine.
const AHEAD: &str = "
local hour = 3600000000
for _, key in ipairs(redis.call('KEYS', '{tollgate}:rate:*')) do
  local life = redis.call('PTTL', key) + hour / 1000
  redis.call('SET', key, string.format('%.0f', redis.call('GET', key) + hour), 'PX', life)
end
local latest, ahead = string.match(redis.call('GET', '{tollgate}:clock'), '^(%d+) (%d+)$')
redis.call('SET', '{tollgate}:clock', string.format('%.0f %s', latest + hour, ahead))
return 1";

pub(super) fn set_back(verified: &Verified) {
    let dir = tempfile::tempdir().unwrap();
    let redis = Redis::start(dir.path());
    let url = "url: \"unix:${DIR}/redis.sock\", password: \"file:${DIR}/redis.password\"";
    let brief = "  - { match: { methods: [GET], paths: [/brief] }, scopes: [], limits: [brief] }\n";
    let config = on_redis(url)
        .replacen("limits:\n", "limits:\n  - { name: brief, by: [subject], rate: 1/1s }\n", 1)
        .replacen("routes:\n", &format!("routes:\n{brief}"), 1);
    let rig = Rig::start_in(dir, &config);
    until("the connection", || rig.allows("/deny", &rig.token("first")));
    let (limited, brief) = (rig.token("limited"), rig.token("brief"));
    // Used up without a refusal that this replica would remember.
    until("the charges", || {
        (rig.get("/deny", &limited).one("ratelimit")?.contains("r=0")).then_some(())
    });
    assert_eq!(rig.get("/brief", &brief).status, 200);
    assert_eq!(redis.command(&["EVAL", AHEAD, "0"]), ":1");
    verified.answer(&SET_BACK, BEYOND, &rig.get("/deny", &limited));
    let reply = until("the usual wait", || {
        Some(rig.get("/brief", &brief)).filter(|reply| reply.status == 200)
    });
    verified.answer(&SET_BACK, AFTERWARDS, &reply);
    verified.observed(&SET_BACK, &rig.tollgate, &[], "");
    verified.recovered(&SET_BACK, &rig.tollgate, &[], || rig.allows("/brief", &rig.token("new")));
}

pub(super) fn slow(verified: &Verified) {
    let dir = tempfile::tempdir().unwrap();
    let redis = Redis::start(dir.path());
    let socket = HeldSocket::start(&dir.path().join("held.sock"), &dir.path().join("redis.sock"));
    let url = "url: \"unix:${DIR}/held.sock\", password: \"file:${DIR}/redis.password\"";
    let on = OnRedis::start(dir, url, || redis.calls("xrange"));
    let mut number = 0;
    let mut answer_late = || {
        socket.release();
        until("an answer in time", || {
            number += 1;
            on.rig.allows("/deny", &on.rig.token(&format!("in-time-{number}")))
        });
        socket.hold();
    };
    socket.hold();
    on.answers(verified, &SLOW, &mut answer_late);
    verified.observed(&SLOW, &on.rig.tollgate, &[], "");
    socket.release();
    on.recover(verified, &SLOW);
}

pub(super) fn failover(verified: &Verified) {
    let mut primary = redis_server::start(&[]);
    let replica = replica_of(&primary);
    let port = primary.port();
    let url = format!("url: \"redis://127.0.0.1:{port}\"");
    let reads = || {
        let text: String =
            ::redis::cmd("INFO").arg("commandstats").query(&mut primary.client()).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("cmdstat_xrange:calls="));
        line.and_then(|line| line.split(',').next()?.parse().ok()).unwrap_or_default()
    };
    let on = OnRedis::start(tempfile::tempdir().unwrap(), &url, reads);
    let replicaof = |server: &redis_server::Server, host: &str, port: &str| {
        ::redis::cmd("REPLICAOF").arg(host).arg(port).exec(&mut server.client()).unwrap();
    };

    replicaof(&primary, "127.0.0.1", &replica.port().to_string());
    on.degrade(verified, &READ_ONLY);
    replicaof(&primary, "NO", "ONE");
    on.recover(verified, &READ_ONLY);

    // The replica has the revocation.
    replicaof(&replica, "127.0.0.1", &port.to_string());
    until("the copy", || {
        let text: String =
            ::redis::cmd("INFO").arg("replication").query(&mut replica.client()).unwrap();
        text.contains("master_link_status:up").then_some(())
    });
    primary.kill();
    on.degrade(verified, &FAILOVER);
    replicaof(&replica, "NO", "ONE");
    until("the address", || {
        let set =
            ::redis::cmd("CONFIG").arg("SET").arg("port").arg(port).exec(&mut replica.client());
        set.is_ok().then_some(())
    });
    on.recover(verified, &FAILOVER);
}
