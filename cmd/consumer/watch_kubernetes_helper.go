package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"
)

// kubeProtocol is the version of the lines, the same as in cmd/certpost-kubernetes/report.go.
const kubeProtocol = 1

// The types of lines; cmd/certpost-kubernetes/report.go says what they mean.
const (
	kubeHello    = "hello"
	kubeStandby  = "standby"
	kubeLeading  = "leading"
	kubeFound    = "secret"
	kubeGone     = "gone"
	kubeComplete = "complete"
	kubeTrouble  = "trouble"
)

// kubeLine is a line that the helper writes.
type kubeLine struct {
	Type        string            `json:"type"`
	Protocol    int               `json:"protocol"`
	Holder      string            `json:"holder"`
	Namespace   string            `json:"namespace"`
	Name        string            `json:"name"`
	UID         string            `json:"uid"`
	Annotations map[string]string `json:"annotations"`
	Certificate []byte            `json:"certificate"`
	PrivateKey  []byte            `json:"private_key"`
	Published   string            `json:"published"`
	Text        string            `json:"text"`
}

// kubeNote is a line that the helper reads: what became of a secret.
type kubeNote struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	UID       string `json:"uid"`
	Refused   bool   `json:"refused"`
	Digest    string `json:"digest"`
	Text      string `json:"text"`
}

// maxKubeLine bounds a line: a secret has at most 1 MiB, and its values are written in base 64.
const maxKubeLine = 4 << 20

// helperProcess is a running certpost-kubernetes.
type helperProcess struct {
	lines chan kubeLine // closed when it has ended
	notes chan kubeNote
	cmd   *exec.Cmd
	ended chan error
	stop  func() // it reads the notes that were given, and ends

	stopped chan struct{} // closed by stop
}

// startHelper starts the program. It ends with the context, at the latest 15 s later.
func startHelper(ctx context.Context, path string, args, env []string, stderr io.Writer) (*helperProcess, error) {
	h := &helperProcess{lines: make(chan kubeLine), notes: make(chan kubeNote, 1000), ended: make(chan error, 1), stopped: make(chan struct{})}
	h.stop = sync.OnceFunc(func() { close(h.stopped) })
	h.cmd = exec.CommandContext(ctx, path, args...)
	// Settings and secrets of this program are none of the helper's business.
	h.cmd.Env = slices.DeleteFunc(slices.Clone(env), func(v string) bool { return strings.HasPrefix(v, "CERTPOST_") })
	h.cmd.Stderr = stderr
	in, err := h.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := h.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	h.cmd.Cancel = func() error { h.stop(); return nil } // it gives up its lease, and ends
	h.cmd.WaitDelay = 15 * time.Second
	if err := h.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start certpost-kubernetes: %w", err)
	}
	go func() {
		defer in.Close()
		h.writeNotes(in)
	}()
	go func() {
		defer close(h.lines)
		err := h.read(ctx, out)
		h.stop()
		_, _ = io.Copy(io.Discard, out) // so that it can end
		h.ended <- errors.Join(err, h.cmd.Wait())
	}()
	return h, nil
}

// read passes the lines on.
func (h *helperProcess) read(ctx context.Context, out io.Reader) error {
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, maxKubeLine)
	for n := 0; lines.Scan(); n++ {
		var l kubeLine
		err := json.Unmarshal(lines.Bytes(), &l)
		clear(lines.Bytes()) // it may hold a private key; an error would quote it
		switch {
		case n == 0 && (err != nil || l.Type != kubeHello || l.Protocol != kubeProtocol):
			return &failure{exitUsage, fmt.Errorf("%s is of another version than this certpost: install both from one release", h.cmd.Path)}
		case err != nil:
			return errors.New("certpost-kubernetes has written a line that cannot be read")
		}
		select {
		case h.lines <- l:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return lines.Err()
}

// writeNotes writes notes until the helper is to end, and then those that are left.
func (h *helperProcess) writeNotes(in io.Writer) {
	write := func(n kubeNote) bool {
		text, err := json.Marshal(n)
		if err == nil {
			_, err = in.Write(append(text, '\n'))
		}
		return err == nil
	}
	for {
		select {
		case n := <-h.notes:
			if !write(n) {
				return
			}
		case <-h.stopped:
			for {
				select {
				case n := <-h.notes:
					if !write(n) {
						return
					}
				default:
					return
				}
			}
		}
	}
}

// note tells the helper what became of a secret. It waits a moment if the helper is slow: a note that
// is lost may publish a certificate once more after a restart.
func (h *helperProcess) note(n kubeNote) {
	select {
	case h.notes <- n:
	case <-h.stopped:
	case <-time.After(noteTimeout):
	}
}

const noteTimeout = 10 * time.Second
