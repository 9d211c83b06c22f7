{{/*
The parts of a pod, for the chart's own Deployments and for yours:

  initContainers: {{- include "tollgate.sidecars" .Subcharts.tollgate | nindent 8 }}
  volumes:        {{- include "tollgate.volumes" .Subcharts.tollgate | nindent 8 }}
*/}}

{{- define "tollgate.mounts" -}}
- { name: tollgate-config, mountPath: /etc/tollgate, readOnly: true }
- { name: tollgate-cache, mountPath: /var/cache/tollgate }
{{- if or (ne .Values.mode "service") .Values.hold.enabled }}
- { name: tollgate-run, mountPath: /run/tollgate }
{{- end }}
{{- if eq .Values.mode "service" }}
{{- range fromYamlArray (include "tollgate.tlsSecrets" .) }}
- { name: {{ .name }}, mountPath: /run/secrets/{{ .name }}, readOnly: true }
{{- end }}
{{- end }}
{{- range .Values.secrets }}
- { name: tollgate-secret-{{ .name }}, mountPath: /run/secrets/tollgate/{{ .name }}, readOnly: true }
{{- end }}
{{- range .Values.configMaps }}
- { name: tollgate-files-{{ .name }}, mountPath: /run/config/tollgate/{{ .name }}, readOnly: true }
{{- end }}
{{- end -}}

{{/* Volumes of the pod. */}}
{{- define "tollgate.volumes" -}}
- name: tollgate-config
  configMap: { name: {{ include "tollgate.fullname" . }}, items: [{ key: tollgate.yaml, path: tollgate.yaml }] }
# For `jwks.cache_file`.
- name: tollgate-cache
  emptyDir: { sizeLimit: 16Mi }
{{- if ne .Values.mode "service" }}
- name: tollgate-envoy
  configMap: { name: {{ include "tollgate.fullname" . }}, items: [{ key: envoy.yaml, path: envoy.yaml }] }
{{- end }}
{{- if or (ne .Values.mode "service") .Values.hold.enabled }}
# The sockets between Envoy and Tollgate; no other container mounts it.
- name: tollgate-run
  emptyDir: { medium: Memory, sizeLimit: 1Mi }
{{- end }}
{{- if eq .Values.mode "service" }}
{{- range fromYamlArray (include "tollgate.tlsSecrets" .) }}
- name: {{ .name }}
  secret: { secretName: {{ .secretName }}, defaultMode: 292 } # 0444
{{- end }}
{{- end }}
{{- range .Values.secrets }}
- name: tollgate-secret-{{ .name }}
  # 0444: read by Tollgate's user, and no other container mounts it.
  secret: { secretName: {{ .secretName }}, defaultMode: 292 }
{{- end }}
{{- range .Values.configMaps }}
- name: tollgate-files-{{ .name }}
  configMap: { name: {{ .configMapName }} }
{{- end }}
{{- end -}}

{{/* The security context of Tollgate's containers, with its own profile for system calls where the nodes have it. */}}
{{- define "tollgate.securityContext" -}}
{{- $context := deepCopy .Values.securityContext -}}
{{- with .Values.seccomp.localhostProfile -}}
{{- $_ := set $context "seccompProfile" (dict "type" "Localhost" "localhostProfile" .) -}}
{{- end -}}
{{- toYaml $context -}}
{{- end -}}

{{/* Reads the file and ends; a file with a mistake keeps the pod from starting, and its log says where the mistake is. */}}
{{- define "tollgate.checkContainer" -}}
- name: tollgate-check-config
  image: {{ include "tollgate.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command: [/usr/local/bin/tollgate]
  args: [check-config, /etc/tollgate/tollgate.yaml]
  {{- with .Values.env }}
  env: {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext: {{- include "tollgate.securityContext" . | nindent 4 }}
  resources: {{- toYaml .Values.resources | nindent 4 }}
  volumeMounts:
    - { name: tollgate-config, mountPath: /etc/tollgate, readOnly: true }
{{- end -}}

{{/* Keeps the listening sockets while Tollgate's container is restarted. It starts before Tollgate and ends after it. */}}
{{- define "tollgate.holdContainer" -}}
- name: tollgate-hold
  image: {{ include "tollgate.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command: [/usr/local/bin/tollgate]
  args: [hold, /etc/tollgate/tollgate.yaml, --hand-over, /run/tollgate/hand-over.sock]
  restartPolicy: Always
  {{- with .Values.env }}
  env: {{- toYaml . | nindent 4 }}
  {{- end }}
  # It listens, and passes its sockets to the container that starts next. Later the port is answered by that one.
  startupProbe:
    tcpSocket: { port: {{ int .Values.ops.port }} }
    periodSeconds: 1
    failureThreshold: 60
  securityContext: {{- include "tollgate.securityContext" . | nindent 4 }}
  resources: {{- toYaml .Values.hold.resources | nindent 4 }}
  volumeMounts: {{- include "tollgate.mounts" . | nindent 4 }}
{{- end -}}

{{/* Tollgate itself. */}}
{{- define "tollgate.container" -}}
- name: tollgate
  image: {{ include "tollgate.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command: [/usr/local/bin/tollgate]
  args: [serve, --config, /etc/tollgate/tollgate.yaml{{ if .Values.hold.enabled }}, --hand-over, /run/tollgate/hand-over.sock{{ end }}]
  {{- if ne .Values.mode "service" }}
  # A native sidecar: started before the inference server, ended after it.
  restartPolicy: Always
  {{- end }}
  {{- with .Values.env }}
  env: {{- toYaml . | nindent 4 }}
  {{- end }}
  ports:
    - { name: tollgate-ops, containerPort: {{ int .Values.ops.port }} }
    {{- if eq .Values.mode "service" }}
    - { name: grpc, containerPort: {{ int .Values.grpc.port }} }
    {{- range fromYamlArray (include "tollgate.reportPorts" .) }}
    - { name: {{ .name }}, containerPort: {{ int .port }} }
    {{- end }}
    {{- range .Values.http }}
    - { name: {{ .name }}, containerPort: {{ int .port }} }
    {{- end }}
    {{- end }}
  # Started: it listens. A key server that is down delays readiness, not the start of the containers after this one.
  startupProbe:
    httpGet: { path: /healthz, port: tollgate-ops }
    periodSeconds: 1
    failureThreshold: 60
  livenessProbe:
    httpGet: { path: /healthz, port: tollgate-ops }
    timeoutSeconds: 5
    failureThreshold: 6
  readinessProbe:
    httpGet: { path: /readyz, port: tollgate-ops }
    periodSeconds: 5
    timeoutSeconds: 2
    failureThreshold: 2
  {{- if and (eq .Values.mode "service") (gt (int .Values.preStopSeconds) 0) }}
  lifecycle:
    preStop: { sleep: { seconds: {{ int .Values.preStopSeconds }} } }
  {{- end }}
  securityContext: {{- include "tollgate.securityContext" . | nindent 4 }}
  resources: {{- toYaml .Values.resources | nindent 4 }}
  volumeMounts: {{- include "tollgate.mounts" . | nindent 4 }}
{{- end -}}

{{/* The proxy. */}}
{{- define "tollgate.envoyContainer" -}}
- name: tollgate-envoy
  image: {{ include "tollgate.envoyImage" . }}
  imagePullPolicy: {{ ternary .Values.embedded .Values.envoy (eq .Values.mode "embedded") | dig "image" "pullPolicy" "IfNotPresent" }}
  command: [/usr/local/bin/envoy]
  args: [-c, /etc/envoy/envoy.yaml, --disable-hot-restart, --concurrency, {{ int .Values.envoy.concurrency | quote }}, --log-level, warning]
  restartPolicy: Always
  {{- if eq .Values.mode "embedded" }}
  {{- with .Values.env }}
  env: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
  ports:
    - { name: gate, containerPort: {{ int .Values.envoy.port }} }
    {{- if eq .Values.mode "embedded" }}
    - { name: tollgate-ops, containerPort: {{ int .Values.ops.port }} }
    {{- end }}
  startupProbe:
    tcpSocket: { port: gate }
    periodSeconds: 1
    failureThreshold: 60
  livenessProbe:
    tcpSocket: { port: gate }
    failureThreshold: 6
  readinessProbe:
    {{- if eq .Values.mode "embedded" }}
    httpGet: { path: /readyz, port: tollgate-ops }
    timeoutSeconds: 2
    {{- else }}
    tcpSocket: { port: gate }
    {{- end }}
    periodSeconds: 5
    failureThreshold: 2
  securityContext: {{- toYaml .Values.securityContext | nindent 4 }}
  resources: {{- toYaml .Values.envoy.resources | nindent 4 }}
  volumeMounts:
    - { name: tollgate-envoy, mountPath: /etc/envoy, readOnly: true }
    {{- if eq .Values.mode "embedded" }}
    {{- include "tollgate.mounts" . | nindent 4 }}
    {{- else }}
    - { name: tollgate-run, mountPath: /run/tollgate }
    {{- end }}
{{- end -}}

{{/* For `initContainers` of a pod with an inference server: the check, Tollgate, Envoy, in this order; in mode embedded
     Tollgate is inside of Envoy. */}}
{{- define "tollgate.sidecars" -}}
{{- if eq .Values.mode "service" -}}
{{- fail "tollgate.sidecars belongs to the modes sidecar and embedded; this is mode service" -}}
{{- end -}}
{{ include "tollgate.checkContainer" . }}
{{- if eq .Values.mode "sidecar" }}
{{- if .Values.hold.enabled }}
{{ include "tollgate.holdContainer" . }}
{{- end }}
{{ include "tollgate.container" . }}
{{- end }}
{{ include "tollgate.envoyContainer" . }}
{{- end -}}
