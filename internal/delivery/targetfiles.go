package delivery

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/certpost/certpost/internal/config"
)

// Source says where definitions come from; at most one of Config, File and Dir is set.
type Source struct {
	// Config is a configuration file with a list under its key targets.
	Config string
	// File is a file with a list under the key targets, or with a single target.
	File string
	// Dir is a directory with such files: *.yaml and *.yml, without hidden files and
	// subdirectories. It may be a mounted ConfigMap of Kubernetes.
	Dir string
	// Relays is a configuration file whose key relays applies to the targets,
	// wherever they are defined; "" for none.
	Relays string
	// Environ has the values for ${VAR} in the files: "NAME=value".
	Environ []string
}

// Load reads and validates the definitions. They are nil if one of the problems is
// an error.
func (s Source) Load() (*Definitions, []config.Problem) {
	r := s.parse(s.read())
	if r.definitions != nil && len(r.definitions.targets) == 0 && !r.explicit {
		r.problems = append(r.problems, config.Problem{File: s.path(), Message: s.noTargets(), Severity: config.Warning})
	}
	return r.definitions, r.problems
}

// path returns the path that is set.
func (s Source) path() string { return s.Config + s.File + s.Dir }

// noTargets returns the message for a source that can be read and defines no targets.
func (s Source) noTargets() string {
	if s.Dir != "" {
		return "defines no targets in its files (*.yaml, *.yml)"
	}
	return "defines no targets"
}

// snapshot is the content of a source at one moment.
type snapshot struct {
	files  []file
	err    error // the source itself cannot be read
	relays *file // nil for none
}

type file struct {
	path string
	data []byte
	err  error
}

// read takes a snapshot. It reads regular files only, so that it never blocks on a pipe.
func (s Source) read() snapshot {
	var snap snapshot
	if s.Relays != "" {
		f := readFile(s.Relays)
		snap.relays = &f
	}
	if s.Dir == "" {
		f := readFile(s.path())
		snap.files, snap.err = []file{f}, f.err
		return snap
	}
	entries, err := os.ReadDir(s.Dir)
	if err != nil {
		return snapshot{err: config.Unreadable(err)}
	}
	for _, e := range entries {
		// Hidden files belong to editors or, in a mounted ConfigMap, are ..data and the
		// directory that it points to; the files to read are links into it.
		if ext := filepath.Ext(e.Name()); !strings.HasPrefix(e.Name(), ".") && (ext == ".yaml" || ext == ".yml") {
			snap.files = append(snap.files, readFile(filepath.Join(s.Dir, e.Name())))
		}
	}
	return snap
}

func readFile(path string) file {
	info, err := os.Stat(path)
	if err != nil {
		return file{path: path, err: config.Unreadable(err)}
	}
	if !info.Mode().IsRegular() {
		return file{path: path, err: errors.New("is not a regular file")}
	}
	data, err := config.Read(path)
	return file{path, data, err}
}

// digest returns a hash of the content and the errors.
func (snap snapshot) digest() digest {
	files := snap.files
	if snap.relays != nil {
		files = append(slices.Clip(files), *snap.relays)
	}
	return digestOf(snap.err, files)
}

// digestOf returns a hash of the content and the errors of files.
func digestOf(err error, files []file) digest {
	h := sha256.New()
	fmt.Fprintf(h, "%v\n", err)
	for _, f := range files {
		fmt.Fprintf(h, "%q %v %d\n", f.path, f.err, len(f.data))
		h.Write(f.data)
	}
	return digest(h.Sum(nil))
}

// reading is the result of parsing a snapshot.
type reading struct {
	definitions *Definitions // nil if one of the problems is an error
	problems    []config.Problem
	explicit    bool   // there is a key targets, even if its list is empty
	templates   []file // those that the targets name, as they were read
}

// origin is where a target is defined.
type origin struct {
	doc  *config.Document
	path string // in the document; "" when the document is the target
}

func (s Source) parse(snap snapshot) reading {
	if snap.err != nil {
		return reading{problems: []config.Problem{{File: s.path(), Message: snap.err.Error()}}}
	}
	var r reading
	relays, relaysDoc, problems := s.parseRelays(snap.relays)
	r.problems = problems
	var targets []Target
	var origins []origin
	for _, f := range snap.files {
		if f.err != nil {
			r.problems = append(r.problems, config.Problem{File: f.path, Message: f.err.Error()})
			continue
		}
		keys := config.Keys(f.data)
		r.explicit = r.explicit || slices.Contains(keys, "targets")
		found, from, problems := s.parseFile(f, keys)
		targets, origins = append(targets, found...), append(origins, from...)
		r.problems = append(r.problems, problems...)
	}
	book := newRuleBook(relays)
	options := book.allRelayOptions(targets)
	r.templates = book.shelf.read
	r.problems = append(r.problems, relaysDoc.Locate(relays.Validate())...)
	r.problems = config.Sort(append(r.problems, validateAt(options, origins, relaysDoc)...))
	if !config.Failed(r.problems) {
		r.definitions = define(book, options)
		r.definitions.remark(origins, r.problems)
	}
	return r
}

// parseRelays parses the settings of the relays.
func (s Source) parseRelays(f *file) (Relays, *config.Document, []config.Problem) {
	var holder struct {
		Relays Relays `yaml:"relays"`
	}
	switch {
	case f == nil:
		doc, _ := config.Parse("", nil, &holder)
		return holder.Relays, doc, nil
	case f.err != nil:
		doc, _ := config.Parse(f.path, nil, &holder)
		return holder.Relays, doc, []config.Problem{{File: f.path, Message: f.err.Error()}}
	}
	doc, problems := config.Parse(f.path, f.data, &holder, config.Variables(s.Environ), config.Only("relays"))
	return holder.Relays, doc, problems
}

func (s Source) parseFile(f file, keys []string) ([]Target, []origin, []config.Problem) {
	options := []config.Option{config.Variables(s.Environ)}
	if s.Config != "" {
		options = append(options, config.Only("targets"))
	} else if slices.Contains(keys, "id") || slices.Contains(keys, "host") {
		var t Target
		t.SetDefaults()
		doc, problems := config.Parse(f.path, f.data, &t, options...)
		return []Target{t}, []origin{{doc: doc}}, problems
	}
	var list struct {
		Targets []Target `yaml:"targets"`
	}
	doc, problems := config.Parse(f.path, f.data, &list, options...)
	origins := make([]origin, len(list.Targets))
	for i := range origins {
		origins[i] = origin{doc, fmt.Sprintf("targets[%d]", i)}
	}
	return list.Targets, origins, problems
}

// validateAt validates targets from several documents, as relayOptionsOf does for one
// list: the problems have the places of the targets, and of the rules for relays.
func validateAt(targets [][]relayOption, origins []origin, relays *config.Document) []config.Problem {
	var found []config.Problem
	ids := newIDTable(targets)
	called := func(i int) string { return origins[i].String() }
	for i, options := range targets {
		from := origins[i]
		problems, ruled := validateRelayOptions(options, ids, i, called)
		found = append(found, relays.Locate(ruled)...)
		for j := range problems {
			problems[j].Path = strings.TrimPrefix(from.path+"."+problems[j].Path, ".")
		}
		found = append(found, from.doc.Locate(problems)...)
	}
	return found
}

// String is "the target in line 3 of ops.yaml".
func (o origin) String() string {
	line, _ := o.doc.At(o.path)
	return fmt.Sprintf("the target in line %d of %s", line, o.doc.Name())
}
