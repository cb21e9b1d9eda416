package queue

// The named points of an event's life, in its order. Tests end the process at
// each of them (Settings.Reached); every durable write stands between two.
const (
	pointFetched       = "fetched"        // an event was fetched
	pointPublished     = "published"      // its deliveries are stored, it is not acknowledged
	pointDue           = "due"            // a delivery is about to be tried
	pointClaiming      = "claiming"       // the envelope is taken, the claim not written
	pointClaimed       = "claimed"        // the claim is written, no content sent
	pointAccepted      = "accepted"       // the relay took the mail, the ledger does not know
	pointRecorded      = "recorded"       // the ledger knows, the message is not acknowledged
	pointWaiting       = "waiting"        // a failure is recorded, the message not given back
	pointDeadLettering = "dead-lettering" // a dead letter is about to be published
	pointDeadLettered  = "dead-lettered"  // it is stored, the ledger does not know
	pointDead          = "dead"           // the ledger knows, the message is not acknowledged
	pointSettled       = "settled"        // the message is acknowledged
)

// reached tells a test how far an event or a delivery has come.
func (r *Runner) reached(point string) {
	if r.set.Reached != nil {
		r.set.Reached(point)
	}
}
