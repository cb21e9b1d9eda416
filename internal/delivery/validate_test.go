package delivery

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/config"
	"github.com/certpost/certpost/internal/payload"
	"github.com/certpost/certpost/internal/smtp"
)

// goodTarget is the YAML of a target without a problem; tests replace its lines.
var goodTarget = []string{
	"id: a", "host: smtp.example.com", "from_address: certs@example.com", "to: [ops@example.com]",
}

// loadTarget parses one target from goodTarget and lines; a line replaces an earlier one
// with the same key.
func loadTarget(t *testing.T, lines ...string) (*Target, []string) {
	t.Helper()
	var merged []string
	for _, line := range slices.Concat(goodTarget, lines) {
		key, _, _ := strings.Cut(line, ":")
		merged = slices.DeleteFunc(merged, func(l string) bool { return strings.HasPrefix(l, key+":") })
		if line != key+":" {
			merged = append(merged, line)
		}
	}
	var one Target
	one.SetDefaults()
	doc, problems := config.Parse("t.yaml", []byte(strings.Join(merged, "\n")+"\n"), &one)
	options := newRuleBook(Relays{}).relayOptions(&one)
	found, _ := validateRelayOptions(options, newIDTable([][]relayOption{options}), 0, nil)
	problems = doc.Locate(append(problems, found...))
	var texts []string
	for _, p := range problems {
		texts = append(texts, strings.TrimPrefix(p.Error(), "t.yaml:"))
	}
	if config.Failed(problems) {
		return nil, texts
	}
	return define(newRuleBook(Relays{}), [][]relayOption{options}).targets[0], texts
}

const env = "{env: X}"

// Fault: recipients with line breaks, brackets, control characters. Result: refused when
// targets are loaded.
func TestValidate(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		lines []string // beyond goodTarget, which has four lines
		want  []string
	}{
		{"good", nil, nil},
		{"id", []string{"id: a.b"}, []string{"4:5: id: want 1 to 64 characters of A-Z, a-z, 0-9, _ and -"}},
		{"long id", []string{"id: " + strings.Repeat("a", 65)}, []string{"4:5: id: want 1 to 64 characters of A-Z, a-z, 0-9, _ and -"}},
		{"everything missing", []string{"id:", "host:", "from_address:", "to:", "disabled: true"}, []string{
			"1:1: from_address: is required", "1:1: host: is required", "1:1: id: is required", "1:1: to: is required"}},
		{"misspelt keys are not missing too", []string{"host:", "hots: x"}, []string{`4:1: unknown key "hots": did you mean host?`}},
		{"type", []string{"type: http"}, []string{`5:7: type: want smtp, postfix, dovecot or file, got http`}},

		{"port 0", []string{"port: 0"}, []string{"5:7: port: want 1 to 65535, got 0"}},
		{"port too high", []string{"port: 65536"}, []string{"5:7: port: want 1 to 65535, got 65536"}},
		{"timeout too short", []string{"timeout: 999ms"}, []string{"5:10: timeout: want 1s to 600s, got 999ms"}},
		{"timeout too long", []string{"timeout: 601s"}, []string{"5:10: timeout: want 1s to 600s, got 10m1s"}},
		{"timeout without unit", []string{"timeout: 30"}, []string{"5:10: timeout: want a duration such as 30s, 5m, 72h or 3d, got 30"}},

		{"host with a port", []string{"host: smtp.example.com:587"}, []string{"4:7: host: has a port: want the port in the key port"}},
		{"host as a URL", []string{"host: smtp://smtp.example.com"}, []string{"4:7: host: is a URL: want a name such as smtp.example.com, or an IP address"}},
		{"host in brackets", []string{`host: "[::1]"`}, []string{"4:7: host: want the IPv6 address without brackets"}},
		{"host with a space", []string{"host: smtp example"}, []string{"4:7: host: is not a host name: want a name such as smtp.example.com, or an IP address"}},
		{"host with a line break", []string{`host: "a\r\nb"`}, []string{"4:7: host: has control characters: want a name such as smtp.example.com, or an IP address"}},
		{"host with an empty label", []string{"host: a..b"}, []string{"4:7: host: is not a host name: want a name such as smtp.example.com, or an IP address"}},
		{"host that is nearly an address", []string{"host: 10.0.0.256"}, []string{"4:7: host: is not an IP address, and a host name cannot end in a number: want a name such as smtp.example.com, or an IP address"}},
		{"host too long", []string{"host: " + strings.Repeat("abcdefghi.", 26)}, []string{"4:7: host: is longer than 253 characters: want a name such as smtp.example.com, or an IP address"}},

		{"plaintext", []string{"port: 25"}, []string{
			"1:1: warning: tls_mode: mails to smtp.example.com are not encrypted: anyone on the network path can read and change them"}},
		{"no verification", []string{"tls_skip_verify: true"}, []string{
			"5:18: warning: tls_skip_verify: anyone on the network path to smtp.example.com can impersonate the relay: want ca_file with its CA, or tls_fingerprint"}},
		{"a server name", []string{"host: 192.0.2.7", "tls_server_name: smtp.example.com"}, nil},
		{"no server name", []string{"tls_server_name: smtp.example.com:587"}, []string{
			"5:18: tls_server_name: has a port: want the port in the key port"}},
		{"a fingerprint instead of no verification", []string{"username: a", "password: " + env, "tls_fingerprint: sha256:" + strings.Repeat("aB", 32) + ", " + strings.TrimSuffix(strings.Repeat("0a:", 32), ":")}, nil},
		{"a fingerprint and no verification", []string{"username: a", "password: " + env, "tls_skip_verify: true", "tls_fingerprint: " + strings.Repeat("ab", 32)}, []string{
			"8:18: warning: tls_fingerprint: verifies the relay, so tls_skip_verify is not used"}},
		{"a SHA-1 fingerprint", []string{"tls_fingerprint: " + strings.Repeat("ab", 20)}, []string{
			"5:18: tls_fingerprint: want the SHA-256 of the relay's certificate or public key: 64 hexadecimal digits, with or without colons"}},
		{"identity in plaintext", []string{"host: 127.0.0.1", "port: 25", "tls_server_name: a.example", "tls_fingerprint: " + strings.Repeat("ab", 32)}, []string{
			"1:1: warning: tls_mode: mails to 127.0.0.1 are not encrypted: anyone on the network path can read and change them",
			"7:18: warning: tls_fingerprint: is not used with tls_mode plaintext"}},
		{"smtps on 587", []string{"tls_mode: smtps"}, []string{
			"5:11: warning: tls_mode: most relays expect STARTTLS on port 587: want starttls, or port 465"}},
		{"starttls on 465", []string{"port: 465", "tls_mode: starttls"}, []string{
			"6:11: warning: tls_mode: most relays expect TLS from the first byte on port 465: want smtps, or port 587"}},
		{"tls_mode", []string{"tls_mode: tls"}, []string{`5:11: tls_mode: want starttls, smtps, opportunistic or plaintext, got tls`}},

		{"auth", []string{"username: certs", "password: " + env}, nil},
		{"username as a reference", []string{"username: {file: /run/user}", "password: " + env}, nil},
		{"auth method unknown", []string{"auth_method: ntlm", "username: a", "password: " + env}, []string{
			`5:14: auth_method: want none, plain, login, cram-md5, scram-sha-256 or xoauth2, got ntlm`}},
		{"cram-md5", []string{"auth_method: cram-md5", "username: a", "password: " + env}, nil},
		{"scram-sha-256", []string{"auth_method: scram-sha-256", "username: a", "password: " + env}, nil},
		{"scram-sha-256 without verification", []string{"auth_method: scram-sha-256", "username: a", "password: " + env, "tls_skip_verify: true"}, []string{
			"8:18: warning: tls_skip_verify: anyone on the network path to smtp.example.com can impersonate the relay: want ca_file with its CA, or tls_fingerprint"}},
		{"cram-md5 in plaintext", []string{"auth_method: cram-md5", "username: a", "password: " + env, "port: 25"}, []string{
			"1:1: warning: tls_mode: mails to smtp.example.com are not encrypted: anyone on the network path can read and change them",
			"5:14: warning: auth_method: cram-md5 without TLS protects the password only if it cannot be guessed: want starttls or smtps"}},
		{"xoauth2 with a token", []string{"auth_method: xoauth2", "username: a", "password: " + env}, nil},
		{"xoauth2 without a token", []string{"auth_method: xoauth2", "username: a"}, []string{
			"1:1: password: is required by auth_method xoauth2: want an access token as the password, or oauth2, which fetches one"}},
		{"oauth2", []string{"username: a", "oauth2: {token_url: https://login.example.com/token, client_id: b, client_secret: " + env + ", scopes: [https://mail.example.com/.default]}"}, nil},
		{"oauth2 in plaintext", []string{"port: 25", "username: a", "oauth2: {token_url: https://login.example.com/token, client_id: b, client_secret: " + env + "}"}, []string{
			"1:1: tls_mode: plaintext would expose the password to anyone on the network path: want starttls or smtps, or allow_insecure_auth: true",
			"1:1: warning: tls_mode: mails to smtp.example.com are not encrypted: anyone on the network path can read and change them"}},
		{"oauth2 on this machine", []string{"username: a", `oauth2: {token_url: "http://[::1]:8080/token", client_id: b, client_secret: ` + env + `}`}, nil},
		{"oauth2 in the clear", []string{"username: a", `oauth2: {token_url: "http://login.example.com/token", client_id: b, client_secret: ` + env + `}`}, []string{
			"6:21: oauth2.token_url: would expose client_secret to anyone on the network path: want https"}},
		{"oauth2 of nothing", []string{"username: a", "oauth2: {scopes: [a b]}"}, []string{
			"6:9: oauth2.client_id: is required", "6:9: oauth2.client_secret: is required", "6:9: oauth2.token_url: is required",
			"6:19: oauth2.scopes[0]: is not a scope: want one without spaces, quotes and backslashes, such as https://outlook.office365.com/.default"}},
		{"oauth2 and a password", []string{"username: a", "password: " + env, `oauth2: {token_url: "https://me:too@login.example.com/token", client_id: "b\nc", client_secret: ` + env + `}`}, []string{
			"7:9: oauth2: cannot be combined with password: want one of them",
			"7:21: oauth2.token_url: has a user or a password in it: want client_id and client_secret",
			"7:74: oauth2.client_id: has control characters"}},
		{"oauth2 with another method", []string{"auth_method: login", "username: a", `oauth2: {token_url: login.example.com, client_id: b, client_secret: {value: hunter2}}`}, []string{
			"7:9: oauth2: is not used with auth_method login: want xoauth2",
			"7:21: oauth2.token_url: want a URL such as https://login.microsoftonline.com/TENANT/oauth2/v2.0/token",
			"7:69: warning: oauth2.client_secret: the secret itself is in the configuration: move it to vault, env, file or credential"}},
		{"client certificate", []string{"client_cert_file: /etc/c.pem", "client_key_file: /etc/k.pem"}, nil},
		{"client certificate without a key", []string{"client_cert_file: /etc/c.pem"}, []string{"1:1: client_key_file: is required: client_cert_file is set"}},
		{"a key without its certificate", []string{"client_key_file: /etc/k.pem"}, []string{"1:1: client_cert_file: is required: client_key_file is set"}},
		{"client certificate in plaintext", []string{"client_cert_file: /etc/c.pem", "client_key_file: /etc/k.pem", "port: 25"}, []string{
			"1:1: warning: tls_mode: mails to smtp.example.com are not encrypted: anyone on the network path can read and change them",
			"5:19: warning: client_cert_file: is not used with tls_mode plaintext"}},
		{"auth without a password", []string{"username: a"}, []string{"1:1: password: is required by auth_method plain"}},
		{"auth without anything", []string{"auth_method: login"}, []string{
			"1:1: password: is required by auth_method login", "1:1: username: is required by auth_method login"}},
		{"a password alone", []string{"password: " + env}, []string{"1:1: username: is required: password is set"}},
		{"a password for nothing", []string{"auth_method: none", "username: a", "password: " + env}, []string{
			"5:14: warning: auth_method: is none, so username and password are not used"}},
		{"auth in plaintext", []string{"port: 25", "username: a", "password: " + env}, []string{
			"1:1: tls_mode: plaintext would expose the password to anyone on the network path: want starttls or smtps, or allow_insecure_auth: true",
			"1:1: warning: tls_mode: mails to smtp.example.com are not encrypted: anyone on the network path can read and change them"}},
		{"auth without verification", []string{"tls_skip_verify: true", "username: a", "password: " + env}, []string{
			"5:18: tls_skip_verify: would send the password to anyone who impersonates the relay: want ca_file or tls_fingerprint, or allow_insecure_auth: true",
			"5:18: warning: tls_skip_verify: anyone on the network path to smtp.example.com can impersonate the relay: want ca_file with its CA, or tls_fingerprint"}},
		{"auth in plaintext, allowed", []string{"port: 25", "username: a", "password: " + env, "allow_insecure_auth: true"}, []string{
			"1:1: warning: tls_mode: mails to smtp.example.com are not encrypted: anyone on the network path can read and change them"}},
		{"opportunistic auth waits for TLS", []string{"tls_mode: opportunistic", "username: a", "password: " + env}, nil},
		{"username with a line break", []string{`username: "a\nb"`, "password: " + env}, []string{"5:11: username: has control characters"}},

		{"inline secret", []string{"username: a", "password: {value: hunter2}"}, []string{
			"6:11: warning: password: the secret itself is in the configuration: move it to vault, env, file or credential"}},
		{"two sources", []string{"username: a", "password: {env: X, file: y}"}, []string{
			"6:11: password: names more than one source (env, file): set exactly one"}},
		{"a vault reference without a key", []string{"username: a", "password: {vault: {mount: secret, path: x}}"}, nil},
		{"half a vault reference", []string{"username: a", "password: {vault: {mount: secret, key: x}}"}, []string{
			"6:11: password: vault.path: is empty"}},
		{"other names for a vault reference", []string{"username: a", "password: {vault_mount: secret, vault_path: x, key_data: y}"}, []string{
			`6:12: password: unknown key "vault_mount": want {vault: {mount: secret, path: smtp-auth/relay, key: password}}`,
			`6:33: password: unknown key "vault_path": want {vault: {mount: secret, path: smtp-auth/relay, key: password}}`,
			`6:48: password: unknown key "key_data": want {vault: {mount: secret, path: smtp-auth/relay, key: password}}`}},
		{"a vault reference without the word", []string{"username: a", "password: {mount: secret, path: x, key: y}"}, []string{
			`6:12: password: unknown key "mount": want {vault: {mount: secret, path: smtp-auth/relay, key: password}}`,
			`6:27: password: unknown key "path": want {vault: {mount: secret, path: smtp-auth/relay, key: password}}`,
			`6:36: password: unknown key "key": want {vault: {mount: secret, path: smtp-auth/relay, key: password}}`}},
		{"other names in a vault reference", []string{"username: a", "password: {vault: {vault_mount: secret, vault_path: x, key_data: y}}"}, []string{
			`6:20: password.vault: unknown key "vault_mount": want mount`,
			`6:41: password.vault: unknown key "vault_path": want path`,
			`6:56: password.vault: unknown key "key_data": want key`}},
		{"other names of a target", []string{"vault_mount: secret", "vault_path: x", "key_data: y"}, []string{
			`5:1: unknown key "vault_mount": want password: {vault: {mount: secret, path: smtp-auth/relay, key: password}}`,
			`6:1: unknown key "vault_path": want password: {vault: {mount: secret, path: smtp-auth/relay, key: password}}`,
			`7:1: unknown key "key_data": a definition has no private key: the event's private_key says where the key is stored`}},
		{"a password in the open is a value", []string{"username: a", "password: hunter2"}, []string{
			"6:11: warning: password: the secret itself is in the configuration: move it to vault, env, file or credential"}},
		{"a password in the wrong brackets is not shown", []string{"username: a", "password: [hunter2]"}, []string{
			"6:11: password: want text, or a mapping with vault, transit, env, file, credential or value, got a list"}},
		{"nor in these", []string{"username: a", "password: {hunter2}"}, []string{
			"6:12: password: unknown key without a value: want vault, transit, env, file, credential or value"}},
		{"a numeric secret is not shown", []string{"username: a", "password: {value: 123456}"}, []string{
			"6:19: password.value: want text, got a number: put it in quotes"}},

		{"addresses", []string{"from_address: \"Certs <certs@example.com>\"", "to: [\"a@example.com\\r\\nBcc: x@example.com\", ops, \"a b@example.com\", a@, \"@b\", \"\"]"}, []string{
			"3:15: from_address: has angle brackets: want only the address, such as ops@example.com, without a display name",
			"4:6: to[0]: has control characters: want an address such as ops@example.com",
			"4:45: to[1]: is not an address: want an address such as ops@example.com",
			"4:50: to[2]: is not an address: want an address such as ops@example.com",
			"4:69: to[3]: is not an address: want an address such as ops@example.com",
			"4:73: to[4]: is not an address: want an address such as ops@example.com",
			"4:79: to[5]: is empty: want an address such as ops@example.com"}},
		{"more addresses", []string{"cc: [a@b..c, a@b_c., \"a@[::g]\", \"a(x)@b\", \"a@b, c@d\"]", "bcc: [" + strings.Repeat("a", 65) + "@b]", "reply_to: x"}, []string{
			"5:6: cc[0]: is not an address: want an address such as ops@example.com",
			"5:14: cc[1]: is not an address: want an address such as ops@example.com",
			"5:22: cc[2]: is not an address: want an address such as ops@example.com",
			"5:33: cc[3]: is not an address: want an address such as ops@example.com",
			"5:43: cc[4]: is not an address: want an address such as ops@example.com",
			"6:7: bcc[0]: has more than 64 bytes before the @",
			"7:11: reply_to: is not an address: want an address such as ops@example.com"}},
		{"good addresses", []string{"to: [root@localhost, ops@bücher.example, \"o'brien+x@example.com\", '\"a b\"@example.com', \"a@[127.0.0.1]\", jörg@example.com]"}, nil},
		{"51 recipients", []string{"cc: [" + strings.TrimSuffix(strings.Repeat("a@b.example, ", 51), ", ") + "]"}, []string{
			"5:5: cc: has 51 addresses: at most 50 are allowed"}},
		{"50 recipients in each list", []string{
			"to: [" + strings.TrimSuffix(strings.Repeat("a@b.example, ", 50), ", ") + "]",
			"cc: [" + strings.TrimSuffix(strings.Repeat("a@b.example, ", 50), ", ") + "]",
			"bcc: [" + strings.TrimSuffix(strings.Repeat("a@b.example, ", 50), ", ") + "]"}, nil},
		{"an empty list of recipients", []string{"to: []", "bcc: [a@example.com]"}, []string{"4:5: to: is required"}},
		{"header texts", []string{`from_name: "a\u202eb"`, "subject_prefix: " + strings.Repeat("x", 101)}, []string{
			"5:12: from_name: has control characters", "6:17: subject_prefix: has 101 characters: at most 100 are allowed"}},
		{"a name of 128 characters", []string{"from_name: " + strings.Repeat("ü", 128)}, nil},
		{"a name of 129 characters", []string{"from_name: " + strings.Repeat("x", 129)}, []string{
			"5:12: from_name: has 129 characters: at most 128 are allowed"}},
		{"header texts with emoji", []string{`from_name: "❤️ 👩‍💻"`}, nil},

		{"payload", []string{"payload: rar"}, []string{`5:10: payload: want pem, pem_and_key, pkcs12, jks, der, pkcs7, pkcs12_truststore or zip, got rar`}},
		{"payloads without secrets", []string{"payload: der"}, nil},
		{"jks", []string{"payload: jks", "keystore_password: " + env, "alias: web {cn} {target}"}, nil},
		{"jks without a password", []string{"payload: jks"}, []string{`1:1: keystore_password: is required by payload jks`}},
		{"a trust store with a passphrase", []string{"payload: pkcs12_truststore", "keystore_password: " + env, "pkcs12_passphrase: " + env}, []string{`7:20: warning: pkcs12_passphrase: is not used with payload pkcs12_truststore`}},
		{"a short password", []string{"payload: jks", "keystore_password: {value: abc}"}, []string{
			`6:20: keystore_password: has less than 6 characters, which keytool refuses; change it`,
			`6:20: warning: keystore_password: the secret itself is in the configuration: move it to vault, env, file or credential`}},
		{"a passphrase that is not ASCII", []string{"payload: pkcs12", "pkcs12_passphrase: {value: pässword}"}, []string{
			`6:20: pkcs12_passphrase: has a character that is not printable ASCII (perhaps a line break), so some programs could not open the file; change it`,
			`6:20: warning: pkcs12_passphrase: the secret itself is in the configuration: move it to vault, env, file or credential`}},
		{"unknown place in an alias", []string{"payload: jks", "keystore_password: " + env, "alias: '{domain}'"}, []string{`7:8: alias: has an unknown place: want {cn} or {target}`}},
		{"alias of nothing", []string{"alias: web"}, []string{`5:8: warning: alias: is not used with payload pem: only pkcs12 and jks name the key`}},
		{"few iterations", []string{"payload: pkcs12", "pkcs12_passphrase: " + env, "pkcs12_iterations: 1000"}, []string{`7:20: pkcs12_iterations: want 2048 to 100000, got 1000`}},
		{"settings of other payloads", []string{"pkcs12_iterations: 5000", "zip_private_key: true"}, []string{`5:20: warning: pkcs12_iterations: is not used with payload pem`, `6:18: warning: zip_private_key: is not used with payload pem`}},
		{"key of a zip in the clear", []string{"payload: zip", "zip_private_key: true", "tls_mode: plaintext"}, []string{
			"5:10: payload: zip with tls_mode plaintext would expose private keys to anyone on the network path to smtp.example.com: want starttls or smtps, or allow_plaintext_key: true",
			"7:11: warning: tls_mode: mails to smtp.example.com are not encrypted: anyone on the network path can read and change them"}},
		{"pkcs12", []string{"payload: pkcs12", "pkcs12_passphrase: " + env, "pkcs12_encoding: legacydes"}, nil},
		{"pkcs12 without a passphrase", []string{"payload: pkcs12"}, []string{"1:1: pkcs12_passphrase: is required by payload pkcs12"}},
		{"pkcs12_encoding", []string{"pkcs12_encoding: rc2"}, []string{`5:18: pkcs12_encoding: want modern2023, legacydes or modern2026, got rc2`}},
		{"a passphrase for nothing", []string{"pkcs12_passphrase: " + env}, []string{"5:20: warning: pkcs12_passphrase: is not used with payload pem"}},
		{"keys over starttls", []string{"payload: pem_and_key"}, nil},
		{"keys in plaintext", []string{"payload: pem_and_key", "tls_mode: plaintext"}, []string{
			"5:10: payload: pem_and_key with tls_mode plaintext would expose private keys to anyone on the network path to smtp.example.com: want starttls or smtps, or allow_plaintext_key: true",
			"6:11: warning: tls_mode: mails to smtp.example.com are not encrypted: anyone on the network path can read and change them"}},
		{"keys in what may be plaintext", []string{"payload: pem_and_key", "tls_mode: opportunistic"}, []string{
			"5:10: payload: pem_and_key with tls_mode opportunistic would expose private keys to anyone on the network path to smtp.example.com: want starttls or smtps, or allow_plaintext_key: true"}},
		{"keys in plaintext, allowed in full words", []string{"payload: pem_and_key", "tls_mode: opportunistic", "allow_plaintext_key: true"}, nil},
		{"keys in plaintext to this machine", []string{"host: 127.0.0.1", "payload: pem_and_key", "tls_mode: opportunistic"}, nil},

		{"match", []string{"match: {dns_names: [\"*.example.com\"], issuers: [\"*R11*\"], labels: {env: prod}}"}, nil},
		{"a glob of 512 characters that has more bytes", []string{"match: {issuers: [" + strings.Repeat("ü", 512) + "]}"}, nil},
		{"a match of nothing", []string{"match: {dns_names: []}"}, []string{
			`5:8: match: want at least one condition, such as dns_names; issuers: ["*"] matches every certificate`}},
		{"match: a key without a value is no match", []string{"match: null"}, nil},
		{"bad globs", []string{"match: {dns_names: [\"\"], issuers: [\"a\\u0007\"], labels: {\"\": x, \"a.b\": " + strings.Repeat("x", 513) + "}}"}, []string{
			"5:21: match.dns_names[0]: is empty and matches nothing: want a name, or a glob such as *.example.com",
			"5:36: match.issuers[0]: has control characters",
			`5:61: match.labels[""]: the name of the label is required`,
			`5:71: match.labels["a.b"]: is longer than 512 characters`}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, got := loadTarget(t, test.lines...)
			if !slices.Equal(got, test.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(test.want, "\n"))
			}
			for _, p := range got {
				if strings.Contains(p, "hunter2") || strings.Contains(p, "123456") {
					t.Errorf("shows a secret: %s", p)
				}
			}
		})
	}
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	for port, want := range map[int]string{25: smtp.TLSPlaintext, 465: smtp.TLSSMTPS, 587: smtp.TLSStartTLS, 2525: smtp.TLSStartTLS} {
		target, problems := loadTarget(t, fmt.Sprintf("port: %d", port))
		if target == nil {
			t.Fatal(problems)
		}
		if target.TLSMode != want {
			t.Errorf("port %d: tls_mode %s, want %s", port, target.TLSMode, want)
		}
	}
	target, problems := loadTarget(t)
	if target == nil {
		t.Fatal(problems)
	}
	if target.Type != "smtp" || target.Port != 587 || target.AuthMethod != smtp.AuthNone || target.Timeout != 30*time.Second ||
		target.Payload != payload.PEM || target.PKCS12Encoding != payload.Modern2023 || target.Lane() != "smtp_example_com-587" {
		t.Errorf("defaults: %+v", target)
	}
	target, problems = loadTarget(t, "username: certs", "password: "+env)
	if target == nil {
		t.Fatal(problems)
	}
	if target.AuthMethod != smtp.AuthPlain || target.Username.Plain != "certs" || target.Password.Env != "X" {
		t.Errorf("auth: %+v", target)
	}
}

func TestValidateTargetsTogether(t *testing.T) {
	t.Parallel()
	var targets []Target
	for _, id := range []string{"a", "b", "a", "", "", "b"} {
		target := Target{ID: id, Host: "smtp.example.com", FromAddress: "a@example.com", To: []string{"b@example.com"}}
		target.SetDefaults()
		targets = append(targets, target)
	}
	var got []string
	d, problems := Relays{}.Define(targets)
	for _, p := range problems {
		got = append(got, p.Error())
	}
	want := []string{
		"targets[2].id: a is already the id of targets[0]: every target needs its own",
		"targets[3].id: is required", "targets[4].id: is required",
		"targets[5].id: b is already the id of targets[1]: every target needs its own",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if d != nil {
		t.Error("there are definitions in spite of errors")
	}
	if d, problems = (Relays{}).Define(targets[:2]); d == nil {
		t.Fatal(problems)
	}
	if _, ok := d.Get("b"); !ok || len(d.All()) != 2 || !slices.Equal(d.Lanes(), []string{"smtp_example_com-587"}) {
		t.Errorf("definitions: %+v, lanes %v", d.All(), d.Lanes())
	}
}

// A secret that an environment variable holds is not written in the configuration; one
// of which a part or the default is written there is.
func TestSecretsFromVariables(t *testing.T) {
	t.Parallel()
	const secret = "canary-of-the-variable"
	for password, shown := range map[string]string{
		"${SMTP_PASSWORD}":                "env:SMTP_PASSWORD",
		`"${SMTP_PASSWORD}"`:              "env:SMTP_PASSWORD",
		"{value: '${SMTP_PASSWORD}'}":     "env:SMTP_PASSWORD",
		"${SMTP_PASSWORD:-other}":         "env:SMTP_PASSWORD",
		"${UNSET:-other}":                 "value:[redacted]",
		"x${SMTP_PASSWORD}":               "value:[redacted]",
		"${UNSET:-other}${SMTP_PASSWORD}": "value:[redacted]",
		"plain":                           "value:[redacted]",
	} {
		t.Run(password, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "c.yaml")
			text := strings.Join(slices.Concat(goodTarget, []string{"username: certs", "password: " + password}), "\n") + "\n"
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			d, problems := Source{File: path, Environ: []string{"SMTP_PASSWORD=" + secret}}.Load()
			if d == nil {
				t.Fatal(problems)
			}
			if got := d.targets[0].Password.String(); got != shown {
				t.Errorf("the password is shown as %s, want %s", got, shown)
			}
			if got, want := len(problems), strings.Count(shown, "redacted"); got != want {
				t.Errorf("%d warnings, want %d: %v", got, want, problems)
			}
			if strings.HasPrefix(shown, "env:") && string(d.targets[0].Password.Value.Reveal()) != secret {
				t.Error("another password")
			}
			if strings.Contains(fmt.Sprintf("%+v %#v", problems, d.targets[0]), secret) {
				t.Error("the secret is shown")
			}
		})
	}
}
