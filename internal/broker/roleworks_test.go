package broker

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/lab"
)

// Everything that the program does with its buckets, also what it does seldom, works with the permissions of
// its role; a denial would show in its log alone.
func TestRoleIsEnough(t *testing.T) {
	t.Parallel()
	role := CertpostRole(RoleNames{Requests: []string{"dead.list"}})
	url := lab.NATS(t, lab.FreeAddress(t), fmt.Sprintf(`accounts { A { jetstream: enabled, users: [
		{user: certpost, password: x, permissions: {publish: {allow: %s}, subscribe: {allow: %s}, allow_responses: {max: 1}}}] } }`,
		quoted(role.Publish), quoted(role.Subscribe))).ClientURL()
	b, err := Dial(t.Context(), Config{URL: url, User: "certpost", Password: func() ([]byte, error) { return []byte("x"), nil }, InboxPrefix: role.Inbox}, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	if err := b.EnsureTopology(t.Context()); err != nil {
		t.Fatal(err)
	}
	relays, err := b.OpenRelays(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	desk, err := b.Desk(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	remain := func() (subjects []string) {
		for raw, err := range b.read(t.Context(), "KV_"+RelaysBucket, "", 1) {
			if err != nil {
				t.Fatal(err)
			}
			subjects = append(subjects, strings.TrimPrefix(raw.Subject, "$KV."+RelaysBucket+"."))
		}
		return subjects
	}
	put := func(key string) (uint64, error) { return relays.Put(t.Context(), key, []byte("{}")) }
	_, first := put(ReplicaPrefix + "a")
	_, second := put(ReplicaPrefix + "b")
	pause, third := put(PausePrefix + "relay")
	if err := errors.Join(first, second, third, b.ForgetReplica(t.Context(), "a"), b.ForgetReplica(t.Context(), "a"), b.ForgetReplica(t.Context(), "none")); err != nil {
		t.Fatal(err)
	}
	if got := remain(); !slices.Equal(got, []string{ReplicaPrefix + "b", PausePrefix + "relay"}) {
		t.Errorf("left: %q", got)
	}
	if err := relays.Purge(t.Context(), PausePrefix+"relay", jetstream.LastRevision(pause)); err != nil {
		t.Error(err)
	}
	revision, err := desk.Create(t.Context(), "hold.1", []byte("{}"))
	if err == nil {
		revision, err = desk.Update(t.Context(), "hold.1", []byte("{ }"), revision)
	}
	if err := errors.Join(err, desk.Delete(t.Context(), "hold.1", revision)); err != nil {
		t.Error(err)
	}
	if err := b.nc.LastError(); err != nil {
		t.Errorf("the server has denied something: %v", err)
	}
}
