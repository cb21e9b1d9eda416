package mailhost

// The named points of a deployment, in order. Tests kill the process at each of them
// (Deployer.Reached); every durable change is between two of them. Those of one file are
// reached once for each file.
const (
	pointLocked     = "locked"      // the directories are locked, nothing is written
	pointCreated    = "created"     // F.certpost-new exists with its mode and owner, empty
	pointWritten    = "written"     // it has its content
	pointLinked     = "linked"      // F.certpost-old exists
	pointValidated  = "validated"   // validate_command has succeeded
	pointJournalled = "journalled"  // the journal is on disk, nothing is replaced
	pointRenamed    = "renamed"     // F.certpost-new became F
	pointReplaced   = "replaced"    // all files are replaced and on disk
	pointReloaded   = "reloaded"    // reload_command has succeeded
	pointVerified   = "verified"    // the program serves the certificate
	pointCommitted  = "committed"   // the journal is gone
	pointBackedUp   = "backed-up"   // F.certpost-old became a backup
	pointRestoring  = "restoring"   // a rollback begins
	pointRestored   = "restored"    // F is the former file again
	pointRolledBack = "rolled-back" // all files are, and the program is reloaded; the journal is still there
)
