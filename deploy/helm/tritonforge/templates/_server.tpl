{{/* Resources as given, and the GPU as a limit, which is also its request. */}}
{{- define "tritonforge.serverResources" -}}
{{- $resources := deepCopy .Values.server.resources -}}
{{- with .Values.server.gpu -}}
{{- if .enabled -}}
{{- $_ := set $resources "limits" (merge (dict .resource .count) (default dict $resources.limits)) -}}
{{- end -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}

{{- define "tritonforge.serverNodeSelector" -}}
{{- $selector := deepCopy .Values.server.nodeSelector -}}
{{- if .Values.server.gpu.enabled -}}
{{- $selector = mergeOverwrite (deepCopy .Values.server.gpu.nodeSelector) $selector -}}
{{- end -}}
{{- toYaml $selector -}}
{{- end -}}

{{/* Requests that wait in all servers: Triton's own queues, and the line before a generator. */}}
{{- define "tritonforge.pendingQuery" -}}
sum({__name__=~"nv_inference_pending_request_count|tritonforge_generation_waiting_requests",namespace="{{ .Release.Namespace }}",service="{{ include "tritonforge.headless" . }}"})
{{- end -}}
