package queue

// The named points in the life of an event, in order. Tests kill the process at each
// of them (Settings.Reached); every durable write is between two of them.
const (
	pointFetched       = "fetched"        // an event was fetched
	pointPublished     = "published"      // its deliveries are stored, the event is not acknowledged
	pointDue           = "due"            // an attempt is about to begin
	pointClaiming      = "claiming"       // the relay accepted the envelope, the claim is not written
	pointClaimed       = "claimed"        // the claim is written, no content sent
	pointAccepted      = "accepted"       // the relay accepted the mail, the ledger does not say so
	pointRecorded      = "recorded"       // the ledger says sent, the message is not acknowledged
	pointWaiting       = "waiting"        // a failure is recorded, the message is not NAKed
	pointDeadLettering = "dead-lettering" // a dead letter is about to be published
	pointDeadLettered  = "dead-lettered"  // it is stored, the ledger does not say so
	pointDead          = "dead"           // the ledger says dead, the message is not acknowledged
	pointCancelled     = "cancelled"      // the ledger has the order to cancel the delivery, the audit has not
	pointWithdrawn     = "withdrawn"      // the audit has it, there is no dead letter
	pointSettled       = "settled"        // the message is acknowledged
)

// reached calls Settings.Reached, if set, at a named point.
func (r *Runner) reached(point string) {
	if r.set.Reached != nil {
		r.set.Reached(point)
	}
}
