package smtp

import (
	"reflect"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/secrets"
)

// A connection is used for another mail only if it was made with exactly that mail's
// settings: each field of a relay that decides how a connection is made changes the key.
func TestEachSettingHasItsOwnConnections(t *testing.T) {
	t.Parallel()
	p := NewPool()
	relay := func() Relay {
		return Relay{Host: "relay.example.com", Port: 587, TLSMode: TLSStartTLS, CAPEM: []byte("ca"), ClientCert: []byte("certificate"), ClientKey: secrets.New([]byte("key")),
			HELO: "me.example.com", AuthMethod: "plain", Username: "user", Password: secrets.New([]byte("password"))}
	}
	same := p.key(relay())
	if p.key(relay()) != same {
		t.Fatal("equal settings have different keys")
	}
	// roots is made of CAPEM, the files are where the contents came from, and Shown only watches.
	derived := map[string]bool{"roots": true, "CAFile": true, "ClientCertFile": true, "Shown": true}
	for i := range reflect.TypeFor[Relay]().NumField() {
		field := reflect.TypeFor[Relay]().Field(i)
		if derived[field.Name] {
			continue
		}
		r := relay()
		switch v := reflect.ValueOf(&r).Elem().Field(i); {
		case field.Type == reflect.TypeFor[secrets.Value]():
			v.Set(reflect.ValueOf(secrets.New([]byte("another"))))
		case v.Kind() == reflect.String:
			v.SetString(v.String() + "x")
		case v.Kind() == reflect.Int:
			v.SetInt(v.Int() + 1)
		case v.Kind() == reflect.Bool:
			v.SetBool(!v.Bool())
		case field.Type == reflect.TypeFor[[]byte]():
			v.SetBytes(append(v.Bytes(), 'x'))
		case field.Type == reflect.TypeFor[[]Fingerprint]():
			v.Set(reflect.ValueOf([]Fingerprint{{1}}))
		default:
			t.Errorf("%s has a type that this test cannot change: decide whether it belongs into the key", field.Name)
			continue
		}
		if p.key(r) == same {
			t.Errorf("%s is not part of the key: a mail could go over a connection made with another one", field.Name)
		}
	}
}

// A session that is known to be dead is not kept for the next mail, however young it is.
func TestADeadSessionIsNotPutBack(t *testing.T) {
	t.Parallel()
	server := lab.StartRelay(t, lab.RelayScript{})
	p, r := NewPool(), clientOf(server)
	on := Terms{Mails: 100, Idle: time.Hour, Age: time.Hour}
	for _, dead := range []bool{false, true} {
		if s, err := p.Acquire(lab.Patient(t), r, on, true); err != nil || s != nil {
			t.Fatalf("%v, %v", s, err)
		}
		s := mustDial(t, r)
		s.key, s.dead = p.key(r), dead
		p.Put(s, on)
		if got, want := p.Idle(), map[bool]int{false: 1, true: 0}[dead]; got != want {
			t.Errorf("dead %v: %d idle sessions, want %d", dead, got, want)
		}
		if s, err := p.Acquire(lab.Patient(t), r, on, false); err != nil || (s == nil) != dead {
			t.Errorf("dead %v: the next mail gets %v, %v", dead, s, err)
		} else if s != nil {
			s.dead = true
			p.Put(s, on)
		} else {
			p.Release(r)
		}
	}
	p.Close()
	server.Idle(t)
}
