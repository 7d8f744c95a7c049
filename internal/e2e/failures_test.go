package e2e_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/meterd/meterd/internal/killpoint"
)

// TestFailures_TableIsTested: every line of docs/failures.md names tests that exist, and points that do.
func TestFailures_TableIsTested(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/failures.md")
	if err != nil {
		t.Fatal(err)
	}
	var source strings.Builder
	for _, pattern := range []string{"*_test.go", "../../reporter/clockguard_test.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v, %v", pattern, files, err)
		}
		for _, file := range files {
			code, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			source.Write(code)
		}
	}
	test := regexp.MustCompile("`(Test[A-Za-z_]+)(?:/([^`]+))?`")
	point := regexp.MustCompile("`([a-z]+\\.[a-z_.]+)`")
	points := strings.Join(killpoint.Names(), " ") + " "
	rows := 0
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| ---") || strings.HasPrefix(line, "| failure") {
			continue
		}
		rows++
		cells := strings.Split(strings.TrimSuffix(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 6 {
			t.Errorf("%d columns, want 5: %s", len(cells)-1, line)
		}
		last := cells[len(cells)-1]
		found := test.FindAllStringSubmatch(last, -1)
		if len(found) == 0 {
			t.Errorf("no test: %s", line)
		}
		for _, m := range found {
			if !strings.Contains(source.String(), "func "+m[1]+"(") {
				t.Errorf("there is no %s: %s", m[1], line)
			}
			if m[2] != "" && !strings.Contains(source.String(), `"`+m[2]+`"`) {
				t.Errorf("%s has no part %q", m[1], m[2])
			}
		}
		for _, m := range point.FindAllStringSubmatch(last, -1) {
			if !strings.Contains(points, m[1]+" ") {
				t.Errorf("there is no kill point %s: %s", m[1], line)
			}
		}
	}
	if rows < 20 {
		t.Errorf("only %d failures were found", rows)
	}
}
