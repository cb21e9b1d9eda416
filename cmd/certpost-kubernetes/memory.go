package main

import (
	"context"
	"maps"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
)

// memory is a ConfigMap that says of each secret what was published of it last: the digest that
// certpost has given. Without it, who leads next would publish everything again, and a delivery whose
// dead letter was discarded would come back. A nil memory remembers nothing.
type memory struct {
	client corev1client.ConfigMapInterface
	name   string
	*reporter

	saving sync.Mutex // one save at a time
	mu     sync.Mutex
	data   map[string]string
	change map[string]*string // not saved yet; nil removes
	wake   chan struct{}
}

func newMemory(client corev1client.ConfigMapInterface, name string, r *reporter) *memory {
	return &memory{client: client, name: name, reporter: r, change: map[string]*string{}, wake: make(chan struct{}, 1)}
}

// memoryRetry is the pause after a failure.
const memoryRetry = 2 * time.Second

// memoryBurst is how long changes are collected.
const memoryBurst = 200 * time.Millisecond

// memoryTimeout bounds one request.
const memoryTimeout = 5 * time.Second

// secretKey is the secret's key in the ConfigMap. A namespace has no dots, so no two are the same.
func secretKey(namespace, name string) string { return namespace + "." + name }

func (m *memory) task() string { return "remember in the ConfigMap " + m.name + " what was published" }

// load reads what was published, and tries again until it can or the context ends: without it,
// everything would be published again.
func (m *memory) load(ctx context.Context) bool {
	if m == nil {
		return true
	}
	for ctx.Err() == nil {
		there, err := m.get(ctx)
		if ctx.Err() == nil {
			m.troubled(m.task(), err)
		}
		if err == nil {
			m.mu.Lock()
			m.data, m.change = map[string]string{}, map[string]*string{}
			maps.Copy(m.data, there.Data)
			m.mu.Unlock()
			return true
		}
		select {
		case <-ctx.Done():
		case <-time.After(memoryRetry):
		}
	}
	return false
}

// get returns the ConfigMap, which has no version if it does not exist.
func (m *memory) get(ctx context.Context) (*corev1.ConfigMap, error) {
	ctx, cancel := context.WithTimeout(ctx, memoryTimeout)
	defer cancel()
	there, err := m.client.Get(ctx, m.name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: m.name}}, nil
	}
	return there, err
}

// published is the digest of what was published of a secret, "" if nothing was.
func (m *memory) published(namespace, name string) string {
	if m == nil {
		return ""
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.data[secretKey(namespace, name)]
}

// set remembers a digest; "" forgets the secret.
func (m *memory) set(namespace, name, digest string) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	key := secretKey(namespace, name)
	switch {
	case m.data == nil || m.data[key] == digest: // this process does not lead, or it is known
		return
	case digest == "":
		delete(m.data, key)
		m.change[key] = nil
	default:
		m.data[key] = digest
		m.change[key] = &digest
	}
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// keep saves changes until the context ends, and the last ones then.
func (m *memory) keep(ctx context.Context) {
	if m == nil {
		return
	}
	var due <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			m.save(context.WithoutCancel(ctx))
			return
		case <-m.wake:
			if due == nil {
				due = time.After(memoryBurst)
			}
		case <-due:
			if due = nil; !m.save(ctx) {
				due = time.After(memoryRetry)
			}
		}
	}
}

// save writes the changes into the ConfigMap as it is now.
func (m *memory) save(ctx context.Context) (saved bool) {
	m.saving.Lock()
	defer m.saving.Unlock()
	m.mu.Lock()
	changes := maps.Clone(m.change)
	m.mu.Unlock()
	if len(changes) == 0 {
		return true
	}
	there, err := m.get(ctx)
	if err == nil {
		if there.Data == nil {
			there.Data = map[string]string{}
		}
		for key, digest := range changes {
			if digest == nil {
				delete(there.Data, key)
			} else {
				there.Data[key] = *digest
			}
		}
		ctx, cancel := context.WithTimeout(ctx, memoryTimeout)
		defer cancel()
		if there.ResourceVersion == "" {
			_, err = m.client.Create(ctx, there, metav1.CreateOptions{})
		} else {
			_, err = m.client.Update(ctx, there, metav1.UpdateOptions{})
		}
	}
	if err != nil {
		if !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) { // another writer: again
			m.troubled(m.task(), err)
		}
		return false
	}
	m.troubled(m.task(), nil)
	m.mu.Lock()
	defer m.mu.Unlock()
	for key, digest := range changes {
		if m.change[key] == digest { // not changed again meanwhile
			delete(m.change, key)
		}
	}
	return true
}

// prune forgets secrets of a namespace that do not exist any more; "" is all namespaces.
func (m *memory) prune(namespace string, exists func(namespace, name string) bool) {
	if m == nil {
		return
	}
	m.mu.Lock()
	var gone [][2]string
	for key := range m.data {
		of, name, _ := strings.Cut(key, ".")
		if (namespace == "" || namespace == of) && !exists(of, name) {
			gone = append(gone, [2]string{of, name})
		}
	}
	m.mu.Unlock()
	for _, s := range gone {
		m.set(s[0], s[1], "")
	}
}
