//go:build unix

package mailhost

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/backoff"
	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/payload"
	"github.com/certpost/certpost/internal/verdict"
)

// servers are a real Postfix and a real Dovecot that serve from files of the test.
type servers struct {
	*authority
	mail             *lab.MailServer
	postfix, dovecot Deployment
	initial          Material
}

// startServers deploys a first certificate and starts both servers on it.
func startServers(t *testing.T, layout string) *servers {
	t.Helper()
	needRoot(t)
	lab.Need(t, "doveadm")
	s := &servers{authority: newAuthority(t)}
	s.postfix, s.dovecot = layouts[layout](privateDir(t)), layouts[layout](privateDir(t))
	s.initial = s.fresh(t)
	for _, d := range []Deployment{s.postfix, s.dovecot} {
		mustDeploy(t, deployer(), d, s.initial, Deployed)
	}
	main, dovecot := manual(t, s.postfix.CertPath, s.dovecot.CertPath)
	if layout != "combined" {
		main = map[string]string{"smtpd_tls_chain_files": "", "smtpd_tls_cert_file": s.postfix.CertPath, "smtpd_tls_key_file": s.postfix.KeyPath}
		dovecot += fmt.Sprintf("ssl_key = <%s\n", s.dovecot.KeyPath)
	}
	protocols := "imap lmtp"
	ports := map[Protocol]string{}
	for _, p := range []Protocol{IMAP, LMTP, POP3, Sieve} {
		ports[p] = lab.FreeAddress(t)
	}
	port := func(p Protocol) string { _, n, _ := net.SplitHostPort(ports[p]); return n }
	listeners := `
service imap-login {
  inet_listener imap {
    port = ` + port(IMAP) + `
  }
}
service lmtp {
  inet_listener lmtp {
    address = 127.0.0.1
    port = ` + port(LMTP) + `
  }
}
`
	all := []Endpoint{{ports[IMAP], IMAP}, {ports[LMTP], LMTP}}
	if lab.Find("pop3-login") != "" && lab.Find("managesieve-login") != "" {
		protocols += " pop3 sieve"
		all = append(all, Endpoint{ports[POP3], POP3}, Endpoint{ports[Sieve], Sieve})
		listeners += `
service pop3-login {
  inet_listener pop3 {
    port = ` + port(POP3) + `
  }
  inet_listener pop3s {
    port = 0
  }
}
service managesieve-login {
  inet_listener sieve {
    port = ` + port(Sieve) + `
  }
}
`
	} else if os.Getenv("CI") == "true" {
		t.Fatal("dovecot-pop3d and dovecot-managesieved are not installed: `go run -C tools/test .` installs what the tests need")
	}
	s.mail = lab.Postfix(t, lab.MailOptions{Main: main, Dovecot: "protocols = " + protocols + "\n" + dovecot + listeners})

	s.postfix.ValidateCommand = Command{"postfix", "-c", s.mail.ConfigDir, "check"}
	s.postfix.ReloadCommand = Command{"postfix", "-c", s.mail.ConfigDir, "reload"}
	s.postfix.Verify = Verification{Endpoints: []Endpoint{{s.mail.SMTP, SMTP}, {s.mail.Submission, SMTP}, {s.mail.SMTPS, TLS}}, ServerName: serverName, Roots: s.roots}
	s.dovecot.ValidateCommand = Command{"doveconf", "-n", "-c", s.mail.DovecotConf}
	s.dovecot.ReloadCommand = Command{"doveadm", "-c", s.mail.DovecotConf, "reload"}
	s.dovecot.Verify = Verification{Endpoints: append(all, Endpoint{s.mail.IMAPS, TLS}), ServerName: serverName, Roots: s.roots}
	return s
}

// manual returns the settings that docs/mail-hosts.md recommends, for other paths.
func manual(t *testing.T, postfix, dovecot string) (main map[string]string, conf string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(lab.Root(), "docs", "mail-hosts.md"))
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind, path, ours string) string {
		_, after, _ := strings.Cut(string(text), "\n```"+kind+"\n")
		block, _, _ := strings.Cut(after, "```")
		if !strings.Contains(block, path) {
			t.Fatalf("docs/mail-hosts.md has no settings for %s with %s", kind, path)
		}
		return strings.ReplaceAll(block, path, ours)
	}
	main = map[string]string{}
	for line := range strings.Lines(block("postfix", "/etc/postfix/certs/mx1.pem", postfix)) {
		key, value, _ := strings.Cut(line, "=")
		main[strings.TrimSpace(key)] = strings.TrimSpace(value)
	}
	return main, block("dovecot", "/etc/dovecot/certs/mx1.pem", dovecot)
}

func (s *servers) each(t *testing.T, test func(t *testing.T, d Deployment)) {
	t.Run("postfix", func(t *testing.T) { test(t, s.postfix) })
	t.Run("dovecot", func(t *testing.T) { test(t, s.dovecot) })
}

// wantServed checks that every endpoint serves a certificate.
func wantServed(t testing.TB, d Deployment, m Material) {
	t.Helper()
	tr := &transaction{Deployer: deployer(), ctx: t.Context(), d: d.WithDefaults()}
	if err := tr.verify(m.Bundle.Leaf, m.Bundle.Chain); err != nil {
		t.Error(err)
	}
}

// TestServersServeWhatIsDeployed: all protocols, with the real servers, in every layout.
func TestServersServeWhatIsDeployed(t *testing.T) {
	t.Parallel()
	for _, layout := range []string{"combined", "apart"} {
		t.Run(layout, func(t *testing.T) {
			t.Parallel()
			s := startServers(t, layout)
			s.each(t, func(t *testing.T, d Deployment) {
				wantServed(t, d, s.initial)
				for range 3 {
					m := s.fresh(t)
					r := mustDeploy(t, deployer(), d, m, Deployed)
					if len(r.Served) != len(d.Verify.Endpoints) {
						t.Errorf("%+v", r.Served)
					}
					wantContents(t, d, m)
				}
				if r, err := deployer().Former(t.Context(), d, ""); err != nil || len(r.Served) != len(d.Verify.Endpoints) {
					t.Errorf("%+v, %v", r, err)
				}
			})
		})
	}
}

// TestWrongFilesAreNeverServed: every row of files with which Postfix and Dovecot stop
// TLS, or serve what clients refuse. The servers' own checks and reloads accept them all.
//
// Fault: key of another certificate; encrypted or no key; chain for the leaf; garbage;
// empty; expired; broken or missing chain. Result: the servers keep the former certificate.
func TestWrongFilesAreNeverServed(t *testing.T) {
	t.Parallel()
	s := startServers(t, "apart")
	leaf, other := s.issue(t), s.issue(t)
	chain, key := lab.PEM(leaf, s.between), lab.KeyPEM(t, leaf.Key)
	expired := s.issue(t, func(c *x509.Certificate) { c.NotAfter = lab.TestNow.Add(-time.Minute) })
	elsewhere := newAuthority(t)
	for name, c := range map[string]struct{ cert, key []byte }{
		"key of another certificate": {chain, lab.KeyPEM(t, other.Key)},
		"only the chain":             {lab.PEM(s.between, s.root), key},
		"encrypted key":              {chain, encryptedKey},
		"garbage for the key":        {chain, []byte("garbage\n")},
		"garbage for the leaf":       {[]byte("garbage\n"), key},
		"damaged leaf":               {[]byte(strings.Replace(string(chain), "MII", "MIA", 1)), key},
		"empty certificate":          {nil, key},
		"empty key":                  {chain, []byte{}},
		"no key":                     {chain, nil},
		"expired":                    {lab.PEM(expired, s.between), lab.KeyPEM(t, expired.Key)},
		"leaf without chain":         {lab.PEM(leaf), key},
		"chain that does not fit":    {lab.PEM(leaf, elsewhere.between), key},
		"another CA's chain":         {lab.PEM(lab.Issue(t, elsewhere.between, leaf.Key, serverName, lab.DNSNames(serverName)), elsewhere.between), key},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			s.each(t, func(t *testing.T, d Deployment) {
				before := snapshot(t, pathOf(d))
				bundle, err := payload.ParseBundle(c.cert)
				if err == nil {
					_, err = deployer().Deploy(t.Context(), d, Material{Bundle: bundle, Key: c.key})
				}
				if err == nil {
					t.Error("deployed")
				}
				wantSame(t, before, snapshot(t, pathOf(d)))
			})
		})
	}
	// In the wrong order it is still the right certificate: it is put in order.
	s.each(t, func(t *testing.T, d Deployment) {
		wantServed(t, d, s.initial)
		bundle, err := payload.ParseBundle(lab.PEM(s.between, leaf))
		if err != nil {
			t.Fatal(err)
		}
		mustDeploy(t, deployer(), d, Material{Bundle: bundle, Key: key}, Deployed)
		// Files that somebody else has broken are replaced, with the modes that they should have.
		if err := errors.Join(os.WriteFile(d.CertPath, []byte("garbage"), 0o600), os.Chmod(d.KeyPath, 0o644), os.Remove(d.CertPath+"x"), nil); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		m := s.fresh(t)
		mustDeploy(t, deployer(), d, m, Deployed)
		wantContents(t, d, m)
		wantServed(t, d, m)
	})
}

// TestServersThatDoNotTakeIt: a server that is configured for other files, or is down.
//
// Fault: the server is down; or configured for other files. Result: fails (DEPLOY_RELOAD or
// DEPLOY_VERIFY); the former files are back and served.
func TestServersThatDoNotTakeIt(t *testing.T) {
	t.Parallel()
	s := startServers(t, "combined")
	s.each(t, func(t *testing.T, d Deployment) {
		elsewhere := d
		elsewhere.CertPath += "-elsewhere"
		elsewhere.KeyPath = elsewhere.CertPath
		elsewhere.Verify.Attempts = 2
		before := snapshot(t, pathOf(d))
		f := wantFailure(t, deployer(), elsewhere, s.fresh(t), verdict.DeployVerify, StepVerify, Restored)
		if !strings.Contains(f.Reason, "check which files its settings name") {
			t.Error(f)
		}
		wantSame(t, before, snapshot(t, pathOf(d)))
		wantServed(t, d, s.initial)
	})
	s.mail.Stop(t)
	before := snapshot(t, pathOf(s.postfix))
	f := wantFailure(t, deployer(), s.postfix, s.fresh(t), verdict.DeployReload, StepReload, RollbackFailed)
	if !strings.Contains(f.Reason, "read the log") || !strings.Contains(f.Reason, "the former files are back") {
		t.Error(f)
	}
	wantSame(t, before, snapshot(t, pathOf(s.postfix)))
	s.mail.Start(t)
	wantServed(t, s.postfix, s.initial)
}

// clients make connections to an endpoint all the time.
type clients struct {
	done, failed atomic.Int64
	lastFailure  atomic.Value // string
	stop         func()
}

func connectAllTheTime(t *testing.T, v Verification, e Endpoint, known func(*x509.Certificate) bool) *clients {
	c := &clients{}
	var group sync.WaitGroup
	end := make(chan struct{})
	for range 3 {
		group.Go(func() {
			for {
				select {
				case <-end:
					return
				default:
				}
				_, state, err := v.connect(t.Context(), e, nil)
				c.done.Add(1)
				switch {
				case err != nil:
					c.failed.Add(1)
					c.lastFailure.Store(err.Error())
				case !known(state.PeerCertificates[0]):
					t.Errorf("%s serves %s, which was never deployed", e.Address, shortName(state.PeerCertificates[0]))
				}
				backoff.Sleep(t.Context(), 5*time.Millisecond)
			}
		})
	}
	c.stop = sync.OnceFunc(func() { close(end); group.Wait() })
	t.Cleanup(c.stop)
	return c
}

// TestRotationUnderConnections: with one file for key, leaf and chain, no client's handshake
// fails while the certificate is replaced again and again; with two files some may, and
// after the deployment none does.
//
// Fault: connections during a rotation. Result: none fails with the combined file.
func TestRotationUnderConnections(t *testing.T) {
	t.Parallel()
	for _, layout := range []string{"combined", "apart"} {
		t.Run(layout, func(t *testing.T) {
			t.Parallel()
			s := startServers(t, layout)
			s.each(t, func(t *testing.T, d Deployment) {
				var lock sync.Mutex
				deployed := []*x509.Certificate{s.initial.Bundle.Leaf}
				known := func(c *x509.Certificate) bool {
					lock.Lock()
					defer lock.Unlock()
					return slices.ContainsFunc(deployed, c.Equal)
				}
				e := d.Verify.Endpoints[0]
				v := d.WithDefaults().Verify
				c := connectAllTheTime(t, v, e, known)
				var last Material
				for range 15 {
					last = s.fresh(t)
					lock.Lock()
					deployed = append(deployed, last.Bundle.Leaf)
					lock.Unlock()
					mustDeploy(t, deployer(), d, last, Deployed)
				}
				c.stop()
				t.Logf("%s: %d handshakes, %d failed (%v)", e.Protocol, c.done.Load(), c.failed.Load(), c.lastFailure.Load())
				if c.failed.Load() > 0 && layout == "combined" {
					t.Errorf("%d of %d handshakes failed, the last with %v", c.failed.Load(), c.done.Load(), c.lastFailure.Load())
				}
				if c.done.Load() < 15 {
					t.Errorf("%d handshakes are too few to say anything", c.done.Load())
				}
				for range 20 {
					wantServed(t, d, last)
				}
			})
		})
	}
}

// TestServersSurviveAKill: the servers serve the former certificate or the new one after a
// deployment was killed, and after the next start all of them serve what the files have.
//
// Fault: kill -9 at any point. Result: readers find the former or the new file; the next
// start finishes or rolls back.
func TestServersSurviveAKill(t *testing.T) {
	t.Parallel()
	s := startServers(t, "combined")
	s.each(t, func(t *testing.T, d Deployment) {
		former := s.initial
		for _, point := range []string{pointWritten, pointLinked, pointJournalled, pointRenamed, pointReplaced, pointReloaded, pointCommitted, pointBackedUp} {
			next := s.fresh(t)
			plan := childPlan{Layout: "combined", Dir: filepath.Dir(d.CertPath), Cert: next.Bundle.PEM(), Key: next.Key, Reload: d.ReloadCommand, Point: point, Nth: 1}
			if err := runChild(t, plan); !errors.Is(err, errKilled) {
				t.Fatal(err)
			}
			// A process that starts now reads the files: they have to be a pair.
			want := former
			if certificatesIn(d.CertPath)[0].Equal(next.Bundle.Leaf) {
				want = next
			}
			run(t, d.ReloadCommand[0], d.ReloadCommand[1:]...)
			wantServed(t, d, want)
			if _, err := deployer().Recover(t.Context(), d); err != nil {
				t.Fatal(err)
			}
			wantContents(t, d, want)
			wantServed(t, d, want)
			former = want
		}
	})
}
