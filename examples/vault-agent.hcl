# Vault Agent has Vault's PKI engine issue a certificate, renews it before it expires, and publishes each one.
# See docs/publishing.md. Make /var/lib/vault-agent first, for its user alone (mode 0700): it has the private key.

vault {
  address = "https://vault.example.com:8200"
}

auto_auth {
  method "approle" {
    config = {
      role_id_file_path                   = "/etc/vault-agent/role-id"
      secret_id_file_path                 = "/etc/vault-agent/secret-id"
      remove_secret_id_file_after_reading = false
    }
  }
}

template {
  # The destination has all three: at its next start the agent reads them from there, instead of having another
  # certificate issued. The command runs when they have changed.
  contents = <<EOT
{{ with pkiCert "pki/issue/web" "common_name=www.example.com" "ttl=720h" -}}
{{ .Key }}{{ .Cert }}{{ .CA }}
{{- .Key | writeToFile "/var/lib/vault-agent/www.key" "" "" "0600" }}
{{- .Cert | writeToFile "/var/lib/vault-agent/www.crt" "" "" "0644" }}
{{- .CA | writeToFile "/var/lib/vault-agent/www.crt" "" "" "0644" "append" }}
{{- end }}
EOT
  destination = "/var/lib/vault-agent/www.agent"
  perms       = "0600"
  exec {
    command = ["/usr/local/bin/certpost", "--config", "/etc/certpost/agent.yaml", "publish", "--from", "files", "--store-key", "vault:secret/certs/{cn}#private_key", "--", "/var/lib/vault-agent/www.crt", "/var/lib/vault-agent/www.key"]
    timeout = "60s"
  }
}
