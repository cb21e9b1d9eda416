package lab

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// EximOptions configure an Exim of the lab.
type EximOptions struct {
	// Users maps mail addresses, which are the user names, to passwords. Only they
	// have mailboxes.
	Users map[string]string
	// Refuse maps recipients to the reply that RCPT gets: code, enhanced code, text.
	Refuse map[string]string
	// SMTP is the address to listen on; a free one when empty.
	SMTP string
	// Main are settings of Exim's main section; they override the lab's own.
	Main map[string]string
}

// EximServer is a running Exim that stores accepted mails in one mailbox for all users.
type EximServer struct {
	// SMTP accepts mail from any client: STARTTLS is offered, AUTH only after it.
	SMTP string
	// SMTPS is the same with implicit TLS.
	SMTPS string
	// CA issued the server's certificate, for 127.0.0.1, localhost and exim.lab.test.
	CA *CA
	// Log is Exim's main log.
	Log string
	// Daemon is the number of its process, which a SIGHUP reloads.
	Daemon int

	mails string
}

// eximUser is the user that is compiled into Debian's Exim, which does not start without
// it.
const eximUser = "Debian-exim"

// Exim starts a real Exim, which tools/test unpacks beside Postfix, because Debian does not
// install two mail servers. The test is skipped, or fails with CI=true, if Exim is not there
// or the test does not run as root.
func Exim(t testing.TB, o EximOptions) *EximServer {
	t.Helper()
	needRoot(t, "Exim")
	// Exim executes itself by this path from another directory, so it must be absolute.
	exim, err := filepath.Abs(Need(t, "exim4"))
	if err != nil {
		t.Fatal(err)
	}
	owner, err := user.Lookup(eximUser)
	if err != nil {
		Skip(t, "Exim needs the user "+eximUser+", which does not exist: `go run -C tools/test .` makes it")
	}
	uid, _ := strconv.Atoi(owner.Uid)
	gid, _ := strconv.Atoi(owner.Gid)
	dir := serverDir(t)
	ca := NewCA(t, mkdir(t, dir, "tls"))
	certFile, keyFile := ca.Issue(t, "exim.lab.test", "localhost", "127.0.0.1")
	own := mkdir(t, dir, "own")
	for _, path := range []string{own, keyFile} {
		if err := os.Chown(path, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	e := &EximServer{SMTP: cmp.Or(o.SMTP, loopback(freePort(t))), SMTPS: loopback(freePort(t)), CA: ca,
		Log: filepath.Join(own, "mainlog"), mails: filepath.Join(own, "mails")}
	config := writeFile(t, filepath.Join(dir, "exim.conf"), e.config(t, o, map[string]string{
		"exim_path": exim, "spool_directory": filepath.Join(own, "spool"), "log_file_path": filepath.Join(own, "%slog"),
		"pid_file_path": filepath.Join(own, "pid"), "tls_certificate": certFile, "tls_privatekey": keyFile,
	}, dir), 0o644)
	printed := filepath.Join(dir, "exim.out")
	p := startProcess(t, "exim", printed, exec.Command(exim, "-C", config, "-bdf"))
	logOnFailure(t, printed)
	logOnFailure(t, e.Log)
	p.await(t, "waiting for its greeting", func() error { return greets(e.SMTP) })
	e.Daemon = p.cmd.Process.Pid
	return e
}

// config returns the configuration, and writes the password file that it names.
func (e *EximServer) config(t testing.TB, o EximOptions, paths map[string]string, dir string) string {
	t.Helper()
	var users, refusals, main strings.Builder
	for _, name := range slices.Sorted(maps.Keys(o.Users)) {
		fmt.Fprintf(&users, "%s: %s\n", name, o.Users[name])
	}
	for _, recipient := range slices.Sorted(maps.Keys(o.Refuse)) {
		verb := "deny"
		if strings.HasPrefix(o.Refuse[recipient], "4") {
			verb = "defer"
		}
		fmt.Fprintf(&refusals, "  %s message = %s\n    recipients = %s\n", verb, o.Refuse[recipient], recipient)
	}
	_, smtp, _ := strings.Cut(e.SMTP, ":")
	_, smtps, _ := strings.Cut(e.SMTPS, ":")
	settings := map[string]string{
		"primary_hostname":     "exim.lab.test",
		"local_interfaces":     "127.0.0.1",
		"daemon_smtp_ports":    smtp + " : " + smtps,
		"tls_on_connect_ports": smtps,
		"tls_advertise_hosts":  "*",
		"auth_advertise_hosts": "${if eq{$tls_in_cipher}{}{}{*}}",
		"acl_smtp_rcpt":        "rcpt",
		// Exim stays the same user, and uses no DNS.
		"deliver_drop_privilege":   "true",
		"host_lookup":              "",
		"dns_again_means_nonexist": "*",
		"rfc1413_query_timeout":    "0s",
		"keep_environment":         "",
		"message_size_limit":       "10M",
	}
	maps.Copy(settings, paths)
	maps.Copy(settings, o.Main)
	for _, key := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&main, "%s = %s\n", key, settings[key])
	}
	return main.String() + strings.NewReplacer(
		"{users}", writeFile(t, filepath.Join(dir, "users"), users.String(), 0o644),
		"{refusals}", refusals.String(), "{mails}", e.mails,
	).Replace(eximSections)
}

// eximSections are the sections after the main one. All mails are in one maildir, because
// Exim does not allow a path made from data of the sender (tainting).
const eximSections = `
begin acl
rcpt:
{refusals}  accept condition = ${lookup{$local_part@$domain}lsearch{{users}}{yes}{no}}
  deny message = 550 5.1.1 <$local_part@$domain>: nobody here has this address

begin routers
here:
  driver = accept
  transport = mailbox

begin transports
mailbox:
  driver = appendfile
  maildir_format
  directory = {mails}
  create_directory
  envelope_to_add
  return_path_add

begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = ${if eq{$auth3}{${lookup{$auth2}lsearch{{users}}{$value}fail}}}
  server_set_id = $auth2
login:
  driver = plaintext
  public_name = LOGIN
  server_prompts = Username:: : Password::
  server_condition = ${if eq{$auth2}{${lookup{$auth1}lsearch{{users}}{$value}fail}}}
  server_set_id = $auth1
`

// Mails returns the stored mails of a recipient, with Exim's own fields on top
// (Return-path, Envelope-to), once there are n or more. The test fails if that takes longer
// than patience.
func (e *EximServer) Mails(t testing.TB, recipient string, n int) [][]byte {
	t.Helper()
	var mails [][]byte
	err := poll(func() error {
		mails = nil
		files, err := filepath.Glob(filepath.Join(e.mails, "new", "*"))
		if err != nil {
			return stopPolling{err}
		}
		for _, file := range files {
			mail, err := os.ReadFile(file)
			if err != nil {
				return stopPolling{err}
			}
			head, _, _ := strings.Cut(string(mail), "\n\n")
			if strings.Contains(head, "\nEnvelope-to: "+recipient+"\n") {
				mails = append(mails, mail)
			}
		}
		if len(mails) < n {
			return errors.New("not enough mails yet")
		}
		return nil
	})
	if err != nil {
		t.Fatalf("Exim's mailbox holds %d mails for %s, want %d: %v", len(mails), recipient, n, err)
	}
	return mails
}
