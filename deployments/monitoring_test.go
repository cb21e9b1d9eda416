package deployments

import (
	"encoding/json"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/lab"
)

// TestAlerts has Prometheus' own tool read the alerts and play the series of their tests.
func TestAlerts(t *testing.T) {
	t.Parallel()
	promtool := lab.Need(t, "promtool")
	for _, args := range [][]string{
		{"check", "config", "prometheus.yml"},
		{"check", "rules", "--lint-fatal", "certpost.rules.yml"},
		{"test", "rules", "certpost.rules_test.yml"},
	} {
		check := exec.CommandContext(t.Context(), promtool, args...)
		check.Dir = "prometheus"
		if out, err := check.CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

// TestAlertsAreTested: every alert has a test that it does not fire while all is well.
func TestAlertsAreTested(t *testing.T) {
	t.Parallel()
	rules, tests := read(t, "prometheus/certpost.rules.yml"), read(t, "prometheus/certpost.rules_test.yml")
	alerts := regexp.MustCompile(`alert: (\w+)`).FindAllStringSubmatch(rules, -1)
	if len(alerts) < 15 {
		t.Fatalf("found %d alerts", len(alerts))
	}
	for _, a := range alerts {
		if !strings.Contains(tests, "{eval_time: 30m, alertname: "+a[1]+"}") {
			t.Errorf("certpost.rules_test.yml does not check that %s is silent while all is well", a[1])
		}
	}
}

// metricName finds the metrics that a text names.
var metricName = regexp.MustCompile(`\b(?:certpost|process|go)_[a-z0-9_]+\b`)

// TestNamesExist: promtool accepts alerts on metrics that nobody has, and Grafana shows them as
// an empty panel. docs/metrics.md is written from what a running Certpost registers.
func TestNamesExist(t *testing.T) {
	t.Parallel()
	known := map[string]bool{"process_resident_memory_bytes": true}
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z_]+)`").FindAllStringSubmatch(read(t, "../docs/metrics.md"), -1) {
		known[row[1]] = true
	}
	if len(known) < 30 {
		t.Fatalf("docs/metrics.md has %d metrics", len(known)-1)
	}
	for _, file := range []string{"prometheus/certpost.rules.yml", "prometheus/certpost.rules_test.yml", "grafana/certpost.json"} {
		names := metricName.FindAllString(read(t, file), -1)
		if len(names) == 0 {
			t.Errorf("%s names no metric", file)
		}
		for _, name := range names {
			base := name
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				base = strings.TrimSuffix(base, suffix)
			}
			if !known[name] && !known[base] {
				t.Errorf("%s: there is no metric %s", file, name)
			}
		}
	}
}

// TestDashboard: the file is a dashboard whose panels do not overlap and all ask something.
func TestDashboard(t *testing.T) {
	t.Parallel()
	var d struct {
		UID    string
		Panels []struct {
			ID      int
			Title   string
			GridPos struct{ X, Y, W, H int }
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal([]byte(read(t, "grafana/certpost.json")), &d); err != nil {
		t.Fatal(err)
	}
	if d.UID != "certpost" || len(d.Panels) < 10 {
		t.Errorf("uid %q, %d panels", d.UID, len(d.Panels))
	}
	taken := map[[2]int]string{}
	ids := map[int]bool{}
	for _, p := range d.Panels {
		if p.Title == "" || len(p.Targets) == 0 || ids[p.ID] {
			t.Errorf("panel %d %q: no title, no query, or a number given twice", p.ID, p.Title)
		}
		ids[p.ID] = true
		for _, q := range p.Targets {
			if !strings.Contains(q.Expr, `job="$job"`) {
				t.Errorf("panel %q asks all jobs: %s", p.Title, q.Expr)
			}
		}
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" || x >= 24 {
					t.Fatalf("panel %q overlaps %q, or is wider than the page", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
