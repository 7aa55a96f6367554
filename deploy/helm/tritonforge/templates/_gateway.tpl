{{/* gateway.yaml: what the chart knows, under what the user says; addresses that Services and probes rely on are the
chart's. */}}
{{- define "tritonforge.gatewayConfig" -}}
{{- $gateway := .Values.gateway -}}
{{- $region := dict "name" "local" -}}
{{- if $gateway.fullServiceNames -}}
{{- $_ := set $region "kubernetes" (dict "service" (include "tritonforge.headless" .) "namespace" .Release.Namespace "cluster_domain" .Values.clusterDomain) -}}
{{- else -}}
{{- $_ := set $region "dns" (dict "name" (include "tritonforge.headless" .)) -}}
{{- end -}}
{{- $config := dict "pools" (list (dict "name" "main" "models" (list "*") "regions" (list $region))) -}}
{{- $_ := set $config "resilience" (dict "drain_s" $gateway.drainSeconds) -}}
{{- with .Values.tracing.endpoint -}}
{{- $_ := set $config "tracing" (dict "endpoint" .) -}}
{{- end -}}
{{- if $gateway.apiKeys.secretName -}}
{{- $_ := set $config "auth" (dict "api_keys" (dict "file" "/etc/tritonforge/keys/keys.json")) -}}
{{- end -}}
{{- $config = mergeOverwrite $config (deepCopy $gateway.config) -}}
{{- $listen := dict "host" "0.0.0.0" "port" 8080 -}}
{{- if $gateway.tls.secretName -}}
{{- $tls := dict "certificate" "/etc/tritonforge/tls/tls.crt" "key" "/etc/tritonforge/tls/tls.key" -}}
{{- if $gateway.tls.verifyClients -}}{{- $_ := set $tls "client_ca" "/etc/tritonforge/tls/ca.crt" -}}{{- end -}}
{{- $_ := set $listen "tls" $tls -}}
{{- end -}}
{{- $config = mergeOverwrite $config (dict "listen" $listen "metrics" (dict "host" "0.0.0.0" "port" 8090) "logs" (merge (dict "format" "json") (default dict $config.logs))) -}}
{{- toYaml $config -}}
{{- end -}}

{{/* Refuses values with which the gateway would not start. */}}
{{- define "tritonforge.checkGateway" -}}
{{- $gateway := .Values.gateway -}}
{{- $auth := default dict $gateway.config.auth -}}
{{- if $auth.disabled -}}
{{- fail "gateway.config.auth.disabled: an open door may listen on loopback only, and pods are reached from elsewhere" -}}
{{- end -}}
{{- if not (or $gateway.apiKeys.secretName $auth.issuers $auth.api_keys $auth.development) -}}
{{- fail "nobody could come in: give gateway.config.auth.issuers, or gateway.apiKeys.secretName" -}}
{{- end -}}
{{- if and .Values.redis.enabled .Values.externalRedis.secretName -}}
{{- fail "redis.enabled and externalRedis.secretName: give one Redis" -}}
{{- end -}}
{{- $limits := default dict $gateway.config.limits -}}
{{- $shared := default dict $limits.shared -}}
{{- $limited := or $shared.requests_per_minute $shared.tokens_per_minute -}}
{{- $redis := or .Values.redis.enabled .Values.externalRedis.secretName -}}
{{- if and $limited (not $redis) (not $gateway.extraEnv) (not $gateway.extraEnvFrom) -}}
{{- fail "gateway.config.limits.shared needs a Redis: set redis.enabled, or externalRedis.secretName" -}}
{{- end -}}
{{- if and $gateway.autoscaling.enabled (gt (int $gateway.autoscaling.minReplicas) (int $gateway.autoscaling.maxReplicas)) -}}
{{- fail "gateway.autoscaling: minReplicas is above maxReplicas" -}}
{{- end -}}
{{- end -}}

{{/* Where Redis is, by reference; the URL holds the password, so it is put together in the pod. */}}
{{- define "tritonforge.redisEnv" -}}
{{- if .Values.redis.enabled }}
- name: REDIS_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ required "redis.auth.secretName is empty: name a Secret with a password" .Values.redis.auth.secretName | quote }}
      key: {{ .Values.redis.auth.secretKey | quote }}
- name: TRITONFORGE_REDIS_URL
  value: redis://:$(REDIS_PASSWORD)@{{ include "tritonforge.redis" . }}:6379/0
{{- else if .Values.externalRedis.secretName }}
- name: TRITONFORGE_REDIS_URL
  valueFrom:
    secretKeyRef:
      name: {{ .Values.externalRedis.secretName | quote }}
      key: {{ .Values.externalRedis.secretKey | quote }}
{{- end }}
{{- end -}}

{{/* GET /health through the door; with client certificates the kubelet has none to show. Not /ready: one pool that
fails would close the door to all others, and 503 with a reason is the better answer. */}}
{{- define "tritonforge.gatewayProbe" -}}
{{- if .Values.gateway.tls.verifyClients }}
tcpSocket:
  port: door
{{- else }}
httpGet:
  path: /health
  port: door
  {{- if .Values.gateway.tls.secretName }}
  scheme: HTTPS
  {{- end }}
{{- end }}
{{- end -}}
