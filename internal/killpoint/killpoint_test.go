package killpoint_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meterd/meterd/internal/killpoint"
)

// TestNames_AreThoseInTheCode keeps the list and the program the same: a point that is not listed would never be tried, a
// listed one that is gone would never be reached.
func TestNames_AreThoseInTheCode(t *testing.T) {
	t.Parallel()
	call := regexp.MustCompile(`killpoint\.Hit\(([^)]*)\)`)
	found := map[string]bool{}
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != "../.." && strings.HasPrefix(d.Name(), ".") {
			return fs.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range call.FindAllStringSubmatch(string(text), -1) {
			name := strings.Trim(m[1], `"`)
			if len(name)+2 != len(m[1]) {
				t.Errorf("%s: Hit(%s): write the name as a constant string, so that it can be found", path, m[1])
			}
			found[name] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var inCode []string
	for name := range found {
		inCode = append(inCode, name)
	}
	slices.Sort(inCode)
	if diff := cmp.Diff(inCode, killpoint.Names()); diff != "" {
		t.Errorf("names.go differs from the calls of Hit (-code +list):\n%s", diff)
	}
}

func TestPlan(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		plan string
		hits []string
		want int // index of the hit that ends the process; -1: none
	}{
		"none":            {"", []string{"push.before", "push.after"}, -1},
		"first hit":       {"push.before:1", []string{"push.after", "push.before"}, 1},
		"third hit":       {"push.before:3", []string{"push.before", "push.before", "push.after", "push.before"}, 3},
		"not reached":     {"push.before:3", []string{"push.before", "push.before"}, -1},
		"one of two":      {"push.before:2,push.after:1", []string{"push.before", "push.after", "push.before"}, 1},
		"always, by luck": {"random:1:1", []string{"settle.before"}, 0},
		"name and luck":   {"push.after:1,random:1:1e-12", []string{"push.before", "push.after"}, 1},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hit, err := killpoint.ParseForTest(tt.plan)
			if err != nil {
				t.Fatal(err)
			}
			if got := slices.IndexFunc(tt.hits, hit); got != tt.want {
				t.Errorf("plan %q ends at hit %d, want %d", tt.plan, got, tt.want)
			}
		})
	}
}

func TestPlan_RandomIsReproducible(t *testing.T) {
	t.Parallel()
	run := func(seed string) (hits int) {
		hit, err := killpoint.ParseForTest("random:" + seed + ":0.01")
		if err != nil {
			t.Fatal(err)
		}
		for !hit("push.before") {
			hits++
		}
		return hits
	}
	if a, b := run("7"), run("7"); a != b {
		t.Errorf("seed 7 ends after %d hits, then after %d", a, b)
	}
	if run("7") == run("8") && run("9") == run("10") {
		t.Error("the seed makes no difference")
	}
}

func TestPlan_Mistakes(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"nowhere:1", "push.before", "push.before:0", "push.before:x", "push.before:1,", "random", "random:1", "random:x:0.5",
		"random:1:0", "random:1:2", "random:1:NaN",
	} {
		if _, err := killpoint.ParseForTest(text); err == nil {
			t.Errorf("plan %q is taken, want an error", text)
		}
	}
}
