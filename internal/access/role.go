package access

import (
	"errors"
	"fmt"
	"strings"
)

// Role is what a user may do. Each role includes those before it.
type Role int

// The roles.
const (
	Anyone   Role = iota // also without sign-in
	Viewer               // reads
	Operator             // replays, discards, restores, holds; suspends relays
	Admin                // edits a dead letter before its replay, where that is enabled
)

var roleNames = [...]string{"anyone", "viewer", "operator", "admin"}

func (r Role) String() string {
	if r < Anyone || r > Admin {
		return fmt.Sprintf("role %d", int(r))
	}
	return roleNames[r]
}

// ParseRole parses the name of a role that can be assigned.
func ParseRole(name string) (Role, error) {
	for r := Viewer; r <= Admin; r++ {
		if name == roleNames[r] {
			return r, nil
		}
	}
	return Anyone, errors.New("want viewer, operator or admin")
}

// User is the author of a request.
type User struct {
	// Name is for display. Users of a provider may be able to change theirs.
	Name string
	// Subject never changes: for a user of the provider the issuer, "#" and `sub`; else
	// "user:" and the name, or "local".
	Subject string
	Role    Role
	// Address is where the request came from: an IP address.
	Address string
}

// ofAccount is the prefix of an account's Subject.
const ofAccount = "user:"

// Recorded names the user in an audit that is read years later: the name, and for a user
// of the provider also `sub`, which cannot be changed, even if the two are the same: an
// account may have that name too.
func (u User) Recorded() string {
	if _, sub, found := strings.Cut(u.Subject, "#"); found && !strings.HasPrefix(u.Subject, ofAccount) {
		return u.Name + " (" + shown(sub, maxSub) + ")"
	}
	return u.Name
}

// Account is a user who signs in with a name and a password.
type Account struct {
	Name string // see ValidName
	Hash Hash
	Role Role
}

// Roles maps each role to the claim values that give it. A user with several gets the
// highest.
type Roles map[Role][]string

// of is the highest role that the values give, Anyone if they give none.
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
