//go:build unix

package mailhost

import (
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/verdict"
)

const secondName = "mx2.example.com"

// named is a certificate for the second name.
func (a *authority) named(t testing.TB) Material {
	return a.material(t, a.issue(t, func(c *x509.Certificate) { c.DNSNames = []string{secondName} }))
}

// One of several names of a host: Postfix serves it from the database of its table, Dovecot from a block
// local_name. Each is deployed, verified and put back as the default one is, and the default one stays.
// Both daemons are told by SIGHUP.
//
// Fault: the daemon cannot be signalled, or is another process. Result: fails (DEPLOY_RELOAD), the former
// files are back.
func TestSeveralNamesAndSignals(t *testing.T) {
	t.Parallel()
	needRoot(t)
	a := newAuthority(t)
	base, err := os.MkdirTemp("/tmp", "mailhost") // which other users can reach
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	dir := func(name string) string {
		path := filepath.Join(base, name)
		if err := errors.Join(os.Chmod(base, 0o755), os.Mkdir(path, 0o755)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	usual, postfix, dovecot := layouts["combined"](dir("default")), layouts["combined"](dir("postfix")), layouts["combined"](dir("dovecot"))
	first, second := a.fresh(t), a.named(t)
	mustDeploy(t, deployer(), usual, first, Deployed)
	mustDeploy(t, deployer(), postfix, second, Deployed)
	mustDeploy(t, deployer(), dovecot, second, Deployed)
	table := filepath.Join(base, "sni.map")
	if err := os.WriteFile(table, []byte(secondName+" "+postfix.CertPath+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := lab.Postfix(t, lab.MailOptions{
		Main:    map[string]string{"smtpd_tls_chain_files": usual.CertPath, "tls_server_sni_maps": "hash:" + table},
		Dovecot: fmt.Sprintf("ssl_cert = <%[1]s\nssl_key = <%[1]s\nlocal_name %[2]s {\n  ssl_cert = <%[3]s\n  ssl_key = <%[3]s\n}\n", usual.CertPath, secondName, dovecot.CertPath),
	})
	queue, err := exec.Command("postconf", "-c", s.ConfigDir, "-h", "queue_directory").Output()
	if err != nil {
		t.Fatal(err)
	}
	run, err := exec.Command("doveconf", "-c", s.DovecotConf, "-h", "base_dir").Output()
	if err != nil {
		t.Fatal(err)
	}
	master := Daemon{"master", strings.TrimSpace(string(queue)) + "/pid/master.pid"}
	doves := Daemon{"dovecot", strings.TrimSpace(string(run)) + "/master.pid"}

	usual.Verify = Verification{Endpoints: []Endpoint{{s.SMTPS, TLS}, {s.SMTP, SMTP}, {s.IMAPS, TLS}}, ServerName: serverName, Roots: a.roots, Backoff: 20 * time.Millisecond, MaxBackoff: 100 * time.Millisecond, Attempts: 10}
	postfix.SNI = SNIMap{Table: "hash:" + table, Command: Command{"postmap", "-c", s.ConfigDir, "-F", "hash:" + table}}
	postfix.Verify = Verification{Endpoints: []Endpoint{{s.SMTPS, TLS}, {s.SMTP, SMTP}}, ServerName: secondName, Roots: a.roots, Backoff: 20 * time.Millisecond, MaxBackoff: 100 * time.Millisecond, Attempts: 10}
	postfix.Signal = master
	dovecot.LocalName, dovecot.Signal, dovecot.ValidateCommand = secondName, doves, Command{"doveconf", "-n", "-c", s.DovecotConf}
	dovecot.Verify = Verification{Endpoints: []Endpoint{{s.IMAPS, TLS}}, Roots: a.roots, Backoff: 20 * time.Millisecond, MaxBackoff: 100 * time.Millisecond, Attempts: 10}

	m := a.named(t)
	r := mustDeploy(t, deployer(), postfix, m, Deployed)
	if all := strings.Join(r.Done, "\n"); !strings.Contains(all, "ran `postmap") {
		t.Errorf("steps:\n%s", all)
	}
	r = mustDeploy(t, deployer(), dovecot, m, Deployed)
	if all := strings.Join(r.Done, "\n"); !strings.Contains(all, "sent SIGHUP to dovecot") {
		t.Errorf("steps:\n%s", all)
	}
	wantServed(t, usual, first)
	if info, err := os.Stat(table + ".db"); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the database with the keys: %v, %v", info.Mode(), err)
	}
	if _, err := deployer().Former(t.Context(), postfix, ""); err != nil {
		t.Error(err)
	}

	t.Run("other_files", func(t *testing.T) {
		wrong := dovecot
		wrong.CertPath, wrong.KeyPath = usual.CertPath, usual.KeyPath
		f := wantFailure(t, deployer(), wrong, a.named(t), verdict.DeployValidate, StepCheck, NotNeeded)
		if !strings.Contains(f.Reason, "local_name "+secondName+", not <"+usual.CertPath) {
			t.Error(f.Reason)
		}
		wantServed(t, usual, first)
	})
	t.Run("no_database", func(t *testing.T) {
		before := snapshot(t, pathOf(postfix))
		wrong := postfix
		wrong.SNI.Command = Command{"false"}
		wantFailure(t, deployer(), wrong, a.named(t), verdict.DeployReload, StepReload, RollbackFailed)
		wrong.SNI.Command = Command{"true"} // leaves the database as it is: the verification notices
		wantFailure(t, deployer(), wrong, a.named(t), verdict.DeployVerify, StepVerify, Restored)
		wantSame(t, before, snapshot(t, pathOf(postfix)))
	})
	t.Run("another_daemon", func(t *testing.T) {
		wrong := usual
		wrong.Signal = Daemon{"dovecot", master.PIDFile}
		f := wantFailure(t, deployer(), wrong, a.fresh(t), verdict.DeployReload, StepReload, RollbackFailed)
		if !strings.Contains(f.Reason, "is not dovecot, run by root") {
			t.Error(f.Reason)
		}
		wantContents(t, usual, first)
	})
	// As a user without any right but CAP_KILL.
	if err := errors.Join(os.Chown(pathOf(usual), 65534, 65534), os.Chown(usual.CertPath, 65534, 65534), os.Chmod(filepath.Dir(master.PIDFile), 0o755), os.Chmod(master.PIDFile, 0o644), os.Chmod(doves.PIDFile, 0o644)); err != nil {
		t.Fatal(err)
	}
	for _, daemon := range []Daemon{master, doves} {
		m := a.fresh(t)
		if err := runChild(t, childPlan{Layout: "combined", Dir: pathOf(usual), Cert: m.Bundle.PEM(), Key: m.Key, Signal: daemon}); err != nil {
			t.Fatalf("%s: %v", daemon.Name, err)
		}
		only := usual
		if only.Verify.Endpoints = usual.Verify.Endpoints[:2]; daemon == doves {
			only.Verify.Endpoints = usual.Verify.Endpoints[2:]
		}
		wantServed(t, only, m)
	}
}
