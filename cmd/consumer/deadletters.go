package main

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/service"
	"github.com/certpost/certpost/internal/verdict"
)

type deadLettersCmd struct {
	List      lettersListCmd      `cmd:"" help:"List open dead letters, oldest first; with --state=discarded those that were discarded."`
	Groups    lettersGroupsCmd    `cmd:"" help:"List open dead letters by cause, with what to do about each."`
	Show      lettersShowCmd      `cmd:"" help:"Show one dead letter, its history, and the commands that replay it."`
	Preflight lettersPreflightCmd `cmd:"" help:"Check whether a replay would be delivered, without sending."`
	Replay    lettersReplayCmd    `cmd:"" help:"Publish dead letters again, after their cause is fixed."`
	Edit      lettersEditCmd      `cmd:"" help:"Replay one dead letter for another target or to other recipients, if http.edit_and_replay allows it."`
	Discard   lettersDiscardCmd   `cmd:"" help:"Take dead letters off the list, with a reason."`
	Restore   lettersRestoreCmd   `cmd:"" help:"Restore discarded dead letters: by number, or all that match a filter."`
	Hold      lettersHoldCmd      `cmd:"" help:"Block replay and discard of dead letters until they are released."`
	Note      lettersNoteCmd      `cmd:"" help:"Write a note on a group of dead letters."`
	Assign    lettersAssignCmd    `cmd:"" help:"Say who works on a group of dead letters."`
	Ticket    lettersTicketCmd    `cmd:"" help:"Say under which ticket a group of dead letters is handled."`
	Release   lettersReleaseCmd   `cmd:"" help:"Release dead letters from a hold."`
}

// letterFilter selects open dead letters by the same conditions as the page.
type letterFilter struct{ filterFlags }

func newLetterFilter() letterFilter { return letterFilter{newFilterFlags(desk.LetterConditions.All())} }

// Validate is called when the command line has been read.
func (f *letterFilter) Validate() error {
	_, err := parseFlags(desk.LetterConditions, &f.filterFlags)
	return err
}

// none is the message for an empty list.
func none(filtered bool) string {
	if filtered {
		return "no open dead letters match the filter"
	}
	return "no open dead letters"
}

// isSet reports whether a condition is set.
func (f *letterFilter) isSet() bool {
	given := f.values()
	delete(given, "order")
	return len(given) > 0
}

type lettersListCmd struct {
	letterFilter
	Limit  uint   `help:"Maximum number of letters; 0: all." default:"0"`
	Output string `help:"Format: table, wide (all columns, nothing shortened), json or csv." enum:"table,wide,json,csv" default:"table" short:"o"`
}

// orderOfLists puts the newest letter at the end, next to the prompt of the terminal.
const orderOfLists = desk.Oldest

func (c *lettersListCmd) Run(a *app) error {
	counter, done, err := a.client()
	if err != nil {
		return err
	}
	defer done()
	filter := c.values()
	filter["order"] = cmp.Or(filter["order"], string(orderOfLists))
	letters, err := lettersOf(a, counter, filter, int(c.Limit))
	if err != nil {
		return err
	}
	return printList(a, c.Output, letters, none(c.isSet()), letterHead, letterRow, desk.LetterTable)
}

var letterHead = []string{"NUMBER", "TIME", "CODE", "TARGET", "NAME", "EXPIRES", "EVENT", "SENT?", "REASON"}

func letterRow(d desk.Letter, short bool) []string {
	reason := d.Reason
	if short {
		reason = shorten(reason, 80)
	}
	if d.Superseded != nil {
		reason = "(superseded) " + reason
	}
	if g := d.Discard; g != nil {
		reason = "(discarded by " + g.By + " " + when(g.At) + ": " + g.Reason + ") " + reason
	}
	if d.Hold != nil {
		reason = "(held by " + d.Hold.Shown() + ") " + reason
	}
	name, expires := "", ""
	if c := d.Certificate; c != nil {
		name, expires = namesText(c), day(c.NotAfter)
	}
	return []string{fmt.Sprint(d.Sequence), when(d.Time), string(d.Code), d.Target, name, expires, d.Event, sentText(d.Certainty), reason}
}

// namesText is the name of a certificate and the number of its further ones.
func namesText(c *verdict.Certificate) string {
	further := 0
	for _, name := range c.AllNames() {
		if name != c.Name() {
			further++
		}
	}
	if further == 0 {
		return c.Name()
	}
	return fmt.Sprintf("%s +%d", c.Name(), further)
}

// sentText is a certainty as the filter has it; `accepted` would say that all have the mail.
func sentText(c verdict.Certainty) string {
	if c == verdict.Accepted {
		return desk.SentWord(c)
	}
	return string(c)
}

// lettersOf requests the pages of a list, at most limit letters (0: all).
func lettersOf(a *app, c *client, filter map[string]string, limit int) ([]desk.Letter, error) {
	all := []desk.Letter{}
	for after := uint64(0); ; {
		size := service.MaxPage
		if limit > 0 {
			size = min(size, limit-len(all))
		}
		page, err := ask[desk.Listing](a.ctx, c, "dead.list", service.ListRequest{Filtered: service.Filtered{Filter: filter}, After: after, Size: size})
		if err != nil {
			return nil, err
		}
		all = append(all, page.Letters...)
		if after = page.Next; after == 0 || len(all) == limit {
			return all, nil
		}
	}
}

func shorten(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}

type lettersGroupsCmd struct {
	letterFilter
	Output string `help:"Format: table, wide (all columns, nothing shortened), json or csv." enum:"table,wide,json,csv" default:"table" short:"o"`
}

func (c *lettersGroupsCmd) Run(a *app) error {
	counter, done, err := a.client()
	if err != nil {
		return err
	}
	defer done()
	answer, err := ask[service.GroupsAnswer](a.ctx, counter, "dead.groups", service.Filtered{Filter: c.values()})
	if err != nil {
		return err
	}
	err = printList(a, c.Output, answer.Groups, none(c.isSet()),
		[]string{"GROUP", "COUNT", "CODE", "PHASE", "RELAY", "TO FIX", "LAST SEEN", "TARGETS", "HELD", "SUPERSEDED", "EXPIRES", "HANDLING", "WHAT TO DO"},
		func(g desk.Group, _ bool) []string {
			return []string{g.Fingerprint, fmt.Sprint(g.Count), string(g.Code), string(g.Phase), g.Lane, shorten(g.ToFix, 40), when(g.Last), fmt.Sprint(g.TargetCount),
				number(g.Held), number(g.Superseded), when(g.SoonestExpiry), handling(g, c.Output == "wide"), g.Remedy}
		}, desk.GroupTable)
	if err == nil && (c.Output == "table" || c.Output == "wide") {
		fmt.Fprintln(a.stdout, "\n"+balanceText(answer.Balance))
	}
	return err
}

// handling says who works on a group, and that it has a ticket and notes: "ann, ticket, 2 notes". In
// full it has the address of the ticket and the newest note.
func handling(g desk.Group, full bool) string {
	h := g.Handling
	if h == nil {
		return ""
	}
	var parts []string
	if h.Assignee != "" {
		parts = append(parts, shorten(h.Assignee, 30))
	}
	switch {
	case h.Ticket == "":
	case full:
		parts = append(parts, h.Ticket)
	default:
		parts = append(parts, "ticket")
	}
	if n := len(h.Notes); n > 0 {
		text := count(n, "note")
		if full {
			text += ", the last by " + h.Notes[n-1].By + ": " + h.Notes[n-1].Text
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, ", ")
}

// balanceText is the balance on one line.
func balanceText(b desk.Balance) string {
	parts := []string{fmt.Sprintf("%d open", b.Open)}
	for _, status := range []desk.Status{desk.Replayed, desk.Discarded, desk.Expired, desk.Replaced, desk.Removed} {
		if n := b.Ended[status]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, status))
		}
	}
	if b.Unexplained != 0 {
		parts = append(parts, fmt.Sprintf("%d UNEXPLAINED", b.Unexplained))
	}
	return fmt.Sprintf("%d dead-lettered = %s", b.Total, strings.Join(parts, " + "))
}

type lettersShowCmd struct {
	Number uint64 `arg:"" help:"Number of the letter (its sequence in CERTPOST_DEAD_LETTERS)."`
	Body   bool   `help:"Print only the event, as it would be replayed."`
	Output string `help:"Format: text or json." enum:"text,json" default:"text" short:"o"`
}

func (c *lettersShowCmd) Run(a *app) error {
	counter, done, err := a.client()
	if err != nil {
		return err
	}
	defer done()
	d, err := ask[desk.WholeLetter](a.ctx, counter, "dead.show", service.NumberRequest{Number: c.Number})
	switch {
	case err != nil:
		return err
	case c.Body && d.Body == "":
		return fmt.Errorf("dead letter %d has no event any more: %s", c.Number, cmp.Or(d.NotReplayable, "not stored"))
	case c.Body:
		_, err := a.stdout.Write([]byte(d.Body + "\n"))
		return err
	case c.Output == "json":
		return a.json(d)
	}
	return a.printLetter(&d)
}

// owedLabel is the label of the recipients of which it is not known that they have the mail.
func owedLabel(maybe bool) string {
	if maybe {
		return "May have it"
	}
	return "Not sent to"
}

// redirectedTo says where the replay of a letter for a former id goes, "" if its target has no other id.
func redirectedTo(target string) string {
	if target == "" {
		return ""
	}
	return "redirected to " + target
}

func (a *app) printLetter(d *desk.WholeLetter) error {
	fields := [][2]string{
		{"Number", fmt.Sprint(d.Sequence)}, {"Time", when(d.Time)}, {"Event", d.DeadLetter.Event},
		{"Target", d.Target}, {"Replay", redirectedTo(d.RedirectedTo)}, {"Lane", d.Lane}, {"Code", string(d.Code) + " (" + string(d.Class) + ")"},
		{"Phase", string(d.Phase)}, {"Reason", d.Reason}, {"Reply", reply(d.ReplyCode, d.EnhancedCode, d.Reply)},
		{"Sent?", cmp.Or(d.Reach, sentText(d.Certainty))}, {"Rollback", string(d.Rollback)}, {"Message-ID", d.MessageID}, {"Has the mail", strings.Join(d.Has, ", ")}, {owedLabel(d.Certainty == verdict.MaybeSent), strings.Join(d.Recipients, ", ")},
		{"Attempts", number(d.Attempts)}, {"Failed replays", number(d.FailedReplays)}, {"First attempt", when(d.First)}, {"Last attempt", when(d.Last)},
		{"Generation", number(d.Generation)}, {"Secrets used", d.Secrets},
		{"Published on", d.EventSubject},
	}
	if cert := d.Certificate; cert != nil {
		fields = append(fields, [2]string{"Certificate", cert.Name() + " until " + when(cert.NotAfter)}, [2]string{"Serial", cert.Serial})
	}
	if s := d.Superseded; s != nil {
		fields = append(fields, [2]string{"Superseded", fmt.Sprintf("by event %s, valid until %s, delivered %s", s.Event, when(s.NotAfter), when(s.At))})
	}
	if h := d.Hold; h != nil {
		fields = append(fields, [2]string{"Held", fmt.Sprintf("by %s since %s: %s", h.Shown(), when(h.Since), h.Reason)})
	}
	fields = append(fields, [2]string{"Replay run", d.Letter.Run}, [2]string{"Cause", d.Cause}, [2]string{"To fix", d.ToFix}, [2]string{"What to do", d.Remedy}, [2]string{"Group", d.Fingerprint})
	if d.Siblings > 0 {
		fields = append(fields, [2]string{"Same cause", fmt.Sprint(d.Siblings)})
	}
	if d.Status != desk.Open && d.Status != "" {
		status := string(d.Status)
		if d.End != nil {
			status += " by " + d.End.Shown() + " at " + when(d.End.Time)
		}
		fields = append(fields, [2]string{"Status", status})
	} else {
		fields = append(fields, [2]string{"Kept until", when(d.Expires)})
	}
	if err := pairs(a.stdout, fields...); err != nil {
		return err
	}
	if err := a.printTries(d.Delivery); err != nil {
		return err
	}
	if err := a.printHistory(d.History); err != nil {
		return err
	}
	switch {
	case d.Status != desk.Open && d.Status != "":
		if d.Status == desk.Discarded {
			fmt.Fprintf(a.stdout, "\nTo restore it:\n  certpost dead-letters restore %d\n", d.Sequence)
		}
		return nil
	case d.NotReplayable != "":
		fmt.Fprintf(a.stdout, "\nCannot be replayed: %s\n", printable(d.NotReplayable))
		return nil
	}
	pipeline := strings.NewReplacer("$NUMBER", fmt.Sprint(d.Sequence), "$REPLAY_SUBJECT", shellWord(printable(d.ReplaySubject)), "\n", "\n  ").Replace(replayWithNATS)
	fmt.Fprintf(a.stdout, "\nTo replay it after its cause is fixed:\n  certpost dead-letters replay %d\nor with the NATS CLI:\n  %s\n", d.Sequence, pipeline)
	return nil
}

// printHistory prints audit records, oldest first.
func (a *app) printHistory(records []desk.Record) error {
	if len(records) == 0 {
		return nil
	}
	fmt.Fprintln(a.stdout, "\nHistory")
	var rows [][]string
	for _, r := range records {
		rows = append(rows, recordRow(r, false)[1:])
	}
	return table(a.stdout, recordHead[1:], rows)
}

// replayWithNATS replays a dead letter without Certpost, with the NATS CLI and standard
// tools. The README has the same lines.
const replayWithNATS = `nats stream get CERTPOST_DEAD_LETTERS $NUMBER --json |
  sed -n 's/^ *"data": "\([^"]*\)".*/\1/p' | base64 -d |
  nats pub -J --force-stdin $REPLAY_SUBJECT`

// chosen are the letters that a command acts on: by number, or all that match a filter.
type chosen struct {
	Numbers []uint64 `arg:"" optional:"" name:"number" help:"Numbers of the letters."`
	All     bool     `help:"All letters that match the filter, or all there are."`
	letterFilter
	WithSuperseded bool   `help:"Include letters whose target has a newer certificate (with --all)."`
	DryRun         bool   `help:"Only print which letters are selected."`
	Hash           string `help:"Hash that a dry run has printed: act only if the same letters are selected." placeholder:"HASH"`
	Yes            bool   `help:"Skip the confirmation." short:"y"`
}

// Validate is called when the command line has been read.
func (c *chosen) Validate() error {
	filtered := len(c.values()) > 0
	switch {
	case len(c.Numbers) > 0 && c.All:
		return errors.New("give numbers or --all, not both")
	case len(c.Numbers) > 0 && (filtered || c.Hash != "" || c.WithSuperseded):
		return errors.New("filters, --hash and --with-superseded require --all, and are not allowed with numbers")
	case len(c.Numbers) == 0 && !c.All:
		return errors.New("no letters are selected: give their numbers (see certpost dead-letters list), or --all")
	case len(c.Numbers) > service.MaxNumbered:
		return fmt.Errorf("%d numbers are too many, the maximum is %d: use --all and a filter", len(c.Numbers), service.MaxNumbered)
	}
	return c.letterFilter.Validate()
}

// selection returns the selection of an order.
func (c *chosen) selection(reason string) service.Selection {
	o := service.Selection{Caller: me(), Numbers: slices.Clone(c.Numbers), Superseded: c.WithSuperseded, Hash: c.Hash, DryRun: c.DryRun, Reason: reason}
	if o.All = c.All && !c.isSet(); !o.All {
		o.Filter = c.values()
	}
	return o
}

func progress(i, of int) string {
	width := len(strconv.Itoa(of))
	return fmt.Sprintf("[%*d/%d]", width, i+1, of)
}
