package devrelay

import (
	"net/http/httptest"
	"strings"
	"testing"
)

// The mailbox is bounded in bytes as well as in mails, and the inbox says what left. The newest mail stays,
// however large it is.
func TestMailboxIsBoundedInBytes(t *testing.T) {
	t.Parallel()
	m := newMailbox(5, 100)
	want := func(ids ...int) {
		t.Helper()
		mails, _, _ := m.look()
		sum := 0
		for i, mail := range mails {
			sum += len(mail.Raw)
			if i >= len(ids) || mail.ID != ids[i] {
				t.Fatalf("mail %d at place %d of %d, want %v", mail.ID, i, len(mails), ids)
			}
		}
		if len(mails) != len(ids) || sum != m.bytes {
			t.Fatalf("%d mails of %d bytes, counted as %d; want %v", len(mails), sum, m.bytes, ids)
		}
	}
	add := func(size int) { m.add(Mail{Raw: make([]byte, size)}, true) }
	add(40)
	add(40)
	add(20)
	want(1, 2, 3)
	add(30) // 1 has to leave
	want(2, 3, 4)
	add(1000)
	want(5)
	for range 6 {
		add(1)
	}
	want(7, 8, 9, 10, 11)
	if m.dropped != 5 { // 1 to 5; 6 left because there were five others
		t.Errorf("%d mails were dropped for their size, want 5", m.dropped)
	}
	answer := httptest.NewRecorder()
	r := start(t, Config{})
	r.mailbox = m
	r.Handler().ServeHTTP(answer, httptest.NewRequest("GET", "/", nil))
	if page := answer.Body.String(); !strings.Contains(page, "5 older mails are no longer kept") || !strings.Contains(page, "256 MiB") {
		t.Errorf("the inbox does not say what left: %d %s", answer.Code, page)
	}
}
