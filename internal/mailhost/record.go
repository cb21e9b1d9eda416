package mailhost

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/verdict"
)

// Event is what a deployment is made for.
type Event struct {
	ID          string
	Publication verdict.Publication
	// Force says that an operator wants this certificate, whatever was deployed before.
	Force bool
}

// record says which certificate the files have, and how it got there. It is the journal of the last
// deployment, which gets this name in one rename: there is no moment at which the files are replaced
// for good and the record is still the former one.
type record struct {
	// Event is the newest event that was deployed here, and Publication its place.
	Event       string              `json:"event,omitempty"`
	Publication verdict.Publication `json:"publication,omitzero"`
	// Leaf is the SHA-256 of the leaf that the files have, Replaced that of the one before; "" if there
	// was none.
	Leaf     string `json:"leaf,omitempty"`
	Replaced string `json:"replaced,omitempty"`
	// ByOrder says that an operator has put another certificate there than that of Event: by a
	// rollback, or by a forced replay of an older one.
	ByOrder bool `json:"by_order,omitempty"`
	// RolledBack are the leaves that rollbacks have taken away, the last one last.
	RolledBack []string `json:"rolled_back,omitempty"`
}

// says reports whether there is anything to keep.
func (r record) says() bool { return r.Publication.Known() || len(r.RolledBack) > 0 }

func (f *file) record() string { return f.path + ".certpost-deployed" }

// readRecord reads the record of the last deployment. One that may not be read is an error: what it says
// would be overruled.
func (t *transaction) readRecord() (err error) {
	t.last, err = t.files[0].readRecord()
	if errors.Is(err, errNoRecord) {
		t.note("%s could not be understood and is written anew: which event's certificate was here is not known", t.files[0].record())
		return nil
	}
	if err != nil {
		return writeFailure(StepPaths, err)
	}
	return nil
}

// errNoRecord says that a file with the name of a record is none.
var errNoRecord = errors.New("it is no record of a deployment")

// readRecord returns the record beside the file of the leaf; the zero one if there is none.
func (f *file) readRecord() (r record, err error) {
	text, err := readFile(f.record())
	if errors.Is(err, fs.ErrNotExist) {
		return record{}, nil
	}
	if err != nil {
		return record{}, err
	}
	if json.Unmarshal(text, &r) != nil {
		return record{}, errNoRecord
	}
	return r, nil
}

// Older says that a deployment was not made, because the files have the certificate of an event that
// was published later, or one that an operator has put there since. Nothing was changed.
type Older struct{ Reason string }

func (o *Older) Error() string { return o.Reason }

// older returns why a certificate is not to replace the present one; nil if it may. The order is that of
// publication, and not of the certificates' dates: an operator may publish a certificate that
// was issued earlier.
func (r record) older(e Event) *Older {
	if e.Force || !e.Publication.Known() || !r.Publication.Known() {
		return nil
	}
	const advice = "to deploy this one all the same, publish it again, or replay its dead letter with force, if that is still open"
	switch {
	case e.Publication.Before(r.Publication):
		return &Older{fmt.Sprintf("the certificate of event %s, which was published later%s, is deployed here already, and an older one does not replace it; %s",
			legible.Clean(r.Event, 100), publishedAt(r.Publication), advice)}
	case r.ByOrder && !r.Publication.Before(e.Publication):
		return &Older{"an operator has put another certificate here since this event was deployed, by a rollback or a replay with force; " + advice}
	}
	return nil
}

func publishedAt(p verdict.Publication) string {
	if p.At.IsZero() {
		return ""
	}
	return " (" + legible.Moment(p.At) + ")"
}

// inOrder is older for the transaction. For a rollback it says whether the files still have the
// certificate that it is to take away.
func (t *transaction) inOrder() error {
	if t.rollback {
		return t.files[0].has(t.former, t.taking)
	}
	if o := t.last.older(t.Event); o != nil { // not a nil *Older in an error
		return o
	}
	return nil
}

// next is the record of the deployment, once it has succeeded.
func (t *transaction) next() record {
	r, e := t.last, t.Event
	r.Leaf, r.Replaced = leafDigest(t.want.leaf), leafDigest(t.former)
	switch {
	case t.rollback:
		r.ByOrder = true
		if !r.Publication.Known() || r.Publication.Before(e.Publication) { // of a version that kept no record
			r.Event, r.Publication = e.ID, e.Publication
		}
	case e.Publication.Known() && !e.Publication.Before(r.Publication):
		r.Event, r.Publication, r.ByOrder = e.ID, e.Publication, false
	default:
		r.ByOrder = true
	}
	gone := slices.DeleteFunc(slices.Clone(r.RolledBack), func(leaf string) bool { return leaf == r.Leaf || leaf == r.Replaced })
	if t.rollback && r.Replaced != "" {
		gone = append(gone, r.Replaced)
	}
	// Each rollback makes a backup of what it takes away: there are no backups of those before.
	r.RolledBack = gone[max(0, len(gone)-t.d.BackupRetention):]
	return r
}

// remember writes that the files have the certificate of a newer event, although none was replaced.
func (t *transaction) remember() {
	if !t.Event.Publication.Known() || !t.last.Publication.Before(t.Event.Publication) && t.last.Publication.Known() {
		return
	}
	r, first := t.next(), t.files[0]
	r.Replaced = t.last.Replaced
	err := writeJSON(first.new(), journal{record: r})
	if err == nil {
		err = os.Rename(first.new(), first.record())
	}
	if err = errors.Join(err, t.sync()); err != nil {
		t.note("the event could not be recorded beside %s, and an older one may be deployed after it: %v", first.path, explain(err))
		_ = remove(first.new())
	}
}

func leafDigest(leaf *x509.Certificate) string {
	if leaf == nil {
		return ""
	}
	return digestOf(leaf.Raw)
}
