//! deploy/envoy/envoy-strangers.yaml is deploy/envoy/envoy.yaml with a check of the head in front.

use super::{is_generated, read, validate_envoy};
use crate::rig::replace_once;

const HOW: &str = "cargo test --test main deploy::strangers";

const TITLE: &str = "\
# Envoy in front of an inference server, for a gateway that faces strangers: Tollgate checks the head of a
# request before Envoy receives its body, and then checks the whole request.
#
# Generated from envoy.yaml, where every setting is explained; do not edit. A client without a valid token is
# refused before it sends a body. Each allowed request costs a second call of Tollgate, of which only the one
# with the body charges limits, sets headers and is audited.
#
# To use it, change these:
";

/// The first filter. The extension marks its checks; it must not be set for the second filter.
const FILTER: &str = r#"                  # Checks the head: without `with_request_body` no body is received before the answer.
                  - name: tollgate.head
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
                      stat_prefix: tollgate_head
                      transport_api_version: V3
                      grpc_service:
                        envoy_grpc: { cluster_name: tollgate }
                        timeout: 10s
                      failure_mode_allow: false
                      status_on_error: { code: ServiceUnavailable }
                      encode_raw_headers: true
                      validate_mutations: true
                      decoder_header_mutation_rules:
                        disallow_system: true
                        disallow_is_error: true
"#;

const EXTENSION: &str = r#"                      # Marks the checks of the first filter. Without it the first check is a whole one, and each request
                      # is charged twice.
                      typed_per_filter_config:
                        tollgate.head:
                          "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute
                          check_settings: { context_extensions: { tollgate.phase: head } }
"#;

#[test]
fn the_file_for_strangers_is_the_shipped_one_with_a_check_of_the_head() {
    let shipped = read("deploy/envoy/envoy.yaml");
    let body = &shipped[shipped.find("#   0.0.0.0:8080").unwrap()..];
    let body = body.replace("-c envoy.yaml", "-c envoy-strangers.yaml");
    let filter = "                  - name: envoy.filters.http.ext_authz\n";
    let body = replace_once(body, filter, &format!("{FILTER}{filter}"));
    let domains = "                      domains: [\"*\"]\n";
    let body = replace_once(body, domains, &format!("{domains}{EXTENSION}"));
    let text = format!("{TITLE}{body}");
    is_generated("deploy/envoy/envoy-strangers.yaml", &text, HOW);
    validate_envoy("strangers", &text);
}
