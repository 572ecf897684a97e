{{/* The environment of the rooms: plain settings in a ConfigMap, secrets by reference. */}}

{{/* A number as it stands in an environment variable: no 8.5e+09, no 5.0; names of pairs become name=value. */}}
{{- define "feinschliff.value" -}}
{{- if kindIs "map" . -}}
{{- $pairs := list -}}
{{- range $key, $value := . -}}{{- $pairs = append $pairs (printf "%s=%s" $key $value) -}}{{- end -}}
{{- join "," $pairs -}}
{{- else if kindIs "string" . -}}
{{- . -}}
{{- else -}}
{{- toJson . -}}
{{- end -}}
{{- end -}}

{{/* All plain variables of a pod, as a map. (root, name) */}}
{{- define "feinschliff.environment" -}}
{{- $root := .root -}}
{{- $values := .root.Values -}}
{{- $pod := include "feinschliff.pod" . | fromYaml -}}
{{- $rooms := include "feinschliff.rooms" .root | fromYaml -}}
{{- $loopback := ternary "[::1]" "127.0.0.1" (contains ":" $values.bindHost) -}}
{{- $env := dict "HOME" "/var/lib/feinschliff" "BIND_HOST" $values.bindHost "INSECURE_BIND" (toString (not (and $values.tls.enabled $values.tls.clientCertificates))) "PROBE_PORT" "9110" "DRAIN_SECONDS" "5" "GRACE_SECONDS" "20" -}}
{{- range $name, $room := omit $rooms "gateway" -}}
{{- $beside := and (has $name $pod.rooms) (or (ne $name "training") $pod.trains) -}}
{{- $_ := set $env (printf "%s_ADDRESS" (upper $name)) (ternary (printf "%s:%v" $loopback $room.port) (include "feinschliff.address" (dict "root" $root "name" $name)) $beside) -}}
{{- end -}}
{{- range $name := $pod.rooms -}}
{{- $room := index $rooms $name -}}
{{- $_ := set $env (printf "%s_PORT" (upper $name)) (toString $room.port) -}}
{{- $_ := set $env (printf "%s_METRICS_PORT" (upper $name)) (toString $room.metrics) -}}
{{- end -}}
{{- if $pod.needs.s3 -}}
{{- $_ := merge $env (include "feinschliff.s3.environment" $root | fromYaml) -}}
{{- end -}}
{{- if $values.tls.enabled -}}
{{- $_ := merge $env (include "feinschliff.tls.environment" $root | fromYaml) (dict "TLS_CLIENT_CERTIFICATES" (toString $values.tls.clientCertificates)) -}}
{{- end -}}
{{- if has "training" $pod.rooms -}}
{{- $_ := set $env "TRAINING_RUNNER" $values.training.runner -}}
{{- if eq $values.training.runner "kubernetes" -}}
{{- $_ := merge $env (dict "TRAINING_NAMESPACE" $root.Release.Namespace "TRAINING_PROFILES" "/etc/feinschliff/profiles/profiles.json") -}}
{{- end -}}
{{- end -}}
{{- range $settings := include "feinschliff.said" . | fromYaml -}}
{{- range $name, $value := $settings -}}
{{- if not (kindIs "invalid" $value) -}}{{- $_ := set $env (upper $name) (include "feinschliff.value" $value) -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- range $name, $value := $env }}
FEINSCHLIFF_{{ $name }}: {{ $value | quote }}
{{- end }}
{{- end -}}

{{/* The settings that the values name for a pod, least important first. (root, name) */}}
{{- define "feinschliff.said" -}}
{{- $root := .root -}}
{{- $pod := include "feinschliff.pod" . | fromYaml -}}
{{- $said := dict "0" $root.Values.settings -}}
{{- range $name := $pod.rooms -}}{{- $_ := set $said (printf "1%s" $name) (index $root.Values $name).settings -}}{{- end -}}
{{- if has "training" $pod.rooms -}}{{- $_ := set $said "2" $root.Values.trainer.settings -}}{{- end -}}
{{- toYaml $said -}}
{{- end -}}

{{- define "feinschliff.s3.environment" -}}
{{- $scheme := ternary "https" "http" .Values.tls.enabled -}}
S3_ENDPOINT: {{ ternary (printf "%s://%s-minio.%s.svc:9000" $scheme (include "feinschliff.fullname" .) .Release.Namespace) .Values.s3.endpoint .Values.minio.enabled }}
S3_BUCKET: {{ .Values.s3.bucket }}
S3_REGION: {{ .Values.s3.region }}
{{- if .Values.s3.ca.existingSecret }}
S3_CA: /etc/feinschliff/s3/ca.crt
{{- else if and .Values.minio.enabled .Values.tls.enabled }}
S3_CA: /etc/feinschliff/tls/ca.crt
{{- end }}
{{- end -}}

{{- define "feinschliff.tls.environment" -}}
TLS_CERTIFICATE: /etc/feinschliff/tls/tls.crt
TLS_KEY: /etc/feinschliff/tls/tls.key
TLS_CA: /etc/feinschliff/tls/ca.crt
{{- end -}}

{{/* (root, variable, secret, key) */}}
{{- define "feinschliff.secretVariable" -}}
- name: FEINSCHLIFF_{{ .variable }}
  valueFrom:
    secretKeyRef:
      name: {{ .secret }}
      key: {{ .key }}
{{- end -}}

{{- define "feinschliff.secretEnvironment.database" -}}
{{- $made := .Values.postgresql.existingSecret | default (printf "%s-postgresql" (include "feinschliff.fullname" .)) -}}
{{- $ours := .Values.postgresql.enabled -}}
{{ include "feinschliff.secretVariable" (dict "variable" "DATABASE_URL" "secret" (ternary $made .Values.database.existingSecret $ours) "key" (ternary "url" .Values.database.key $ours)) }}
{{- end -}}

{{- define "feinschliff.secretEnvironment.s3" -}}
{{- $made := .Values.minio.existingSecret | default (printf "%s-minio" (include "feinschliff.fullname" .)) -}}
{{- $secret := ternary $made .Values.s3.existingSecret .Values.minio.enabled -}}
{{ include "feinschliff.secretVariable" (dict "variable" "S3_ACCESS_KEY" "secret" $secret "key" (ternary "access-key" .Values.s3.accessKeyKey .Values.minio.enabled)) }}
{{ include "feinschliff.secretVariable" (dict "variable" "S3_SECRET_KEY" "secret" $secret "key" (ternary "secret-key" .Values.s3.secretKeyKey .Values.minio.enabled)) }}
{{- end -}}

{{- define "feinschliff.apiKeys.secret" -}}
{{- .Values.gateway.apiKeys.existingSecret | default (printf "%s-gateway-keys" (include "feinschliff.fullname" .)) -}}
{{- end -}}

{{- define "feinschliff.apiKeys.key" -}}
{{- ternary .Values.gateway.apiKeys.key "api-keys" (not (empty .Values.gateway.apiKeys.existingSecret)) -}}
{{- end -}}

{{- define "feinschliff.tls.secret" -}}
{{- .Values.tls.existingSecret | default (printf "%s-tls" (include "feinschliff.fullname" .)) -}}
{{- end -}}

{{- define "feinschliff.tls.trainerSecret" -}}
{{- .Values.tls.trainerSecret | default (ternary .Values.tls.existingSecret (printf "%s-trainer-tls" (include "feinschliff.fullname" .)) (not (empty .Values.tls.existingSecret))) -}}
{{- end -}}

{{/* Changes when a Secret that somebody else keeps does; generated ones never change. (root, names) */}}
{{- define "feinschliff.secretsDigest" -}}
{{- $root := .root -}}
{{- $found := list -}}
{{- range .names -}}
{{- $secret := lookup "v1" "Secret" $root.Release.Namespace . -}}
{{- $found = append $found (list . ($secret.data | default dict)) -}}
{{- end -}}
{{- toJson $found | sha256sum -}}
{{- end -}}
