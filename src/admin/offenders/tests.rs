use std::time::Duration;

use serde_json::{Value, json};
use tollgate_core::{
    ban::{Ban, Kind, Target},
    denial::Reason,
    network::Network,
};

use super::*;
use crate::{
    admin::{
        caller::AdminCredentialConfig,
        tests::{Bench, Kept, code},
    },
    observe::offenders::{DeniedSubjects, FailingNetworks},
};

/// Two networks, of which one is banned, and three holders.
pub(crate) fn found(most: usize, tenants: Option<&[String]>) -> Offenders {
    let network = |text: &str, failures, ban: Option<Option<u64>>| FailingNetwork {
        network: Network::parse(text).unwrap(),
        failures,
        refused: failures / 2,
        ban: ban.map(|until| Ban {
            kind: Kind::AutomaticNetwork,
            until: until.map(Timestamp::from_secs),
        }),
    };
    let networks = vec![
        network("192.0.2.7/32", 900, Some(Some(2_100_000_000))),
        network("2001:db8::/64", 100, None),
    ];
    let issuer = || "https://a".to_owned();
    let holder = |holder, tenant: Option<&str>, denials| DeniedSubject {
        holder,
        tenant: tenant.map(str::to_owned),
        denials,
        reason: Reason::RateLimited,
    };
    let key = Target::Key { id: "7Jk2mN4pQ8rT".parse().unwrap() };
    let mut subjects = vec![
        holder(Target::Subject { issuer: issuer(), subject: "alice".into() }, Some("acme"), 500),
        holder(
            Target::Client { issuer: issuer(), client: "batch\u{1b}[2J".into() },
            Some("beta"),
            40,
        ),
        holder(key, None, 3),
    ];
    subjects.retain(|one| match (tenants, &one.tenant) {
        (None, _) => true,
        (Some(tenants), Some(tenant)) => tenants.contains(tenant),
        (Some(_), None) => false,
    });
    subjects.truncate(most);
    let window = Duration::from_secs(60);
    Offenders {
        networks: tenants.is_none().then(|| FailingNetworks {
            window,
            limit: 120,
            list: networks.into_iter().take(most).collect(),
        }),
        subjects: DeniedSubjects { window, list: subjects },
    }
}

fn bench() -> Bench {
    Bench::new(Kept::default()).with_offenders(found)
}

async fn get(bench: &Bench, query: &str) -> (u16, Value) {
    bench.call("GET", &format!("{PATH}{query}"), "").await
}

#[tokio::test]
async fn both_lists_are_bounded_and_name_holders_as_a_ban_does() {
    let bench = bench();
    let (status, json) = get(&bench, "").await;
    assert_eq!(status, 200, "{json}");
    assert_eq!(json["networks"]["limit"], 120);
    assert_eq!(
        json["networks"]["list"][0],
        json!({
            "network": "192.0.2.7/32", "failures": 900, "refused": 450,
            "ban": { "kind": "automatic_network", "until": 2_100_000_000 },
        })
    );
    assert_eq!(json["networks"]["list"][1]["ban"], Value::Null);
    assert_eq!(
        json["subjects"]["list"],
        json!([
            { "issuer": "https://a", "subject": "alice", "tenant": "acme", "denials": 500, "reason": "rate_limited" },
            { "issuer": "https://a", "client": "batch\u{1b}[2J", "tenant": "beta", "denials": 40, "reason": "rate_limited" },
            { "key": "7Jk2mN4pQ8rT", "tenant": null, "denials": 3, "reason": "rate_limited" },
        ])
    );
    let (_, json) = get(&bench, "?limit=1").await;
    let count = |name: &str| json[name]["list"].as_array().unwrap().len();
    assert_eq!((count("networks"), count("subjects")), (1, 1));
    for query in ["?limit=0", "?limit=1001", "?cursor=1.", "?limit=1&limit=2", "?other=1"] {
        let (status, json) = get(&bench, query).await;
        assert_eq!((status, code(&json)), (400, "invalid_request"), "{query}");
    }
    assert_eq!(bench.call("POST", PATH, "{}").await.0, 405);
    assert_eq!(bench.lines()[0]["action"], "list_offenders");
}

#[tokio::test]
async fn a_credential_with_tenants_sees_their_holders_and_no_network() {
    let token = "fedcba9876543210fedcba9876543210";
    let credential = |name: &str, actions: &[&str]| -> AdminCredentialConfig {
        let digest =
            tollgate_core::credential::api_key::KeyDigest::of(format!("{token}{name}").as_bytes());
        serde_json::from_value(json!({
            "name": name, "digest": digest, "actions": actions, "tenants": ["acme"],
        }))
        .unwrap()
    };
    let bench = bench().with_credentials(vec![
        credential("reads", &["read_bans"]),
        credential("bans", &["write_bans"]),
    ]);
    let get = async |name: &str| {
        let authorization = format!("Bearer {token}{name}");
        let (status, json, _) =
            bench.raw("GET", PATH, "", &[("authorization", &authorization)]).await;
        (status, json)
    };
    let (status, json) = get("reads").await;
    assert_eq!((status, &json["networks"]), (200, &Value::Null));
    assert_eq!(json["are_networks_hidden"], true);
    let list = json["subjects"]["list"].as_array().unwrap();
    assert_eq!((list.len(), &list[0]["subject"]), (1, &"alice".into()));
    let (status, json) = get("bans").await;
    assert_eq!((status, code(&json)), (403, "forbidden"));
}

#[tokio::test]
async fn without_a_source_the_lists_are_empty() {
    let (status, json) = get(&Bench::new(Kept::default()), "").await;
    assert_eq!(
        (status, &json["networks"], &json["subjects"]["list"]),
        (200, &Value::Null, &json!([]))
    );
}
