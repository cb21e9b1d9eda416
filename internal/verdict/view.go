package verdict

import (
	"fmt"
	"strings"
)

// Status is the severity of a finding.
type Status string

// The severities.
const (
	OK      Status = "ok"
	Warning Status = "warning" // a delivery would succeed, but an operator should look
	Error   Status = "error"   // a delivery would fail
	// NotTried is what a delivery depends on, and was not looked at.
	NotTried Status = "not-tried"
)

// Finding is the result of one check of one part. It may be stored and shown.
type Finding struct {
	What    string `json:"what"` // target, secret, relay, certificate, key, ...
	Status  Status `json:"status"`
	Message string `json:"message"`
}

// TargetView is a target's definition as it may be shown: it contains references to
// secrets, never their values.
type TargetView struct {
	ID string `json:"id"`
	// FormerIDs are the ids that it had before; letters for them are replayed to it.
	FormerIDs []string `json:"former_ids,omitempty"`
	Type      string   `json:"type"`
	Disabled  bool     `json:"disabled,omitempty"`
	Lane      string   `json:"lane"`
	Relays    []string `json:"relays"` // host:port, in the order in which they are tried
	// Host is the mail host of a target of type postfix, dovecot or file; such a target has no
	// relays.
	Host    string `json:"host,omitempty"`
	Payload string `json:"payload"`
	// Version is the version of the definition: eight hexadecimal digits, equal for
	// equal settings.
	Version string   `json:"version"`
	To      []string `json:"to,omitempty"` // all recipients, BCC included
	// Rows are all settings, in the order of the manual, defaults included.
	Rows []TargetRow `json:"rows"`
	// Where is the place of the definition, "file:line".
	Where string `json:"where,omitempty"`
	// Warnings are the warnings about this definition.
	Warnings []string `json:"warnings,omitempty"`
}

// TargetRow is one setting of a target.
type TargetRow struct {
	Key     string `json:"key"`
	Value   string `json:"value"`
	Default bool   `json:"default,omitempty"` // the definition does not set the key
}

// RelayView is one relay as the definitions describe it.
type RelayView struct {
	Relay    string `json:"relay"` // host:port
	Lane     string `json:"lane"`  // "" for a relay that is only a fallback
	Targets  int    `json:"targets"`
	Fallback int    `json:"fallback_of"` // the number of targets with this relay as a fallback

	MaxConnections           int  `json:"max_connections,omitempty"`
	MaxMessagesPerConnection int  `json:"max_messages_per_connection,omitempty"`
	MaxMessageRate           Rate `json:"max_message_rate,omitzero"`
}

// Limits are the configured limits of the relay in words, "14/s, 5 connections, 20 mails per
// connection"; "" without limits.
func (r RelayView) Limits() string {
	var parts []string
	if !r.MaxMessageRate.IsZero() {
		parts = append(parts, r.MaxMessageRate.String())
	}
	for _, limit := range []struct {
		n         int
		one, many string
	}{{r.MaxConnections, "1 connection", "%d connections"}, {r.MaxMessagesPerConnection, "1 mail per connection", "%d mails per connection"}} {
		switch {
		case limit.n == 1:
			parts = append(parts, limit.one)
		case limit.n > 1:
			parts = append(parts, fmt.Sprintf(limit.many, limit.n))
		}
	}
	return strings.Join(parts, ", ")
}
