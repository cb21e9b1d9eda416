package mailhost

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"

	"github.com/certpost/certpost/internal/verdict"
)

// A crash leaves one of these, and recover continues from it:
//
//	no journal, F.certpost-new or a second name of F   nothing was replaced: they are removed
//	no journal, F.certpost-old another file than F     committed: it becomes a backup
//	a journal that ends early                          nothing was replaced
//	a journal, all files are replaced                  finished if the program serves them, else rolled back
//	a journal, some are not                            rolled back
//
// So a rollback that is killed needs no journal of its own: it is repeated.
//
// The journal of a deployment that succeeded becomes its record.
type journal struct {
	Stamp string          `json:"stamp,omitempty"` // of the backups
	Files []journaledFile `json:"files,omitempty"`
	record
}

type journaledFile struct {
	Path   string `json:"path"`
	SHA256 string `json:"sha256"` // of the new content
	Key    bool   `json:"key"`
	Former bool   `json:"former"` // the path had a file before
}

func (t *transaction) journalPath() string { return t.files[0].path + ".certpost-journal" }

// writeJournal writes the journal and makes it durable before anything is replaced.
func (t *transaction) writeJournal() error {
	j := journal{Stamp: t.stamp, record: t.next()}
	for _, f := range t.files {
		j.Files = append(j.Files, journaledFile{Path: f.path, SHA256: f.sum, Key: f.holdsKey, Former: f.former})
	}
	t.keep = j.says()
	if err := writeJSON(t.journalPath(), j); err != nil {
		return err
	}
	return t.sync()
}

// writeJSON writes a new file to disk, as one line.
func writeJSON(path string, value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return err
	}
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|noFollow, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	if _, err := out.Write(append(text, '\n')); err != nil {
		return err
	}
	return out.Sync()
}

// endJournal ends the journal of a deployment that succeeded: it becomes the record.
func (t *transaction) endJournal() error {
	if !t.keep {
		return t.removeJournal()
	}
	if err := os.Rename(t.journalPath(), t.files[0].record()); err != nil {
		return err
	}
	return t.sync()
}

func (t *transaction) removeJournal() error {
	if err := remove(t.journalPath()); err != nil {
		return err
	}
	return t.sync()
}

// readJournal returns nil if there is no journal, or one that was not written to its end.
func (t *transaction) readJournal() (*journal, error) {
	text, err := readFile(t.journalPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var j journal
	if len(text) == 0 || text[len(text)-1] != '\n' || json.Unmarshal(text, &j) != nil || len(j.Files) == 0 {
		return nil, nil
	}
	return &j, nil
}

// recover ends a deployment that was interrupted. An error means that the former files are
// not back, so that nothing new may be written over them.
func (t *transaction) recover() error {
	j, err := t.readJournal()
	if err != nil {
		return writeFailure(StepRecover, err)
	}
	if j == nil {
		return t.tidy()
	}
	past, err := t.interrupted(j)
	if err != nil {
		return err
	}
	defer func() { t.notes = append(t.notes, past.notes...) }()
	if past.complete() && past.serve() == nil {
		past.commit()
		t.did("finished an interrupted deployment")
		return nil
	}
	f := failureOf(past.rollBack(fail(verdict.DeployWrite, StepRecover, "a deployment was interrupted, and had to be rolled back")))
	if _, err := os.Lstat(t.journalPath()); err == nil {
		return f
	}
	t.did("rolled back an interrupted deployment")
	if f.Rollback == RollbackFailed {
		t.note("%s", f.Reason) // the former files are back, and a new deployment may be the cure
	}
	return nil
}

// interrupted is the transaction that wrote a journal, with the present settings.
func (t *transaction) interrupted(j *journal) (*transaction, error) {
	past := &transaction{Deployer: t.Deployer, ctx: context.WithoutCancel(t.ctx), d: t.d, stamp: j.Stamp, want: &contents{}, keep: j.says()}
	for _, in := range j.Files {
		path, err := resolve(in.Path)
		if err != nil {
			return nil, err
		}
		if path != in.Path {
			return nil, fail(verdict.DeployWrite, StepRecover, "%s names %s, which is a symbolic link now; put the .certpost-old files back by hand, then remove the journal", t.journalPath(), in.Path)
		}
		past.files = append(past.files, &file{path: path, sum: in.SHA256, holdsKey: in.Key, former: in.Former})
	}
	if err := t.lock(past.files); err != nil { // the settings may have changed since
		return nil, err
	}
	past.dirs = t.dirs
	if certs := certificatesIn(past.files[0].path); len(certs) > 0 {
		past.want = &contents{leaf: certs[0], chain: certs[1:]}
	}
	if certs := certificatesIn(past.files[0].old()); len(certs) > 0 {
		past.former = certs[0]
	}
	for _, f := range past.files {
		if f.holdsKey {
			past.keepSecret(f.path)
			past.keepSecret(f.old())
		}
	}
	t.keys = append(t.keys, past.keys...)
	return past, nil
}

// complete reports whether all files were replaced by those that the journal names. A file
// that did not change, as chains seldom do, has the digest before it is replaced.
func (t *transaction) complete() bool {
	for _, f := range t.files {
		if _, err := os.Lstat(f.new()); err == nil || !f.isNew() {
			return false
		}
	}
	return t.want.leaf != nil
}

// tidy removes what a deployment has left that had not replaced anything, and keeps the
// backups of one that was complete.
func (t *transaction) tidy() error {
	left := false
	errs := []error{remove(t.journalPath())}
	for _, f := range t.files {
		if _, err := os.Lstat(f.new()); err == nil {
			left = true
			errs = append(errs, remove(f.new()))
		}
		if _, err := os.Lstat(f.old()); err == nil {
			left = true
			if sameFile(f.path, f.old()) {
				errs = append(errs, remove(f.old()))
			} else {
				errs = append(errs, t.keepFormer(f))
			}
		}
	}
	t.prune()
	if !left {
		return nil
	}
	if err := errors.Join(append(errs, t.sync())...); err != nil {
		return fail(verdict.DeployWrite, StepRecover, "what an interrupted deployment has left could not be removed: %s", explain(err))
	}
	t.did("removed what an interrupted deployment had left")
	return nil
}
