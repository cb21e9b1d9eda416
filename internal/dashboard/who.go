package dashboard

import (
	"context"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/certpost/certpost/internal/desk"
)

const whoPath = deliveriesPath + "/who"

// whoView is the page that answers who got the certificates of a name, and who the key.
type whoView struct {
	Name     string
	Key      bool
	List     []handoverRow
	Pager    pager
	Reading  bool // the index has not read all of the ledger yet
	Commands []command
}

// handoverRow is one mail with its delivery's page.
type handoverRow struct {
	desk.Handover
	Address string
}

// whoAddress returns the address of the page for a name.
func whoAddress(name string, key bool) string {
	q := url.Values{"name": {name}}
	if key {
		q.Set("key", "yes")
	}
	return whoPath + "?" + q.Encode()
}

func (p *pages) who(r *request) (view, error) {
	q := desk.WhoQuery{Name: r.URL.Query().Get("name"), Key: r.URL.Query().Get("key") == "yes"}
	since := r.URL.Query().Get("since")
	if since != "" {
		var err error
		if q.Since, err = desk.ParseSince(since, time.Now()); err != nil {
			return view{}, err
		}
	}
	v := whoView{Name: q.Name, Key: q.Key}
	if q.Name == "" { // the form alone
		return view{template: "who", title: "Who got a certificate", data: v}, nil
	}
	found, err := p.desk.Who(r.Context(), q, r.after(), pageSize(r))
	if err != nil {
		return view{}, err
	}
	v.Reading = found.Read < found.Of
	for _, h := range found.Handovers {
		v.List = append(v.List, handoverRow{h, deliveryAddress(h.Target, h.Event)})
	}
	if found.Next != 0 {
		v.Pager.Next = r.with("after", strconv.FormatUint(found.Next, 10))
	}
	if r.after() != 0 {
		v.Pager.First = r.with("after", "")
	}
	line := []string{"certpost", "deliveries", "who", "--name", q.Name}
	if q.Key {
		line = append(line, "--key")
	}
	if since != "" {
		line = append(line, "--since", since)
	}
	v.Commands = []command{{"certpost", shellLine(line...)}}
	return view{template: "who", title: "Who got " + q.Name, data: v, renews: v.Reading, table: exported(desk.WhoTable, p.eachHandover(r.Context(), q))}, nil
}

// eachHandover yields all mails that match. If the ledger cannot be read, the response is aborted,
// so that a client cannot mistake a part for the whole list.
func (p *pages) eachHandover(ctx context.Context, q desk.WhoQuery) iter.Seq[desk.Handover] {
	return func(yield func(desk.Handover) bool) {
		for after, more := uint64(0), true; more; {
			found, err := p.desk.Who(ctx, q, after, whole)
			if err != nil {
				p.log.Warn().Err(err).Msg("an export of deliveries was aborted: reading the ledger failed")
				panic(http.ErrAbortHandler)
			}
			for _, h := range found.Handovers {
				if !yield(h) {
					return
				}
			}
			after, more = found.Next, found.Next != 0
		}
	}
}
