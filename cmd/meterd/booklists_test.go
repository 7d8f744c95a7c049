package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meterd/meterd/internal/httpapi"
)

func TestBookLists(t *testing.T) {
	t.Parallel()
	d := newActsDaemon(t, map[string]string{
		"GET /api/v1/bookings": "bookings.json", "GET /api/v1/adjustments": "adjustments.json", "GET /api/v1/audit": "audit.json",
	})
	for name, tt := range map[string]struct {
		args    []string
		request string
		want    []string
	}{
		"bookings": {
			[]string{"bookings", "--kind", "release,close", "--from", "2026-11-23T00:00:00Z"},
			"GET /api/v1/bookings?from=2026-11-23T00%3A00%3A00Z&kind=release&kind=close",
			[]string{"NUMBER", "2       release  2026-11-23 08:00 to 09:00Z", "i-1", "order 1", "no"},
		},
		"adjustments": {
			[]string{"adjustments", "--into", "held", "--subject", "s", "--meter", "m", "--limit", "7"},
			"GET /api/v1/adjustments?into=held&limit=7&meter=m&subject=s",
			[]string{"BOOKING", "tenant,1", "12.5", "record", "late"},
		},
		"audit": {[]string{"audit"}, "GET /api/v1/audit?limit=100", []string{"billing for Bob", "approve", "agreed", "2.5"}},
	} {
		code, stdout, stderr := runMeterd(t, "", append(tt.args, "--server", d.URL)...)
		if code != exitOK {
			t.Errorf("%s: exit %d, %s", name, code, stderr)
		}
		wantOutput(t, stdout, tt.want...)
		if d := cmp.Diff([]string{tt.request}, d.asked()); d != "" {
			t.Errorf("%s: requests (-want +got)\n%s", name, d)
		}
		code, stdout, _ = runMeterd(t, "", append(tt.args, "--server", d.URL, "-o", "json")...)
		var v any
		if code != exitOK || jsonUnmarshal(stdout, &v) != nil {
			t.Errorf("%s as JSON: exit %d, %s", name, code, stdout)
		}
		d.asked()
		if code, _, stderr = runMeterd(t, "", append(tt.args, "--server", d.URL, "--to", "soon")...); code != exitUsage || !strings.Contains(stderr, "--to: must be an RFC 3339 time") {
			t.Errorf("%s --to: exit %d, %s", name, code, stderr)
		}
	}
	if _, _, stderr := runMeterd(t, "", "audit", "--server", d.URL); !strings.Contains(stderr, "There are more") {
		t.Errorf("audit hints at no more: %s", stderr)
	}
	for path, text := range map[string]string{"bookings": `{"bookings":[]}`, "adjustments": `{"adjustments":[],"more":false}`, "audit": `{"entries":[]}`} {
		d.answers["GET /api/v1/"+path] = text
		if code, stdout, stderr := runMeterd(t, "", path, "--server", d.URL); code != exitOK || !strings.HasPrefix(stdout, "no ") || stderr != "" {
			t.Errorf("%s without any: exit %d, %q, %q", path, code, stdout, stderr)
		}
		d.answers["GET /api/v1/"+path] = `{"more":"perhaps"}`
		if code, _, stderr := runMeterd(t, "", path, "--server", d.URL); code != exitFailure || !strings.Contains(stderr, "the answer can't be read") {
			t.Errorf("%s without sense: exit %d, %q", path, code, stderr)
		}
	}
}

func TestAdjustmentsCSV(t *testing.T) {
	t.Parallel()
	csv, err := os.ReadFile("../../internal/httpapi/testdata/adjustments.csv")
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Meterd-More", "true")
		_, _ = w.Write(csv)
	}))
	t.Cleanup(s.Close)
	code, stdout, stderr := runMeterd(t, "", "adjustments", "--server", s.URL, "-o", "csv")
	if code != exitOK || stdout != string(csv) || !strings.Contains(stderr, "There are more") {
		t.Errorf("exit %d, %s%s", code, stdout, stderr)
	}
}

func TestExplainCommand(t *testing.T) {
	t.Parallel()
	events, err := os.ReadFile("../../internal/httpapi/testdata/explain-events.json")
	if err != nil {
		t.Fatal(err)
	}
	path := "GET /api/v1/bill-records/" + testSN + "/explain"
	d := newActsDaemon(t, map[string]string{path: "explain.json", path + "/events": strings.Replace(string(events), `,"next":"cursor"`, "", 1)})
	code, stdout, stderr := runMeterd(t, "", "explain", testSN, "--server", d.URL, "--events")
	if code != exitOK {
		t.Errorf("exit %d, %s", code, stderr)
	}
	wantOutput(t, stdout,
		"bill record "+testSN, "usage 1234.56 + carried in 0.04 = 1.2346 × 1000 + carried out 0", "booking 7 (close)",
		"1235, 3 events (version 80)", "carried in: 0.04", "adjustment "+testSN+": late", "adjustments since the record before", "replaced by",
		"events of 2026-11-23 08:00 to 09:00Z", "void by voider: r (came without a time)")
	if d := cmp.Diff([]string{path, path + "/events?hour=2026-11-23T08%3A00%3A00Z&limit=1000"}, d.asked()); d != "" {
		t.Errorf("requests (-want +got)\n%s", d)
	}
	for _, args := range [][]string{{"-o", "json"}, {"-o", "json", "--events"}} {
		var v map[string]any
		code, stdout, _ = runMeterd(t, "", append([]string{"explain", testSN, "--server", d.URL}, args...)...)
		if code != exitOK || jsonUnmarshal(stdout, &v) != nil {
			t.Errorf("%v: exit %d, %s", args, code, stdout)
		}
	}
	d.answers[path+"/events"] = string(events)
	if code, _, stderr = runMeterd(t, "", "explain", testSN, "--server", d.URL, "--events"); code != exitFailure || !strings.Contains(stderr, "don't go on") {
		t.Errorf("pages: exit %d, %s", code, stderr)
	}
	if code, _, _ = runMeterd(t, "", "explain", ""); code != exitUsage {
		t.Errorf("empty: exit %d", code)
	}
}

func TestVerifyCommand(t *testing.T) {
	t.Parallel()
	d := newActsDaemon(t, map[string]string{"GET /api/v1/verify": "verify.json"})
	code, stdout, stderr := runMeterd(t, "", "verify", "--server", d.URL, "--recount", "--from", "2026-11-23T07:00:00Z", "--to", "2026-11-23T09:00:00Z", "--limit", "7")
	if code != 1 || stderr != "Error: 1 difference found\n" {
		t.Errorf("differences: exit %d, %s", code, stderr)
	}
	wantOutput(t, stdout, "verified   2 accounts up to booking 7, in 1s", "recounted  2 hours, 2026-11-23 07:00 to 09:00Z; 1 waits for the next recount",
		"intake     1 event not in the store yet", "note       a note", "accepted 4", "usage  tenant-1  tokens_total  2026-11-23 08:00 to 09:00Z  5         4      -1",
		"w\n  what to do: d", "\n1 difference\n")
	want := []string{"GET /api/v1/verify?from=2026-11-23T07%3A00%3A00Z&limit=7&recount=true&to=2026-11-23T09%3A00%3A00Z"}
	if d := cmp.Diff(want, d.asked()); d != "" {
		t.Errorf("requests (-want +got)\n%s", d)
	}
	if code, stdout, _ = runMeterd(t, "", "verify", "--server", d.URL, "-o", "json"); code != 1 || !strings.Contains(stdout, `"difference_count": 1`) {
		t.Errorf("json: exit %d, %s", code, stdout)
	}
	d.answers["GET /api/v1/verify"] = `{"ok":true,"totals":[],"differences":[],"difference_count":0}`
	if code, stdout, stderr = runMeterd(t, "", "verify", "--server", d.URL); code != exitOK || !strings.HasSuffix(stdout, "\nok: everything agrees\n") || stderr != "" {
		t.Errorf("ok: exit %d, %s%s", code, stdout, stderr)
	}
	for _, text := range []string{`{"ok":true,"difference_count":1}`, `{"ok":false}`, `{"ok":1}`, `{"type":"urn:meterd:problem:unavailable"}`} {
		d.answers["GET /api/v1/verify"] = text
		if code, _, stderr = runMeterd(t, "", "verify", "--server", d.URL); code != 2 || !strings.Contains(stderr, "it could not be checked") {
			t.Errorf("%s: exit %d, %s", text, code, stderr)
		}
	}
	if code, _, stderr = runMeterd(t, "", "verify", "--server", "http://127.0.0.1:1"); code != 2 || !strings.Contains(stderr, "could not be checked: the daemon at") {
		t.Errorf("nobody there: exit %d, %s", code, stderr)
	}
	for want, args := range map[string][]string{
		"they need --recount": {"--from", "2026-11-23T07:00:00Z"}, "--limit: must be from 1": {"--limit", "0"}, "--to: must be an RFC 3339 time": {"--recount", "--to", "x"},
	} {
		if code, _, stderr = runMeterd(t, "", append([]string{"verify"}, args...)...); code != exitUsage || !strings.Contains(stderr, want) {
			t.Errorf("%v: exit %d, %s", args, code, stderr)
		}
	}
}

// TestVerifyCSV: the outcome is in the trailer; without it nothing is known.
func TestVerifyCSV(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		trailer, contentType string
		code                 int
		stderr               string
	}{
		"ok":          {"0", "text/csv; charset=utf-8", 0, ""},
		"differences": {"3", "text/csv", 1, "Error: 3 differences found\n"},
		"no trailer":  {"", "text/csv", 2, "the answer has no outcome"},
		"no CSV":      {"0", "text/html", 2, "the answer is not CSV"},
	} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", tt.contentType)
			if tt.trailer != "" {
				w.Header().Set("Trailer", httpapi.TrailerDifferences)
			}
			_, _ = io.WriteString(w, "check,verdict\n")
			if tt.trailer != "" {
				w.Header().Set(httpapi.TrailerDifferences, tt.trailer)
			}
		}))
		t.Cleanup(s.Close)
		code, stdout, stderr := runMeterd(t, "", "verify", "--server", s.URL, "-o", "csv")
		if code != tt.code || !strings.Contains(stderr, tt.stderr) || (tt.contentType != "text/html" && stdout != "check,verdict\n") {
			t.Errorf("%s: exit %d, %q, %q", name, code, stdout, stderr)
		}
	}
}
