{{/* Our labels, and those by which an operator or a sidecar finds its objects. (root, labels) */}}
{{- define "feinschliff.monitoringLabels" -}}
{{- include "feinschliff.labels" (dict "root" .root "component" "monitoring") }}
{{- with .labels }}
{{ toYaml . }}
{{- end }}
{{- end -}}
