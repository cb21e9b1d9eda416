package delivery

import (
	"bytes"
	"testing"
)

// The memory of a mail is overwritten before another mail gets it: the mail may have a private key.
func TestDraftsAreCleared(t *testing.T) { // not parallel: another test would get the draft while this one looks at it
	target := testTarget()
	m, err := renderMail(target, goldenFacts(t, target))
	if err != nil {
		t.Fatal(err)
	}
	d := m.draft
	parts := [][]byte{m.raw, d.text.Bytes(), d.html.Bytes(), d.raw.Bytes()}
	for i, part := range parts {
		if len(bytes.Trim(part, "\x00")) == 0 {
			t.Fatalf("part %d is empty before", i)
		}
	}
	m.release()
	for i, part := range parts {
		if left := bytes.Trim(part, "\x00"); len(left) != 0 {
			t.Errorf("part %d: %d bytes are left", i, len(left))
		}
	}
	if m.raw != nil || d.text.Len()+d.html.Len()+d.raw.Len() != 0 {
		t.Error("the mail can still be read")
	}
	(*message)(nil).release() // a delivery that failed before its mail was made
}
