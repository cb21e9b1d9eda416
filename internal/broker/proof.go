package broker

import (
	"encoding/json"
	"fmt"

	"github.com/nats-io/nats.go"
)

// Proof says whether the name in a request over NATS was proved. In JSON it is true or false,
// and left out for other ways of access: pages have the name that signed in.
type Proof int8

// The values of Proof.
const (
	NotAsked Proof = iota
	Proved         // it is that of the NATS user, as the server says
	Unproved       // the client chose it
)

// MarshalJSON writes true or false.
func (p Proof) MarshalJSON() ([]byte, error) { return json.Marshal(p == Proved) }

// UnmarshalJSON reads true or false.
func (p *Proof) UnmarshalJSON(text []byte) error {
	var proved bool
	if err := json.Unmarshal(text, &proved); err != nil {
		return err
	}
	if *p = Unproved; proved {
		*p = Proved
	}
	return nil
}

// Shown is the name with what is known of it: "ada", "ada, unproved", or "ada, unproved, by
// NATS user OPS/ops-team".
func (a Actor) Shown() string {
	switch {
	case a.Proved != Unproved:
		return a.Name
	case a.NATSUser == "":
		return a.Name + ", unproved"
	}
	return fmt.Sprintf("%s, unproved, by NATS user %s", a.Name, a.NATSUser)
}

// requestInfo is the header in which a NATS server tells a service in another account who
// sends a request: it replaces what the client has written there. It does so for service imports;
// the user is in it if the import has share: true.
const requestInfo = "Nats-Request-Info"

// senderOf returns the user who sent a request, as ACCOUNT/USER, by the header of the server;
// "" without one. In a request from the service's own account the client writes this header, so
// it counts only if the configuration says that nobody there may send requests.
func senderOf(header nats.Header) string {
	var info struct {
		Account string `json:"acc"`
		User    string `json:"user"`
	}
	if json.Unmarshal([]byte(header.Get(requestInfo)), &info) != nil || info.User == "" || info.Account == "" {
		return ""
	}
	return info.Account + "/" + info.User
}
