//go:build apiserver

package main

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/lab"
)

// cluster is a real API server with the manifests of examples/kubernetes.
type cluster struct {
	*lab.KubernetesServer
	publisherAt
	bin, token string
}

// paths are where the kinds of the manifests live; NAMESPACE and NAME are replaced.
var kubePaths = map[string]string{
	"ServiceAccount": "/api/v1/namespaces/NAMESPACE/serviceaccounts/NAME",
	"ConfigMap":      "/api/v1/namespaces/NAMESPACE/configmaps/NAME",
	"Role":           "/apis/rbac.authorization.k8s.io/v1/namespaces/NAMESPACE/roles/NAME",
	"RoleBinding":    "/apis/rbac.authorization.k8s.io/v1/namespaces/NAMESPACE/rolebindings/NAME",
	"Deployment":     "/apis/apps/v1/namespaces/NAMESPACE/deployments/NAME",
}

// apply applies a file of examples/kubernetes.
func (c *cluster) apply(file string) {
	c.t.Helper()
	text, err := os.ReadFile(root + "/examples/kubernetes/" + file)
	if err != nil {
		c.t.Fatal(err)
	}
	field := func(document, name string) string {
		m := regexp.MustCompile(`(?m)^(?:metadata: \{|  )?` + name + `: ([\w-]+)|[{ ]` + name + `: ([\w-]+)`).FindStringSubmatch(document)
		if m == nil {
			c.t.Fatalf("%s: no %s", file, name)
		}
		return m[1] + m[2]
	}
	for document := range strings.SplitSeq(string(text), "\n---\n") {
		path := kubePaths[field(document, "kind")]
		_, metadata, _ := strings.Cut(document, "\nmetadata:")
		c.Apply(c.t, strings.NewReplacer("NAMESPACE", field(metadata, "namespace"), "NAME", field(metadata, "name")).Replace(path), document)
	}
}

// put writes a TLS secret with the files of the publisher; an empty label means none.
func (c *cluster) put(namespace, name, kind, label, files string) {
	c.t.Helper()
	read := func(path string) string {
		text, err := os.ReadFile(c.path(path))
		if err != nil {
			c.t.Fatal(err)
		}
		return string(text)
	}
	metadata := map[string]any{"name": name, "namespace": namespace, "annotations": map[string]string{"certpost.github.io/targets": "ops"}}
	if label != "" {
		metadata["labels"] = map[string]string{"certpost.github.io/publish": label}
	}
	object := map[string]any{"apiVersion": "v1", "kind": "Secret", "type": kind, "metadata": metadata, "stringData": map[string]string{"tls.crt": read(files + ".pem"), "tls.key": read(files + ".key")}}
	at := "/api/v1/namespaces/" + namespace + "/secrets"
	if status, _ := c.Call(c.t, "", http.MethodGet, at+"/"+name, nil); status == http.StatusOK {
		if status, answer := c.Call(c.t, "", http.MethodPut, at+"/"+name, object); status != http.StatusOK {
			c.t.Fatalf("%d %v", status, answer["message"])
		}
		return
	}
	c.Create(c.t, at, object)
}

// command is the command line of a replica.
func (c *cluster) command(args ...string) []string {
	return append([]string{filepath.Join(c.bin, "certpost"), "-c", c.path("certpost.yaml"), "watch", "kubernetes",
		"--store-key", "vault:secret/kubernetes/{namespace}/{name}#private_key", "--as", "kubernetes.{namespace}"}, args...)
}

// replica starts `certpost watch kubernetes` with the service account.
func (c *cluster) replica(args ...string) *watching {
	c.t.Helper()
	kubeconfig := filepath.Join(c.t.TempDir(), "kubeconfig")
	lab.Write(c.t, kubeconfig, []byte(c.Kubeconfig(c.token, "certpost")))
	line := c.command(append(args, "--kubeconfig", kubeconfig)...)
	return c.start(exec.Command(line[0], line[1:]...))
}

// pod starts it as in a pod of a namespace, with a /run of its own: root alone may do that.
func (c *cluster) pod(namespace string) *watching {
	c.t.Helper()
	script := `set -e
token=$1 ca=$2 namespace=$3; shift 3
cert=$(cat "$ca")
mount -t tmpfs tmpfs /run
files=/run/secrets/kubernetes.io/serviceaccount
mkdir -p $files
printf %s "$token" > $files/token; printf '%s\n' "$cert" > $files/ca.crt; printf %s "$namespace" > $files/namespace
exec "$@"`
	line := append([]string{"-m", "sh", "-c", script, "sh", c.token, c.CAFile, namespace}, c.command("--lease", "none", "--memory", "none", "--listen", "none")...)
	cmd := exec.Command("unshare", line...)
	host, port := lab.HostPort(c.t, strings.TrimPrefix(c.URL, "https://"))
	cmd.Env = append(os.Environ(), "HOME=/nonexistent", "KUBECONFIG=", "KUBERNETES_SERVICE_HOST="+host, fmt.Sprintf("KUBERNETES_SERVICE_PORT=%d", port))
	return c.start(cmd)
}

func (c *cluster) start(cmd *exec.Cmd) *watching {
	c.t.Helper()
	w := &watching{publisherAt: c.publisherAt, cmd: cmd, log: filepath.Join(c.t.TempDir(), "log")}
	log, err := os.Create(w.log)
	if err != nil {
		c.t.Fatal(err)
	}
	defer log.Close()
	w.cmd.Stderr = log
	if err := w.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		w.cmd.Process.Kill()
		w.cmd.Wait()
		if strings.Contains(w.logged(), "PRIVATE KEY") {
			c.t.Error("the log has a private key")
		}
		if c.t.Failed() {
			c.t.Log(w.logged())
		}
	})
	return w
}

// The watcher with the rights of the manifests, on a real API server: renewals, a killed leader, a
// restarted API server, secrets that are not for it. Each certificate is published once.
func TestWatchKubernetesAPIServer(t *testing.T) {
	vault := lab.Vault(t)
	vault.Policy(t, "keys", `path "secret/data/kubernetes/*" { capabilities = ["create", "update", "patch", "read"] }`)
	addr := lab.FreeAddress(t)
	p := newPublisher(t, "nats://"+addr, "vault: {address: \""+vault.Address+"\", auth: {method: token, token: {value: \""+vault.Token(t, "1h", "keys")+"\"}}}\n")
	lab.NATS(t, addr, "")
	stream := eventStream(t, "nats://"+addr, -1)
	c := &cluster{KubernetesServer: lab.Kubernetes(t), publisherAt: p, bin: t.TempDir()}
	if err := os.Link(lab.Build(t), filepath.Join(c.bin, "certpost")); err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-C", root+"/cmd/certpost-kubernetes", "-o", c.bin+"/", ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, name := range []string{"certpost", "web", "other"} {
		c.Create(t, "/api/v1/namespaces", map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": name,
			"labels": map[string]string{"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "restricted"}}})
	}
	c.apply("watcher.yaml")
	c.apply("namespace.yaml")
	c.token = c.AccountToken(t, "certpost", "certpost-watcher")

	p.issue("www.example.com")
	c.put("web", "www-tls", "kubernetes.io/tls", "true", "www.example.com")
	c.put("web", "unlabelled", "kubernetes.io/tls", "", "www.example.com")
	c.put("web", "not-now", "kubernetes.io/tls", "false", "www.example.com")
	c.put("web", "opaque", "Opaque", "true", "www.example.com")
	c.put("other", "www-tls", "kubernetes.io/tls", "true", "www.example.com")

	t.Run("rights", func(t *testing.T) {
		for request, want := range map[string]int{
			"GET /api/v1/namespaces/web/secrets":                                                 http.StatusOK,
			"GET /api/v1/namespaces/web/secrets/www-tls":                                         http.StatusForbidden,
			"GET /api/v1/namespaces/other/secrets":                                               http.StatusForbidden,
			"GET /api/v1/namespaces/certpost/secrets":                                            http.StatusForbidden,
			"GET /api/v1/secrets":                                                                http.StatusForbidden,
			"DELETE /api/v1/namespaces/web/secrets/www-tls":                                      http.StatusForbidden,
			"GET /api/v1/namespaces/certpost/configmaps/certpost-kubernetes":                     http.StatusNotFound,
			"GET /api/v1/namespaces/certpost/configmaps/certpost-watcher":                        http.StatusForbidden,
			"GET /api/v1/namespaces/web/configmaps":                                              http.StatusForbidden,
			"GET /apis/coordination.k8s.io/v1/namespaces/certpost/leases/other":                  http.StatusForbidden,
			"GET /apis/coordination.k8s.io/v1/namespaces/certpost/leases":                        http.StatusForbidden,
			"DELETE /apis/coordination.k8s.io/v1/namespaces/certpost/leases/certpost-kubernetes": http.StatusForbidden,
			"GET /apis/coordination.k8s.io/v1/namespaces/web/leases/certpost-kubernetes":         http.StatusForbidden,
			"GET /apis/rbac.authorization.k8s.io/v1/namespaces/certpost/roles/certpost-watcher":  http.StatusForbidden,
			"GET /apis/coordination.k8s.io/v1/namespaces/certpost/leases/certpost-kubernetes":    http.StatusNotFound,
		} {
			method, path, _ := strings.Cut(request, " ")
			if status, answer := c.Call(t, c.token, method, path, nil); status != want {
				t.Errorf("%s: %d %v, want %d", request, status, answer["message"], want)
			}
		}
	})

	health := lab.FreeAddress(t)
	one := c.replica("--namespace", "web", "--listen", health)
	one.until("published", func() bool { return lengthOf(t, stream) == 1 })
	two := c.replica("--namespace", "web", "--listen", "none")
	two.until("standby", func() bool { return strings.Contains(two.logged(), "another replica publishes") })
	if got := getText(t, "http://"+health+"/healthz"); got != `200 {"status":"healthy","role":"leading","secrets":{"published":1}}` {
		t.Error(got)
	}
	first := ids(t, stream)[0]
	told := func(id string) func() bool {
		return func() bool {
			_, answer := c.Call(t, "", http.MethodGet, "/api/v1/namespaces/web/events", nil)
			return strings.Contains(fmt.Sprint(answer["items"]), "Certificate published as event "+id)
		}
	}
	one.until("an event at the secret", told(first))

	began := time.Now()
	p.issue("www.example.com")
	c.put("web", "www-tls", "kubernetes.io/tls", "true", "www.example.com")
	one.until("the renewal", func() bool { return lengthOf(t, stream) == 2 })
	t.Logf("a renewal was published after %v", time.Since(began))

	// A half-written secret: the certificate of one pair, the key of another one.
	text, err := os.ReadFile(p.path("www.example.com.key"))
	if err != nil {
		t.Fatal(err)
	}
	p.issue("www.example.com")
	newKey, err := os.ReadFile(p.path("www.example.com.key"))
	if err != nil {
		t.Fatal(err)
	}
	lab.Write(t, p.path("www.example.com.key"), text)
	c.put("web", "www-tls", "kubernetes.io/tls", "true", "www.example.com")
	one.until("refused", func() bool {
		return strings.Contains(one.logged(), "tls.key: the private key does not match the certificate")
	})
	lab.Write(t, p.path("www.example.com.key"), newKey)
	c.put("web", "www-tls", "kubernetes.io/tls", "true", "www.example.com")
	one.until("the other half", func() bool { return lengthOf(t, stream) == 3 })

	// Killed with its helper's lease; a certificate that is issued before another one leads.
	one.kill()
	p.issue("www.example.com")
	c.put("web", "www-tls", "kubernetes.io/tls", "true", "www.example.com")
	began = time.Now()
	two.until("the other replica", func() bool { return lengthOf(t, stream) == 4 })
	t.Logf("the other replica took over after %v", time.Since(began))

	// The API server restarts, and the watches go on.
	c.Stop(t)
	two.until("trouble", func() bool { return strings.Contains(two.logged(), "Kubernetes cannot be watched") })
	c.Start(t)
	p.issue("www.example.com")
	c.put("web", "www-tls", "kubernetes.io/tls", "true", "www.example.com")
	two.until("published after the restart", func() bool { return lengthOf(t, stream) == 5 })

	// A new replica, after a graceful end, publishes nothing again. What is told is remembered.
	two.until("an event about the last one", told(ids(t, stream)[4]))
	two.cmd.Process.Signal(os.Interrupt)
	if err := two.cmd.Wait(); err != nil {
		t.Errorf("ended with %v", err)
	}
	began = time.Now()
	three := c.replica("--namespace", "web", "--listen", "none")
	three.until("all known", func() bool { return strings.Contains(three.logged(), `"secrets":1`) })
	if strings.Contains(three.logged(), `"event":`) {
		t.Error("what is remembered was looked for")
	}
	t.Logf("after a graceful end the next one led after %v", time.Since(began))

	// A namespace without rights is said, and does not keep the others from being published.
	four := c.replica("--namespace", "web", "--namespace", "other", "--lease", "none", "--memory", "none", "--listen", "none")
	four.until("forbidden", func() bool {
		return strings.Contains(four.logged(), "list and watch secrets in namespace other: ") && strings.Contains(four.logged(), "it was published before")
	})

	// As in a pod: the service account's files, and the pod's namespace.
	five := c.pod("web")
	five.until("as in a pod", func() bool { return strings.Contains(five.logged(), "it was published before") })
	if n := lengthOf(t, stream); n != 5 {
		t.Errorf("%d events, want 5: %q", n, ids(t, stream))
	}
	key := vault.Call(t, "GET", "secret/data/kubernetes/web/www-tls", nil)["data"].(map[string]any)["metadata"].(map[string]any)["version"]
	if fmt.Sprint(key) != "5" {
		t.Errorf("Vault has version %v of the key, want 5", key)
	}
}
