package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// headerProof is the header of an audit record with its HMAC, over the record's sequence, its
// subject and its stored bytes.
const headerProof = "Certpost-Audit-Hmac"

// ErrAuditKey says that this process does not have the key with which the audit's records are
// signed. An operator has to provide it: until then nothing may be recorded.
var ErrAuditKey = errors.New("the audit's key is missing")

// Sealing is what the records `sealed` and `rekeyed` say: which key signs what follows.
type Sealing struct {
	Key string `json:"key"` // its id
	// LedgerRevision is the newest one of the ledger at that time, LedgerCreated when the
	// ledger's stream was created. Entries up to it may be unsigned, or signed with an older key.
	LedgerRevision uint64    `json:"ledger_revision"`
	LedgerCreated  time.Time `json:"ledger_created"`
	// Lost says that earlier keys are lost: records signed with them cannot be verified.
	Lost bool `json:"lost,omitempty"`
}

// seals is what this process signs with.
type seals struct {
	mu   sync.Mutex
	keys *AuditKeys // nil: none, or not loaded yet
	// inForce is the id of the key that the audit says is in force; "" if that is not known.
	// sealed says that the audit has a record from which on all are signed.
	inForce string
	sealed  bool
	current *auditKey // to sign with
	// unsealed: without keys, the audit was found to have no signed record.
	unsealed bool
}

// PrepareAudit loads the keys of the audit and compares them with what the audit says. The
// error is ErrAuditKey if this process does not have the key in force.
func (b *Broker) PrepareAudit(ctx context.Context) error {
	_, err := b.signer(ctx)
	return err
}

// notSealed returns an error if the audit is signed: a process without a key must not write
// records without HMAC.
func (b *Broker) notSealed(ctx context.Context) error {
	raw, err := b.leaderGet(ctx, AuditStream, getRequest{Last: auditPrefix + string(ActionSealed) + ".>"})
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil
	}
	if err != nil {
		return b.readError(ctx, AuditStream, err)
	}
	return fmt.Errorf("%w: record %d says that all records are signed, but this process has no key: set audit.key to the key of the other processes", ErrAuditKey, raw.Sequence)
}

// signer returns the key in force; nil if the configuration has none. It asks the audit when
// it does not know, and loads the keys again when it lacks the one in force.
func (b *Broker) signer(ctx context.Context) (*auditKey, error) {
	s := &b.seals
	s.mu.Lock()
	defer s.mu.Unlock()
	if b.cfg.AuditKeys == nil {
		if !s.unsealed {
			if err := b.notSealed(ctx); err != nil {
				return nil, err
			}
			s.unsealed = true
		}
		return nil, nil
	}
	if s.current != nil && s.inForce == s.current.id {
		return s.current, nil
	}
	for reloaded := s.keys == nil; ; reloaded = true {
		if s.keys == nil || reloaded {
			keys, err := b.cfg.AuditKeys(ctx)
			if err != nil {
				return nil, fmt.Errorf("the audit's key cannot be read: %w", err)
			}
			s.keys = keys
		}
		id, sealed, err := b.keyInForce(ctx, s.keys)
		if err != nil {
			return nil, err
		}
		key := s.keys.find(id)
		switch {
		case key != nil:
			s.inForce, s.sealed, s.current = id, sealed, key
			return key, nil
		case reloaded:
			return nil, fmt.Errorf("%w: records are signed with key %s, and this process has %s: give all processes the same keys (audit.key, or the file audit.key in data_dir), or, if the key is lost, run `certpost audit rotate --lost-key`",
				ErrAuditKey, id, strings.Join(s.keys.IDs(), ", "))
		}
	}
}

// keyInForce returns the id of the key with which the next record has to be signed, according
// to the records that announce keys and are signed themselves; the newest of ours if there is
// none. An announcement that is signed with an unknown key counts only if there is no other:
// any NATS client could have written it.
func (b *Broker) keyInForce(ctx context.Context, keys *AuditKeys) (id string, sealed bool, err error) {
	stranger := ""
	announced, err := b.announcements(ctx)
	if err != nil {
		return "", false, err
	}
	for _, r := range announced {
		switch result, signedBy := keys.checkRecord(r.raw); {
		case r.sealing == nil || result == unsigned || result == forged:
		case result == unknownKey && id == "":
			stranger = signedBy
		case result == authentic && r.action == ActionSealed, result == authentic && signedBy == id:
			id, sealed = r.sealing.Key, true
		}
	}
	switch {
	case id != "":
		return id, sealed, nil
	case stranger != "":
		return stranger, true, nil
	}
	return keys.Newest(), false, nil
}

// announcement is a record that says which key is in force.
type announcement struct {
	raw     *jetstream.RawStreamMsg
	action  Action
	sealing *Sealing // nil if it cannot be read
}

// announcements returns the records `sealed` and `rekeyed`, in order.
func (b *Broker) announcements(ctx context.Context) (all []announcement, err error) {
	for _, action := range []Action{ActionSealed, ActionRekeyed} {
		for raw, err := range b.read(ctx, AuditStream, auditPrefix+string(action)+".>", 1) {
			if err != nil {
				return nil, err
			}
			all = append(all, announcement{raw, action, readRecord(raw).Sealing})
		}
	}
	slices.SortFunc(all, func(a, b announcement) int { return cmp.Compare(a.raw.Sequence, b.raw.Sequence) })
	return all, nil
}

// checkRecord checks the HMAC of a stored record, and returns the id of its key.
func (k *AuditKeys) checkRecord(raw *jetstream.RawStreamMsg) (checked, string) {
	return k.check(raw.Header.Get(headerProof), labelRecord, raw.Sequence, raw.Subject, raw.Data)
}

// noteHead makes the next record ask which key is in force if the audit's last record is not
// signed with the one that is known to be: another process may have rotated the key.
func (b *Broker) noteHead(raw *jetstream.RawStreamMsg) {
	id, _, _ := strings.Cut(raw.Header.Get(headerProof), ":")
	_, rekeyed := strings.CutPrefix(raw.Subject, auditPrefix+string(ActionRekeyed)+".")
	if _, known := b.Sealed(); rekeyed || id != "" && id != known {
		b.forgetKey()
	}
}

// forgetKey makes the next record ask the audit which key is in force.
func (b *Broker) forgetKey() {
	b.seals.mu.Lock()
	defer b.seals.mu.Unlock()
	b.seals.inForce = ""
}

// ForgetKeys makes the next record load the keys again.
func (b *Broker) ForgetKeys() {
	b.seals.mu.Lock()
	defer b.seals.mu.Unlock()
	b.seals.keys, b.seals.inForce = nil, ""
}

// sealer returns the key that entries of the ledger are signed with: the one last known to be
// in force. nil: the configuration has none, or it was not loaded yet. It never asks anybody:
// what a relay has accepted must be recorded.
func (b *Broker) sealer() *auditKey {
	b.seals.mu.Lock()
	defer b.seals.mu.Unlock()
	return b.seals.current
}

// Sealed reports whether the audit has a record from which on all are signed, as far as this
// process knows, and the id of the key in force.
func (b *Broker) Sealed() (sealed bool, key string) {
	b.seals.mu.Lock()
	defer b.seals.mu.Unlock()
	return b.seals.sealed, b.seals.inForce
}

// Seal records that from here on all records and entries are signed, unless that is recorded
// already. The caller makes sure that no process without the key is running.
func (b *Broker) Seal(ctx context.Context, by Actor) error {
	key, err := b.signer(ctx)
	if err != nil || key == nil {
		return err
	}
	if sealed, _ := b.Sealed(); sealed {
		return nil
	}
	return b.announce(ctx, ActionSealed, by, "from this record on, all records and all entries of the ledger are signed", Sealing{Key: key.id}, nil, func(sealed bool) bool { return !sealed })
}

// Rotate records that the newest of the keys is used from now on. changed is false if it is
// in force already. lost: the key in force is lost, so that nothing signed with it can be
// verified any more; the record is then signed with the new key.
func (b *Broker) Rotate(ctx context.Context, by Actor, reason string, lost bool) (changed bool, err error) {
	if b.cfg.AuditKeys == nil {
		return false, errors.New("the configuration has no audit.key")
	}
	reason, err = CheckReason(reason, false)
	if err != nil {
		return false, err
	}
	if lost {
		return b.replaceLost(ctx, by, reason)
	}
	key, err := b.signer(ctx)
	if err != nil {
		return false, err
	}
	sealed, _ := b.Sealed()
	newest := b.newestKey()
	if key.id == newest {
		return false, nil
	}
	if !sealed {
		return false, errors.New("no record is signed yet: start `certpost run` once, then rotate the key")
	}
	err = b.announce(ctx, ActionRekeyed, by, reason, Sealing{Key: newest}, nil, func(sealed bool) bool { return sealed })
	return err == nil, err
}

// replaceLost records a new beginning, signed with the newest key.
func (b *Broker) replaceLost(ctx context.Context, by Actor, reason string) (changed bool, err error) {
	keys, err := b.cfg.AuditKeys(ctx)
	if err != nil {
		return false, fmt.Errorf("the audit's key cannot be read: %w", err)
	}
	id, sealed, err := b.keyInForce(ctx, keys)
	if err != nil {
		return false, err
	}
	if !sealed || keys.find(id) != nil {
		return false, fmt.Errorf("the key in force, %s, is not lost: this command has it", id)
	}
	b.seals.mu.Lock()
	b.seals.keys = keys
	b.seals.mu.Unlock()
	err = b.announce(ctx, ActionSealed, by, reason, Sealing{Key: keys.Newest(), Lost: true}, keys.find(keys.Newest()), func(bool) bool { return true })
	return err == nil, err
}

func (b *Broker) newestKey() string {
	b.seals.mu.Lock()
	defer b.seals.mu.Unlock()
	return b.seals.keys.Newest()
}

// announce appends a record about the key in force, signed with key if it is not nil. want is asked, with the chain's head known,
// whether the record is still to be written.
func (b *Broker) announce(ctx context.Context, action Action, by Actor, reason string, s Sealing, key *auditKey, want func(sealed bool) bool) error {
	stream, err := b.js.Stream(ctx, "KV_"+LedgerBucket)
	if err != nil {
		return fmt.Errorf("stream KV_%s: %w", LedgerBucket, err)
	}
	ledger := stateOf(stream.CachedInfo())
	s.LedgerRevision, s.LedgerCreated = ledger.Last, ledger.Created
	l := b.link(AuditRecord{Action: action, Actor: by, Reason: reason, Sealing: &s}, "")
	l.key = key
	l.check = func(ctx context.Context) (bool, error) {
		b.seals.mu.Lock()
		keys := b.seals.keys
		b.seals.mu.Unlock()
		_, sealed, err := b.keyInForce(ctx, keys)
		return err == nil && want(sealed), err
	}
	if err := b.appendAll(ctx, []*link{l}); err != nil {
		return err
	}
	b.forgetKey()
	_, err = b.signer(ctx)
	return err
}
