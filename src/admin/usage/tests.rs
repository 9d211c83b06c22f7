use serde_json::{Value, json};
use tollgate_core::{
    config::{Document, Errors},
    policy::PolicyConfig,
};

use super::*;
use crate::admin::{caller::AdminCredentialConfig, tests::Bench};

/// The sums of every day: rows of two tenants, of requests without one, and of the others.
pub(in crate::admin) struct Sums(pub(in crate::admin) Option<&'static str>);

impl UsageSums for Sums {
    fn rows(&self, period: Period) -> BoxFuture<'_, Result<HashMap<RowKey, Measures>, Outage>> {
        let row = |tenant: Option<&str>| RowKey::Of {
            tenant: tenant.map(str::to_owned),
            model: Some("qwen".into()),
            route: "chat".into(),
        };
        let tokens = |tokens| Measures { requests: 1, tokens, ..Measures::default() };
        let rows = [
            (row(Some("acme")), tokens(5)),
            (row(Some("beta")), tokens(7)),
            (row(None), tokens(11)),
            (RowKey::Other, tokens(13)),
        ];
        let day = Period::Day("2026-11-29".parse().unwrap());
        let rows = if period == day { Ok(HashMap::new()) } else { Ok(rows.into()) };
        Box::pin(std::future::ready(rows))
    }

    fn time_zone(&self) -> BoxFuture<'_, Result<Option<String>, Outage>> {
        Box::pin(std::future::ready(Ok(self.0.map(str::to_owned))))
    }
}

/// A policy with a ledger.
pub(in crate::admin) fn policy() -> Arc<Policy> {
    let file = "
routes: [{ match: { paths: [/a] }, public: true }]
metering: { secrets: ['file:/run/metering'] }
ledger: { keys: [{ id: a, secret: 'file:/run/ledger' }], time_zone: Europe/Berlin }
";
    let config: PolicyConfig = Document::parse(file, &|_| None).unwrap().read().unwrap();
    Arc::new(Policy::compile(&config, &mut Errors::default()).unwrap())
}

fn bench() -> Bench {
    Bench::new(crate::admin::tests::Kept::default())
        .with_usage(Some(Arc::new(Sums(None))), policy())
}

async fn get(bench: &Bench, query: &str) -> (u16, Value) {
    bench.call("GET", &format!("{PATH}?{query}"), "").await
}

#[tokio::test]
async fn days_of_another_time_zone_are_not_reported() {
    for (noted, expected) in [("Europe/Berlin", 200), ("UTC", 409)] {
        let bench = Bench::new(crate::admin::tests::Kept::default())
            .with_usage(Some(Arc::new(Sums(Some(noted)))), policy());
        assert_eq!(get(&bench, "from=2026-11-29").await.0, expected, "{noted}");
    }
}

#[tokio::test]
async fn sums_are_added_up_by_what_is_asked_for() {
    let bench = bench();
    let (status, json) = get(&bench, "from=2026-11-29&to=2026-11-30&by=tenant,day").await;
    assert_eq!(status, 200, "{json}");
    assert_eq!(json["time_zone"], "Europe/Berlin");
    let rows = json["rows"].as_array().unwrap();
    let tokens: Vec<_> = rows.iter().map(|row| (&row["tenant"], &row["tokens"])).collect();
    let expected = [
        (json!(null), json!(11)),
        (json!("acme"), json!(5)),
        (json!("beta"), json!(7)),
        (json!("other"), json!(13)),
    ];
    assert_eq!(tokens, expected.iter().map(|(name, sum)| (name, sum)).collect::<Vec<_>>());
    assert_eq!(json["total"]["tokens"], 36);
}

#[tokio::test]
async fn a_credential_of_tenants_sees_their_rows_only() {
    const TOKEN: &str = "usage-token-usage-token-usage-token";
    let digest = tollgate_core::credential::api_key::KeyDigest::of(TOKEN.as_bytes());
    let credential = |actions: Value| -> Vec<AdminCredentialConfig> {
        serde_json::from_value(json!([{
            "name": "acme", "digest": digest, "actions": actions, "tenants": ["acme"],
        }]))
        .unwrap()
    };
    let headers = [("authorization", &*format!("Bearer {TOKEN}"))];
    let path = format!("{PATH}?from=2026-11-30&to=2026-11-30");
    let bench = bench().with_credentials(credential(json!(["read_usage"])));
    let (status, json, _) = bench.raw("GET", &path, "", &headers).await;
    assert_eq!((status, &json["total"]["tokens"]), (200, &json!(5)));
    let bench = self::bench().with_credentials(credential(json!(["read_keys"])));
    let (status, json, _) = bench.raw("GET", &path, "", &headers).await;
    assert_eq!((status, &json["error"]["code"]), (403, &json!("forbidden")));
}

#[tokio::test]
async fn a_query_is_read_strictly() {
    let bench = bench();
    assert_eq!(get(&bench, "from=2026-11-30").await.1["total"]["tokens"], 36);
    for query in [
        "",
        "to=2026-11-30",
        "from=2026-11-30&to=2026-11-29",
        "from=2026-11-31&to=2026-12-01",
        "from=2026-11-30&to=2026-11-30&by=subject",
        "from=2026-11-30&to=2026-11-30&by=day,day",
        "from=2026-11-30&to=2026-11-30&limit=1",
        "from=2026-11-30&from=2026-11-30&to=2026-11-30",
        "from=2020-01-01&to=2026-11-30",
    ] {
        let (status, json) = get(&bench, query).await;
        assert_eq!((status, &json["error"]["code"]), (400, &json!("invalid_request")), "{query}");
    }
    assert_eq!(bench.call("POST", PATH, "{}").await.0, 405);
}

#[tokio::test]
async fn without_a_ledger_there_are_no_sums() {
    let bench = Bench::new(crate::admin::tests::Kept::default());
    let (status, json) = get(&bench, "from=2026-11-30&to=2026-11-30").await;
    assert_eq!((status, &json["error"]["code"]), (404, &json!("not_found")));
}
