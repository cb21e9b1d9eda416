package broker

// The named points of an action on a dead letter.
const (
	PointIntended    = "intended"    // the intent is recorded
	PointRepublished = "republished" // a replay, or a restored letter, is published
	PointConcluded   = "concluded"   // the outcome is recorded, the letter not removed
	PointGivenUp     = "given up"    // the ledger has the discard, the letter is not removed
)

// reached tells a test which point an action has reached.
func (b *Broker) reached(point string) {
	if b.cfg.Reached != nil {
		b.cfg.Reached(point)
	}
}
