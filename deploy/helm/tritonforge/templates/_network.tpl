{{- define "tritonforge.egressDns" -}}
- to:
    {{- toYaml .Values.networkPolicy.dns | nindent 4 }}
  ports:
    - port: 53
      protocol: UDP
    - port: 53
      protocol: TCP
{{- end -}}

{{/* To the collector's port, wherever it runs: a policy cannot name a host. */}}
{{- define "tritonforge.egressTracing" -}}
{{- with .Values.tracing.endpoint }}
{{- $url := urlParse . }}
{{- $port := regexFind "[0-9]+$" (regexFind ":[0-9]+$" $url.host) }}
- ports:
    - port: {{ default (ternary 443 80 (eq $url.scheme "https")) $port }}
{{- end }}
{{- end -}}
