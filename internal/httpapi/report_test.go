package httpapi_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const usageReport = `{"name":"requests","startTime":"2026-11-23T10:00:00.25Z","endTime":"2026-11-23T18:00:10+08:00",` +
	`"value":{"int64Value":10},"labels":{"subject":"tenant-1","zone":"b"}}`

// TestReport_Stored makes an event of a report, the same for the same report.
func TestReport_Stored(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	same := strings.NewReplacer(`"name"`, `"Name"`, "18:00:10+08:00", "10:00:10Z", `"subject":"tenant-1","zone":"b"`, `"zone":"b","subject":"tenant-1"`).Replace(usageReport)
	for _, body := range []string{usageReport, same} {
		if a := b.do(t, http.MethodPost, "/report", ingestKey, body); a.status != http.StatusOK || a.body != "" {
			t.Fatalf("answer = %d %s, want 200", a.status, a.body)
		}
	}
	got := b.stored(t)
	if len(got) != 2 || got[0] != got[1] {
		t.Fatalf("stored = %q, want the same event twice", got)
	}
	id, rest, _ := strings.Cut(got[0], " ")
	want := `/report requests tenant-1 {"value":10,"labels":{"subject":"tenant-1","zone":"b"},"start_time":"2026-11-23T10:00:00.25Z","end_time":"2026-11-23T10:00:10Z"}`
	if d := cmp.Diff(want, rest); d != "" || len(id) != 32 {
		t.Errorf("event with id %q (-want +got):\n%s", id, d)
	}
}

// TestReport_Values keeps numbers as they are written.
func TestReport_Values(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	values := map[string]string{
		`{"int64Value":"9007199254740993"}`:      `"value":9007199254740993,`,
		`{"int64Value":123456789012345}`:         `"value":123456789012345,`,
		`{"doubleValue":0.1}`:                    `"value":0.1,`,
		`{"doubleValue":0.123456789012345678}`:   `"value":0.123456789012345678,`,
		`{"doubleValue":1e-7,"int64Value":null}`: `"value":1e-7,`,
	}
	for value := range values {
		a := b.do(t, http.MethodPost, "/report", ingestKey, strings.Replace(usageReport, `{"int64Value":10}`, value, 1))
		if strings.Contains(value, "9007199254740993") {
			wantProblem(t, a, 400, "invalid-events") // exact, and above the limit of one event
			delete(values, value)
		} else if a.status != http.StatusOK {
			t.Errorf("%s: %d %s", value, a.status, a.body)
		}
	}
	all := fmt.Sprint(b.stored(t))
	for value, want := range values {
		if !strings.Contains(all, want) {
			t.Errorf("%s was not stored as %s: %s", value, want, all)
		}
	}
}

// TestReport_Bad names what is wrong.
func TestReport_Bad(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	with := func(old, text string) string { return strings.Replace(usageReport, old, text, 1) }
	tests := map[string]struct{ body, detail string }{
		"no JSON":         {"{", "the report can't be read: unexpected EOF"},
		"two reports":     {usageReport + usageReport, "the report is followed by something else; send one report a request"},
		"unknown field":   {with(`"name"`, `"metric"`), `the report can't be read: unknown field "metric"`},
		"no name":         {with("requests", ""), `name: is required; it becomes the event's type`},
		"no subject":      {with("subject", "customer"), `labels: a label "subject" or "instance_id" must name the instance that used something`},
		"no time":         {with(`"startTime":"2026-11-23T10:00:00.25Z",`, ""), "startTime and endTime: both are required, as RFC 3339 times"},
		"reversed times":  {with("T18", "T17"), "endTime: is before startTime"},
		"no value":        {with(`{"int64Value":10}`, "{}"), "value: needs int64Value or doubleValue"},
		"both values":     {with(`10}`, `10,"doubleValue":1}`), "value: has both int64Value and doubleValue; send one of them"},
		"fraction as int": {with("10}", "1.5}"), `value.int64Value: must be a whole number (got "1.5")`},
		"text as value":   {with("10}", `"many"}`), ""},
		"bad label":       {with(`"b"`, "7"), ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := wantProblem(t, b.do(t, http.MethodPost, "/report", ingestKey, tt.body), 400, "invalid-request")
			if tt.detail != "" && p["detail"] != tt.detail {
				t.Errorf("detail = %q\nwant     %q", p["detail"], tt.detail)
			}
			if strings.Contains(fmt.Sprint(p["detail"]), "Go ") {
				t.Errorf("detail %q speaks of Go", p["detail"])
			}
		})
	}
	wantProblem(t, b.do(t, http.MethodPost, "/report", ingestKey, with("10}", "-10}")), 400, "invalid-events")
	wantProblem(t, b.do(t, http.MethodPost, "/report", queryKey, usageReport), 403, "forbidden")
	if got := b.stored(t); len(got) != 0 {
		t.Errorf("stored = %v", got)
	}
}
