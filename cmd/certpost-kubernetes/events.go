package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
)

// note is one line of input: what became of a secret.
type note struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	UID       string `json:"uid"`
	Refused   bool   `json:"refused"` // else it is published
	Digest    string `json:"digest"`  // of what is published
	Text      string `json:"text"`    // for an event; "" writes none
}

// maxMessage bounds the message of an event (Kubernetes' own limit, in bytes).
const maxMessage = 1024

// noteWriter writes notes as events of the secrets, where `kubectl describe` shows them. They are a
// courtesy: without the right to write them, all else works.
type noteWriter struct {
	events corev1client.EventsGetter
	memory *memory
	failed bool
}

func (w *noteWriter) write(ctx context.Context, text []byte) {
	var n note
	if err := json.Unmarshal(text, &n); err != nil {
		return
	}
	if n.Digest != "" {
		w.memory.set(n.Namespace, n.Name, n.Digest)
	}
	if n.Text == "" || w.failed {
		return
	}
	now := metav1.Now()
	reason, kind := "Published", corev1.EventTypeNormal
	if n.Refused {
		reason, kind = "NotPublished", corev1.EventTypeWarning
	}
	if len(n.Text) > maxMessage {
		n.Text = n.Text[:maxMessage-3] + "..."
	}
	// The name depends on the text: a note that is written again after a restart is there already.
	sum := sha256.Sum256([]byte(n.UID + reason + n.Text))
	e := &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: n.Namespace, Name: fmt.Sprintf("%.200s.%s", n.Name, hex.EncodeToString(sum[:8]))},
		InvolvedObject: corev1.ObjectReference{APIVersion: "v1", Kind: "Secret", Namespace: n.Namespace, Name: n.Name, UID: types.UID(n.UID)},
		Type:           kind, Reason: reason, Message: n.Text, Count: 1,
		FirstTimestamp: now, LastTimestamp: now,
		Source: corev1.EventSource{Component: "certpost"},
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, err := w.events.Events(n.Namespace).Create(ctx, e, metav1.CreateOptions{})
	if apierrors.IsForbidden(err) {
		w.failed = true
		fmt.Fprintln(os.Stderr, "what became of secrets is not written as events of Kubernetes, because the service account may not create events")
	}
}
