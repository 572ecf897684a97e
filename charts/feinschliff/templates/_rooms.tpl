{{/* What the rooms are. `calls` is who may call whom: settings, network policies and tests follow it. `grpc` is what callers find
     there, of the package feinschliff.v1 where none is named. */}}

{{- define "feinschliff.rooms" -}}
gateway: {port: 8080, metrics: 9100, compact: true, calls: [ingestion, training, evaluation, registry, inference]}
ingestion: {port: 50051, metrics: 9101, compact: true, database: true, s3: true, hub: true, calls: [], grpc: [DatasetService, CompletionLogService]}
training: {port: 50052, metrics: 9102, compact: true, database: true, s3: true, hub: true, calls: [ingestion, registry], grpc: [TrainingService]}
evaluation: {port: 50053, metrics: 9103, compact: true, database: true, calls: [ingestion, registry, inference], grpc: [EvaluationService]}
registry: {port: 50054, metrics: 9104, compact: true, database: true, s3: true, calls: [evaluation], grpc: [RegistryService]}
inference: {port: 50055, metrics: 9105, compact: false, database: true, s3: true, hub: true, calls: [ingestion, registry], grpc: [InferenceService, DeploymentService, inference.GRPCInferenceService]}
{{- end -}}

{{/* A pod: the rooms in it, and what they need together. (root, name: a room or `control`) */}}
{{- define "feinschliff.pod" -}}
{{- $rooms := include "feinschliff.rooms" .root | fromYaml -}}
{{- $inside := list .name -}}
{{- if eq .name "control" -}}
{{- $inside = list "gateway" "ingestion" "training" "evaluation" "registry" -}}
{{- end -}}
{{- $needs := dict "database" false "s3" false "hub" false -}}
{{- $calls := list -}}
{{- range $inside -}}
{{- $room := index $rooms . -}}
{{- $calls = concat $calls $room.calls -}}
{{- range $key := list "database" "s3" "hub" -}}
{{- if index $room $key -}}{{- $_ := set $needs $key true -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- $trains := and (has "training" $inside) (eq .root.Values.training.runner "process") -}}
{{- $gpu := and (has "inference" $inside) .root.Values.inference.gpu.enabled -}}
{{- $vllm := and (has "inference" $inside) .root.Values.inference.vllm.enabled -}}
{{- $target := ternary (ternary "vllm" "inference" $vllm) (ternary "trainer" "control" $trains) (has "inference" $inside) -}}
{{- dict "name" .name "rooms" $inside "calls" ($calls | uniq | sortAlpha) "needs" $needs "trains" $trains "target" $target "gpu" $gpu "cuda" (and $gpu (not $vllm)) | toYaml -}}
{{- end -}}

{{/* What the values say about a pod: its own block before `defaults`; lists of extras add up. (root, name) */}}
{{- define "feinschliff.options" -}}
{{- $defaults := .root.Values.defaults -}}
{{- $own := index .root.Values .name -}}
{{- $options := dict -}}
{{- range $key, $value := $defaults -}}
{{- if not (hasKey $own $key) -}}
{{- $_ := set $options $key $value -}}
{{- else if hasPrefix "extra" $key -}}
{{- $_ := set $options $key (concat $value (index $own $key)) -}}
{{- else if has $key (list "autoscaling" "disruptionBudget" "serviceAccount" "service") -}}
{{- $_ := set $options $key (merge (dict) (index $own $key) $value) -}}
{{- range $inner, $said := index $own $key -}}{{- $_ := set (index $options $key) $inner $said -}}{{- end -}}
{{- else -}}
{{- $_ := set $options $key (index $own $key) -}}
{{- end -}}
{{- end -}}
{{- range $key, $value := $own -}}
{{- if not (hasKey $options $key) -}}{{- $_ := set $options $key $value -}}{{- end -}}
{{- end -}}
{{- toYaml $options -}}
{{- end -}}

{{/* Seconds from SIGTERM to SIGKILL: drain, grace for calls, grace for what they left running, and time to close. (root, name) */}}
{{- define "feinschliff.terminationSeconds" -}}
{{- $settings := merge (dict) ((index .root.Values .name).settings | default dict) .root.Values.settings (dict "drain_seconds" 5 "grace_seconds" 20) -}}
{{- add 10 (ceil $settings.drain_seconds) (ceil $settings.grace_seconds) (ceil $settings.grace_seconds) -}}
{{- end -}}

{{- define "feinschliff.serviceAccountName" -}}
{{- $account := (include "feinschliff.options" . | fromYaml).serviceAccount -}}
{{- $made := $account.name | default (printf "%s-%s" (include "feinschliff.fullname" .root) .name) -}}
{{- ternary $made ($account.name | default "default") $account.create -}}
{{- end -}}

{{/* The full name of a gRPC service. (an entry of a room's `grpc`) */}}
{{- define "feinschliff.grpcService" -}}
{{- if contains "." . }}{{ . }}{{ else }}feinschliff.v1.{{ . }}{{ end -}}
{{- end -}}
