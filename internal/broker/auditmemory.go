package broker

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// auditMemory is what a process keeps of the audit outside of NATS: what was verified cannot
// be cut off or rewritten unnoticed, even together with the stream.
type auditMemory struct {
	Head   Anchor `json:"head"`   // the last record that was verified
	Sealed bool   `json:"sealed"` // records are signed
	// Closed is the last record of which the audit says that it expires.
	Closed uint64 `json:"closed,omitempty"`
}

// anchors returns the anchor of the last verified record.
func (m *auditMemory) anchors() []Anchor {
	if m.Head.Sequence == 0 {
		return nil
	}
	return []Anchor{m.Head}
}

// readMemory reads the file; nil if there is none, or if it cannot be read.
func readMemory(path string) *auditMemory {
	if path == "" {
		return nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	var m auditMemory
	if json.Unmarshal(text, &m) != nil {
		return nil
	}
	return &m
}

// write replaces the file.
func (m *auditMemory) write(path string) error {
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	next := filepath.Join(filepath.Dir(path), filepath.Base(path)+".new")
	if err := os.WriteFile(next, text, 0o600); err != nil {
		return fmt.Errorf("the audit's last verified record cannot be kept: %w", err)
	}
	if err := os.Rename(next, path); err != nil {
		return fmt.Errorf("the audit's last verified record cannot be kept: %w", err)
	}
	return nil
}
