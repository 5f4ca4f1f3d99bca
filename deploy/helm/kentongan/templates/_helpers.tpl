{{- define "kentongan.labels" -}}
app.kubernetes.io/name: kentongan
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- /* What selects the pods of one role. */ -}}
{{- define "kentongan.selector" -}}
app.kubernetes.io/name: kentongan
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .role }}
{{- end }}

{{- define "kentongan.image" -}}
{{ .Values.image.repository }}{{ if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{- define "kentongan.busUrl" -}}
{{ .Values.broker.publicUrl | default (printf "nats://%s-broker.%s.svc:4222" .Release.Name .Release.Namespace) }}
{{- end }}

{{- define "kentongan.pod" -}}
serviceAccountName: {{ .Release.Name }}
automountServiceAccountToken: false
enableServiceLinks: false
terminationGracePeriodSeconds: 30
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  # Only a new volume is given to the group: done at every start, it would open the key files to it.
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.image.pullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "kentongan.container" -}}
image: {{ include "kentongan.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  runAsNonRoot: true
  capabilities: {drop: [ALL]}
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- /* What tells setup.sh of HTTPS: also that there is none any more. */ -}}
{{- define "kentongan.httpEnv" -}}
- {name: HTTP_TLS, value: {{ ternary "/var/lib/kentongan/tls" "" (not (empty .httpTls)) | quote }}}
- {name: HTTP_CLIENT_CA, value: {{ ternary "/var/lib/kentongan/clients/ca.pem" "" (not (empty .httpClientCa)) | quote }}}
{{- end }}

{{- define "kentongan.httpMounts" -}}
{{- if .httpTls }}
- {name: tls, mountPath: /var/lib/kentongan/tls, readOnly: true}
{{- end }}
{{- if .httpClientCa }}
- {name: clients, mountPath: /var/lib/kentongan/clients, readOnly: true}
{{- end }}
{{- end }}

{{- define "kentongan.httpVolumes" -}}
{{- if .httpTls }}
- name: tls
  secret: {secretName: {{ .httpTls }}, defaultMode: 0440}
{{- end }}
{{- if .httpClientCa }}
- name: clients
  configMap: {name: {{ .httpClientCa }}}
{{- end }}
{{- end }}

{{- /* The kubelet asks without a certificate of its own and takes any: it asks whether the process serves. */ -}}
{{- define "kentongan.probes" -}}
{{- $scheme := ternary "HTTPS" "HTTP" (not (empty .httpTls)) -}}
startupProbe:
  httpGet: {path: /healthz, port: http, scheme: {{ $scheme }}}
  periodSeconds: 5
  failureThreshold: 24
livenessProbe:
  httpGet: {path: /healthz, port: http, scheme: {{ $scheme }}}
  periodSeconds: 10
  timeoutSeconds: 5
readinessProbe:
  httpGet: {path: /readyz, port: http, scheme: {{ $scheme }}}
  periodSeconds: 5
  timeoutSeconds: 5
{{- end }}

{{- define "kentongan.claim" -}}
- metadata: {name: state}
  spec:
    accessModes: [ReadWriteOnce]
    {{- with .class }}
    storageClassName: {{ . }}
    {{- end }}
    resources: {requests: {storage: {{ .size }}}}
{{- end }}
