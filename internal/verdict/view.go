package verdict

// Status grades a finding.
type Status string

// The grades.
const (
	OK      Status = "ok"
	Warning Status = "warning" // works, and somebody should look
	Error   Status = "error"   // a delivery would fail
)

// Finding is what one look at one part said. It may be stored and shown.
type Finding struct {
	What    string `json:"what"` // target, secret, relay, certificate, key, ...
	Status  Status `json:"status"`
	Message string `json:"message"`
}

// TargetView is a target's definition as it may be shown: references to secrets,
// never what they stand for.
type TargetView struct {
	ID       string   `json:"id"`
	Type     string   `json:"type"`
	Disabled bool     `json:"disabled,omitempty"`
	Lane     string   `json:"lane"`
	Relays   []string `json:"relays"` // host:port, in the order in which they are tried
	Payload  string   `json:"payload"`
	// Version names this state of the definition: eight hexadecimal digits.
	Version string   `json:"version"`
	To      []string `json:"to,omitempty"` // all that get the mail, BCC among them
	// Rows is the whole definition, in its order, defaults among it.
	Rows []TargetRow `json:"rows"`
	// Where the definition stands, "file:line".
	Where string `json:"where,omitempty"`
	// Warnings are what the check of the definitions says.
	Warnings []string `json:"warnings,omitempty"`
}

// TargetRow is one setting.
type TargetRow struct {
	Key     string `json:"key"`
	Value   string `json:"value"`
	Default bool   `json:"default,omitempty"` // not given
}

// RelayView is what the definitions say of one relay.
type RelayView struct {
	Relay    string `json:"relay"` // host:port
	Lane     string `json:"lane"`  // "" for one that is a fallback alone
	Targets  int    `json:"targets"`
	Fallback int    `json:"fallback_of"` // how many targets have it as a fallback

	MaxConnections           int  `json:"max_connections,omitempty"`
	MaxMessagesPerConnection int  `json:"max_messages_per_connection,omitempty"`
	MaxMessageRate           Rate `json:"max_message_rate,omitzero"`
}
