package mailhost

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/payload"
	"github.com/certpost/certpost/internal/verdict"
)

// transaction is one deployment. It holds the locks of the directories.
type transaction struct {
	Deployer
	ctx   context.Context // of the caller until claim, which detaches it
	d     Deployment
	files []*file
	dirs  []*os.File // locked
	stamp string     // names the backups
	want  *contents
	// rollback says that an operator has ordered the certificate; taking is the SHA-256 of the leaf that
	// it is to take away, "" for any.
	rollback bool
	taking   string
	last     record // of the deployment before this one
	keep     bool   // the journal has a record to be kept
	// former is the leaf that the files had before; nil if there was none that can be read.
	former *x509.Certificate
	keys   [][]byte // the private keys in the files, new and former: no error may quote them

	done, notes []string
	served      []Served
}

// begin resolves the paths and locks their directories, always in the same order, so
// that deployments with several directories do not wait for each other for ever.
func (h Deployer) begin(ctx context.Context, d Deployment, c *contents) (*transaction, error) {
	if supported != nil {
		return nil, fail(verdict.DeployWrite, StepPaths, "%s", supported)
	}
	d = d.WithDefaults()
	files, err := plan(d, c)
	if err != nil {
		return nil, err
	}
	t := &transaction{Deployer: h, ctx: ctx, d: d, files: files, want: c, stamp: h.now().UTC().Format(stampLayout)}
	err = t.lock(files)
	if err == nil {
		err = ownAll(d, files)
	}
	if err != nil {
		t.unlock()
		return nil, err
	}
	h.reached(pointLocked)
	return t, nil
}

// lock waits for the locks of the files' directories, except those it has.
func (t *transaction) lock(files []*file) error {
	var names []string
	for _, f := range files {
		name := filepath.Dir(f.path)
		if !slices.ContainsFunc(t.dirs, func(dir *os.File) bool { return dir.Name() == name }) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		dir, err := lockDirectory(t.ctx, name)
		if err != nil && t.ctx.Err() != nil {
			return t.ctx.Err()
		}
		if err != nil {
			return writeFailure(StepPaths, err)
		}
		t.dirs = append(t.dirs, dir)
	}
	return nil
}

// unlock releases the locks and clears the keys in memory.
func (t *transaction) unlock() {
	for _, dir := range t.dirs {
		dir.Close()
	}
	for _, key := range t.keys {
		clear(key)
	}
	for _, f := range t.files {
		clear(f.data)
	}
}

// same reports whether all files are as wanted already. It also reads what they hold now.
func (t *transaction) same() (bool, error) {
	same := true
	for _, f := range t.files {
		current, err := f.current()
		if err != nil {
			return false, writeFailure(StepPaths, err)
		}
		same = same && current
	}
	t.keys = append(t.keys, slices.Clone(t.want.keyPEM))
	t.former = leafIn(t.files[0].path)
	for _, f := range t.files {
		if f.holdsKey {
			t.keepSecret(f.path)
		}
	}
	return same, nil
}

// keepSecret keeps errors from quoting the key in a file, if there is one.
func (t *transaction) keepSecret(path string) {
	if data, err := readFile(path); err == nil {
		t.keys = append(t.keys, data)
	}
}

// checkServer checks what the program's own configuration says about these files.
func (t *transaction) checkServer() error {
	if err := t.d.checkMap(); err != nil {
		return err
	}
	return t.d.checkLocalName(t.ctx, t.keys...)
}

// admit asks the caller whether the certificate may be replaced now.
func (t *transaction) admit() error {
	if t.Admit == nil {
		return nil
	}
	return t.Admit(t.ctx, Present(t.d), append([]*x509.Certificate{t.want.leaf}, t.want.chain...))
}

// claim asks the caller to confirm that the deployment is his. From here on it ends by
// itself: a deployment that is half done is worse than one that takes a minute longer.
func (t *transaction) claim() error {
	if err := t.ctx.Err(); err != nil {
		return err
	}
	if t.Claim != nil {
		if err := t.Claim(t.now().Add(t.d.Longest())); err != nil {
			return err
		}
	}
	t.ctx = context.WithoutCancel(t.ctx)
	return nil
}

// stage writes the new files beside the present ones, and keeps the present ones under a
// second name: a rollback is a rename then, which needs no space on the disk and brings
// back the very file, with owner, mode and all.
func (t *transaction) stage() error {
	for _, f := range t.files {
		if err := t.write(f); err != nil {
			return writeFailure(StepWrite, err)
		}
	}
	for _, f := range t.files {
		err := os.Link(f.path, f.old())
		if errors.Is(err, fs.ErrNotExist) {
			continue // the first deployment
		}
		if err != nil {
			return writeFailure(StepWrite, err)
		}
		f.former = true
		t.reached(pointLinked)
	}
	if err := t.sync(); err != nil {
		return writeFailure(StepWrite, err)
	}
	return nil
}

// write writes a new file with its mode and owner set before there is any content in it.
func (t *transaction) write(f *file) error {
	out, err := os.OpenFile(f.new(), os.O_WRONLY|os.O_CREATE|os.O_EXCL|noFollow, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	if f.uid >= 0 || f.gid >= 0 {
		if err := out.Chown(f.uid, f.gid); err != nil {
			return err
		}
	}
	if err := out.Chmod(f.mode); err != nil { // not subject to the umask
		return err
	}
	t.reached(pointCreated)
	if _, err := out.Write(f.data); err != nil {
		return err
	}
	if err := out.Sync(); err != nil {
		return err
	}
	t.reached(pointWritten)
	return out.Close()
}

// validate runs validate_command.
func (t *transaction) validate() error {
	if len(t.d.ValidateCommand) > 0 {
		var env []string
		for _, f := range t.files {
			env = append(env, f.variable+"="+f.new())
			if len(t.files) == 1 {
				env = append(env, "CERTPOST_NEW_KEY="+f.new())
			}
		}
		if err := t.d.ValidateCommand.run(t.ctx, t.d.CommandTimeout, env, t.keys...); err != nil {
			return fail(verdict.DeployValidate, StepValidate, "%s", err)
		}
		t.did("ran `%s`", t.d.ValidateCommand)
	}
	t.reached(pointValidated)
	return nil
}

// replace renames the new files to their names. A reader sees the former file or the new
// one, never a part; with several files the journal says after a crash that only some may
// have been replaced.
func (t *transaction) replace() error {
	if err := t.writeJournal(); err != nil {
		return writeFailure(StepWrite, err)
	}
	t.reached(pointJournalled)
	for _, f := range t.files {
		if err := os.Rename(f.new(), f.path); err != nil {
			return writeFailure(StepWrite, err)
		}
		t.did("wrote %s", f.path)
		t.reached(pointRenamed)
	}
	if err := t.sync(); err != nil {
		return writeFailure(StepWrite, err)
	}
	t.reached(pointReplaced)
	return nil
}

// serve makes the program load the files, and checks that it serves the new certificate.
// Between the renames of two files Postfix may have started processes that found a key
// which did not fit, and refuse TLS until the next reload. So TLS that is refused after a
// reload gets a second one.
func (t *transaction) serve() error {
	if err := t.reload(); err != nil {
		return err
	}
	err := t.verify(t.want.leaf, t.expected())
	if errors.Is(err, errRefused) && len(t.files) > 1 && t.reloads() {
		if err := t.reload(); err != nil {
			return err
		}
		err = t.verify(t.want.leaf, t.expected())
	}
	if err != nil {
		return fail(verdict.DeployVerify, StepVerify, "%s", err)
	}
	t.reached(pointVerified)
	return nil
}

// reloads reports whether the deployment makes the program read its files.
func (t *transaction) reloads() bool { return len(t.d.ReloadCommand) > 0 || !t.d.Signal.IsZero() }

// expected is the whole chain that the program has to send; nil if the chain has a file of
// its own, which the program may use for something else.
func (t *transaction) expected() []*x509.Certificate {
	if t.d.ChainPath != "" {
		return nil
	}
	return t.want.chain
}

func (t *transaction) reload() error {
	if err := t.buildMap(); err != nil {
		return err
	}
	if !t.d.Signal.IsZero() {
		if err := t.d.Signal.reload(procfs); err != nil {
			return fail(verdict.DeployReload, StepReload, "%s", err)
		}
		t.did("sent SIGHUP to %s", t.d.Signal.Name)
	}
	if len(t.d.ReloadCommand) > 0 {
		if err := t.d.ReloadCommand.run(t.ctx, t.d.CommandTimeout, nil, t.keys...); err != nil {
			return fail(verdict.DeployReload, StepReload, "%s", err)
		}
		t.did("ran `%s`", t.d.ReloadCommand)
	}
	t.reached(pointReloaded)
	return nil
}

// commit ends a deployment that has succeeded: without the journal nothing will be rolled
// back. What fails here cannot undo the deployment any more, and becomes a note.
func (t *transaction) commit() {
	if err := t.endJournal(); err != nil {
		t.note("the journal could not be removed (%v): the next deployment will verify this one again", explain(err))
		return
	}
	t.reached(pointCommitted)
	for _, f := range t.files {
		if err := t.keepFormer(f); err != nil {
			t.note("the former %s could not be kept as a backup: %v", f.path, explain(err))
		}
	}
	if t.rollback {
		t.takeOut()
	}
	t.prune()
	if err := t.sync(); err != nil {
		t.note("the backups may be lost by a power cut: %v", explain(err))
	}
}

// noteAge notes that the new certificate was issued before the one that it replaces: the order is that of
// publication, and a publisher may send an old certificate again by mistake.
func (t *transaction) noteAge() {
	if text := issuedEarlier(t.want.leaf, t.former); text != "" && !t.rollback {
		t.note("%s", text)
	}
}

// issuedEarlier says that a certificate was issued before the one that it replaces; "" if it was not.
func issuedEarlier(wanted, present *x509.Certificate) string {
	if wanted == nil || present == nil || !wanted.NotBefore.Before(present.NotBefore) {
		return ""
	}
	return fmt.Sprintf("this certificate was issued earlier (%s) than the one that it replaces (%s, issued %s): its event was published later, and that decides",
		legible.Moment(wanted.NotBefore), shortName(present), legible.Moment(present.NotBefore))
}

func (t *transaction) result(state State) *Result {
	return &Result{State: state, Done: t.done, Notes: t.notes, Served: t.served, Leaf: t.want.leaf, Backup: hasOther(t.files, t.want.leaf, t.next().RolledBack), Replaced: t.former}
}

func (t *transaction) did(text string, args ...any) {
	t.done = append(t.done, fmt.Sprintf(text, args...))
}

func (t *transaction) note(text string, args ...any) {
	t.notes = append(t.notes, fmt.Sprintf(text, args...))
}

// sync makes renames and removals in all directories durable.
func (t *transaction) sync() error {
	var errs []error
	for _, dir := range t.dirs {
		errs = append(errs, dir.Sync())
	}
	return errors.Join(errs...)
}

// remove removes a file; that there is none is no error.
func remove(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// sameFile reports whether two names are one file.
func sameFile(a, b string) bool {
	first, err := os.Lstat(a)
	if err != nil {
		return false
	}
	second, err := os.Lstat(b)
	return err == nil && os.SameFile(first, second)
}

// shortName is a certificate's name for messages, with the start of its serial number.
func shortName(cert *x509.Certificate) string {
	return fmt.Sprintf("%s (serial %s, to %s)", payload.ShortName(cert), verdict.SerialNumber(cert), cert.NotAfter.UTC().Format(time.DateOnly))
}
