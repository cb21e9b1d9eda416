package desk

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/verdict"
)

// constants returns the values of the constants that package verdict declares of a type.
func constants(t *testing.T, typ string) (values []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(lab.Root(), "internal", "verdict", "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok || len(spec.Values) != 1 {
				return true
			}
			if id, ok := spec.Type.(*ast.Ident); !ok || id.Name != typ {
				return true
			}
			value, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			values = append(values, value)
			return true
		})
	}
	return values
}

// Every code has a cause and a remedy in every phase, and no two codes share a cause.
func TestEveryCodeIsExplained(t *testing.T) {
	t.Parallel()
	codes, phases := constants(t, "Code"), constants(t, "Phase")
	if len(codes) < 15 || len(phases) < 17 {
		t.Fatalf("found only %d codes and %d phases", len(codes), len(phases))
	}
	unknown, _ := Explain("NO_SUCH_CODE", "", "")
	seen := map[string]string{}
	for _, code := range codes {
		if _, ok := byCode[verdict.Code(code)]; !ok {
			t.Errorf("byCode has no entry for %s", code)
		}
		for _, phase := range phases {
			cause, remedy := Explain(verdict.Code(code), verdict.Phase(phase), "")
			if cause == unknown || !strings.HasSuffix(cause, ".") || !strings.HasSuffix(remedy, ".") || cause == remedy {
				t.Errorf("%s in %s: %q, %q", code, phase, cause, remedy)
			}
			if other := seen[cause]; other != "" && other != code && !strings.Contains(cause, "blocked") {
				t.Errorf("%s and %s have the same cause %q", code, other, cause)
			}
			seen[cause] = code
		}
	}
	for o := range byPhase {
		if _, ok := byCode[o.code]; !ok {
			t.Errorf("byPhase has %v, but byCode has no entry for its code", o)
		}
	}
}

// Fingerprints are part of addresses that people bookmark: they must not change between
// versions.
func TestFingerprintsDoNotChange(t *testing.T) {
	t.Parallel()
	for want, c := range map[string][4]string{
		"9b9a170181e4": {"SMTP_AUTH", "auth", "relay-1", "5.7.8"},
		"3b72aa8377a5": {"EVENT_INVALID", "decode", "", ""},
	} {
		if got := Fingerprint(verdict.Code(c[0]), verdict.Phase(c[1]), c[2], c[3], ""); got != want {
			t.Errorf("%v: %s, want %s", c, got, want)
		}
	}
	if Fingerprint("A", "b", "", "", "") == Fingerprint("A", "", "b", "", "") {
		t.Error("two causes have the same fingerprint")
	}
}

// Fault: SMTP_PAYLOAD has a dozen causes. Result: what to do is the reason's own advice; if it
// has none, or the letters of a group differ, a text that holds for all; the group stays one.
func TestTheAdviceFitsTheReason(t *testing.T) {
	t.Parallel()
	const unsupported = `the certificate "a.example.com" on line 1 cannot be verified: its curve is odd; to deliver it as it is, set allow_unsupported_certificate for the target, then replay`
	const recipient = "the key of a@example.com to encrypt to cannot be used: it expired; put a usable one in its place, then replay"
	general := "Fix what the reason says. " + afterFix
	for _, c := range []struct {
		code         verdict.Code
		phase        verdict.Phase
		reason, want string
	}{
		{verdict.SMTPPayload, verdict.PhasePayload, unsupported, "To deliver it as it is, set allow_unsupported_certificate for the target, then replay."},
		{verdict.SMTPPayload, verdict.PhasePayload, recipient, "Put a usable one in its place, then replay."},
		{verdict.SMTPPayload, verdict.PhaseRender, "the mail has 9 bytes, and max_message_bytes allows 5; raise it or choose a smaller payload, then replay", "Raise it or choose a smaller payload, then replay."},
		{verdict.SMTPPayload, verdict.PhasePayload, "the certificate text has 2 leaf certificates; publish an event for each of them", "Publish an event for each of them. " + afterFix},
		{verdict.SMTPPayload, verdict.PhaseData, "the mail has a bare LF; this is a bug in Certpost, please report it", "This is a bug in Certpost, please report it."},
		{verdict.SMTPPayload, verdict.PhasePayload, "the archive cannot be created", general},
		{verdict.SMTPPayload, verdict.PhaseSettle, "a defect in Certpost: the attempt panicked; please report it", byPhase[occasion{verdict.SMTPPayload, verdict.PhaseSettle}].remedy},
		{verdict.SMTPAuth, verdict.PhaseAuth, "535; do something else", byCode[verdict.SMTPAuth].remedy},
	} {
		if _, got := Explain(c.code, c.phase, adviceOf(c.code, c.phase, c.reason)); got != c.want {
			t.Errorf("%s: %q, want %q", c.reason, got, c.want)
		}
	}

	letterOf := func(number uint64, reason string) *letter {
		return newLetter(&broker.DeadLetter{Outcome: verdict.Outcome{Reason: reason}, Sequence: number, Target: "ops"})
	}
	first := &broker.DeadLetter{Outcome: verdict.Outcome{Code: verdict.SMTPPayload, Phase: verdict.PhasePayload, Reason: unsupported}, Lane: "relay"}
	g := newGroup(first)
	if g.fingerprint != Fingerprint(verdict.SMTPPayload, verdict.PhasePayload, "relay", "", "") {
		t.Errorf("the group is %s", g.fingerprint)
	}
	other := letterOf(3, recipient)
	for _, step := range []struct {
		do   func()
		want string
	}{
		{func() { g.add(letterOf(1, unsupported)); g.add(letterOf(2, unsupported)) }, "To deliver it as it is, set allow_unsupported_certificate for the target, then replay."},
		{func() { g.add(other) }, general},
		{func() { g.remove(other) }, "To deliver it as it is, set allow_unsupported_certificate for the target, then replay."},
	} {
		step.do()
		if got := g.view(time.Now()).Remedy; got != step.want {
			t.Errorf("with %d letters: %q, want %q", g.byNumber.size, got, step.want)
		}
	}
}
