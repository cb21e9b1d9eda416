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

// Handover is one mail that a relay accepted: what went out, when, and to whom.
type Handover struct {
	At         time.Time        `json:"at,omitzero"` // the relay's reply; of older receipts that of the last attempt
	Recipients []string         `json:"recipients"`
	PrivateKey verdict.KeySent  `json:"private_key,omitempty"` // "": a version that did not record it
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
		out.Handovers = append(out.Handovers, slices.DeleteFunc(handovers(&entries[i], q.Key), func(h Handover) bool { return h.At.Before(q.Since) })...)
	}
	return out, nil
}

// handovers returns the mails of one delivery, the newest first.
func handovers(c *broker.LedgerChange, key bool) (all []Handover) {
	e := &c.Entry
	receipts := e.Receipts()
	for i := len(receipts) - 1; i >= 0; i-- {
		r := &receipts[i]
		if key && r.PrivateKey == verdict.KeyNone {
			continue
		}
		h := Handover{At: r.At, Recipients: r.Recipients, PrivateKey: r.PrivateKey, Payload: r.Payload, Files: r.Files, Target: e.Target, Definition: r.Definition,
			Event: e.Event, Relay: r.Relay, MessageID: r.MessageID, Proof: c.Proof}
		if h.At.IsZero() {
			h.At = e.Last
		}
		if cert := e.Certificate; cert != nil {
			h.Name, h.Serial, h.SHA256 = cert.Name(), cert.Serial, cert.Fingerprint
		}
		if i == 0 {
			h.NotShown = e.EarlierDropped
		}
		all = append(all, h)
	}
	return all
}
