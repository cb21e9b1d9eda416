//go:build unix

package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/lab"
)

// mailHost is the built program beside a real Postfix and a real Dovecot.
type mailHost struct {
	*program
	ca      *demoCA
	server  *lab.MailServer
	postfix string // the file that Postfix serves from
	dovecot string
}

const mailHostName = "mx1.example.com"

// newMailHost starts the servers with a first certificate, and the program with a target for
// each.
func newMailHost(t *testing.T) *mailHost {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	h := &mailHost{postfix: filepath.Join(dir, "postfix.pem"), dovecot: filepath.Join(dir, "dovecot.pem")}
	var err error
	if h.ca, err = newDemoCA(); err != nil {
		t.Fatal(err)
	}
	chain, key := h.fresh(t)
	for _, path := range []string{h.postfix, h.dovecot} {
		if err := os.WriteFile(path, append(key, chain...), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h.server = lab.Postfix(t, lab.MailOptions{Main: map[string]string{"smtpd_tls_chain_files": h.postfix},
		Dovecot: "ssl_cert = <" + h.dovecot + "\nssl_key = <" + h.dovecot + "\n"})
	_, rest := pem.Decode(chain)
	verify := func(endpoint, protocol string) string {
		return fmt.Sprintf("{endpoint: %q, protocol: %s, server_name: %s, ca_file: %s/ca.pem, backoff: 50ms}", endpoint, protocol, mailHostName, dir)
	}
	if err := os.WriteFile(filepath.Join(dir, "ca.pem"), rest, 0o600); err != nil {
		t.Fatal(err)
	}
	h.program = newProgram(t, "")
	// The reload of Postfix kills the program first if a file says so: after the files were replaced.
	reload := fmt.Sprintf("if rm %s/kill 2>/dev/null; then kill -9 $PPID; fi; exec postfix -c %s reload", h.dir, h.server.ConfigDir)
	h.write("certpost.yaml", anyPorts+"mail_host: mx1\nevents: {file_roots: ["+h.dir+"]}\ntargets:\n"+
		fmt.Sprintf("  - {id: mx1-postfix, type: postfix, host: mx1, dane: off, cert_path: %[1]s, key_path: %[1]s, validate_command: postfix -c %[2]s check, reload_command: [sh, -c, %[3]q], post_deploy_verify: %[4]s}\n",
			h.postfix, h.server.ConfigDir, reload, verify(h.server.SMTP, "smtp"))+
		fmt.Sprintf("  - {id: mx1-dovecot, type: dovecot, host: mx1, cert_path: %[1]s, key_path: %[1]s, validate_command: doveconf -n -c %[2]s, reload_command: doveadm -c %[2]s reload, post_deploy_verify: %[3]s}\n",
			h.dovecot, h.server.DovecotConf, verify(h.server.IMAPS, "tls")))
	h.start()
	h.ready()
	return h
}

func (h *mailHost) fresh(t *testing.T) (chain, key []byte) {
	t.Helper()
	chain, key, err := h.ca.issue(mailHostName)
	if err != nil {
		t.Fatal(err)
	}
	return chain, key
}

// event publishes a new certificate to targets, with a key, and returns its serial number.
func (h *mailHost) event(id string, key []byte, targets ...string) string {
	h.t.Helper()
	chain, own := h.fresh(h.t)
	if key == nil {
		key = own
	}
	h.write(id+".pem", string(chain))
	h.write(id+".key", string(key))
	args := []string{"publish", "--cert", id + ".pem", "--key-ref", "file:" + filepath.Join(h.dir, id+".key"), "--id", id}
	for _, target := range targets {
		args = append(args, "--target", target)
	}
	h.certpost(args...)
	block, _ := pem.Decode(chain)
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		h.t.Fatal(err)
	}
	return leaf.SerialNumber.String()
}

// served returns the serial numbers of the certificates that the servers serve, "" for none.
func (h *mailHost) served() (postfix, dovecot string) {
	serial := func(address string) string {
		conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", address, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			return ""
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	return serial(h.server.SMTPS), serial(h.server.IMAPS)
}

// An event makes a real Postfix and a real Dovecot serve the new certificate; a wrong pair is
// never served; kill -9 amid a deployment leaves the new one served after the next start; a
// rollback by command serves the former one again.
//
// Fault: the program on a mail host is killed amid a deployment. Result: the next start finishes
// or rolls back.
func TestMailHostFromEventToServed(t *testing.T) {
	t.Parallel()
	h := newMailHost(t)
	before, _ := h.served()
	first := h.event("e1", nil, "mx1-postfix", "mx1-dovecot")
	h.accountsFor(2, tally{accepted: 2})
	if postfix, dovecot := h.served(); postfix != first || dovecot != first || first == before {
		t.Fatalf("Postfix serves %s, Dovecot %s, want %s", postfix, dovecot, first)
	}
	shown := h.certpost("deliveries", "show", "e1", "mx1-postfix")
	if !strings.Contains(shown, "verified "+h.server.SMTP) {
		t.Errorf("deliveries show: %s", shown)
	}

	_, wrong := h.fresh(t)
	h.event("e2", wrong, "mx1-postfix", "mx1-dovecot")
	h.accountsFor(4, tally{accepted: 2, dead: 2})
	if postfix, dovecot := h.served(); postfix != first || dovecot != first {
		t.Errorf("after a wrong pair Postfix serves %s, Dovecot %s, want %s", postfix, dovecot, first)
	}
	if letter := h.certpost("dead-letters", "show", "1", "-o", "json"); !strings.Contains(letter, `"rollback": "not-needed"`) || !strings.Contains(letter, `"code": "SMTP_PAYLOAD"`) {
		t.Errorf("letter: %s", letter)
	}

	h.certpost("deliveries", "rollback", "e1", "mx1-postfix", "--reason", "clients refuse it")
	if postfix, dovecot := h.served(); postfix != before || dovecot != first {
		t.Errorf("after the rollback Postfix serves %s, want %s; Dovecot %s, want %s", postfix, before, dovecot, first)
	}

	h.write("kill", "")
	last := h.event("e3", nil, "mx1-postfix")
	_ = h.cmd.Wait()
	if _, err := os.Stat(h.postfix + ".certpost-journal"); err != nil {
		t.Errorf("the killed deployment has left no journal: %v", err)
	}
	h.start()
	h.waitForLine("files of this mail host at the start")
	if postfix, _ := h.served(); postfix != last {
		t.Errorf("after the next start Postfix serves %s, want %s", postfix, last)
	}
	if _, err := os.Stat(h.postfix + ".certpost-journal"); err == nil {
		t.Error("the journal is still there")
	}
	h.terminate()
	h.ended()
}
