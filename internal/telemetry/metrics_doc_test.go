package telemetry_test

import (
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meterd/meterd/internal/httpapi"
	"github.com/meterd/meterd/internal/telemetry"
	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/meter/spool"
	"github.com/meterd/meterd/reporter"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const (
	metricsPage  = "../../docs/metrics.md"
	metricsBegin = "<!-- metrics: made by go test ./internal/telemetry -update -->\n"
	metricsEnd   = "<!-- end of metrics -->\n"
)

// TestMetricsPageGolden compares docs/metrics.md with what the endpoint serves once every instrument has a value.
func TestMetricsPageGolden(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(metricsPage)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok1 := strings.Cut(string(page), metricsBegin)
	got, after, ok2 := strings.Cut(rest, metricsEnd)
	if !ok1 || !ok2 {
		t.Fatalf("%s lacks the marks around its table", metricsPage)
	}
	want := metricsTable(scrape(t))
	if *update {
		if err := os.WriteFile(metricsPage, []byte(before+metricsBegin+want+metricsEnd+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s is out of date; run go test ./internal/telemetry -update (-want +got):\n%s", metricsPage, diff)
	}
}

// scrape gives every instrument a value and returns the endpoint's text.
func scrape(t *testing.T) string {
	t.Helper()
	tel, err := telemetry.New(t.Context(), telemetry.Options{Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	now := func() time.Time { return time.Unix(0, 0) }
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	must(tel.ObserveIngest(func() meter.IngestStats {
		return meter.IngestStats{Rejected: map[meter.Reason]uint64{meter.ReasonTime: 1}, Failed: map[string]uint64{"full": 1}}
	}))
	must(tel.ObserveLoader(func() meter.LoaderProgress { return meter.LoaderProgress{} }))
	must(tel.ObserveDeadLetters(func() meter.DeadLetterStats { return meter.DeadLetterStats{} }))
	must(tel.ObserveSpool(func() spool.Stats { return spool.Stats{} }, now))
	must(tel.ObserveReporting(func() reporter.Status {
		return reporter.Status{Preflight: &reporter.PreflightReport{Results: []reporter.PreflightResult{{Name: "disk", OK: true}}}}
	}))
	must(tel.ObserveClock(func() (time.Duration, time.Time, bool) { return time.Second, now(), true }))
	must(tel.ObserveSLO(func() reporter.SLOStatus {
		return reporter.SLOStatus{Meters: []reporter.AtRisk{{Meter: "tokens", Priced: true}}}
	}, "CNY", now))
	must(tel.ObserveVerify(func() (reporter.VerifyRun, bool) { return reporter.VerifyRun{}, true }, now))
	must(tel.ObserveStore(func() telemetry.StoreStats { return telemetry.StoreStats{} }))
	requests, err := tel.RequestObserver()
	must(err)
	requests(httpapi.Observation{Route: "/api/v1/events", Method: "POST", Status: 204})
	books, err := tel.ReportingObserver()
	must(err)
	books.RecordsChanged(reporter.StateAccepted, 1)
	books.CallDone(reporter.Call{Marketplace: "koogallery", Class: reporter.ClassAccepted, Code: "MKT.0000"})
	books.Booked(reporter.Booking{Kind: reporter.BookingClose}, time.Second)
	books.Adjusted(reporter.Adjustment{Meter: "tokens", Into: reporter.IntoBalance, Quantity: meter.MustParseQuantity("1")})
	books.BreakerChanged("koogallery", reporter.BreakerOpen)

	w := httptest.NewRecorder()
	tel.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	return w.Body.String()
}

// metricsTable is the page's table: name with labels, type, meaning.
func metricsTable(text string) string {
	help, kind, labels := map[string]string{}, map[string]string{}, map[string][]string{}
	for line := range strings.Lines(text) {
		words := strings.SplitN(strings.TrimSpace(line), " ", 4)
		switch {
		case strings.HasPrefix(line, "# HELP meterd_"):
			help[words[2]] = words[3]
		case strings.HasPrefix(line, "# TYPE meterd_"):
			kind[words[2]] = words[3]
		case strings.HasPrefix(line, "meterd_"):
			name, rest, labelled := strings.Cut(words[0], "{")
			if !labelled {
				continue
			}
			for pair := range strings.SplitSeq(strings.TrimSuffix(rest, "}"), ",") {
				label, _, _ := strings.Cut(pair, "=")
				for _, suffix := range []string{"_bucket", "_sum", "_count"} {
					if base := strings.TrimSuffix(name, suffix); kind[base] == "histogram" {
						name = base
					}
				}
				if label != "le" && !slices.Contains(labels[name], label) {
					labels[name] = append(labels[name], label)
				}
			}
		}
	}
	names := make([]string, 0, len(help))
	for name := range help {
		names = append(names, name)
	}
	slices.Sort(names)
	var b strings.Builder
	b.WriteString("| metric | type | labels | meaning |\n| --- | --- | --- | --- |\n")
	for _, name := range names {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", name, kind[name], strings.Join(labels[name], ", "), help[name])
	}
	return b.String()
}
