{{/* Names leave room for the longest ending, -server-headless, within 63 characters. */}}
{{- define "tritonforge.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 47 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 47 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 47 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "tritonforge.server" -}}{{ include "tritonforge.fullname" . }}-server{{- end -}}
{{- define "tritonforge.headless" -}}{{ include "tritonforge.fullname" . }}-server-headless{{- end -}}
{{- define "tritonforge.gateway" -}}{{ include "tritonforge.fullname" . }}-gateway{{- end -}}

{{/* The subchart names itself so: charts/redis/templates/_helpers.tpl. */}}
{{- define "tritonforge.redis" -}}{{ .Release.Name | trunc 57 | trimSuffix "-" }}-redis{{- end -}}

{{- define "tritonforge.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "tritonforge.server" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* Selector of a component; call with (dict "root" $ "component" "server"). Never changes for a release. */}}
{{- define "tritonforge.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* Of pods: without the chart's version, which alone is no reason to replace them. */}}
{{- define "tritonforge.podLabels" -}}
{{ include "tritonforge.selector" . }}
app.kubernetes.io/part-of: tritonforge
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "tritonforge.labels" -}}
{{ include "tritonforge.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | replace "+" "_" | quote }}
app.kubernetes.io/part-of: tritonforge
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* An image by tag, or by digest; call with (dict "root" $ "image" .Values.server.image "variant" "cpu"). */}}
{{- define "tritonforge.image" -}}
{{- if .image.digest -}}
{{- printf "%s@%s" .image.repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" .image.repository (default (printf "%s-%s" .root.Chart.AppVersion .variant) .image.tag) -}}
{{- end -}}
{{- end -}}

{{/* Pods meet the Pod Security Standard "restricted". */}}
{{- define "tritonforge.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
# Not file by file at each start: a claim may hold gigabytes.
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "tritonforge.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Pods of a component over zones and nodes, a rollout's new ones counted by themselves. */}}
{{- define "tritonforge.topologySpread" -}}
{{- range $index, $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
{{- if $index }}
{{ end -}}
- maxSkew: 1
  topologyKey: {{ $key }}
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "tritonforge.selector" (dict "root" $.root "component" $.component) | nindent 6 }}
  matchLabelKeys: [pod-template-hash]
{{- end }}
{{- end -}}
