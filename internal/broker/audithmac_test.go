package broker

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"
)

// keyring holds the text of keys, newest first, as a file or a secret would.
type keyring struct{ text atomic.Pointer[string] }

func newKeyring(keys ...string) *keyring {
	k := &keyring{}
	k.set(keys...)
	return k
}

func (k *keyring) set(keys ...string) {
	text := strings.Join(keys, "\n")
	k.text.Store(&text)
}

func (k *keyring) read(context.Context) (*AuditKeys, error) {
	return ParseAuditKeys([]byte(*k.text.Load()))
}

// openSigned opens a store; without keys, as a version before them did.
func openSigned(t testing.TB, dir string, keys *keyring, changes ...func(*Config)) *Broker {
	t.Helper()
	cfg := Config{DataDir: dir, Listen: "none", SyncInterval: "2m"}
	if keys != nil {
		cfg.AuditKeys, cfg.AuditMemory = keys.read, filepath.Join(dir, "audit.head")
	}
	for _, change := range changes {
		change(&cfg)
	}
	b, err := Open(cfg, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	if err := b.EnsureTopology(context.Background()); err != nil {
		t.Fatal(err)
	}
	return b
}

// newSignedBroker is newTestBroker with a key that is in force.
func newSignedBroker(t testing.TB, changes ...func(*Config)) (*Broker, *keyring) {
	t.Helper()
	keys := newKeyring(NewAuditKey())
	b := openSigned(t, t.TempDir(), keys, changes...)
	if err := errors.Join(b.PrepareAudit(t.Context()), b.Seal(t.Context(), operator)); err != nil {
		t.Fatal(err)
	}
	return b, keys
}

// beside is another process on the same server.
func beside(b *Broker, keys *keyring) *Broker {
	other := newBroker(b.cfg, zerolog.Nop())
	other.cfg.AuditKeys, other.cfg.AuditMemory = nil, ""
	if keys != nil {
		other.cfg.AuditKeys = keys.read
	}
	other.nc, other.js = b.nc, b.js
	return other
}

func appendRecords(t testing.TB, b *Broker, numbers ...int) {
	t.Helper()
	for _, n := range numbers {
		if err := b.Append(context.Background(), testRecord(n)); err != nil {
			t.Fatal(err)
		}
	}
}

// forgeRecord publishes a record that fits the chain, as a NATS client could.
func forgeRecord(t *testing.T, b *Broker, number int, header nats.Header) {
	t.Helper()
	head, err := b.readHead(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r := testRecord(number)
	r.Name, r.Previous = "mallory", head.Hash
	m := nats.NewMsg(auditPrefix + "discarded.ops.e")
	m.Data, _ = json.Marshal(r)
	for name, values := range header {
		m.Header[name] = values
	}
	if _, err := b.js.PublishMsg(t.Context(), m); err != nil {
		t.Fatal(err)
	}
}

func wantBreak(t *testing.T, b *Broker, sequence uint64, kind BreakKind) {
	t.Helper()
	report, err := b.VerifyAudit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if report.Break == nil || report.Break.Kind != kind || report.Break.Sequence != sequence {
		t.Errorf("break %+v, want %s at %d", report.Break, kind, sequence)
	}
}

// An audit from before there was a key is accepted up to the record that says so.
func TestAnAuditIsSignedFromOneRecordOn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := openSigned(t, dir, nil)
	appendRecords(t, b, 1, 2, 3)
	b.Close()

	b = openSigned(t, dir, newKeyring(NewAuditKey()))
	for range 2 { // only the first call writes a record
		if err := errors.Join(b.PrepareAudit(t.Context()), b.Seal(t.Context(), operator)); err != nil {
			t.Fatal(err)
		}
	}
	appendRecords(t, b, 5, 6)
	report, err := b.VerifyAudit(t.Context())
	if err != nil || report.Break != nil || report.Records != 6 || report.SignedFrom != 4 || report.Signed != 3 {
		t.Fatalf("%+v, %v", report, err)
	}
	if without := beside(b, nil); !errors.Is(without.PrepareAudit(t.Context()), ErrAuditKey) {
		t.Error("a process without the key may work on a signed audit")
	} else if err := without.Append(t.Context(), testRecord(7)); !errors.Is(err, ErrAuditKey) {
		t.Errorf("it may append a record: %v", err)
	}
}

// Fault: a NATS client appends to the audit records that fit the chain. Result: the first one is
// named.
func TestAForgedTailIsNamed(t *testing.T) {
	t.Parallel()
	b, _ := newSignedBroker(t)
	appendRecords(t, b, 2)
	stolen, err := auditStream(t, b).GetMsg(t.Context(), 2)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what  string
		proof string
		kind  BreakKind
	}{
		{"without HMAC", "", BreakUnsigned},
		{"with the HMAC of another record", stolen.Header.Get(headerProof), BreakForged},
		{"with a key of its own", "00000000:" + strings.Repeat("A", 43), BreakForged},
	} {
		t.Run(c.what, func(t *testing.T) {
			b, _ := newSignedBroker(t)
			appendRecords(t, b, 2)
			forgeRecord(t, b, 3, nats.Header{headerProof: {c.proof}})
			wantBreak(t, b, 3, c.kind)
			appendRecords(t, b, 4) // what is recorded later does not hide it
			wantBreak(t, b, 3, c.kind)
		})
	}
}

// Fault: the audit is deleted and written anew without HMACs, its chain right. Result: noticed by
// what the process remembers outside of NATS.
func TestStrippedHMACsAreNoticed(t *testing.T) {
	t.Parallel()
	b, _ := newSignedBroker(t)
	appendRecords(t, b, 2, 3)
	w, err := b.verifyAudit(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.NewAuditor(nil).remember(w); err != nil {
		t.Fatal(err)
	}
	config := auditStream(t, b).CachedInfo().Config
	if err := b.js.DeleteStream(t.Context(), AuditStream); err != nil {
		t.Fatal(err)
	}
	if _, err := b.js.CreateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	appendRecords(t, beside(b, nil), 1, 2, 3, 4)
	wantBreak(t, b, 3, BreakAnchor)
}

// A key is replaced while another process runs, which takes the new one over; what is signed with
// the old key afterwards is a break.
func TestRotationOfTheKey(t *testing.T) {
	t.Parallel()
	b, keys := newSignedBroker(t)
	old := *keys.text.Load()
	other := beside(b, keys)
	appendRecords(t, b, 2)
	appendRecords(t, other, 3)
	if changed, err := b.Rotate(t.Context(), operator, "", false); changed || err != nil {
		t.Fatalf("there is no new key: %v, %v", changed, err)
	}
	keys.set(NewAuditKey(), old)
	b.ForgetKeys()
	if changed, err := b.Rotate(t.Context(), operator, "yearly", false); !changed || err != nil {
		t.Fatalf("%v, %v", changed, err)
	}
	appendRecords(t, other, 5)
	appendRecords(t, b, 6)
	report, err := b.VerifyAudit(t.Context())
	if err != nil || report.Break != nil || report.Signed != 6 {
		t.Fatalf("%+v %+v, %v", report, report.Break, err)
	}
	_, newest := b.Sealed()
	if _, has := other.Sealed(); has != newest {
		t.Errorf("the other process signs with %s, not %s", has, newest)
	}
	late := beside(b, newKeyring(old))
	if err := late.PrepareAudit(t.Context()); !errors.Is(err, ErrAuditKey) || !strings.Contains(err.Error(), newest) {
		t.Errorf("a process that has only the old key: %v", err)
	}
	thief, _ := newKeyring(old).read(t.Context())
	head, _ := b.readHead(t.Context())
	r := testRecord(7)
	r.Previous = head.Hash
	data, _ := json.Marshal(r)
	subject := auditPrefix + "replayed.ops.e"
	m := nats.NewMsg(subject)
	m.Data = data
	m.Header.Set(headerProof, thief.all[0].proof(labelRecord, 7, subject, data))
	if _, err := b.js.PublishMsg(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	wantBreak(t, b, 7, BreakForged)
}

// Fault: replicas have different keys. Result: the second one does not start, and says what to
// do; a lost key can be replaced, and what it signed counts as not verified.
func TestProcessesNeedTheSameKey(t *testing.T) {
	t.Parallel()
	b, _ := newSignedBroker(t)
	appendRecords(t, b, 2)
	other := beside(b, newKeyring(NewAuditKey()))
	err := other.PrepareAudit(t.Context())
	if !errors.Is(err, ErrAuditKey) || !strings.Contains(err.Error(), "give all processes the same keys") {
		t.Fatalf("another key: %v", err)
	}
	report, err := other.VerifyAudit(t.Context())
	if err != nil || report.Break == nil || report.Break.Kind != BreakKey {
		t.Errorf("verified without the key: %+v, %v", report, err)
	}
	if changed, err := other.Rotate(t.Context(), operator, "the disk is gone", true); !changed || err != nil {
		t.Fatalf("%v, %v", changed, err)
	}
	appendRecords(t, other, 4)
	report, err = other.VerifyAudit(t.Context())
	if err != nil || report.Break != nil || report.Unverified != 2 || report.Signed != 2 {
		t.Errorf("%+v, %v", report, err)
	}
}

func TestAuditKeysAreNotPrintedAndCheckedWell(t *testing.T) {
	t.Parallel()
	key := NewAuditKey()
	for text, want := range map[string]string{
		"": "there is no key", "# only a comment\n": "there is no key", "abc": "line 1 is not a key", key + "\n" + key[:20] + "\n": "line 2 is not a key",
	} {
		if _, err := ParseAuditKeys([]byte(text)); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), key[:20]) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
	keys, err := ParseAuditKeys([]byte("# comment\n" + key + " # and " + NewAuditKey() + "\n\n" + NewAuditKey()))
	if err != nil || len(keys.IDs()) != 2 {
		t.Fatalf("%v, %v", keys, err)
	}
	raw, _ := base64.StdEncoding.DecodeString(key)
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
		printed := fmt.Sprintf(format+format, keys, *keys)
		if strings.Contains(printed, key) || strings.Contains(printed, string(raw)) || strings.Contains(printed, hex.EncodeToString(raw)) {
			t.Errorf("a key in %s", printed)
		}
	}
}
