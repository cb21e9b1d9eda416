package delivery

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// watched is a book with files in its own directory.
type watched struct {
	t   *testing.T
	dir string
	w   *watcher
}

func watch(t *testing.T, source Source, files map[string]string) *watched {
	t.Helper()
	dir := t.TempDir()
	lay(t, dir, files)
	for _, path := range []*string{&source.Config, &source.File, &source.Dir} {
		if *path != "" {
			*path = filepath.Join(dir, *path)
		}
	}
	definitions, problems := source.Load()
	if definitions == nil {
		t.Fatal(problems)
	}
	w := &watched{t, dir, &watcher{book: NewBook(definitions, source)}}
	w.quiet("at the beginning")
	return w
}

// quiet polls until the content must have settled, and expects no report.
func (w *watched) quiet(when string) {
	w.t.Helper()
	for range 3 {
		if change := w.w.poll(); change != nil {
			w.t.Fatalf("%s: %v %v", when, change, texts(w.dir, change.Problems))
		}
	}
}

// says expects exactly one report: the change on the first line, then the problems.
func (w *watched) says(want ...string) {
	w.t.Helper()
	if change := w.w.poll(); change != nil {
		w.t.Fatalf("reported after one read: %v", change)
	}
	change := w.w.poll()
	if change == nil {
		w.t.Fatalf("nothing reported, want %q", want)
	}
	if got := append([]string{change.String()}, texts(w.dir, change.Problems)...); !slices.Equal(got, want) {
		w.t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	w.quiet("after the report")
}

func (w *watched) targets(want ...string) {
	w.t.Helper()
	if got := ids(w.w.book.Current()); !slices.Equal(got, want) {
		w.t.Errorf("in force: %v, want %v", got, want)
	}
}

func (w *watched) write(name, content string) {
	w.t.Helper()
	lay(w.t, w.dir, map[string]string{name: content})
}

func (w *watched) do(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

const kept = "the new targets are invalid: the old ones stay in force"

func TestReloadFile(t *testing.T) {
	t.Parallel()
	w := watch(t, Source{File: "t.yaml"}, map[string]string{"t.yaml": list(definition("a"), definition("b"), definition("c"))})

	before, _ := w.w.book.Current().Get("a")
	w.write("t.yaml", list(definition("a"), definition("b", "    port: 2525"), definition("d")))
	w.says("targets: 1 added (d), 1 removed (c), 1 changed (b)")
	w.targets("a", "b", "d")
	if after, _ := w.w.book.Current().Get("b"); after.Port != 2525 || before.Port != 587 {
		t.Errorf("ports %d and %d", after.Port, before.Port)
	}

	w.write("t.yaml", "# another comment\n"+list(definition("d"), definition("b", "    port: 2525"), definition("a")))
	w.quiet("a comment and another order")

	bad := list(definition("a", "    prot: 1"))
	w.write("t.yaml", bad)
	w.says(kept, `t.yaml:6:5: targets[0]: unknown key "prot": did you mean port?`)
	w.targets("a", "b", "d")
	w.do(os.Chtimes(filepath.Join(w.dir, "t.yaml"), time.Now(), time.Now()))
	w.quiet("the same bad content touched")

	w.write("t.yaml", list(definition("a"), definition("b", "    port: 2525"), definition("d")))
	w.says("targets: valid again, nothing changed")

	// An editor that writes a new file and renames it.
	w.write("t.yaml.new", list(definition("a")))
	w.do(os.Rename(filepath.Join(w.dir, "t.yaml.new"), filepath.Join(w.dir, "t.yaml")))
	w.says("targets: 2 removed (b, d)")

	w.do(os.Remove(filepath.Join(w.dir, "t.yaml")))
	w.says(kept, "t.yaml: does not exist")
	w.targets("a")

	w.write("t.yaml", "")
	w.says(kept, "t.yaml: defines no targets any more; to remove all targets, write an empty list (targets: [])")
	w.targets("a")

	w.write("t.yaml", "targets: []\n")
	w.says("targets: 1 removed (a)")
	w.targets()

	w.write("t.yaml", list(definition("e", "    tls_skip_verify: true")))
	w.says("targets: 1 added (e)",
		"t.yaml:6:22: warning: targets[0].tls_skip_verify: anyone on the network path to smtp.example.com can impersonate the relay: want ca_file with its CA, or tls_fingerprint")
}

func TestHalfWrittenFileIsNotRead(t *testing.T) {
	t.Parallel()
	all := list(definition("a"), definition("b"))
	w := watch(t, Source{File: "t.yaml"}, map[string]string{"t.yaml": all})
	whole := list(definition("a"), definition("b"), definition("c"))
	// Half of it is valid YAML and would remove b.
	half := whole[:strings.Index(whole, "  - id: b")]
	for _, content := range []string{"", half, whole[:len(half)+20], whole[:len(whole)-5], whole} {
		w.write("t.yaml", content)
		if change := w.w.poll(); change != nil {
			t.Fatalf("%d bytes of %d read: %v", len(content), len(whole), change)
		}
		w.targets("a", "b")
	}
	if change := w.w.poll(); change == nil || change.String() != "targets: 1 added (c)" {
		t.Errorf("at the end: %v", change)
	}
}

func TestReloadDirectory(t *testing.T) {
	t.Parallel()
	w := watch(t, Source{Dir: "d"}, map[string]string{"d/a.yaml": single("a"), "d/b.yaml": list(definition("b1"), definition("b2"))})
	w.targets("a", "b1", "b2")

	w.write("d/c.yaml", single("c"))
	w.says("targets: 1 added (c)")

	w.do(os.Rename(filepath.Join(w.dir, "d/c.yaml"), filepath.Join(w.dir, "d/0.yaml")))
	w.quiet("a renamed file")

	w.write("d/b.yaml", list(definition("b1"), definition("a")))
	w.says(kept, "d/b.yaml:6:9: targets[1].id: a is already the id of the target in line 1 of d/a.yaml: every target needs its own")
	w.targets("a", "b1", "b2", "c")

	w.do(os.Remove(filepath.Join(w.dir, "d/b.yaml")))
	w.says("targets: 2 removed (b1, b2)")

	for _, name := range []string{"d/.a.yaml.swp", "d/notes.txt", "d/a.yaml~"} {
		w.write(name, "not a target: [")
	}
	w.quiet("files that are ignored")

	w.do(os.Rename(filepath.Join(w.dir, "d"), filepath.Join(w.dir, "gone")))
	w.says(kept, "d: does not exist")
	w.do(os.Mkdir(filepath.Join(w.dir, "d"), 0o755)) // an empty mount point
	w.says(kept, "d: defines no targets in its files (*.yaml, *.yml) any more; to remove all targets, write an empty list (targets: [])")
	w.do(os.Remove(filepath.Join(w.dir, "d")))
	w.do(os.Rename(filepath.Join(w.dir, "gone"), filepath.Join(w.dir, "d")))
	w.says("targets: valid again, nothing changed")
	w.targets("c", "a")

	w.do(os.Symlink("nowhere.yaml", filepath.Join(w.dir, "d/z.yaml")))
	w.says(kept, "d/z.yaml: does not exist")
}

// TestReloadConfigMap does what Kubernetes' atomic writer does: the files are
// links through ..data, which is swapped by a rename.
func TestReloadConfigMap(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	publish := func(version string, files map[string]string) {
		t.Helper()
		for name, content := range files {
			lay(t, dir, map[string]string{"d/.." + version + "/" + name: content})
			link := filepath.Join(dir, "d", name)
			if _, err := os.Lstat(link); err != nil {
				if err := os.Symlink(filepath.Join("..data", name), link); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := os.Symlink(".."+version, filepath.Join(dir, "d/..data_tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "d/..data_tmp"), filepath.Join(dir, "d/..data")); err != nil {
			t.Fatal(err)
		}
	}
	publish("2026_01", map[string]string{"a.yaml": single("a"), "b.yaml": single("b")})
	source := Source{Dir: filepath.Join(dir, "d")}
	definitions, problems := source.Load()
	if definitions == nil {
		t.Fatal(problems)
	}
	w := &watched{t, dir, &watcher{book: NewBook(definitions, source)}}
	w.quiet("at the beginning")
	w.targets("a", "b")

	publish("2026_02", map[string]string{"a.yaml": single("a") + "port: 2525\n", "b.yaml": single("b"), "c.yaml": single("c")})
	w.says("targets: 1 added (c), 1 changed (a)")
	w.do(os.RemoveAll(filepath.Join(dir, "d/..2026_01")))
	w.quiet("the old version removed")

	publish("2026_03", map[string]string{"a.yaml": single("a") + "port: high\n", "b.yaml": single("b"), "c.yaml": single("c")})
	w.says(kept, "d/a.yaml:5:7: port: want a whole number, got high")
	w.targets("a", "b", "c")

	publish("2026_04", map[string]string{"a.yaml": single("a"), "b.yaml": single("b"), "c.yaml": single("c")})
	w.says("targets: 1 changed (a)")
}

func TestReloadConfigurationFile(t *testing.T) {
	t.Parallel()
	w := watch(t, Source{Config: "c.yaml"}, map[string]string{"c.yaml": "log: {level: info}\n" + list(definition("a"))})
	w.write("c.yaml", "log: {level: debug}\nmisspelt: x\n"+list(definition("a")))
	w.quiet("other keys are ignored")
	w.write("c.yaml", list(definition("a"), definition("b")))
	w.says("targets: 1 added (b)")
	w.write("c.yaml", "targets_dir: elsewhere\n")
	w.says(kept, "c.yaml: defines no targets any more; to remove all targets, write an empty list (targets: [])")
}

func TestSameDefinition(t *testing.T) {
	t.Parallel()
	secret := func(s string) string {
		return list(definition("a", "    username: {value: u"+s+"}", "    password: {value: p"+s+"}", "    payload: pkcs12", "    pkcs12_passphrase: {value: x"+s+"}", "    match: {labels: {a: b}}"))
	}
	w := watch(t, Source{File: "t.yaml"}, map[string]string{"t.yaml": secret("1")})
	w.write("t.yaml", "# x\n"+secret("1"))
	w.quiet("inline secrets that stay the same")
	w.write("t.yaml", secret("2"))
	if change := w.w.poll(); change != nil {
		t.Fatal(change)
	}
	if change := w.w.poll(); change == nil || change.String() != "targets: 1 changed (a)" {
		t.Errorf("another secret: %v", change)
	}
}

func TestWatch(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "t.yaml")
	lay(t, dir, map[string]string{"t.yaml": list(definition("a"))})
	synctest.Test(t, func(t *testing.T) {
		source := Source{File: path}
		definitions, _ := source.Load()
		book := NewBook(definitions, source)
		ctx, cancel := context.WithCancel(t.Context())
		var said []string
		ended := make(chan struct{})
		go func() {
			book.Watch(ctx, time.Second, func(c Change) { said = append(said, c.String()) })
			close(ended)
		}()
		time.Sleep(5 * time.Second)
		for i := range 3 {
			lay(t, dir, map[string]string{"t.yaml": list(definition("a"), definition(fmt.Sprintf("b%d", i)))})
			time.Sleep(5 * time.Second)
			if got := ids(book.Current()); !slices.Equal(got, []string{"a", fmt.Sprintf("b%d", i)}) {
				t.Errorf("in force: %v", got)
			}
		}
		cancel()
		<-ended
		want := []string{"targets: 1 added (b0)", "targets: 1 added (b1), 1 removed (b0)", "targets: 1 added (b2), 1 removed (b1)"}
		if !slices.Equal(said, want) {
			t.Errorf("said %q", said)
		}

		fixed := NewBook(definitions, Source{})
		fixed.Watch(t.Context(), time.Second, func(Change) { t.Error("a book without a source changed") }) // returns at once
	})
}
