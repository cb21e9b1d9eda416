// Package mailhost puts a certificate and its private key into files on this host, for
// Postfix, Dovecot or any other program that reads them, and makes the program serve
// them. Deploy is one transaction: either the program serves the new certificate at the
// end, or everything is as it was before, byte for byte, with modes and owners.
//
// The names beside a file F, all in its directory:
//
//	F.certpost-new       the new content until it is renamed to F
//	F.certpost-old       the former file, a hard link, until the deployment has ended
//	F.certpost-journal   beside the certificate only: a deployment is replacing files
//	F.certpost-<time>    backups, as many as Deployment.BackupRetention says
//	F.certpost-deployed  beside the certificate only: which event the present files are from
//
// After a deployment only backups and that record are left. After kill -9 the others say what the next
// deployment, or Recover, has to do: see journal.go.
package mailhost

import (
	"context"
	"crypto/x509"
	"time"

	"github.com/certpost/certpost/internal/verdict"
)

// Deployer deploys on this host. The zero Deployer is ready for use, by any number of
// goroutines and processes at the same time.
type Deployer struct {
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Claim is called once by a deployment, after all checks that change nothing and
	// before the first file is written; if it returns an error, nothing is changed.
	// until is the time by which the outcome will be known. nil means no call.
	Claim func(until time.Time) error
	// Admit is called once by a deployment that would change something, before Claim; if it
	// returns an error, nothing is changed. present is what the files have now, the leaf first, nil
	// if there is none that can be read; wanted is what they are to have.
	Admit func(ctx context.Context, present, wanted []*x509.Certificate) error
	// Event is what Deploy is called for. The certificate of an event that was published before the one
	// whose certificate the files have is not deployed; see Older. The zero Event has no place
	// in that order.
	Event Event
	// Reached is called at the named points of a deployment (points.go), for tests.
	Reached func(point string)
}

// State is what a successful deployment found or did.
type State string

// The states.
const (
	Deployed  State = "deployed"  // the files were replaced, and the program serves them if that is verified
	Unchanged State = "unchanged" // the files had these bytes, modes and owners already: nothing was done
)

// Result describes a successful deployment.
type Result struct {
	State State
	// Done are the steps in order, for operators: "wrote /etc/postfix/certs/cert.pem", ...
	Done []string
	// Notes are problems that did not make the deployment fail, such as a backup that
	// could not be kept.
	Notes []string
	// Served is what each endpoint served; nil if nothing was verified.
	Served []Served
	// Backup says that there is a backup of another certificate, which Former can put back.
	Backup bool
	// Replaced is the certificate that the files had before; nil if there was none that can be read.
	Replaced *x509.Certificate
	// Leaf is the certificate that the files have now.
	Leaf *x509.Certificate
}

// Deploy puts the certificate onto the host.
//
// Its error is a *Failure, which says what failed and how the rollback ended. Only an *Older,
// context errors and those of Admit and Claim are returned as they are; then nothing was
// changed.
// Once files are being replaced, the end of ctx does not stop the deployment: it
// completes or is rolled back, within Deployment.Longest.
func (h Deployer) Deploy(ctx context.Context, d Deployment, m Material) (*Result, error) {
	contents, err := h.prepare(d, m)
	if err != nil {
		return nil, err
	}
	defer contents.clear()
	t, err := h.begin(ctx, d, contents)
	if err != nil {
		return nil, err
	}
	defer t.unlock()
	return t.deploy()
}

// prepare returns the contents of the files, after every check that needs no file.
func (h Deployer) prepare(d Deployment, m Material) (*contents, error) {
	if err := d.Check(); err != nil {
		return nil, fail(verdict.TargetInvalid, StepCheck, "%s", err)
	}
	c, err := encode(m)
	if err != nil {
		return nil, err
	}
	if err := c.check(d, h.now()); err != nil {
		c.clear()
		return nil, err
	}
	return c, nil
}

// deploy is the transaction, once the files are locked.
func (t *transaction) deploy() (*Result, error) {
	if err := t.recover(); err != nil {
		return nil, err
	}
	if err := t.readRecord(); err != nil {
		return nil, err
	}
	same, err := t.same()
	if err != nil {
		return nil, err
	}
	if same {
		t.remember()
		return t.result(Unchanged), nil
	}
	if err := t.inOrder(); err != nil {
		return nil, err
	}
	if err := t.checkServer(); err != nil {
		return nil, err
	}
	if err := t.admit(); err != nil {
		return nil, err
	}
	if err := t.claim(); err != nil {
		return nil, err
	}

	if err := t.stage(); err != nil {
		return nil, t.discard(err)
	}
	if err := t.validate(); err != nil {
		return nil, t.discard(err)
	}
	if err := t.replace(); err != nil {
		return nil, t.rollBack(err)
	}
	if err := t.serve(); err != nil {
		return nil, t.rollBack(err)
	}
	t.commit()
	t.noteAge()
	return t.result(Deployed), nil
}

// Recover ends a deployment that was interrupted by kill -9 or a power cut: it finishes
// it if all files were replaced and the program serves them, otherwise it puts the former
// files back. Deploy does the same first, so Recover is for the start of a process. It
// reports whether there was something to end; errors are those of Deploy.
func (h Deployer) Recover(ctx context.Context, d Deployment) (recovered bool, err error) {
	if err := d.Check(); err != nil {
		return false, fail(verdict.TargetInvalid, StepCheck, "%s", err)
	}
	t, err := h.begin(ctx, d, &contents{})
	if err != nil {
		return false, err
	}
	defer t.unlock()
	err = t.recover()
	return len(t.done) > 0, err
}

func (h Deployer) now() time.Time {
	if h.Now != nil {
		return h.Now()
	}
	return time.Now()
}

func (h Deployer) reached(point string) {
	if h.Reached != nil {
		h.Reached(point)
	}
}
