package dashboard

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"io/fs"
	"net/http"
	"path"
	"strings"
)

//go:embed static
var static embed.FS

// assets are the files that pages load. Their paths contain a hash of the content, so
// that browsers may cache them without limit and never use an outdated file.
type assets struct {
	paths map[string]string // by file name
	files map[string]asset  // by path
}

type asset struct {
	kind    string
	content []byte
}

var kinds = map[string]string{".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml", ".txt": "text/plain; charset=utf-8"}

func newAssets() *assets {
	a := &assets{map[string]string{}, map[string]asset{}}
	err := fs.WalkDir(static, "static", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := static.ReadFile(name)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(content)
		own, ext := path.Base(name), path.Ext(name)
		hashed := "/static/" + strings.TrimSuffix(own, ext) + "." + hex.EncodeToString(sum[:6]) + ext
		a.paths[own] = hashed
		a.files[hashed] = asset{kinds[ext], content}
		return nil
	})
	if err != nil {
		panic(err) // cannot happen: the files are embedded
	}
	return a
}

// path is the path at which a file is served.
func (a *assets) path(name string) string { return a.paths[name] }

func (a *assets) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	file, found := a.files[r.URL.Path]
	if !found {
		http.Error(w, "File not found. If Certpost was updated, reload the page.", http.StatusNotFound)
		return
	}
	h := w.Header()
	h.Set("Content-Type", file.kind)
	h.Set("Cache-Control", "public, max-age=31536000, immutable")
	_, _ = w.Write(file.content)
}
