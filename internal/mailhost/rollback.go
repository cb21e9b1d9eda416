package mailhost

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// discard removes what stage has made; nothing was replaced.
func (t *transaction) discard(cause error) error {
	f := failureOf(cause)
	if err := t.removeStaged(); err != nil {
		f.Reason += fmt.Sprintf("; cleaning up failed too (%v), the next deployment will do it", explain(err))
	}
	return f
}

// removeStaged removes new files that were not renamed and second names of present files.
func (t *transaction) removeStaged() error {
	var errs []error
	for _, f := range t.files {
		errs = append(errs, remove(f.new()))
		if sameFile(f.path, f.old()) {
			errs = append(errs, remove(f.old()))
		}
	}
	return errors.Join(append(errs, t.sync())...)
}

// rollBack puts the former files back, reloads, and checks that the former certificate is
// served again. It says in the failure how that ended.
func (t *transaction) rollBack(cause error) error {
	f := failureOf(cause)
	t.reached(pointRestoring)
	replaced, err := t.restore()
	switch {
	case err != nil:
		f.Rollback = RollbackFailed
		f.Reason += fmt.Sprintf("; the former files could not be put back: %v. They are beside the present ones, with .certpost-old at the end of their names; the next deployment ends this one first", explain(err))
		return f
	case !replaced:
		if err := t.removeJournal(); err != nil {
			f.Reason += fmt.Sprintf("; the journal could not be removed: %v", explain(err))
		}
		return f
	}
	f.Rollback = Restored
	if err := t.serveFormer(); err != nil {
		f.Rollback = RollbackFailed
		f.Reason += fmt.Sprintf("; the former files are back, but the program may not serve them: %v", err)
	}
	t.reached(pointRolledBack)
	if err := t.removeJournal(); err != nil {
		f.Reason += fmt.Sprintf("; the journal could not be removed: %v", explain(err))
	}
	return f
}

// restore puts every former file back under its name. Files without a former one are
// removed. It reports whether there was anything to put back.
func (t *transaction) restore() (replaced bool, err error) {
	for _, f := range t.files {
		switch _, missing := os.Lstat(f.old()); {
		case missing == nil && sameFile(f.path, f.old()): // not replaced; rename would do nothing
			err = remove(f.old())
		case missing == nil:
			replaced = true
			err = os.Rename(f.old(), f.path)
		case !errors.Is(missing, fs.ErrNotExist):
			err = missing
		case !f.former && f.isNew(): // with a former one, it is back already
			replaced = true
			err = remove(f.path)
		}
		if err == nil {
			err = remove(f.new())
		}
		if err != nil {
			return replaced, err
		}
		t.reached(pointRestored)
	}
	return replaced, t.sync()
}

// serveFormer reloads, and checks that the former certificate is served; whether clients
// accept it does not matter here.
func (t *transaction) serveFormer() error {
	if err := t.reload(); err != nil {
		return errors.New(failureOf(err).Reason)
	}
	if t.former == nil {
		return nil
	}
	return t.verifyFormer()
}
