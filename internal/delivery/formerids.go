package delivery

import (
	"fmt"
	"slices"
)

// A target that was renamed has its ids of before in former_ids. What names such an id means the
// target: events (Resolve) and replays of letters (package desk). What the ledger has under it is the
// target's own past (package queue). A delivery that waits under a former id is not moved: its next
// attempt ends as a dead letter, whose replay goes to the target (docs/decisions/0114).

// idTable has the first target of a list that has, or had, an id.
type idTable struct {
	ids    map[string]int
	former map[string]formerID
}

// formerID is the place of a former id: target and position in its former_ids.
type formerID struct{ target, position int }

func newIDTable(targets [][]relayOption) idTable {
	t := idTable{make(map[string]int, len(targets)), map[string]formerID{}}
	for i, options := range targets {
		if _, taken := t.ids[options[0].ID]; !taken {
			t.ids[options[0].ID] = i
		}
		for j, id := range options[0].FormerIDs {
			if _, taken := t.former[id]; !taken {
				t.former[id] = formerID{i, j}
			}
		}
	}
	return t
}

// check adds the problems of the ids of the target at an index; called names the target at another one.
func (t idTable) check(v *validation, i int, target *Target, called func(int) string) {
	if first := t.ids[target.ID]; first != i && target.ID != "" {
		v.err("id", "%s is already the id of %s: every target needs its own", target.ID, called(first))
	}
	for j, id := range target.FormerIDs {
		at := fmt.Sprintf("former_ids[%d]", j)
		present, isPresent := t.ids[id]
		switch first := t.former[id]; {
		case !targetID.MatchString(id):
			v.err(at, "want 1 to 64 characters of A-Z, a-z, 0-9, _ and -")
		case id == target.ID:
			v.err(at, "%s is the id that the target has now: want one that it had before", id)
		case isPresent:
			v.err(at, "%s is the id of %s: a former id must be of no target now", id, called(present))
		case first.target == i && first.position != j:
			v.err(at, "%s is given twice", id)
		case first.target != i:
			v.err(at, "%s is already a former id of %s: it can lead to one target only", id, called(first.target))
		}
	}
}

// current returns the id of the target that had an id before; the id itself if none had.
func (d *Definitions) current(id string) string {
	if t, known := d.byFormerID[id]; known {
		return t.ID
	}
	return id
}

// Find returns the target that has an id, or had it before: then its ID is another one.
func (d *Definitions) Find(id string) (*Target, bool) { return d.Get(d.current(id)) }

// CurrentID returns the id of the target that had an id before; the id itself if none had.
func (b *Book) CurrentID(id string) string { return b.Current().current(id) }

// FormerIDs returns the ids that a target had before.
func (c *Courier) FormerIDs(target string) []string {
	t, known := c.book.Current().Get(target)
	if !known {
		return nil
	}
	return slices.Clone(t.FormerIDs)
}
