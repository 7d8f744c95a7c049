// Package prometheus_test checks the alert rules: with promtool, and against the documents.
package prometheus_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const (
	rulesFile   = "meterd.rules.yml"
	testsFile   = "meterd_test.yml"
	metricsPage = "../../docs/metrics.md"
	alertsPage  = "../../docs/alerts.md"
	dashboard   = "../grafana/meterd.json"
)

// promtool runs Prometheus' tool. Where it is missing the test is skipped, or fails when METERD_REQUIRE_ENGINES=1 says that
// everything must be there.
func promtool(t *testing.T, args ...string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "promtool", args...).CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		const text = "no promtool: install Debian's prometheus (deployments/test-deps.sh does)"
		if os.Getenv("METERD_REQUIRE_ENGINES") == "1" {
			t.Fatal(text)
		}
		t.Skip(text)
	}
	if err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// found returns what the first group matched, each once, in order.
func found(text, pattern string) []string {
	var all []string
	for _, match := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
		all = append(all, match[1])
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func TestRulesAreValid(t *testing.T) {
	t.Parallel()
	promtool(t, "check", "rules", rulesFile)
}

func TestRulesFireAsTheyShould(t *testing.T) {
	t.Parallel()
	promtool(t, "test", "rules", testsFile)
}

// oneTest is a test of one alert.
const oneTest = `rule_files: [meterd.rules.yml]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series: [{series: 'meterd_verify_differences', values: '3x5'}]
    alert_rule_test: [{alertname: MeterdBooksDiffer, eval_time: 2m, exp_alerts: []}]
`

// TestPromtoolCanFail shows that the test above would notice an alert that does not do what is expected.
func TestPromtoolCanFail(t *testing.T) {
	t.Parallel()
	path, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("no promtool")
	}
	dir := t.TempDir()
	for name, text := range map[string]string{rulesFile: read(t, rulesFile), testsFile: oneTest} {
		if err := os.WriteFile(dir+"/"+name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.CommandContext(t.Context(), path, "test", "rules", dir+"/"+testsFile).CombinedOutput()
	if err == nil || !bytes.Contains(out, []byte("MeterdBooksDiffer")) {
		t.Errorf("promtool test rules of a wrong expectation = %v, want a failure that names the alert:\n%s", err, out)
	}
}

func TestRulesUseDocumentedMetrics(t *testing.T) {
	t.Parallel()
	documented := found(read(t, metricsPage), "(?m)^\\| `(meterd_[a-z_]+)` \\|")
	if len(documented) < 50 {
		t.Fatalf("%s documents %d metrics; is its table still there?", metricsPage, len(documented))
	}
	for _, file := range []string{rulesFile, testsFile} {
		used := found(read(t, file), `\b(meterd_[a-z_]+)\b`)
		if len(used) < 20 {
			t.Errorf("%s uses %d metrics; does the test still find them?", file, len(used))
		}
		for _, name := range used {
			if name != "meterd_test" && !slices.Contains(documented, name) {
				t.Errorf("%s uses %s, which %s doesn't list", file, name, metricsPage)
			}
		}
	}
}

// TestDashboardUsesDocumentedMetrics checks the names in Grafana's dashboard, and that its queries are PromQL.
func TestDashboardUsesDocumentedMetrics(t *testing.T) {
	t.Parallel()
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal([]byte(read(t, dashboard)), &board); err != nil {
		t.Fatalf("%s: %v", dashboard, err)
	}
	documented := found(read(t, metricsPage), "(?m)^\\| `(meterd_[a-z_]+)` \\|")
	var rules strings.Builder
	rules.WriteString("groups:\n  - name: dashboard\n    rules:\n")
	queries := 0
	for _, panel := range board.Panels {
		for _, target := range panel.Targets {
			queries++
			for _, name := range found(target.Expr, `\b(meterd_[a-z_]+)\b`) {
				if !slices.Contains(documented, strings.TrimSuffix(name, "_bucket")) {
					t.Errorf("panel %q uses %s, which %s doesn't list", panel.Title, name, metricsPage)
				}
			}
			fmt.Fprintf(&rules, "      - {record: 'dashboard:query%d', expr: '%s'}\n", queries, target.Expr)
		}
	}
	if queries < 20 {
		t.Errorf("%d queries; does the test still find them?", queries)
	}
	file := t.TempDir() + "/dashboard.yml"
	if err := os.WriteFile(file, []byte(rules.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	promtool(t, "check", "rules", file)
}

func TestEveryAlertIsTestedAndExplained(t *testing.T) {
	t.Parallel()
	rules := read(t, rulesFile)
	alerts := found(rules, `(?m)^\s+- alert: (\w+)$`)
	firing := found(read(t, testsFile), `(?m)^\s+- alertname: (\w+)$`)
	explained := found(read(t, alertsPage), `(?m)^### (\w+)$`)
	for name, have := range map[string][]string{testsFile: firing, alertsPage: explained} {
		if !slices.Equal(alerts, have) {
			t.Errorf("%s has alerts %v, the rules have %v", name, have, alerts)
		}
	}
	for _, alert := range alerts {
		if !strings.Contains(rules, "docs/alerts.md#"+strings.ToLower(alert)+"\n") {
			t.Errorf("%s has no link to its section of %s", alert, alertsPage)
		}
	}
}
