//! The corpus through gRPC: every row as Envoy would send it, from bytes to bytes, compared with
//! the same expectations as through the core.

use std::sync::{Arc, Mutex};

use envoy_types::pb::envoy::{
    config::core::v3::{
        Address, HeaderMap, HeaderValue, HeaderValueOption, SocketAddress, address,
        header_value_option::HeaderAppendAction,
    },
    service::auth::v3::{
        AttributeContext, CheckRequest, CheckResponse,
        attribute_context::{HttpRequest, Peer, Request},
        check_response::HttpResponse,
    },
};
use http_body_util::Full;
use prost::Message as _;
use tollgate::{
    adapter::{ext_authz::EnvoyAuthorization, in_flight::InFlight},
    engine::{
        check::{CheckBounds, Checker},
        live::Live,
    },
    observe::{
        Observer,
        audit::Audit,
        metrics::{Metrics, ObserveConfig},
    },
    policy_test::{self, Body, Case, Ledger, Observed, Verdict, compare},
};
use tollgate_core::{limit::usage_history::ObservedUsage, route::OnOutage, snapshot::Snapshot};

use super::{
    files, rows,
    stored::{Moment, Stored},
};

/// Why gRPC cannot express a row, and where the row is tested instead.
fn cannot_be_sent(case: &Case, snapshot: &Snapshot) -> Option<&'static str> {
    let outcome = case.decide(snapshot);
    let local =
        outcome.evidence.route.as_ref().is_some_and(|route| route.on_outage == OnOutage::Local);
    if case.outage.is_some() && local {
        return Some(
            "the local count is the store's own: tests/store/local_fallback.rs, tests/e2e",
        );
    }
    if case.request.joined
        && case.request.headers.iter().any(|(_, value)| std::str::from_utf8(value).is_err())
    {
        return Some(
            "the map of joined headers holds text only; Envoy replaces other bytes before it sends them",
        );
    }
    None
}

fn message(request: &policy_test::Request) -> CheckRequest {
    let mut http = HttpRequest {
        method: request.method.clone(),
        // The client's own, which decides nothing.
        scheme: "https".into(),
        host: request.host.clone(),
        path: request.path.clone(),
        protocol: "HTTP/1.1".into(),
        ..HttpRequest::default()
    };
    let mut headers = request.headers.clone();
    // Envoy overwrites the client's.
    headers.retain(|(name, _)| !name.eq_ignore_ascii_case("x-forwarded-proto"));
    headers.push(("x-forwarded-proto".into(), request.scheme.clone().into_bytes()));
    match &request.body {
        Body::Absent => {}
        Body::Whole(bytes) => http.raw_body = bytes.clone(),
        Body::Cut => {
            http.raw_body = b"{".to_vec();
            headers.push(("x-envoy-auth-partial-body".into(), b"true".to_vec()));
        }
    }
    if request.joined {
        for (name, value) in headers {
            let value = String::from_utf8(value).unwrap();
            http.headers
                .entry(name.to_lowercase())
                .and_modify(|known| *known = format!("{known},{value}"))
                .or_insert(value);
        }
    } else {
        let headers = headers.into_iter().map(|(key, raw_value)| HeaderValue {
            key: key.to_lowercase(),
            value: String::new(),
            raw_value,
        });
        http.header_map = Some(HeaderMap { headers: headers.collect() });
    }
    let socket = request
        .address
        .map(|address| SocketAddress { address: address.to_string(), ..SocketAddress::default() });
    let address = socket.map(address::Address::SocketAddress);
    let source = Some(Peer {
        address: Some(Address { address }),
        // Envoy escapes PEM (`include_peer_certificate`).
        certificate: request
            .certificate
            .replace('\n', "%0A")
            .replace(' ', "%20")
            .replace('+', "%2B"),
        ..Peer::default()
    });
    CheckRequest {
        attributes: Some(AttributeContext {
            source,
            request: Some(Request { time: None, http: Some(http) }),
            ..AttributeContext::default()
        }),
    }
}

/// Makes one call, from bytes to bytes: returns the message, or the gRPC status of a failed check.
async fn call(
    service: &EnvoyAuthorization,
    message: &CheckRequest,
    reading: Reading,
) -> Result<CheckResponse, tonic::Status> {
    let (headers, bytes) = (http::HeaderMap::new(), message.encode_to_vec());
    let answer = match reading {
        Reading::Inline => service.check(&headers, &bytes).await?,
        Reading::Pool => {
            let charged = budget().read_body(Full::new(bytes.into())).await.unwrap();
            service.check_large(&headers, charged).await?
        }
    };
    Ok(CheckResponse::decode(answer.message()).unwrap())
}

/// Where the body of a message is read.
#[derive(Clone, Copy)]
enum Reading {
    Inline,
    Pool,
}

fn budget() -> InFlight {
    InFlight::new(16 << 20, 32 << 20).unwrap()
}

fn pairs(options: Vec<HeaderValueOption>) -> Vec<(String, String)> {
    let pair = |option: HeaderValueOption| {
        assert_eq!(
            option.append_action,
            i32::from(HeaderAppendAction::OverwriteIfExistsOrAdd),
            "every header overwrites"
        );
        let header = option.header.unwrap();
        if header.key == "x-tollgate-decision-id" {
            assert!(
                header.value.len() == 32 && header.value.bytes().all(|b| b.is_ascii_hexdigit()),
                "{}",
                header.value
            );
            // The rows expect a fixed id, which the core receives as an argument; here it is
            // generated.
            return (header.key, "decision-1".to_owned());
        }
        (header.key, header.value)
    };
    options.into_iter().map(pair).collect()
}

/// The answer as Envoy reads it.
fn observed(answer: Result<CheckResponse, tonic::Status>) -> Observed {
    let mut observed = Observed {
        decision: Verdict::Fail,
        status: None,
        reason: None,
        body: None,
        set: Vec::new(),
        removed: Vec::new(),
        response: Vec::new(),
        internal: None,
    };
    let response = match answer {
        Ok(response) => response,
        Err(status) => {
            assert_eq!(status.code(), tonic::Code::Unavailable);
            observed.reason = Some("store_unavailable".into());
            return observed;
        }
    };
    let status = response.status.expect("a CheckResponse without a status means allow").code;
    match response.http_response.unwrap() {
        HttpResponse::OkResponse(ok) => {
            assert_eq!(status, 0);
            observed.decision = Verdict::Allow;
            observed.set = pairs(ok.headers);
            observed.removed = ok.headers_to_remove;
            observed.response = pairs(ok.response_headers_to_add);
            let both: Vec<_> =
                observed.set.iter().filter(|(name, _)| observed.removed.contains(name)).collect();
            assert!(both.is_empty(), "set and removed: {both:?}; Envoy removes last");
        }
        HttpResponse::DeniedResponse(denied) => {
            observed.decision = Verdict::Deny;
            let http = denied.status.unwrap().code;
            assert_eq!(status, if http == 401 { 16 } else { 7 }, "HTTP {http}");
            observed.status = Some(u16::try_from(http).unwrap());
            observed.body = serde_json::from_str(&denied.body).ok();
            observed.reason = observed
                .body
                .as_ref()
                .and_then(tollgate::policy_test::reason_of)
                .map(str::to_owned);
            observed.response = pairs(denied.headers);
        }
        HttpResponse::ErrorResponse(_) => panic!("error_response is not used"),
    }
    observed
}

#[tokio::test]
async fn every_row_has_the_same_result_through_grpc() {
    every_row_has_its_result(Reading::Inline).await;
}

#[tokio::test]
async fn every_row_has_the_same_result_when_its_body_is_read_elsewhere() {
    every_row_has_its_result(Reading::Pool).await;
}

async fn every_row_has_its_result(reading: Reading) {
    let files = files();
    let (mut failures, mut checked, mut elsewhere) = (Vec::new(), 0, Vec::new());
    for (row, snapshot) in rows(&files) {
        let Some(expect) = &row.case.expect else { continue };
        if let Some(why) = cannot_be_sent(&row.case, &snapshot) {
            elsewhere.push(format!("{}: {why}", row.place()));
            continue;
        }
        let moment = Arc::<Moment>::default();
        let ledger = Arc::new(Mutex::new(Ledger::new(&row.case.revoked, &row.case.banned)));
        let store = Stored::new(&ledger, &moment);
        let observer = Arc::new(Observer::new(
            Arc::new(Metrics::new(&ObserveConfig::default())),
            Arc::new(Audit::off()),
        ));
        let clock = Arc::clone(&moment);
        let live = Arc::new(Live::fixed(snapshot.clone()));
        let checker = Checker::new(
            Arc::clone(&live),
            Arc::new(store),
            None,
            observer,
            Arc::new(move || clock.now()),
            CheckBounds { max_body: 16 << 20, max_in_flight: 128 << 20 },
        );
        let service = EnvoyAuthorization::new(Arc::new(checker), budget());
        for earlier in &row.case.earlier {
            moment.set(earlier.at, None);
            let message = message(&earlier.request);
            for _ in 0..earlier.times {
                drop(call(&service, &message, reading).await);
                let histories = ledger.lock().unwrap().settle_last(earlier.used, earlier.at);
                if let (Some(histories), Some(tokens)) = (histories, earlier.used) {
                    live.histories().record(histories, ObservedUsage { tokens, answer: None });
                }
            }
        }
        moment.set(row.case.now, row.case.outage);
        let answer = call(&service, &message(&row.case.request), reading).await;
        checked += 1;
        if let Err(difference) = compare(expect, &observed(answer)) {
            failures.push(format!("{}\n    {difference}", row.place()));
        }
    }
    assert!(
        failures.is_empty(),
        "{} of {checked} rows fail:\n{}",
        failures.len(),
        failures.join("\n")
    );
    assert!(checked >= 150, "only {checked} rows ran");
    assert!(
        elsewhere.len() <= 12,
        "too many rows are left to other tests:\n{}",
        elsewhere.join("\n")
    );
}
