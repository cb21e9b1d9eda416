//go:build unix

package mailhost

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/payload"
)

// The child's part of a test: one deployment in a process of its own, which may kill itself
// at a named point, or give up its rights.
type childPlan struct {
	Layout, Dir string
	Cert, Key   []byte // PEM
	Reload      Command
	KeyOwner    string
	Point       string        // where it kills itself; "" nowhere
	Nth         int           // the Nth time that it gets there
	Event       uint64        // the deployment's, by its number
	UID         int           // the user to become
	Signal      Daemon        // gets SIGHUP; then the child's only right beyond its user's is CAP_KILL
	KillAfter   time.Duration // it is killed from outside after this time; 0: it is not
}

const childVariable = "CERTPOST_TEST_DEPLOYMENT"

// runChildPart does the child's part if this process is a child; TestMain calls it.
func runChildPart() (isChild bool, err error) {
	text := os.Getenv(childVariable)
	if text == "" {
		return false, nil
	}
	var p childPlan
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		return true, err
	}
	if p.UID != 0 {
		if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(p.UID), syscall.Setuid(p.UID)); err != nil {
			return true, err
		}
	}
	bundle, err := payload.ParseBundle(p.Cert)
	if err != nil {
		return true, err
	}
	d := layouts[p.Layout](p.Dir)
	d.ReloadCommand, d.KeyOwner, d.Signal = p.Reload, p.KeyOwner, p.Signal
	h, times := published(p.Event), 0
	h.Reached = func(point string) {
		if point != p.Point {
			return
		}
		if times++; times == p.Nth {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // the signal may take a moment
		}
	}
	_, err = h.Deploy(context.Background(), d, Material{Bundle: bundle, Key: p.Key})
	return true, err
}

// runChild runs a child. The error of a child that was killed is errKilled.
func runChild(t testing.TB, p childPlan) error {
	t.Helper()
	text, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	if p.KillAfter > 0 {
		timed, cancel := context.WithTimeout(ctx, p.KillAfter)
		defer cancel()
		ctx = timed
	}
	cmd := exec.CommandContext(ctx, os.Args[0]) // ends it with SIGKILL
	if !p.Signal.IsZero() {
		cmd = exec.CommandContext(ctx, lab.Need(t, "setpriv"), "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs", "--bounding-set=-all,+kill", "--inh-caps=-all,+kill", "--ambient-caps=-all,+kill", os.Args[0])
	}
	cmd.Env = append(os.Environ(), childVariable+"="+string(text))
	out, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return errKilled
	}
	if s, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && s.Signaled() && s.Signal() == syscall.SIGKILL {
		return errKilled
	}
	return fmt.Errorf("%w: %s", err, out)
}

var errKilled = errors.New("killed")

// TestKilledAtEveryPoint: the file or pair that readers find is the former or the new one
// (with two files, between their renames, neither until the next start), and the next start
// finishes or rolls back, leaving nothing behind.
//
// Fault: kill -9 at any point; during a rollback. Result: readers find the former or the
// new file; the next start finishes or rolls back.
func TestKilledAtEveryPoint(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	cases := []struct {
		point   string
		perFile bool
		after   string // what the next start leaves: former or new
	}{
		{pointLocked, false, "former"}, {pointCreated, true, "former"}, {pointWritten, true, "former"}, {pointLinked, true, "former"},
		{pointValidated, false, "former"}, {pointJournalled, false, "former"}, {pointRenamed, true, "former"}, {pointReplaced, false, "new"},
		{pointReloaded, false, "new"}, {pointVerified, false, "new"}, {pointCommitted, false, "new"}, {pointBackedUp, true, "new"},
		{pointRestoring, false, "new"}, {pointRestored, true, "former"}, {pointRolledBack, false, "former"},
	}
	for _, c := range cases {
		for layout := range layouts {
			t.Run(c.point+"/"+layout, func(t *testing.T) {
				t.Parallel()
				dir := privateDir(t)
				d := layouts[layout](dir)
				files := map[string]int{"combined": 1, "apart": 2, "chain": 3}[layout]
				if !c.perFile {
					files = 1
				}
				for nth := 1; nth <= files; nth++ {
					former, next := a.fresh(t), a.fresh(t)
					mustDeploy(t, published(uint64(2*nth)), d, former, Deployed)
					count := len((&file{path: d.CertPath}).backups())
					plan := childPlan{Layout: layout, Dir: dir, Cert: next.Bundle.PEM(), Key: next.Key, Point: c.point, Nth: nth, Event: uint64(2*nth + 1)}
					switch c.point {
					case pointRestoring, pointRestored, pointRolledBack:
						// Fails the first time, so that there is a rollback.
						mark := filepath.Join(privateDir(t), "mark")
						plan.Reload = script(t, "test -e "+mark+" && exit 0; touch "+mark+"; exit 1")
					}
					if err := runChild(t, plan); !errors.Is(err, errKilled) {
						t.Fatalf("the child was not killed: %v", err)
					}
					wantPair(t, d, former, next, c.point == pointRenamed || c.point == pointRestored)

					recovered, err := deployer().Recover(t.Context(), d)
					if err != nil || recovered != (c.point != pointLocked && !lastOf(c.point, nth, files)) {
						t.Fatalf("recovered %v, %v", recovered, err)
					}
					want := former
					if c.after == "new" || c.point == pointRenamed && nth == files {
						want = next
					}
					wantContents(t, d, want)
					if want.Key != nil && c.after == "new" && len((&file{path: d.CertPath}).backups()) != min(count+1, d.BackupRetention) {
						t.Errorf("the former certificate is not among the backups: %v", (&file{path: d.CertPath}).backups())
					}
					if again, err := deployer().Recover(t.Context(), d); again || err != nil {
						t.Errorf("recovered again: %v, %v", again, err)
					}
					// The record is that of the files: the event of the former ones is older than the next, and no other.
					if last, err := (&file{path: d.CertPath}).readRecord(); err != nil || last.Leaf != leafDigest(want.Bundle.Leaf) || (last.Publication.Sequence == plan.Event) != (want.Bundle == next.Bundle) {
						t.Errorf("the record says %+v, %v", last, err)
					}
					// And the event comes again.
					state := Deployed
					if c.after == "new" || c.point == pointRenamed && nth == files {
						state = Unchanged
					}
					mustDeploy(t, published(plan.Event), d, next, state)
					wantContents(t, d, next)
				}
			})
		}
	}
}

// lastOf: after the last backup there is nothing left to do.
func lastOf(point string, nth, files int) bool { return point == pointBackedUp && nth == files }

// wantPair checks that the files are those of one deployment, unless the point is between
// the renames of several.
func wantPair(t testing.TB, d Deployment, former, next Material, between bool) {
	t.Helper()
	certs, key := certificatesIn(d.CertPath), keyIn(d.KeyPath)
	if len(certs) == 0 || key == nil {
		t.Fatalf("there is no certificate (%d) or no key", len(certs))
	}
	for _, m := range []Material{former, next} {
		if certs[0].Equal(m.Bundle.Leaf) && (string(key) == string(m.Key) || between && !combined(d)) {
			return
		}
	}
	t.Errorf("%s is deployed with another key", shortName(certs[0]))
}

// TestRecoveryIsKilled: recovery is killed as well.
//
// Fault: during a recovery. Result: readers find the former or the new file; the next start
// finishes or rolls back.
func TestRecoveryIsKilled(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	for layout := range layouts {
		t.Run(layout, func(t *testing.T) {
			t.Parallel()
			dir := privateDir(t)
			d := layouts[layout](dir)
			former, next := a.fresh(t), a.fresh(t)
			mustDeploy(t, deployer(), d, former, Deployed)
			first := childPlan{Layout: layout, Dir: dir, Cert: next.Bundle.PEM(), Key: next.Key, Point: pointRenamed, Nth: 1}
			for _, point := range []string{pointRestoring, pointRestored, pointRolledBack} {
				if layout == "combined" { // one rename is all: it would be finished, unless the reload fails
					first.Point = pointReplaced
					first.Nth = 1
				}
				if err := runChild(t, first); !errors.Is(err, errKilled) {
					t.Fatal(err)
				}
				again := first
				again.Point, again.Nth, again.Reload = point, 1, Command{"false"}
				if err := runChild(t, again); !errors.Is(err, errKilled) {
					t.Fatalf("%s: %v", point, err)
				}
				wantPair(t, d, former, next, true)
				d.ReloadCommand = Command{"true"}
				if _, err := deployer().Recover(t.Context(), d); err != nil {
					t.Fatal(err)
				}
				got := certificatesIn(d.CertPath)[0]
				want := former
				if point == pointRestoring && layout == "combined" { // nothing was restored: the second start finishes it
					want = next
				}
				if !got.Equal(want.Bundle.Leaf) {
					t.Errorf("%s: %s is deployed", point, shortName(got))
				}
				wantContents(t, d, want)
				mustDeploy(t, deployer(), d, next, map[bool]State{true: Unchanged, false: Deployed}[want.Bundle == next.Bundle])
				former, next = next, a.fresh(t)
				first.Cert, first.Key = next.Bundle.PEM(), next.Key
			}
		})
	}
}

// TestKilledAtAnyMoment: not only at the points that have a name.
//
// Fault: kill -9 at any point. Result: readers find the former or the new file; the next
// start finishes or rolls back.
func TestKilledAtAnyMoment(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	for layout := range layouts {
		t.Run(layout, func(t *testing.T) {
			t.Parallel()
			dir := privateDir(t)
			d := layouts[layout](dir)
			present := a.fresh(t)
			mustDeploy(t, deployer(), d, present, Deployed)
			longest, killed := 100*time.Millisecond, 0
			for range 40 {
				next := a.fresh(t)
				p := childPlan{Layout: layout, Dir: dir, Cert: next.Bundle.PEM(), Key: next.Key, Reload: Command{"true"}, KillAfter: rand.N(longest) + 1}
				began := time.Now()
				switch err := runChild(t, p); {
				case errors.Is(err, errKilled):
					killed++
				case err != nil:
					t.Fatal(err)
				default:
					longest = time.Since(began) // so that most are killed on the way
				}
				wantPair(t, d, present, next, true)
				if _, err := deployer().Recover(t.Context(), d); err != nil {
					t.Fatal(err)
				}
				wantPair(t, d, present, next, false)
				wantNoStrays(t, d)
				if certificatesIn(d.CertPath)[0].Equal(next.Bundle.Leaf) {
					present = next
				}
				wantContents(t, d, present)
				if killed == 0 {
					longest = longest * 3 / 4
				}
			}
			if killed == 0 {
				t.Error("no child was killed before its end")
			}
		})
	}
}

// TestJournalThatEndsEarly: nothing was replaced yet.
//
// Fault: a journal that ends early. Result: removed; the former files stay; the next
// deployment works.
func TestJournalThatEndsEarly(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	eachLayout(t, func(t *testing.T, d Deployment) {
		former, next := a.fresh(t), a.fresh(t)
		mustDeploy(t, deployer(), d, former, Deployed)
		for _, text := range []string{"", `{"stamp":"2026`, `{"stamp":"20260304T120000.000Z","files":[]}` + "\n"} {
			if err := os.WriteFile(d.CertPath+".certpost-journal", []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := deployer().Recover(t.Context(), d); err != nil {
				t.Fatal(err)
			}
			wantContents(t, d, former)
		}
		mustDeploy(t, deployer(), d, next, Deployed)
	})
}

// TestAsAnotherUser: what a process without root's rights may and may not do.
//
// Fault: missing rights. Result: fails (DEPLOY_WRITE); the former files keep their owners
// and modes.
// Fault: a path that another user could swap. Result: fails (DEPLOY_WRITE).
func TestAsAnotherUser(t *testing.T) {
	t.Parallel()
	needRoot(t)
	const nobody = 65534
	a := newAuthority(t)
	for layout := range layouts {
		t.Run(layout, func(t *testing.T) {
			t.Parallel()
			base, err := os.MkdirTemp("/tmp", "mailhost") // which this user can reach
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(base) })
			dir := filepath.Join(base, "certs")
			if err := errors.Join(os.Chmod(base, 0o755), os.Mkdir(dir, 0o755), os.Chown(dir, nobody, nobody)); err != nil {
				t.Fatal(err)
			}
			first, second := a.fresh(t), a.fresh(t)
			p := childPlan{Layout: layout, Dir: dir, Cert: first.Bundle.PEM(), Key: first.Key, UID: nobody}
			if err := runChild(t, p); err != nil {
				t.Fatalf("into its own directory: %v", err)
			}
			before := snapshot(t, dir)
			p.Cert, p.Key = second.Bundle.PEM(), second.Key
			p.KeyOwner = "root"
			if err := runChild(t, p); err == nil || !strings.Contains(err.Error(), "DEPLOY_WRITE") || !strings.Contains(err.Error(), "not-needed") {
				t.Errorf("key_owner root, without being root: %v", err)
			}
			wantSame(t, before, snapshot(t, dir))
			// Root does not put a key where that user could exchange it.
			wantFailure(t, deployer(), layouts[layout](dir), second, "DEPLOY_WRITE", StepPaths, NotNeeded)
			wantSame(t, before, snapshot(t, dir))
			p.KeyOwner = ""
			if err := os.Chown(dir, 0, 0); err != nil {
				t.Fatal(err)
			}
			if err := runChild(t, p); err == nil || !strings.Contains(err.Error(), "DEPLOY_WRITE") || !strings.Contains(err.Error(), "not-needed") {
				t.Errorf("into a directory that it may not write: %v", err)
			}
			wantSame(t, before, snapshot(t, dir))
			if err := runChild(t, childPlan{Layout: layout, Dir: dir, Cert: second.Bundle.PEM(), Key: second.Key}); err != nil {
				t.Errorf("as root again: %v", err)
			}
		})
	}
}
