package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
)

// api is an API server of one namespace, "web", with secrets and leases. Its watches end with the test.
type api struct {
	*httptest.Server
	t *testing.T

	mu      sync.Mutex
	version int
	secrets map[string]*corev1.Secret
	leases  map[string]*coordinationv1.Lease
	notes   []corev1.Event
	maps    map[string]*corev1.ConfigMap
	watches []chan metav1.WatchEvent
	deny    string // the resource whose requests are forbidden
	queries []string
}

func newAPI(t *testing.T) *api {
	a := &api{t: t, secrets: map[string]*corev1.Secret{}, leases: map[string]*coordinationv1.Lease{}, maps: map[string]*corev1.ConfigMap{}}
	a.Server = httptest.NewServer(a)
	t.Cleanup(func() { a.endWatches(); a.CloseClientConnections(); a.Close() })
	return a
}

func TestMain(m *testing.M) {
	quiet()
	os.Exit(m.Run())
}

// kubeconfig is the path of a kubeconfig file for this server.
func (a *api) kubeconfig() string {
	path := filepath.Join(a.t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`{apiVersion: v1, kind: Config, current-context: c, clusters: [{name: c, cluster: {server: %q}}], users: [{name: u, user: {token: t}}],
contexts: [{name: c, context: {cluster: c, user: u, namespace: web}}]}`, a.URL)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		a.t.Fatal(err)
	}
	return path
}

// put creates or changes a secret.
func (a *api) put(name, cert string, annotations map[string]string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	kind := "MODIFIED"
	if a.secrets[name] == nil {
		kind = "ADDED"
	}
	a.version++
	s := &corev1.Secret{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "web", Name: name, UID: "uid", ResourceVersion: fmt.Sprint(a.version), Annotations: annotations},
		Type:       corev1.SecretTypeTLS, Data: map[string][]byte{"tls.crt": []byte(cert), "tls.key": []byte("key of " + cert)}}
	a.secrets[name] = s
	a.tell(kind, s)
}

func (a *api) remove(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.version++
	s := a.secrets[name]
	s.ResourceVersion = fmt.Sprint(a.version)
	delete(a.secrets, name)
	a.tell("DELETED", s)
}

func (a *api) tell(kind string, s *corev1.Secret) {
	for _, w := range a.watches {
		w <- event(a.t, kind, s)
	}
}

func event(t *testing.T, kind string, s *corev1.Secret) metav1.WatchEvent {
	text, err := json.Marshal(s)
	if err != nil {
		t.Error(err)
	}
	e := metav1.WatchEvent{Type: kind}
	e.Object.Raw = text
	return e
}

// endWatches ends the watches, as an API server does at a restart.
func (a *api) endWatches() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, w := range a.watches {
		close(w)
	}
	a.watches = nil
}

func (a *api) forbid(resource string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.deny = resource
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	a.queries = append(a.queries, r.Method+" "+r.URL.String())
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	i := slices.Index(parts, "namespaces")
	resource, name := parts[i+2], strings.Join(parts[i+3:], "/")
	answer := func(status int, object any) {
		defer a.mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(object)
	}
	refuse := func(status int, reason metav1.StatusReason) {
		answer(status, metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure, Code: int32(status), Reason: reason, Message: resource + ": " + string(reason)})
	}
	switch {
	case a.deny == resource:
		refuse(http.StatusForbidden, metav1.StatusReasonForbidden)
	case resource == "events":
		e := &corev1.Event{}
		a.read(r, e)
		a.notes = append(a.notes, *e)
		answer(http.StatusCreated, e)
	case resource == "configmaps":
		a.serveMap(r, name, answer, refuse)
	case resource == "leases":
		a.serveLease(r, name, answer, refuse)
	case r.URL.Query().Get("sendInitialEvents") == "true": // an older server
		refuse(http.StatusUnprocessableEntity, metav1.StatusReasonInvalid)
	case r.URL.Query().Get("watch") == "true":
		changes := make(chan metav1.WatchEvent, 100)
		from, err := strconv.Atoi(r.URL.Query().Get("resourceVersion"))
		if err != nil {
			a.t.Error(err)
		}
		for _, s := range a.secrets { // what has changed since the list
			if version, _ := strconv.Atoi(s.ResourceVersion); version > from {
				changes <- event(a.t, "MODIFIED", s)
			}
		}
		a.watches = append(a.watches, changes)
		a.mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		w.(http.Flusher).Flush()
		for e := range changes {
			_ = json.NewEncoder(w).Encode(e)
			w.(http.Flusher).Flush()
		}
	default:
		list := corev1.SecretList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "SecretList"}, ListMeta: metav1.ListMeta{ResourceVersion: fmt.Sprint(a.version)}}
		for _, s := range a.secrets {
			list.Items = append(list.Items, *s)
		}
		answer(http.StatusOK, list)
	}
}

func (a *api) serveMap(r *http.Request, name string, answer func(int, any), refuse func(int, metav1.StatusReason)) {
	m := &corev1.ConfigMap{}
	if r.Method != http.MethodGet {
		a.read(r, m)
		name = m.Name
	}
	there := a.maps[name]
	switch {
	case r.Method == http.MethodGet && there == nil:
		refuse(http.StatusNotFound, metav1.StatusReasonNotFound)
	case r.Method == http.MethodGet:
		answer(http.StatusOK, there)
	case r.Method == http.MethodPut && there.ResourceVersion != m.ResourceVersion:
		refuse(http.StatusConflict, metav1.StatusReasonConflict)
	default:
		a.version++
		m.ResourceVersion = fmt.Sprint(a.version)
		m.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}
		a.maps[name] = m
		answer(http.StatusOK, m)
	}
}

// remembered is the content of a ConfigMap.
func (a *api) remembered(name string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.maps[name] == nil {
		return ""
	}
	return fmt.Sprint(a.maps[name].Data)
}

// read decodes a body, which is JSON or protobuf.
func (a *api) read(r *http.Request, into runtime.Object) {
	body, err := io.ReadAll(r.Body)
	if err == nil {
		_, _, err = scheme.Codecs.UniversalDeserializer().Decode(body, nil, into)
	}
	if err != nil {
		a.t.Error(err)
	}
}

func (a *api) serveLease(r *http.Request, name string, answer func(int, any), refuse func(int, metav1.StatusReason)) {
	var l coordinationv1.Lease
	if r.Method != http.MethodGet {
		a.read(r, &l)
		name = l.Name
	}
	there := a.leases[name]
	switch {
	case r.Method == http.MethodGet && there == nil:
		refuse(http.StatusNotFound, metav1.StatusReasonNotFound)
	case r.Method == http.MethodGet:
		answer(http.StatusOK, there)
	case r.Method == http.MethodPost && there != nil:
		refuse(http.StatusConflict, metav1.StatusReasonAlreadyExists)
	case r.Method == http.MethodPut && there.ResourceVersion != l.ResourceVersion:
		refuse(http.StatusConflict, metav1.StatusReasonConflict)
	default:
		a.version++
		l.ResourceVersion = fmt.Sprint(a.version)
		l.TypeMeta = metav1.TypeMeta{APIVersion: "coordination.k8s.io/v1", Kind: "Lease"}
		a.leases[name] = &l
		answer(http.StatusOK, l)
	}
}
