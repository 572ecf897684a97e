{{/* The file of execution profiles: the values' own, and what every trainer of this release needs. */}}

{{/* Not empty where a profile takes more than one node. */}}
{{- define "feinschliff.multiNode" -}}
{{- range .Values.training.profiles -}}{{- if gt (int (.nodes_max | default 1)) 1 -}}true{{- end -}}{{- end -}}
{{- end -}}

{{- define "feinschliff.profiles" -}}
{{- $profiles := list -}}
{{- range $name, $profile := .Values.training.profiles -}}
{{- if $profile -}}
{{- $profiles = append $profiles (include "feinschliff.profile" (dict "root" $ "name" $name "profile" $profile) | fromYaml) -}}
{{- end -}}
{{- end -}}
{{- dict "default" .Values.training.defaultProfile "currency" .Values.training.currency "profiles" $profiles | toJson -}}
{{- end -}}

{{/* (root, name, profile) */}}
{{- define "feinschliff.profile" -}}
{{- $values := .root.Values -}}
{{- $profile := deepCopy .profile -}}
{{- $cuda := gt (int ($profile.gpus | default 0)) 0 -}}
{{- $image := include "feinschliff.image" (dict "root" .root "target" "trainer" "cuda" $cuda) -}}
{{- $ours := dict "name" .name "image" $image "image_pull_policy" $values.image.pullPolicy "image_pull_secrets" $values.image.pullSecrets -}}
{{- $ours = merge $ours (dict "priority_class" (include "feinschliff.priority" (dict "root" .root "class" "training" "said" $profile.priority_class))) -}}
{{- $labels := merge (dict) ($profile.labels | default dict) (dict "app.kubernetes.io/instance" .root.Release.Name) -}}
{{- $env := $profile.env | default dict -}}
{{- $cpus := toString (($profile.resources | default dict).limits | default dict).cpu -}}
{{- if and (regexMatch "^[1-9][0-9]*$" $cpus) (not (hasKey $values.trainer.settings "trainer_threads")) -}}
{{- $env = merge (dict) $env (dict "FEINSCHLIFF_TRAINER_THREADS" $cpus) -}}
{{- end -}}
{{- if $values.tls.enabled -}}
{{- range $name, $path := include "feinschliff.tls.environment" .root | fromYaml -}}
{{- $env = merge (dict) $env (dict (printf "FEINSCHLIFF_%s" $name) $path) -}}
{{- end -}}
{{- end -}}
{{- with (include "feinschliff.s3.environment" .root | fromYaml).S3_CA -}}
{{- $env = merge (dict) $env (dict "FEINSCHLIFF_S3_CA" .) -}}
{{- end -}}
{{- $trust := dict "root" .root "s3" true "tls" (include "feinschliff.tls.trainerSecret" .root) "mode" 292 -}}
{{- $filled := dict "labels" $labels "env" $env -}}
{{- with include "feinschliff.trustVolumes" $trust | fromYamlArray -}}
{{- $_ := set $filled "volumes" (concat ($profile.volumes | default list) .) -}}
{{- end -}}
{{- with include "feinschliff.trustMounts" $trust | fromYamlArray -}}
{{- $_ := set $filled "volume_mounts" (concat ($profile.volume_mounts | default list) .) -}}
{{- end -}}
{{- merge (dict) $filled $profile $ours | toYaml }}
{{- end -}}
