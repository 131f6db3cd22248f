{{- define "stepgate.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* The release's name where it says stepgate already, else <release>-stepgate. */}}
{{- define "stepgate.fullname" -}}
{{- $name := include "stepgate.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "stepgate.serviceAccount" -}}
{{- default (include "stepgate.fullname" .) .Values.serviceAccount.name -}}
{{- end -}}

{{- define "stepgate.selector" -}}
app.kubernetes.io/name: {{ include "stepgate.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "stepgate.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "stepgate.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{/* A CEL list of the users whose writes the hold lets through. */}}
{{- define "stepgate.operators" -}}
{{- $own := printf "system:serviceaccount:%s:%s" .Release.Namespace (include "stepgate.serviceAccount" .) -}}
{{- prepend .Values.hold.additionalOperators $own | toJson -}}
{{- end -}}

{{/* The newest API version in which this cluster serves MutatingAdmissionPolicy; empty where it serves none. */}}
{{- define "stepgate.mutatingPolicyVersion" -}}
{{- if .Capabilities.APIVersions.Has "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy" -}}
admissionregistration.k8s.io/v1
{{- else if .Capabilities.APIVersions.Has "admissionregistration.k8s.io/v1beta1/MutatingAdmissionPolicy" -}}
admissionregistration.k8s.io/v1beta1
{{- end -}}
{{- end -}}

{{/* The metrics sources that need more than a URL, as the operator's file; empty where there are none. */}}
{{- define "stepgate.sources" -}}
{{- $sources := dict }}
{{- range $name, $source := .Values.metricsSources }}
{{- if kindIs "map" $source }}
{{- $_ := set $sources $name $source }}
{{- end }}
{{- end }}
{{- with $sources }}
{{- toYaml (dict "sources" .) }}
{{- end }}
{{- end }}
