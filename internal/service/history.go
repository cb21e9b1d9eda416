package service

import (
	"context"

	"github.com/certpost/certpost/internal/desk"
)

// HistoryAnswer is a page of the audit, newest first.
type HistoryAnswer struct {
	Records []desk.Record `json:"records"`
	Next    uint64        `json:"next,omitempty"`
	// Unsearched is the oldest record that was searched, if older ones may match; 0: all
	// were searched.
	Unsearched uint64 `json:"not_searched_before,omitempty"`
}

func (c *API) history(ctx context.Context, r ListRequest) (HistoryAnswer, error) {
	q, err := desk.HistoryConditions.ParseFilter(r.Filter, listKeys...)
	if err == nil {
		err = c.current(ctx)
	}
	if err != nil {
		return HistoryAnswer{}, err
	}
	records, next := c.desk.History(q, r.After, min(r.Size, MaxPage))
	a := HistoryAnswer{Records: []desk.Record{}, Next: next, Unsearched: c.desk.Unsearched(q)}
	for _, record := range records {
		record.Body = nil // the event of a discarded letter; audit export prints it
		a.Records = append(a.Records, record)
	}
	return a, nil
}
