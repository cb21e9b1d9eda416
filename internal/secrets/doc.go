// Package secrets resolves references to secrets and keeps their values from being
// printed by accident. Its errors say what happened (not found, denied, unavailable);
// the caller decides what follows.
//
// Value is a secret in memory. Ref is a reference to a secret. Store resolves
// references from Vault, the environment, files, systemd's credentials and the
// configuration itself. Policy says which references an event may name.
package secrets
