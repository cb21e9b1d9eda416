package delivery

import (
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/config"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/verdict"
)

// A former id leads to one target, and none has it now: in one list, and in several files.
//
// Fault: a former id that is invalid, present, given twice, or of two targets. Result: an error with file and line.
func TestFormerIDs(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		first, second string // the lists of former ids
		want, inFiles []string
	}{
		"valid":   {first: "[old, older]", second: "[other-old]"},
		"present": {first: "[two]", want: []string{"6:18: targets[0].former_ids[0]: two is the id of the target in line 7 of c.yaml: a former id must be of no target now"}, inFiles: []string{"a.yaml:6:18: targets[0].former_ids[0]: two is the id of the target in line 2 of t/b.yaml: a former id must be of no target now"}},
		"own":     {first: "[one]", want: []string{"6:18: targets[0].former_ids[0]: one is the id that the target has now: want one that it had before"}},
		"twice":   {first: "[old, old]", want: []string{"6:23: targets[0].former_ids[1]: old is given twice"}},
		"invalid": {second: `["a b", ""]`, want: []string{"10:18: targets[1].former_ids[0]: want 1 to 64 characters of A-Z, a-z, 0-9, _ and -", "10:25: targets[1].former_ids[1]: want 1 to 64 characters of A-Z, a-z, 0-9, _ and -"}},
		"of two":  {first: "[old]", second: "[x, old]", want: []string{"11:21: targets[1].former_ids[1]: old is already a former id of the target in line 2 of c.yaml: it can lead to one target only"}, inFiles: []string{"b.yaml:6:21: targets[0].former_ids[1]: old is already a former id of the target in line 2 of t/a.yaml: it can lead to one target only"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			with := func(id, former string) string {
				if former == "" {
					return definition(id)
				}
				return definition(id, "    former_ids: "+former)
			}
			one, two := with("one", test.first), with("two", test.second)
			dir := t.TempDir()
			lay(t, dir, map[string]string{"c.yaml": list(one, two), "t/a.yaml": list(one), "t/b.yaml": list(two)})
			path := filepath.Join(dir, "c.yaml")
			check := func(door string, source Source, cut string, want []string) {
				t.Helper()
				d, problems := source.Load()
				got := texts(dir, slices.DeleteFunc(problems, func(p config.Problem) bool { return p.Severity == config.Warning }))
				for i := range got {
					got[i] = strings.TrimPrefix(got[i], cut)
				}
				if !slices.Equal(got, want) || (d == nil) != (len(want) > 0) {
					t.Errorf("%s: %q\nwant %q", door, got, want)
				}
			}
			check("a list", Source{Config: path, Relays: path}, "c.yaml:", test.want)
			if test.inFiles != nil || test.want == nil {
				check("files", Source{Dir: filepath.Join(dir, "t"), Relays: path}, "t/", test.inFiles)
			}
		})
	}
}

// An event that names former ids goes to the target that had them, once; what its source may send to
// is asked for that target. An attempt under a former id, which had waited, says where its replay goes.
//
// Fault: an event names former ids of a target. Result: it goes to the target, once.
func TestEventsFindARenamedTarget(t *testing.T) {
	t.Parallel()
	leaf := lab.SelfSigned("www.example.com")
	for name, test := range map[string]struct {
		named  []string
		allows []string // targets of the source; nil: all
		want   []string
		fails  verdict.Code
	}{
		"a former id":              {named: []string{"old"}, want: []string{"ops"}},
		"all of its ids":           {named: []string{"old", "ops", "older"}, want: []string{"ops"}},
		"opened by its present id": {named: []string{"old"}, allows: []string{"ops"}, want: []string{"ops"}},
		"opened by a former id":    {named: []string{"old"}, allows: []string{"old"}, want: []string{"ops"}, fails: verdict.EventInvalid},
		"not opened":               {named: []string{"old"}, allows: []string{"web"}, want: []string{"old"}, fails: verdict.EventInvalid},
		"no target's":              {named: []string{"oldest"}, want: []string{"oldest"}, fails: verdict.TargetUnknown},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newFixture(t, net.JoinHostPort("localhost", "1"), RelayLimits{}, func(target *Target) {
				target.ID, target.FormerIDs = "ops", []string{"old", "older"}
			})
			if test.allows != nil {
				o.sources = newSourceBook(Sources{Listed: map[string]Opened{"ca": {Targets: test.allows}}}, secrets.Policy{})
			}
			o.event = &events.Event{ID: "e1", Subject: events.SourceSubject("ca"), Targets: test.named, Certificate: events.Certificate{PEM: leaf}}
			routes, failure := o.Resolve(t.Context(), o.event)
			var got []string
			for _, r := range routes {
				got = append(got, r.Target)
				if code := codeOf(r.Failure); code != test.fails {
					t.Errorf("%s: %v, want %q", r.Target, r.Failure, test.fails)
				}
			}
			if failure != nil || !slices.Equal(got, test.want) {
				t.Errorf("routes to %q, %v, want %q", got, failure, test.want)
			}
		})
	}
	o := newFixture(t, net.JoinHostPort("localhost", "1"), RelayLimits{}, func(target *Target) {
		target.ID, target.FormerIDs = "ops", []string{"old"}
	})
	if _, f := lookUp(o.book.Current(), "old"); f == nil || f.Code != verdict.TargetUnknown || !strings.Contains(f.Reason, `target "old" is a former id of ops, where the replay goes`) {
		t.Errorf("an attempt under the former id: %v", f)
	}
}

// A list of allowed targets that still has a former id is warned of.
func TestListsWithAFormerID(t *testing.T) {
	t.Parallel()
	o := newFixture(t, net.JoinHostPort("localhost", "1"), RelayLimits{}, func(target *Target) {
		target.ID, target.FormerIDs = "ops", []string{"old"}
	})
	found := o.book.Current().Undefined("targets", []string{"ops", "old"})
	if len(found) != 1 || found[0].Path != "targets[1]" || found[0].Message != `target "old" is not defined: it is a former id of "ops"` {
		t.Errorf("%+v", found)
	}
}

func codeOf(f *verdict.Failure) verdict.Code {
	if f == nil {
		return ""
	}
	return f.Code
}
