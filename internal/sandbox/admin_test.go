package sandbox_test

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meterd/meterd/internal/sandbox"
)

// story is a market with records in every state, faults and refused calls, for the golden files.
func story(t *testing.T) market {
	t.Helper()
	m := newMarket(t, nil)
	m.mustPush(t,
		good("sn-1").with("usage_value", "0.1250"),
		good("sn-2"),
		good("sn-3").window(-1).with("relate_pkg_instance", "pkg-1"),
		good(`=cmd|' /C calc'!A0`).window(-2).with("instance_id", `<script>alert("x")</script>`, "usage_value", "-5"),
		good("sn,5\"q").window(-3).with("instance_id", "云商店 & co"),
	)
	r := newRequest(t, start, bodyOf(t, good("sn-6")))
	r.Header.Set("nonce", "<b>other</b>")
	do(t, m, r)
	if got := do(t, m, oldRequest(t, start, bodyOf(t, good("").oldForm().window(-4)))); got.Code != "MKT.0000" {
		t.Fatalf("old push = %+v", got)
	}
	do(t, m, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/%3Cimg%20src=x%3E", http.NoBody))
	m.clock.Add(6 * time.Minute)
	m.mustPush(t, good("sn-7").window(-5))
	m.clock.Add(10 * time.Second)
	m.mustPush(t, good("sn-8").window(-6))
	for _, f := range []sandbox.Fault{
		{Kind: "latency", Delay: sandbox.Duration(2 * time.Second), Count: 3, Path: "/<p>"},
		{Kind: "reject", Code: "013", Instance: `"><script>`, Probability: 0.5},
	} {
		if _, err := m.Inject(f); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func TestCSVGolden(t *testing.T) {
	t.Parallel()
	m := story(t)
	status, body := m.adminDo(t, http.MethodGet, "/sandbox/v1/records.csv", "")
	if status != http.StatusOK {
		t.Fatalf("status = %d: %s", status, body)
	}
	golden(t, "records.csv", body)
	rows, err := csv.NewReader(strings.NewReader(body)).ReadAll()
	if err != nil || len(rows) != len(m.Records())+1 {
		t.Fatalf("the CSV has %d rows, err %v", len(rows), err)
	}
}

func TestPageGolden(t *testing.T) {
	t.Parallel()
	m := story(t)
	for name, target := range map[string]string{
		"page.html":          "/",
		"page_filtered.html": "/?state=abnormal&instance=%3Cscript%3Ealert(%22x%22)%3C%2Fscript%3E&refresh=5",
	} {
		status, body := m.adminDo(t, http.MethodGet, target, "")
		if status != http.StatusOK {
			t.Fatalf("%s: status = %d: %s", target, status, body)
		}
		golden(t, name, body)
		for _, bad := range []string{"<script", "<img", "<b>other", "/<p>"} {
			if strings.Contains(body, bad) {
				t.Errorf("%s holds %q unescaped", target, bad)
			}
		}
	}
	_, body := newMarket(t, nil).adminDo(t, http.MethodGet, "/", "")
	golden(t, "page_empty.html", body)
}

func TestSummaryGolden(t *testing.T) {
	t.Parallel()
	_, body := story(t).adminDo(t, http.MethodGet, "/sandbox/v1/summary", "")
	var v any
	if err := json.Unmarshal([]byte(body), &v); err != nil {
		t.Fatal(err)
	}
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "summary.json", string(text)+"\n")
}

func TestPageHeaders(t *testing.T) {
	t.Parallel()
	m := newMarket(t, nil)
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", http.NoBody)
	r.RemoteAddr = "[::1]:1"
	w := httptest.NewRecorder()
	m.ServeHTTP(w, r)
	if got := w.Header().Get("Content-Security-Policy"); !strings.HasPrefix(got, "default-src 'none'") {
		t.Errorf("Content-Security-Policy = %q", got)
	}
	if status, css := m.adminDo(t, http.MethodGet, "/sandbox.css", ""); status != http.StatusOK || !strings.Contains(css, "light-dark") {
		t.Errorf("style sheet = %d", status)
	}
}

// listed is the answer of the record list.
type listed struct {
	Records []sandbox.Record
	Total   int
	Next    int64 `json:"next_after"`
}

func (m market) list(t *testing.T, query string) listed {
	t.Helper()
	status, body := m.adminDo(t, http.MethodGet, "/sandbox/v1/records"+query, "")
	if status != http.StatusOK {
		t.Fatalf("records%s = %d %s", query, status, body)
	}
	var out listed
	if err := json.Unmarshal([]byte(body), &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestRecordFilters(t *testing.T) {
	t.Parallel()
	m := story(t)
	seqs := func(l listed) string {
		var out []string
		for _, r := range l.Records {
			out = append(out, strconv.FormatInt(r.Seq, 10))
		}
		return strings.Join(out, " ")
	}
	for query, want := range map[string]string{
		"":                 "1 2 3 4 5 6 7 8",
		"?state=abnormal":  "2 4",
		"?state=collected": "1 3 5 6",
		"?state=received":  "8",
		"?state=valid":     "7",
		"?state=":          "1 2 3 4 5 6 7 8",
		"?instance=%E4%BA%91%E5%95%86%E5%BA%97+%26+co":                      "5",
		"?from=2022-08-09T07:00:00Z":                                        "1 2 3",
		"?to=20220809T060000Z":                                              "5 6 7 8",
		"?from=2022-08-09T06:00:00Z&to=2022-08-09T07:00:00Z":                "4",
		"?from=2022-08-09T14:00:00%2B08:00&to=20220809T070000Z&state=valid": "",
	} {
		if got := m.list(t, query); seqs(got) != want {
			t.Errorf("records%s = %q, want %q", query, seqs(got), want)
		}
	}
	// Paging visits every record once.
	var all []string
	after := int64(0)
	for {
		page := m.list(t, fmt.Sprintf("?limit=3&after=%d", after))
		all = append(all, seqs(page))
		if page.Total != 8 {
			t.Errorf("total = %d, want 8", page.Total)
		}
		if after = page.Next; after == 0 {
			break
		}
	}
	if diff := cmp.Diff([]string{"1 2 3", "4 5 6", "7 8"}, all); diff != "" {
		t.Errorf("pages (-want +got):\n%s", diff)
	}
}

func TestAdminMistakes(t *testing.T) {
	t.Parallel()
	m := newMarket(t, nil)
	for name, tc := range map[string]struct {
		method, target, body string
		status               int
		want                 string
	}{
		"unknown parameter": {"GET", "/sandbox/v1/records?color=red", "", 400, "unknown parameter"},
		"parameter twice":   {"GET", "/sandbox/v1/records?state=valid&state=valid", "", 400, "2 times"},
		"bad state":         {"GET", "/sandbox/v1/records?state=lost", "", 400, "must be received"},
		"bad time":          {"GET", "/sandbox/v1/records.csv?from=today", "", 400, "must be a time"},
		"bad limit":         {"GET", "/sandbox/v1/records?limit=0", "", 400, "must be 1 to"},
		"bad after":         {"GET", "/sandbox/v1/records?after=x", "", 400, "record number"},
		"CSV has no pages":  {"GET", "/sandbox/v1/records.csv?limit=3", "", 400, "unknown parameter"},
		"bad refresh":       {"GET", "/?refresh=0", "", 400, "refresh"},
		"unknown path":      {"GET", "/sandbox/v2/records", "", 404, "there is no GET"},
		"wrong method":      {"PUT", "/sandbox/v1/faults", "", 404, "there is no PUT"},
		"fault not JSON":    {"POST", "/sandbox/v1/faults", "{", 400, "decode"},
		"fault empty":       {"POST", "/sandbox/v1/faults", "", 415, "Content-Type"},
		"fault unknown":     {"POST", "/sandbox/v1/faults", `{"kind":"latency","wait":"2s"}`, 400, "unknown field"},
		"fault invalid":     {"POST", "/sandbox/v1/faults", `{"kind":"latency"}`, 400, "delay must be"},
		"fault two":         {"POST", "/sandbox/v1/faults", `{"kind":"throttle"} {}`, 400, "more behind"},
		"no such fault":     {"DELETE", "/sandbox/v1/faults/x", "", 404, "no fault"},
		"no instances":      {"POST", "/sandbox/v1/instances", `{"instances":[]}`, 400, "empty"},
		"instance without":  {"POST", "/sandbox/v1/instances", `{"instances":[{}]}`, 400, "instance_id is empty"},
		"instance too long": {"POST", "/sandbox/v1/instances", `{"instances":[{"instance_id":"` + strings.Repeat("x", 65) + `"}]}`, 400, "longer"},
		"advance back":      {"POST", "/sandbox/v1/advance", `{"by":"-1h"}`, 400, "cannot go back"},
		"advance both":      {"POST", "/sandbox/v1/advance", `{"by":"1h","to":"2022-08-10T00:00:00Z"}`, 400, "not both"},
		"advance to past":   {"POST", "/sandbox/v1/advance", `{"to":"2022-08-08T00:00:00Z"}`, 400, "cannot go back"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			status, body := m.adminDo(t, tc.method, tc.target, tc.body)
			var out struct {
				Error string `json:"error"`
			}
			if err := json.Unmarshal([]byte(body), &out); err != nil {
				t.Fatalf("answer %q: %v", body, err)
			}
			if status != tc.status || !strings.Contains(out.Error, tc.want) {
				t.Errorf("answer = %d %q, want %d with %q", status, out.Error, tc.status, tc.want)
			}
		})
	}
}

func TestAdminIsLocal(t *testing.T) {
	t.Parallel()
	closed := newMarket(t, nil)
	open := newMarket(t, func(o *sandbox.Options) { o.AdminAnywhere = true })
	for _, target := range []string{"/", "/sandbox/v1/records", "/sandbox.css"} {
		for remote, want := range map[string]int{"192.0.2.7:1": 403, "127.0.0.1:1": 200, "[::1]:1": 200, "[::ffff:127.0.0.1]:1": 200, "@": 200, "junk": 403} {
			for m, status := range map[market]int{closed: want, open: 200} {
				r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, target, http.NoBody)
				r.RemoteAddr = remote
				w := httptest.NewRecorder()
				m.ServeHTTP(w, r)
				if w.Code != status {
					t.Errorf("%s from %s = %d, want %d", target, remote, w.Code, status)
				}
			}
		}
	}
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/sandbox/v1/reset", http.NoBody)
	r.RemoteAddr = "127.0.0.1:1"
	r.Header.Set("Sec-Fetch-Site", "cross-site")
	w := httptest.NewRecorder()
	closed.ServeHTTP(w, r)
	if w.Code != http.StatusForbidden {
		t.Errorf("reset from another site's page = %d, want 403", w.Code)
	}
}

// TestAdminActions drives the sandbox over the administration alone.
func TestAdminActions(t *testing.T) {
	t.Parallel()
	m := newMarket(t, nil)
	step := func(method, target, body, want string) {
		t.Helper()
		if status, got := m.adminDo(t, method, target, body); status != http.StatusOK || !strings.Contains(got, want) {
			t.Errorf("%s %s = %d %s, want %s", method, target, status, got, want)
		}
	}
	step("POST", "/sandbox/v1/instances", `{"instances":[{"instance_id":"p","package":true,"start":"2022-01-01T00:00:00Z"},{"instance_id":"c","state":"closed","closed_at":"2022-08-09T08:30:00Z"}]}`, `"declared":2`)
	step("GET", "/sandbox/v1/instances", "", `{"instance_id":"c","state":"closed","closed_at":"2022-08-09T08:30:00Z"}`)
	m.mustPush(t, good("1").with("instance_id", "p"), good("2").with("instance_id", "c"), good("3"))
	step("POST", "/sandbox/v1/validate", "", `"abnormal":2`)
	if diff := cmp.Diff([]string{"abnormal 012", "abnormal 011", "valid"}, m.codes(t)); diff != "" {
		t.Errorf("states (-want +got):\n%s", diff)
	}
	step("POST", "/sandbox/v1/advance", "", `"now":"2022-08-09T09:10:00Z","next_collection":"2022-08-09T09:15:00Z"`)
	step("POST", "/sandbox/v1/advance", `{"by":"5m"}`, `"collected":1`)
	step("POST", "/sandbox/v1/advance", `{"to":"2022-08-09T12:00:00Z"}`, `"now":"2022-08-09T12:00:00Z","next_collection":"2022-08-09T12:15:00Z"`)
	// A moved clock does not move ts: the client's clock is still the true one.
	m.mustPush(t, good("4").window(3))
	step("GET", "/sandbox/v1/records?instance="+testInstance, "", `"received_at":"2022-08-09T12:00:00Z"`)
	step("POST", "/sandbox/v1/faults", `{"kind":"throttle","count":2,"delay":"0s"}`, `"id":"f1"`)
	step("GET", "/sandbox/v1/faults", "", `"fired":0`)
	if got := m.push(t, good("5")); got.Code != "MKT.0250" {
		t.Errorf("push = %+v, want the fault", got)
	}
	step("GET", "/sandbox/v1/requests", "", `"faults":["throttle f1"]`)
	step("DELETE", "/sandbox/v1/faults/f1", "", `"removed":1`)
	step("DELETE", "/sandbox/v1/faults", "", `"removed":0`)
	step("POST", "/sandbox/v1/reset", "", `"now":"2022-08-09T09:10:00Z"`)
	if n := len(m.Records()); n != 0 {
		t.Errorf("%d records after the reset", n)
	}
}

func TestDeclareAllOrNone(t *testing.T) {
	t.Parallel()
	m := newMarket(t, func(o *sandbox.Options) { o.MaxRecords = 2 })
	if err := m.Declare(sandbox.Instance{ID: "a"}, sandbox.Instance{ID: "b", State: "odd"}); err == nil {
		t.Error("an odd state was declared")
	}
	if err := m.Declare(sandbox.Instance{ID: "a"}, sandbox.Instance{ID: "b"}, sandbox.Instance{ID: "c"}); err == nil {
		t.Error("more instances than the limit were declared")
	}
	if n := len(m.Instances()); n != 0 {
		t.Errorf("%d instances are declared, want none", n)
	}
	if err := m.Declare(sandbox.Instance{ID: "a"}, sandbox.Instance{ID: "b"}); err != nil {
		t.Errorf("Declare() = %v", err)
	}
	if err := m.Declare(sandbox.Instance{ID: "a", Delisted: true}); err != nil {
		t.Errorf("Declare() again = %v", err)
	}
}
