package lab

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// VaultServer is a real Vault (tools/vault) for one test: KV version 2 at secret/, and what
// the test mounts.
type VaultServer struct {
	Address   string
	RootToken string
	UnsealKey string
	CAFile    string // "" without TLS

	audit  string // path of the audit log
	client *http.Client

	mu     sync.Mutex
	kv2    map[string]bool // mounts that keep versions; guarded by mu
	enable map[string]bool // enabled auth methods; guarded by mu
}

// VaultOption changes how the server is started.
type VaultOption func(*vaultOptions)

type vaultOptions struct{ tls bool }

// VaultTLS makes the server speak TLS, with a certificate of CAFile's CA. It requests
// client certificates.
func VaultTLS() VaultOption { return func(o *vaultOptions) { o.tls = true } }

// Vault starts a server and stops it when the test ends. The test is skipped, or fails with
// CI=true, if vault-dev is not built.
func Vault(t testing.TB, opts ...VaultOption) *VaultServer {
	t.Helper()
	program := Need(t, "vault-dev")
	var o vaultOptions
	for _, opt := range opts {
		opt(&o)
	}
	args := []string{"-stdin-eof"}
	if o.tls {
		args = append(args, "-tls-dir", t.TempDir())
	}
	cmd := exec.Command(program, args...)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		late := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
		defer late.Stop()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	if err != nil {
		t.Fatalf("vault-dev did not start: %v", err)
	}
	var said struct {
		Address   string `json:"address"`
		RootToken string `json:"root_token"`
		UnsealKey string `json:"unseal_key"`
		CAFile    string `json:"ca_file"`
	}
	if err := json.Unmarshal(line, &said); err != nil {
		t.Fatalf("vault-dev said %q: %v", line, err)
	}
	v := &VaultServer{
		Address: said.Address, RootToken: said.RootToken, UnsealKey: said.UnsealKey, CAFile: said.CAFile,
		audit: filepath.Join(t.TempDir(), "audit.log"),
		kv2:   map[string]bool{"secret": true}, enable: map[string]bool{"token": true},
	}
	v.client = v.httpClient(t)
	v.Call(t, "PUT", "sys/audit/file", map[string]any{"type": "file", "options": map[string]string{"file_path": v.audit}})
	return v
}

func (v *VaultServer) httpClient(t testing.TB) *http.Client {
	transport := &http.Transport{}
	if v.CAFile != "" {
		pem, err := os.ReadFile(v.CAFile)
		if err != nil {
			t.Fatal(err)
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(pem)
		transport.TLSClientConfig = &tls.Config{RootCAs: pool}
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 30 * time.Second}
}

// Call makes a request as root, path below /v1/, and returns the decoded response. If it is
// refused the test fails.
func (v *VaultServer) Call(t testing.TB, method, path string, body any) map[string]any {
	t.Helper()
	return v.mustCall(t, "", method, path, body)
}

// Wrap is Call with response wrapping: it returns the single-use token for the response,
// valid for ttl ("60s").
func (v *VaultServer) Wrap(t testing.TB, ttl, method, path string, body any) string {
	t.Helper()
	return v.mustCall(t, ttl, method, path, body)["wrap_info"].(map[string]any)["token"].(string)
}

func (v *VaultServer) mustCall(t testing.TB, wrap, method, path string, body any) map[string]any {
	t.Helper()
	status, answer := v.request(t, http.Header{"X-Vault-Token": {v.RootToken}, "X-Vault-Wrap-Ttl": {wrap}}, method, path, body)
	if status >= 300 {
		t.Fatalf("vault: %s %s: status %d: %v", method, path, status, answer["errors"])
	}
	return answer
}

func (v *VaultServer) request(t testing.TB, header http.Header, method, path string, body any) (int, map[string]any) {
	t.Helper()
	var sent io.Reader
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		sent = bytes.NewReader(encoded)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, v.Address+"/v1/"+path, sent)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = header
	resp, err := v.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer map[string]any
	content, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if len(content) > 0 {
		if err := json.Unmarshal(content, &answer); err != nil {
			t.Fatalf("vault: %s %s: %v", method, path, err)
		}
	}
	return resp.StatusCode, answer
}

// Mount mounts an engine: kv-v1, kv-v2, transit, pki.
func (v *VaultServer) Mount(t testing.TB, mount, kind string) {
	t.Helper()
	body := map[string]any{"type": kind}
	if name, version, ok := strings.Cut(kind, "-v"); ok {
		body = map[string]any{"type": name, "options": map[string]string{"version": version}}
	}
	v.Call(t, "POST", "sys/mounts/"+mount, body)
	v.mu.Lock()
	v.kv2[mount] = kind == "kv-v2"
	v.mu.Unlock()
	if kind == "kv-v2" {
		// A version 2 engine refuses writes for a moment after it is mounted.
		v.await(t, mount+"/config")
	}
}

// Put writes a whole KV secret at mount/path, "secret/certs/web1"; the mount is
// the first segment.
func (v *VaultServer) Put(t testing.TB, location string, fields map[string]any) {
	t.Helper()
	mount, path, _ := strings.Cut(location, "/")
	v.mu.Lock()
	versioned := v.kv2[mount]
	v.mu.Unlock()
	if versioned {
		v.Call(t, "POST", mount+"/data/"+path, map[string]any{"data": fields})
	} else {
		v.Call(t, "POST", location, fields)
	}
}

// Seal seals the server: it answers 503 until Unseal.
func (v *VaultServer) Seal(t testing.TB) {
	t.Helper()
	v.Call(t, "PUT", "sys/seal", nil)
}

// Unseal unseals the server and waits until it serves.
func (v *VaultServer) Unseal(t testing.TB) {
	t.Helper()
	v.Call(t, "PUT", "sys/unseal", map[string]string{"key": v.UnsealKey})
	v.await(t, "sys/health")
}

// Policy writes an ACL policy in HCL.
func (v *VaultServer) Policy(t testing.TB, name, rules string) {
	t.Helper()
	v.Call(t, "PUT", "sys/policies/acl/"+name, map[string]string{"policy": rules})
}

// Token makes a token with the policies; ttl like "1h", "" for the default.
func (v *VaultServer) Token(t testing.TB, ttl string, policies ...string) string {
	t.Helper()
	made := v.Call(t, "POST", "auth/token/create", map[string]any{"policies": policies, "ttl": ttl, "no_parent": true})
	return made["auth"].(map[string]any)["client_token"].(string)
}

// Auth enables an auth method at the mount of its name; further calls do nothing.
func (v *VaultServer) Auth(t testing.TB, method string) {
	t.Helper()
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.enable[method] {
		v.Call(t, "POST", "sys/auth/"+method, map[string]string{"type": method})
		v.enable[method] = true
	}
}

// AppRole makes a role whose tokens have the policies and the ttl ("" for the
// default), named after the first policy.
func (v *VaultServer) AppRole(t testing.TB, ttl string, policies ...string) (roleID, secretID string) {
	t.Helper()
	v.Auth(t, "approle")
	role := "auth/approle/role/" + policies[0]
	v.Call(t, "POST", role, map[string]any{"token_policies": policies, "token_ttl": ttl})
	id := v.Call(t, "GET", role+"/role-id", nil)
	secret := v.Call(t, "POST", role+"/secret-id", nil)
	return id["data"].(map[string]any)["role_id"].(string), secret["data"].(map[string]any)["secret_id"].(string)
}

// Requests counts the requests by others than root so far, by operation and path:
// "read secret/data/certs/web1", "update auth/approle/login".
func (v *VaultServer) Requests(t testing.TB) map[string]int {
	t.Helper()
	log, err := os.ReadFile(v.audit)
	if err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	for line := range bytes.Lines(log) {
		if !bytes.HasSuffix(line, []byte("\n")) {
			break // is being written
		}
		var entry struct {
			Type string `json:"type"`
			Auth struct {
				DisplayName string `json:"display_name"`
			} `json:"auth"`
			Request struct {
				Operation string `json:"operation"`
				Path      string `json:"path"`
			} `json:"request"`
		}
		if err := json.Unmarshal(line, &entry); err != nil {
			t.Fatalf("vault: audit log: %v", err)
		}
		ours := entry.Auth.DisplayName == "root" || entry.Request.Path == "sys/audit/test" // written when the log was opened
		if entry.Type == "request" && !ours {
			count[fmt.Sprintf("%s %s", entry.Request.Operation, entry.Request.Path)]++
		}
	}
	return count
}

// await polls a path as root until it answers with status 200.
func (v *VaultServer) await(t testing.TB, path string) {
	t.Helper()
	if err := poll(func() error {
		status, _ := v.request(t, http.Header{"X-Vault-Token": {v.RootToken}}, "GET", path, nil)
		if status != http.StatusOK {
			return fmt.Errorf("vault: %s still answers with status %d", path, status)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}
