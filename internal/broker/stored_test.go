package broker

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/certpost/certpost/internal/verdict"
)

// golden reads a file that an earlier version wrote.
func golden(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// sameJSON compares two JSON texts regardless of the order of their keys.
func sameJSON(t *testing.T, what string, got, want []byte) {
	t.Helper()
	var a, b any
	if err := json.Unmarshal(got, &a); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(want, &b); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(a, b) {
		t.Errorf("%s is stored as\n%s\nwant\n%s", what, got, want)
	}
}

// Values stored by earlier versions are read, and are stored again with the same keys.
func TestStoredFormsStay(t *testing.T) {
	t.Parallel()
	outcome := verdict.Outcome{Code: verdict.SMTPPermanent, Phase: verdict.PhaseRcpt, Reason: "the relay refused the recipient",
		ReplyCode: 550, EnhancedCode: "5.1.1", Reply: "no such user", Certainty: verdict.NotSent}
	text := golden(t, "entry.json")
	entry, err := readEntry(text)
	if err != nil {
		t.Fatal(err)
	}
	if entry.Failure.Outcome != outcome || entry.Tries[0].Outcome != outcome || entry.Tries[0].Transcript.Relay != "smtp.example.com:587" || entry.Refused[0].ReplyCode != 550 {
		t.Errorf("read %+v", entry)
	}
	again, err := entry.stored()
	if err != nil {
		t.Fatal(err)
	}
	again = bytes.ReplaceAll(again, []byte(`,"rollback_available":false`), nil) // a field of later versions
	sameJSON(t, "an entry", again, text)

	text = golden(t, "record.json")
	var record AuditRecord
	if err := json.Unmarshal(text, &record); err != nil {
		t.Fatal(err)
	}
	if record.Letter.Code != verdict.SMTPPermanent || record.Letter.Class != verdict.IOPermanent || record.Letter.Certainty != verdict.NotSent || record.Letter.Reply != "no" {
		t.Errorf("read %+v", record.Letter)
	}
	if again, err = json.Marshal(record); err != nil {
		t.Fatal(err)
	}
	sameJSON(t, "an audit record", again, text)

	var headers nats.Header
	if err := json.Unmarshal(golden(t, "letter_headers.json"), &headers); err != nil {
		t.Fatal(err)
	}
	letter := parseDeadLetter(&jetstream.RawStreamMsg{Subject: record.Letter.Subject, Sequence: 4, Time: time.Now(), Header: headers, Data: []byte(`{"id":"e1"}`)})
	if letter.Outcome != record.Letter.Outcome {
		t.Errorf("read %+v, want %+v", letter.Outcome, record.Letter.Outcome)
	}
	written := letter.message(headers.Get(nats.MsgIdHdr)).Header
	if rollback := written.Get(HeaderRollback); rollback != "not-supported" { // a header of later versions
		t.Errorf("the letter of a mail has %s %q", HeaderRollback, rollback)
	}
	written.Del(HeaderRollback)
	letter.ToFix = "vault:secret/smtp#password" // another
	if again := parseDeadLetter(&jetstream.RawStreamMsg{Subject: letter.Subject, Header: letter.message("id").Header}); again.ToFix != letter.ToFix {
		t.Errorf("read that %q is to be fixed", again.ToFix)
	}
	if !maps.EqualFunc(written, headers, func(a, b []string) bool { return a[0] == b[0] }) {
		t.Errorf("written %v, want %v", written, headers)
	}
}

// Earlier versions stored the certificate only in the receipt.
func TestCertificateOfAnOldReceipt(t *testing.T) {
	t.Parallel()
	old, err := readEntry([]byte(`{"state":"sent","receipt":{"certificate":{"cn":"old"}}}`))
	if err != nil || old.Certificate == nil || old.Certificate.CommonName != "old" {
		t.Errorf("read %+v, %v", old, err)
	}
}
