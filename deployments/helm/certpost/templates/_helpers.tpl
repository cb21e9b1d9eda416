{{- define "certpost.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "certpost.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "certpost.labels" -}}
{{ include "certpost.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "certpost.account" -}}
{{ if .Values.serviceAccount.create }}{{ .Values.serviceAccount.name | default (include "certpost.name" .) }}{{ else }}{{ .Values.serviceAccount.name | default "default" }}{{ end }}
{{- end }}

{{- define "certpost.image" -}}
{{ .Values.image.repository }}{{ if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{/* Whether NATS runs elsewhere, so that several processes share the work. */}}
{{- define "certpost.shared" -}}
{{ if dig "nats" "url" "" .Values.config }}yes{{ end }}
{{- end }}

{{/* Values that fit alone, and not together. */}}
{{- define "certpost.check" -}}
{{- if not (include "certpost.shared" .) }}
{{- if gt (int .Values.replicas) 1 }}{{ fail "replicas above 1 need config.nats.url: the embedded NATS belongs to one process; set it, or replicas: 1" }}{{ end }}
{{- if or .Values.autoscaling.enabled .Values.keda.enabled }}{{ fail "autoscaling and keda need config.nats.url: the embedded NATS belongs to one process" }}{{ end }}
{{- end }}
{{- if and .Values.autoscaling.enabled .Values.keda.enabled }}{{ fail "autoscaling and keda would both set the number of replicas; enable one of them" }}{{ end }}
{{- if and .Values.keda.enabled (not .Values.keda.prometheus) }}{{ fail "keda.enabled needs keda.prometheus, the address of Prometheus" }}{{ end }}
{{- if and .Values.monitoring.serviceMonitor (not .Values.metrics.tokenSecret.name) }}{{ fail "monitoring.serviceMonitor needs metrics.tokenSecret: without the token /metrics answers 401" }}{{ end }}
{{- if and .Values.vault.address (not .Values.vault.role) }}{{ fail "vault.address needs vault.role, a role of Vault's auth method kubernetes" }}{{ end }}
{{- if and .Values.vault.address (hasKey .Values.config "vault") }}{{ fail "vault is given twice: as the chart's vault and as config.vault; remove one of them" }}{{ end }}
{{- end }}

{{/* The configuration: the user's, and what the chart knows. */}}
{{- define "certpost.config" -}}
{{- $http := dict "listen" "0.0.0.0:8443" "url" .Values.url "tls" (dict "cert_file" "/var/run/secrets/certpost-tls/tls.crt" "key_file" "/var/run/secrets/certpost-tls/tls.key") }}
{{- with .Values.metrics.tokenSecret }}{{ if .name }}{{ $_ := set $http "metrics_token" (dict "file" (printf "/var/run/secrets/certpost-metrics/%s" .key)) }}{{ end }}{{ end }}
{{- $config := dict "data_dir" "/var/lib/certpost" "http" $http }}
{{- with .Values.vault }}{{ if .address }}
{{- $auth := dict "method" "kubernetes" "role" .role "jwt_file" "/var/run/secrets/vault/token" }}
{{- with .mount }}{{ $_ := set $auth "mount" . }}{{ end }}
{{- $vault := dict "address" .address "auth" $auth }}
{{- if .caSecret.name }}{{ $_ := set $vault "tls" (dict "ca_file" (printf "/var/run/secrets/vault-ca/%s" .caSecret.key)) }}{{ end }}
{{- $_ := set $config "vault" $vault }}
{{- end }}{{ end }}
{{- mergeOverwrite (deepCopy .Values.config) $config | toYaml }}
{{- end }}
