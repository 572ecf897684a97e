{{/* What every pod of ours has: who it is, where it may write, how it is restricted. */}}

{{- define "feinschliff.podSecurity" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: {{ . }}
  runAsGroup: {{ . }}
  fsGroup: {{ . }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "feinschliff.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end -}}

{{/* Where the image's programs write; all else is read only. */}}
{{- define "feinschliff.homeVariables" -}}
- {name: HOME, value: /var/lib/feinschliff}
- {name: TMPDIR, value: /tmp}
{{- end -}}

{{/* (options): where the scheduler may put a pod */}}
{{- define "feinschliff.placement" -}}
{{- range $key := list "nodeSelector" "tolerations" "affinity" "priorityClassName" "runtimeClassName" }}
{{- with index $ $key }}
{{ $key }}: {{ if kindIs "string" . }}{{ . }}{{ else }}{{ toYaml . | nindent 2 }}{{ end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* CAs, certificates and files of settings that a pod of the platform reads. (root, s3, tls: the Secret's name or nothing, mode: of its files) */}}
{{- define "feinschliff.trustVolumes" -}}
{{- if and .tls .root.Values.tls.enabled }}
- name: tls
  secret: {secretName: {{ .tls }}, defaultMode: {{ .mode }}}
{{- end }}
{{- if and .s3 .root.Values.s3.ca.existingSecret }}
- name: s3-ca
  secret:
    secretName: {{ .root.Values.s3.ca.existingSecret }}
    defaultMode: 292
    items: [{key: {{ .root.Values.s3.ca.key }}, path: ca.crt}]
{{- end }}
{{- end -}}

{{- define "feinschliff.trustMounts" -}}
{{- if and .tls .root.Values.tls.enabled }}
- {name: tls, mountPath: /etc/feinschliff/tls, readOnly: true}
{{- end }}
{{- if and .s3 .root.Values.s3.ca.existingSecret }}
- {name: s3-ca, mountPath: /etc/feinschliff/s3, readOnly: true}
{{- end }}
{{- end -}}

{{/* The variables that come from Secrets. (root, pod) */}}
{{- define "feinschliff.secretEnvironment" -}}
{{- if .pod.needs.database }}
{{ include "feinschliff.secretEnvironment.database" .root }}
{{- end }}
{{- if .pod.needs.s3 }}
{{ include "feinschliff.secretEnvironment.s3" .root }}
{{- end }}
{{- if has "gateway" .pod.rooms }}
{{ include "feinschliff.secretVariable" (dict "variable" "GATEWAY_API_KEYS" "secret" (include "feinschliff.apiKeys.secret" .root) "key" (include "feinschliff.apiKeys.key" .root)) }}
{{- end }}
{{- $graders := .root.Values.evaluation.graders }}
{{- if and (has "evaluation" .pod.rooms) $graders.existingSecret }}
{{- range $variable, $key := dict "EVALUATION_JUDGES" $graders.judgesKey "EVALUATION_GRADER_HEADERS" $graders.headersKey }}
{{- if $key }}
{{ include "feinschliff.secretVariable" (dict "variable" $variable "secret" $graders.existingSecret "key" $key) }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Threads follow the CPU limit: a process sees the node's cores, not its share. (root, pod) */}}
{{- define "feinschliff.threads" -}}
{{- $room := ternary "inference" "trainer" (has "inference" .pod.rooms) -}}
{{- if and (or (has "inference" .pod.rooms) .pod.trains) (not (hasKey (index .root.Values $room).settings (printf "%s_threads" $room))) }}
- name: FEINSCHLIFF_{{ upper $room }}_THREADS
  valueFrom: {resourceFieldRef: {containerName: {{ .pod.name }}, resource: limits.cpu}}
{{- end }}
{{- end -}}

{{/* grpc.health.v1 on the port that answers nothing else; live: the loop turns, the rest: what the rooms need answers. */}}
{{- define "feinschliff.probes" -}}
startupProbe:
  grpc: {port: 9110, service: live}
  periodSeconds: 2
  timeoutSeconds: 5
  failureThreshold: 150
livenessProbe:
  grpc: {port: 9110, service: live}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  grpc: {port: 9110}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 2
{{- end -}}

{{/* Waits for the database and brings the tables to this version; harmless when all pods do it at once. (root, pod, options) */}}
{{- define "feinschliff.migrating" -}}
- name: migrate
  image: {{ include "feinschliff.image" (dict "root" .root "target" .pod.target "cuda" .pod.cuda) }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  command: [python, -m, feinschliff.cli.migrate]
  {{- include "feinschliff.containerSecurity" . | nindent 2 }}
  envFrom:
    - configMapRef: {name: {{ include "feinschliff.fullname" .root }}-{{ .pod.name }}}
  env:
    {{- include "feinschliff.homeVariables" . | nindent 4 }}
    - {name: FEINSCHLIFF_MIGRATE_WAIT_SECONDS, value: {{ .root.Values.migrations.waitSeconds | quote }}}
    {{- include "feinschliff.secretEnvironment" (dict "root" .root "pod" (dict "rooms" list "needs" .pod.needs)) | nindent 4 }}
    {{- with .options.extraEnv }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  resources: {{- toYaml .root.Values.migrations.resources | nindent 4 }}
  volumeMounts:
    - {name: home, mountPath: /var/lib/feinschliff}
    - {name: tmp, mountPath: /tmp}
    {{- include "feinschliff.trustMounts" (dict "root" .root "s3" .pod.needs.s3 "tls" true) | nindent 4 }}
    {{- with .options.extraVolumeMounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}

{{/* (root, pod, options) */}}
{{- define "feinschliff.container" -}}
{{- $rooms := include "feinschliff.rooms" .root | fromYaml -}}
- name: {{ .pod.name }}
  image: {{ include "feinschliff.image" (dict "root" .root "target" .pod.target "cuda" .pod.cuda) }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  command: [python, -m, {{ ternary "feinschliff.cli.control" (printf "feinschliff.%s" .pod.name) (eq .pod.name "control") }}]
  {{- include "feinschliff.containerSecurity" . | nindent 2 }}
  ports:
    {{- range $name := .pod.rooms }}
    {{- $room := index $rooms $name }}
    - {name: {{ $name }}, containerPort: {{ $room.port }}}
    - {name: {{ $name }}-prom, containerPort: {{ $room.metrics }}}
    {{- end }}
    - {name: probe, containerPort: 9110}
  envFrom:
    - configMapRef: {name: {{ include "feinschliff.fullname" .root }}-{{ .pod.name }}}
  env:
    {{- include "feinschliff.homeVariables" . | nindent 4 }}
    {{- include "feinschliff.secretEnvironment" . | nindent 4 }}
    {{- include "feinschliff.threads" . | nindent 4 }}
    {{- with .options.extraEnv }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- include "feinschliff.probes" . | nindent 2 }}
  resources: {{- include "feinschliff.resources" . | nindent 4 }}
  volumeMounts:
    - {name: home, mountPath: /var/lib/feinschliff}
    - {name: tmp, mountPath: /tmp}
    {{- if .pod.profiles }}
    - {name: profiles, mountPath: /etc/feinschliff/profiles, readOnly: true}
    {{- end }}
    {{- include "feinschliff.trustMounts" (dict "root" .root "s3" .pod.needs.s3 "tls" true) | nindent 4 }}
    {{- with .options.extraVolumeMounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}

{{/* A GPU is asked for where the values say so: request and limit must be equal. */}}
{{- define "feinschliff.resources" -}}
{{- $resources := deepCopy .options.resources -}}
{{- if .pod.cuda -}}
{{- $gpu := dict .options.gpu.resource (toString .options.gpu.count) -}}
{{- $resources = merge $resources (dict "limits" $gpu "requests" $gpu) -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}

{{/* (root, pod, options) */}}
{{- define "feinschliff.volumes" -}}
{{- $cache := .options.cache | default dict -}}
- name: home
  {{- if $cache.enabled }}
  persistentVolumeClaim: {claimName: {{ $cache.existingClaim | default (printf "%s-%s" (include "feinschliff.fullname" .root) .pod.name) }}}
  {{- else }}
  emptyDir: {sizeLimit: {{ .options.scratch | default "1Gi" }}}
  {{- end }}
- name: tmp
  emptyDir: {sizeLimit: 2Gi}
{{- if .pod.profiles }}
- name: profiles
  configMap: {name: {{ include "feinschliff.fullname" .root }}-profiles}
{{- end }}
{{- include "feinschliff.trustVolumes" (dict "root" .root "s3" .pod.needs.s3 "tls" (include "feinschliff.tls.secret" .root) "mode" 288) }}
{{- with .options.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The class that the values name, else the one that this release makes. (root, said, serving or training) */}}
{{- define "feinschliff.priority" -}}
{{- .said | default (ternary (printf "%s-%s" (include "feinschliff.fullname" .root) .class) "" .root.Values.priorityClasses.create) -}}
{{- end -}}
