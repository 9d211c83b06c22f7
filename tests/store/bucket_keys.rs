//! Which charges share a bucket.

use std::collections::HashMap;

use serde_json::json;
use tollgate_core::{
    config::{Document, Errors, Path},
    limit::{ChargeSubject, config::LimitConfig, rate::RateLimit},
};

use super::requests::{NOW, principal};

fn limit(name: &str, by: &str) -> RateLimit {
    let text = format!("{{ name: {name}, by: [{by}], rate: 1/1s }}");
    let config: LimitConfig = Document::parse(&text, &|_| None).unwrap().read().unwrap();
    RateLimit::compile(&config, &Path::root(), &mut Errors::default()).unwrap()
}

#[test]
fn those_of_one_limit_and_one_value_of_each_of_its_parts() {
    let claims =
        |name| json!({ "jti": name, "sub": name, "client_id": "a", "tenant_id": name, "iat": NOW });
    let both = ["a", "b"].map(|name| (name, principal(claims(name), &[])));
    let mut buckets = HashMap::new();
    for by in [
        "subject",
        "client",
        "tenant",
        "route",
        "model",
        "subject, client",
        "client, subject",
        "subject, model",
    ] {
        for name in ["one", "other"] {
            let limit = limit(name, by);
            for (who, principal) in &both {
                // Two tokens of one client, for one model, on one route.
                let who = if ["client", "route", "model"].contains(&by) { "both" } else { who };
                let facts = ChargeSubject {
                    principal: Some(principal),
                    model: Some("a"),
                    route: "a",
                    address: None,
                };
                let charge = limit.charge(&facts).unwrap();
                let whose = (name, by, who);
                assert_eq!(*buckets.entry(charge.bucket).or_insert(whose), whose);
                let key = charge.key();
                assert!(
                    key.strip_prefix(&format!("rate:{name}:")).is_some_and(|hash| hash.len() == 32),
                    "{key}"
                );
            }
        }
    }
    assert_eq!(buckets.len(), 2 * (5 * 2 + 3));
}
