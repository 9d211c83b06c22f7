//! Calls of the API over an engine with a store in memory, and the document of the API.

use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tollgate_core::{
    admission::AdmitRequest,
    credential::api_key::KeyDigest,
    limit::{
        Counter, Hold,
        cost::{CostTerms, Price},
        reservation::{Reservation, ReservationId},
    },
    time::{Span, Timestamp},
};

use super::*;
use crate::{config, engine::Engine, observe};

const TOKEN: &str = "a-token-of-a-reporter-0123456789";

const CONFIG: &str = "
audit: { to: none }
listen: { settle: { address: 'unix:/nonexistent/settle.sock' } }
metering: { secrets: [0123456789abcdef0123456789abcdef] }
routes: [{ match: { paths: [/a] }, public: true }]
";

fn engine(config: &str) -> Engine {
    let engine =
        Engine::start(config::compile(config, &|_| None).unwrap(), Arc::new(observe::now)).unwrap();
    engine.settler().show_counters();
    engine
}

/// An API of which every peer is trusted.
fn trusting(engine: &Engine) -> SettleApi {
    SettleApi::new(Arc::clone(engine.settler()), Arc::default, true)
}

/// An API whose only reporter is bound to the route `chat`.
fn bound(engine: &Engine) -> SettleApi {
    let reporter = ReporterConfig {
        name: "a".into(),
        digest: KeyDigest::of(TOKEN.as_bytes()),
        routes: vec!["chat".into()],
        every_route: false,
    };
    let reporters = Arc::new(vec![reporter]);
    SettleApi::new(Arc::clone(engine.settler()), move || Arc::clone(&reporters), true)
}

/// Holds 10 tokens of a budget, and returns the text of the reservation.
async fn reserve(engine: &Engine, number: u128, route: Option<&str>) -> String {
    reserve_with(engine, number, route, None).await
}

/// As [`reserve`], of a model with these terms of cost.
async fn reserve_with(
    engine: &Engine,
    number: u128,
    route: Option<&str>,
    cost: Option<CostTerms>,
) -> String {
    let now = observe::now();
    let reservation = Reservation {
        id: ReservationId(number.to_be_bytes()),
        issued: now,
        life: Span::from_secs(60),
        histories: None,
        shard: None,
        route: route.map(Box::from),
        facts: None,
        cost: cost.map(Box::new),
        holds: vec![Hold {
            limit: "day".into(),
            counter_id: "alice".into(),
            counter: Counter::Budget { limit: 1000, ends: Timestamp::from_secs(now.secs() + 3600) },
            amount: 10,
            unreported: 10,
            by_principal: true,
            is_shadow: false,
        }],
    };
    let request = AdmitRequest {
        reservation: Some(Box::new(reservation.clone())),
        ..AdmitRequest::default()
    };
    engine.store().admit(&request).await.unwrap();
    reservation.seal(&engine.settler().keys().unwrap())
}

fn request(body: String) -> Request<Full<Bytes>> {
    Request::post(PATH)
        .header(CONTENT_TYPE, "application/json")
        .body(Full::from(Bytes::from(body)))
        .unwrap()
}

fn with_token(mut request: Request<Full<Bytes>>, token: &str) -> Request<Full<Bytes>> {
    request.headers_mut().insert(AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
    request
}

async fn sent(api: &SettleApi, request: Request<Full<Bytes>>) -> (u16, Value) {
    let response = api.answer(request).await;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap())
}

/// The results of these entries.
async fn results(api: &SettleApi, entries: &[Value]) -> Vec<Value> {
    let body = json!({ "entries": entries }).to_string();
    let (status, body) = sent(api, with_token(request(body), TOKEN)).await;
    assert_eq!(status, 200, "{body}");
    body["results"].as_array().unwrap().clone()
}

fn complete(reservation: &str, tokens: i64) -> Value {
    let usage = json!({ "total_tokens": tokens });
    json!({ "reservation": reservation, "ending": "complete", "usage": usage })
}

fn counted(engine: &Engine, series: &str) -> u64 {
    let text = engine.observer().exposition(engine.status()).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(series)).unwrap();
    line.trim().parse().unwrap()
}

#[tokio::test]
async fn each_entry_has_its_result_and_is_charged_once() {
    let engine = engine(CONFIG);
    let api = trusting(&engine);
    let texts = [
        reserve(&engine, 1, None).await,
        reserve(&engine, 2, None).await,
        reserve(&engine, 3, None).await,
        reserve(&engine, 4, None).await,
    ];
    let [one, two, three, four] = &texts;
    let found = results(
        &api,
        &[
            complete(one, 7),
            complete(one, 9),
            json!({ "reservation": two, "ending": "running", "usage": { "total_tokens": 3 } }),
            json!({ "reservation": three, "ending": "cut" }),
            json!({ "reservation": four, "ending": "not_sent" }),
            complete("AAAA.AAAA", 1),
            json!({ "reservation": one, "ending": "no" }),
        ],
    )
    .await;
    let expected = [
        json!({ "result": "settled", "tokens": 7 }),
        json!({ "result": "duplicate" }),
        json!({ "result": "renewed" }),
        json!({ "result": "settled", "tokens": 10 }),
        json!({ "result": "settled", "tokens": 0 }),
        json!({ "result": "unknown" }),
    ];
    assert_eq!(found[..6], expected);
    assert_eq!(found[6]["result"], "invalid");
    assert!(found[6]["message"].as_str().unwrap().contains("unknown variant"), "{found:?}");
    // A call that is repeated changes nothing, and counts nothing twice.
    let again = [complete(one, 7), json!({ "reservation": three, "ending": "cut" })];
    assert_eq!(
        results(&api, &again).await,
        [json!({ "result": "duplicate" }), json!({ "result": "duplicate" })]
    );
    assert_eq!(counted(&engine, "tollgate_unmetered_total{ending=\"cut\"}"), 1);
    assert_eq!(counted(&engine, "tollgate_settlements_total{result=\"charged\"}"), 3);
    assert_eq!(counted(&engine, "tollgate_report_problems_total{problem=\"forged\"}"), 1);
    assert_eq!(counted(&engine, "tollgate_report_problems_total{problem=\"malformed\"}"), 1);
    engine.close().await;
}

#[tokio::test]
async fn a_result_has_the_cost_of_a_model_with_a_price() {
    let engine = engine(&CONFIG.replace(
        "routes:",
        "prices: { currency: EUR, models: [{ model: m, input: 1, output: 3 }] }\nroutes:",
    ));
    let price = Price { input: 1_000_000, output: 3_000_000, ..Price::default() };
    let terms = CostTerms { price, tokens: 10, most: 10, unreported: 30, ..CostTerms::default() };
    let text = reserve_with(&engine, 1, None, Some(terms)).await;
    let lost = reserve_with(&engine, 2, None, Some(terms)).await;
    let usage = json!({ "prompt_tokens": 4, "completion_tokens": 2 });
    let reported = json!({ "reservation": text, "ending": "complete", "usage": usage });
    let api = trusting(&engine);
    let found = results(&api, &[reported, json!({ "reservation": lost, "ending": "cut" })]).await;
    let expected = [
        json!({ "result": "settled", "tokens": 6, "cost": 10 }),
        json!({ "result": "settled", "tokens": 10, "cost": 30 }),
    ];
    assert_eq!(found, expected);
    let cost = |basis| {
        counted(
            &engine,
            &format!("tollgate_settled_cost_total{{model=\"other\",basis=\"{basis}\"}}"),
        )
    };
    assert_eq!([cost("reported"), cost("estimated"), cost("expired")], [10, 30, 0]);
    engine.close().await;
}

#[tokio::test]
async fn a_reporter_settles_requests_of_its_routes_only() {
    let engine = engine(CONFIG);
    let api = bound(&engine);
    let own = reserve(&engine, 1, Some("chat")).await;
    let other = reserve(&engine, 2, Some("embeddings")).await;
    let nameless = reserve(&engine, 3, None).await;
    let found =
        results(&api, &[complete(&own, 7), complete(&other, 7), complete(&nameless, 7)]).await;
    let foreign = json!({ "result": "foreign" });
    assert_eq!(found, [json!({ "result": "settled", "tokens": 7 }), foreign.clone(), foreign]);
    assert_eq!(counted(&engine, "tollgate_report_problems_total{problem=\"foreign\"}"), 2);
    // Without its token no caller learns which paths exist.
    let body = json!({ "entries": [complete(&other, 7)] }).to_string();
    for (call, expected) in [
        (request(body.clone()), 401),
        (with_token(request(body.clone()), "a-token-of-a-reporter-0123456780"), 401),
        (with_token(request(body.clone()), ""), 401),
        (Request::get("/nowhere").body(Full::default()).unwrap(), 401),
        (Request::get(DOCUMENT_PATH).body(Full::default()).unwrap(), 401),
    ] {
        let (status, body) = sent(&api, call).await;
        assert_eq!((status, &body["error"]["code"]), (expected, &json!("unauthorized")));
    }
    assert_eq!(counted(&engine, "tollgate_report_problems_total{problem=\"unauthorized\"}"), 5);
    engine.close().await;
}

#[tokio::test]
async fn calls_that_are_no_report_are_refused() {
    let engine = engine(CONFIG);
    let api = trusting(&engine);
    let many = json!({ "entries": vec![json!({}); MAX_ENTRIES + 1] }).to_string();
    let large = format!("{{\"entries\": []{}}}", " ".repeat(MAX_BODY));
    let text = Request::post(PATH).body(Full::from(Bytes::from("{}"))).unwrap();
    let get = |path: &str| Request::get(path).body(Full::default()).unwrap();
    for (call, status, code) in [
        (request(String::new()), 400, "invalid_request"),
        (request("[]".into()), 400, "invalid_request"),
        (request("{\"entries\": 7}".into()), 400, "invalid_request"),
        (request(many), 400, "invalid_request"),
        (request(large), 413, "body_too_large"),
        (text, 415, "unsupported_media_type"),
        (get(PATH), 405, "method_not_allowed"),
        (get("/v1/other"), 404, "not_found"),
    ] {
        let (found, body) = sent(&api, call).await;
        assert_eq!((found, body["error"]["code"].as_str()), (status, Some(code)), "{body}");
    }
    assert_eq!(results(&api, &[]).await, Vec::<Value>::new());
    let (status, document) = sent(&api, get(DOCUMENT_PATH)).await;
    assert_eq!((status, document["openapi"].as_str()), (200, Some("3.1.0")));
    engine.close().await;
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_no_settlement() {
    let redis = "store: { redis: { url: 'unix:/nonexistent/redis.sock' } }";
    let engine = engine(&format!("{CONFIG}{redis}"));
    let api = trusting(&engine);
    let keys = engine.settler().keys().unwrap();
    let reservation = Reservation {
        id: ReservationId([1; 16]),
        issued: observe::now(),
        life: Span::from_secs(60),
        histories: None,
        shard: None,
        route: None,
        facts: None,
        cost: None,
        holds: Vec::new(),
    };
    let body = json!({ "entries": [{ "reservation": reservation.seal(&keys), "ending": "cut" }] });
    let (status, answer) = sent(&api, request(body.to_string())).await;
    assert_eq!((status, answer["error"]["code"].as_str()), (503, Some("store_unavailable")));
    assert_eq!(counted(&engine, "tollgate_unmetered_total{ending=\"cut\"}"), 0);
    engine.close().await;
}

#[test]
fn the_document_describes_the_api() {
    let document: Value = serde_json::from_str(DOCUMENT).unwrap();
    let paths: Vec<&String> = document["paths"].as_object().unwrap().keys().collect();
    assert_eq!(paths, [DOCUMENT_PATH, PATH]);
    let schemas = &document["components"]["schemas"];
    assert_eq!(schemas["Report"]["properties"]["entries"]["maxItems"], MAX_ENTRIES);
    // Each member that it lists is read, with each value that it lists.
    let mut entry = json!({
        "status": 200, "usage_is_current": true, "response_bytes": 7, "images": 2, "seconds": 3,
    });
    entry["reservation"] = "r".into();
    for name in schemas["Entry"]["properties"]["usage"]["properties"].as_object().unwrap().keys() {
        assert!(crate::adapter::access_log::usage::is_count(name), "{name}");
        entry["usage"][name] = 1.into();
    }
    for name in schemas["Events"]["properties"].as_object().unwrap().keys() {
        entry["events"][name] = json!({});
    }
    for ending in schemas["Entry"]["properties"]["ending"]["enum"].as_array().unwrap() {
        entry["ending"] = ending.clone();
        let text = entry.to_string();
        assert!(Entry::read(&text).is_ok(), "{text}");
    }
    let listed: Vec<&String> = schemas["Entry"]["properties"].as_object().unwrap().keys().collect();
    assert_eq!(listed, entry.as_object().unwrap().keys().collect::<Vec<_>>());
    let results = [
        EntryResult::Settled { tokens: 1, cost: Some(2), late: true },
        EntryResult::Renewed,
        EntryResult::Accepted,
        EntryResult::Duplicate,
        EntryResult::Expired,
        EntryResult::Unknown,
        EntryResult::Foreign,
        EntryResult::Invalid { message: "m".into() },
    ];
    let names: Vec<Value> = results
        .iter()
        .map(|result| {
            let result = serde_json::to_value(result).unwrap();
            let members = result.as_object().unwrap();
            let known = schemas["Result"]["properties"].as_object().unwrap();
            assert!(members.keys().all(|name| known.contains_key(name)), "{result}");
            result["result"].clone()
        })
        .collect();
    assert_eq!(schemas["Result"]["properties"]["result"]["enum"], json!(names));
}
