{{/* Refuses values that would only fail in the cluster. */}}
{{- define "tritonforge.checkSource" -}}
{{- $source := .Values.source -}}
{{- if eq $source.kind "url" -}}
{{- if not $source.url.url }}{{ fail "source.url.url is empty: give the archive that `tritonforge pack` wrote, e.g. s3://bucket/minilm.tar" }}{{ end -}}
{{- if and (not $source.url.sha256) (not $source.url.allowUnverified) -}}
{{- fail "source.url.sha256 is empty: give the SHA-256 that `tritonforge pack` printed, or set source.url.allowUnverified" -}}
{{- end -}}
{{- else if eq $source.kind "pvc" -}}
{{- if not $source.pvc.claimName }}{{ fail "source.pvc.claimName is empty: name the claim that holds the model repository" }}{{ end -}}
{{- else if eq $source.kind "oci" -}}
{{- if not $source.oci.image }}{{ fail "source.oci.image is empty: name the image that holds the model repository" }}{{ end -}}
{{- if not (or (contains "@sha256:" $source.oci.image) (regexMatch ":[A-Za-z0-9_][A-Za-z0-9_.-]*$" $source.oci.image)) -}}
{{- fail "source.oci.image names no version: add @sha256:DIGEST, or a tag" -}}
{{- end -}}
{{- if hasSuffix ":latest" $source.oci.image }}{{ fail "source.oci.image: the tag latest may be another image tomorrow; add @sha256:DIGEST, or another tag" }}{{ end -}}
{{- else -}}
{{- fail "source.kind is empty: say where the model repository comes from: url, pvc or oci" -}}
{{- end -}}
{{- end -}}

{{/* Whether an init container fills the volume. */}}
{{- define "tritonforge.sourceCopies" -}}
{{- if or (eq .Values.source.kind "url") (and (eq .Values.source.kind "oci") (eq .Values.source.oci.mode "copy")) -}}true{{- end -}}
{{- end -}}

{{- define "tritonforge.sourceInit" -}}
{{- $source := .Values.source -}}
{{- if eq $source.kind "url" }}
- name: fetch
  image: {{ include "tritonforge.image" (dict "root" . "image" .Values.server.image "variant" (.Values.server.gpu.enabled | ternary "gpu" "cpu")) | quote }}
  imagePullPolicy: {{ .Values.server.image.pullPolicy }}
  # Compares the SHA-256, and puts nothing in place that is not whole. Started again, it keeps what is right.
  command:
    - tritonforge
    - fetch
    - {{ $source.url.url | quote }}
    - --into
    - /repository/models
    {{- with $source.url.sha256 }}
    - --sha256
    - {{ . | quote }}
    {{- end }}
  {{- with $source.url.secretName }}
  envFrom:
    - secretRef:
        name: {{ . | quote }}
  {{- end }}
  {{- include "tritonforge.sourceInitRest" . | nindent 2 }}
{{- else if include "tritonforge.sourceCopies" . }}
- name: copy
  image: {{ $source.oci.image | quote }}
  imagePullPolicy: {{ $source.oci.pullPolicy }}
  # Emptied first, as a container that starts again finds what it copied before.
  command: [sh, -ec, 'rm -rf /repository/models; cp -R "$0" /repository/models', {{ $source.oci.path | quote }}]
  {{- include "tritonforge.sourceInitRest" . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "tritonforge.sourceInitRest" -}}
resources:
  {{- toYaml .Values.source.resources | nindent 2 }}
securityContext:
  {{- include "tritonforge.containerSecurity" . | nindent 2 }}
volumeMounts:
  - name: repository
    mountPath: /repository
  - name: tmp
    mountPath: /tmp
{{- end -}}

{{- define "tritonforge.sourceVolume" -}}
{{- $source := .Values.source -}}
- name: repository
{{- if eq $source.kind "pvc" }}
  persistentVolumeClaim:
    claimName: {{ $source.pvc.claimName | quote }}
    readOnly: true
{{- else if include "tritonforge.sourceCopies" . }}
  emptyDir:
    sizeLimit: {{ $source.size | quote }}
{{- else }}
  image:
    reference: {{ $source.oci.image | quote }}
    pullPolicy: {{ $source.oci.pullPolicy }}
{{- end }}
{{- end -}}

{{- define "tritonforge.sourceMount" -}}
{{- $source := .Values.source -}}
- name: repository
  mountPath: /models
  readOnly: true
  {{- if include "tritonforge.sourceCopies" . }}
  subPath: models
  {{- else if eq $source.kind "pvc" }}
  {{- with $source.pvc.subPath }}
  subPath: {{ . | quote }}
  {{- end }}
  {{- else }}
  # Of an image volume: only newer Kubernetes knows it (1.33, docs/kubernetes.md).
  {{- with trimPrefix "/" $source.oci.path }}
  subPath: {{ . | quote }}
  {{- end }}
  {{- end }}
{{- end -}}
