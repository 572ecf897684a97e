{{/* What the two servers in the chart share. */}}

{{/* The volume of a StatefulSet. (root, persistence) */}}
{{- define "feinschliff.claim" -}}
{{- if .persistence.enabled }}
persistentVolumeClaimRetentionPolicy: {whenDeleted: {{ ternary "Retain" "Delete" .persistence.keep }}, whenScaled: Retain}
volumeClaimTemplates:
  - metadata:
      name: data
    spec:
      accessModes: [ReadWriteOnce]
      {{- with .persistence.storageClass }}
      storageClassName: {{ . }}
      {{- end }}
      resources:
        requests: {storage: {{ .persistence.size }}}
{{- end }}
{{- end -}}

{{/* Only pods that use a server may reach it. (root, name, port, component names) */}}
{{- define "feinschliff.serverPolicy" -}}
{{- if .root.Values.networkPolicy.enabled }}
{{- $root := .root }}
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
    - ports: [{protocol: TCP, port: {{ .port }}}]
      from:
        {{- $need := .need }}
        {{- /* migrate also where it is off: the upgrade that turns it on runs it before this policy changes */}}
        {{- $users := ternary (list "migrate") list (eq $need "database") }}
        {{- range $name, $room := include "feinschliff.rooms" .root | fromYaml }}
        {{- if index $room $need }}{{ $users = append $users (include "feinschliff.component" (dict "root" $root "name" $name)) }}{{ end }}
        {{- end }}
        {{- range $users | uniq | sortAlpha }}
        {{- include "feinschliff.peer" (dict "root" $root "component" .) | nindent 8 }}
        {{- end }}
        {{- if and (eq $need "s3") (eq .root.Values.training.runner "kubernetes") }}
        - podSelector:
            matchLabels: {{- include "feinschliff.trainerLabels" .root | nindent 14 }}
        {{- end }}
  egress: []
{{- end }}
{{- end -}}
