package httpapi_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meterd/meterd/internal/httpapi"
	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

type options = httpapi.Options

// TestBookings lists the log and its filters.
func TestBookings(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	b.books.bookings = []reporter.Booking{
		{Number: 1, Version: 10, Kind: reporter.BookingClose, Window: hour(7), At: testNow, Events: 5, Usages: 1, Records: 1, Balances: 1, SettledAt: testNow},
		{Number: 2, Version: 20, Kind: reporter.BookingRelease, Window: hour(8), At: testNow, Records: 1, InstanceID: "i-1", Actor: "billing", Reason: "order 1"},
	}
	golden(t, "bookings.json", b.do(t, http.MethodGet, "/api/v1/bookings", queryKey, "").body)
	if a := b.do(t, http.MethodGet, "/api/v1/bookings?kind=release,decision&from=2026-11-23T00:00:00Z", queryKey, ""); strings.Count(a.body, `"number"`) != 1 {
		t.Errorf("kind=release: %s", a.body)
	}
	if !b.books.from.Equal(hour(0).Start) || !b.books.to.Equal(testNow) {
		t.Errorf("asked for %s to %s", b.books.from, b.books.to)
	}
	p := wantProblem(t, b.do(t, http.MethodGet, "/api/v1/bookings?kind=lost&limit=1", queryKey, ""), 400, "invalid-request")
	if d := cmp.Diff(`kind: must be close, recount, release, freeze, decision or resend (got "lost"); "limit": no such parameter`, p["detail"]); d != "" {
		t.Error(d)
	}
}

// TestAdjustments in both forms, and with every filter.
func TestAdjustments(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	b.books.adjusted = []reporter.Adjustment{
		heldUsage()[0].Adjustment,
		{ID: sn2, Booking: 6, Hour: hour(7), Subject: "tenant,1", Meter: "tokens_total", Quantity: meter.MustParseQuantity("12.5"), Into: reporter.IntoRecord, Of: sn1, Record: sn2, Actor: "billing", At: testNow},
	}
	golden(t, "adjustments.json", b.do(t, http.MethodGet, "/api/v1/adjustments", queryKey, "").body)
	a := b.do(t, http.MethodGet, "/api/v1/adjustments?subject=s&meter=m&into=held&from=2026-11-23T07:00:00Z&to=2026-11-23T08:00:00Z&from_booking=2&to_booking=9&limit=1",
		queryKey, "", "Accept: text/csv")
	golden(t, "adjustments.csv", a.body)
	if a.header.Get("Meterd-More") != "true" {
		t.Errorf("headers = %v, want Meterd-More", a.header)
	}
	want := reporter.AdjustmentFilter{Subject: "s", Meter: "m", Into: reporter.IntoHeld, Hours: hour(7), FromBooking: 2, ToBooking: 9, Limit: 2}
	if d := cmp.Diff(want, b.books.adjustments); d != "" {
		t.Errorf("filter (-want +got):\n%s", d)
	}
	p := wantProblem(t, b.do(t, http.MethodGet, "/api/v1/adjustments?into=x&from=2026-11-23T07:00:00Z&from_booking=-1&limit=0", queryKey, ""), 400, "invalid-request")
	for _, part := range []string{"into: must be balance", "from and to: give both or none", "from_booking: must be the number of a booking", "limit: must be"} {
		if !strings.Contains(fmt.Sprint(p["detail"]), part) {
			t.Errorf("detail %q lacks %q", p["detail"], part)
		}
	}
}

// TestAudit lists acts.
func TestAudit(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	b.doors.audit = []reporter.AuditEntry{
		{At: testNow, Actor: "billing for Bob", Action: "approve", Target: sn1, Reason: "agreed", Detail: "2.5"},
		{At: testNow, Actor: "billing", Action: "release", Target: "i-1", Reason: "order"},
	}
	golden(t, "audit.json", b.do(t, http.MethodGet, "/api/v1/audit?limit=1", queryKey, "").body)
	b.do(t, http.MethodGet, "/api/v1/audit?from=2026-11-01T00:00:00Z&to=2026-11-02T00:00:00Z", queryKey, "")
	b.wantAsked(t, "audit 2026-08-25T10:31:00Z 2026-11-23T10:31:00Z", "audit 2026-11-01T00:00:00Z 2026-11-02T00:00:00Z")
	b.doors.audit = nil
	if a := b.do(t, http.MethodGet, "/api/v1/audit", queryKey, ""); a.body != `{"entries":[],"more":false}`+"\n" {
		t.Errorf("none = %s", a.body)
	}
	b.doors.err = errors.New("away")
	for _, path := range []string{"audit", "held-usage", "instances/i/life", "bill-records/" + sn1 + "/explain", "verify"} {
		wantProblem(t, b.do(t, http.MethodGet, "/api/v1/"+path, queryKey, ""), 503, "unavailable")
	}
}

func someExplanation() reporter.Explanation {
	records := billRecords()
	adjusted := heldUsage()[0].Adjustment
	counted := reporter.HourlyUsage{Window: hour(8), Quantity: meter.MustParseQuantity("1234.56"), Events: 3, Version: 70}
	latest := counted
	latest.Version, latest.Quantity = 80, meter.MustParseQuantity("1235")
	return reporter.Explanation{
		Record: records[0], Booking: someBooking(reporter.BookingClose), Before: &records[1], ReplacedBy: &records[1],
		Transitions: []reporter.Transition{{Seq: 1, State: reporter.StatePending, At: testNow, Actor: "billing", Detail: "raw"}},
		Usage:       []reporter.ExplainedUsage{{Hour: hour(8), Then: counted, Latest: latest}},
		Adjustments: []reporter.Adjustment{adjusted},
		Carried: []reporter.CarriedLine{
			{Hour: hour(7), Version: 60, Quantity: meter.MustParseQuantity("0.04")},
			{Hour: hour(7), Version: 61, Quantity: meter.MustParseQuantity("1"), Adjustment: &adjusted},
		},
	}
}

// TestExplain answers with everything that led to a record, and page by page with the events behind it.
func TestExplain(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	b.doors.explanation, b.books.records = someExplanation(), billRecords()
	golden(t, "explain.json", b.do(t, http.MethodGet, "/api/v1/bill-records/"+sn1+"/explain", queryKey, "").body)
	b.doors.events = []meter.UsageEvent{
		{Source: "/t", ID: "a", Time: hour(8).Start, Received: testNow, HasValue: true, Quantity: meter.MustParseQuantity("5"), Copies: 2, Counts: true},
		{Source: "/t", ID: "b", Time: hour(8).Start, Received: testNow, Stamped: true, HasValue: true, Text: "x", Copies: 1, Why: meter.NotCountedVoid, Actor: "voider", Reason: "r"},
	}
	b.doors.next = "cursor"
	a := b.do(t, http.MethodGet, "/api/v1/bill-records/"+sn1+"/explain/events", queryKey, "")
	golden(t, "explain-events.json", a.body)
	if !strings.Contains(a.header.Get("Link"), "after=cursor") {
		t.Errorf("Link = %s", a.header.Get("Link"))
	}
	b.do(t, http.MethodGet, "/api/v1/bill-records/"+sn1+"/explain/events?hour=2026-11-23T07:00:00Z&after=cursor&limit=7", queryKey, "")
	b.wantAsked(t, "explain "+sn1, `events of 2026-11-23T08:00:00Z tenant,1 tokens_total after "" limit 100`,
		`events of 2026-11-23T07:00:00Z tenant,1 tokens_total after "cursor" limit 7`)
	for _, path := range []string{"ffff/explain", "ffff/explain/events", strings.Repeat("f", 32) + "/explain/events"} {
		wantProblem(t, b.do(t, http.MethodGet, "/api/v1/bill-records/"+path, queryKey, ""), 404, "not-found")
	}
	wantProblem(t, b.do(t, http.MethodGet, "/api/v1/bill-records/"+sn1+"/explain/events?hour=2026-11-23T07:30:00Z", queryKey, ""), 400, "invalid-request")
	b.doors.err = fmt.Errorf("%w: 00", reporter.ErrUnknownRecord)
	wantProblem(t, b.do(t, http.MethodGet, "/api/v1/bill-records/"+sn1+"/explain", queryKey, ""), 404, "not-found")
	b.doors.err = fmt.Errorf("read events: %w: \"x\" is not a cursor of this list", meter.ErrBadQuery)
	wantProblem(t, b.do(t, http.MethodGet, "/api/v1/bill-records/"+sn1+"/explain/events?after=x", queryKey, ""), 400, "invalid-request")
	b.books.records[0].Meter = "gone"
	wantProblem(t, b.do(t, http.MethodGet, "/api/v1/bill-records/"+sn1+"/explain/events", queryKey, ""), 404, "not-found")
}

func someReport() reporter.Report {
	five, four, one := meter.MustParseQuantity("5"), meter.MustParseQuantity("4"), meter.NewQuantity(-1, 0)
	window := hour(8)
	return reporter.Report{
		StartedAt: testNow, FinishedAt: testNow.Add(time.Second), Booking: 7, Accounts: 2, DifferenceCount: 1,
		Totals: []reporter.MeterTotal{{
			Meter: "tokens_total", Billed: true, Accounts: 2, Booked: five, Records: map[reporter.State]meter.Quantity{reporter.StateAccepted: four},
		}},
		Recount: &reporter.Recounted{From: hour(7).Start, To: hour(9).Start, Hours: 2, Waiting: []reporter.WaitingHour{{Hour: window, Subjects: 1, Touches: 2}}, WaitingCount: 1},
		Intake:  &reporter.Intake{InSpool: 1, Counts: &reporter.IntakeCounts{Before: 1}},
		Notes:   []string{"a note"},
		Differences: []reporter.Difference{{
			Check: reporter.CheckUsage, Subject: "tenant-1", Meter: "tokens_total", Hour: &window, Expected: &five, Found: &four, By: &one, What: "w", Do: "d",
		}},
	}
}

// TestVerify answers with the report; as CSV with the lines and the outcome behind them.
func TestVerify(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	b.doors.report = someReport()
	for range 5000 { // more than is kept before it is sent
		b.doors.lines = append(b.doors.lines, reporter.VerifyLine{Check: reporter.CheckBooks, Verdict: reporter.VerdictOK, Sum: reporter.AccountSum{Subject: "tenant-1", Meter: "tokens_total"}})
	}
	golden(t, "verify.json", b.do(t, http.MethodGet, "/api/v1/verify", queryKey, "").body)
	status, text, trailer := b.verifyCSV(t, "/api/v1/verify?recount=true&from=2026-11-23T07:00:00Z&to=2026-11-23T09:00:00Z&limit=7")
	if status != 200 || strings.Count(text, "\n") != 5001 || !strings.HasPrefix(text, "check,verdict,subject,meter,hour,") || trailer != "1" {
		t.Errorf("CSV: %d, %d bytes, trailer %q", status, len(text), trailer)
	}
	b.wantAsked(t, "verify recount=false 0001-01-01T00:00:00Z 0001-01-01T00:00:00Z limit 100",
		"verify recount=true 2026-11-23T07:00:00Z 2026-11-23T09:00:00Z limit 7")
	b.doors.lines = nil
	if status, text, trailer = b.verifyCSV(t, "/api/v1/verify"); status != 200 || strings.Count(text, "\n") != 1 || trailer != "1" {
		t.Errorf("CSV without lines: %d %q, trailer %q", status, text, trailer)
	}
	p := wantProblem(t, b.do(t, http.MethodGet, "/api/v1/verify?recount=1&to=2026-11-23T09:00:00Z", queryKey, ""), 400, "invalid-request")
	if want := `recount: must be true or false (got "1"); from and to: are the hours to count again; they need recount=true`; p["detail"] != want {
		t.Errorf("detail = %q", p["detail"])
	}
}

// verifyCSV reads a verification with its trailer.
func (b *bundle) verifyCSV(t *testing.T, path string) (status int, text, trailer string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, b.server.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Api-Key", queryKey)
	r.Header.Set("Accept", "text/csv")
	res, err := b.server.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return res.StatusCode, string(body), "broken off"
	}
	return res.StatusCode, string(body), res.Trailer.Get(httpapi.TrailerDifferences)
}

// TestVerify_Fails: half a CSV is cut off and has no outcome.
func TestVerify_Fails(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	b.doors.err = errors.New("away")
	if status, text, trailer := b.verifyCSV(t, "/api/v1/verify"); status != 503 || trailer != "" || !strings.Contains(text, "nothing is known") {
		t.Errorf("at once: %d %s %q", status, text, trailer)
	}
	for range 5000 {
		b.doors.lines = append(b.doors.lines, reporter.VerifyLine{Check: reporter.CheckBooks, Sum: reporter.AccountSum{Subject: "tenant-1"}})
	}
	if status, _, trailer := b.verifyCSV(t, "/api/v1/verify"); status != 200 || trailer != "broken off" {
		t.Errorf("in between: %d, trailer %q", status, trailer)
	}
}

// TestVerify_OneAtATime keeps the store from counting everything twice at once.
func TestVerify_OneAtATime(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	b.doors.gate = make(chan struct{})
	first := make(chan answer)
	go func() { first <- b.do(t, http.MethodGet, "/api/v1/verify", queryKey, "") }()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		b.doors.mu.Lock()
		running := len(b.doors.asked) == 1
		b.doors.mu.Unlock()
		if running {
			break
		}
	}
	p := wantProblem(t, b.do(t, http.MethodGet, "/api/v1/verify", queryKey, ""), 503, "unavailable")
	if !strings.Contains(fmt.Sprint(p["detail"]), "running already") {
		t.Errorf("detail = %v", p["detail"])
	}
	close(b.doors.gate)
	if a := <-first; a.status != http.StatusOK {
		t.Errorf("the first: %d %s", a.status, a.body)
	}
}

// TestVerify_SlowCSV: over HTTP/2 an answer whose parts take longer to be made than to be sent is not cut off.
func TestVerify_SlowCSV(t *testing.T) {
	t.Parallel()
	b := setup(t, func(o *options) {
		o.RequestTimeout = 100 * time.Millisecond
		o.Doors.Verify = func(_ context.Context, o reporter.VerifyOptions) (reporter.Report, error) {
			line := reporter.VerifyLine{Check: reporter.CheckBooks, Sum: reporter.AccountSum{Subject: "tenant-1"}}
			for i := range 5000 {
				if i == 4000 {
					time.Sleep(300 * time.Millisecond) // the work itself: longer than the deadline of a part
				}
				if err := o.Lines(line); err != nil {
					return reporter.Report{}, err
				}
			}
			return reporter.Report{OK: true}, nil
		}
	})
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(transport.CloseIdleConnections)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, b.server.URL+"/api/v1/verify", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Api-Key", queryKey)
	r.Header.Set("Accept", "text/csv")
	res, err := transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil || res.ProtoMajor != 2 || strings.Count(string(text), "\n") != 5001 || res.Trailer.Get(httpapi.TrailerDifferences) != "0" {
		t.Errorf("%s, %d bytes, trailer %v, %v", res.Proto, len(text), res.Trailer, err)
	}
}
