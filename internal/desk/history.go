package desk

import (
	"encoding/hex"
	"slices"
	"strings"
	"unique"

	"github.com/certpost/certpost/internal/broker"
)

// HistoryQuery chooses audit records; the zero value chooses all.
type HistoryQuery struct {
	Action broker.Action
	By     string
	Target string
	Event  string
	Letter uint64 // a dead letter's number
	Run    string
}

// history is the newest of the audit, without the letters and events that its
// records hold. Desk.mu guards it.
type history struct {
	limit   int
	records []record // by sequence
	next    uint64   // sequence to be read next
}

// record is an audit record as the index keeps it.
type record struct {
	sequence                                      uint64
	at, until                                     int64 // Unix nanoseconds
	number, restored, delivery                    uint64
	action, stage, by, role, via, address         unique.Handle[string]
	reason, target, lane, run, newTarget, newOwed unique.Handle[string]
	cause                                         unique.Handle[string] // the letter's fingerprint
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
		cause: unique.Make(causeOf(r)),
	}
	_, _ = hex.Decode(out.hash[:], []byte(r.Hash[:min(len(r.Hash), 64)]))
	return out
}

// causeOf is the fingerprint of the letter that a record holds, "" for none.
func causeOf(r *broker.AuditRecord) string {
	if r.Letter == nil {
		return ""
	}
	return Fingerprint(r.Letter.Code, r.Letter.Phase, r.Letter.Lane, r.Letter.EnhancedCode)
}

// record is the record as others see it.
func (r *record) record() broker.AuditRecord {
	out := broker.AuditRecord{
		Sequence: r.sequence, Time: moment0(r.at), Until: moment0(r.until), LetterNumber: r.number, NewLetter: r.restored, Delivery: r.delivery,
		Action: broker.Action(r.action.Value()), Stage: broker.Stage(r.stage.Value()), Reason: r.reason.Value(),
		Actor: broker.Actor{Name: r.by.Value(), Role: r.role.Value(), Via: broker.Via(r.via.Value()), Address: r.address.Value()},
		Event: r.event, Target: r.target.Value(), Lane: r.lane.Value(), Run: r.run.Value(), NewTarget: r.newTarget.Value(),
		Hash: hex.EncodeToString(r.hash[:]), Unreadable: r.unreadable,
	}
	if owed := r.newOwed.Value(); owed != "" {
		out.NewRecipients = strings.Split(owed, ", ")
	}
	return out
}

// put adds a record; they come in order.
func (h *history) put(r *broker.AuditRecord) {
	h.next = r.Sequence + 1
	if len(h.records) >= h.limit {
		h.records = slices.Clone(h.records[h.limit/16:])
	}
	h.records = append(h.records, newRecord(r))
}

// list gives a page, newest first, of those before the sequence after (0: from the
// newest).
func (h *history) list(q HistoryQuery, after uint64, size int) (page []broker.AuditRecord, next uint64) {
	action, by, target, run := unique.Make(string(q.Action)), unique.Make(q.By), unique.Make(q.Target), unique.Make(q.Run)
	from := len(h.records)
	if after != 0 {
		from, _ = slices.BinarySearchFunc(h.records, after, func(r record, s uint64) int {
			if r.sequence < s {
				return -1
			}
			return 1
		})
	}
	for i := from - 1; i >= 0; i-- {
		r := &h.records[i]
		if q.Action != "" && r.action != action || q.By != "" && r.by != by || q.Target != "" && r.target != target ||
			q.Event != "" && r.event != q.Event || q.Letter != 0 && r.number != q.Letter || q.Run != "" && r.run != run {
			continue
		}
		if len(page) == size {
			return page, page[size-1].Sequence
		}
		page = append(page, r.record())
	}
	return page, 0
}

// of is what happened to a letter and to its delivery, oldest first.
func (h *history) of(number uint64, target, event string, most int) []broker.AuditRecord {
	t := unique.Make(target)
	var out []broker.AuditRecord
	for i := len(h.records) - 1; i >= 0 && len(out) < most; i-- {
		r := &h.records[i]
		if number != 0 && (r.number == number || r.restored == number) || event != "" && r.event == event && r.target == t {
			out = append(out, r.record())
		}
	}
	slices.Reverse(out)
	return out
}

// ended is the newest record that ends the letter, or answers the intent of
// somebody else to.
func (h *history) ended(number uint64) (broker.AuditRecord, bool) {
	for i := len(h.records) - 1; i >= 0; i-- {
		if r := &h.records[i]; r.number == number && broker.Action(r.action.Value()).Ends() && r.stage.Value() != string(broker.StageIntent) {
			return r.record(), true
		}
	}
	return broker.AuditRecord{}, false
}
