{{/* Secrets that are made once and kept: what the cluster has goes before what would be made. */}}

{{/* The data of a Secret: each key as the cluster has it, else a format filled with 40 random characters. (root, secret, make: key -> format) */}}
{{- define "feinschliff.kept" -}}
{{- $there := (lookup "v1" "Secret" .root.Release.Namespace .secret).data | default dict -}}
{{- range $key, $format := .make }}
{{ $key }}: {{ index $there $key | default (printf $format (randAlphaNum 40) | b64enc) | quote }}
{{- end }}
{{- end -}}
