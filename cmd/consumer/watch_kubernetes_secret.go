package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/payload"
)

// kubeState is what is known of a secret.
type kubeState string

const (
	kubeWaiting   kubeState = "waiting"
	kubePublished kubeState = "published"
	kubeRefused   kubeState = "refused"
)

// kubeSecret is a secret that exists. Certificate and key are there only while it waits.
type kubeSecret struct {
	kubeLine
	state  kubeState
	digest [sha256.Size]byte // of certificate, key and annotations
	leaf   [sha256.Size]byte // of tls.crt
	since  time.Time         // of the state
	reason string            // why it is refused, or still waits
	seen   bool              // since this process leads, or the helper runs
}

// secretID tells secrets apart.
func (l *kubeLine) secretID() string { return l.Namespace + "/" + l.Name }

// content identifies what is to be published.
func (l *kubeLine) content() [sha256.Size]byte {
	text, _ := json.Marshal([]any{l.Certificate, l.PrivateKey, l.Annotations}) // cannot fail
	defer clear(text)
	return sha256.Sum256(text)
}

// mark is what the helper remembers of a secret that is published: of its certificate and annotations.
func (l *kubeLine) mark() string {
	text, _ := json.Marshal([]any{l.Certificate, l.Annotations}) // cannot fail
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:16])
}

// forget drops certificate and key.
func (s *kubeSecret) forget() {
	clear(s.PrivateKey)
	s.Certificate, s.PrivateKey = nil, nil
}

// fill replaces {namespace} and {name}. Both are DNS names.
func (s *kubeSecret) fill(template string) string {
	return strings.NewReplacer("{namespace}", s.Namespace, "{name}", s.Name).Replace(template)
}

// kubeAnnotations are the annotations of a secret that are for Certpost.
type kubeAnnotations struct {
	targets commas
	labels  map[string]string
	keyRef  string
}

// commas is a list with commas.
type commas string

func (c commas) list() []string {
	if c == "" {
		return nil
	}
	var all []string
	for part := range strings.SplitSeq(string(c), ",") {
		all = append(all, strings.TrimSpace(part))
	}
	return all
}

// readAnnotations refuses what it does not know: a misspelt one would send a certificate elsewhere.
func readAnnotations(given map[string]string) (a kubeAnnotations, err error) {
	for _, name := range slices.Sorted(maps.Keys(given)) {
		value := given[name]
		switch name {
		case "targets":
			if a.targets = commas(strings.TrimSpace(value)); a.targets == "" {
				return a, errors.New("the annotation targets is empty: remove it if all targets that match are meant")
			}
		case "labels":
			a.labels = map[string]string{}
			for _, pair := range commas(value).list() {
				k, v, ok := strings.Cut(pair, "=")
				if !ok || k == "" {
					return a, fmt.Errorf("the annotation labels has %q, want name=value, separated by commas", printable(pair))
				}
				a.labels[k] = v
			}
		case "key-ref":
			a.keyRef = strings.TrimSpace(value)
		default:
			return a, fmt.Errorf("the annotation certpost.github.io/%s is unknown: use targets, labels and key-ref", printable(name))
		}
	}
	return a, nil
}

// temporaryIssuer issues the certificates that cert-manager puts into a secret until the real one is
// there (issue-temporary-certificate; pkg/util/pki of cert-manager 1.21).
const temporaryIssuer = "cert-manager.local"

// publication is the event of a secret, and the command that publishes it. The key is not stored
// yet. The error says why it cannot be published as it is.
func (c *watchKubernetesCmd) publication(s *kubeSecret) (*publishCmd, publication, error) {
	var p publication
	annotations, err := readAnnotations(s.Annotations)
	if err != nil {
		return nil, p, err
	}
	publish, err := c.publish(s, annotations)
	if err != nil {
		return nil, p, err
	}
	if len(s.Certificate) == 0 {
		return nil, p, errors.New("tls.crt is empty")
	}
	source := url.URL{Scheme: "kubernetes", Host: c.Cluster, Path: "/" + s.secretID()}
	p.ev, err = events.Issued{Chain: s.Certificate, Source: source.String()}.Event()
	if err != nil {
		return nil, p, fmt.Errorf("tls.crt: %w", err)
	}
	leaf, err := p.ev.Leaf()
	if err != nil {
		return nil, p, fmt.Errorf("tls.crt: %w", err)
	}
	if leaf.Issuer.CommonName == temporaryIssuer {
		return nil, p, errors.New("it is a temporary certificate of cert-manager; the issued one is published once it is there")
	}
	if annotations.keyRef != "" {
		publish.StoreKey, publish.KeyRef = "", annotations.keyRef
		if p.ev.PrivateKey, err = keyReference(annotations.keyRef); err != nil {
			return nil, p, fmt.Errorf("the annotation key-ref: %s", strings.TrimPrefix(err.Error(), "--key-ref: "))
		}
	}
	// Also without a copy of the key: a secret that is half written has a certificate of another key.
	if len(s.PrivateKey) == 0 {
		return nil, p, errors.New("tls.key is empty")
	}
	if err := payload.CheckKey(s.PrivateKey, leaf); err != nil {
		return nil, p, fmt.Errorf("tls.key: %s", reasonOf(err))
	}
	for k, v := range c.Label {
		publish.Label[k] = s.fill(v)
	}
	maps.Copy(publish.Label, annotations.labels)
	p.keyFile = "tls.key" // which --store-key stores
	p.ev.Targets, p.ev.Labels, p.ev.Subject = publish.Target, publish.Label, events.SourceSubject(publish.As)
	if len(publish.Label) == 0 {
		p.ev.Labels = nil
	}
	return publish, p, nil
}
