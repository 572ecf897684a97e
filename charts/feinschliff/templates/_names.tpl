{{/* Names, labels and images. */}}

{{- define "feinschliff.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* 40 characters at most, so that the longest suffix still fits into 63. */}}
{{- define "feinschliff.fullname" -}}
{{- $name := include "feinschliff.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What never changes in the life of a release: the selectors. (root, component) */}}
{{- define "feinschliff.selector" -}}
app.kubernetes.io/name: {{ include "feinschliff.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* Nothing that changes with the chart's version, lest every upgrade start all pods anew. */}}
{{- define "feinschliff.podLabels" -}}
{{ include "feinschliff.selector" . }}
app.kubernetes.io/part-of: feinschliff
{{- end -}}

{{- define "feinschliff.labels" -}}
{{ include "feinschliff.selector" . }}
app.kubernetes.io/part-of: feinschliff
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* (root, target, cuda): control, trainer, inference or vllm. */}}
{{- define "feinschliff.image" -}}
{{- $image := .root.Values.image -}}
{{- $own := index $image .target -}}
{{- $suffix := ternary $image.cudaSuffix "" (.cuda | default false) -}}
{{- $registry := $own.registry | default $image.registry -}}
{{- $repository := $own.repository | default (printf "%s/%s" $image.repository .target) -}}
{{- $tag := printf "%s%s" ($own.tag | default $image.tag | default .root.Chart.AppVersion) $suffix -}}
{{- include "feinschliff.reference" (dict "root" .root "registry" $registry "repository" $repository "tag" $tag "digest" $own.digest) -}}
{{- end -}}

{{/* (root, registry, repository, tag, digest) */}}
{{- define "feinschliff.reference" -}}
{{- $path := printf "%s/%s" (.root.Values.global.imageRegistry | default .registry) .repository -}}
{{- ternary (printf "%s@%s" $path (toString .digest)) (printf "%s:%s" $path (toString .tag)) (not (empty .digest)) -}}
{{- end -}}

{{- define "feinschliff.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* The name of the pods that answer for a room. (root, name) */}}
{{- define "feinschliff.component" -}}
{{- $room := index (include "feinschliff.rooms" .root | fromYaml) .name | default dict -}}
{{- $in_one := and (eq .root.Values.mode "compact") ($room.compact | default false) -}}
{{- ternary "control" .name $in_one -}}
{{- end -}}

{{/* host:port of a room, as its callers reach it. (root, name) */}}
{{- define "feinschliff.address" -}}
{{- $room := index (include "feinschliff.rooms" .root | fromYaml) .name -}}
{{- printf "%s-%s-headless.%s.svc:%v" (include "feinschliff.fullname" .root) .name .root.Release.Namespace $room.port -}}
{{- end -}}

{{/* Every name by which a service is called: they stand in its certificate. */}}
{{- define "feinschliff.tls.names" -}}
{{- $root := . -}}
{{- $hosts := list "minio" -}}
{{- range $name := include "feinschliff.rooms" . | fromYaml | keys | sortAlpha -}}
{{- $hosts = concat $hosts (list $name (printf "%s-headless" $name)) -}}
{{- end -}}
- localhost
{{- range $hosts }}
{{- $host := printf "%s-%s" (include "feinschliff.fullname" $root) . }}
- {{ $host }}
- {{ $host }}.{{ $root.Release.Namespace }}
- {{ $host }}.{{ $root.Release.Namespace }}.svc
- {{ $host }}.{{ $root.Release.Namespace }}.svc.cluster.local
{{- end }}
{{- end -}}
