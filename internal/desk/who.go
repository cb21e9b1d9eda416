package desk

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/verdict"
)

// WhoQuery asks who got the certificates of a name.
type WhoQuery struct {
	Name string // a name of the certificate, or *.suffix
	Key  bool   // only mails with the private key, and those of which that is not known
	// Since limits the list to mails from this time on; zero: all.
	Since time.Time
}

// Handover is one mail that a relay accepted, or may have: what went out, when, and to whom.
type Handover struct {
	At time.Time `json:"at,omitzero"` // the relay's reply; of older receipts that of the last attempt; without a reply the attempt
	// Certainty is Accepted, or MaybeSent: the outcome is not known, so there is no receipt, and what
	// was in the mail is not recorded.
	Certainty verdict.Certainty `json:"certainty"`
	// Recipients have the mail, or may have it; empty: all of the target's may.
	Recipients []string         `json:"recipients"`
	PrivateKey verdict.KeySent  `json:"private_key,omitempty"` // "": not recorded
	Payload    string           `json:"payload,omitempty"`
	Files      []string         `json:"files,omitempty"`
	Target     string           `json:"target"`
	Definition string           `json:"definition,omitempty"` // the hash of the target's definition
	Event      string           `json:"event"`
	Name       string           `json:"name"`
	Serial     string           `json:"serial,omitempty"`
	SHA256     string           `json:"sha256,omitempty"`
	Relay      string           `json:"relay"`
	MessageID  string           `json:"message_id,omitempty"`
	Proof      broker.Signature `json:"proof,omitempty"` // of the ledger's entry
	// NotShown are earlier mails of the same delivery of which the ledger keeps no receipt.
	NotShown int `json:"earlier_not_shown,omitempty"`
}

// WhoListing is a page of handovers: those of the deliveries of one page of the ledger.
type WhoListing struct {
	Handovers []Handover `json:"handovers"`
	Next      uint64     `json:"next,omitempty"` // after, for the next page; 0: there is none
	Read      uint64     `json:"read"`           // entries of the ledger in the index, of all
	Of        uint64     `json:"of"`
}

// Who returns who got the certificates of a name, the newest delivery first.
func (d *Desk) Who(ctx context.Context, q WhoQuery, after uint64, size int) (WhoListing, error) {
	out := WhoListing{Handovers: []Handover{}}
	if q.Name = strings.TrimSpace(q.Name); q.Name == "" {
		return out, &Invalid{Text: "name: is required: a name of the certificate, or *.suffix"}
	}
	listing, entries, err := d.deliveriesPage(ctx, DeliveryQuery{Name: q.Name, From: q.Since}, after, pageSize(size))
	if err != nil {
		return out, err
	}
	out.Next, out.Read, out.Of = listing.Next, listing.Read, listing.Of
	for i := range entries {
		out.Handovers = append(out.Handovers, slices.DeleteFunc(d.handovers(&entries[i], q.Key), func(h Handover) bool { return h.At.Before(q.Since) })...)
	}
	return out, nil
}

// handovers returns the mails of one delivery, the newest first.
func (d *Desk) handovers(c *broker.LedgerChange, key bool) (all []Handover) {
	e := &c.Entry
	if e.Uncertain {
		all = append(all, d.possible(c))
	}
	receipts := e.Receipts()
	for i := len(receipts) - 1; i >= 0; i-- {
		r := &receipts[i]
		if key && r.PrivateKey == verdict.KeyNone {
			continue
		}
		h := handover(c, verdict.Accepted)
		h.At, h.Recipients, h.PrivateKey, h.Payload, h.Files, h.Definition, h.Relay, h.MessageID = r.At, r.Recipients, r.PrivateKey, r.Payload, r.Files, r.Definition, r.Relay, r.MessageID
		if h.At.IsZero() {
			h.At = e.Last
		}
		if i == 0 {
			h.NotShown = e.EarlierDropped
		}
		all = append(all, h)
	}
	return all
}

// handover returns what all mails of a delivery have in common.
func handover(c *broker.LedgerChange, certainty verdict.Certainty) Handover {
	e := &c.Entry
	h := Handover{Certainty: certainty, Target: e.Target, Event: e.Event, Proof: c.Proof}
	if cert := e.Certificate; cert != nil {
		h.Name, h.Serial, h.SHA256 = cert.Name(), cert.Serial, cert.Fingerprint
	}
	return h
}

// possible returns the mail of a delivery whose outcome is not known. It is listed also after the
// letter was discarded: an operator does that when the mail has turned out to have arrived.
func (d *Desk) possible(c *broker.LedgerChange) Handover {
	e, h := &c.Entry, handover(c, verdict.MaybeSent)
	h.At, h.Recipients = e.Last, e.MaybeHave()
	if to, ok := d.deliverer.(Addressees); ok && len(h.Recipients) == 0 {
		h.Recipients = to.Recipients(e.Target)
	}
	if ids, ok := d.deliverer.(MessageIDs); ok {
		h.MessageID = ids.MessageID(e.Target, e.Event)
	}
	for i := range e.Tries {
		if try := &e.Tries[i]; try.Certainty == verdict.MaybeSent {
			h.At = try.At
			if t := try.Transcript; t != nil {
				h.Relay, h.Definition = t.Relay, t.Definition
			}
		}
	}
	return h
}
