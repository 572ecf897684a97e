{{/*
A room with all that belongs to it: (root, name). In compact mode the rooms in `control` keep their Services, which lead
to its pod; everything else is there once, for the pod.
*/}}
{{- define "feinschliff.service" -}}
{{- $component := include "feinschliff.component" . -}}
{{- if hasKey (include "feinschliff.rooms" .root | fromYaml) .name }}
{{ include "feinschliff.services" . }}
{{- end }}
{{- if eq $component .name }}
{{- $pod := include "feinschliff.pod" . | fromYaml }}
{{- $_ := set $pod "profiles" (and (has "training" $pod.rooms) (eq .root.Values.training.runner "kubernetes")) }}
{{- $options := include "feinschliff.options" . | fromYaml }}
{{- $_ := set $options "priorityClassName" (include "feinschliff.priority" (dict "root" .root "said" $options.priorityClassName "class" "serving")) }}
{{- $context := dict "root" .root "name" .name "pod" $pod "options" $options }}
{{ include "feinschliff.configMap" $context }}
{{ include "feinschliff.serviceAccount" $context }}
{{ include "feinschliff.deployment" $context }}
{{ include "feinschliff.scaling" $context }}
{{ include "feinschliff.networkPolicy" $context }}
{{- end }}
{{- end -}}

{{- define "feinschliff.services" -}}
{{- $room := index (include "feinschliff.rooms" .root | fromYaml) .name -}}
{{- $fullname := printf "%s-%s" (include "feinschliff.fullname" .root) .name -}}
{{- $selector := include "feinschliff.selector" (dict "root" .root "component" (include "feinschliff.component" .)) -}}
{{- $service := (include "feinschliff.options" . | fromYaml).service -}}
{{- $protocol := ternary "http" (ternary "https" "kubernetes.io/h2c" .root.Values.tls.enabled) (eq .name "gateway") -}}
{{- $port := printf "{name: %s, port: %v, targetPort: %s, appProtocol: %s}" (ternary "http" "grpc" (eq .name "gateway")) $room.port .name $protocol }}
apiVersion: v1
kind: Service
metadata:
  name: {{ $fullname }}
  labels: {{- include "feinschliff.labels" (dict "root" .root "component" .name) | nindent 4 }}
  {{- with $service.annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  type: {{ $service.type }}
  selector: {{- $selector | nindent 4 }}
  ports:
    - {{ $port }}
---
# Without an address of its own: callers see every pod and spread their calls themselves; and where metrics are read.
apiVersion: v1
kind: Service
metadata:
  name: {{ $fullname }}-headless
  labels: {{- include "feinschliff.labels" (dict "root" .root "component" .name) | nindent 4 }}
spec:
  clusterIP: None
  selector: {{- $selector | nindent 4 }}
  ports:
    - {{ $port }}
    - {name: metrics, port: {{ $room.metrics }}, targetPort: {{ .name }}-prom, appProtocol: http}
{{- end -}}

{{- define "feinschliff.configMap" -}}
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ include "feinschliff.fullname" .root }}-{{ .name }}
  labels: {{- include "feinschliff.labels" (dict "root" .root "component" .name) | nindent 4 }}
data: {{- include "feinschliff.environment" . | nindent 2 }}
{{- end -}}

{{- define "feinschliff.serviceAccount" -}}
{{- if .options.serviceAccount.create }}
---
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ include "feinschliff.serviceAccountName" . }}
  labels: {{- include "feinschliff.labels" (dict "root" .root "component" .name) | nindent 4 }}
  {{- with .options.serviceAccount.annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
automountServiceAccountToken: false
{{- end }}
{{- end -}}

{{- define "feinschliff.deployment" -}}
{{- $values := .root.Values -}}
{{- $labels := include "feinschliff.labels" (dict "root" .root "component" .name) -}}
{{- $selector := include "feinschliff.selector" (dict "root" .root "component" .name) -}}
{{- $serversElsewhere := and (has "inference" .pod.rooms) (index ($values.inference.settings | default dict) "inference_vllm_urls") -}}
{{- $alone := or (.options.cache | default dict).enabled .pod.trains .pod.gpu $serversElsewhere -}}
{{- $secrets := list $values.database.existingSecret $values.postgresql.existingSecret $values.s3.existingSecret $values.minio.existingSecret $values.gateway.apiKeys.existingSecret $values.s3.ca.existingSecret | compact }}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ include "feinschliff.fullname" .root }}-{{ .name }}
  labels: {{- $labels | nindent 4 }}
spec:
  {{- if not .options.autoscaling.enabled }}
  replicas: {{ .options.replicas }}
  {{- end }}
  revisionHistoryLimit: 5
  selector:
    matchLabels: {{- $selector | nindent 6 }}
  strategy:
    {{- if .options.strategy }}
    {{- toYaml .options.strategy | nindent 4 }}
    {{- else if $alone }}
    type: Recreate  # a volume, a GPU, running attempts or the adapters of a vLLM server cannot be two pods'
    {{- else }}
    type: RollingUpdate
    rollingUpdate: {maxSurge: 1, maxUnavailable: 0}
    {{- end }}
  template:
    metadata:
      labels:
        {{- include "feinschliff.podLabels" (dict "root" .root "component" .name) | nindent 8 }}
        {{- with .options.podLabels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      annotations:
        checksum/config: {{ include "feinschliff.environment" . | sha256sum }}
        checksum/secrets: {{ include "feinschliff.secretsDigest" (dict "root" .root "names" ($secrets | sortAlpha | uniq)) }}
        {{- if .pod.profiles }}
        checksum/profiles: {{ include "feinschliff.profiles" .root | sha256sum }}
        {{- end }}
        {{- with .options.podAnnotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      serviceAccountName: {{ include "feinschliff.serviceAccountName" . }}
      automountServiceAccountToken: {{ .pod.profiles }}
      enableServiceLinks: false  # they would set FEINSCHLIFF_TRAINING_PORT and its like to URLs
      {{- include "feinschliff.pullSecrets" .root | nindent 6 }}
      {{- include "feinschliff.podSecurity" 10001 | nindent 6 }}
      terminationGracePeriodSeconds: {{ include "feinschliff.terminationSeconds" . }}
      {{- include "feinschliff.placement" .options | nindent 6 }}
      {{- if .options.topologySpread }}
      topologySpreadConstraints:
        {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
        - maxSkew: 1
          topologyKey: {{ . }}
          whenUnsatisfiable: ScheduleAnyway
          matchLabelKeys: [pod-template-hash]
          labelSelector:
            matchLabels: {{- $selector | nindent 14 }}
        {{- end }}
      {{- end }}
      {{- if .pod.needs.database }}
      initContainers:
        {{- include "feinschliff.migrating" . | nindent 8 }}
      {{- end }}
      containers:
        {{- include "feinschliff.container" . | nindent 8 }}
      volumes:
        {{- include "feinschliff.volumes" . | nindent 8 }}
{{- end -}}

{{- define "feinschliff.scaling" -}}
{{- $labels := include "feinschliff.labels" (dict "root" .root "component" .name) -}}
{{- $name := printf "%s-%s" (include "feinschliff.fullname" .root) .name -}}
{{- if .options.disruptionBudget.enabled }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ $name }}
  labels: {{- $labels | nindent 4 }}
spec:
  maxUnavailable: {{ .options.disruptionBudget.maxUnavailable }}
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels: {{- include "feinschliff.selector" (dict "root" .root "component" .name) | nindent 6 }}
{{- end }}
{{- if .options.autoscaling.enabled }}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: {{ $name }}
  labels: {{- $labels | nindent 4 }}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: {{ $name }}}
  minReplicas: {{ .options.autoscaling.minReplicas }}
  maxReplicas: {{ .options.autoscaling.maxReplicas }}
  metrics:
    - type: Resource
      resource:
        name: cpu
        target: {type: Utilization, averageUtilization: {{ .options.autoscaling.cpuPercent }}}
{{- end }}
{{- end -}}
