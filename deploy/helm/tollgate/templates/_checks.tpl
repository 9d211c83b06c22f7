{{/* Values that do not belong together, or that the pods must not have. Each message names the value and the remedy. */}}

{{/* Looks for secrets in clear in `config`, in any key at any depth; `at` is the path of `value`. */}}
{{- define "tollgate.checkSecrets" -}}
{{- $at := .at -}}
{{- if kindIs "map" .value -}}
{{- range $key, $value := .value -}}
{{- $path := printf "%s.%s" $at $key -}}
{{- if and (kindIs "string" $value) (regexMatch "(^|[_-])(secret|password|passphrase|token|key|credential)$" $key) -}}
{{- if not (or (regexMatch "^file:/.+$" $value) (and (eq $key "key") (hasPrefix "/" $value)) (regexMatch "^[$][{][A-Za-z_][A-Za-z0-9_]*[}]$" $value)) -}}
{{- fail (printf "%s is a secret in clear, and `config` becomes a ConfigMap: put it into a Secret, name the Secret in `secrets`, and write `file:/run/secrets/tollgate/NAME/KEY`, or `${NAME}` with `env`" $path) -}}
{{- end -}}
{{- else if and (kindIs "slice" $value) (regexMatch "(^|[_-])(secret|password|passphrase|token)s$" $key) -}}
{{- range $value -}}
{{- if not (and (kindIs "string" .) (or (regexMatch "^file:/.+$" .) (regexMatch "^[$][{][A-Za-z_][A-Za-z0-9_]*[}]$" .))) -}}
{{- fail (printf "%s may contain secrets, and `config` becomes a ConfigMap: put them into a Secret and name it in `secrets`" $path) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- include "tollgate.checkSecrets" (dict "value" $value "at" $path "root" $.root) -}}
{{- end -}}
{{- else if kindIs "slice" .value -}}
{{- range $index, $value := .value -}}
{{- include "tollgate.checkSecrets" (dict "value" $value "at" (printf "%s[%d]" $at $index) "root" $.root) -}}
{{- end -}}
{{- else if kindIs "string" .value -}}
{{- if regexMatch "://[^/@ ]*:[^$/@ ][^/@ ]*@" .value -}}
{{- fail (printf "%s is a URL with a password, and `config` becomes a ConfigMap: put the password into a Secret, name the Secret in `secrets`, and write it as `password: file:/run/secrets/tollgate/NAME/KEY`" $at) -}}
{{- end -}}
{{- include "tollgate.checkMount" . -}}
{{- end -}}
{{- end -}}

{{/* A file that `config` names is mounted. */}}
{{- define "tollgate.checkMount" -}}
{{- $path := trimPrefix "file:" .value -}}
{{- if regexMatch "^/run/secrets/tollgate/" $path -}}
{{- $name := index (splitList "/" $path) 4 -}}
{{- $names := list -}}
{{- range .root.Values.secrets -}}{{- $names = append $names .name -}}{{- end -}}
{{- if not (has $name $names) -}}
{{- fail (printf "%s names %s, but `secrets` has no entry `%s`: add `{ name: %s, secretName: YOUR-SECRET }`" .at $path $name $name) -}}
{{- end -}}
{{- else if regexMatch "^/run/config/tollgate/" $path -}}
{{- $name := index (splitList "/" $path) 4 -}}
{{- $names := list -}}
{{- range .root.Values.configMaps -}}{{- $names = append $names .name -}}{{- end -}}
{{- if not (has $name $names) -}}
{{- fail (printf "%s names %s, but `configMaps` has no entry `%s`: add `{ name: %s, configMapName: YOUR-CONFIGMAP }`" .at $path $name $name) -}}
{{- end -}}
{{- else if and (hasPrefix "file:/" .value) (not (regexMatch "^/(run/secrets/tollgate-tls|var/cache/tollgate|etc/tollgate)/" $path)) -}}
{{- fail (printf "%s names %s, which the chart does not mount: name a Secret in `secrets` and write `file:/run/secrets/tollgate/NAME/KEY`" .at $path) -}}
{{- end -}}
{{- end -}}

{{/* Every port of the pod is used once. */}}
{{- define "tollgate.checkPorts" -}}
{{- $ports := list (list "ops.port" (int .Values.ops.port)) -}}
{{- if ne .Values.mode "service" -}}
{{- $ports = concat $ports (list (list "envoy.port" (int .Values.envoy.port)) (list "inference.port" (int .Values.inference.port))) -}}
{{- if .Values.settle.enabled -}}{{- $ports = append $ports (list "settle.port" (int .Values.settle.port)) -}}{{- end -}}
{{- else -}}
{{- $ports = append $ports (list "grpc.port" (int .Values.grpc.port)) -}}
{{- $values := dict "access-log" "accessLog.port" "ext-proc" "extProc.port" "settle" "settle.port" -}}
{{- range fromYamlArray (include "tollgate.reportPorts" .) -}}
{{- $ports = append $ports (list (get $values .name) (int .port)) -}}
{{- end -}}
{{- $names := dict -}}
{{- range $index, $listener := .Values.http -}}
{{- $ports = append $ports (list (printf "http[%d].port" $index) (int $listener.port)) -}}
{{- if hasKey $names $listener.name -}}
{{- fail (printf "http[%d].name: there are two listeners named `%s`" $index $listener.name) -}}
{{- end -}}
{{- $_ := set $names $listener.name true -}}
{{- end -}}
{{- end -}}
{{- $admin := dig "admin" dict .Values.extraListen -}}
{{- if kindIs "map" $admin -}}{{- $admin = dig "address" "" $admin -}}{{- end -}}
{{- if regexMatch ":[0-9]+$" ($admin | toString) -}}
{{- $ports = append $ports (list "extraListen.admin" (regexFind "[0-9]+$" ($admin | toString) | int)) -}}
{{- end -}}
{{- $seen := dict -}}
{{- range $ports -}}
{{- $port := toString (index . 1) -}}
{{- if hasKey $seen $port -}}
{{- fail (printf "%s and %s are both %s: the containers of a pod share its ports, so use another one" (get $seen $port) (index . 0) $port) -}}
{{- end -}}
{{- $_ := set $seen $port (index . 0) -}}
{{- end -}}
{{- end -}}

{{/* Listeners for reports of usage: each with what it needs to know its peers. */}}
{{- define "tollgate.checkReports" -}}
{{- $responses := .Values.extProc.responses -}}
{{- if and (eq .Values.mode "embedded") (or .Values.settle.enabled (ne $responses "none")) -}}
{{- fail "settle and extProc have no place in mode embedded, which settles requests in Envoy's own process: set settle.enabled=false and extProc.responses=none" -}}
{{- end -}}
{{- if and (not .Values.config.metering) (or .Values.settle.enabled (ne $responses "none")) -}}
{{- fail "settle and extProc need config.metering, whose secrets authenticate what is reported: add `metering: { secrets: [\"file:/run/secrets/tollgate/metering/key\"] }` to config" -}}
{{- end -}}
{{- if and .Values.settle.enabled (eq .Values.mode "sidecar") (not .Values.settle.reporters) -}}
{{- fail "settle.reporters is empty: every container of the pod reaches 127.0.0.1, so list those that may report, each with the digest of its token" -}}
{{- end -}}
{{- if eq .Values.mode "service" -}}
{{- if and .Values.config.metering (not .Values.accessLog.tlsSecretName) (or (not .Values.settle.enabled) (ne $responses "none")) -}}
{{- fail "config.metering in mode service needs accessLog.tlsSecretName, as any pod could report the usage of requests: name a Secret with tls.crt, tls.key and ca.crt, the authority of your proxies' certificates; proxies and servers that report over HTTP use settle.enabled in its place" -}}
{{- end -}}
{{- if and .Values.settle.enabled (not .Values.settle.tlsSecretName) -}}
{{- fail "settle.enabled in mode service needs settle.tlsSecretName, as tokens would be sent in clear: name a Secret with tls.crt and tls.key, and without settle.reporters also ca.crt" -}}
{{- end -}}
{{- if and (ne $responses "none") (not .Values.extProc.tlsSecretName) -}}
{{- fail "extProc.responses in mode service needs extProc.tlsSecretName, as any pod could settle requests: name a Secret with tls.crt, tls.key and ca.crt, the authority of your proxies' certificates" -}}
{{- end -}}
{{- if and (eq $responses "cut") (or .Values.autoscaling.enabled (gt (int .Values.replicaCount) 1)) -}}
{{- fail "extProc.responses is `cut`, and a stream is cut only by the pod that answered its check: set autoscaling.enabled=false and replicaCount=1, or use mode sidecar" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Everything above, and who may connect. */}}
{{- define "tollgate.check" -}}
{{- if and .Values.hold.enabled (eq .Values.mode "embedded") -}}
{{- fail "hold.enabled has no place in mode embedded, where Envoy's container has the sockets: set hold.enabled=false" -}}
{{- end -}}
{{- include "tollgate.checkReports" . -}}
{{- include "tollgate.checkSecrets" (dict "value" .Values.config "at" "config" "root" .) -}}
{{- include "tollgate.checkSecrets" (dict "value" .Values.extraListen "at" "extraListen" "root" .) -}}
{{- include "tollgate.checkPorts" . -}}
{{- if and .Values.config.dpop (not (dig "store" "redis" "url" "" .Values.config)) (gt (int .Values.replicaCount) 1) -}}
{{- fail "config.dpop with several replicas needs config.store.redis, as each would accept a proof once: set config.store.redis.url, or replicaCount to 1" -}}
{{- end -}}
{{- if .Values.networkPolicy.enabled -}}
{{- if and (eq .Values.mode "service") (not .Values.networkPolicy.from) -}}
{{- fail "networkPolicy.from is empty: name the proxies that call Tollgate, such as [{ namespaceSelector: { matchLabels: { kubernetes.io/metadata.name: envoy-gateway-system } } }], or write `from: all`" -}}
{{- end -}}
{{- if and (ne .Values.mode "service") (not .Values.inference.create) (not .Values.networkPolicy.podSelector) -}}
{{- fail "networkPolicy.podSelector is empty, and inference.create=false creates no pods, so the NetworkPolicy would select none: write the labels of the pods of your own chart, or set networkPolicy.enabled=false" -}}
{{- end -}}
{{- end -}}
{{- end -}}
