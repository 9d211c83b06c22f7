//! deploy/envoy/envoy-metered.yaml is deploy/envoy/envoy.yaml with the filters that read the usage
//! of responses, and the access log that reports it to Tollgate.

use super::{chart::PLACES, is_generated, read, validate_envoy};
use crate::rig::replace_once;

const HOW: &str = "cargo test --test main deploy::metered";

const TITLE: &str = "\
# Envoy in front of an inference server, for limits on tokens and on requests in flight: it caps requests at what
# Tollgate holds for them, reads the usage where the response passes, and reports it in its access log.
#
# Generated from envoy.yaml, where every other setting is explained; do not edit. Tollgate needs
# `listen.access_log: unix:/run/tollgate/access-log.sock` and the section `metering` (docs/metering.md). A change of
# Envoy's version needs a test: `sse_to_metadata` and `transform` are young.
#
# To use it, change those:
#   /run/tollgate/access-log.sock
#                              Tollgate's `listen.access_log`
";

/// The access log, and the marks of long responses.
const LOG: &str = r#"                # A report every ten seconds while a response arrives renews what its request holds. Keep it below a
                # third of Tollgate's `metering.life`.
                access_log_options: { access_log_flush_interval: 10s }
                access_log:
                  - name: tollgate
                    # Requests that hold nothing are not reported.
                    filter:
                      metadata_filter:
                        matcher:
                          filter: envoy.filters.http.ext_authz
                          path: [{ key: reservation }]
                          value: { present_match: true }
                        match_if_key_not_found: false
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig
                      common_config:
                        log_name: tollgate
                        transport_api_version: V3
                        grpc_service: { envoy_grpc: { cluster_name: tollgate-access-log } }
                        # Each entry leaves at once: what waits here is lost when Envoy ends.
                        buffer_size_bytes: 0
"#;

/// The filter of the log of requests: one line each.
const ENDS: &str = r#"                  - name: envoy.access_loggers.stdout
                    filter: { log_type_filter: { types: [DownstreamEnd] } }
"#;

/// The members of a virtual host.
const HOST: &str = r#"                      # A compressed response hides its usage.
                      request_headers_to_remove: [accept-encoding]
                      # What `transform` may hold: not below `max_request_bytes` of ext_authz.
                      request_body_buffer_limit: 16777216
"#;

const FILTERS: &str = r#"                  # Writes the cap of the output, and the wish for usage in a stream, into a body for which the check returned
                  # one of them. Any other body is not touched: the filter writes the whole body again, and changes numbers
                  # beyond 2^53.
                  - name: envoy.filters.http.transform
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.common.matching.v3.ExtensionWithMatcher
                      xds_matcher:
                        matcher_list:
                          matchers:
                            - predicate:
                                not_matcher:
                                  or_matcher:
                                    predicate:
                                      - single_predicate:
                                          input:
                                            name: max_tokens
                                            typed_config:
                                              "@type": type.googleapis.com/envoy.extensions.matching.common_inputs.network.v3.DynamicMetadataInput
                                              filter: envoy.filters.http.ext_authz
                                              path: [{ key: max_tokens }]
                                          custom_match: &present
                                            name: present
                                            typed_config:
                                              "@type": type.googleapis.com/envoy.extensions.matching.input_matchers.metadata.v3.Metadata
                                              value: { present_match: true }
                                      - single_predicate:
                                          input:
                                            name: max_completion_tokens
                                            typed_config:
                                              "@type": type.googleapis.com/envoy.extensions.matching.common_inputs.network.v3.DynamicMetadataInput
                                              filter: envoy.filters.http.ext_authz
                                              path: [{ key: max_completion_tokens }]
                                          custom_match: *present
                                      - single_predicate:
                                          input:
                                            name: max_output_tokens
                                            typed_config:
                                              "@type": type.googleapis.com/envoy.extensions.matching.common_inputs.network.v3.DynamicMetadataInput
                                              filter: envoy.filters.http.ext_authz
                                              path: [{ key: max_output_tokens }]
                                          custom_match: *present
                                      - single_predicate:
                                          input:
                                            name: n_predict
                                            typed_config:
                                              "@type": type.googleapis.com/envoy.extensions.matching.common_inputs.network.v3.DynamicMetadataInput
                                              filter: envoy.filters.http.ext_authz
                                              path: [{ key: n_predict }]
                                          custom_match: *present
                                      - single_predicate:
                                          input:
                                            name: stream_options
                                            typed_config:
                                              "@type": type.googleapis.com/envoy.extensions.matching.common_inputs.network.v3.DynamicMetadataInput
                                              filter: envoy.filters.http.ext_authz
                                              path: [{ key: stream_options }]
                                          custom_match: *present
                              on_match:
                                action:
                                  name: skip
                                  typed_config:
                                    "@type": type.googleapis.com/envoy.extensions.filters.common.matcher.action.v3.SkipFilter
                      extension_config:
                        name: envoy.filters.http.transform
                        typed_config:
                          "@type": type.googleapis.com/envoy.extensions.filters.http.transform.v3.TransformConfig
                          request_transformation:
                            body_transformation:
                              action: MERGE
                              body_format:
                                # A member that the check did not return is not written.
                                omit_empty_values: true
                                json_format:
                                  max_tokens: "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:max_tokens)%"
                                  max_completion_tokens: "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:max_completion_tokens)%"
                                  max_output_tokens: "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:max_output_tokens)%"
                                  n_predict: "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:n_predict)%"
                                  stream_options: "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:stream_options)%"
                  # The usage in bodies of JSON, and in lines of JSON (Ollama), without holding them: `json_to_metadata` holds a
                  # body, and answers 500 beyond the buffer of the connection.
                  - name: envoy.filters.http.lua
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua
                      stat_prefix: usage
                      default_source_code:
                        inline_string: |
LUA                  # The usage in streams of events: the last object under each of these keys. An event that is too large is not read.
                  - name: envoy.filters.http.sse_to_metadata
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.sse_to_metadata.v3.SseToMetadata
                      response_rules:
                        max_event_size: 10485760
                        content_parser:
                          name: envoy.content_parsers.json
                          typed_config:
                            "@type": type.googleapis.com/envoy.extensions.content_parsers.json.v3.JsonContentParser
                            rules:
                              # OpenAI: chat and completions. The end of a stream of Anthropic's.
                              - rule: { selectors: [{ key: usage }], on_present: { metadata_namespace: tollgate.usage, key: usage } }
                              # The start of a stream of Anthropic's, which counts the input.
                              - rule: { selectors: [{ key: message }, { key: usage }], on_present: { metadata_namespace: tollgate.usage, key: message_usage } }
                              # OpenAI: Responses.
                              - rule: { selectors: [{ key: response }, { key: usage }], on_present: { metadata_namespace: tollgate.usage, key: response_usage } }
                              # SGLang /generate. Of several responses each event counts its own.
                              - rule: { selectors: [{ key: meta_info }], on_present: { metadata_namespace: tollgate.usage, key: meta_info } }
                              - rule: { selectors: [{ key: index }], on_present: { metadata_namespace: tollgate.usage, key: index } }
                              # llama.cpp /completion.
                              - rule: { selectors: [{ key: timings }], on_present: { metadata_namespace: tollgate.usage, key: timings } }
"#;

const CLUSTER: &str = r#"    # Tollgate's listener for the access log. Each worker thread of Envoy opens one stream.
    - name: tollgate-access-log
      type: STATIC
      connect_timeout: 10s
      typed_extension_protocol_options:
        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
          "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
          explicit_http_config: { http2_protocol_options: {} }
      load_assignment:
        cluster_name: tollgate-access-log
        endpoints:
          - lb_endpoints:
              - endpoint: { address: { pipe: { path: /run/tollgate/access-log.sock } } }

"#;

#[test]
fn the_file_for_metered_requests_is_the_shipped_one_with_filters_and_a_log() {
    let shipped = read("deploy/envoy/envoy.yaml");
    let body = &shipped[shipped.find("#   0.0.0.0:8080").unwrap()..];
    let body = body.replace("-c envoy.yaml", "-c envoy-metered.yaml");
    let body = replace_once(body, "                access_log:\n", LOG);
    let stdout = "                  - name: envoy.access_loggers.stdout\n";
    let body = replace_once(body, stdout, ENDS);
    let domains = "                      domains: [\"*\"]\n";
    let body = replace_once(body, domains, &format!("{domains}{HOST}"));
    let script = read("tests/deploy/metered.lua");
    let line = |line: &str| match line {
        "" => "\n".to_owned(),
        line => format!("                          {line}\n"),
    };
    let filters = FILTERS.replace("LUA", &script.lines().map(line).collect::<String>());
    let router = "                  - name: envoy.filters.http.router\n";
    let body = replace_once(body, router, &format!("{filters}{router}"));
    let clusters = "  clusters:\n";
    let body = replace_once(body, clusters, &format!("{clusters}{CLUSTER}"));
    let text = format!("{TITLE}{body}");
    is_generated("deploy/envoy/envoy-metered.yaml", &text, HOW);
    validate_envoy("metered", &text);
}

/// The beginning of the file with external processing.
const ACKNOWLEDGED_TITLE: &str = "\
# Envoy in front of an inference server, for limits on tokens and on requests in flight, with settlements that are
# acknowledged: a request whose usage is known is settled before its client sees the end of the response.
#
# Generated from envoy-metered.yaml; do not edit. Tollgate needs `listen.access_log`, `listen.ext_proc:
# unix:/run/tollgate/ext-proc.sock` and the section `metering` (docs/metering.md). It needs Envoy 1.40.0: the
# configuration of `ai_protocol_manager` is not stable.
#
# To use it, change those:
#   /run/tollgate/ext-proc.sock
#                              Tollgate's `listen.ext_proc`
#   /run/tollgate/access-log.sock
#                              Tollgate's `listen.access_log`
";

/// The processor, before the filters that read usage: they see a response first.
const PROCESSOR: &str = r#"                  # Sends the end of a response whose usage is known to Tollgate, which settles the request before its client sees the
                  # end. Without an answer the response ends all the same, and the access log settles the request.
                  - name: envoy.filters.http.ext_proc
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor
                      grpc_service: { envoy_grpc: { cluster_name: tollgate-ext-proc } }
                      failure_mode_allow: true
                      # Above the time in which the store answers.
                      message_timeout: 1s
                      processing_mode:
                        request_header_mode: SKIP
                        response_header_mode: SKIP
                        request_body_mode: NONE
                        response_body_mode: NONE
                        request_trailer_mode: SKIP
                        response_trailer_mode: SEND
                      metadata_options:
                        forwarding_namespaces:
                          untyped: [envoy.filters.http.ext_authz, tollgate.usage]
                          typed: [envoy.ai.token_usage]
"#;

/// The last filter before the router, which sees a response first.
const TRAILERS: &str = r#"                  # Adds empty trailers to a response whose usage it has found, which ends with them for the filters above.
                  - name: envoy.filters.http.ai_protocol_manager
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.ai_protocol_manager.v3.AiProtocolManager
                      response_handling: { token_usage: { include_unconfigured_routes: true, usage_signal: SYNTHESIZE_TRAILERS } }
"#;

#[test]
fn the_file_with_external_processing_is_the_metered_one_with_a_processor() {
    let metered = read("deploy/envoy/envoy-metered.yaml");
    let body = &metered[metered.find("#   0.0.0.0:8080").unwrap()..];
    let body = body.replace("-c envoy-metered.yaml", "-c envoy-metered-acknowledged.yaml");
    let router = "                  - name: envoy.filters.http.router\n";
    let body = replace_once(body, router, &format!("{TRAILERS}{router}"));
    let body = with_processor(&body, PROCESSOR);
    let text = format!("{ACKNOWLEDGED_TITLE}{body}");
    is_generated("deploy/envoy/envoy-metered-acknowledged.yaml", &text, HOW);
    validate_envoy("metered-acknowledged", &text);
}

/// The beginning of the file that cuts streams.
const CUT_TITLE: &str = "\
# Envoy in front of an inference server, for limits on tokens and on requests in flight, with streams that can be
# cut: those of the routes with `cut_streams: true` in Tollgate's file end with their credentials, and when they have
# used more than their requests hold. Their bodies go through Tollgate, which has to be the process that answers the
# checks.
#
# Generated from envoy-metered.yaml; do not edit. Tollgate needs `listen.access_log`, `listen.ext_proc:
# unix:/run/tollgate/ext-proc.sock` and the section `metering` (docs/metering.md).
#
# To use it, change those:
#   /v1/(chat/completions|...) the paths of the routes with `cut_streams: true`
#   /run/tollgate/ext-proc.sock
#                              Tollgate's `listen.ext_proc`
#   /run/tollgate/access-log.sock
#                              Tollgate's `listen.access_log`
";

/// The route whose responses go through the processor.
const CUT_ROUTE: &str = r#"                        # The responses of these paths go through Tollgate, piece by piece, and fail without it.
                        - match: { safe_regex: { regex: "/v1/(chat/completions|completions|messages|responses)" } }
                          route: { cluster: inference, timeout: 0s, idle_timeout: 600s }
                          typed_per_filter_config:
                            envoy.filters.http.ext_proc:
                              "@type": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute
                              overrides:
                                processing_mode:
                                  request_header_mode: SKIP
                                  response_header_mode: SEND
                                  request_body_mode: NONE
                                  response_body_mode: FULL_DUPLEX_STREAMED
                                  request_trailer_mode: SKIP
                                  response_trailer_mode: SEND
"#;

/// The processor, which does nothing on other routes.
const CUTTER: &str = r#"                  # Forwards the responses of some routes. They end with an error when it is gone.
                  - name: envoy.filters.http.ext_proc
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor
                      grpc_service: { envoy_grpc: { cluster_name: tollgate-ext-proc } }
                      message_timeout: 10s
                      processing_mode: { request_header_mode: SKIP, response_header_mode: SKIP }
                      metadata_options:
                        forwarding_namespaces: { untyped: [envoy.filters.http.ext_authz, tollgate.usage] }
                        receiving_namespaces: { untyped: [tollgate.usage] }
"#;

#[test]
fn the_file_that_cuts_streams_is_the_metered_one_with_a_processor_and_a_route() {
    let metered = read("deploy/envoy/envoy-metered.yaml");
    let body = &metered[metered.find("#   0.0.0.0:8080").unwrap()..];
    let body = body.replace("-c envoy-metered.yaml", "-c envoy-metered-cut.yaml");
    let every = "                        - match: { prefix: / }\n";
    let body = replace_once(body, every, &format!("{CUT_ROUTE}{every}"));
    let text = format!("{CUT_TITLE}{}", with_processor(&body, CUTTER));
    is_generated("deploy/envoy/envoy-metered-cut.yaml", &text, HOW);
    validate_envoy("metered-cut", &text);
}

/// Envoy opens another connection above the streams of one, as it does for checks.
const BREAKERS: &str = "      circuit_breakers: { thresholds: [{ max_requests: 2000000, max_pending_requests: 2000000 }] }\n";

/// The first of the filters that read usage, after the processor.
const TRANSFORM: &str = "                  # Writes the cap of the output, and";

/// A metered configuration with a processor before the filters that read usage, and its cluster.
fn with_processor(metered: &str, processor: &str) -> String {
    let (before, after) = metered.split_once(TRANSFORM).unwrap();
    let body = [before, processor, TRANSFORM, after].concat();
    let clusters = "  clusters:\n";
    replace_once(body, clusters, &format!("{clusters}{}", processor_cluster()))
}

/// The cluster of Tollgate's listener for external processing.
fn processor_cluster() -> String {
    let log =
        "Tollgate's listener for the access log. Each worker thread of Envoy opens one stream.";
    assert!(CLUSTER.contains(log));
    let streams = "Tollgate's listener for external processing: a stream for each response.";
    let cluster = CLUSTER
        .replace(log, streams)
        .replace("tollgate-access-log", "tollgate-ext-proc")
        .replace("access-log.sock", "ext-proc.sock");
    let (unbounded, bounded) =
        ("http2_protocol_options: {}", "http2_protocol_options: { max_concurrent_streams: 200 }");
    let cluster = replace_once(cluster, unbounded, bounded);
    let load = "      load_assignment:\n";
    replace_once(cluster, load, &format!("{BREAKERS}{load}"))
}

/// The beginning of the file for a Tollgate that several proxies share.
const SERVICE_TITLE: &str = "\
# Envoy in front of an inference server, for limits on tokens and on requests in flight, with a Tollgate that
# several proxies share: checks, reservations and the access log go over TLS, with certificates on both sides.
#
# Generated from envoy-metered.yaml; do not edit. Tollgate needs `listen.grpc` with `tls`, `listen.access_log` with
# `tls` and `client_ca`, and the section `metering` (docs/metering.md).
#
# To use it, change those:
#   tollgate.tollgate.svc      Tollgate's name: its address, and the name in its certificate
#   9000, 9003                 the ports of `listen.grpc` and `listen.access_log`
#   /etc/envoy/tls/tls.crt, tls.key
#                              the certificate of this proxy
#   /etc/envoy/tls/ca.crt      the authority of Tollgate's certificate
";

/// TLS to Tollgate, with a certificate of the proxy.
const TLS: &str = r#"      # The authority of `listen.access_log.tls.client_ca` signed the certificate of this proxy.
      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
          sni: tollgate.tollgate.svc
          common_tls_context:
            alpn_protocols: [h2]
            tls_certificates:
              - certificate_chain: { filename: /etc/envoy/tls/tls.crt }
                private_key: { filename: /etc/envoy/tls/tls.key }
            validation_context:
              trusted_ca: { filename: /etc/envoy/tls/ca.crt }
              match_typed_subject_alt_names: [{ san_type: DNS, matcher: { exact: tollgate.tollgate.svc } }]
"#;

#[test]
fn the_file_for_a_shared_tollgate_is_the_metered_one_with_tls() {
    let metered = read("deploy/envoy/envoy-metered.yaml");
    let body = &metered[metered.find("#   0.0.0.0:8080").unwrap()..];
    let mut body = body
        .replace("-c envoy-metered.yaml", "-c envoy-metered-service.yaml")
        .replace("#   /run/tollgate/authz.sock   Tollgate's `listen.grpc`\n", "");
    for (name, socket, port) in
        [("tollgate-access-log", "access-log", 9003), ("tollgate", "authz", 9000)]
    {
        let cluster = format!("    - name: {name}\n      type: STATIC\n");
        // Envoy resolves the name again, as pods of a Service come and go.
        let dynamic = format!("    - name: {name}\n      type: STRICT_DNS\n{TLS}");
        body = replace_once(body, &cluster, &dynamic);
        body = replace_once(
            body,
            &format!("pipe: {{ path: /run/tollgate/{socket}.sock }}"),
            &format!("socket_address: {{ address: tollgate.tollgate.svc, port_value: {port} }}"),
        );
    }
    let text = format!("{SERVICE_TITLE}{body}");
    is_generated("deploy/envoy/envoy-metered-service.yaml", &text, HOW);
    let dir = tempfile::tempdir().unwrap();
    let files = certificates(dir.path());
    validate_envoy("metered-service", &text.replace("/etc/envoy/tls", &files));
}

/// Writes the files that Envoy reads when it validates a configuration, and returns their place.
fn certificates(dir: &std::path::Path) -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(["envoy.test".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap().pem();
    for (name, text) in
        [("tls.crt", &certificate), ("ca.crt", &certificate), ("tls.key", &key.serialize_pem())]
    {
        std::fs::write(dir.join(name), text).unwrap();
    }
    dir.display().to_string()
}

/// The beginning of the chart's template.
const HEAD: &str = r#"{{/* Generated from deploy/envoy/envoy-metered.yaml, where every setting says why it is there; do not edit.
     `TOLLGATE_WRITE_DOCS=1 cargo test --test main deploy::metered` writes it. */}}
{{- define "tollgate.envoyMetered" -}}
"#;

#[test]
fn the_chart_s_file_for_metered_requests_is_the_shipped_one() {
    let shipped = read("deploy/envoy/envoy-metered.yaml");
    let body = shipped[shipped.find("\nnode:").unwrap() + 1..].to_owned();
    let buffer = (
        "request_body_buffer_limit: 16777216",
        "request_body_buffer_limit: {{ include \"tollgate.bodyMax\" . }}",
    );
    let places = PLACES.into_iter().chain([buffer]);
    let body = places.fold(body, |body, (old, new)| replace_once(body, old, new));
    // What the values choose of external processing.
    let when = |condition: &str, text: &str| format!("{{{{- {condition} }}}}\n{text}");
    let acknowledged = "if eq .Values.extProc.responses \"acknowledged\"";
    let cut = "if eq .Values.extProc.responses \"cut\"";
    let end = when("end", "");
    let paths = "\"/v1/(chat/completions|completions|messages|responses)\"";
    let cut_route =
        replace_once(CUT_ROUTE.to_owned(), paths, "{{ .Values.extProc.cutPaths | quote }}");
    let processor = when(acknowledged, PROCESSOR) + &when(&format!("else {cut}"), CUTTER) + &end;
    let cluster = when("if ne .Values.extProc.responses \"none\"", &processor_cluster()) + &end;
    let body = [
        ("                        - match: { prefix: / }\n", when(cut, &cut_route) + &end, true),
        (TRANSFORM, processor, true),
        (
            "                  - name: envoy.filters.http.router\n",
            when(acknowledged, TRAILERS) + &end,
            true,
        ),
        ("  clusters:\n", cluster, false),
    ]
    .into_iter()
    .fold(body, |body, (place, text, is_before)| {
        let (before, after) = body.split_once(place).unwrap();
        let [first, second] = if is_before { [&*text, place] } else { [place, &*text] };
        [before, first, second, after].concat()
    });
    let path = "deploy/helm/tollgate/templates/_envoy_metered.tpl";
    is_generated(path, &format!("{HEAD}{body}{{{{- end -}}}}\n"), HOW);
}
