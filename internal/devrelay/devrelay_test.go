package devrelay

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/smtp"
	"net/textproto"
	"slices"
	"strings"
	"testing"
	"time"
)

const someMail = "From: Certificates <certs@example.com>\r\nTo: ops@example.com\r\nSubject: hello\r\n\r\n.dotted\r\n..\r\nlast line\r\n"

func start(t *testing.T, config Config) *Relay {
	t.Helper()
	r, err := Start(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// client is the standard library's SMTP client, connected and past TLS.
func client(t *testing.T, r *Relay, address string) *smtp.Client {
	t.Helper()
	config := &tls.Config{ServerName: "127.0.0.1", RootCAs: r.CertPool()}
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if address == r.SMTPS() {
		conn = tls.Client(conn, config)
	}
	c, err := smtp.NewClient(conn, "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	if offered, _ := c.Extension("STARTTLS"); offered {
		if err := c.StartTLS(config); err != nil {
			t.Fatal(err)
		}
	} else if address == r.Submission() {
		t.Fatal("the submission port does not offer STARTTLS")
	}
	return c
}

func send(c *smtp.Client, from, content string, to ...string) error {
	if err := c.Mail(from); err != nil {
		return err
	}
	for _, recipient := range to {
		if err := c.Rcpt(recipient); err != nil {
			return err
		}
	}
	w, err := c.Data()
	if err != nil {
		return err
	}
	if _, err := io.WriteString(w, content); err != nil {
		return err
	}
	return w.Close()
}

// loginAuth is AUTH LOGIN, which the standard library does not have.
type loginAuth struct{ answers []string }

func (a *loginAuth) Start(*smtp.ServerInfo) (string, []byte, error) { return "LOGIN", nil, nil }

func (a *loginAuth) Next(_ []byte, more bool) ([]byte, error) {
	if !more {
		return nil, nil
	}
	if len(a.answers) == 0 {
		return nil, errors.New("asked too often")
	}
	answer := a.answers[0]
	a.answers = a.answers[1:]
	return []byte(answer), nil
}

func replyCode(err error) int {
	var reply *textproto.Error
	if errors.As(err, &reply) {
		return reply.Code
	}
	return 0
}

func TestEveryListenerTakesMail(t *testing.T) {
	t.Parallel()
	r := start(t, Config{})
	for i, address := range []string{r.Submission(), r.SMTPS(), r.Plain()} {
		if err := send(client(t, r, address), "certs@example.com", someMail, "ops@example.com", "dev@example.com"); err != nil {
			t.Fatalf("%s: %v", address, err)
		}
		mails := r.Mails()
		if len(mails) != i+1 {
			t.Fatalf("%d mails after %d", len(mails), i+1)
		}
		m := mails[i]
		if string(m.Raw) != someMail || m.From != "certs@example.com" || !slices.Equal(m.Recipients, []string{"ops@example.com", "dev@example.com"}) ||
			m.TLS != (address != r.Plain()) || m.ID != i+1 || m.User != "" || time.Since(m.Received) > time.Minute {
			t.Errorf("%s kept %+v", address, m)
		}
	}
}

func TestUsersHaveToProveThemselves(t *testing.T) {
	t.Parallel()
	r := start(t, Config{Users: map[string]string{"certs": "hunter2"}})
	for name, test := range map[string]struct {
		auth smtp.Auth
		code int
	}{
		"nobody":              {nil, 530},
		"plain":               {smtp.PlainAuth("", "certs", "hunter2", "127.0.0.1"), 0},
		"plain, identity":     {smtp.PlainAuth("certs", "certs", "hunter2", "127.0.0.1"), 0},
		"as somebody else":    {smtp.PlainAuth("root", "certs", "hunter2", "127.0.0.1"), 535},
		"plain, wrong":        {smtp.PlainAuth("", "certs", "hunter3", "127.0.0.1"), 535},
		"plain, unknown":      {smtp.PlainAuth("", "root", "hunter2", "127.0.0.1"), 535},
		"login":               {&loginAuth{answers: []string{"certs", "hunter2"}}, 0},
		"login, wrong":        {&loginAuth{answers: []string{"certs", "hunter3"}}, 535},
		"login, empty answer": {&loginAuth{answers: []string{"", ""}}, 535},
	} {
		t.Run(name, func(t *testing.T) {
			c := client(t, r, r.Submission())
			var err error
			if test.auth != nil {
				err = c.Auth(test.auth)
			}
			if err == nil {
				err = send(c, "certs@example.com", someMail, "ops@example.com")
			}
			if replyCode(err) != test.code || (err == nil) != (test.code == 0) {
				t.Fatalf("got %v, want %d", err, test.code)
			}
		})
	}
	for _, m := range r.Mails() {
		if m.User != "certs" {
			t.Errorf("mail %d came from %q", m.ID, m.User)
		}
	}
	if len(r.Mails()) != 3 {
		t.Errorf("%d mails", len(r.Mails()))
	}
	if offered, _ := client(t, r, r.Plain()).Extension("AUTH"); offered {
		t.Error("AUTH is offered in plaintext")
	}
}

func TestRulesAnswer(t *testing.T) {
	t.Parallel()
	r := start(t, Config{Rules: []Rule{
		{Stage: StageMail, Sender: "*@blocked.test", Code: 553, Enhanced: "5.7.1", Text: "not from there"},
		{Stage: StageRcpt, Recipient: "grey@*", Code: 450, Enhanced: "4.2.0", Text: "greylisted", Times: 1},
		{Stage: StageRcpt, Recipient: "Gone@example.com", Code: 550, Enhanced: "5.1.1", Text: "nobody"},
		{Stage: StageData, Recipient: "full@*", Code: 452, Text: "disk full"},
	}})
	c := client(t, r, r.Plain())
	for _, test := range []struct {
		from, to string
		code     int
		text     string
	}{
		{"a@blocked.test", "ops@example.com", 553, "5.7.1 not from there"},
		{"a@example.com", "gone@EXAMPLE.com", 550, "5.1.1 nobody"},
		{"a@example.com", "grey@example.com", 450, "4.2.0 greylisted"},
		{"a@example.com", "grey@example.com", 0, ""},
		{"a@example.com", "full@example.com", 452, "4.0.0 disk full"},
		{"a@example.com", "ops@example.com", 0, ""},
	} {
		err := send(c, test.from, someMail, test.to)
		if replyCode(err) != test.code || err != nil && !strings.Contains(err.Error(), test.text) {
			t.Errorf("%s to %s: %v, want %d %s", test.from, test.to, err, test.code, test.text)
		}
		if err := c.Reset(); err != nil {
			t.Fatal(err)
		}
	}
	if len(r.Mails()) != 2 {
		t.Errorf("%d mails", len(r.Mails()))
	}
}

func TestRulesAreReplaced(t *testing.T) {
	t.Parallel()
	r := start(t, Config{Rules: []Rule{{Stage: StageRcpt, Code: 550, Text: "nobody"}}})
	c := client(t, r, r.Plain())
	attempt := func() int {
		t.Helper()
		err := send(c, "a@example.com", someMail, "ops@example.com")
		if err := c.Reset(); err != nil {
			t.Fatal(err)
		}
		return replyCode(err)
	}
	if code := attempt(); code != 550 {
		t.Errorf("code %d by the first rules", code)
	}
	if err := r.SetRules([]Rule{{Stage: "helo", Code: 550}}); err == nil {
		t.Error("a malformed rule was accepted")
	}
	if code := attempt(); code != 550 {
		t.Errorf("code %d after malformed rules", code)
	}
	if err := r.SetRules(nil); err != nil {
		t.Fatal(err)
	}
	if code := attempt(); code != 0 || len(r.Mails()) != 1 {
		t.Errorf("code %d without rules, %d mails", code, len(r.Mails()))
	}
}

func TestConfigsThatCannotWork(t *testing.T) {
	t.Parallel()
	taken := start(t, Config{})
	for says, config := range map[string]Config{
		"code 250":                          {Rules: []Rule{{Stage: StageRcpt, Code: 250}}},
		"not an enhanced":                   {Rules: []Rule{{Stage: StageRcpt, Code: 550, Enhanced: "5.1"}}},
		`stage "helo"`:                      {Rules: []Rule{{Stage: "helo", Code: 550}}},
		"before any recipient":              {Rules: []Rule{{Stage: StageMail, Code: 550, Recipient: "a@b"}}},
		"not a glob":                        {Rules: []Rule{{Stage: StageRcpt, Code: 550, Recipient: "[a"}}},
		"cannot listen on " + taken.SMTPS(): {SMTPS: taken.SMTPS()},
	} {
		r, err := Start(config)
		if err == nil {
			_ = r.Close()
		}
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%+v gave %v, want %q", config, err, says)
		}
	}
}

func TestOnlyWholeMailsAreTaken(t *testing.T) {
	t.Parallel()
	r := start(t, Config{MaxMailBytes: 1000})
	c := client(t, r, r.Plain())
	if err := c.Mail("a@example.com"); err != nil {
		t.Fatal(err)
	}
	if err := c.Rcpt("b@example.com"); err != nil {
		t.Fatal(err)
	}
	w, err := c.Data()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, "half a m"); err != nil {
		t.Fatal(err)
	}
	if err := c.Text.W.Flush(); err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	err = send(client(t, r, r.Plain()), "a@example.com", someMail+strings.Repeat("x", 1000), "b@example.com")
	if replyCode(err) != 552 {
		t.Errorf("a mail that is too large: %v", err)
	}
	if err := send(client(t, r, r.Plain()), "a@example.com", someMail, "b@example.com"); err != nil {
		t.Error(err)
	}
	if mails := r.Mails(); len(mails) != 1 || string(mails[0].Raw) != someMail {
		t.Errorf("kept %+v", mails)
	}
}

func TestTheMailboxIsBounded(t *testing.T) {
	t.Parallel()
	r := start(t, Config{MaxMails: 3})
	c := client(t, r, r.Plain())
	for range 5 {
		if err := send(c, "a@example.com", someMail, "b@example.com"); err != nil {
			t.Fatal(err)
		}
	}
	var ids []int
	for _, m := range r.Mails() {
		ids = append(ids, m.ID)
	}
	if !slices.Equal(ids, []int{3, 4, 5}) || r.Count() != 5 {
		t.Errorf("kept %v of %d", ids, r.Count())
	}
	discarding := start(t, Config{Discard: true})
	if err := send(client(t, discarding, discarding.Plain()), "a@example.com", someMail, "b@example.com"); err != nil {
		t.Fatal(err)
	}
	if discarding.Count() != 1 || len(discarding.Mails()) != 0 {
		t.Errorf("discarding, it counts %d and keeps %d", discarding.Count(), len(discarding.Mails()))
	}
}

// A relay with a delay has no mail before the delay is over.
func TestDelay(t *testing.T) {
	t.Parallel()
	r := start(t, Config{Delay: 50 * time.Millisecond})
	began := time.Now()
	if err := send(client(t, r, r.Plain()), "a@example.com", someMail, "b@example.com"); err != nil {
		t.Fatal(err)
	}
	if took := r.Mails()[0].Received.Sub(began); took < 50*time.Millisecond {
		t.Errorf("the mail was accepted after %v", took)
	}
}

func TestWaitFor(t *testing.T) {
	t.Parallel()
	r := start(t, Config{})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	sent := make(chan error, 1)
	c := client(t, r, r.Plain())
	go func() {
		for range 3 {
			if err := send(c, "a@example.com", someMail, "b@example.com"); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	mails, err := r.WaitFor(ctx, func(mails []Mail) bool { return len(mails) == 3 })
	if err != nil || len(mails) != 3 {
		t.Errorf("%d mails, %v", len(mails), err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	cancel()
	if _, err := r.WaitFor(ctx, func([]Mail) bool { return false }); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting with a cancelled context gave %v", err)
	}
}

func TestCloseEndsConnections(t *testing.T) {
	t.Parallel()
	r := start(t, Config{})
	c := client(t, r, r.Submission())
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.Noop(); err == nil {
		t.Error("a closed relay still answers")
	}
	if conn, err := net.Dial("tcp", r.Plain()); err == nil {
		_ = conn.Close()
		t.Error("a closed relay still listens")
	}
}

func BenchmarkRelay(b *testing.B) {
	r, err := Start(Config{Discard: true})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	content := someMail + strings.Repeat(strings.Repeat("x", 76)+"\r\n", 130) // about 10 KB
	b.SetBytes(int64(len(content)))
	b.RunParallel(func(pb *testing.PB) {
		c, err := smtp.Dial(r.Plain())
		if err != nil {
			b.Error(err)
			return
		}
		defer func() { _ = c.Close() }()
		for pb.Next() {
			if err := send(c, "a@example.com", content, "b@example.com"); err != nil {
				b.Error(fmt.Errorf("sending: %w", err))
				return
			}
		}
	})
}
