package service

import (
	"context"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/desk"
)

type HistoryRequest struct {
	Action broker.Action `json:"action,omitempty"`
	Who    string        `json:"who,omitempty"`
	Target string        `json:"target,omitempty"`
	Lane   string        `json:"lane,omitempty"`
	Event  string        `json:"event,omitempty"`
	Letter uint64        `json:"letter,omitempty"`
	Run    string        `json:"run,omitempty"`
	From   time.Time     `json:"from,omitzero"`
	To     time.Time     `json:"to,omitzero"`
	After  uint64        `json:"after,omitempty"`
	Size   int           `json:"size,omitempty"`
}

func NewHistoryRequest(q desk.HistoryQuery) HistoryRequest {
	return HistoryRequest{Action: q.Action, Who: q.By, Target: q.Target, Lane: q.Lane, Event: q.Event, Letter: q.Letter, Run: q.Run, From: q.From, To: q.To}
}

func (r HistoryRequest) query() desk.HistoryQuery {
	return desk.HistoryQuery{Action: r.Action, By: r.Who, Target: r.Target, Lane: r.Lane, Event: r.Event, Letter: r.Letter, Run: r.Run, From: r.From, To: r.To}
}

type HistoryAnswer struct {
	Records []NumberedRecord `json:"records"`
	Next    uint64           `json:"next,omitempty"`
	// Unsearched is the oldest record that was searched, where older ones may fit; 0:
	// all were.
	Unsearched uint64 `json:"not_searched_before,omitempty"`
}

// NumberedRecord is a record with its place in CERTPOST_AUDIT.
type NumberedRecord struct {
	Sequence uint64 `json:"sequence"`
	Hash     string `json:"sha256"` // over the stored bytes
	broker.AuditRecord
}

func (c *API) history(ctx context.Context, r HistoryRequest) (HistoryAnswer, error) {
	if err := c.current(ctx); err != nil {
		return HistoryAnswer{}, err
	}
	q := r.query()
	records, next := c.desk.History(q, r.After, min(r.Size, MaxPage))
	a := HistoryAnswer{Records: []NumberedRecord{}, Next: next, Unsearched: c.desk.Unsearched(q)}
	for _, record := range records {
		record.Body = nil // the event of a discarded letter: audit export has it
		a.Records = append(a.Records, NumberedRecord{record.Sequence, record.Hash, record})
	}
	return a, nil
}
