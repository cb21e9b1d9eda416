package lab

import (
	"bufio"
	"fmt"
	"maps"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// MailServer is a running Postfix that delivers into a running Dovecot. It accepts mail
// only for its users, sends nothing elsewhere, and uses no DNS.
type MailServer struct {
	*Mailboxes
	// SMTP accepts mail from any client, like port 25: STARTTLS is offered, AUTH only after it.
	SMTP string
	// Submission accepts mail after STARTTLS and AUTH, like port 587.
	Submission string
	// SMTPS accepts mail over implicit TLS after AUTH, like port 465.
	SMTPS string
	// ConfigDir holds main.cf and master.cf.
	ConfigDir string
	// Log is Postfix's log file.
	Log string

	master *process
}

// Postfix starts a real Postfix and its Dovecot. The test is skipped, or fails with
// CI=true, if one of them is not installed or the test does not run as root.
func Postfix(t testing.TB, o MailOptions) *MailServer {
	t.Helper()
	needRoot(t, "Postfix")
	Need(t, "postfix")
	boxes := Dovecot(t, o)
	m := &MailServer{
		Mailboxes:  boxes,
		SMTP:       loopback(freePort(t)),
		Submission: loopback(freePort(t)),
		SMTPS:      loopback(freePort(t)),
		ConfigDir:  mkdir(t, boxes.dir, "postfix"),
		Log:        filepath.Join(boxes.dir, "postfix.log"),
	}
	m.writeConfig(t, o)
	logOnFailure(t, m.Log)
	m.Start(t)
	return m
}

// Start starts Postfix again after Stop. It does what `postfix start-fg` does, but runs
// master directly: there master is the child of a shell, and signals do not reach it.
func (m *MailServer) Start(t testing.TB) {
	t.Helper()
	// check makes the queue's directories, with their owners.
	if out, err := exec.Command(Need(t, "postfix"), "-c", m.ConfigDir, "check").CombinedOutput(); err != nil {
		t.Fatalf("postfix check: %v\n%s", err, out)
	}
	daemons, err := exec.Command(Need(t, "postconf"), "-c", m.ConfigDir, "-h", "daemon_directory").Output()
	if err != nil {
		t.Fatalf("postconf: %v", err)
	}
	master := filepath.Join(strings.TrimSpace(string(daemons)), "master")
	m.master = startProcess(t, "postfix", m.Log, exec.Command(master, "-c", m.ConfigDir, "-s"))
	m.master.await(t, "waiting for its greeting", func() error { return greets(m.SMTP) })
}

// Stop ends Postfix. Dovecot and the mails stay.
func (m *MailServer) Stop(t testing.TB) {
	t.Helper()
	m.master.stop(t)
	// The processes that master started keep the ports open a moment longer.
	err := poll(func() error {
		if answers(m.SMTP) == nil {
			return fmt.Errorf("%s still accepts connections", m.SMTP)
		}
		return nil
	})
	if err != nil {
		t.Fatalf("postfix: stop: %v", err)
	}
}

// Reload makes Postfix read its configuration again.
func (m *MailServer) Reload(t testing.TB) {
	t.Helper()
	if err := m.master.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatalf("postfix: reload: %v", err)
	}
}

// greets returns nil if an SMTP server answers a connection with 220.
func greets(addr string) error {
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err == nil && !strings.HasPrefix(line, "220 ") {
		err = fmt.Errorf("the greeting is %q", line)
	}
	fmt.Fprint(conn, "QUIT\r\n")
	return err
}

func (m *MailServer) writeConfig(t testing.TB, o MailOptions) {
	t.Helper()
	var mailboxes strings.Builder
	domains := map[string]bool{}
	for name := range m.Users {
		fmt.Fprintf(&mailboxes, "%s here\n", name)
		domains[name[strings.LastIndex(name, "@")+1:]] = true
	}
	settings := map[string]string{
		"compatibility_level": "3.6",
		"queue_directory":     mkdir(t, m.dir, "queue"),
		"data_directory":      filepath.Join(m.dir, "data"),
		"maillog_file":        m.Log,
		// Postfix writes its log only below such a prefix.
		"maillog_file_prefixes": m.dir,

		"myhostname":      "mail.lab.test",
		"inet_protocols":  "ipv4",
		"inet_interfaces": "127.0.0.1",
		"mynetworks":      "127.0.0.0/8",
		// Host names come from /etc/hosts, and clients are not looked up.
		"smtp_dns_support_level": "disabled",
		"smtp_host_lookup":       "native",
		"smtpd_peername_lookup":  "no",

		"mydestination":           "",
		"alias_maps":              "",
		"virtual_mailbox_domains": strings.Join(slices.Sorted(maps.Keys(domains)), " "),
		"virtual_mailbox_maps":    "texthash:" + writeFile(t, filepath.Join(m.ConfigDir, "mailboxes"), mailboxes.String(), 0o644),
		"virtual_transport":       "lmtp:unix:" + m.lmtpSocket,
		// Mail that is not for a local mailbox is refused from every client.
		"default_transport":        "error:5.1.2 this server delivers only to its own mailboxes",
		"smtpd_relay_restrictions": "reject_unauth_destination",

		"smtpd_tls_chain_files":    m.keyFile + ", " + m.certFile,
		"smtpd_tls_security_level": "may",
		"smtpd_tls_auth_only":      "yes",
		"smtpd_sasl_auth_enable":   "yes",
		"smtpd_sasl_type":          "dovecot",
		"smtpd_sasl_path":          m.authSocket,
		// So that tests of refusals need not wait.
		"smtpd_error_sleep_time": "0",
	}
	maps.Copy(settings, o.Main)
	var main strings.Builder
	for _, key := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&main, "%s = %s\n", key, settings[key])
	}
	writeFile(t, filepath.Join(m.ConfigDir, "main.cf"), main.String(), 0o644)
	writeFile(t, filepath.Join(m.ConfigDir, "master.cf"), strings.NewReplacer(
		"{smtp}", m.SMTP, "{submission}", m.Submission, "{smtps}", m.SMTPS,
	).Replace(masterCf), 0o644)
}

// masterCf has the services for receiving, queueing and delivering (master(5)). None runs
// in a chroot, so that the paths of the sockets are valid.
const masterCf = `# service     type  private unpriv chroot wakeup maxproc command
{smtp}        inet  n - n - - smtpd
{submission}  inet  n - n - - smtpd
  -o syslog_name=postfix/submission
  -o smtpd_tls_security_level=encrypt
  -o smtpd_client_restrictions=permit_sasl_authenticated,reject
{smtps}       inet  n - n - - smtpd
  -o syslog_name=postfix/smtps
  -o smtpd_tls_wrappermode=yes
  -o smtpd_client_restrictions=permit_sasl_authenticated,reject
cleanup       unix  n - n - 0 cleanup
qmgr          unix  n - n 300 1 qmgr
tlsmgr        unix  - - n 1000? 1 tlsmgr
rewrite       unix  - - n - - trivial-rewrite
bounce        unix  - - n - 0 bounce
defer         unix  - - n - 0 bounce
trace         unix  - - n - 0 bounce
proxymap      unix  - - n - - proxymap
anvil         unix  - - n - 1 anvil
showq         unix  n - n - - showq
error         unix  - - n - - error
retry         unix  - - n - - error
smtp          unix  - - n - - smtp
lmtp          unix  - - n - - lmtp
postlog       unix-dgram n - n - 1 postlogd
`
