package dashboard

import (
	"cmp"
	"encoding/json"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/verdict"
)

const lettersPath = "/dead-letters"

// lettersView is the list of open letters, or of their groups.
type lettersView struct {
	Query   desk.Query
	Chips   []desk.Chip
	Path    string
	Fields  formFields
	List    []desk.Letter
	Groups  []groupView // instead of the list
	Grouped bool
	View    string // the value of ?view=
	Total   int
	Beyond  int    // open letters that are too old for the index
	Lag     string // why letters may be missing
	Pager   pager
	Moment  sorting
	Expires sorting
	News    news
	Here    string // the address of this page of the list, to which an action returns
	Choose  string // the action that was requested with no letter selected
	Undo    undo
	// Discarded says that the list is of discarded letters; Uncounted is how many of the
	// overview's discarded letters it does not have: they are restored, or their records expired.
	Discarded bool
	Uncounted int
	// AsList and AsGroups lead to the other view of the same query. All leads to the
	// confirmation of an action on everything that matches; the action is appended.
	AsList, AsGroups, All string
	Commands              []command
}

// undo offers to restore what was just discarded.
type undo struct {
	Act   string
	Count int // of its letters, those that are still discarded; 0: none
}

// sorting is the heading of a column that can be sorted.
type sorting struct {
	Label   string
	Address string
	Sort    string // the value of aria-sort, "" when the list is sorted by another column
}

// pager holds the addresses of the first and the next page of a list.
type pager struct{ First, Next string }

// news counts what arrived since the page was rendered; it is shown only on request.
type news struct {
	Since   uint64
	Query   string // of the address, with Since in it
	Count   int
	Address string // shows the new letters
}

// query reads the filter of the letters from the address.
func (r *request) query() (desk.Query, error) {
	return desk.LetterConditions.Parse(r.URL.Query(), listKeys...)
}

func (p *pages) letters(r *request) (view, error) {
	q, err := r.query()
	if err != nil {
		return view{}, err
	}
	if r.FormValue("view") == "groups" {
		v, groups := p.lettersOf(r, q, 1), p.desk.Groups(q)
		v.Grouped, v.View, v.Commands = true, "groups", listing("groups", q)
		for _, g := range groups {
			one := newGroupView(g)
			if v.Discarded {
				one.Address = address(lettersPath, with(q.Values(), "group", g.Fingerprint))
				one.Confirm = lettersPath + "/confirm?all=yes&state=discarded&group=" + url.QueryEscape(g.Fingerprint) + "&action="
				one.Discarded = true
			}
			v.Groups = append(v.Groups, one)
		}
		return view{template: "letters", title: plural(v.Total, v.What()) + " by cause", data: v, renews: v.Lag != "", hasRows: len(groups) > 0, object: groups, table: exported(desk.GroupTable, slices.Values(groups))}, nil
	}
	v := p.lettersOf(r, q, pageSize(r))
	if act := r.FormValue(undoKey); act != "" && desk.CheckAct(act) == nil {
		v.Undo = undo{act, p.desk.Letters(desk.Query{State: desk.Discarded, Act: act}, desk.Page{Size: 1}).Total}
	}
	if all := desk.LetterConditions.Values(q); v.Discarded && len(all) == 1 {
		v.Uncounted = max(0, p.desk.Balance().Ended[desk.Discarded]-v.Total-v.Beyond)
	}
	return view{template: "letters", title: plural(v.Total, v.What()), data: v, renews: v.Lag != "", hasRows: len(v.List) > 0, table: exported(desk.LetterTable, p.desk.Each(q))}, nil
}

// lettersOf returns one page of the letters that match a query.
func (p *pages) lettersOf(r *request, q desk.Query, size int) lettersView {
	list := p.desk.Letters(q, desk.Page{After: r.after(), Size: size})
	values := q.Values()
	v := lettersView{
		Query: q, Chips: q.Chips(), Path: lettersPath, List: list.Letters, Total: list.Total, Beyond: list.Beyond, Lag: p.desk.Lag(), Fields: p.letterFields(q),
		AsList: address(lettersPath, values), AsGroups: address(lettersPath, with(values, "view", "groups")),
		All:      address(lettersPath+"/confirm", with(with(values, "all", "yes"), "as_of", numberOrNone(list.AsOf))) + "&action=",
		News:     news{Since: list.AsOf, Query: with(values, newerThan, strconv.FormatUint(list.AsOf, 10)).Encode()},
		Commands: listing("list", q),
	}
	if list.Next != 0 {
		v.Pager.Next = r.with("after", strconv.FormatUint(list.Next, 10))
	}
	if r.after() != 0 {
		v.Pager.First = r.with("after", "")
	}
	v.Discarded = q.State == desk.Discarded
	if v.Discarded {
		v.News.Query = "" // they do not arrive
	}
	v.Moment, v.Expires = sortings(r, q)
	v.Here = r.here()
	if action := r.FormValue(chooseKey); orders[action].Verb != "" {
		v.Choose = action
	}
	return v
}

// What is the noun for the letters of the list.
func (v lettersView) What() string {
	if v.Discarded {
		return "discarded letter"
	}
	return "dead letter"
}

func with(values url.Values, key, value string) url.Values {
	more := url.Values{}
	for k, v := range values {
		more[k] = v
	}
	more.Set(key, value)
	return more
}

// sortings returns the sortable columns. The column by which the list is sorted links to the
// reverse order, if there is one.
func sortings(r *request, q desk.Query) (moment, expires sorting) {
	at := q.Order
	if at == "" {
		at = desk.Newest
	}
	to := func(o desk.Order) string {
		query := r.URL.Query()
		query.Del("after")
		query.Set("order", string(o))
		return address(r.URL.Path, lasting(query))
	}
	moment = sorting{"When", to(desk.Newest), ""}
	expires = sorting{"Certificate expires", to(desk.Expiry), ""}
	switch at {
	case desk.Newest:
		moment.Address, moment.Sort = to(desk.Oldest), "descending"
	case desk.Oldest:
		moment.Sort = "ascending"
	case desk.Expiry:
		expires.Sort = "ascending"
	}
	return moment, expires
}

// pageSize is the requested size if it is between 1 and 500, else 50.
func pageSize(r *request) int {
	size, _ := strconv.Atoi(r.FormValue("size"))
	if size < 1 || size > 500 {
		return 50
	}
	return size
}

// letterFields returns the fields of the filter form; they suggest values of open letters.
func (p *pages) letterFields(q desk.Query) formFields {
	options := map[string][]string{}
	for _, g := range p.desk.Groups(desk.Query{}) {
		options["code"] = append(options["code"], string(g.Code))
		options["phase"] = append(options["phase"], string(g.Phase))
	}
	options["code"], options["phase"], options["target"] = once(options["code"]), once(options["phase"]), p.targetIDs()
	return filterFields(desk.LetterConditions.All(), q.Values(), options)
}

// targetIDs returns the ids of all targets, sorted.
func (p *pages) targetIDs() (ids []string) {
	for _, t := range p.desk.Targets() {
		ids = append(ids, t.ID)
	}
	return once(ids)
}

func once[T ~string](all []T) []T {
	slices.Sort(all)
	return slices.Compact(all)
}

// newerThan is the key for the number of the newest letter or record on a page, in the
// address that counts newer ones.
const newerThan = "newer_than"

// news counts the letters that are newer than the list on the page.
func (p *pages) news(r *request) (view, error) {
	q, err := r.query()
	if err != nil {
		return view{}, err
	}
	since, err := strconv.ParseUint(r.FormValue(newerThan), 10, 64)
	if err != nil {
		return view{}, wrongf("Invalid %s: use the number of a letter", newerThan)
	}
	q.AsOf = 0
	now := p.desk.Letters(q, desk.Page{Size: 1}).Total
	q.AsOf = since
	before := 0
	if since > 0 { // 0 would mean no bound
		before = p.desk.Letters(q, desk.Page{Size: 1}).Total
	}
	q.AsOf = 0
	v := news{Since: since, Count: max(0, now-before), Query: with(q.Values(), newerThan, strconv.FormatUint(since, 10)).Encode(), Address: address(lettersPath, q.Values())}
	return view{template: "news", title: "New dead letters", data: v, fragment: true, object: map[string]int{"new": v.Count}}, nil
}

// groupView is a group with the addresses of its page and of the actions on it.
type groupView struct {
	desk.Group
	Address string
	Confirm string // the action is appended
	// The lists of what the marks count; Discarded says that the group is of discarded letters.
	Uncertain, Held, Superseded counted
	Discarded                   bool
}

// counted is a number with the address of the list that it counts.
type counted struct {
	Count   int
	Address string
}

func newGroupView(g desk.Group) groupView {
	list := func(n int, q desk.Query) counted {
		q.Fingerprint = g.Fingerprint
		return counted{n, address(lettersPath, q.Values())}
	}
	yes := true
	return groupView{Group: g, Address: lettersPath + "/groups/" + url.PathEscape(g.Fingerprint),
		Confirm:    lettersPath + "/confirm?all=yes&group=" + url.QueryEscape(g.Fingerprint) + "&action=",
		Uncertain:  list(g.Uncertain, desk.Query{Certainty: verdict.MaybeSent}),
		Held:       list(g.Held, desk.Query{Held: &yes}),
		Superseded: list(g.Superseded, desk.Query{Superseded: &yes})}
}

// groupPage is a group with its letters.
type groupPage struct {
	Group    groupView
	Letters  lettersView
	Commands []command // that change who works on it
	// Of a form that was refused: why, and what it had.
	Fault          string
	Assignee       string
	Ticket, Note   string
	HandlingStated uint64 // the revision that the form shows
}

func (p *pages) group(r *request) (view, error) { return p.groupWith(r, nil) }

// groupWith is the group's page after change was applied to it; change may be nil.
func (p *pages) groupWith(r *request, change func(*groupPage)) (view, error) {
	q, err := r.query()
	if err != nil {
		return view{}, err
	}
	q.Fingerprint = r.PathValue("fingerprint")
	groups := p.desk.Groups(desk.Query{Fingerprint: q.Fingerprint})
	if len(groups) == 0 {
		return view{}, desk.ErrNotFound
	}
	v := groupPage{Group: newGroupView(groups[0]), Letters: p.lettersOf(r, q, pageSize(r)), Commands: handlingCommands(q.Fingerprint)}
	if h := groups[0].Handling; h != nil {
		v.Assignee, v.Ticket, v.HandlingStated = h.Assignee, h.Ticket, h.Revision
	}
	if change != nil {
		change(&v)
	}
	rest := q
	rest.Fingerprint = ""
	v.Letters.Chips, v.Letters.Path = rest.Chips(), r.URL.Path
	return view{template: "group", title: plural(v.Letters.Total, "dead letter") + ": " + groups[0].Title(), data: v, object: groups[0], table: exported(desk.LetterTable, p.desk.Each(q))}, nil
}

// listing returns the shell commands that print the same list.
func listing(what string, q desk.Query) []command {
	if what == "list" {
		q.Order = cmp.Or(q.Order, desk.Newest) // the command's default is the reverse
	}
	body, _ := json.Marshal(map[string]any{"filter": desk.LetterConditions.Filter(q)}) // strings can always be marshalled
	return []command{{"certpost", shellLine(append([]string{"certpost", "dead-letters", what}, desk.LetterConditions.Flags(q)...)...)},
		{"nats", shellLine("nats", "req", "certpost.dead."+what, string(body))}}
}

// stamp formats a time in RFC 3339, UTC, for CSV and JSON; "" for the zero time.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}
