package broker

import (
	"slices"
	"testing"
)

// What a role needs is never too much and never missing; one subject more, or less, is named, also
// where JetStream's subjects have another prefix.
func TestRightsAgainstARole(t *testing.T) {
	t.Parallel()
	for api, names := range map[string]RoleNames{
		"$JS.API.":     {},
		"$JS.hub.API.": {Domain: "hub"},
		"JS.ops.":      {APIPrefix: "JS.ops"},
	} {
		names.Requests = []string{"dead.list"}
		role := CertpostRole(names)
		exact := Rights{limited: true, Answers: true, Publish: SubjectRights{Allow: role.Publish}, Subscribe: SubjectRights{Allow: role.Subscribe}}
		if missing, excess := exact.Missing(role), exact.Excess(role); len(missing)+len(excess) > 0 {
			t.Errorf("%s: missing %q, too much %q", api, missing, excess)
		}
		more := exact
		more.Publish.Allow = slices.Concat(role.Publish, []string{api + "STREAM.DELETE.*"})
		more.Subscribe.Allow = slices.Concat(role.Subscribe, []string{"_INBOX.>"})
		want := []string{"may delete streams (publish " + api + "STREAM.DELETE.*)", "may read the answers for other clients (subscribe _INBOX.*)"}
		if got := more.Excess(role); !slices.Equal(got, want) {
			t.Errorf("%s: too much: %q, want %q", api, got, want)
		}
		more.Publish.Deny = []string{api + "STREAM.>"}
		if got := more.Excess(role); !slices.Equal(got, want[1:]) {
			t.Errorf("%s: too much, with what is denied: %q, want %q", api, got, want[1:])
		}
		if got := more.Missing(role); !slices.Contains(got, "may not publish "+api+"STREAM.INFO."+AuditStream) {
			t.Errorf("%s: missing: %q", api, got)
		}
	}
}
