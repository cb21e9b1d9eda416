package mailhost

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/verdict"
)

// Step is the part of a deployment that failed.
type Step string

// The steps, in order.
const (
	StepCheck    Step = "check"    // certificate, key, settings
	StepPaths    Step = "paths"    // the paths and who could replace what is there
	StepRecover  Step = "recover"  // ending an interrupted deployment
	StepWrite    Step = "write"    // writing beside the files, or replacing them
	StepValidate Step = "validate" // validate_command
	StepReload   Step = "reload"   // reload_command
	StepVerify   Step = "verify"   // asking the program for its certificate
)

// Rollback is how a failed deployment left the host.
type Rollback string

// The outcomes of a rollback.
const (
	// NotNeeded: no file had been replaced, and nothing was left beside them.
	NotNeeded Rollback = "not-needed"
	// Restored: the former files are back, the program was reloaded and serves the former
	// certificate again, if that can be verified.
	Restored Rollback = "restored"
	// RollbackFailed: somebody has to look at the host now. The reason says whether the
	// former files are back.
	RollbackFailed Rollback = "failed"
)

// Failure says why a deployment failed. Its texts may be stored and shown: they have no
// key, and the output of commands and servers in them is cleaned and cut.
type Failure struct {
	// Code is SMTP_PAYLOAD for a certificate or key that no host could use, TARGET_INVALID
	// for settings, else one of the DEPLOY codes.
	Code     verdict.Code
	Step     Step
	Reason   string // what happened, where, what to do
	Rollback Rollback

	cause error
}

// Error returns code, step, reason and rollback on one line.
func (f *Failure) Error() string {
	return fmt.Sprintf("%s in %s: %s (rollback: %s)", f.Code, f.Step, f.Reason, f.Rollback)
}

// Unwrap is for errors.Is and errors.As; the text of the cause is not shown as it is.
func (f *Failure) Unwrap() error { return f.cause }

// fail is a failure that has changed nothing. An error among args is its cause.
func fail(code verdict.Code, step Step, reason string, args ...any) *Failure {
	f := &Failure{Code: code, Step: step, Rollback: NotNeeded}
	for i, arg := range args {
		if err, ok := arg.(error); ok {
			f.cause = err
			args[i] = legible.Clean(err.Error(), maxError)
		}
	}
	f.Reason = fmt.Sprintf(reason, args...)
	return f
}

// writeFailure is the failure of an operation on files.
func writeFailure(step Step, err error) *Failure {
	f := fail(verdict.DeployWrite, step, "%s", explain(err))
	f.cause = err
	return f
}

// maxError is the maximum length of another's error text in a reason, in bytes.
const maxError = 600

// failureOf returns err as a failure; all errors inside a transaction are ones.
func failureOf(err error) *Failure {
	if f, ok := errors.AsType[*Failure](err); ok {
		return f
	}
	return writeFailure(StepWrite, err)
}

// explain returns the text of an error of the file system, with what to do about it.
func explain(err error) string {
	hint := ""
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		hint = "; free some space on this disk"
	case errors.Is(err, syscall.EROFS):
		hint = "; the file system is read-only for Certpost: with systemd, add the directory to ReadWritePaths"
	case errors.Is(err, syscall.EXDEV), errors.Is(err, syscall.EBUSY):
		hint = "; the file seems to be mounted by itself, so it cannot be replaced: mount its directory instead"
	case errors.Is(err, syscall.EPERM):
		hint = "; Certpost must own the file or run as root, and the file must not be immutable (`lsattr`)"
	case errors.Is(err, fs.ErrPermission):
		hint = "; the user of Certpost needs write permission for the directory"
	}
	return legible.Clean(err.Error(), maxError) + hint
}
