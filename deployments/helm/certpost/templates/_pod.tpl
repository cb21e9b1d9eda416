{{/* The pod of the Deployment and of the StatefulSet. */}}
{{- define "certpost.pod" -}}
metadata:
  labels:
    {{- include "certpost.selector" . | nindent 4 }}
    {{- with .Values.podLabels }}{{ toYaml . | nindent 4 }}{{ end }}
  annotations:
    # A running process reads changed targets by itself; everything else needs a restart.
    checksum/config: {{ omit (include "certpost.config" . | fromYaml) "targets" | toYaml | sha256sum }}
    {{- with .Values.podAnnotations }}{{ toYaml . | nindent 4 }}{{ end }}
spec:
  serviceAccountName: {{ include "certpost.account" . }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    fsGroup: 65532
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile: {type: RuntimeDefault}
  containers:
    - name: certpost
      image: {{ include "certpost.image" . }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: [--config=/etc/certpost/certpost.yaml, run]
      ports:
        - {name: https, containerPort: 8443}
      {{- with .Values.env }}
      env:
        {{- range $name, $from := . }}
        - name: {{ $name }}
          valueFrom: {secretKeyRef: {name: {{ $from.secret }}, key: {{ $from.key }}}}
        {{- end }}
      {{- end }}
      # The start waits for a store of any size; an outage of NATS, Vault or a relay restarts nothing.
      startupProbe:
        httpGet: {path: /livez, port: https, scheme: HTTPS}
        periodSeconds: 5
        failureThreshold: 120
      livenessProbe:
        httpGet: {path: /livez, port: https, scheme: HTTPS}
        periodSeconds: 20
        timeoutSeconds: 5
        failureThreshold: 6
      readinessProbe:
        httpGet: {path: /readyz, port: https, scheme: HTTPS}
        periodSeconds: 5
        timeoutSeconds: 5
      resources: {{- toYaml .Values.resources | nindent 8 }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL]}
      volumeMounts:
        - {name: config, mountPath: /etc/certpost, readOnly: true}
        - {name: data, mountPath: /var/lib/certpost}
        - {name: tmp, mountPath: /tmp}
        - {name: tls, mountPath: /var/run/secrets/certpost-tls, readOnly: true}
        {{- if .Values.metrics.tokenSecret.name }}
        - {name: metrics, mountPath: /var/run/secrets/certpost-metrics, readOnly: true}
        {{- end }}
        {{- if .Values.vault.address }}
        - {name: vault, mountPath: /var/run/secrets/vault, readOnly: true}
        {{- if .Values.vault.caSecret.name }}
        - {name: vault-ca, mountPath: /var/run/secrets/vault-ca, readOnly: true}
        {{- end }}
        {{- end }}
        {{- range $i, $secret := .Values.secretFiles }}
        - {name: secret-{{ $i }}, mountPath: /var/run/secrets/certpost/{{ $secret }}, readOnly: true}
        {{- end }}
  volumes:
    - name: config
      configMap: {name: {{ include "certpost.name" . }}}
    - name: tmp
      emptyDir: {sizeLimit: 64Mi}
    {{- if include "certpost.shared" . }}
    - name: data
      emptyDir: {sizeLimit: 256Mi}
    {{- end }}
    - name: tls
      secret: {secretName: {{ .Values.tls.secretName }}, defaultMode: 0440}
    {{- with .Values.metrics.tokenSecret.name }}
    - name: metrics
      secret: {secretName: {{ . }}, defaultMode: 0440}
    {{- end }}
    {{- if .Values.vault.address }}
    - name: vault
      projected:
        defaultMode: 0440
        sources:
          - serviceAccountToken: {path: token, audience: {{ .Values.vault.audience | quote }}, expirationSeconds: 3600}
    {{- with .Values.vault.caSecret.name }}
    - name: vault-ca
      secret: {secretName: {{ . }}, defaultMode: 0440}
    {{- end }}
    {{- end }}
    {{- range $i, $secret := .Values.secretFiles }}
    - name: secret-{{ $i }}
      secret: {secretName: {{ $secret }}, defaultMode: 0440}
    {{- end }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels: {{- include "certpost.selector" . | nindent 10 }}
  {{- with .Values.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
