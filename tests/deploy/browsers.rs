//! deploy/envoy/envoy-browsers.yaml is deploy/envoy/envoy.yaml with a CORS filter in front, and a
//! listener that redirects to https.

use super::{is_generated, read, validate_envoy};
use crate::rig::replace_once;

const HOW: &str = "cargo test --test main deploy::browsers";

const TITLE: &str = "\
# Envoy in front of an inference server, for clients in browsers: a CORS filter in front of Tollgate, and a
# listener that redirects to https.
#
# Generated from envoy.yaml, where every setting is explained; do not edit. A browser asks with OPTIONS, without
# a token, before it sends a request to another origin: the filter answers that, Tollgate is not called. It also
# marks the answers to the request itself, denials included, so that the page can read them.
#
# To use it, change these:
#   https://app.example.com    the origins of pages, in `allow_origin_string_match`
#   0.0.0.0:8081               where clients of plain HTTP connect, to be redirected
";

const FILTER: &str = r#"                  # First: the answer of every filter behind it gets the headers for the page.
                  - name: envoy.filters.http.cors
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors
"#;

const POLICY: &str = r#"                      # What pages of these origins may send, and what they may read besides status and body. An `OPTIONS`
                      # of any other origin is a request like any other, which Tollgate denies.
                      typed_per_filter_config:
                        envoy.filters.http.cors:
                          "@type": type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy
                          allow_origin_string_match: [{ exact: "https://app.example.com" }]
                          allow_methods: GET, POST, DELETE
                          allow_headers: authorization, content-type, dpop
                          expose_headers: www-authenticate, dpop-nonce, retry-after, retry-after-ms, x-should-retry, x-tollgate-decision-id, ratelimit, ratelimit-policy, x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens
                          max_age: "600"
"#;

const REDIRECT: &str = r#"    # Clients of plain HTTP: no request is forwarded from here, so none is checked. 308 keeps the method.
    - name: redirect
      address: { socket_address: { address: 0.0.0.0, port_value: 8081 } }
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: redirect
                use_remote_address: true
                request_headers_timeout: 10s
                common_http_protocol_options: { idle_timeout: 60s }
                route_config:
                  name: redirect
                  virtual_hosts:
                    - name: redirect
                      domains: ["*"]
                      routes:
                        - match: { prefix: / }
                          redirect: { https_redirect: true, response_code: PERMANENT_REDIRECT }
                http_filters:
                  - name: envoy.filters.http.router
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router

"#;

#[test]
fn the_file_for_browsers_is_the_shipped_one_with_a_cors_filter() {
    let shipped = read("deploy/envoy/envoy.yaml");
    let body = &shipped[shipped.find("#   0.0.0.0:8080").unwrap()..];
    let body = body.replace("-c envoy.yaml", "-c envoy-browsers.yaml");
    let filter = "                  - name: envoy.filters.http.ext_authz\n";
    let body = replace_once(body, filter, &format!("{FILTER}{filter}"));
    let domains = "                      domains: [\"*\"]\n";
    let body = replace_once(body, domains, &format!("{domains}{POLICY}"));
    let clusters = "  clusters:\n    - name: tollgate\n";
    let body = replace_once(body, clusters, &format!("{REDIRECT}{clusters}"));
    let text = format!("{TITLE}{body}");
    is_generated("deploy/envoy/envoy-browsers.yaml", &text, HOW);
    validate_envoy("browsers", &text);
}
