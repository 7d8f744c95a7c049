package httpapi_test

import (
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meterd/meterd/docs"
	"github.com/meterd/meterd/internal/httpapi"
	"github.com/meterd/meterd/reporter"
)

// TestOpenAPI_HasEveryRoute compares the routes of the description with those that are served.
func TestOpenAPI_HasEveryRoute(t *testing.T) {
	t.Parallel()
	_, paths, _ := strings.Cut(docs.OpenAPI, "\npaths:\n")
	paths, _, _ = strings.Cut(paths, "\ncomponents:\n")
	var described []string
	path := ""
	for line := range strings.Lines(paths) {
		if m := regexp.MustCompile(`^  (/\S*):$`).FindStringSubmatch(strings.TrimSuffix(line, "\n")); m != nil {
			path = m[1]
		}
		if m := regexp.MustCompile(`^    ([a-z]+):\n$`).FindStringSubmatch(line); m != nil {
			described = append(described, m[1]+" "+path)
		}
	}
	served := httpapi.Routes()
	slices.Sort(described)
	slices.Sort(served)
	if d := cmp.Diff(served, described); d != "" {
		t.Errorf("routes (-served +described):\n%s", d)
	}
}

// TestOpenAPI_Names what the code names: types of problems, states, and every reference resolves.
func TestOpenAPI_Names(t *testing.T) {
	t.Parallel()
	described := regexp.MustCompile(`urn:meterd:problem:[a-z-]+`).FindAllString(docs.OpenAPI, -1)
	types := httpapi.ProblemTypes()
	slices.Sort(described)
	slices.Sort(types)
	if d := cmp.Diff(types, described); d != "" {
		t.Errorf("types of problems (-code +described):\n%s", d)
	}
	var states []string
	for _, s := range reporter.States() {
		states = append(states, s.String())
	}
	if want := "[" + strings.Join(states, ", ") + "]"; !strings.Contains(docs.OpenAPI, want) {
		t.Errorf("the description lacks the states %s", want)
	}
	for _, m := range regexp.MustCompile(`"#/components/[a-zA-Z]+/([A-Za-z]+)"`).FindAllStringSubmatch(docs.OpenAPI, -1) {
		if !strings.Contains(docs.OpenAPI, "\n    "+m[1]+":\n") {
			t.Errorf("the reference to %s leads nowhere", m[1])
		}
	}
}

// TestOpenAPI_DescribesAnswers: every member of the golden answers is in the description.
func TestOpenAPI_DescribesAnswers(t *testing.T) {
	t.Parallel()
	name := regexp.MustCompile(`"([a-zA-Z_]+)":`)
	for _, file := range []string{
		"bill-record.json", "bill-records.json", "windows.json", "close.json", "query.json", "meters.json", "representation.json", "invalid-events.json",
		"preview.json", "held.json", "decide.json", "resend.json", "life.json", "life-change.json", "bookings.json", "adjustments.json",
		"audit.json", "breaker.json", "clock.json", "explain.json", "explain-events.json", "verify.json", "effect-changed.json",
	} {
		for _, m := range name.FindAllStringSubmatch(readFile(t, "testdata/"+file), -1) {
			if slices.Contains([]string{"model", "kind"}, m[1]) {
				continue // dimensions of the tests' meter
			}
			if !regexp.MustCompile(`(?m)\b` + m[1] + `(:|,|\])`).MatchString(docs.OpenAPI) {
				t.Errorf("%s: the member %q is not described", file, m[1])
			}
		}
	}
}

// TestOpenAPI_Served byte for byte.
func TestOpenAPI_Served(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	if a := b.do(t, http.MethodGet, "/api/v1/openapi.yaml", "", ""); a.body != docs.OpenAPI {
		t.Error("what is served differs from docs/openapi.yaml")
	}
	if got := len(httpapi.RecordColumns); got != 25 {
		t.Errorf("the CSV of bill records has %d columns; add to the end only and change this number", got)
	}
}
