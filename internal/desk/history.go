package desk

import (
	"cmp"
	"encoding/hex"
	"slices"
	"strings"
	"time"
	"unique"

	"github.com/certpost/certpost/internal/broker"
)

// history is the index of the newest audit records, without the letters and events in them.
// Desk.mu guards it.
type history struct {
	limit   int
	records []record // by sequence
	next    uint64   // sequence to be read next
	first   uint64   // sequence of the oldest record in the stream
	acts    map[actKey]whole
}

func newHistory(limit int) *history {
	return &history{limit: limit, next: 1, acts: map[actKey]whole{}}
}

// Record is an audit record with its sequence and hash in the chain.
type Record struct {
	Sequence uint64 `json:"sequence"`
	Hash     string `json:"hash"` // SHA-256 of the stored bytes, hexadecimal; the next record contains it
	broker.AuditRecord
}

// NewRecord converts an audit record.
func NewRecord(r broker.AuditRecord) Record { return Record{r.Sequence, r.Hash, r} }

// records converts audit records.
func records(all []broker.AuditRecord) []Record {
	out := make([]Record, len(all))
	for i, r := range all {
		out[i] = NewRecord(r)
	}
	return out
}

// record is an audit record in the index.
type record struct {
	sequence                                      uint64
	at, until                                     int64 // Unix nanoseconds
	number, restored, delivery                    uint64
	action, stage, by, role, via, address         unique.Handle[string]
	reason, target, lane, run, newTarget, newOwed unique.Handle[string]
	cause                                         unique.Handle[string] // the letter's fingerprint
	alert                                         unique.Handle[string] // what was silenced
	user                                          unique.Handle[string] // of NATS
	act, group                                    unique.Handle[string]
	many                                          *broker.Many
	proved                                        broker.Proof
	event                                         string
	hash                                          [32]byte
	unreadable                                    bool
}

func newRecord(r *broker.AuditRecord) record {
	number := numberOf(r)
	out := record{
		sequence: r.Sequence, at: nanoseconds(r.Time), until: nanoseconds(r.Until), number: number, restored: r.NewLetter, delivery: r.Delivery,
		action: unique.Make(string(r.Action)), stage: unique.Make(string(r.Stage)), by: unique.Make(r.Name), role: unique.Make(r.Role),
		via: unique.Make(string(r.Via)), address: unique.Make(r.Address), reason: unique.Make(r.Reason), event: strings.Clone(r.Event),
		target: unique.Make(r.Target), lane: unique.Make(r.Lane), run: unique.Make(r.Run), newTarget: unique.Make(r.NewTarget),
		newOwed: unique.Make(strings.Join(r.NewRecipients, ", ")), unreadable: r.Unreadable,
		cause: unique.Make(causeOf(r)), alert: unique.Make(r.Alert), user: unique.Make(r.NATSUser), proved: r.Proved, act: unique.Make(r.Act), group: unique.Make(r.Group), many: r.Many,
	}
	_, _ = hex.Decode(out.hash[:], []byte(r.Hash[:min(len(r.Hash), 64)]))
	return out
}

// causeOf returns the fingerprint of the letter in a record, "" if it has none.
func causeOf(r *broker.AuditRecord) string {
	if r.Letter == nil {
		return ""
	}
	return fingerprintOf(r.Letter)
}

// record returns the exported form.
func (r *record) record() broker.AuditRecord {
	out := broker.AuditRecord{
		Sequence: r.sequence, Time: fromNanoseconds(r.at), Until: fromNanoseconds(r.until), LetterNumber: r.number, NewLetter: r.restored, Delivery: r.delivery,
		Action: broker.Action(r.action.Value()), Stage: broker.Stage(r.stage.Value()), Reason: r.reason.Value(),
		Actor: broker.Actor{Name: r.by.Value(), Role: r.role.Value(), Via: broker.Via(r.via.Value()), Address: r.address.Value(), Proved: r.proved, NATSUser: r.user.Value(), Act: r.act.Value()}, Many: r.many, Group: r.group.Value(),
		Event: r.event, Target: r.target.Value(), Lane: r.lane.Value(), Run: r.run.Value(), NewTarget: r.newTarget.Value(), Alert: r.alert.Value(),
		Hash: hex.EncodeToString(r.hash[:]), Unreadable: r.unreadable,
	}
	if owed := r.newOwed.Value(); owed != "" {
		out.NewRecipients = strings.Split(owed, ", ")
	}
	return out
}

// put adds a record. Records are added in the order of their sequences.
func (h *history) put(r *broker.AuditRecord) {
	h.next = r.Sequence + 1
	if len(h.records) >= h.limit {
		h.forget(max(1, h.limit/16))
	}
	h.records = append(h.records, newRecord(r))
	h.putWhole(&h.records[len(h.records)-1])
}

// forget drops the oldest records.
func (h *history) forget(n int) {
	for i := range h.records[:n] {
		r := &h.records[i]
		if key, ok := r.key(); ok && r.many != nil && h.acts[key].newest == r.sequence {
			delete(h.acts, key)
		}
	}
	h.records = slices.Clone(h.records[n:])
}

// list returns a page, newest first, of the records before the sequence after (0: from the
// newest).
func (h *history) list(q HistoryQuery, after uint64, size int) (page []broker.AuditRecord, next uint64) {
	f := q.ready()
	for i := h.before(after) - 1; i >= 0; i-- {
		r := &h.records[i]
		if !f.fits(r) || h.folded(f, r) {
			continue
		}
		if len(page) == size {
			return page, page[size-1].Sequence
		}
		one := r.record()
		if key, ok := r.key(); ok && r.many != nil && f.Each != nil && !*f.Each {
			if w, known := h.acts[key]; known {
				all := *w.first
				all.Letters = w.letters
				one.Many = &all
			}
		}
		page = append(page, one)
	}
	return page, 0
}

// recovered counts what was lost from the streams and stored again since a time.
func (h *history) recovered(since time.Time) (n int) {
	action := unique.Make(string(broker.ActionRecovered))
	for i := len(h.records) - 1; i >= 0 && h.records[i].at >= since.Add(-skew).UnixNano(); i-- {
		if r := &h.records[i]; r.action == action && r.at >= since.UnixNano() {
			n++
		}
	}
	return n
}

// before counts the records with a lower sequence; for 0, all records.
func (h *history) before(sequence uint64) int {
	if sequence == 0 {
		return len(h.records)
	}
	n, _ := slices.BinarySearchFunc(h.records, sequence, func(r record, s uint64) int { return cmp.Compare(r.sequence, s) })
	return n
}

// started returns the index of the record of a run's start, 0 if the record is not in the
// index.
func (h *history) started(id string) int {
	run, action := unique.Make(id), unique.Make(string(broker.ActionStarted))
	return max(0, slices.IndexFunc(h.records, func(r record) bool { return r.run == run && r.action == action }))
}

// unsearched returns the sequence of the oldest record in the index if older ones in the
// stream may match the query, otherwise 0.
func (h *history) unsearched(q HistoryQuery) uint64 {
	if len(h.records) == 0 || h.records[0].sequence <= h.first {
		return 0
	}
	oldest := h.records[0]
	if !q.From.IsZero() && q.From.Add(-skew).UnixNano() > oldest.at {
		return 0
	}
	return oldest.sequence
}

// skew is the assumed difference between the clocks of the processes that write records: the
// times of records are nearly in the order of their sequences.
const skew = time.Minute

// of returns the newest records about a letter and its delivery, at most most, oldest first. before
// is the letter's number before it was restored, 0 for none.
func (h *history) of(number, before uint64, target, event string, most int) []broker.AuditRecord {
	t := unique.Make(target)
	var out []broker.AuditRecord
	for i := len(h.records) - 1; i >= 0 && len(out) < most; i-- {
		r := &h.records[i]
		if number != 0 && (r.number == number || r.restored == number) || before != 0 && r.number == before || event != "" && r.event == event && r.target == t {
			out = append(out, r.record())
		}
	}
	slices.Reverse(out)
	return out
}

// ended returns the newest record of an action that ends the letter, without intents.
func (h *history) ended(number uint64) (broker.AuditRecord, bool) {
	for i := len(h.records) - 1; i >= 0; i-- {
		if r := &h.records[i]; r.number == number && broker.Action(r.action.Value()).Ends() && r.stage.Value() != string(broker.StageIntent) {
			return r.record(), true
		}
	}
	return broker.AuditRecord{}, false
}
