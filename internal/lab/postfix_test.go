package lab

import (
	"crypto/tls"
	"errors"
	"net"
	"net/smtp"
	"net/textproto"
	"strings"
	"testing"
)

func TestPostfixDeliversIntoDovecot(t *testing.T) {
	t.Parallel()
	const password = `p:w"{x} ö`
	m := Postfix(t, MailOptions{Users: map[string]string{"ops@lab.test": password, "second@other.test": "y"}})

	for _, way := range []struct {
		name string
		dial func() (*smtp.Client, error)
	}{
		{"submission", func() (*smtp.Client, error) { return m.dialStartTLS(m.Submission) }},
		{"smtps", func() (*smtp.Client, error) {
			conn, err := tls.Dial("tcp", m.SMTPS, &tls.Config{RootCAs: m.CA.Pool})
			if err != nil {
				return nil, err
			}
			return smtp.NewClient(conn, "127.0.0.1")
		}},
	} {
		client, err := way.dial()
		if err != nil {
			t.Fatalf("%s: %v", way.name, err)
		}
		defer client.Close()
		if err := client.Auth(smtp.PlainAuth("", "ops@lab.test", password, "127.0.0.1")); err != nil {
			t.Fatalf("%s: AUTH: %v", way.name, err)
		}
		err = send(client, "ops@lab.test", "Subject: by way of "+way.name+"\r\n\r\n.one dot\r\n")
		if err != nil {
			t.Fatalf("%s: %v", way.name, err)
		}
		m.Fetch(t, "ops@lab.test", func(mails [][]byte) bool {
			for _, mail := range mails {
				if strings.Contains(string(mail), "by way of "+way.name+"\r\n") && strings.HasSuffix(string(mail), "\r\n\r\n.one dot\r\n") {
					return true
				}
			}
			return false
		})
	}
	if mails := m.Fetch(t, "second@other.test", AtLeast(0)); len(mails) != 0 {
		t.Errorf("a mailbox without any mail sent to it holds %d mails", len(mails))
	}
}

func TestPostfixRefuses(t *testing.T) {
	t.Parallel()
	m := Postfix(t, MailOptions{Main: map[string]string{"message_size_limit": "2000"}})
	dial := func(addr string) *smtp.Client {
		t.Helper()
		client, err := m.dialStartTLS(addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { client.Close() })
		return client
	}
	right := smtp.PlainAuth("", "ops@lab.test", "ops-password", "127.0.0.1")

	if err := dial(m.Submission).Auth(smtp.PlainAuth("", "ops@lab.test", "wrong", "127.0.0.1")); code(err) != 535 {
		t.Errorf("a wrong password: %v, want 535", err)
	}
	if err := send(dial(m.Submission), "ops@lab.test", ""); code(err) != 554 {
		t.Errorf("submission without AUTH: %v, want 554", err)
	}
	plain, err := smtp.Dial(m.Submission)
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	if err := plain.Mail("certs@lab.test"); code(err) != 530 {
		t.Errorf("submission without STARTTLS: %v, want 530", err)
	}
	for recipient, want := range map[string]int{"nobody@lab.test": 550, "someone@example.org": 554} {
		client := dial(m.Submission)
		if err := client.Auth(right); err != nil {
			t.Fatal(err)
		}
		if err := send(client, recipient, ""); code(err) != want {
			t.Errorf("mail to %s: %v, want %d", recipient, err, want)
		}
	}
	if err := send(dial(m.SMTP), "ops@lab.test", strings.Repeat("too much\r\n", 300)); code(err) != 552 {
		t.Errorf("a mail over the limit of the test: %v, want 552", err)
	}
}

func TestPostfixStopsAndStarts(t *testing.T) {
	t.Parallel()
	m := Postfix(t, MailOptions{})
	m.Stop(t)
	if conn, err := net.Dial("tcp", m.SMTP); err == nil {
		conn.Close()
		t.Fatal("a stopped Postfix accepts connections")
	}
	m.Start(t)
	m.Reload(t)
	err := poll(func() error {
		client, err := m.dialStartTLS(m.SMTP)
		if err != nil {
			return err
		}
		defer client.Close()
		return send(client, "ops@lab.test", "Subject: again\r\n\r\n")
	})
	if err != nil {
		t.Fatal(err)
	}
	m.Fetch(t, "ops@lab.test", AtLeast(1))
}

func (m *MailServer) dialStartTLS(addr string) (*smtp.Client, error) {
	client, err := smtp.Dial(addr)
	if err != nil {
		return nil, err
	}
	if err := client.StartTLS(&tls.Config{RootCAs: m.CA.Pool, ServerName: "127.0.0.1"}); err != nil {
		client.Close()
		return nil, err
	}
	return client, nil
}

func send(client *smtp.Client, recipient, text string) error {
	if err := client.Mail("certs@lab.test"); err != nil {
		return err
	}
	if err := client.Rcpt(recipient); err != nil {
		return err
	}
	w, err := client.Data()
	if err != nil {
		return err
	}
	if _, err := w.Write([]byte(text)); err != nil {
		return err
	}
	return w.Close()
}

func code(err error) int {
	var reply *textproto.Error
	if errors.As(err, &reply) {
		return reply.Code
	}
	return 0
}
