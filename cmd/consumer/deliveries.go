package main

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/service"
	"github.com/certpost/certpost/internal/verdict"
)

type deliveriesCmd struct {
	List deliveriesListCmd `cmd:"" help:"List deliveries, newest last attempt first."`
	Show deliveriesShowCmd `cmd:"" help:"Show the deliveries of one event."`
	Who  deliveriesWhoCmd  `cmd:"" help:"List who got the certificates of a name, when, and whether with the private key."`

	Retry    deliveriesRetryCmd    `cmd:"" help:"Try waiting deliveries now, whatever delay they have."`
	Cancel   deliveriesCancelCmd   `cmd:"" help:"Cancel waiting deliveries: each becomes a dead letter, which can be replayed or discarded."`
	Resend   deliveriesResendCmd   `cmd:"" help:"Send again what was delivered, to the same target or to one that was added later."`
	Rollback deliveriesRollbackCmd `cmd:"" help:"Put the files back that a deployment has replaced on its mail host."`
	Plan     deliveriesPlanCmd     `cmd:"" help:"Say what a deployment onto a mail host would do, without doing it."`
}

type deliveriesListCmd struct {
	filterFlags
	Limit  uint   `help:"Maximum number of deliveries; 0: all." default:"100"`
	Output string `help:"Format: table, wide (all columns, nothing shortened), json or csv." enum:"table,wide,json,csv" default:"table" short:"o"`
}

// Validate is called when the command line has been read.
func (c *deliveriesListCmd) Validate() error {
	_, err := parseFlags(desk.DeliveryConditions, &c.filterFlags)
	return err
}

func (c *deliveriesListCmd) Run(a *app) error {
	client, done, err := a.client()
	if err != nil {
		return err
	}
	defer done()
	entries, unlisted, err := entriesOf(a, client, c.values(), int(c.Limit))
	if err != nil {
		return err
	}
	if unlisted > 0 {
		fmt.Fprintf(a.stderr, "%d older deliveries in the queue are not listed unless they were attempted before; list them with `certpost deliveries list --state waiting`\n", unlisted)
	}
	if state, _ := c.values()["state"]; state == string(broker.StateWaiting) && c.Output != "csv" {
		return printList(a, c.Output, entries, "no delivery waits", waitingHead, func(e broker.Entry, _ bool) []string { return waitingRow(e) }, desk.DeliveryTable)
	}
	return printList(a, c.Output, entries, "no matching deliveries", deliveryHead, func(e broker.Entry, _ bool) []string { return deliveryRow(e) }, desk.DeliveryTable)
}

// usualLimit is the --limit of lists that was not asked for.
const usualLimit = 100

// cutOff says that a list has more than the limit that it has by itself.
func (a *app) cutOff(more bool, limit int) {
	if more && limit == usualLimit {
		fmt.Fprintf(a.stderr, "certpost: only the first %d are listed; --limit 0 lists all\n", limit)
	}
}

// entriesOf requests the pages of a list, at most limit entries (0: all). unlisted is how many
// deliveries the list may lack, see desk.DeliveryListing.
func entriesOf(a *app, c *client, filter map[string]string, limit int) (all []broker.Entry, unlisted uint64, err error) {
	all = []broker.Entry{}
	for q := (service.ListRequest{Filtered: service.Filtered{Filter: filter}}); ; {
		q.Size = service.MaxPage
		if limit > 0 {
			q.Size = min(service.MaxPage, limit-len(all))
		}
		page, err := ask[desk.DeliveryListing](a.ctx, c, "deliveries.list", q)
		if err != nil {
			return nil, 0, err
		}
		all = append(all, page.Entries...)
		unlisted += page.Unlisted
		if q.After = page.Next; q.After == 0 || len(all) == limit {
			a.cutOff(q.After != 0, limit)
			return all, unlisted, nil
		}
	}
}

var deliveryHead = []string{"EVENT", "TARGET", "STATE", "CODE", "ATTEMPTS", "LAST ATTEMPT", "CERTIFICATE"}

func deliveryRow(e broker.Entry) []string {
	code, cert := "", ""
	if e.Failure != nil {
		code = string(e.Failure.Code)
	}
	if c := certificateOf(e); c != nil {
		cert = c.Name()
	}
	last := when(e.Last)
	switch {
	case e.Untried():
		last = "not tried yet"
	case e.Last.IsZero() && e.Cancel != nil:
		last = "cancelled " + when(e.Cancel.At)
	}
	return []string{e.Event, e.Target, e.StateWord(), code, fmt.Sprint(e.AllAttempts()), last, cert}
}

var waitingHead = []string{"EVENT", "TARGET", "LANE", "ATTEMPTS", "LAST ATTEMPT", "NEXT TRY", "REASON", "CERTIFICATE"}

func waitingRow(e broker.Entry) []string {
	row := deliveryRow(e)
	wait := broker.Wait{}
	if e.Wait != nil {
		wait = *e.Wait
	}
	return []string{e.Event, e.Target, e.Lane, row[4], row[5], nextTry(wait), wait.Reason, row[6]}
}

// nextTry says when a waiting delivery is tried again.
func nextTry(w broker.Wait) string { return cmp.Or(when(w.Next), w.Then) }

// certificateOf returns the certificate of a delivery, nil if it is not known.
func certificateOf(e broker.Entry) *verdict.Certificate {
	if e.Certificate == nil && e.Receipt != nil {
		return e.Receipt.Certificate
	}
	return e.Certificate
}

type deliveriesShowCmd struct {
	Event  string `arg:"" help:"Id of the event."`
	Target string `arg:"" optional:"" help:"Id of the target. Default: all targets of the event."`
	Output string `help:"Format: text or json." enum:"text,json" default:"text" short:"o"`
}

func (c *deliveriesShowCmd) Run(a *app) error {
	counter, done, err := a.client()
	if err != nil {
		return err
	}
	defer done()
	filter := map[string]string{"event": c.Event}
	if c.Target != "" {
		filter["target"] = c.Target
	}
	all, _, err := entriesOf(a, counter, filter, 0)
	if err != nil {
		return err
	}
	if len(all) == 0 || c.Target != "" && all[0].Untried() {
		return c.showWaiting(a, counter)
	}
	details := make([]desk.DeliveryDetail, len(all))
	for i, e := range all {
		if details[i], err = ask[desk.DeliveryDetail](a.ctx, counter, "deliveries.show", service.DeliveryRequest{Target: e.Target, Event: e.Event}); err != nil {
			return err
		}
	}
	switch {
	case c.Output == "json" && c.Target != "":
		return a.json(details[0]) // there is one per event and target
	case c.Output == "json":
		return a.json(details)
	}
	for i := range details {
		if i > 0 {
			fmt.Fprintln(a.stdout)
		}
		if err := pairs(a.stdout, detailFields(details[i])...); err != nil {
			return err
		}
	}
	if len(details) > 1 || details[0].Untried() {
		return nil
	}
	if err := a.printTries(&details[0].Entry); err != nil {
		return err
	}
	return a.printHistory(details[0].History)
}

// showWaiting shows a delivery that the ledger does not know, because it waits for its first
// attempt.
func (c *deliveriesShowCmd) showWaiting(a *app, counter *client) error {
	if c.Target == "" {
		return &failure{exitFailed, errors.New("the ledger has no delivery of this event: give the target, too, to see whether one waits for its first attempt, or correct the id")}
	}
	one, err := ask[desk.DeliveryDetail](a.ctx, counter, "deliveries.show", service.DeliveryRequest{Target: c.Target, Event: c.Event})
	var refused *service.Refusal
	switch {
	case errors.As(err, &refused) && refused.Status == http.StatusNotFound:
		return &failure{exitFailed, errors.New("neither the ledger nor the queue has such a delivery: check the ids, and that the event was published")}
	case err != nil:
		return err
	}
	a.noteFormerID(c.Target, one.Target)
	if c.Output == "json" {
		return a.json(one)
	}
	return pairs(a.stdout, detailFields(one)...)
}

// detailFields returns the fields of a delivery of which there may be no ledger entry.
func detailFields(one desk.DeliveryDetail) [][2]string {
	fields := deliveryFields(one.Entry)
	if !one.WaitingSince.IsZero() { // else it was attempted just now, and the list lags behind the ledger
		fields = append([][2]string{{"Waits", fmt.Sprintf("in lane %s since %s, not tried yet", one.Lane, when(one.WaitingSince))}}, fields...)
	}
	return fields
}

// waitsAs says which replay waits; "" if none does.
func waitsAs(w broker.Wait) string {
	switch {
	case w.Replay == 0:
		return ""
	case w.Letter == 0:
		return fmt.Sprintf("replay %d", w.Replay)
	}
	return fmt.Sprintf("replay %d of dead letter %d", w.Replay, w.Letter)
}

// sinceReplay is the number of attempts since the last replay, "" if there was none.
func sinceReplay(e broker.Entry) string {
	if e.Generation <= 1 {
		return ""
	}
	return fmt.Sprint(e.Attempts)
}

// lacking returns the recipients of which it is not known that they have the mail.
func lacking(e *broker.Entry) []string {
	if e.Uncertain {
		return e.MaybeHave()
	}
	return e.Missing()
}

// deliveryFields returns the fields of a ledger entry, as text.
func deliveryFields(e broker.Entry) [][2]string {
	fields := [][2]string{
		{"Event", e.Event}, {"Target", e.Target}, {"Lane", e.Lane}, {"State", e.StateWord()},
		{"Attempts", number(e.AllAttempts())}, {"Since the replay", sinceReplay(e)}, {"Failed replays", number(e.FailedReplays)}, {"First attempt", when(e.FirstOfAll())}, {"Last attempt", when(e.Last)},
		{"Has the mail", strings.Join(e.Accepted, ", ")}, {owedLabel(e.Uncertain), strings.Join(lacking(&e), ", ")}, {"Reach", desk.Reach(&e)},
		{"Possible duplicates", number(e.PossibleDuplicates)},
	}
	for _, r := range e.Refused {
		fields = append(fields, [2]string{"Refused permanently", strings.TrimSpace(fmt.Sprintf("%s: %d %s", r.Recipient, r.ReplyCode, r.Reply))})
	}
	if e.Wait != nil {
		fields = append(fields, [2]string{"Waits as", waitsAs(*e.Wait)}, [2]string{"Waits for", e.Wait.Reason}, [2]string{"Next try", nextTry(*e.Wait)})
	}
	if e.State == broker.StateSending {
		fields = append(fields, [2]string{"Lease", when(e.Lease) + " by " + e.Owner})
	}
	if f := e.Failure; f != nil {
		fields = append(fields, [2]string{"Last failure", string(f.Code) + " in " + string(f.Phase)}, [2]string{"Reason", f.Reason},
			[2]string{"Reply", reply(f.ReplyCode, f.EnhancedCode, f.Reply)}, [2]string{"Sent?", string(f.Certainty)}, [2]string{"Rollback of the failure", string(f.Rollback)})
	}
	if h := e.Hold; h != nil && e.HeldBack() {
		for _, line := range h.Publish {
			fields = append(fields, [2]string{"Publish in DNS", line})
		}
		fields = append(fields, [2]string{"Records fit since", when(h.Fits)}, [2]string{"Deployed at", when(h.Until)}, [2]string{"Present one expires", when(h.Expires)})
	}
	if r := e.Receipt; r != nil && r.OnHost() {
		fields = append(fields, hostFields(e)...)
	} else if r != nil {
		fields = append(fields, [2]string{"Relay", r.Relay}, [2]string{"TLS", r.TLS}, [2]string{"Relay's reply", reply(r.ReplyCode, "", r.Reply)},
			[2]string{"Queue id", r.QueueID}, [2]string{"Message-ID", r.MessageID}, [2]string{"Size", fmt.Sprintf("%d bytes", r.Size)},
			[2]string{"Rollback", "not available: " + r.Remedy()})
	}
	if r := e.Receipt; r != nil {
		fields = append(fields, [2]string{"Payload", r.Payload}, [2]string{"Files", strings.Join(r.Files, ", ")}, [2]string{"Private key", keyOf(r)}, [2]string{"Definition", r.Definition})
		for _, warning := range r.Warnings {
			fields = append(fields, [2]string{"Warning", warning})
		}
		for _, ref := range slices.Sorted(maps.Keys(r.Secrets)) {
			fields = append(fields, [2]string{"Secret", ref + " version " + r.Secrets[ref]})
		}
	}
	if c := certificateOf(e); c != nil {
		fields = append(fields, [2]string{"Certificate", c.Name()}, [2]string{"Names", strings.Join(c.AllNames(), ", ")}, [2]string{"Issuer", c.Issuer},
			[2]string{"Serial", c.Serial}, [2]string{"SHA-256", c.Fingerprint}, [2]string{"Valid", when(c.NotBefore) + " to " + when(c.NotAfter)})
	}
	return append(fields, [2]string{"Dead letter", e.DeadLetter})
}

// hostFields are those of the receipt of a deployment onto a mail host.
func hostFields(e broker.Entry) [][2]string {
	r := e.Receipt
	what := "Deployed"
	if r.State == "unchanged" {
		what = "Unchanged"
	}
	fields := [][2]string{{what, "on mail host " + r.Host + ", " + when(r.At)}, {"TLS", r.TLS}}
	for _, step := range r.Steps {
		fields = append(fields, [2]string{"Step", step})
	}
	switch back := r.RolledBack; {
	case back != nil:
		fields = append(fields, [2]string{"Rolled back", fmt.Sprintf("%s by %s: %s", when(back.At), back.By, back.Reason)}, [2]string{"Back then", servedText(back.Certificate)})
	case r.CanRollBack():
		fields = append(fields, [2]string{"Rollback", "available: certpost deliveries rollback " + shellWord(e.Event) + " " + e.Target})
	default:
		fields = append(fields, [2]string{"Rollback", "not available: " + r.Remedy()})
	}
	return fields
}

// servedText is a certificate in a few words; "" for none.
func servedText(c *verdict.Certificate) string {
	if c == nil {
		return ""
	}
	return fmt.Sprintf("%s, serial %s, valid to %s", c.Name(), c.Serial, when(c.NotAfter))
}

// keyOf says where the private key of a delivery is.
func keyOf(r *verdict.Receipt) string {
	if !r.OnHost() || !r.PrivateKey.Sent() {
		return keyText(r.PrivateKey)
	}
	if r.KeyMode == "" { // of a version that did not record it
		return "in the files on the host"
	}
	return "in the files on the host, mode " + r.KeyMode
}

// keyText says whether a private key was in a mail; "" if that is not known.
func keyText(k verdict.KeySent) string {
	switch k {
	case verdict.KeyNone:
		return "not sent"
	case verdict.KeyClear:
		return "sent, not encrypted"
	case verdict.KeyEncrypted:
		return "sent, encrypted"
	}
	return string(k)
}

type deliveriesWhoCmd struct {
	Name   string `help:"A name of the certificate, or *.suffix." required:"" placeholder:"NAME"`
	Key    bool   `help:"Only mails with the private key, and those of which that was not recorded."`
	Since  string `help:"Only mails of the last 24h, another duration such as 7d, or since a time." placeholder:"24h"`
	Output string `help:"Format: table, wide (all columns, nothing shortened), json or csv." enum:"table,wide,json,csv" default:"table" short:"o"`
}

// Validate is called when the command line has been read.
func (c *deliveriesWhoCmd) Validate() error {
	if c.Since == "" {
		return nil
	}
	_, err := desk.ParseSince(c.Since, time.Now())
	return err
}

func (c *deliveriesWhoCmd) Run(a *app) error {
	client, done, err := a.client()
	if err != nil {
		return err
	}
	defer done()
	all := []desk.Handover{}
	for q := (service.WhoRequest{Name: c.Name, Key: c.Key, Since: c.Since, Size: service.MaxPage}); ; {
		page, err := ask[desk.WhoListing](a.ctx, client, "deliveries.who", q)
		if err != nil {
			return err
		}
		all = append(all, page.Handovers...)
		if q.After = page.Next; q.After == 0 {
			break
		}
	}
	return printList(a, c.Output, all, "no certificate with this name was sent", whoHead, func(h desk.Handover, _ bool) []string { return whoRow(h) }, desk.WhoTable)
}

var whoHead = []string{"TIME", "RECIPIENTS", "SENT?", "KEY", "FILES", "CERTIFICATE", "SERIAL", "TARGET", "EVENT", "PROOF"}

func whoRow(h desk.Handover) []string {
	key := keyText(h.PrivateKey)
	if key == "" {
		key = "not recorded"
	}
	to, sent := strings.Join(h.Recipients, ", "), string(h.Certainty)
	if h.Certainty == verdict.MaybeSent {
		sent = desk.SentWord(h.Certainty)
	}
	if to == "" {
		to = "the target's recipients"
	}
	return []string{when(h.At), to, sent, key, strings.Join(h.Files, ", "), h.Name, h.Serial, h.Target, h.Event, string(h.Proof)}
}
