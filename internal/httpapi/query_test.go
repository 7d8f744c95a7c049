package httpapi_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meterd/meterd/meter"
)

func hour(n int) meter.Window {
	return meter.HourOf(time.Date(2026, 11, 23, n, 0, 0, 0, time.UTC))
}

// TestQuery_Parameters reads OpenMeter's parameters.
func TestQuery_Parameters(t *testing.T) {
	t.Parallel()
	shanghai, err := time.LoadLocation("Asia/Shanghai")
	if err != nil {
		t.Fatal(err)
	}
	b := setup(t, nil)
	m, _ := meterOf(t, b, "tokens_total")
	base := meter.Query{Meter: m, From: time.Unix(0, 0).UTC(), To: testNow.Add(time.Minute), Zone: time.UTC}
	tests := map[string]struct {
		query string
		want  func(q *meter.Query)
	}{
		"nothing": {"", func(*meter.Query) {}},
		"period": {"from=2026-11-23T08:00:00Z&to=2026-11-23T18:00:00%2B08:00", func(q *meter.Query) {
			q.From, q.To = hour(8).Start, hour(10).Start
		}},
		"window":         {"windowSize=HOUR", func(q *meter.Query) { q.WindowSize = meter.WindowHour }},
		"window by zone": {"windowSize=day&windowTimeZone=Asia/Shanghai", func(q *meter.Query) { q.WindowSize, q.Zone = meter.WindowDay, shanghai }},
		"subjects":       {"subject=a&subject=b,c", func(q *meter.Query) { q.Subjects, q.GroupBy = []string{"a", "b,c"}, []string{"subject"} }},
		"group by": {"groupBy=model,kind&groupBy=model&groupBy=subject", func(q *meter.Query) {
			q.GroupBy = []string{"model", "kind", "subject"}
		}},
		"filter": {"filterGroupBy[model]=x&filterGroupBy%5Bmodel%5D=y&filterGroupBy[kind]=z", func(q *meter.Query) {
			q.Filter = map[string][]string{"model": {"x", "y"}, "kind": {"z"}}
		}},
		"progress": {"clientId=abc", func(*meter.Query) {}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if a := b.do(t, http.MethodGet, "/api/v1/meters/tokens_total/query?"+tt.query, queryKey, ""); a.status != http.StatusOK {
				t.Fatalf("answer = %d %s", a.status, a.body)
			}
			want := base
			tt.want(&want)
			if d := cmp.Diff(want, b.books.query, cmp.Comparer(func(a, b meter.Meter) bool { return a.Slug == b.Slug }),
				cmp.Comparer(func(a, b *time.Location) bool { return a.String() == b.String() })); d != "" {
				t.Errorf("query (-want +got):\n%s", d)
			}
		})
	}
}

func meterOf(t *testing.T, b *bundle, slug string) (meter.Meter, bool) {
	t.Helper()
	if a := b.do(t, http.MethodGet, "/api/v1/meters/"+slug, queryKey, ""); a.status != http.StatusOK {
		t.Fatalf("meter = %d %s", a.status, a.body)
	}
	return meter.Meter{Slug: slug}, true
}

// TestQuery_BadParameters names every fault at once.
func TestQuery_BadParameters(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	tests := map[string]struct {
		path   string
		status int
		detail string
	}{
		"unknown meter":     {"nothing/query", 404, `there is no meter "nothing"; GET /api/v1/meters lists them`},
		"unknown parameter": {"tokens_total/query?form=2026-01-01T00:00:00Z", 400, `"form": no such parameter`},
		"bad time":          {"tokens_total/query?from=yesterday", 400, `from: must be an RFC 3339 time such as 2026-01-02T15:00:00Z (got "yesterday")`},
		"reversed":          {"tokens_total/query?from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", 400, "from: must be before to"},
		"future only":       {"tokens_total/query?from=2027-01-01T00:00:00Z", 400, "from: must be before to, which is 2026-11-23T10:31:00Z by default"},
		"repeated":          {"tokens_total/query?windowSize=HOUR&windowSize=DAY", 400, "windowSize: occurs more than once"},
		"bad window":        {"tokens_total/query?windowSize=WEEK", 400, `windowSize: must be MINUTE, HOUR, DAY or MONTH (got "WEEK")`},
		"bad zone":          {"tokens_total/query?windowTimeZone=../etc/passwd", 400, `windowTimeZone: must be a name of the IANA time zone database such as Asia/Shanghai (got "../etc/passwd")`},
		"local zone":        {"tokens_total/query?windowTimeZone=Local", 400, `windowTimeZone: must be a name of the IANA time zone database such as Asia/Shanghai (got "Local")`},
		"unknown dimension": {"tokens_total/query?groupBy=colour", 400, `groupBy: the meter has no dimension "colour"; it has subject, model, kind`},
		"unknown filter":    {"tokens_total/query?filterGroupBy[colour]=red", 400, `filterGroupBy: the meter has no dimension "colour"; it has subject, model, kind`},
		"subject filter":    {"tokens_total/query?filterGroupBy[subject]=a", 400, "filterGroupBy[subject]: use subject=… instead"},
		"several":           {"tokens_total/query?from=x&windowSize=y", 400, `from: must be an RFC 3339 time such as 2026-01-02T15:00:00Z (got "x"); windowSize: must be MINUTE, HOUR, DAY or MONTH (got "y")`},
		"bad escape":        {"tokens_total/query?from=%zz", 400, "the query of the URL can't be read"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			code := "invalid-request"
			if tt.status == 404 {
				code = "not-found"
			}
			p := wantProblem(t, b.do(t, http.MethodGet, "/api/v1/meters/"+tt.path, queryKey, ""), tt.status, code)
			if p["detail"] != tt.detail {
				t.Errorf("detail = %q\nwant     %q", p["detail"], tt.detail)
			}
		})
	}
}

// TestQuery_Answers compares whole answers.
func TestQuery_Answers(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	b.books.rows = []meter.QueryRow{
		{Window: hour(8), Subject: "tenant-1", Group: map[string]string{"model": "m", "kind": ""}, Value: meter.MustParseQuantity("12.5")},
		{Window: hour(9), Subject: `te"n,ant`, Group: map[string]string{"model": "é\n", "kind": "in"}, Value: meter.MustParseQuantity("0.000000000000000001")},
	}
	const path = "/api/v1/meters/tokens_total/query?from=2026-11-23T08:00:00Z&to=2026-11-23T10:00:00Z"
	a := b.do(t, http.MethodGet, path+"&windowSize=HOUR&groupBy=subject,model,kind", queryKey, "")
	golden(t, "query.json", a.body)
	if a.status != 200 || a.header.Get("Content-Type") != "application/json" || !json.Valid([]byte(a.body)) {
		t.Errorf("json: %d %v", a.status, a.header)
	}
	a = b.do(t, http.MethodGet, path+"&windowSize=HOUR&groupBy=subject,model,kind", queryKey, "", "Accept: application/json;q=0.5, text/csv")
	golden(t, "query.csv", a.body)
	if a.status != 200 || a.header.Get("Content-Type") != "text/csv; charset=utf-8; header=present" || a.header.Get("Content-Disposition") != `attachment; filename="tokens_total.csv"` {
		t.Errorf("csv: %d %v", a.status, a.header)
	}
	b.books.rows = []meter.QueryRow{{Window: meter.Window{Start: hour(8).Start, End: hour(10).Start}, Value: meter.MustParseQuantity("7")}}
	golden(t, "query-total.json", b.do(t, http.MethodGet, path, queryKey, "").body)
	b.books.rows = nil
	golden(t, "query-empty.json", b.do(t, http.MethodGet, path, queryKey, "").body)
	golden(t, "query-empty.csv", b.do(t, http.MethodGet, path, queryKey, "", "Accept: text/*").body)
	golden(t, "meters.json", b.do(t, http.MethodGet, "/api/v1/meters", queryKey, "").body)
}

// TestQuery_Accept negotiates.
func TestQuery_Accept(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	for accept, want := range map[string]string{
		"":                                       "application/json",
		"*/*":                                    "application/json",
		"text/csv":                               "text/csv",
		"TEXT/CSV; charset=utf-8":                "text/csv",
		"application/json, text/csv":             "application/json",
		"text/csv;q=0.9, application/json;q=0.8": "text/csv",
		"*/*;q=0.1, application/json;q=0":        "text/csv",
		"text/*, */*;q=0.5":                      "text/csv",
		"image/png":                              "",
		"text/csv;q=0":                           "",
		"text/csv;q=x":                           "",
	} {
		a := b.do(t, http.MethodGet, "/api/v1/meters/tokens_total/query", queryKey, "", "Accept: "+accept)
		if want == "" {
			wantProblem(t, a, http.StatusNotAcceptable, "not-acceptable")
		} else if got, _, _ := strings.Cut(a.header.Get("Content-Type"), ";"); got != want {
			t.Errorf("Accept %q gave %s, want %s", accept, got, want)
		}
	}
}

// TestQuery_StoreFails: before the answer has begun it is a problem, afterwards the connection is cut.
func TestQuery_StoreFails(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	b.books.err = errors.New("dial /secret/socket: no such file")
	a := b.do(t, http.MethodGet, "/api/v1/meters/tokens_total/query", queryKey, "")
	wantProblem(t, a, http.StatusServiceUnavailable, "unavailable")
	if strings.Contains(a.body, "secret") || !strings.Contains(b.log.String(), "secret") {
		t.Errorf("the reason must be in the log only; answer %s", a.body)
	}
	b.books.err = fmt.Errorf("syntax: %w", meter.ErrRefused)
	wantProblem(t, b.do(t, http.MethodGet, "/api/v1/meters/tokens_total/query", queryKey, ""), http.StatusInternalServerError, "internal")
	b.books.errAfter = 5000
	for range 6000 {
		b.books.rows = append(b.books.rows, meter.QueryRow{Window: hour(8), Value: meter.NewQuantity(1, 0)})
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, b.server.URL+"/api/v1/meters/tokens_total/query", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Api-Key", queryKey)
	res, err := b.server.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var sink strings.Builder
	if _, err := fmt.Fprint(&sink, readAllError(res)); err != nil || !strings.Contains(sink.String(), "EOF") {
		t.Errorf("half an answer ended with %q, want an error of the connection", sink.String())
	}
}

func readAllError(res *http.Response) error {
	buf := make([]byte, 64<<10)
	for {
		if _, err := res.Body.Read(buf); err != nil {
			if err.Error() == "EOF" {
				return errors.New("clean end")
			}
			return err
		}
	}
}
