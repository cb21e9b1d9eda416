package dashboard

import (
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"testing"
)

// vendored are the SHA-256 hashes of third-party files, unchanged from the npm packages
// htmx.org 2.0.11 and htmx-ext-sse 2.2.4.
var vendored = map[string]string{
	"htmx.min.js":              "d6fdc75f204e6bdefa99b69bf1e6d4ac69b8a364f77929f45c13476b4000f717",
	"htmx-license.txt":         "d3d2456f76414f2456104660ebd65aff1c04cd7966b942bdabd63f3cdb316a38",
	"htmx-ext-sse.min.js":      "98a46496de0c3605fbffdce9167ba427bdd9553184f83f149c261891a92c0136",
	"htmx-ext-sse-license.txt": "a17d224ce9afdc21ec9491b76a2f5d036d19aa641ac4f85ca29c21f9f7e54fdf",
}

func TestVendoredFilesAreThosePublished(t *testing.T) {
	t.Parallel()
	entries, err := fs.ReadDir(static, "static/vendor")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		content, err := static.ReadFile("static/vendor/" + entry.Name())
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(content)
		if got := hex.EncodeToString(sum[:]); got != vendored[entry.Name()] {
			t.Errorf("%s has the SHA-256 %s: it differs from the published file", entry.Name(), got)
		}
	}
	if len(entries) != len(vendored) {
		t.Errorf("%d files are vendored, %d hashes are listed", len(entries), len(vendored))
	}
}
