package desk

import (
	"slices"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/verdict"
)

// deliveries is the index of the ledger: what can be searched for, hashed, and the
// revision under which the entry itself can be read. Desk.mu guards it.
type deliveries struct {
	hash       hasher
	limit      int
	slots      []slot            // by revision; those without a state are empty
	peaks      []uint32          // the newest last of the slots up to the end of each block
	live       int               // slots that are not empty
	places     map[uint64]uint64 // key, hashed -> revision
	names      []uint32          // of all slots, one after the other
	book       nameBook
	targets    map[string]uint32 // their numbers
	results    []results         // by target's number
	states     [lastState + 1]int
	sent       hours
	throughput throughput
	lastSent   int64           // Unix seconds
	newest     map[uint64]fact // target, name and kind of key, hashed -> the newest certificate sent
	next       uint64          // revision to be read next
	last       uint64          // of the ledger, as far as known
	entries    uint64          // in the ledger, as far as known
	wasRead    bool            // all of the ledger has been read once
	dropped    int             // entries older than those kept
}

// slot is one entry.
type slot struct {
	revision                   uint64
	key, event, serial, finger uint64 // hashed; the key is target and event
	target                     uint32 // its number
	last                       uint32 // attempt, or the cancellation of one never tried, Unix seconds
	names                      uint32 // where they begin
	count                      uint8  // of names
	state                      uint8
	to                         uint8 // recipients, behind the names
}

// The states as a slot has them; 0 is empty.
const (
	slotWaiting = iota + 1
	slotSending
	slotSent
	slotDead
	slotDiscarded
	slotSkipped
	lastState = slotSkipped
)

func slotState(s broker.State) uint8 {
	switch s {
	case broker.StateSending:
		return slotSending
	case broker.StateSent:
		return slotSent
	case broker.StateDead:
		return slotDead
	case broker.StateDiscarded:
		return slotDiscarded
	case broker.StateSkipped:
		return slotSkipped
	}
	return slotWaiting
}

// fact is a certificate that a target was sent.
type fact struct {
	revision  uint64
	notBefore uint32 // Unix seconds
}

// results is what came of a target's deliveries.
type results struct {
	live, sent int
	last       int64 // sent, Unix seconds
	dead       int64 // became a dead letter, Unix seconds
}

func newDeliveries(hash hasher, limit int) *deliveries {
	return &deliveries{
		hash: hash, limit: limit, places: map[uint64]uint64{}, throughput: throughput{map[string]*minutes{}}, targets: map[string]uint32{}, newest: map[uint64]fact{},
		book: nameBook{hash: hash, ids: map[uint64]uint32{}, parents: []uint32{0}}, next: 1,
	}
}

// put takes in what the ledger says now. It returns the certificate that a target
// was sent, with the names for which it is the newest, if there are any.
func (x *deliveries) put(c *broker.LedgerChange) (f fact, pairs []uint64) {
	x.next, x.last = c.Revision+1, max(x.last, c.Revision)
	target, token, _ := strings.Cut(c.Key, ".")
	key := x.hash.of(target, token)
	x.drop(key)
	if c.Deleted || c.Unreadable {
		return f, nil
	}
	e := &c.Entry
	s := slot{
		revision: c.Revision, key: key, target: x.target(target), event: x.hash.of(token),
		last: seconds(e.LastAct()), state: slotState(e.State), names: uint32(len(x.names)),
	}
	cert := e.Certificate
	if cert != nil {
		s.serial, s.finger = x.hash.of(hexDigits(cert.Serial)), x.hash.of(hexDigits(cert.Fingerprint))
		for _, name := range namesOf(cert) {
			x.names = append(x.names, x.book.id(name))
			s.count++
		}
	}
	for _, recipient := range recipientsOf(e) {
		x.names = append(x.names, x.book.exact(recipient))
		s.to++
	}
	x.slots = append(x.slots, s)
	x.notePeak(len(x.slots) - 1)
	x.places[key] = s.revision
	x.tally(&s, 1)
	if dead := lastDead(e); !dead.IsZero() {
		x.results[s.target].dead = max(x.results[s.target].dead, dead.Unix())
	}
	if s.state == slotSent && e.Cancel == nil {
		x.throughput.add(e.Lane, e.Last.Unix())
	}
	if s.state == slotSent && cert != nil {
		f = fact{s.revision, seconds(cert.NotBefore)}
		for _, name := range namesOf(cert) {
			pair := x.hash.of(target, name, cert.KeyType)
			if known, ok := x.newest[pair]; !ok || known.notBefore <= f.notBefore {
				x.newest[pair] = f
				pairs = append(pairs, pair)
			}
		}
	}
	if x.live > x.limit || len(x.slots) > 2*x.live+4096 {
		x.compact()
	}
	return f, pairs
}

// lastDead returns when a delivery became a dead letter last, as far as its entry says: earlier
// versions did not store it.
func lastDead(e *broker.Entry) time.Time {
	if e.LastDead.IsZero() && (e.State == broker.StateDead || e.State == broker.StateDiscarded) {
		return e.Last
	}
	return e.LastDead
}

// target is the number of a target.
func (x *deliveries) target(id string) uint32 {
	n, ok := x.targets[id]
	if !ok {
		n = uint32(len(x.results))
		x.targets[strings.Clone(id)] = n
		x.results = append(x.results, results{})
	}
	return n
}

// of is what came of a target's deliveries.
func (x *deliveries) of(id string) results {
	if n, ok := x.targets[id]; ok {
		return x.results[n]
	}
	return results{}
}

// namesOf are the names of a certificate, in lower case, each once.
func namesOf(c *verdict.Certificate) []string {
	var names []string
	for _, n := range append([]string{c.CommonName}, c.AllNames()...) {
		if n = strings.ToLower(n); n != "" && len(names) < maxNames && !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	return names
}

// recipientsOf are the recipients of a delivery that the ledger names, in lower case, each
// once: who has the mail, or may have it, who was refused, and who is still owed it. Before the first
// attempt the ledger names none.
func recipientsOf(e *broker.Entry) (all []string) {
	add := func(address string) {
		if address = strings.ToLower(address); address != "" && len(all) < maxRecipients && !slices.Contains(all, address) {
			all = append(all, address)
		}
	}
	for _, address := range slices.Concat(e.Accepted, e.Owed, e.MayHave) {
		add(address)
	}
	for _, r := range e.Refused {
		add(r.Recipient)
	}
	if e.Receipt != nil {
		for _, address := range e.Receipt.Recipients {
			add(address)
		}
	}
	return all
}

// maxRecipients are as many recipients as a target can have: to, cc and bcc of 50 each.
const maxRecipients = 150

// covers reports whether the certificate of a revision is for all these names, in lower
// case. One of which that is not known any more is not.
func (x *deliveries) covers(revision uint64, names []string) bool {
	i, known := x.find(revision)
	if !known {
		return false
	}
	s := &x.slots[i]
	have := x.names[s.names : s.names+uint32(s.count)]
	for _, name := range names {
		id, known := x.book.ids[x.hash.of(name)]
		if !known || !slices.Contains(have, id) {
			return false
		}
	}
	return true
}

// drop empties the slot of a key.
func (x *deliveries) drop(key uint64) {
	revision, ok := x.places[key]
	if !ok {
		return
	}
	delete(x.places, key)
	if i, found := x.find(revision); found && x.slots[i].key == key {
		x.tally(&x.slots[i], -1)
		x.slots[i].state = 0
	}
}

func (x *deliveries) find(revision uint64) (int, bool) {
	return slices.BinarySearchFunc(x.slots, revision, func(s slot, r uint64) int {
		switch {
		case s.revision < r:
			return -1
		case s.revision > r:
			return 1
		}
		return 0
	})
}

// tally adds a slot to the sums, or with -1 takes it out.
func (x *deliveries) tally(s *slot, by int) {
	x.live += by
	x.states[s.state] += by
	t := &x.results[s.target]
	t.live += by
	if s.state == slotSent {
		t.sent += by
		t.last, x.lastSent = max(t.last, int64(s.last)), max(x.lastSent, int64(s.last))
		x.sent.add(int64(s.last)*int64(time.Second), by)
	}
}

// compact removes empty slots, and the oldest of those beyond the limit, with some
// more so that it need not be done for each.
func (x *deliveries) compact() {
	if x.live > x.limit {
		for i := range x.slots {
			if x.live <= x.limit-x.limit/16 {
				break
			}
			if x.slots[i].state != 0 {
				delete(x.places, x.slots[i].key)
				x.tally(&x.slots[i], -1)
				x.slots[i].state = 0
				x.dropped++
			}
		}
	}
	slots := make([]slot, 0, x.live+x.live/4)
	names := make([]uint32, 0, len(x.names))
	for _, s := range x.slots {
		if s.state == 0 {
			continue
		}
		from := s.names
		s.names = uint32(len(names))
		names = append(names, x.names[from:from+uint32(s.count)+uint32(s.to)]...)
		slots = append(slots, s)
	}
	x.slots, x.names, x.peaks = slots, slices.Clip(names), nil
	for i := range x.slots {
		x.notePeak(i)
	}
}

// matcher makes a query ready for many slots.
func (x *deliveries) matcher(q DeliveryQuery) func(*slot) bool {
	tests := DeliveryConditions.tests(&q)
	return func(s *slot) bool { return passes(tests, indexed{x, s}) }
}

// nameBook numbers names without keeping them: each knows the number of the name
// that is left without its first label, so what ends alike can be found.
type nameBook struct {
	hash    hasher
	ids     map[uint64]uint32
	parents []uint32 // by id; a parent's id is lower; 0 is no name
}

func (b *nameBook) id(name string) uint32 {
	if name == "" {
		return 0
	}
	key := b.hash.of(name)
	if id, ok := b.ids[key]; ok {
		return id
	}
	_, rest, _ := strings.Cut(name, ".")
	parent := b.id(rest)
	id := uint32(len(b.parents))
	b.parents = append(b.parents, parent)
	b.ids[key] = id
	return id
}

// exact numbers a word that has no parts, such as an address; words and names never have
// the same number.
func (b *nameBook) exact(word string) uint32 {
	key := b.hash.of("\x00", word)
	if id, ok := b.ids[key]; ok {
		return id
	}
	id := uint32(len(b.parents))
	b.parents = append(b.parents, 0)
	b.ids[key] = id
	return id
}

// wanted tells the names that are meant by one: itself, or with *. in front all
// that end so.
func (b *nameBook) wanted(name string) func(id uint32) bool {
	suffix, below := strings.CutPrefix(name, "*.")
	wanted, ok := b.ids[b.hash.of(suffix)]
	if !ok {
		return func(uint32) bool { return false }
	}
	if !below {
		return func(id uint32) bool { return id == wanted }
	}
	under := make([]bool, len(b.parents))
	for id := wanted + 1; int(id) < len(b.parents); id++ {
		parent := b.parents[id]
		under[id] = parent == wanted || under[parent]
	}
	return func(id uint32) bool { return under[id] }
}

// seconds is a time as a slot has it; what is before 1970 or after 2106 is cut.
func seconds(t time.Time) uint32 {
	return uint32(max(0, min(t.Unix(), 1<<32-1)))
}
