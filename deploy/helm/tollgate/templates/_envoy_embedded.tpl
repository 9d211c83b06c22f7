{{/* Generated from deploy/envoy/envoy-embedded.yaml; do not edit.
     `TOLLGATE_WRITE_DOCS=1 cargo test --test main deploy::embedded` writes it. */}}
{{- define "tollgate.envoyEmbedded" -}}
{{- /* The heap holds some of the largest bodies. */ -}}
{{- $_ := include "tollgate.bodyMax" . -}}
node: { id: gate, cluster: gate }

# A socket, not a port: an inference server that can be made to fetch URLs shares the host's or the pod's
# network with Envoy, and this interface shows the configuration and can end Envoy. Mode 384 is 0600.
admin:
  address: { pipe: { path: /run/tollgate/envoy-admin.sock, mode: 384 } }

# This section bounds what clients can make Envoy hold; without it the container's memory limit ends Envoy.
overload_manager:
  refresh_interval: 0.1s
  resource_monitors:
    - name: envoy.resource_monitors.fixed_heap
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig
        # Three quarters of a memory limit of 1 GiB; the rest is for memory that is not on the heap.
        max_heap_size_bytes: {{ include "tollgate.envoyHeap" . }}
    # Without a bound Envoy accepts connections until it runs out of file descriptors.
    - name: envoy.resource_monitors.global_downstream_max_connections
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig
        max_active_downstream_connections: 10000
  actions:
    # Returns freed memory to the system.
    - name: envoy.overload_actions.shrink_heap
      triggers: [{ name: envoy.resource_monitors.fixed_heap, threshold: { value: 0.5 } }]
  # From half of the heap on, each piece of a request that arrives (64 KiB, `per_connection_buffer_limit_bytes`)
  # ends its connection with a probability that grows with the heap. A body of 16 MiB consists of 256 pieces, a
  # usual prompt of one: large bodies end first, and other clients are still served.
  loadshed_points:
    - name: envoy.load_shed_points.http1_server_abort_dispatch
      triggers:
        - name: envoy.resource_monitors.fixed_heap
          scaled: { scaling_threshold: 0.5, saturation_threshold: 0.9 }
    - name: envoy.load_shed_points.http2_server_go_away_and_close_on_dispatch
      triggers:
        - name: envoy.resource_monitors.fixed_heap
          scaled: { scaling_threshold: 0.6, saturation_threshold: 0.95 }

layered_runtime:
  layers:
    - name: static
      # The heap is what is in use. By default, memory that was freed but not yet returned counts too.
      static_layer: { envoy.reloadable_features.fixed_heap_use_allocated: true }

static_resources:
  listeners:
    - name: ingress
      address: { socket_address: { address: "{{ .Values.bind }}", port_value: {{ int .Values.envoy.port }} } }
      per_connection_buffer_limit_bytes: 65536
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: ingress

                # The peer address is the client's, and X-Forwarded-For from outside is not believed. Behind a load
                # balancer that sets it, add `xff_num_trusted_hops`.
                use_remote_address: true
                xff_num_trusted_hops: {{ int .Values.envoy.trustedHops }}

                # One spelling for one resource. Tollgate refuses what is still ambiguous after this, and the inference
                # server gets the spelling that was decided on.
                normalize_path: true
                merge_slashes: true
                # `%2F` stays as it is, since model names may hold it (`/v1/models/Qwen%2FQwen2`). Tollgate decides:
                # it refuses a path whose raw and decoded spellings do not meet the same route.
                path_with_escaped_slashes_action: KEEP_UNCHANGED
                # `example.com:8080` and `example.com` are one host for Tollgate's routes.
                strip_any_host_port: true

                # Envoy's default, written down.
                max_request_headers_kb: 60

                # The whole request has to arrive within a minute; this does not bound the answer.
                request_timeout: 60s
                request_headers_timeout: 10s
                # No byte in either direction for so long ends a stream. A route's `idle_timeout` replaces it.
                stream_idle_timeout: 300s

                common_http_protocol_options:
                  idle_timeout: 3600s
                  # WSGI and CGI servers read `x_tollgate_subject` and `x-tollgate-subject` as one header. No client of
                  # an inference API needs underscores; the exception is Ray Serve's `serve_multiplexed_model_id`.
                  headers_with_underscores_action: REJECT_REQUEST
                http2_protocol_options: { max_concurrent_streams: 128 }

                # Identity headers come from Tollgate only. Tollgate removes forged ones itself; here they are gone
                # before any filter or route can read them.
                early_header_mutation_extensions:
                  - name: envoy.http.early_header_mutation.header_mutation
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation
                      mutations:
                        - remove_on_match: { key_matcher: { prefix: "x-tollgate-", ignore_case: true } }

                access_log:
                  - name: envoy.access_loggers.stdout
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog
                      log_format:
                        json_format:
                          time: "%START_TIME(%Y-%m-%dT%H:%M:%S.%3fZ)%"
                          request_id: "%REQ(X-REQUEST-ID)%"
                          client: "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"
                          method: "%REQ(:METHOD)%"
                          # Without the query: some clients put a key there.
                          path: "%PATH(NQ:ORIG_OR_PATH)%"
                          status: "%RESPONSE_CODE%"
                          details: "%RESPONSE_CODE_DETAILS%"
                          flags: "%RESPONSE_FLAGS%"
                          bytes_in: "%BYTES_RECEIVED%"
                          bytes_out: "%BYTES_SENT%"
                          milliseconds: "%DURATION%"
                          first_byte_milliseconds: "%RESPONSE_DURATION%"
                          # From Tollgate; `decision_id` finds the same check in its audit log.
                          subject: "%DYNAMIC_METADATA(tollgate:subject)%"
                          tenant: "%DYNAMIC_METADATA(tollgate:tenant)%"
                          model: "%DYNAMIC_METADATA(tollgate:model)%"
                          decision_id: "%DYNAMIC_METADATA(tollgate:decision_id)%"

                route_config:
                  name: inference
                  virtual_hosts:
                    - name: inference
                      domains: ["*"]
                      routes:
                        # Every path, health included, goes through Tollgate: what is public is written in its file,
                        # in one place, and there is no route here that could let a request around it.
                        # A WebSocket, which presets open with `open: [realtime]`. Without `upgrade_configs` Envoy refuses
                        # every upgrade. Its messages are not checked, so it ends after an hour at the latest, and with its
                        # credential where the route in Tollgate's file has `websocket: {}`.
                        - match: { path: /v1/realtime }
                          route:
                            cluster: inference
                            timeout: 0s
                            idle_timeout: 600s
                            upgrade_configs: [{ upgrade_type: websocket }]
                            max_stream_duration: { max_stream_duration: 3600s }
                        # gRPC. Tollgate cannot read these bodies: a route of its file that needs a body is denied.
                        - match: { prefix: /inference.GRPCInferenceService/, grpc: {} }
                          route: { cluster: inference-grpc, timeout: 0s, idle_timeout: 600s }
                        - match: { prefix: /grpc.reflection., grpc: {} }
                          route: { cluster: inference-grpc, timeout: 0s, idle_timeout: 600s }
                        - match: { prefix: / }
                          route:
                            cluster: inference
                            # A long generation is no fault, so there is no limit on the whole answer; a stream that
                            # has stalled for ten minutes is ended.
                            timeout: 0s
                            idle_timeout: 600s

                http_filters:
                  # Tollgate decides here, in Envoy's own process, with the file of a sidecar. A body is buffered only where
                  # a rule reads it, and only for a client whose headers have passed.
                  - name: tollgate
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilter
                      dynamic_module_config:
                        name: tollgate_envoy
                        # Its threads run until Envoy ends.
                        do_not_close: true
                      filter_name: tollgate
                      filter_config:
                        "@type": type.googleapis.com/google.protobuf.StringValue
                        value: /etc/tollgate/tollgate.yaml
                  - name: envoy.filters.http.router
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router

  clusters:
    - name: inference
      type: STATIC
      connect_timeout: 1s
      circuit_breakers: { thresholds: [{ max_connections: 4096, max_requests: 4096, max_pending_requests: 4096 }] }
      load_assignment:
        cluster_name: inference
        endpoints:
          - lb_endpoints:
              - endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: {{ int .Values.inference.port }} } } }

    # The gRPC port of a server that has one (Triton).
    - name: inference-grpc
      type: STATIC
      connect_timeout: 1s
      typed_extension_protocol_options:
        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
          "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
          explicit_http_config: { http2_protocol_options: {} }
      circuit_breakers: { thresholds: [{ max_connections: 4096, max_requests: 4096, max_pending_requests: 4096 }] }
      load_assignment:
        cluster_name: inference-grpc
        endpoints:
          - lb_endpoints:
              - endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: 8001 } } }
{{- end -}}
