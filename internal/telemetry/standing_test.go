package telemetry_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/meterd/meterd/internal/telemetry"
	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

// TestStandingValues compares what is exported with the status it comes from.
func TestStandingValues(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 13, 10, 0, 0, time.UTC)
	tel, err := telemetry.New(t.Context(), telemetry.Options{Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	status := reporter.Status{
		Now: now, ClockErr: "2 h ahead",
		Preflight: &reporter.PreflightReport{At: now.Add(-time.Minute), Results: []reporter.PreflightResult{{Name: "disk"}, {Name: "key", OK: true}}},
		Delivery: &reporter.ReporterStatus{
			ThrottledUntil: now.Add(30 * time.Second), LastPass: reporter.PassSummary{DueLeft: 7, Shadow: &reporter.PassSummary{DueLeft: 3}},
		},
	}
	slo := reporter.SLOStatus{
		At: now, Unsettled: 4, Overdue: 1, Deadline: now.Add(5 * time.Minute), Err: "store away",
		Meters: []reporter.AtRisk{
			{
				Meter: "tokens", Records: 9, Billed: meter.MustParseQuantity("1.5"), Money: meter.MustParseQuantity("0.03"), Priced: true,
				States: map[reporter.State]uint64{reporter.StatePending: 8, reporter.StateHeld: 1},
			},
			{Meter: "calls", Records: 2, Billed: meter.MustParseQuantity("2"), States: map[reporter.State]uint64{reporter.StateHeld: 2}},
		},
	}
	run := reporter.VerifyRun{At: now.Add(-time.Hour), Took: 2 * time.Second, Report: reporter.Report{DifferenceCount: 5}}
	clock := func() time.Time { return now }
	for _, err := range []error{
		tel.ObserveReporting(func() reporter.Status { return status }),
		tel.ObserveSLO(func() reporter.SLOStatus { return slo }, "CNY", clock),
		tel.ObserveVerify(func() (reporter.VerifyRun, bool) { return run, true }, clock),
		tel.ObserveClock(func() (time.Duration, time.Time, bool) { return -3 * time.Second, now, true }),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	observer, err := tel.ReportingObserver()
	if err != nil {
		t.Fatal(err)
	}
	observer.Booked(reporter.Booking{Kind: reporter.BookingRecount}, time.Second)
	observer.Adjusted(reporter.Adjustment{Meter: "tokens", Into: reporter.IntoBalance, Quantity: meter.Quantity{}.Sub(meter.MustParseQuantity("2.5"))})
	observer.BreakerChanged("koogallery", reporter.BreakerHalfOpen)
	w := httptest.NewRecorder()
	tel.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	page := w.Body.String()
	for _, want := range []string{
		"meterd_lease_held 1", "meterd_closing_age_seconds 0", "meterd_clock_distrusted 1", `meterd_preflight_passed{check="disk"} 0`,
		`meterd_preflight_passed{check="key"} 1`, "meterd_preflight_age_seconds 60", "meterd_reporter_throttled_seconds 30",
		"meterd_reporter_due_records 7", "meterd_reporter_shadow_due_records 3",
		"meterd_slo_unsettled 4", "meterd_slo_overdue 1", "meterd_slo_deadline_seconds 300", "meterd_slo_failing 1",
		`meterd_slo_at_risk_records{meter="tokens"} 9`, `meterd_slo_at_risk_quantity{meter="tokens"} 1.5`,
		`meterd_slo_at_risk_money{currency="CNY",meter="tokens"} 0.03`, `meterd_slo_at_risk_by_state{state="held"} 3`,
		`meterd_slo_at_risk_by_state{state="unknown"} 0`,
		"meterd_verify_ok 0", "meterd_verify_failing 0", "meterd_verify_differences 5", "meterd_verify_age_seconds 3600",
		"meterd_verify_duration_seconds 2", "meterd_clock_offset_seconds -3",
		`meterd_books_bookings_total{kind="recount"} 1`,
		`meterd_books_adjusted_quantity_total{into="balance",meter="tokens",sign="credit"} 2.5`,
		`meterd_reporter_breaker_changes_total{marketplace="koogallery",to="half-open"} 1`,
	} {
		if !strings.Contains(page, "\n"+want+"\n") {
			t.Errorf("metrics lack %q", want)
		}
	}
	if strings.Contains(page, `meterd_slo_at_risk_money{currency="CNY",meter="calls"}`) {
		t.Error("a meter without a price has money")
	}
	if strings.Contains(page, "meterd_closing_windows_total ") {
		t.Error("a recount counts as a closed window")
	}
}

// TestStandbyIsNoFault: a daemon that stands by shows nothing that an alert would take for a fault.
func TestStandbyIsNoFault(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 13, 10, 0, 0, time.UTC)
	tel, err := telemetry.New(t.Context(), telemetry.Options{Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	old := meter.HourOf(now.Add(-100 * time.Hour))
	status := reporter.Status{
		Now: now, Lease: &reporter.LeaseStatus{}, LastClosed: reporter.Booking{Window: old},
		Delivery: &reporter.ReporterStatus{LastPass: reporter.PassSummary{DueLeft: 7, OldestDue: old}},
	}
	if err := tel.ObserveReporting(func() reporter.Status { return status }); err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	tel.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for _, want := range []string{
		"meterd_lease_held 0", "meterd_closing_age_seconds 0", "meterd_reporter_due_records 0", "meterd_reporter_oldest_unsettled_seconds 0",
	} {
		if !strings.Contains(w.Body.String(), "\n"+want+"\n") {
			t.Errorf("metrics lack %q", want)
		}
	}
}
