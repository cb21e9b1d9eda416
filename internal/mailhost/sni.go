package mailhost

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/verdict"
)

// SNIMap is a lookup table of Postfix with a certificate for each name (tls_server_sni_maps).
// `postmap -F` copies the files that it names into a database, keys included, so a new file means
// nothing until it runs again. Running processes notice the new database by themselves, but not one
// that is as many seconds old as the last, and not if they found none when they started: so Postfix
// is reloaded as well.
type SNIMap struct {
	// Table is the table as postmap names it, such as hash:/etc/postfix/sni.map.
	Table string
	// Command builds the database; empty: postmap -F TABLE.
	Command Command
}

// sniSuffixes are those of the databases of the types of tables.
var sniSuffixes = map[string]string{"hash": ".db", "btree": ".db", "lmdb": ".lmdb", "cdb": ".cdb"}

// source returns the file of the table.
func (m SNIMap) source() string { _, path, _ := strings.Cut(m.Table, ":"); return path }

// database returns the file that postmap makes of it.
func (m SNIMap) database() string {
	kind, path, _ := strings.Cut(m.Table, ":")
	return path + sniSuffixes[kind]
}

// sniCommand builds the database; empty if there is no table.
func (d Deployment) sniCommand() Command {
	if d.SNI.Table == "" || len(d.SNI.Command) > 0 {
		return d.SNI.Command
	}
	return Command{"postmap", "-F", d.SNI.Table}
}

// problem says what is wrong with the setting, "" for nothing.
func (m SNIMap) problem() string {
	kind, path, ok := strings.Cut(m.Table, ":")
	if _, known := sniSuffixes[kind]; !ok || !known || !filepath.IsAbs(path) || filepath.Clean(path) != path {
		return fmt.Sprintf("want the type and the absolute path of the table, such as hash:/etc/postfix/sni.map, not %q; the types are hash, btree, lmdb and cdb", legible.Clean(m.Table, 300))
	}
	return ""
}

// checkMap refuses a deployment whose table would not serve it, or would show the key to others.
// postmap itself ends with 0 in all these cases: it gives the database the mode of the table, and
// leaves out names whose files it cannot read.
func (d Deployment) checkMap() error {
	m := d.SNI
	if m.Table == "" {
		return nil
	}
	path, err := resolve(m.source())
	if err != nil {
		return err
	}
	for _, name := range []string{path, m.database()} {
		info, err := os.Stat(name)
		switch {
		case errors.Is(err, fs.ErrNotExist) && name != path: // not built yet
		case errors.Is(err, fs.ErrNotExist):
			return fail(verdict.DeployValidate, StepCheck, "the table %s does not exist: write a line with the name and %s into it", path, d.CertPath)
		case err != nil:
			return writeFailure(StepPaths, err)
		case info.Mode().Perm()&0o027 != 0:
			return fail(verdict.DeployWrite, StepPaths, "%s has mode %#o: the private keys in the database of the table could be read by other users; run `chmod 0600 %s %s`", name, info.Mode().Perm(), path, m.database())
		}
	}
	text, err := readFile(path)
	if err != nil {
		return writeFailure(StepPaths, err)
	}
	return d.checkEntries(path, parseMap(text))
}

// checkEntries checks that the table names the deployed files, for the server name if that is given, and
// that all others can be read.
func (d Deployment) checkEntries(path string, entries []mapEntry) error {
	ours := []string{d.KeyPath, d.CertPath, d.ChainPath}
	served := false
	for _, e := range entries {
		here := slices.ContainsFunc(e.files, func(file string) bool { return slices.Contains(ours, file) })
		served = served || here && (d.Verify.ServerName == "" || e.serves(d.Verify.ServerName))
		for _, file := range e.files {
			if slices.Contains(ours, file) {
				continue
			}
			if _, err := readFile(file); err != nil {
				return fail(verdict.DeployValidate, StepCheck, "the table %s has the file %s for %s, and without it postmap would leave that name out: %s", path, legible.Clean(file, 300), legible.Clean(e.name, 255), explain(err))
			}
		}
	}
	if !served {
		return fail(verdict.DeployValidate, StepCheck, "the table %s has no line with %s%s, so Postfix would not serve it: add one", path, d.CertPath, forName(d.Verify.ServerName))
	}
	return nil
}

func forName(name string) string {
	if name == "" {
		return ""
	}
	return " for " + legible.Clean(name, 255)
}

// mapEntry is a line of the table: a name, and the files of its key and chain.
type mapEntry struct {
	name  string
	files []string
}

// serves reports whether the entry is looked up for a name: it is the name, or with a dot in front a
// domain above it (tls_server_sni_maps in postconf(5)).
func (e mapEntry) serves(name string) bool {
	key, name := strings.ToLower(e.name), strings.ToLower(name)
	return key == name || strings.HasPrefix(key, ".") && strings.HasSuffix(name, key)
}

// parseMap reads a table: lines that begin with blanks continue the one before, # begins a comment
// (postmap(1)); the files are separated by blanks or commas.
func parseMap(text []byte) (entries []mapEntry) {
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, maxFile)
	for lines.Scan() {
		line := lines.Text()
		words := strings.FieldsFunc(line, func(r rune) bool { return strings.ContainsRune(" \t\r,", r) })
		switch {
		case len(words) == 0 || words[0][0] == '#':
		case strings.ContainsRune(" \t", rune(line[0])) && len(entries) > 0:
			last := &entries[len(entries)-1]
			last.files = append(last.files, words...)
		default:
			entries = append(entries, mapEntry{words[0], words[1:]})
		}
	}
	return entries
}

// buildMap makes Postfix use the new file. The database is checked again: postmap may have made it.
func (t *transaction) buildMap() error {
	m := t.d.SNI
	if m.Table == "" {
		return nil
	}
	command := t.d.sniCommand()
	if err := command.run(t.ctx, t.d.CommandTimeout, nil, t.keys...); err != nil {
		return fail(verdict.DeployReload, StepReload, "%s", err)
	}
	info, err := os.Stat(m.database())
	if err != nil {
		return fail(verdict.DeployReload, StepReload, "`%s` made no database: %s", command, explain(err))
	}
	if info.Mode().Perm()&0o027 != 0 {
		return fail(verdict.DeployReload, StepReload, "%s has mode %#o, so others can read the private keys in it: run `chmod 0600 %s %s`", m.database(), info.Mode().Perm(), m.source(), m.database())
	}
	t.did("ran `%s`", command)
	return nil
}
