package access

import (
	"errors"
	"fmt"
	"strings"
)

// Role is what somebody may do. Each role may do all that those before it may.
type Role int

// The roles.
const (
	Anyone   Role = iota // who has not signed in, too
	Viewer               // reads
	Operator             // replays, discards, restores, holds; suspends relays
	Admin                // changes a dead letter before it is replayed, where that is switched on
)

var roleNames = [...]string{"anyone", "viewer", "operator", "admin"}

func (r Role) String() string {
	if r < Anyone || r > Admin {
		return fmt.Sprintf("role %d", int(r))
	}
	return roleNames[r]
}

// ParseRole reads the name of a role that somebody can have.
func ParseRole(name string) (Role, error) {
	for r := Viewer; r <= Admin; r++ {
		if name == roleNames[r] {
			return r, nil
		}
	}
	return Anyone, errors.New("want viewer, operator or admin")
}

// User is who makes a request.
type User struct {
	// Name is for reading. At a provider people may be able to change theirs.
	Name string
	// Subject is for good: of a user of the provider the issuer and its `sub`, else
	// "user:" and the name, or "local".
	Subject string
	Role    Role
	// Address is where the request came from: an IP address.
	Address string
}

// ofAccount is how the Subject of an account begins.
const ofAccount = "user:"

// Recorded is the user in a history that is read years later: the name, and of a
// user of the provider what cannot be changed, even where it is the same. An account
// may have that name, too.
func (u User) Recorded() string {
	if _, sub, found := strings.Cut(u.Subject, "#"); found && !strings.HasPrefix(u.Subject, ofAccount) {
		return u.Name + " (" + shown(sub, maxSub) + ")"
	}
	return u.Name
}

// Account is a user who signs in with a name and a password.
type Account struct {
	Name string // 1 to 64 characters
	Hash Hash
	Role Role
}

// Roles says which values of a provider's claim give which role. Who has several
// gets the highest.
type Roles map[Role][]string

// of is the highest role that the values give, Anyone when they give none.
func (m Roles) of(values []string) Role {
	highest := Anyone
	for role, wanted := range m {
		for _, value := range values {
			for _, want := range wanted {
				if value == want && role > highest {
					highest = role
				}
			}
		}
	}
	return highest
}
