{{/* Who may talk to whom. Probes come from the node, which network policies always let in. */}}

{{/* Pods of this release. (root, component) */}}
{{- define "feinschliff.peer" -}}
- podSelector:
    matchLabels: {{- include "feinschliff.selector" . | nindent 6 }}
{{- end -}}

{{/* Pods of trainers; they are made by training, not by Helm. */}}
{{- define "feinschliff.trainerLabels" -}}
app.kubernetes.io/name: feinschliff
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: trainer
{{- end -}}

{{/* TCP ports to some networks, or to anywhere where none is named. (cidrs, ports) */}}
{{- define "feinschliff.outside" -}}
- ports:
    {{- range .ports }}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
  {{- with .cidrs }}
  to:
    {{- range . }}
    - ipBlock: {cidr: {{ . | quote }}}
    {{- end }}
  {{- end }}
{{- end -}}

{{- define "feinschliff.egress.dns" -}}
- ports:
    {{- range .Values.networkPolicy.dnsPorts }}
    - {protocol: UDP, port: {{ . }}}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
{{- end -}}

{{- define "feinschliff.egress.database" -}}
{{- if .Values.postgresql.enabled -}}
- ports: [{protocol: TCP, port: 5432}]
  to: {{- include "feinschliff.peer" (dict "root" . "component" "postgresql") | nindent 4 }}
{{- else -}}
{{ include "feinschliff.outside" (dict "cidrs" .Values.networkPolicy.external.cidrs "ports" (list .Values.database.port)) }}
{{- end -}}
{{- end -}}

{{- define "feinschliff.egress.s3" -}}
{{- if .Values.minio.enabled -}}
- ports: [{protocol: TCP, port: 9000}]
  to: {{- include "feinschliff.peer" (dict "root" . "component" "minio") | nindent 4 }}
{{- else -}}
{{- $url := urlParse .Values.s3.endpoint -}}
{{- $port := regexFind "[0-9]+$" (regexFind ":[0-9]+$" $url.host) | default (ternary "443" "80" (eq $url.scheme "https")) -}}
{{ include "feinschliff.outside" (dict "cidrs" .Values.networkPolicy.external.cidrs "ports" (list $port)) }}
{{- end -}}
{{- end -}}

{{/* Where bases come from: nowhere in offline mode. */}}
{{- define "feinschliff.egress.hub" -}}
{{- if not .Values.settings.offline }}
{{ include "feinschliff.outside" .Values.networkPolicy.hub }}
{{- end }}
{{- end -}}

{{- define "feinschliff.egress.traces" -}}
{{- if .Values.settings.otlp_endpoint }}
{{ include "feinschliff.outside" (dict "ports" (list .Values.networkPolicy.tracesPort)) }}
{{- end }}
{{- end -}}

{{/* One rule for each room that a pod calls. (root, calls) */}}
{{- define "feinschliff.egress.rooms" -}}
{{- $root := .root -}}
{{- $rooms := include "feinschliff.rooms" .root | fromYaml -}}
{{- range .calls }}
- ports: [{protocol: TCP, port: {{ (index $rooms .).port }}}]
  to: {{- include "feinschliff.peer" (dict "root" $root "component" (include "feinschliff.component" (dict "root" $root "name" .))) | nindent 4 }}
{{- end }}
{{- end -}}

{{/* The pods that call a room: other rooms, trainers, the test, and whom the values name. (root, name, pod) */}}
{{- define "feinschliff.callers" -}}
{{- $root := .root -}}
{{- $name := .name -}}
{{- $callers := ternary (list "test") list (has $name (list "training" "inference")) -}}
{{- range $caller, $room := include "feinschliff.rooms" .root | fromYaml -}}
{{- if has $name $room.calls -}}
{{- $callers = append $callers (include "feinschliff.component" (dict "root" $root "name" $caller)) -}}
{{- end -}}
{{- end -}}
{{- if and (eq $name "training") .pod.trains -}}{{- $callers = append $callers .pod.name -}}{{- end -}}
{{- range $callers | uniq | sortAlpha }}
{{ include "feinschliff.peer" (dict "root" $root "component" .) }}
{{- end }}
{{- if and (eq $name "training") (not .pod.trains) }}
- podSelector:
    matchLabels: {{- include "feinschliff.trainerLabels" .root | nindent 6 }}
{{- end }}
{{- with .root.Values.networkPolicy.clients }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "feinschliff.networkPolicy" -}}
{{- if .root.Values.networkPolicy.enabled }}
{{- $root := .root }}
{{- $pod := .pod }}
{{- $rooms := include "feinschliff.rooms" .root | fromYaml }}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ include "feinschliff.fullname" .root }}-{{ .name }}
  labels: {{- include "feinschliff.labels" (dict "root" .root "component" .name) | nindent 4 }}
spec:
  podSelector:
    matchLabels: {{- include "feinschliff.selector" (dict "root" .root "component" .name) | nindent 6 }}
  policyTypes: [Ingress, Egress]
  ingress:
    {{- range $name := .pod.rooms }}
    {{- $room := index $rooms $name }}
    {{- if eq $name "gateway" }}
    - ports: [{protocol: TCP, port: {{ $room.port }}}]
      {{- with $root.Values.networkPolicy.gatewayClients }}
      from:
        {{- include "feinschliff.peer" (dict "root" $root "component" "test") | nindent 8 }}
        {{- toYaml . | nindent 8 }}
      {{- end }}
    {{- else }}
    {{- with include "feinschliff.callers" (dict "root" $root "name" $name "pod" $pod) | trim }}
    - ports: [{protocol: TCP, port: {{ $room.port }}}]
      from: {{- . | nindent 8 }}
    {{- end }}
    {{- end }}
    {{- with $root.Values.networkPolicy.scrapers }}
    - ports: [{protocol: TCP, port: {{ $room.metrics }}}]
      from: {{- toYaml . | nindent 8 }}
    {{- end }}
    {{- end }}
  egress:
    {{- include "feinschliff.egress.dns" .root | nindent 4 }}
    {{- include "feinschliff.egress.rooms" (dict "root" .root "calls" (ternary (append .pod.calls "training" | uniq) .pod.calls .pod.trains)) | nindent 4 }}
    {{- if .pod.needs.database }}
    {{- include "feinschliff.egress.database" .root | nindent 4 }}
    {{- end }}
    {{- if .pod.needs.s3 }}
    {{- include "feinschliff.egress.s3" .root | nindent 4 }}
    {{- end }}
    {{- if .pod.needs.hub }}
    {{- include "feinschliff.egress.hub" .root | nindent 4 }}
    {{- end }}
    {{- include "feinschliff.egress.traces" .root | nindent 4 }}
    {{- if .pod.trains }}
    {{- with .root.Values.networkPolicy.trackers }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- end }}
    {{- if has "evaluation" .pod.rooms }}
    {{- with .root.Values.networkPolicy.graders }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- end }}
    {{- if .pod.profiles }}
    {{- include "feinschliff.outside" .root.Values.networkPolicy.apiServer | nindent 4 }}
    {{- end }}
{{- end }}
{{- end -}}
