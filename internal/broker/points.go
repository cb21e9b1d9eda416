package broker

// The named points of what people do to a dead letter.
const (
	PointIntended    = "intended"    // the intent is recorded
	PointRepublished = "republished" // a replay, or a restored letter, is published
	PointConcluded   = "concluded"   // the outcome is recorded, the letter not removed
	PointGivenUp     = "given up"    // the ledger knows of a discard, the letter is not removed
)

// reached tells a test how far an action has come.
func (b *Broker) reached(point string) {
	if b.cfg.Reached != nil {
		b.cfg.Reached(point)
	}
}
