package certfiles

import (
	"os"
	"testing"
	"time"
)

// Changes are noticed, also in directories that were made meanwhile.
func TestNotices(t *testing.T) {
	t.Parallel()
	tr := newTree(t)
	n, err := Notice(t.Context(), []string{tr.dir})
	if err != nil {
		t.Fatal(err)
	}
	noticed := func(what string) {
		t.Helper()
		select {
		case <-n.C:
		case <-time.After(30 * time.Second):
			t.Fatalf("%s: not noticed", what)
		}
		if err := n.Extend([]string{tr.dir}); err != nil {
			t.Fatal(err)
		}
	}
	tr.write("new/deeper/x.pem", nil)
	noticed("directories")
	tr.write("new/deeper/x.pem", []byte("x"))
	noticed("a file in them")
	tr.link("x.pem", "new/deeper/fullchain.pem")
	noticed("a link")
	if err := os.Rename(tr.path("new"), tr.path("other")); err != nil {
		t.Fatal(err)
	}
	noticed("a renamed directory")
	tr.write("other/deeper/y.pem", nil)
	noticed("a file in it")
}
