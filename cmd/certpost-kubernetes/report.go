package main

import (
	"encoding/json"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
)

// protocol is the version of the lines. The copy in certpost's watch_kubernetes_helper.go must be the same.
const protocol = 1

// The types of lines.
const (
	typeHello    = "hello"    // the first line
	typeStandby  = "standby"  // another replica leads: Holder
	typeLeading  = "leading"  // this one leads, and reports all secrets anew
	typeSecret   = "secret"   // a secret that exists; again at each change, and at each resync
	typeGone     = "gone"     // a secret that was deleted, or is not selected any more
	typeComplete = "complete" // all secrets that existed at the beginning are reported
	typeTrouble  = "trouble"  // what keeps it from seeing secrets or leading; without Text all is well again
)

// line is one line of output, with the fields that its type has.
type line struct {
	Type        string            `json:"type"`
	Protocol    int               `json:"protocol,omitempty"`
	Holder      string            `json:"holder,omitempty"`
	Namespace   string            `json:"namespace,omitempty"`
	Name        string            `json:"name,omitempty"`
	UID         string            `json:"uid,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"` // those of Certpost, without the prefix
	Certificate []byte            `json:"certificate,omitempty"` // tls.crt
	PrivateKey  []byte            `json:"private_key,omitempty"` // tls.key
	Published   string            `json:"published,omitempty"`   // digest of the last note that said so
	Text        string            `json:"text,omitempty"`
}

// reporter writes lines. If the reader is gone it ends the program.
type reporter struct {
	failed func()

	mu      sync.Mutex
	out     io.Writer
	lost    error
	trouble map[string]string // by what is troubled
}

func (r *reporter) report(l line) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.write(l)
}

func (r *reporter) write(l line) {
	text, err := json.Marshal(l)
	if err == nil {
		_, err = r.out.Write(append(text, '\n'))
		clear(text)
	}
	if err != nil && r.lost == nil {
		r.lost = err
		r.failed()
	}
}

func (r *reporter) err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lost
}

// troubled reports that something fails, or, with a nil error, that it does not any more. The same
// error is reported once.
func (r *reporter) troubled(what string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	text := ""
	if err != nil {
		text = what + ": " + err.Error()
	}
	if r.trouble[what] == text {
		return
	}
	if r.trouble == nil {
		r.trouble = map[string]string{}
	}
	if text == "" {
		delete(r.trouble, what)
	} else {
		r.trouble[what] = text
	}
	var all []string
	for _, what := range slices.Sorted(maps.Keys(r.trouble)) {
		all = append(all, r.trouble[what])
	}
	r.write(line{Type: typeTrouble, Text: strings.Join(all, "; ")})
}
