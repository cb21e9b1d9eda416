package broker

// The named points of an event's life, in its order. Tests end the process at
// each of them (Settings.Reached); every durable write stands between two.
const (
	pointFetched   = "fetched"   // an event was fetched
	pointPublished = "published" // its deliveries are stored, it is not acknowledged
	pointDue       = "due"       // a delivery is about to be tried
	pointClaiming  = "claiming"  // the envelope is taken, the claim not written
	pointClaimed   = "claimed"   // the claim is written, no content sent
	pointAccepted  = "accepted"  // the relay took the mail, the ledger does not know
	pointRecorded  = "recorded"  // the ledger knows, the message is not acknowledged
	pointWaiting   = "waiting"   // a failure is recorded, the message not given back
	pointDying     = "dying"     // a dead letter is about to be published
	pointBuried    = "buried"    // it is stored, the ledger does not know
	pointDead      = "dead"      // the ledger knows, the message is not acknowledged
	pointSettled   = "settled"   // the message is acknowledged
)

// The named points of what people do to a dead letter.
const (
	pointIntended    = "intended"    // the intent is recorded
	pointRepublished = "republished" // a replay, or a restored letter, is published
	pointConcluded   = "concluded"   // the outcome is recorded, the letter not removed
	pointGivenUp     = "given up"    // the ledger knows of a discard, the letter is not removed
)

func (r *Runner) reached(point string) {
	if r.set.Reached != nil {
		r.set.Reached(point)
	}
}
