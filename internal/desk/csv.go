package desk

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/verdict"
)

// Table defines the CSV form of a list, the same for pages and commands.
type Table[T any] struct {
	Name    string // of the file, without extension
	Columns []string
	Cells   func(T) []string
}

// LetterTable is the table of dead letters.
var LetterTable = Table[Letter]{
	Name:    "dead-letters",
	Columns: []string{"number", "time", "event", "target", "lane", "code", "phase", "reason", "reply_code", "enhanced_code", "reply", "certainty", "attempts", "recipients", "name", "serial", "not_after", "held", "superseded", "group", "to_fix", "message_id", "failed_replays", "discarded_at", "discarded_by", "discard_reason"},
	Cells: func(l Letter) []string {
		var cn, serial, expires string
		if c := l.Certificate; c != nil {
			cn, serial, expires = c.Name(), c.Serial, stamp(c.NotAfter)
		}
		gone := Discard{}
		if l.Discard != nil {
			gone = *l.Discard
		}
		return []string{strconv.FormatUint(l.Sequence, 10), stamp(l.Time), l.Event, l.Target, l.Lane, string(l.Code), string(l.Phase), l.Reason,
			strconv.Itoa(l.ReplyCode), l.EnhancedCode, l.Reply, string(l.Certainty), strconv.Itoa(l.Attempts), strings.Join(l.Recipients, " "),
			cn, serial, expires, fmt.Sprint(l.Hold != nil), fmt.Sprint(l.Superseded != nil), l.Fingerprint, l.ToFix, l.MessageID, some(uint64(l.FailedReplays)), stamp(gone.At), gone.By, gone.Reason}
	},
}

// GroupTable is the table of groups.
var GroupTable = Table[Group]{
	Name:    "dead-letter-groups",
	Columns: []string{"group", "code", "phase", "lane", "enhanced_code", "count", "held", "superseded", "may_have_been_sent", "first_seen", "last_seen", "targets", "soonest_expiry", "cause", "remedy", "to_fix", "assignee", "ticket", "notes"},
	Cells: func(g Group) []string {
		var notes []string
		h := Handling{}
		if g.Handling != nil {
			h = *g.Handling
		}
		for _, n := range h.Notes {
			notes = append(notes, stamp(n.At)+" "+n.By+": "+n.Text)
		}
		return []string{g.Fingerprint, string(g.Code), string(g.Phase), g.Lane, g.EnhancedCode, strconv.Itoa(g.Count), strconv.Itoa(g.Held), strconv.Itoa(g.Superseded),
			strconv.Itoa(g.Uncertain), stamp(g.First), stamp(g.Last), strings.Join(g.Targets, " "), stamp(g.SoonestExpiry), g.Cause, g.Remedy, g.ToFix, h.Assignee, h.Ticket, strings.Join(notes, " | ")}
	},
}

// DeliveryTable is the table of deliveries: recipients, the relay's reply, the certificate.
var DeliveryTable = Table[broker.Entry]{
	Name: "deliveries",
	Columns: []string{"event", "target", "lane", "state", "generation", "attempts", "first_attempt", "last_attempt", "name", "dns_names", "issuer", "serial", "fingerprint", "not_before", "not_after",
		"accepted", "refused", "owed", "relay", "tls", "reply_code", "reply", "queue_id", "message_id", "size", "possible_duplicates", "uncertain", "code", "phase", "reason",
		"payload", "files", "private_key", "definition", "all_attempts", "began", "failed_replays", "waits_since", "waits_for", "next_try"},
	Cells: func(e broker.Entry) []string {
		cert, receipt, failure := verdict.Certificate{}, verdict.Receipt{}, broker.FailureRecord{}
		name := ""
		if c := e.Certificate; c != nil {
			cert = *c
		}
		if e.Receipt != nil {
			receipt = *e.Receipt
			if receipt.Certificate != nil {
				cert = *receipt.Certificate
			}
		}
		if cert.Serial != "" {
			name = cert.Name()
		}
		if e.Failure != nil {
			failure = *e.Failure
		}
		wait := broker.Wait{Next: e.NextTry}
		if e.Wait != nil {
			wait = *e.Wait
		}
		var refused []string
		for _, one := range e.Refused {
			refused = append(refused, one.Recipient)
		}
		return []string{e.Event, e.Target, e.Lane, string(e.State), strconv.Itoa(e.Generation), strconv.Itoa(e.Attempts), stamp(e.First), stamp(e.Last),
			name, strings.Join(cert.DNSNames, " "), cert.Issuer, cert.Serial, cert.Fingerprint, stamp(cert.NotBefore), stamp(cert.NotAfter),
			strings.Join(e.Accepted, " "), strings.Join(refused, " "), strings.Join(e.Owed, " "), receipt.Relay, receipt.TLS, some(uint64(receipt.ReplyCode)), receipt.Reply,
			receipt.QueueID, receipt.MessageID, some(uint64(receipt.Size)), strconv.Itoa(e.PossibleDuplicates), strconv.FormatBool(e.Uncertain),
			string(failure.Code), string(failure.Phase), failure.Reason, receipt.Payload, strings.Join(receipt.Files, " "), string(receipt.PrivateKey), receipt.Definition,
			strconv.Itoa(e.AllAttempts()), stamp(e.FirstOfAll()), some(uint64(e.FailedReplays)), stamp(wait.Since), wait.Reason, stamp(wait.Next)}
	},
}

// WhoTable is the table of handovers: who got which certificate, and whether with its key.
var WhoTable = Table[Handover]{
	Name:    "who",
	Columns: []string{"at", "recipients", "private_key", "payload", "files", "name", "serial", "sha256", "target", "definition", "event", "relay", "message_id", "proof", "earlier_not_shown", "certainty"},
	Cells: func(h Handover) []string {
		return []string{stamp(h.At), strings.Join(h.Recipients, " "), string(h.PrivateKey), h.Payload, strings.Join(h.Files, " "), h.Name, h.Serial, h.SHA256, h.Target,
			h.Definition, h.Event, h.Relay, h.MessageID, string(h.Proof), some(uint64(h.NotShown)), string(h.Certainty)}
	},
}

// provedCell is true, false or empty.
func provedCell(p broker.Proof) string {
	if p == broker.NotAsked {
		return ""
	}
	return strconv.FormatBool(p == broker.Proved)
}

// RecordTable is the table of audit records.
var RecordTable = Table[Record]{
	Name:    "audit",
	Columns: []string{"sequence", "time", "action", "stage", "by", "role", "via", "address", "reason", "letter", "new_letter", "event", "target", "lane", "run", "delivery", "new_target", "new_recipients", "until", "hash", "proved", "nats_user", "alert", "act", "letters", "group"},
	Cells: func(r Record) []string {
		return []string{strconv.FormatUint(r.Sequence, 10), stamp(r.Time), string(r.Action), string(r.Stage), r.Name, r.Role, string(r.Via), r.Address, r.Reason,
			some(r.LetterNumber), some(r.NewLetter), r.Event, r.Target, r.Lane, r.Run, some(r.Delivery), r.NewTarget, strings.Join(r.NewRecipients, " "), stamp(r.Until), r.Hash, provedCell(r.Proved), r.NATSUser, r.Alert, r.Act, lettersOf(r.Many), r.Group}
	},
}

// lettersOf is how many letters an act on many was on, "" for other records.
func lettersOf(many *broker.Many) string {
	if many == nil {
		return ""
	}
	return strconv.Itoa(many.Letters)
}

// RunTable is the table of replay runs.
var RunTable = Table[Run]{
	Name:    "replays",
	Columns: []string{"id", "state", "why", "by", "started", "ended", "letters", "published", "delivered", "dead_again", "gone", "failed", "rate", "canary", "reason", "proved", "nats_user"},
	Cells: func(run Run) []string {
		return []string{run.ID, string(run.State), run.Why, run.By.Name, stamp(run.Started), stamp(run.Ended), strconv.Itoa(run.Spec.Frozen.Count), strconv.Itoa(run.Published),
			strconv.Itoa(run.Delivered), strconv.Itoa(run.DeadAgain), strconv.Itoa(run.Gone), strconv.Itoa(run.Failed), run.Spec.Rate.String(), strconv.FormatBool(run.Spec.Canary), run.Spec.Reason, provedCell(run.By.Proved), run.By.NATSUser}
	},
}

// LaneTable is the table of lanes and their relays.
var LaneTable = Table[LaneRow]{
	Name:    "relays",
	Columns: []string{"lane", "relays", "limits", "waiting", "in_flight", "processes", "breaker", "paused", "suspended_by", "suspended_since", "suspended_until", "reason"},
	Cells: func(l LaneRow) []string {
		var relays, allowed, breakers, paused []string
		for _, relay := range l.Relays {
			relays = append(relays, relay.Relay)
			if text := relay.Limits(); text != "" {
				allowed = append(allowed, relay.Relay+": "+text)
			}
		}
		for _, s := range l.Statuses {
			for _, away := range s.Relays {
				breakers = append(breakers, cmp.Or(s.Process, "a process")+": "+away.Relay+" "+string(away.Breaker))
			}
			if s.Paused != "" && !slices.Contains(paused, s.Paused) {
				paused = append(paused, s.Paused)
			}
		}
		slices.Sort(paused)
		cells := []string{l.Lane, strings.Join(relays, " "), strings.Join(allowed, "; "), strconv.FormatUint(l.Waiting, 10), strconv.Itoa(l.InFlight), strconv.Itoa(l.Replicas),
			strings.Join(breakers, "; "), strings.Join(paused, ", "), "", "", "", ""}
		if s := l.Suspension; s != nil {
			copy(cells[8:], []string{s.Shown(), stamp(s.Since), stamp(s.Until), s.Reason})
		}
		return cells
	},
}

// TargetTable is the table of targets, with their latest results.
var TargetTable = Table[TargetResult]{
	Name:    "targets",
	Columns: []string{"id", "type", "disabled", "lane", "relays", "payload", "to", "last_sent", "last_dead", "sent", "open_dead_letters", "where", "warnings"},
	Cells: func(t TargetResult) []string {
		return []string{t.ID, t.Type, strconv.FormatBool(t.Disabled), t.Lane, strings.Join(t.Relays, " "), t.Payload, strings.Join(t.To, " "),
			stamp(t.LastSent), stamp(t.LastDead), strconv.Itoa(t.Sent), strconv.Itoa(t.Open), t.Where, strings.Join(t.Warnings, "; ")}
	},
}

// DefinitionTable is TargetTable for targets whose results are not known: these cells are empty.
var DefinitionTable = Table[verdict.TargetView]{
	Name:    TargetTable.Name,
	Columns: TargetTable.Columns,
	Cells: func(view verdict.TargetView) []string {
		cells := TargetTable.Cells(TargetResult{TargetView: view})
		clear(cells[7:11])
		return cells
	},
}

// AlertTable is the table of alerts.
var AlertTable = Table[AlertRow]{
	Name:    "alerts",
	Columns: []string{"alert", "kind", "severity", "state", "since", "over", "summary", "advice", "silenced_until", "silenced_by", "silenced_because"},
	Cells: func(r AlertRow) []string {
		return []string{r.Key, string(r.Kind), string(r.Severity), r.State, stamp(r.Since), stamp(r.Over), r.Summary, r.Advice, stamp(r.Until), r.By, r.Reason}
	},
}

// PreflightTable is the table of what a preflight of one letter found.
var PreflightTable = Table[verdict.Finding]{
	Name:    "preflight",
	Columns: []string{"status", "what", "message"},
	Cells:   func(f verdict.Finding) []string { return []string{string(f.Status), f.What, f.Message} },
}

// PartTable is the table of a preflight of many letters.
var PartTable = Table[PartPreflight]{
	Name:    "preflight",
	Columns: []string{"outlook", "letters", "target", "examined", "verdict"},
	Cells: func(p PartPreflight) []string {
		return []string{string(p.Outlook), strconv.Itoa(p.Letters), p.Target, strconv.FormatUint(p.Number, 10), p.Verdict}
	},
}

// stamp formats a time in RFC 3339, UTC; "" for the zero time.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// some formats a number; "" for 0, which means none.
func some(n uint64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatUint(n, 10)
}
