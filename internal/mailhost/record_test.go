//go:build unix

package mailhost

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/verdict"
)

// published is a deployer for the event that was published as the nth one; for 0 nothing is known of it.
func published(nth uint64) Deployer {
	h := deployer()
	if nth == 0 {
		return h
	}
	h.Event = Event{ID: fmt.Sprintf("e%d", nth), Publication: verdict.Publication{Sequence: nth, At: lab.TestNow.Add(time.Duration(nth) * time.Hour)}}
	return h
}

func forced(h Deployer) Deployer {
	h.Event.Force = true
	return h
}

// wantOlder deploys and expects that nothing is done, for a reason with a text.
func wantOlder(t testing.TB, h Deployer, d Deployment, m Material, text string) {
	t.Helper()
	dir := filepath.Dir(d.CertPath)
	before := snapshot(t, dir)
	h.Admit, h.Claim = nil, func(time.Time) error { t.Error("it was claimed"); return nil }
	r, err := h.Deploy(t.Context(), d, m)
	if o, ok := errors.AsType[*Older](err); !ok || !strings.Contains(o.Reason, text) || !strings.Contains(o.Reason, "replay its dead letter with force") {
		t.Fatalf("%+v, %v, want that it is older: %s", r, err, text)
	}
	wantSame(t, before, snapshot(t, dir))
}

// deployOld deploys a certificate that was issued before the one that it replaces: that is noted.
func deployOld(t testing.TB, h Deployer, d Deployment, m Material) {
	t.Helper()
	r, err := h.Deploy(t.Context(), d, m)
	if err != nil || r.State != Deployed || len(r.Notes) != 1 || !strings.Contains(r.Notes[0], "was issued earlier") {
		t.Fatalf("%+v, %v, want a note that it was issued earlier", r, err)
	}
}

// wantLeaf checks which certificate the files have.
func wantLeaf(t testing.TB, d Deployment, m Material) {
	t.Helper()
	if got := leafIn(d.CertPath); got == nil || !got.Equal(m.Bundle.Leaf) {
		t.Fatalf("%s is there, want %s", shortName(got), shortName(m.Bundle.Leaf))
	}
}

// Deployments are in the order in which their events were published, whatever the certificates' dates
// say and in whatever order the events come; in every process, and after a restart.
//
// Fault: the certificate of an event was issued before the one that it replaces. Result: it is deployed;
// receipt and plan say so.
//
// Fault: the event of an older certificate comes after a newer one. Result: `skipped` with the reason;
// nothing is touched.
func TestDeploymentsAreInOrder(t *testing.T) {
	t.Parallel()
	eachLayout(t, func(t *testing.T, d Deployment) {
		a := newAuthority(t)
		count, reloads := counter(t)
		d.ReloadCommand = count
		renewed := a.material(t, a.issue(t, func(c *x509.Certificate) { c.NotBefore = c.NotBefore.Add(time.Minute) }))
		first, second := a.fresh(t), a.fresh(t)
		mustDeploy(t, published(1), d, renewed, Deployed)
		// Issued earlier, and published later: it is deployed, and that is said.
		if found := fmt.Sprint(published(3).Plan(t.Context(), d, &second)); !strings.Contains(found, "was issued earlier") {
			t.Errorf("the plan is %s", found)
		}
		deployOld(t, published(3), d, second)
		wantOlder(t, published(2), d, first, "event e3, which was published later (")
		wantOlder(t, published(1), d, renewed, "event e3")
		mustDeploy(t, published(3), d, second, Unchanged)
		wantLeaf(t, d, second)
		if n := reloads(); n != 2 {
			t.Errorf("%d reloads", n)
		}
		// Only the sequence is known, as for letters of versions that did not note the time.
		h := deployer()
		h.Event = Event{ID: "e2", Publication: verdict.Publication{Sequence: 2}}
		wantOlder(t, h, d, first, "event e3")

		// The same certificate again, in a newer event: the files are as they were, the order is not.
		mustDeploy(t, published(5), d, second, Unchanged)
		wantOlder(t, published(4), d, first, "event e5")
		mustDeploy(t, published(6), d, first, Deployed)

		// By force, and then neither the one before nor the one after it comes back by itself.
		mustDeploy(t, forced(published(2)), d, renewed, Deployed)
		wantLeaf(t, d, renewed)
		wantOlder(t, published(4), d, second, "event e6")
		wantOlder(t, published(6), d, first, "an operator has put another certificate here")
		deployOld(t, published(7), d, first)
		wantOlder(t, published(6), d, second, "event e7")
	})
}

// A failed deployment counts for nothing: the event before it is still the last one.
func TestFailedDeploymentIsNotTheLast(t *testing.T) {
	t.Parallel()
	eachLayout(t, func(t *testing.T, d Deployment) {
		a := newAuthority(t)
		mustDeploy(t, published(1), d, a.fresh(t), Deployed)
		broken := d
		broken.ReloadCommand = Command{"false"}
		wantFailure(t, published(3), broken, a.fresh(t), verdict.DeployReload, StepReload, RollbackFailed)
		second := a.fresh(t)
		mustDeploy(t, published(2), d, second, Deployed)
		wantContents(t, d, second)
	})
}

// Each rollback goes one certificate further back, and the ones that were taken away come back by newer
// events only.
//
// Fault: a rollback after a rollback. Result: the certificate before both; what was rolled back returns
// by newer events only.
func TestRollbacksGoFurtherBack(t *testing.T) {
	t.Parallel()
	eachLayout(t, func(t *testing.T, d Deployment) {
		a := newAuthority(t)
		all := []Material{a.fresh(t), a.fresh(t), a.fresh(t), a.fresh(t)}
		for i, m := range all {
			mustDeploy(t, published(uint64(i+1)), d, m, Deployed)
		}
		for i := 3; i > 0; i-- {
			leaf := leafDigest(all[i].Bundle.Leaf)
			r, err := published(uint64(i+1)).Former(t.Context(), d, leaf)
			if err != nil || r.State != Deployed || !r.Leaf.Equal(all[i-1].Bundle.Leaf) || !r.Replaced.Equal(all[i].Bundle.Leaf) || r.Backup != (i > 1) || len(r.Notes) > 0 {
				t.Fatalf("rollback of certificate %d: %+v, %v", i, r, err)
			}
			wantContents(t, d, all[i-1])
			if _, err := deployer().Former(t.Context(), d, leaf); err == nil || !strings.Contains(err.Error(), "not the certificate of this deployment") {
				t.Errorf("a second rollback of the same certificate: %v", err)
			}
			wantOlder(t, published(4), d, all[3], "an operator has put another certificate here")
			wantOlder(t, published(uint64(i)), d, a.fresh(t), "event e4")
		}
		before := snapshot(t, filepath.Dir(d.CertPath))
		_, err := deployer().Former(t.Context(), d, "")
		if f, ok := errors.AsType[*Failure](err); !ok || !strings.Contains(f.Reason, "besides those that were rolled back") {
			t.Errorf("a rollback with nothing before it: %v", err)
		}
		wantSame(t, before, snapshot(t, filepath.Dir(d.CertPath)))

		// A newer event deploys, also a certificate that was rolled back; and is itself rolled back to what was there.
		mustDeploy(t, published(5), d, all[3], Deployed)
		mustDeploy(t, published(6), d, all[2], Deployed)
		if r, err := published(6).Former(t.Context(), d, ""); err != nil || !r.Leaf.Equal(all[3].Bundle.Leaf) {
			t.Errorf("%+v, %v", r, err)
		}
	})
}

// Two rollbacks at the same moment are one: the second finds another certificate than it was ordered for.
//
// Fault: an event is deployed while a rollback waits for the lock. Result: the rollback is refused.
func TestRollbackLooksUnderTheLock(t *testing.T) {
	t.Parallel()
	eachLayout(t, func(t *testing.T, d Deployment) {
		a := newAuthority(t)
		mustDeploy(t, published(1), d, a.fresh(t), Deployed)
		mustDeploy(t, published(2), d, a.fresh(t), Deployed)
		third := a.fresh(t)
		h := published(2)
		h.Reached = func(point string) {
			if point == pointLocked { // as if another process had had the lock until now
				h.Reached = nil
				writeFiles(t, d, third)
			}
		}
		_, err := h.Former(t.Context(), d, "")
		if f, ok := errors.AsType[*Failure](err); !ok || !strings.Contains(f.Reason, "not the certificate of this deployment") {
			t.Errorf("%v", err)
		}
		wantLeaf(t, d, third)
	})
}

// writeFiles puts a certificate there past Certpost.
func writeFiles(t testing.TB, d Deployment, m Material) {
	t.Helper()
	c, err := encode(m)
	if err != nil {
		t.Fatal(err)
	}
	files, err := plan(d.WithDefaults(), c)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if err := os.WriteFile(f.path, f.data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// A record that is damaged is written anew, and the receipt says so; one that may not be read stops the
// deployment, and so does what takes its place.
func TestRecordThatCannotBeRead(t *testing.T) {
	t.Parallel()
	eachLayout(t, func(t *testing.T, d Deployment) {
		a := newAuthority(t)
		path := d.CertPath + ".certpost-deployed"
		mustDeploy(t, published(2), d, a.fresh(t), Deployed)
		if err := os.WriteFile(path, []byte(`{"event`), 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := published(2).Deploy(t.Context(), d, a.fresh(t))
		if err != nil || len(r.Notes) != 1 || !strings.Contains(r.Notes[0], "could not be understood") {
			t.Errorf("%+v, %v", r, err)
		}
		wantOlder(t, published(1), d, a.fresh(t), "event e2")
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		wantFailure(t, published(3), d, a.fresh(t), verdict.DeployWrite, StepPaths, NotNeeded)
	})
}

// What is beside the certificate is no file, or is endless: the deployment ends with that reason, and does not wait
// with the lock held.
//
// Fault: `.certpost-deployed` or `.certpost-journal` is a named pipe, or too large. Result: fails (DEPLOY_WRITE);
// nothing is touched.
func TestRecordsThatAreNoFiles(t *testing.T) {
	t.Parallel()
	for name, step := range map[string]Step{".certpost-deployed": StepPaths, ".certpost-journal": StepRecover} {
		for want, make := range map[string]func(path string) error{
			"not a regular file": func(path string) error { return syscall.Mkfifo(path, 0o600) },
			"has more than":      func(path string) error { return os.WriteFile(path, bytes.Repeat([]byte("x"), maxFile+1), 0o600) },
		} {
			a, d := newAuthority(t), Deployment{CertPath: privateDir(t) + "/c.pem"}
			d.KeyPath = d.CertPath
			mustDeploy(t, published(1), d, a.fresh(t), Deployed)
			_ = os.Remove(d.CertPath + name)
			if err := make(d.CertPath + name); err != nil {
				t.Fatal(err)
			}
			if f := wantFailure(t, published(2), d, a.fresh(t), verdict.DeployWrite, step, NotNeeded); !strings.Contains(f.Reason, want) {
				t.Errorf("%s: %s, want %q", name, f.Reason, want)
			}
			if err := os.Remove(d.CertPath + name); err != nil {
				t.Fatal(err)
			}
			mustDeploy(t, published(2), d, a.fresh(t), Deployed)
		}
	}
}
