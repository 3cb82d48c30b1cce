{{- define "nas-triton.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 53 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 53 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "nas-triton.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "nas-triton.labels" -}}
{{ include "nas-triton.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "nas-triton.image" -}}
{{ required "image.repository: where you pushed the image that docker/Dockerfile builds" .Values.image.repository }}{{ if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ .Values.image.tag }}{{ end }}
{{- end }}

{{/* One of image, pvc, s3. */}}
{{- define "nas-triton.source" -}}
{{- $found := list }}
{{- if .Values.models.image.reference }}{{ $found = append $found "image" }}{{ end }}
{{- if .Values.models.pvc.claim }}{{ $found = append $found "pvc" }}{{ end }}
{{- if .Values.models.s3.uri }}{{ $found = append $found "s3" }}{{ end }}
{{- if ne (len $found) 1 }}{{ fail (printf "models: expected one of image.reference, pvc.claim and s3.uri, got %d" (len $found)) }}{{ end }}
{{- if and (eq (first $found) "s3") (not .Values.models.s3.sha256) }}{{ fail "models.s3.sha256: expected the checksum of the tar file: sha256sum models.tar" }}{{ end }}
{{- first $found }}
{{- end }}

{{- define "nas-triton.security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: 1000
capabilities: {drop: [ALL]}
{{- end }}

{{/* Mean wait of a request in the engine's queue: what autoscaling is told. The ensemble's own queue is always empty. */}}
{{- define "nas-triton.queue" -}}
nas:engine_queue_milliseconds
{{- end }}
