//! Automatic bans behind a real Envoy, which takes the client's address from the PROXY protocol: loopback
//! is never banned.

use serde_json::{Value, json};

use crate::rig::{
    POLICY, Rig,
    envoy::{CURRENT, is_embedded},
    http::{Reply, Request, exchange},
    issuer::forged,
    redis::{PASSWORD, Redis},
    replace_once,
    tollgate::{ADMIN_TOKEN, run},
    until,
};

const ATTACKER: &str = "203.0.113.7";

/// Envoy's configuration with clients behind a load balancer that sends the PROXY protocol.
fn behind_balancer(config: String) -> String {
    let buffer = "      per_connection_buffer_limit_bytes: 65536\n      filter_chains:\n";
    let filters = "      per_connection_buffer_limit_bytes: 65536
      listener_filters:
        - name: envoy.filters.listener.proxy_protocol
          typed_config:
            \"@type\": type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol
            allow_requests_without_proxy_protocol: true
      filter_chains:
";
    replace_once(config, buffer, filters)
}

fn send(rig: &Rig, address: &str, request: &Request) -> Reply {
    let mut bytes = format!("PROXY TCP4 {address} 127.0.0.1 40000 8080\r\n").into_bytes();
    bytes.extend(request.bytes());
    exchange(rig.envoy.port, &bytes, true).unwrap()
}

fn models(token: &str) -> Request {
    Request::get("/v1/models").bearer(token)
}

fn verdict(rig: &Rig, address: &str, token: &str) -> (u16, String) {
    send(rig, address, &models(token)).verdict()
}

fn banned() -> (u16, String) {
    (429, "banned".to_owned())
}

/// Sends forged tokens, each another one, until they are refused unverified.
fn attack(rig: &Rig, address: &str) {
    let mut number = 0;
    until("the network is banned", || {
        number += 1;
        let token = rig.token(json!({ "sub": "mallory", "jti": format!("{address}-{number}") }));
        let verdict = verdict(rig, address, &forged(&token));
        assert!(verdict.0 == 401 || verdict == banned(), "{verdict:?}");
        (verdict == banned()).then_some(())
    });
}

#[test]
fn one_replica_bans_and_both_refuse() {
    let dir = tempfile::tempdir().unwrap();
    let redis = Redis::start(dir.path());
    let place = dir.path().display().to_string();
    let store = redis.store().replace("${DIR}", &place);
    let section = "automatic_bans: { failures: 10/1h, for: 1h, new_credentials: 1/1h }\n";
    let config = format!("{POLICY}{store}{section}");
    let rigs = [(); 2].map(|()| Rig::with(&config, behind_balancer));
    let [one, two] = &rigs;
    // Each rig has an issuer of its own.
    let token = |rig: &Rig, sub: &str| rig.token(json!({ "sub": sub }));
    let known = [token(one, "alice"), token(two, "alice")];
    for (rig, token) in rigs.iter().zip(&known) {
        assert_eq!(verdict(rig, ATTACKER, token).0, 200);
    }

    attack(one, ATTACKER);
    let unknown = forged(&token(two, "bob"));
    until("the other replica knows it", || {
        (two.tollgate.metric("tollgate_bans", &["kind=\"automatic_network\""]) == 1.0).then_some(())
    });
    // One new credential of the network is verified in each replica; the first one is the attacker's.
    assert_eq!(verdict(two, ATTACKER, &unknown).0, 401);
    for (rig, known) in rigs.iter().zip(&known) {
        let refused = send(rig, ATTACKER, &models(&token(rig, "carol")));
        assert_eq!(refused.verdict(), banned());
        assert_eq!(refused.one("x-should-retry"), Some("false"));
        assert!(refused.one("retry-after").is_some(), "{:?}", refused.headers);
        assert_eq!(verdict(rig, ATTACKER, known).0, 200, "a known token passes");
        assert_eq!(send(rig, ATTACKER, &Request::get("/health")).status, 200, "a public route");
        assert_eq!(send(rig, ATTACKER, &Request::get("/v1/models")).status, 401);
        assert_eq!(verdict(rig, "203.0.113.8", &token(rig, "dora")).0, 200, "another network");
    }

    let url = format!("unix://{place}/redis.sock?pass={PASSWORD}");
    std::fs::write(dir.path().join("redis.url"), url).unwrap();
    let ban = |arguments: &[&str]| {
        let (verb, rest) = arguments.split_first().unwrap();
        let output = run(dir.path(), &[&["ban", verb, "--redis", "@redis.url"], rest].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let list = ban(&["list"]);
    assert!(list.starts_with("network 203.0.113.7/32 (automatic)\n"), "{list}");
    assert!(list.contains("  automatic: 10 failed credentials in "), "{list}");
    let log = one.tollgate.process.err();
    assert!(log.contains("a network is banned, automatic: 10 failed credentials in "), "{log}");
    assert!(log.contains("203.0.113.7/32"), "{log}");
    assert!(ban(&["check", "--address", ATTACKER]).contains("automatic"));
    ban(&["lift", "--network", ATTACKER]);
    for rig in &rigs {
        until("it is lifted", || {
            (verdict(rig, ATTACKER, &token(rig, "erin")).0 == 200).then_some(())
        });
    }
}

#[test]
fn bans_grow_and_a_reload_to_shadow_ends_them() {
    bans(CURRENT);
}

/// With memory, for the sidecar and for the module.
pub(super) fn bans(version: &str) {
    let listen = if is_embedded(version) {
        let admin = format!("{{ address: \"127.0.0.1:0\", token: {ADMIN_TOKEN} }}");
        format!("listen: {{ embedded: true, ops: \"127.0.0.1:0\", admin: {admin} }}\n")
    } else {
        String::new()
    };
    let section = |mode: &str, failures: u32, first: &str| {
        format!(
            "{listen}{POLICY}automatic_bans: {{ mode: {mode}, failures: {failures}/1h, for: {first}, \
             new_credentials: 1/1h, exempt: [203.0.113.128/25] }}\n"
        )
    };
    let rig = Rig::on(version, &section("enforce", 10, "1s"), behind_balancer);
    // How long a ban in force lasts, from its beginning on.
    let length = |network: &str| {
        let bans: Value = rig.tollgate.admin(Request::get("/v1/bans")).json();
        let list = bans["bans"].as_array().unwrap();
        let ban = list.iter().find(|ban| ban["network"] == network)?;
        assert_eq!(ban["kind"], "automatic_network");
        Some(ban["until"].as_u64().unwrap() - ban["since"].as_u64().unwrap())
    };
    let counted = |result: &str| {
        rig.tollgate.metric("tollgate_automatic_bans_total", &[&format!("result=\"{result}\"")])
    };
    let forge = |address: &str, number: usize| {
        let token = rig.token(json!({ "sub": "mallory", "jti": format!("{address}-{number}") }));
        verdict(&rig, address, &forged(&token)).0
    };
    let mut number = 0;
    until("a longer ban than the first", || {
        for _ in 0..5 {
            number += 1;
            assert_ne!(forge(ATTACKER, number), 200);
        }
        length("203.0.113.7/32").filter(|length| *length >= 2)
    });
    assert!(counted("begun") >= 2.0);

    // Neither an exempt network nor loopback is counted.
    let before = rig.tollgate.metric("tollgate_failed_credentials_total", &[]);
    for number in 0..12 {
        assert_eq!(forge("203.0.113.200", number), 401);
        let token = rig.token(json!({ "jti": format!("loopback-{number}") }));
        assert_eq!(rig.envoy.send(&models(&forged(&token))).status, 401);
    }
    assert_eq!(rig.tollgate.metric("tollgate_failed_credentials_total", &[]), before);

    // A longer ban of another network, which a reload to shadow does not enforce any more.
    rig.tollgate.rewrite(rig.dir.path(), &section("enforce", 11, "1h"));
    rig.tollgate.until_metric("tollgate_failing_network_limit", &[], 11.0);
    attack(&rig, "198.51.100.9");
    assert_eq!(length("198.51.100.9/32"), Some(3600));
    rig.tollgate.rewrite(rig.dir.path(), &section("shadow", 11, "1h"));
    until("the ban is in shadow", || (forge("198.51.100.9", 1000) == 401).then_some(()));
    for number in 0..12 {
        assert_eq!(forge("198.51.100.10", number), 401);
    }
    until("the ban would have begun", || {
        number += 1;
        assert_eq!(forge("198.51.100.10", number), 401);
        (counted("would_begin") >= 1.0).then_some(())
    });
}
