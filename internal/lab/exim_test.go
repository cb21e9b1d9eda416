package lab

import (
	"crypto/tls"
	"net/smtp"
	"strings"
	"testing"
)

func TestEximTakesAndRefuses(t *testing.T) {
	t.Parallel()
	const user, password = "ops@lab.test", "p:w and more"
	e := Exim(t, EximOptions{
		Users:  map[string]string{user: password},
		Refuse: map[string]string{"full@lab.test": "452 4.2.2 the mailbox is full"},
	})
	dial := func(password string) (*smtp.Client, error) {
		client, err := smtp.Dial(e.SMTP)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { client.Close() })
		if ok, _ := client.Extension("AUTH"); ok {
			t.Error("AUTH is offered without TLS")
		}
		if err := client.StartTLS(&tls.Config{RootCAs: e.CA.Pool, ServerName: "127.0.0.1"}); err != nil {
			t.Fatal(err)
		}
		return client, client.Auth(smtp.PlainAuth("", user, password, "127.0.0.1"))
	}
	if _, err := dial("wrong"); code(err) != 535 {
		t.Errorf("a wrong password: %v, want 535", err)
	}
	for recipient, want := range map[string]int{"full@lab.test": 452, "nobody@lab.test": 550, "ops@elsewhere.test": 550, user: 0} {
		client, err := dial(password)
		if err != nil {
			t.Fatal(err)
		}
		if err := send(client, recipient, "Subject: to "+recipient+"\r\n\r\nhello\r\n"); code(err) != want || want == 0 && err != nil {
			t.Errorf("mail to %s: %v, want %d", recipient, err, want)
		}
	}
	if mails := e.Mails(t, user, 1); len(mails) != 1 || !strings.HasSuffix(string(mails[0]), "\n\nhello\n") {
		t.Errorf("stored: %q", mails)
	}
	conn, err := tls.Dial("tcp", e.SMTPS, &tls.Config{RootCAs: e.CA.Pool})
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}
