//go:build apiserver

package lab

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// KubernetesServer is a real kube-apiserver with etcd: with role-based access control, and without
// controllers and kubelets, so that no pod runs.
type KubernetesServer struct {
	URL    string
	CAFile string

	admin   string // token of a member of system:masters
	client  *http.Client
	process *process
	command func() *exec.Cmd
	log     string
}

// Kubernetes starts the server, and stops it when the test ends. Only nightly tests use it: building
// kube-apiserver takes ten minutes (task test:kubernetes).
func Kubernetes(t testing.TB) *KubernetesServer {
	t.Helper()
	etcd, program := Need(t, "etcd"), Need(t, "kube-apiserver")
	dir := t.TempDir()
	client, peer, addr := "http://"+FreeAddress(t), "http://"+FreeAddress(t), FreeAddress(t)
	startProcess(t, "etcd", filepath.Join(dir, "etcd.log"), exec.Command(etcd, "--unsafe-no-fsync", "--data-dir", mkdir(t, dir, "etcd"), "--name", "lab",
		"--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "lab="+peer))
	k := &KubernetesServer{URL: "https://" + addr, CAFile: filepath.Join(dir, "ca.pem"), admin: "admin-of-the-lab", log: filepath.Join(dir, "kube-apiserver.log")}
	valid := func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	}
	ca := Issue(t, nil, NewKey(t, "p256"), "CA of the API server", AsCA, valid)
	host, port := HostPort(t, addr)
	server := Issue(t, ca, NewKey(t, "p256"), "API server", func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.ParseIP(host)} }, valid)
	Write(t, k.CAFile, PEM(ca))
	accounts := NewKey(t, "p256")
	public, err := x509.MarshalPKIXPublicKey(accounts.Public())
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{
		"server.pem": PEM(server), "server.key": KeyPEM(t, server.Key), "tokens.csv": []byte(k.admin + ",admin,admin,system:masters\n"),
		"accounts.key": KeyPEM(t, accounts), "accounts.pem": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}),
	} {
		Write(t, filepath.Join(dir, name), text)
	}
	k.command = func() *exec.Cmd {
		return exec.Command(program, "--etcd-servers", client, "--bind-address", host, "--secure-port", fmt.Sprint(port), "--cert-dir", dir,
			"--tls-cert-file", filepath.Join(dir, "server.pem"), "--tls-private-key-file", filepath.Join(dir, "server.key"),
			"--token-auth-file", filepath.Join(dir, "tokens.csv"), "--authorization-mode", "RBAC",
			"--service-account-issuer", "https://kubernetes.default.svc", "--service-account-signing-key-file", filepath.Join(dir, "accounts.key"), "--service-account-key-file", filepath.Join(dir, "accounts.pem"),
			"--service-cluster-ip-range", "10.0.0.0/24", "--endpoint-reconciler-type", "none", "--disable-admission-plugins", "ServiceAccount")
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca.Certificate)
	k.client = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	k.Start(t)
	return k
}

// Start starts the server again after Stop, and waits until it is ready.
func (k *KubernetesServer) Start(t testing.TB) {
	t.Helper()
	k.process = startProcess(t, "kube-apiserver", k.log, k.command())
	for end := time.Now().Add(2 * patience); ; time.Sleep(100 * time.Millisecond) {
		status, _, err := k.request(t.Context(), http.MethodGet, "/readyz", k.admin, "", nil)
		if err == nil && status == http.StatusOK {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("kube-apiserver is not ready: %d, %v", status, err)
		}
	}
}

// Stop stops the server; etcd keeps what it has.
func (k *KubernetesServer) Stop(t testing.TB) {
	t.Helper()
	k.process.stop(t)
}

// Call makes a request as the administrator, or with a token, and returns status and body. A body
// that is a string is YAML to apply.
func (k *KubernetesServer) Call(t testing.TB, token, method, path string, body any) (int, map[string]any) {
	t.Helper()
	if token == "" {
		token = k.admin
	}
	kind, text := "application/json", []byte(nil)
	if yaml, ok := body.(string); ok {
		kind, text = applyPatch, []byte(yaml)
	} else if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			t.Fatal(err)
		}
		if method == http.MethodPatch {
			kind = "application/merge-patch+json"
		}
	}
	status, answer, err := k.request(t.Context(), method, path, token, kind, text)
	if err != nil {
		t.Fatal(err)
	}
	var object map[string]any
	if err := json.Unmarshal(answer, &object); err != nil {
		t.Fatalf("%s %s: %d %s", method, path, status, answer)
	}
	return status, object
}

// Create makes an object as the administrator.
func (k *KubernetesServer) Create(t testing.TB, path string, body any) {
	t.Helper()
	if status, answer := k.Call(t, "", http.MethodPost, path, body); status != http.StatusCreated {
		t.Fatalf("%s: %d %v", path, status, answer["message"])
	}
}

const applyPatch = "application/apply-patch+yaml"

// Apply applies YAML on the server, strictly: an unknown field is an error, and a warning too.
func (k *KubernetesServer) Apply(t testing.TB, path, yaml string) {
	t.Helper()
	status, answer := k.Call(t, "", http.MethodPatch, path+"?fieldManager=lab&fieldValidation=Strict", yaml)
	if status != http.StatusOK && status != http.StatusCreated {
		t.Errorf("%s: %d %v", path, status, answer["message"])
	}
}

// AccountToken is a token of a service account.
func (k *KubernetesServer) AccountToken(t testing.TB, namespace, name string) string {
	t.Helper()
	status, answer := k.Call(t, "", http.MethodPost, "/api/v1/namespaces/"+namespace+"/serviceaccounts/"+name+"/token",
		map[string]any{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": map[string]any{}})
	if status != http.StatusCreated {
		t.Fatalf("token of %s: %d %v", name, status, answer["message"])
	}
	return answer["status"].(map[string]any)["token"].(string)
}

// Kubeconfig is the content of a kubeconfig for a token and a namespace; without a token it is the
// administrator's.
func (k *KubernetesServer) Kubeconfig(token, namespace string) string {
	token = cmp.Or(token, k.admin)
	return fmt.Sprintf(`{apiVersion: v1, kind: Config, current-context: lab, clusters: [{name: lab, cluster: {server: %q, certificate-authority: %q}}],
users: [{name: lab, user: {token: %q}}], contexts: [{name: lab, context: {cluster: lab, user: lab, namespace: %q}}]}`, k.URL, k.CAFile, token, namespace)
}

func (k *KubernetesServer) request(ctx context.Context, method, path, token, kind string, body []byte) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, k.URL+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	resp, err := k.client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if warnings := resp.Header.Values("Warning"); len(warnings) > 0 && kind == applyPatch {
		return resp.StatusCode, nil, fmt.Errorf("%s %s: %s", method, path, strings.Join(warnings, "; "))
	}
	return resp.StatusCode, answer, err
}
