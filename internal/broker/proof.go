package broker

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
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

// Shown is the name with what is known of it: "ada", "ada, unproved",
// "ada, unproved, by NATS user OPS/UDSF...", or "ada, unproved, from NATS account OPS".
func (a Actor) Shown() string {
	switch {
	case a.Proved != Unproved:
		return a.Name
	case a.NATSUser == "":
		return a.Name + ", unproved"
	case !strings.Contains(a.NATSUser, "/"):
		return fmt.Sprintf("%s, unproved, from NATS account %s", a.Name, a.NATSUser)
	}
	return fmt.Sprintf("%s, unproved, by NATS user %s", a.Name, a.NATSUser)
}

// SenderProves reports whether a sender, as an Endpoint gets it, is a user whose name was proved, and
// whether that is the user whom a request names, if it names one.
func SenderProves(sender, name string) bool {
	user := sender[strings.LastIndexByte(sender, '/')+1:]
	return nkeys.IsValidPublicUserKey(user) && (name == "" || name == user || name == sender)
}

// requestInfo is the header in which a NATS server tells a service in another account who
// sends a request: it replaces what the client has written there. It does so for service imports;
// the user is in it if the import has share: true.
const requestInfo = "Nats-Request-Info"

// senderOf returns who sent a request, by the header of the server, as ACCOUNT/USER or only ACCOUNT;
// "" without one. In a request from the service's own account the client writes this header, so
// it counts only if the configuration says that nobody there may send requests.
//
// USER is a public key whose owner has signed the server's challenge. The header's own field "user"
// is not enough: the server fills it with the NKey or the user name that the client wrote when it
// connected, also where it authenticated the client by something else (nats-server 2.15,
// getRawAuthUser): a JWT user may add any name, a user with a password any NKey. What it has
// verified is told by issuer_key, which it sets for users with JWT or NKey.
func senderOf(header nats.Header) string {
	var info struct {
		Account   string `json:"acc"`
		User      string `json:"user"`
		JWT       string `json:"jwt"`
		IssuerKey string `json:"issuer_key"`
	}
	if json.Unmarshal([]byte(header.Get(requestInfo)), &info) != nil || info.Account == "" {
		return ""
	}
	switch {
	case info.IssuerKey == "": // a password, a token, a client certificate, or no share
		return info.Account
	case nkeys.IsValidPublicAccountKey(info.IssuerKey): // of an operator's account: the JWT names the user
		claims, err := jwt.DecodeUserClaims(info.JWT) // it checks the signature
		if err != nil || claims.Issuer != info.IssuerKey {
			return info.Account
		}
		return info.Account + "/" + claims.Subject
	case info.IssuerKey == info.Account && nkeys.IsValidPublicUserKey(info.User):
		return info.Account + "/" + info.User
	}
	return info.Account
}
