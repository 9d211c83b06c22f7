//! Envoy Gateway and Istio generate Envoy's configuration. The parts that a real Envoy can read are
//! run with it, and the parts that must agree with the chart are compared with it.

use serde_json::{Value, json};

use super::{documents, read, validate_envoy};
use crate::rig::{
    CHAT, POLICY, Rig, SCOPES, chat, http::Request, issuer::Issuer, replace_once,
    tollgate::Tollgate,
};

/// Merges as Envoy's control planes do: objects by name, lists by appending, other values by
/// replacement.
fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (name, value) in from {
                merge(into.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (Value::Array(into), Value::Array(from)) => into.extend(from.iter().cloned()),
        (into, from) => *into = from.clone(),
    }
}

#[test]
fn envoy_accepts_what_istios_filter_adds() {
    // The configuration that Istio would generate from mesh-config.yaml.
    let provider = &documents(&read("deploy/istio/mesh-config.yaml"))[0]["meshConfig"]["extensionProviders"]
        [0]["envoyExtAuthzGrpc"];
    let body = &provider["includeRequestBodyInCheck"];
    let mut authz = json!({
        "name": "envoy.filters.http.ext_authz",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
            "transport_api_version": "V3",
            "grpc_service": { "envoy_grpc": { "cluster_name": "tollgate" }, "timeout": provider["timeout"] },
            "failure_mode_allow": provider["failOpen"],
            "status_on_error": { "code": "ServiceUnavailable" },
            "with_request_body": {
                "max_request_bytes": body["maxRequestBytes"],
                "allow_partial_message": body["allowPartialMessage"],
                "pack_as_bytes": body["packAsBytes"],
            },
        },
    });
    let mut manager = json!({
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "ingress",
            "common_http_protocol_options": { "idle_timeout": "3600s" },
            "route_config": { "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": [{ "match": { "prefix": "/" }, "direct_response": { "status": 200 } }] }] },
        },
    });

    let address =
        |port: u16| json!({ "socket_address": { "address": "127.0.0.1", "port_value": port } });
    let mut cluster = json!({ "name": "tollgate", "type": "STATIC", "load_assignment": { "cluster_name": "tollgate",
        "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address(9000) } }] }] } });

    let policies = documents(&read("deploy/istio/policy.yaml"));
    let filter = super::only(&policies, "EnvoyFilter");
    for patch in filter["spec"]["configPatches"].as_array().unwrap() {
        assert_eq!(patch["patch"]["operation"], "MERGE");
        let value = &patch["patch"]["value"];
        let target = match patch["applyTo"].as_str().unwrap() {
            "HTTP_FILTER" => &mut authz,
            "NETWORK_FILTER" => &mut manager,
            "CLUSTER" => &mut cluster,
            other => panic!("{other}"),
        };
        match patch["applyTo"].as_str() {
            Some("CLUSTER") => {
                let matched = &patch["match"]["cluster"];
                assert_eq!(matched["service"], provider["service"]);
                assert_eq!(matched["portNumber"].to_string(), provider["port"].as_str().unwrap());
            }
            _ => assert_eq!(value["name"], target["name"]),
        }
        merge(target, value);
    }
    let router = json!({ "name": "envoy.filters.http.router", "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" } });
    manager["typed_config"]["http_filters"] = json!([authz, router]);
    let config = json!({ "static_resources": {
        "listeners": [{ "name": "ingress", "address": address(8080), "filter_chains": [{ "filters": [manager] }] }],
        "clusters": [cluster],
    }});
    validate_envoy("Istio's gateway with the EnvoyFilter", &config.to_string());
}

#[test]
fn gateways_and_meshes_call_the_listener_of_the_chart_and_fail_closed() {
    let values = &documents(&read("deploy/helm/tollgate/values.yaml"))[0];
    let port = values["grpc"]["port"].as_u64().unwrap();
    let most = 16 << 20; // `body.max`, its default

    let mesh = &documents(&read("deploy/istio/mesh-config.yaml"))[0];
    let provider = &mesh["meshConfig"]["extensionProviders"][0];
    let grpc = &provider["envoyExtAuthzGrpc"];
    assert_eq!(grpc["service"], "tollgate.tollgate.svc.cluster.local");
    assert_eq!(grpc["port"], port.to_string());
    assert_eq!((&grpc["failOpen"], &grpc["statusOnError"]), (&json!(false), &json!("503")));
    assert_eq!(grpc["includeRequestBodyInCheck"]["maxRequestBytes"], most);
    assert_eq!(grpc["includeRequestBodyInCheck"]["allowPartialMessage"], false);
    let policies = documents(&read("deploy/istio/policy.yaml"));
    let custom = policies.iter().find(|policy| policy["spec"]["action"] == "CUSTOM").unwrap();
    assert_eq!(custom["spec"]["provider"]["name"], provider["name"]);
    assert_eq!(custom["spec"]["rules"], json!([{}]), "every request");

    let gateway = documents(&read("deploy/envoy-gateway/policy.yaml"));
    let auth = &super::only(&gateway, "SecurityPolicy")["spec"]["extAuth"];
    assert_eq!(
        auth["grpc"]["backendRefs"],
        json!([{ "name": "tollgate", "namespace": "tollgate", "port": port }])
    );
    assert_eq!((&auth["failOpen"], &auth["statusOnError"]), (&json!(false), &json!(503)));
    assert_eq!(auth["bodyToExtAuth"]["maxRequestBytes"], most);
    // What the shipped Envoy files have, as far as the gateway has settings for it.
    let settings = &auth["grpc"]["backendSettings"];
    assert_eq!(settings["circuitBreaker"]["maxParallelRequests"], 2_000_000);
    assert_eq!(settings["circuitBreaker"]["maxPendingRequests"], 2_000_000);
    assert_eq!(settings["http2"]["maxConcurrentStreams"], 200);
    let grant = &super::only(&gateway, "ReferenceGrant");
    assert_eq!(grant["metadata"]["namespace"], auth["grpc"]["backendRefs"][0]["namespace"]);
    let routes = documents(&read("deploy/gateway-api/gateway.yaml"));
    let target = &super::only(&gateway, "SecurityPolicy")["spec"]["targetRefs"][0];
    assert_eq!(target["name"], super::only(&routes, "Gateway")["metadata"]["name"]);
}

/// Envoy Gateway sets neither `pack_as_bytes` nor `encode_raw_headers` nor `validate_mutations`.
#[test]
fn bodies_as_text_and_joined_headers_get_the_same_decisions() {
    let rig = Rig::with(POLICY, |config| {
        let config = replace_once(config, "pack_as_bytes: true", "pack_as_bytes: false");
        let config = replace_once(config, "encode_raw_headers: true", "encode_raw_headers: false");
        replace_once(config, "validate_mutations: true", "validate_mutations: false")
    });
    let token = rig.token(json!({}));
    assert_eq!(rig.chat(&token).status, 200);
    assert_eq!(rig.upstream.only().all("x-tollgate-subject").len(), 1);
    let other =
        Request::post("/v1/chat/completions", CHAT.replace("qwen", "big-70b")).bearer(&token);
    assert_eq!(
        rig.envoy.send(&other).verdict(),
        (403, "model_forbidden".to_owned()),
        "the body is read"
    );
    let two = chat(&token).bearer(&rig.token(json!({ "sub": "mallory" })));
    assert_ne!(rig.envoy.send(&two).status, 200, "two credentials");
    assert!(rig.upstream.taken().is_empty());
}

/// APISIX and Kong do not run here; the requests that they document are tested.
#[test]
fn tollgate_reads_what_apisix_and_kong_are_configured_to_send() {
    let files = ["deploy/apisix/apisix.yaml", "deploy/kong/kong.yaml"].map(read);
    for file in &files {
        assert!(
            file.contains("\"http://tollgate:9001/check\",") && file.contains("method = \"POST\"")
        );
    }

    let dir = tempfile::tempdir().unwrap();
    let issuer = Issuer::new("https://auth.example.com");
    issuer.publish(dir.path());
    let listen = "listen: { grpc: \"unix:${DIR}/authz.sock\", ops: \"127.0.0.1:0\", http: [{ address: \"127.0.0.1:0\", dialect: traefik, body: sent }] }\n";
    let tollgate = Tollgate::start(dir.path(), &format!("{listen}{POLICY}"));
    let check = |body: &str| {
        let check = Request::post("/check", body)
            .bearer(&issuer.token(json!({ "sub": "alice", "scope": SCOPES })));
        let said = [
            ("Method", "POST"),
            ("Uri", "/v1/chat/completions"),
            ("Host", "api.example.com"),
            ("Proto", "https"),
            ("For", "192.0.2.7"),
        ];
        let check = said.iter().fold(check, |check, (name, value)| {
            check.header(&format!("X-Forwarded-{name}"), value)
        });
        check.send(tollgate.http_port())
    };
    let allowed = check(CHAT);
    assert_eq!((allowed.status, allowed.one("x-tollgate-subject")), (200, Some("alice")));
    assert_eq!(
        check(&CHAT.replace("qwen", "big-70b")).verdict(),
        (403, "model_forbidden".to_owned()),
        "the body is read"
    );
    // They copy each of Tollgate's identity headers by its name.
    for (name, _) in
        allowed.headers.iter().filter(|(name, _)| name.to_lowercase().starts_with("x-tollgate-"))
    {
        for file in &files {
            let name = format!("\"{}\"", name.to_lowercase());
            assert!(file.to_lowercase().contains(&name), "{name} is not copied");
        }
    }
}
