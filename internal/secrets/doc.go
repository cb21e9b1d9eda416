// Package secrets resolves references to secrets and keeps their values from
// being printed by accident. It says what happened (not found, denied,
// unavailable) and never what to do about it.
//
// Value is a secret in memory, Ref names one, Store resolves references: from
// Vault, the environment, files, systemd's credentials or the configuration
// itself. Policy says which references an event may name.
package secrets
