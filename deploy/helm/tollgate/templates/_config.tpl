{{/* Tollgate's file: `config` of the values, and `listen`, which is the chart's. */}}

{{/* `host:port` for a port that the pod shows to others. */}}
{{- define "tollgate.address" -}}
{{- $bind := .root.Values.bind -}}
{{- if contains ":" $bind -}}[{{ $bind }}]:{{ .port }}{{- else -}}{{ $bind }}:{{ .port }}{{- end -}}
{{- end -}}

{{/* A listener whose peers have certificates, with the files of the mounted Secret `tollgate-FILES-tls`. */}}
{{- define "tollgate.mutualListener" -}}
{{- $files := printf "/run/secrets/tollgate-%s-tls" .files -}}
address: {{ include "tollgate.address" (dict "root" .root "port" (int .port)) | quote }}
tls: { cert: {{ $files }}/tls.crt, key: {{ $files }}/tls.key, client_ca: {{ $files }}/ca.crt }
{{- end -}}

{{/* The listeners of mode service with TLS of their own, and the Secrets with its files. */}}
{{- define "tollgate.tlsSecrets" -}}
{{- with .Values.grpc.tlsSecretName }}
- { name: tollgate-tls, secretName: {{ . }} }
{{- end }}
{{- if and .Values.config.metering .Values.accessLog.tlsSecretName }}
- { name: tollgate-access-log-tls, secretName: {{ .Values.accessLog.tlsSecretName }} }
{{- end }}
{{- if ne .Values.extProc.responses "none" }}
- { name: tollgate-ext-proc-tls, secretName: {{ .Values.extProc.tlsSecretName }} }
{{- end }}
{{- if .Values.settle.enabled }}
- { name: tollgate-settle-tls, secretName: {{ .Values.settle.tlsSecretName }} }
{{- end }}
{{- end -}}

{{/* The ports of mode service beside `grpc` and `http`, by name. */}}
{{- define "tollgate.reportPorts" -}}
{{- if and .Values.config.metering .Values.accessLog.tlsSecretName }}
- { name: access-log, port: {{ int .Values.accessLog.port }} }
{{- end }}
{{- if ne .Values.extProc.responses "none" }}
- { name: ext-proc, port: {{ int .Values.extProc.port }} }
{{- end }}
{{- if .Values.settle.enabled }}
- { name: settle, port: {{ int .Values.settle.port }} }
{{- end }}
{{- end -}}

{{- define "tollgate.listen" -}}
{{- $listen := deepCopy .Values.extraListen -}}
{{- $_ := set $listen "ops" (include "tollgate.address" (dict "root" . "port" (int .Values.ops.port))) -}}
{{- if eq .Values.mode "embedded" -}}
{{- $_ := set $listen "embedded" true -}}
{{- else if eq .Values.mode "sidecar" -}}
{{- $_ := set $listen "grpc" "unix:/run/tollgate/authz.sock" -}}
{{- if .Values.config.metering -}}
{{- $_ := set $listen "access_log" "unix:/run/tollgate/access-log.sock" -}}
{{- end -}}
{{- if ne .Values.extProc.responses "none" -}}
{{- $_ := set $listen "ext_proc" "unix:/run/tollgate/ext-proc.sock" -}}
{{- end -}}
{{- if .Values.settle.enabled -}}
{{- $_ := set $listen "settle" (dict "address" (printf "127.0.0.1:%d" (int .Values.settle.port)) "reporters" .Values.settle.reporters) -}}
{{- end -}}
{{- else -}}
{{- $address := include "tollgate.address" (dict "root" . "port" (int .Values.grpc.port)) -}}
{{- if .Values.grpc.tlsSecretName -}}
{{- $tls := dict "cert" "/run/secrets/tollgate-tls/tls.crt" "key" "/run/secrets/tollgate-tls/tls.key" -}}
{{- $_ := set $listen "grpc" (dict "address" $address "tls" $tls) -}}
{{- else -}}
{{- $_ := set $listen "grpc" $address -}}
{{- end -}}
{{- if and .Values.config.metering .Values.accessLog.tlsSecretName -}}
{{- $_ := set $listen "access_log" (fromYaml (include "tollgate.mutualListener" (dict "root" . "port" .Values.accessLog.port "files" "access-log"))) -}}
{{- end -}}
{{- if ne .Values.extProc.responses "none" -}}
{{- $_ := set $listen "ext_proc" (fromYaml (include "tollgate.mutualListener" (dict "root" . "port" .Values.extProc.port "files" "ext-proc"))) -}}
{{- end -}}
{{- if .Values.settle.enabled -}}
{{- $settle := fromYaml (include "tollgate.mutualListener" (dict "root" . "port" .Values.settle.port "files" "settle")) -}}
{{- if .Values.settle.reporters -}}
{{- $_ := unset $settle.tls "client_ca" -}}
{{- $_ := set $settle "reporters" .Values.settle.reporters -}}
{{- end -}}
{{- $_ := set $listen "settle" $settle -}}
{{- end -}}
{{- if .Values.http -}}
{{- $root := . -}}
{{- $http := list -}}
{{- range .Values.http -}}
{{- $address := include "tollgate.address" (dict "root" $root "port" (int .port)) -}}
{{- $http = append $http (dict "address" $address "dialect" .dialect "body" (default "none" .body) "settlement" (default "none" .settlement) "trusted_proxies" .trustedProxies) -}}
{{- end -}}
{{- $_ := set $listen "http" $http -}}
{{- end -}}
{{- end -}}
{{ toYaml $listen }}
{{- end -}}

{{- define "tollgate.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- $_ := set $config "listen" (fromYaml (include "tollgate.listen" .)) -}}
{{ toYaml $config }}
{{- end -}}

{{/* `config.body.max` in bytes: what Envoy sends is never more than what Tollgate takes. */}}
{{- define "tollgate.bodyMax" -}}
{{- $max := dig "body" "max" "16MiB" .Values.config -}}
{{- if not (regexMatch "^[1-9][0-9]{0,8}(B|KiB|MiB|GiB)$" $max) -}}
{{- fail (printf "config.body.max is `%s`; Envoy needs it too, so write a size such as 16MiB" $max) -}}
{{- end -}}
{{- $number := regexFind "^[0-9]+" $max | int64 -}}
{{- $units := dict "B" 1 "KiB" 1024 "MiB" 1048576 "GiB" 1073741824 -}}
{{- $bytes := mul $number (get $units (regexFind "[A-Za-z]+$" $max)) -}}
{{- $heap := include "tollgate.envoyHeap" . | int64 -}}
{{- if gt (mul $bytes 4) $heap -}}
{{- fail (printf "config.body.max is `%s`, more than a quarter of Envoy's heap (three quarters of envoy.resources.limits.memory): lower it, or raise the limit to %dMi" $max (add 1 (div (mul $bytes 16) 3145728))) -}}
{{- end -}}
{{- $bytes -}}
{{- end -}}

{{/* The bound of Envoy's heap in bytes: three quarters of its memory limit. */}}
{{- define "tollgate.envoyHeap" -}}
{{- $limit := dig "limits" "memory" "" .Values.envoy.resources | toString -}}
{{- if not (regexMatch "^[1-9][0-9]{0,5}(Mi|Gi)$" $limit) -}}
{{- fail (printf "envoy.resources.limits.memory is `%s`; the chart derives the bound of Envoy's heap from it, so write a size such as 1Gi or 1536Mi" $limit) -}}
{{- end -}}
{{- $units := dict "Mi" 1048576 "Gi" 1073741824 -}}
{{- $bytes := mul (regexFind "^[0-9]+" $limit | int64) (get $units (regexFind "[A-Za-z]+$" $limit)) -}}
{{- if lt $bytes 268435456 -}}
{{- fail (printf "envoy.resources.limits.memory is `%s`; Envoy needs 256Mi or more" $limit) -}}
{{- end -}}
{{- div (mul $bytes 3) 4 -}}
{{- end -}}

{{/* Envoy's file: with Tollgate inside of it, or with `config.metering` the one that reports the usage of responses. */}}
{{- define "tollgate.envoy" -}}
{{- if eq .Values.mode "embedded" -}}
{{ include "tollgate.envoyEmbedded" . }}
{{- else if .Values.config.metering -}}
{{ include "tollgate.envoyMetered" . }}
{{- else -}}
{{ include "tollgate.envoyConfig" . }}
{{- end -}}
{{- end -}}

{{/* What a pod has to be restarted for. */}}
{{- define "tollgate.checksum" -}}
{{- $config := fromYaml (include "tollgate.config" .) -}}
{{- if eq .Values.rollOn "needed" -}}
{{- if .Values.settle.enabled -}}{{- $_ := unset $config.listen.settle "reporters" -}}{{- end -}}
{{- $config = omit $config "issuers" "api_keys" "client_certificates" "cookies" "dpop" "automatic_bans" "models" "tiers" "categories" "routes" "limits" "prices" "metering" "ledger" "revocation" "require_https" "identity_headers" "dynamic_metadata" -}}
{{- end -}}
{{- $envoy := "" -}}
{{- if ne .Values.mode "service" -}}{{- $envoy = include "tollgate.envoy" . -}}{{- end -}}
{{- printf "%s\n%s" (toYaml $config) $envoy | sha256sum -}}
{{- end -}}

{{/* Annotations for the pod. */}}
{{- define "tollgate.podAnnotations" -}}
{{- if ne .Values.rollOn "never" -}}
checksum/tollgate: {{ include "tollgate.checksum" . }}
{{- end -}}
{{- end -}}
