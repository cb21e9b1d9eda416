package lab

import (
	"crypto/tls"
	"encoding/base64"
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

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"
)

// MailOptions configure a mail server of the lab.
type MailOptions struct {
	// Users maps mail addresses, which are the user names, to passwords.
	// Empty: ops@lab.test with the password "ops-password".
	Users map[string]string
	// Mechanisms are those of AUTH, as in Dovecot's auth_mechanisms; "" means "plain login".
	Mechanisms string
	// Introspection is the URL of an endpoint (RFC 7662) where Dovecot checks the
	// tokens of XOAUTH2 and OAUTHBEARER; it must return the user as "username".
	Introspection string
	// Main are settings of Postfix's main.cf; they override the lab's own.
	Main map[string]string
	// Dovecot are further lines of Dovecot's configuration; they override the lab's own.
	Dovecot string
}

// Mailboxes is a running Dovecot: it serves mailboxes by IMAP, checks passwords for
// Postfix, and receives mails from it.
type Mailboxes struct {
	// IMAPS is the host and port of IMAP over TLS.
	IMAPS string
	// Users maps mail addresses, which are the user names, to passwords.
	Users map[string]string
	// DovecotConf is Dovecot's configuration file.
	DovecotConf string
	// CA issued the server's certificate, for 127.0.0.1, localhost and mail.lab.test.
	CA *CA

	dir               string // everything of this server
	certFile, keyFile string
	authSocket        string // Dovecot's protocol for SASL, for Postfix
	lmtpSocket        string
}

// Dovecot starts a real Dovecot. The test is skipped, or fails with CI=true, if there is
// none or the test does not run as root.
func Dovecot(t testing.TB, o MailOptions) *Mailboxes {
	t.Helper()
	needRoot(t, "Dovecot")
	dovecot := Need(t, "dovecot")
	version, err := exec.Command(dovecot, "--version").Output()
	if err != nil {
		t.Fatalf("dovecot --version: %v", err)
	}
	if !strings.HasPrefix(string(version), "2.3.") {
		Skip(t, "Dovecot "+strings.TrimSpace(string(version))+" needs another configuration than Dovecot 2.3, for which the lab writes it")
	}
	m := newMailboxes(t, o)
	log := filepath.Join(m.dir, "dovecot.log")
	m.DovecotConf = writeFile(t, filepath.Join(m.dir, "dovecot.conf"), m.dovecotConf(t, o, log)+o.Dovecot, 0o644)
	p := startProcess(t, "dovecot", log, exec.Command(dovecot, "-F", "-c", m.DovecotConf))
	logOnFailure(t, log)
	p.await(t, "waiting for IMAP", func() error { return answers(m.IMAPS) })
	return m
}

func newMailboxes(t testing.TB, o MailOptions) *Mailboxes {
	t.Helper()
	users := maps.Clone(o.Users)
	if len(users) == 0 {
		users = map[string]string{"ops@lab.test": "ops-password"}
	}
	dir := serverDir(t)
	m := &Mailboxes{
		IMAPS:      loopback(freePort(t)),
		Users:      users,
		CA:         NewCA(t, mkdir(t, dir, "tls")),
		dir:        dir,
		authSocket: filepath.Join(dir, "run", "sasl"),
		lmtpSocket: filepath.Join(dir, "run", "lmtp"),
	}
	m.certFile, m.keyFile = m.CA.Issue(t, "mail.lab.test", "localhost", "127.0.0.1")
	return m
}

// dovecotConf returns the configuration, and writes the files that it names. Mails belong
// to Debian's user mail, which can read nothing else.
func (m *Mailboxes) dovecotConf(t testing.TB, o MailOptions, log string) string {
	t.Helper()
	owner, err := user.Lookup("mail")
	if err != nil {
		t.Fatalf("Dovecot needs the user mail, to which its mails belong: %v", err)
	}
	uid, _ := strconv.Atoi(owner.Uid)
	gid, _ := strconv.Atoi(owner.Gid)
	mails := mkdir(t, m.dir, "mails")
	if err := os.Chown(mails, uid, gid); err != nil {
		t.Fatal(err)
	}
	var passwords strings.Builder
	for _, name := range slices.Sorted(maps.Keys(m.Users)) {
		// Base64, because a password may hold the file's separators.
		fmt.Fprintf(&passwords, "%s:{PLAIN.B64}%s\n", name, base64.StdEncoding.EncodeToString([]byte(m.Users[name])))
	}
	passwd := writeFile(t, filepath.Join(m.dir, "passwd"), passwords.String(), 0o644)
	mechanisms := o.Mechanisms
	if mechanisms == "" {
		mechanisms = "plain login"
	}
	tokens := ""
	if o.Introspection != "" {
		file := writeFile(t, filepath.Join(m.dir, "oauth2.conf"), "introspection_mode = post\nintrospection_url = "+o.Introspection+
			"\nforce_introspection = yes\nusername_attribute = username\nactive_attribute = active\nactive_value = true\n", 0o644)
		tokens = "passdb {\n  driver = oauth2\n  mechanisms = xoauth2 oauthbearer\n  args = " + file + "\n}\n"
	}
	_, port, _ := strings.Cut(m.IMAPS, ":")
	return strings.NewReplacer(
		"{tokens}", tokens,
		"{dir}", m.dir, "{log}", log, "{cert}", m.certFile, "{key}", m.keyFile, "{port}", port,
		"{mechanisms}", mechanisms, "{passwd}", passwd, "{mails}", mails,
	).Replace(`# Dovecot 2.3
protocols = imap lmtp
base_dir = {dir}/run
state_dir = {dir}/state
instance_name = {dir}
log_path = {log}
listen = 127.0.0.1
ssl = required
ssl_cert = <{cert}
ssl_key = <{key}
auth_mechanisms = {mechanisms}
# Tests of wrong passwords do not wait for it.
auth_failure_delay = 0
first_valid_uid = 1
mail_location = maildir:~/Maildir
{tokens}passdb {
  driver = passwd-file
  args = {passwd}
}
userdb {
  driver = static
  args = uid=mail gid=mail home={mails}/%u
}
service imap-login {
  inet_listener imap {
    port = 0
  }
  inet_listener imaps {
    port = {port}
    ssl = yes
  }
}
service auth {
  unix_listener sasl {
    mode = 0666
  }
}
`)
}

// Fetch returns the mails in a user's inbox, oldest first, as they were stored, once enough
// returns true. The test fails if that takes longer than patience.
func (m *Mailboxes) Fetch(t testing.TB, user string, enough func(mails [][]byte) bool) [][]byte {
	t.Helper()
	client, err := imapclient.DialTLS(m.IMAPS, &imapclient.Options{TLSConfig: &tls.Config{RootCAs: m.CA.Pool}})
	if err != nil {
		t.Fatalf("IMAP: %v", err)
	}
	defer client.Close()
	if err := client.Login(user, m.Users[user]).Wait(); err != nil {
		t.Fatalf("IMAP: logging in as %s: %v", user, err)
	}
	var mails [][]byte
	err = poll(func() error {
		// Only opening the mailbox again shows new mails.
		box, err := client.Select("INBOX", &imap.SelectOptions{ReadOnly: true}).Wait()
		if err != nil {
			return stopPolling{err}
		}
		if mails, err = bodies(client, int(box.NumMessages)); err != nil {
			return stopPolling{err}
		}
		if !enough(mails) {
			return errors.New("not enough mails yet")
		}
		return nil
	})
	if err != nil {
		t.Fatalf("IMAP: the inbox of %s with %d mails: %v", user, len(mails), err)
	}
	return mails
}

// AtLeast makes Fetch wait for n mails or more.
func AtLeast(n int) func([][]byte) bool {
	return func(mails [][]byte) bool { return len(mails) >= n }
}

func bodies(client *imapclient.Client, n int) ([][]byte, error) {
	if n == 0 {
		return nil, nil
	}
	var all imap.SeqSet
	all.AddRange(1, uint32(n))
	whole := &imap.FetchItemBodySection{Peek: true}
	fetched, err := client.Fetch(all, &imap.FetchOptions{BodySection: []*imap.FetchItemBodySection{whole}}).Collect()
	if err != nil {
		return nil, err
	}
	var mails [][]byte
	for _, message := range fetched {
		mails = append(mails, message.FindBodySection(whole))
	}
	return mails, nil
}
