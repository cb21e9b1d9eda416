// Package secrets (being written).
package secrets
