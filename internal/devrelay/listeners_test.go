package devrelay

import (
	"bytes"
	"encoding/base64"
	"io/fs"
	"net"
	"net/smtp"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// connect is the standard library's SMTP client, without TLS.
func connect(t *testing.T, address string) *smtp.Client {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	c, err := smtp.NewClient(conn, "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestListenersOfARelay(t *testing.T) {
	t.Parallel()
	r := start(t, Config{Users: map[string]string{"certs": "hunter2"}, Opportunistic: true, RequireTLS: true})
	bare := start(t, Config{NoTLS: true, Opportunistic: true, RequireTLS: true})
	open := start(t, Config{Users: map[string]string{"certs": "hunter2"}, NoTLS: true, AllowUnsecureAuthentication: true})
	if bare.SMTPS() != "" {
		t.Error("a relay without a certificate listens for implicit TLS")
	}
	for _, test := range []struct {
		name, address  string
		starttls, auth bool
		code           int // of MAIL
	}{
		{"25", r.Plain(), true, false, 530},
		{"587", r.Submission(), true, false, 530},
		{"25 without a certificate", bare.Plain(), false, false, 0},
		{"587 without a certificate", bare.Submission(), false, false, 0},
		{"25 with AUTH in clear text", open.Plain(), false, true, 530},
	} {
		c := connect(t, test.address)
		starttls, _ := c.Extension("STARTTLS")
		auth, _ := c.Extension("AUTH")
		if err := c.Mail("a@example.com"); starttls != test.starttls || auth != test.auth || replyCode(err) != test.code {
			t.Errorf("%s: STARTTLS %v, AUTH %v, MAIL %v", test.name, starttls, auth, err)
		}
	}
	if err := connect(t, r.Submission()).Mail("a@example.com"); err == nil || !strings.Contains(err.Error(), "5.7.0 Must issue a STARTTLS command first") {
		t.Errorf("587 before STARTTLS: %v", err)
	}
	// AUTH that was not offered is refused, and no password is compared.
	c := connect(t, r.Plain())
	if err := c.Hello("client.example.com"); err != nil {
		t.Fatal(err)
	}
	if id, err := c.Text.Cmd("AUTH PLAIN %s", base64.StdEncoding.EncodeToString([]byte("\x00certs\x00hunter2"))); err != nil {
		t.Fatal(err)
	} else {
		c.Text.StartResponse(id)
	}
	if code, text, _ := c.Text.ReadResponse(0); code != 523 {
		t.Errorf("AUTH without TLS: %d %s", code, text)
	}
	c = connect(t, open.Plain())
	if err := c.Auth(smtp.PlainAuth("", "certs", "hunter2", "127.0.0.1")); err != nil {
		t.Fatal(err)
	}
	if err := send(c, "a@example.com", someMail, "b@example.com"); err != nil || open.Mails()[0].User != "certs" {
		t.Errorf("a mail after AUTH in clear text: %v", err)
	}
}

// The size of a mail counts without dot-stuffing, and to the byte.
func TestSizesOfMails(t *testing.T) {
	t.Parallel()
	const limit = 2000
	r := start(t, Config{MaxMailBytes: limit})
	mail := func(size int) string { // lines that begin with a dot
		text := someMail + strings.Repeat(".\r\n", (size-len(someMail))/3-1)
		return text + strings.Repeat("x", size-len(text)-2) + "\r\n"
	}
	for _, test := range []struct{ size, code int }{{limit, 0}, {limit + 1, 552}, {limit + 2, 552}, {limit * 10, 552}} {
		err := send(connect(t, r.Plain()), "a@example.com", mail(test.size), "b@example.com")
		if replyCode(err) != test.code || err != nil && !strings.Contains(err.Error(), "5.3.4") {
			t.Errorf("%d bytes: %v, want %d", test.size, err, test.code)
		}
	}
	if mails := r.Mails(); len(mails) != 1 || len(mails[0].Raw) != limit {
		t.Errorf("kept %d mails", len(mails))
	}
	for size, code := range map[int]int{limit: 250, limit + 1: 552} { // announced (RFC 1870)
		c := connect(t, r.Plain())
		if err := c.Hello("client.example.com"); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Text.Cmd("MAIL FROM:<a@example.com> SIZE=%d", size); err != nil {
			t.Fatal(err)
		}
		if got, text, _ := c.Text.ReadResponse(0); got != code {
			t.Errorf("SIZE=%d: %d %s", size, got, text)
		}
	}
}

// The size of an attachment is that of the file, not of its encoding.
func TestSizesOfAttachments(t *testing.T) {
	t.Parallel()
	const limit = 3000
	r := start(t, Config{MaxAttachmentBytes: limit})
	mail := func(size int) string {
		var lines strings.Builder
		for encoded := base64.StdEncoding.EncodeToString(make([]byte, size)); encoded != ""; {
			n := min(76, len(encoded))
			lines.WriteString(encoded[:n] + "\r\n")
			encoded = encoded[n:]
		}
		return "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\n" + strings.Repeat("text\r\n", 1000) +
			"--b\r\nContent-Disposition: attachment; filename=a.bin\r\nContent-Transfer-Encoding: base64\r\n\r\n" + lines.String() + "--b--\r\n"
	}
	for size, code := range map[int]int{limit: 0, limit + 1: 552} {
		err := send(connect(t, r.Plain()), "a@example.com", mail(size), "b@example.com")
		if replyCode(err) != code || err != nil && !strings.Contains(err.Error(), "5.3.4") {
			t.Errorf("an attachment of %d bytes: %v, want %d", size, err, code)
		}
	}
	if r := start(t, Config{}); r.config.MaxMailBytes != 50<<20 || r.config.MaxAttachmentBytes != 25<<20 {
		t.Errorf("the defaults are %d and %d", r.config.MaxMailBytes, r.config.MaxAttachmentBytes)
	}
}

func TestFoldersOfMails(t *testing.T) {
	t.Parallel()
	for _, format := range []Format{EML, Maildir} {
		t.Run(string(format), func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "mails")
			r := start(t, Config{Folder: Folder{Dir: dir, Format: format}})
			c := connect(t, r.Plain())
			for range 3 {
				if err := send(c, "a@example.com", someMail, "b@example.com"); err != nil {
					t.Fatal(err)
				}
			}
			var files []string
			err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
				if err == nil && !entry.IsDir() {
					files = append(files, path)
				}
				return err
			})
			if err != nil || len(files) != 3 {
				t.Fatalf("%q, %v", files, err)
			}
			for _, file := range files {
				info, err := os.Stat(file)
				if err != nil {
					t.Fatal(err)
				}
				data, err := os.ReadFile(file)
				in := filepath.Base(filepath.Dir(file))
				if err != nil || !bytes.Equal(data, []byte(someMail)) || info.Mode() != 0o600 ||
					format == EML && filepath.Ext(file) != ".eml" || format == Maildir && in != "new" {
					t.Errorf("%s (%v): %v\n%s", file, info.Mode(), err, data)
				}
			}
			// What cannot be stored is not accepted.
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			if err := send(c, "a@example.com", someMail, "b@example.com"); replyCode(err) != 452 || r.Count() != 3 {
				t.Errorf("without its folder: %v, %d mails", err, r.Count())
			}
		})
	}
	if _, err := Start(Config{Folder: Folder{Dir: t.TempDir(), Format: "mbox"}}); err == nil || !strings.Contains(err.Error(), `not as "mbox"`) {
		t.Errorf("an unknown format: %v", err)
	}
}

// A rule may close the connection: before the mail was accepted, or after it.
func TestRulesDisconnect(t *testing.T) {
	t.Parallel()
	r := start(t, Config{Rules: []Rule{
		{Stage: StageRcpt, Recipient: "gone@*", Disconnect: true, Times: 1},
		{Stage: StageData, Recipient: "lost@*", Disconnect: true, Times: 1},
		{Stage: StageRcpt, Recipient: "slow@*", Code: 450, Text: "later", Delay: 50 * time.Millisecond},
	}})
	for i, to := range []string{"gone@example.com", "lost@example.com"} {
		if err := send(connect(t, r.Plain()), "a@example.com", someMail, to); err == nil || replyCode(err) != 0 {
			t.Errorf("%s: %v, want no reply", to, err)
		}
		if r.Count() != i {
			t.Errorf("%s: %d mails were accepted, want %d", to, r.Count(), i)
		}
	}
	began := time.Now()
	if err := send(connect(t, r.Plain()), "a@example.com", someMail, "slow@example.com"); replyCode(err) != 450 || time.Since(began) < 50*time.Millisecond {
		t.Errorf("slow: %v after %v", err, time.Since(began))
	}
	for says, rule := range map[string]Rule{
		"disconnects instead": {Stage: StageRcpt, Disconnect: true, Code: 550},
		"more than one line":  {Stage: StageRcpt, Code: 550, Text: "a\r\n250 b"},
	} {
		if err := r.SetRules([]Rule{rule}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%+v: %v", rule, err)
		}
	}
}
