package delivery

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/config"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/smtp"
)

// PollInterval is the interval at which the program reads the definitions again.
const PollInterval = 2 * time.Second

// Change is the result of a change of the definitions' source.
type Change struct {
	// Added, Removed and Changed are the ids of targets, sorted. They are empty if
	// the old definitions stay in force, and if invalid ones became valid again and do
	// not differ from those in force.
	Added, Removed, Changed []string
	// Kept says that the new definitions are invalid and the old ones stay in force.
	Kept bool
	// Problems are the reasons, or warnings about the new definitions.
	Problems []config.Problem
}

// Watch puts new definitions into force when their source changes, until the
// context ends. Invalid ones are reported and the old ones stay in force; they also
// stay if the source is gone or defines nothing: only an empty list under the key
// targets removes all targets.
//
// It reads the content at every interval instead of using notifications of the
// system, because those do not report changes on NFS and most mounts in containers,
// and because editors and ConfigMaps replace the file, or a link above it, instead of
// writing to the watched file. To read a few small files every two seconds costs
// little. New content is used when two reads in a row return the same, so a file that
// is being written is not used half-written.
func (b *Book) Watch(ctx context.Context, interval time.Duration, report func(Change)) {
	if b.source.path() == "" {
		return
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	w := watcher{book: b}
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			if change := w.poll(); change != nil {
				report(*change)
			}
		}
	}
}

// watcher is the state of Watch between two reads.
type watcher struct {
	book *Book
	seen content // of the latest read
	used content // of the latest one that was parsed, valid or not
	bad  bool    // that content was invalid

	templates []file // those that it names
}

// content is what definitions and their templates have in them.
type content struct{ definitions, templates digest }

type digest = [sha256.Size]byte

// poll reads the source once; it returns nil if there is nothing to report.
func (w *watcher) poll() *Change {
	snap := w.book.source.read()
	for i, f := range w.templates {
		w.templates[i] = readFile(f.path)
	}
	now := content{snap.digest(), digestOf(nil, w.templates)}
	settled := now == w.seen
	w.seen = now
	if !settled || now == w.used {
		return nil
	}
	read := w.book.source.parse(snap)
	w.templates = read.templates
	w.used = content{now.definitions, digestOf(nil, w.templates)} // as they were parsed
	w.seen = w.used
	return w.use(read)
}

func (w *watcher) use(r reading) *Change {
	old := w.book.Current()
	if r.definitions != nil && len(r.definitions.targets) == 0 && len(old.targets) > 0 && !r.explicit {
		r.definitions = nil
		r.problems = append(r.problems, config.Problem{
			File: w.book.source.path(), Message: w.book.source.noTargets() + " any more; to remove all targets, write an empty list (targets: [])",
		})
	}
	if r.definitions == nil {
		w.bad = true
		return &Change{Kept: true, Problems: r.problems}
	}
	recovered := w.bad
	w.bad = false
	change := difference(old, r.definitions)
	if change.empty() && !recovered {
		return nil
	}
	change.Problems = r.problems
	w.book.current.Store(r.definitions)
	return &change
}

func (c Change) empty() bool { return len(c.Added)+len(c.Removed)+len(c.Changed) == 0 }

// String is one line for a log: "targets: 1 added (a), 2 changed (b, c)".
func (c Change) String() string {
	if c.Kept {
		return "the new targets are invalid: the old ones stay in force"
	}
	var parts []string
	for _, p := range []struct {
		what string
		ids  []string
	}{{"added", c.Added}, {"removed", c.Removed}, {"changed", c.Changed}} {
		if len(p.ids) > 0 {
			parts = append(parts, fmt.Sprintf("%d %s (%s)", len(p.ids), p.what, strings.Join(p.ids, ", ")))
		}
	}
	if len(parts) == 0 {
		return "targets: valid again, nothing changed"
	}
	return "targets: " + strings.Join(parts, ", ")
}

func difference(old, now *Definitions) Change {
	var c Change
	for id := range now.byID {
		_, known := old.byID[id]
		switch {
		case !known:
			c.Added = append(c.Added, id)
		case !sameRelays(old, now, id):
			c.Changed = append(c.Changed, id)
		}
	}
	for id := range old.byID {
		if _, still := now.byID[id]; !still {
			c.Removed = append(c.Removed, id)
		}
	}
	slices.Sort(c.Added)
	slices.Sort(c.Removed)
	slices.Sort(c.Changed)
	return c
}

// sameRelays compares the relays of one target, and with them the target itself.
func sameRelays(old, now *Definitions, id string) bool {
	return slices.EqualFunc(old.relays[id], now.relays[id], func(a, b *Target) bool {
		name := smtp.RelayName(a.Host, a.Port)
		return same(*a, *b) && old.limits[name] == now.limits[name]
	})
}

// same compares two definitions of one target for one of its relays. Secrets in the
// definitions are behind functions, which reflection cannot compare.
func same(a, b Target) bool {
	a.Fallback, b.Fallback, a.given, b.given = nil, nil, nil, nil // fallbacks are compared as relays
	if a.words.or(nil).digest != b.words.or(nil).digest {
		return false
	}
	a.words, b.words = nil, nil
	if !maps.EqualFunc(a.RecipientKeys, b.RecipientKeys, sameRef) {
		return false
	}
	a.RecipientKeys, b.RecipientKeys = nil, nil
	mine, theirs := a.refs(), b.refs()
	for i := range mine {
		if !sameRef(*mine[i], *theirs[i]) {
			return false
		}
		*mine[i], *theirs[i] = secrets.Ref{}, secrets.Ref{}
	}
	return reflect.DeepEqual(a, b)
}

func sameRef(a, b secrets.Ref) bool {
	equal := a.Value.Equal(b.Value)
	a.Value, b.Value = secrets.Value{}, secrets.Value{}
	return equal && reflect.DeepEqual(a, b)
}

// refs are the target's own secrets. The keys of recipients are public.
func (t *Target) refs() []*secrets.Ref {
	return append([]*secrets.Ref{&t.Username.Ref, &t.Password, &t.OAuth2.ClientSecret}, t.mailRefs()...)
}

// mailRefs are those of them that making the mail needs, whatever the relay.
func (t *Target) mailRefs() []*secrets.Ref {
	return []*secrets.Ref{&t.PKCS12Passphrase.Ref, &t.KeystorePassword.Ref, &t.PrivateKeyPassphrase, &t.Sign.SMIME.Certificate, &t.Sign.SMIME.PrivateKey, &t.DKIM.PrivateKey}
}
