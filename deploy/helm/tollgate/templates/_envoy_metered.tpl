{{/* Generated from deploy/envoy/envoy-metered.yaml, where every setting says why it is there; do not edit.
     `TOLLGATE_WRITE_DOCS=1 cargo test --test main deploy::metered` writes it. */}}
{{- define "tollgate.envoyMetered" -}}
node: { id: gate, cluster: gate }

# A socket, not a port: an inference server that can be made to fetch URLs shares the host's or the pod's
# network with Envoy, and this interface shows the configuration and can end Envoy. Mode 384 is 0600.
admin:
  address: { pipe: { path: /run/tollgate/envoy-admin.sock, mode: 384 } }

# Envoy holds a whole body before Tollgate authenticates the request. This section bounds what clients
# without a token can make Envoy hold; without it the container's memory limit ends Envoy.
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
  # usual prompt of one: large bodies end first, and other clients are still served. `reset_high_memory_stream`
  # cannot do this: Envoy does not count a body that ext_authz holds.
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

                # Envoy's default, written down: Tollgate's limit for the headers of a check has to be above it.
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

                # A report every ten seconds while a response arrives renews what its request holds. Keep it below a
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
                  - name: envoy.access_loggers.stdout
                    filter: { log_type_filter: { types: [DownstreamEnd] } }
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
                          subject: "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:subject)%"
                          tenant: "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:tenant)%"
                          model: "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:model)%"
                          decision_id: "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:decision_id)%"

                route_config:
                  name: inference
                  virtual_hosts:
                    - name: inference
                      domains: ["*"]
                      # A compressed response hides its usage.
                      request_headers_to_remove: [accept-encoding]
                      # What `transform` may hold: not below `max_request_bytes` of ext_authz.
                      request_body_buffer_limit: {{ include "tollgate.bodyMax" . }}
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
                        # gRPC, whose clients may wait for an answer before they end their request (Triton's
                        # ModelStreamInfer, reflection): with the body, the check would wait for its end, and both for each
                        # other. Tollgate cannot read these bodies, so nothing is lost; a route of its file that needs a body
                        # is denied here.
                        - match: { prefix: /inference.GRPCInferenceService/, grpc: {} }
                          route: { cluster: inference-grpc, timeout: 0s, idle_timeout: 600s }
                          typed_per_filter_config: &without_body
                            envoy.filters.http.ext_authz:
                              "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute
                              check_settings: { disable_request_body_buffering: true }
                        - match: { prefix: /grpc.reflection., grpc: {} }
                          route: { cluster: inference-grpc, timeout: 0s, idle_timeout: 600s }
                          typed_per_filter_config: *without_body
{{- if eq .Values.extProc.responses "cut" }}
                        # The responses of these paths go through Tollgate, piece by piece, and fail without it.
                        - match: { safe_regex: { regex: {{ .Values.extProc.cutPaths | quote }} } }
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
{{- end }}
                        - match: { prefix: / }
                          route:
                            cluster: inference
                            # A long generation is no fault, so there is no limit on the whole answer; a stream that
                            # has stalled for ten minutes is ended.
                            timeout: 0s
                            idle_timeout: 600s

                http_filters:
                  - name: envoy.filters.http.ext_authz
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
                      stat_prefix: tollgate
                      transport_api_version: V3
                      grpc_service:
                        envoy_grpc: { cluster_name: tollgate }
                        # Far above Tollgate's own deadlines, because Envoy's own delay counts: within 2 s a burst of
                        # 13 000 requests on two busy cores made checks fail. Envoy's default is 200 ms.
                        timeout: 10s
                      # No answer from Tollgate, no access; 503 tells clients to try again, where the default 403
                      # would tell them that they may not.
                      failure_mode_allow: false
                      status_on_error: { code: ServiceUnavailable }
                      with_request_body:
                        # The model's name is in the body. Not above Tollgate's `body.max`; Envoy answers 413 beyond it.
                        max_request_bytes: {{ include "tollgate.bodyMax" . }}
                        # Half a body can hide the second `model` member: all of it, or no decision.
                        allow_partial_message: false
                        # As bytes: a protobuf string has to be UTF-8, and a body need not be.
                        pack_as_bytes: true
                      # Repeated headers stay repeated and bytes stay bytes, where the map form joins them with commas.
                      encode_raw_headers: true
                      # An answer with a malformed header is an error, not something for the next parser to guess at.
                      validate_mutations: true
                      # Tollgate may set and remove headers, but neither redirect a request nor touch Envoy's own.
                      decoder_header_mutation_rules:
                        disallow_system: true
                        # The one header of Envoy's own: how long a WebSocket may live.
                        allow_expression: { regex: x-envoy-upstream-stream-duration-ms }
                        disallow_is_error: true
{{- if eq .Values.extProc.responses "acknowledged" }}
                  # Sends the end of a response whose usage is known to Tollgate, which settles the request before its client sees the
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
{{- else if eq .Values.extProc.responses "cut" }}
                  # Forwards the responses of some routes. They end with an error when it is gone.
                  - name: envoy.filters.http.ext_proc
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor
                      grpc_service: { envoy_grpc: { cluster_name: tollgate-ext-proc } }
                      message_timeout: 10s
                      processing_mode: { request_header_mode: SKIP, response_header_mode: SKIP }
                      metadata_options:
                        forwarding_namespaces: { untyped: [envoy.filters.http.ext_authz, tollgate.usage] }
                        receiving_namespaces: { untyped: [tollgate.usage] }
{{- end }}
                  # Writes the cap of the output, and the wish for usage in a stream, into a body for which the check returned
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
                          -- The counts of tokens and seconds in a body of JSON, or of lines of JSON, read while it passes: numbers that are members of the
                          -- document, or of objects below it with the keys in `PARENTS`. What a server repeats of its request (tools, metadata) is
                          -- elsewhere, and is no usage. Of a count that occurs more often the largest one is kept, and one that is no number:
                          -- Tollgate charges what the request holds then.
                          local COUNTS, PARENTS = {}, {}
                          for name in ("prompt_tokens completion_tokens total_tokens input_tokens output_tokens cache_creation_input_tokens "
                              .. "cache_read_input_tokens prompt_n cache_n predicted_n tokens_evaluated tokens_predicted prompt_eval_count "
                              .. "eval_count cached_tokens reasoning_tokens seconds"):gmatch("%S+") do
                            COUNTS[name] = true
                          end
                          for name in ("usage meta_info timings meta tokens billed_units prompt_tokens_details completion_tokens_details "
                              .. "input_tokens_details output_tokens_details"):gmatch("%S+") do PARENTS[name] = true end
                          -- The most bytes that are read again with the next piece: more than a name with its number.
                          local KEPT = 128
                          -- The most bytes of an event whose usage is looked for.
                          local EVENT = 1048576

                          -- Reads one more piece of a document. `state` has its depth, the depth of the innermost object whose members are
                          -- counts, the key before the value that is next, whether the piece begins in a text, and what is read again.
                          local function scan(state, piece, found)
                            local text, at = state.rest .. piece, 1
                            state.rest = ""
                            while true do
                              if state.in_text then
                                local stop = text:find('["\\]', at)
                                if stop == nil then return end
                                if text:byte(stop) == 34 then
                                  state.in_text, at = false, stop + 1
                                elseif stop == #text then
                                  state.rest = "\\"
                                  return
                                else
                                  at = stop + 2
                                end
                              else
                                local stop = text:find('["{}%[%]]', at)
                                if stop == nil then return end
                                local sign = text:byte(stop)
                                at = stop + 1
                                if sign == 34 and state.counted == state.depth and state.depth > 0 then
                                  local name, value = text:match('^"([%a_]*)"%s*:%s*()', stop)
                                  local next_at = value or text:match('^"[%a_]*"?%s*()', stop)
                                  if next_at > #text and #text - stop < KEPT then
                                    state.rest = text:sub(stop)
                                    return
                                  end
                                  if name == nil then
                                    state.in_text, state.key = true, nil
                                  else
                                    state.key, at = name, value
                                    if COUNTS[name] and text:byte(value) ~= 110 then
                                      local number, over = text:match("^(%-?%d[%d%.eE%+%-]*)()", value)
                                      if number ~= nil and over > #text and #text - stop < KEPT then
                                        state.rest = text:sub(stop)
                                        return
                                      end
                                      found(name, tonumber(number))
                                    end
                                  end
                                elseif sign == 34 then
                                  state.in_text, state.key = true, nil
                                elseif sign == 123 or sign == 91 then
                                  if sign == 123 and state.counted == state.depth and (state.depth == 0 or PARENTS[state.key]) then
                                    state.counted = state.depth + 1
                                  end
                                  state.depth, state.key = state.depth + 1, nil
                                else
                                  if state.counted == state.depth and state.depth > 0 then state.counted = state.depth - 1 end
                                  state.depth, state.key = math.max(state.depth - 1, 0), nil
                                end
                              end
                            end
                          end

                          local function set(handle, name, value)
                            handle:streamInfo():dynamicMetadata():set("tollgate.usage", name, value)
                          end

                          local function read_document(handle)
                            local state, counts = { depth = 0, counted = 0, in_text = false, rest = "" }, {}
                            local function found(name, count)
                              local known = counts[name]
                              if known == "no count" or (known ~= nil and count ~= nil and count <= known) then return end
                              counts[name] = count or "no count"
                              set(handle, name, counts[name])
                            end
                            for chunk in handle:bodyChunks() do
                              scan(state, chunk:getBytes(0, chunk:length()), found)
                            end
                            -- A number ends with its document.
                            scan(state, " ", found)
                          end

                          -- Whether the last event of a stream has a usage, and was not the first one that has: a server that ignores the wish for
                          -- a usage in each event may send one with its first or last event only.
                          local function watch_events(handle)
                            local rest, counted, is_counted = "", 0, false
                            for chunk in handle:bodyChunks() do
                              local text, at = rest .. chunk:getBytes(0, chunk:length()), 1
                              local stop = text:find("\n", at, true)
                              local has_usage = is_counted
                              while stop ~= nil do
                                if text:find("^data:%s*{", at) then
                                  local usage = text:find('[{,%s]"usage"%s*:%s*{', at)
                                  local is_usage = usage ~= nil and usage < stop
                                  if is_usage then counted = counted + 1 end
                                  has_usage = is_usage and counted > 1
                                end
                                at = stop + 1
                                stop = text:find("\n", at, true)
                              end
                              rest = text:sub(at)
                              if #rest > EVENT then
                                set(handle, "each_event", false)
                                return
                              end
                              if has_usage ~= is_counted then
                                is_counted = has_usage
                                set(handle, "each_event", is_counted)
                              end
                            end
                          end

                          function envoy_on_response(handle)
                            local check = handle:streamInfo():dynamicMetadata():get("envoy.filters.http.ext_authz")
                            if check == nil or check["reservation"] == nil then return end
                            local kind = (handle:headers():get("content-type") or ""):lower()
                            if kind:find("^application/json") or kind:find("^application/x%-ndjson") or kind:find("^application/jsonl") then
                              read_document(handle)
                            elseif kind:find("^text/event%-stream") then
                              local options = check["stream_options"]
                              if type(options) == "table" and options["continuous_usage_stats"] == true then watch_events(handle) end
                            end
                          end
                  # The usage in streams of events: the last object under each of these keys. An event that is too large is not read.
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
{{- if eq .Values.extProc.responses "acknowledged" }}
                  # Adds empty trailers to a response whose usage it has found, which ends with them for the filters above.
                  - name: envoy.filters.http.ai_protocol_manager
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.ai_protocol_manager.v3.AiProtocolManager
                      response_handling: { token_usage: { include_unconfigured_routes: true, usage_signal: SYNTHESIZE_TRAILERS } }
{{- end }}
                  - name: envoy.filters.http.router
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router

  clusters:
{{- if ne .Values.extProc.responses "none" }}
    # Tollgate's listener for external processing: a stream for each response.
    - name: tollgate-ext-proc
      type: STATIC
      connect_timeout: 10s
      typed_extension_protocol_options:
        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
          "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
          explicit_http_config: { http2_protocol_options: { max_concurrent_streams: 200 } }
      circuit_breakers: { thresholds: [{ max_requests: 2000000, max_pending_requests: 2000000 }] }
      load_assignment:
        cluster_name: tollgate-ext-proc
        endpoints:
          - lb_endpoints:
              - endpoint: { address: { pipe: { path: /run/tollgate/ext-proc.sock } } }

{{- end }}
    # Tollgate's listener for the access log. Each worker thread of Envoy opens one stream.
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

    - name: tollgate
      type: STATIC
      # As long as a check. A shorter time passes while Envoy is busy with a burst, and the checks that wait fail.
      connect_timeout: 10s
      typed_extension_protocol_options:
        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
          "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
          # A stream that Tollgate refuses (beyond 1024 of a connection, or 256 of one of many) is a failed check. Envoy opens
          # another connection beyond these.
          explicit_http_config:
            http2_protocol_options:
              max_concurrent_streams: 200
              # Each check of a client that cancels is reset. Above these numbers of unsent frames Envoy closes the
              # connection to Tollgate, and every check on it fails; the defaults are 10 000 and 1 000.
              max_outbound_frames: 2000000
              max_outbound_control_frames: 2000000
      # A check beyond a breaker is a failed check, too: they are above all that the listener admits, 10 000
      # connections of 128 streams. Tollgate bounds its own work, and answers 503 beyond it.
      circuit_breakers: { thresholds: [{ max_requests: 2000000, max_pending_requests: 2000000 }] }
      load_assignment:
        cluster_name: tollgate
        endpoints:
          - lb_endpoints:
              - endpoint: { address: { pipe: { path: /run/tollgate/authz.sock } } }

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
