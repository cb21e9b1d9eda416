package delivery

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/verdict"
)

// variants puts targets into force that are variants of the fixture's own.
func (o *fixture) variants(limits RelayLimits, changes map[string]func(*Target)) {
	o.t.Helper()
	var all []Target
	for id, change := range changes {
		variant := o.target
		variant.ID = id
		change(&variant)
		all = append(all, variant)
	}
	definitions, problems := Relays{Default: RelayDefault{RelayLimits: limits}}.Define(all)
	if definitions == nil {
		o.t.Fatal(problems)
	}
	o.book.current.Store(definitions)
}

// New and changed targets are checked in the background: one check for those that need
// the same, none for those that are disabled or gone.
//
// Fault: a mistake in new or changed definitions that only the relay or the store of
// secrets shows. Result: checked in the background when they are saved.
func TestProberChecksChangedTargets(t *testing.T) {
	t.Parallel()
	server := lab.StartRelay(t, lab.RelayScript{Acts: map[string]lab.RelayAct{}})
	o := newFixture(t, server.Address(), RelayLimits{}, nil)
	o.variants(RelayLimits{}, map[string]func(*Target){
		"a":   func(*Target) {},
		"b":   func(target *Target) { target.To = []string{"other@example.com"} },
		"off": func(target *Target) { target.Disabled = true },
		"insecure": func(target *Target) {
			target.Username, target.Password, target.AllowInsecureAuth = Text{Plain: "u"}, secrets.Ref{Env: "CERTPOST_TEST_UNSET"}, true
		},
	})
	probed := make(chan Probed, 10)
	prober := o.Inspector().Prober(func(p Probed) { probed <- p })
	ctx, end := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { prober.Run(ctx); close(ended) }()
	prober.Add("b", "gone", "a", "off", "insecure", "a")

	found := map[string]Probed{}
	for range 2 {
		p := <-probed
		slices.Sort(p.Targets)
		found[strings.Join(p.Targets, " ")] = p
	}
	if p := found["a b"]; !finds(p.Findings, "ok relay", "answers") {
		t.Errorf("a and b: %q", spoken(p.Findings))
	}
	if p := found["insecure"]; !finds(p.Findings, "error secret", "the environment variable is not set") {
		t.Errorf("insecure: %q", spoken(p.Findings))
	}
	if dials, _ := server.Dials(); dials != 1 {
		t.Errorf("%d connections", dials)
	}
	if heard := server.Heard(); slices.Contains(heard, "MAIL") {
		t.Errorf("heard %v", heard)
	}
	prober.Add("a") // changed again
	if p := <-probed; !slices.Equal(p.Targets, []string{"a"}) {
		t.Errorf("%v", p.Targets)
	}
	end()
	<-ended
	if len(probed) > 0 {
		t.Errorf("one check too many: %v", <-probed)
	}
}

func TestSameChecks(t *testing.T) {
	t.Parallel()
	o := newFixture(t, "127.0.0.1:2525", RelayLimits{}, func(target *Target) { target.AllowInsecureAuth = true })
	login := func(password secrets.Ref) func(*Target) {
		return func(target *Target) { target.Username, target.Password = Text{Plain: "u"}, password }
	}
	vault := func(path string) secrets.Ref {
		return secrets.Ref{Vault: &secrets.VaultRef{Mount: "secret", Path: path, Key: "k"}}
	}
	inline := secrets.Ref{Value: secrets.New([]byte("x"))}
	signs := func(key secrets.Ref, from string) func(*Target) {
		return func(target *Target) {
			target.FromAddress, target.Sign.SMIME = from, SignSMIME{Certificate: vault("c"), PrivateKey: key}
		}
	}
	o.variants(RelayLimits{}, map[string]func(*Target){
		"none1": func(*Target) {}, "none2": func(*Target) {},
		"vault1": login(vault("a")), "vault2": login(vault("a")), "vault3": login(vault("b")),
		"own1": login(vault("{target}")), "own2": login(vault("{target}")),
		"value1": login(inline), "value2": login(inline),
		"port":  func(target *Target) { target.Port++ },
		"sign1": signs(vault("s"), "a@example.com"), "sign2": signs(vault("s"), "a@example.com"),
		"sign3": signs(vault("s"), "b@example.com"), "sign4": signs(inline, "a@example.com"), "sign5": signs(inline, "a@example.com"),
	})
	ids := []string{"none1", "vault1", "own1", "value1", "none2", "vault2", "own2", "value2", "vault3", "port", "sign1", "sign2", "sign3", "sign4", "sign5"}
	want := [][]string{{"none1", "none2"}, {"vault1", "vault2"}, {"own1"}, {"value1"}, {"own2"}, {"value2"}, {"vault3"}, {"port"}, {"sign1", "sign2"}, {"sign3"}, {"sign4"}, {"sign5"}}
	if got := o.book.Current().sameChecks(ids); !slices.EqualFunc(got, want, slices.Equal) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// A check takes one of the connections that max_connections allows, and gives it back.
//
// Fault: accepts few connections. Result: no more are opened than the limits allow, not for
// checks either.
func TestChecksKeepToTheLimit(t *testing.T) {
	t.Parallel()
	server := lab.StartRelay(t, lab.RelayScript{})
	o := newFixture(t, server.Address(), RelayLimits{MaxConnections: 1}, nil)
	held := make(chan struct{})
	begun := make(chan struct{})
	delivered := make(chan *verdict.Failure)
	go func() {
		_, failure := o.Deliver(t.Context(), o.event, verdict.Attempt{Target: o.target.ID, Number: 1, Claim: func(time.Time) error {
			close(begun)
			<-held
			return nil
		}})
		delivered <- failure
	}()
	<-begun
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if found := o.Inspector().Check(short, o.target.ID); !finds(found, "warning relay", "max_connections") {
		t.Errorf("while a mail is sent: %q", spoken(found))
	}
	close(held)
	if failure := <-delivered; failure != nil {
		t.Error(failure)
	}
	for range 3 {
		if found := o.Inspector().Check(t.Context(), o.target.ID); !finds(found, "ok relay", "answers") {
			t.Fatalf("%q", spoken(found))
		}
	}
	o.mustDeliver()
	if _, most := server.Dials(); most > 1 {
		t.Errorf("%d connections at a time", most)
	}
}
