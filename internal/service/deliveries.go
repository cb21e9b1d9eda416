package service

import (
	"context"
	"fmt"
	"time"

	"github.com/certpost/certpost/internal/desk"
)

// deliveries waits until the index has read the whole ledger, which takes some seconds after
// the start when there are many entries: an incomplete list would be wrong.
func (c *API) deliveries(ctx context.Context, r ListRequest) (listing desk.DeliveryListing, err error) {
	q, err := desk.DeliveryConditions.ParseFilter(r.Filter, listKeys...)
	if err == nil {
		err = c.current(ctx)
	}
	if err != nil {
		return listing, err
	}
	late := Until(ctx, func() bool {
		listing, err = c.desk.Deliveries(ctx, q, r.After, min(r.Size, MaxPage))
		return err != nil || listing.Read >= listing.Of
	})
	if err == nil && late != nil {
		err = fmt.Errorf("the ledger is still being read, %d of %d entries: retry in a few seconds", listing.Read, listing.Of)
	}
	return listing, err
}

type DeliveryRequest struct {
	Target string `json:"target"`
	Event  string `json:"event"`
}

func (c *API) delivery(ctx context.Context, r DeliveryRequest) (desk.DeliveryDetail, error) {
	return c.desk.Delivery(ctx, r.Target, r.Event)
}

// WhoRequest asks who got the certificates of a name.
type WhoRequest struct {
	Name  string `json:"name"`
	Key   bool   `json:"key,omitempty"`
	Since string `json:"since,omitempty"` // a duration before now, or a time
	After uint64 `json:"after,omitempty"` // next of the page before
	Size  int    `json:"size,omitempty"`  // deliveries on the page
}

// who waits like deliveries until the index has read the whole ledger.
func (c *API) who(ctx context.Context, r WhoRequest) (listing desk.WhoListing, err error) {
	q := desk.WhoQuery{Name: r.Name, Key: r.Key}
	if r.Since != "" {
		if q.Since, err = desk.ParseSince(r.Since, time.Now()); err != nil {
			return listing, err
		}
	}
	if err := c.current(ctx); err != nil {
		return listing, err
	}
	late := Until(ctx, func() bool {
		listing, err = c.desk.Who(ctx, q, r.After, min(r.Size, MaxPage))
		return err != nil || listing.Read >= listing.Of
	})
	if err == nil && late != nil {
		err = fmt.Errorf("the ledger is still being read, %d of %d entries: retry in a few seconds", listing.Read, listing.Of)
	}
	return listing, err
}
