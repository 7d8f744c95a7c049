package httpapi_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

const (
	sn1 = "00000000000000000000000000000001"
	sn2 = "00000000000000000000000000000002"
)

func someBooking(kind reporter.BookingKind) reporter.Booking {
	return reporter.Booking{Number: 7, Version: 70, Kind: kind, Window: hour(9), At: testNow, Records: 1, Adjustments: 2, Actor: "billing", Reason: "r"}
}

func heldUsage() []reporter.HeldUsage {
	return []reporter.HeldUsage{{
		Adjustment: reporter.Adjustment{
			ID: sn1, Booking: 5, Version: 50, Booked: hour(9), Hour: hour(7), Subject: "tenant-1", Meter: "tokens_total", InstanceID: "i-1",
			Quantity: meter.MustParseQuantity("12.5"), Into: reporter.IntoHeld, Reason: "late", At: testNow,
		},
		Open: meter.MustParseQuantity("2.5"),
	}}
}

// operate posts an act.
func (b *bundle) operate(t *testing.T, path, body string) answer {
	t.Helper()
	return b.do(t, http.MethodPost, path, operateKey, body, jsonType)
}

// wantAsked compares what the desk was asked.
func (b *bundle) wantAsked(t *testing.T, want ...any) {
	t.Helper()
	if d := cmp.Diff(want, b.doors.asked); d != "" {
		t.Errorf("asked (-want +got):\n%s", d)
	}
	b.doors.asked = nil
}

// TestHeld lists held usage and passes decisions on.
func TestHeld(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	b.doors.held, b.doors.booking = heldUsage(), someBooking(reporter.BookingDecision)
	a := b.do(t, http.MethodGet, "/api/v1/held-usage?limit=1", queryKey, "")
	golden(t, "held.json", a.body)
	if a.header.Get("Link") != "</api/v1/held-usage?after="+sn1+"&limit=1>; rel=\"next\"" {
		t.Errorf("Link = %s", a.header.Get("Link"))
	}
	if a = b.do(t, http.MethodGet, "/api/v1/held-usage?after="+sn1, queryKey, ""); strings.Contains(a.body, `"next"`) {
		t.Errorf("last page = %s", a.body)
	}
	b.wantAsked(t, `held after "" limit 1`, `held after "`+sn1+`" limit 100`)
	a = b.operate(t, "/api/v1/held-usage:decide", `{"ids":["`+sn1+`"],"decision":"approve","reason":" agreed ","on_behalf_of":"王芳"}`)
	golden(t, "decide.json", a.body)
	b.operate(t, "/api/v1/held-usage:decide", `{"ids":["`+sn1+`"],"decision":"write_off","reason":"r"}`)
	b.wantAsked(t,
		reporter.Decision{IDs: []reporter.AdjustmentID{sn1}, Approve: true, Actor: "billing for 王芳", Reason: "agreed"},
		reporter.Decision{IDs: []reporter.AdjustmentID{sn1}, Actor: "billing", Reason: "r"})
}

// TestRecordActs moves and resends records.
func TestRecordActs(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	b.doors.records, b.doors.booking = billRecords(), someBooking(reporter.BookingResend)
	for to, state := range map[string]reporter.State{
		"pending": reporter.StatePending, "written_off": reporter.StateWrittenOff, "unbillable": reporter.StateUnbillable,
	} {
		a := b.operate(t, "/api/v1/bill-records:act", `{"sns":["`+sn1+`","`+sn2+`"],"to":"`+to+`","reason":"r"}`)
		if a.status != http.StatusOK || strings.Count(a.body, `"sn":`) != 2 {
			t.Errorf("%s: %d %s", to, a.status, a.body)
		}
		b.wantAsked(t, reporter.RecordAct{SNs: []reporter.MeteringSN{sn1, sn2}, To: state, Actor: "billing", Reason: "r"})
	}
	a := b.operate(t, "/api/v1/bill-records:resend", `{"sns":["`+sn1+`","`+sn2+`"],"reason":"r","failures":[{"sn":"`+sn2+`","code":"005","message":"no such product"}]}`)
	golden(t, "resend.json", a.body)
	b.wantAsked(t,
		struct {
			Failures []reporter.Failure
			Actor    string
		}{[]reporter.Failure{{SN: sn2, Code: "005", Message: "no such product"}}, "billing"},
		reporter.ResendAct{SNs: []reporter.MeteringSN{sn1, sn2}, Actor: "billing", Reason: "r"})
	b.operate(t, "/api/v1/bill-records:resend", `{"sns":["`+sn1+`"],"reason":"r"}`)
	b.wantAsked(t, reporter.ResendAct{SNs: []reporter.MeteringSN{sn1}, Actor: "billing", Reason: "r"})
}

// TestLife notes changes and tells them.
func TestLife(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	b.doors.booking, b.doors.booked = someBooking(reporter.BookingRelease), true
	a := b.operate(t, "/api/v1/instances/i%2F1/life", `{"kind":"released","at":"2026-11-23T18:20:00+08:00","reason":"order 1"}`)
	golden(t, "life-change.json", a.body)
	b.doors.booked = false
	a = b.operate(t, "/api/v1/instances/i-1/life", `{"kind":"opened","reason":"r"}`)
	if a.status != http.StatusOK || strings.Contains(a.body, "booking") {
		t.Errorf("opened: %d %s", a.status, a.body)
	}
	at := time.Date(2026, 11, 23, 10, 20, 0, 0, time.UTC)
	b.wantAsked(t,
		reporter.LifeAct{InstanceID: "i/1", Kind: reporter.LifeReleased, At: at, Actor: "billing", Reason: "order 1"},
		reporter.LifeAct{InstanceID: "i-1", Kind: reporter.LifeOpened, At: testNow, Actor: "billing", Reason: "r"})
	b.doors.life = []reporter.LifeChange{
		{InstanceID: "i-1", Kind: reporter.LifeOpened, At: at, RecordedAt: testNow, Actor: "billing", Reason: "r"},
		{InstanceID: "i-1", Kind: reporter.LifeFrozen, At: at.Add(time.Minute), RecordedAt: testNow},
	}
	golden(t, "life.json", b.do(t, http.MethodGet, "/api/v1/instances/i-1/life", queryKey, "").body)
	b.wantAsked(t, "life of i-1")
}

// TestBreaker shows the breaker and resets it, which is an act like any other.
func TestBreaker(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	b.doors.breaker = reporter.ReporterStatus{
		LastPassAt: testNow, LastPass: reporter.PassSummary{DueLeft: 3}, Err: "away", Breaker: reporter.BreakerOpen, BreakerRetryAt: testNow.Add(time.Minute),
		ThrottledUntil: testNow.Add(time.Second), Misconfigured: &reporter.Misconfiguration{Since: testNow, Code: "MKT.0102", Message: "signature"},
		BreakerStory: []reporter.BreakerChange{{At: testNow, To: reporter.BreakerOpen, Reason: "timeouts", Failures: 5, RetryAt: testNow.Add(time.Minute)}},
	}
	golden(t, "breaker.json", b.do(t, http.MethodGet, "/api/v1/breaker", queryKey, "").body)
	a := b.operate(t, "/api/v1/breaker:reset", `{"reason":"key mended"}`)
	if a.status != http.StatusOK || !strings.Contains(a.body, `"state":"closed"`) {
		t.Errorf("reset: %d %s", a.status, a.body)
	}
	b.wantAsked(t, "reset by billing")
	if e := b.doors.audit; len(e) != 1 || e[0].Action != "breaker_reset" || e[0].Reason != "key mended" {
		t.Errorf("audit = %+v", e)
	}
	b.doors.auditEr = errors.New("away")
	wantProblem(t, b.operate(t, "/api/v1/breaker:reset", `{"reason":"r"}`), 503, "unavailable")
	b.wantAsked(t)
}

// TestBadActs are refused before the desk is asked.
func TestBadActs(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	many := `"` + sn1 + strings.Repeat(`","`+sn1, 1000) + `"`
	tests := map[string]struct {
		path, body string
		detail     string
		status     int
	}{
		"act without a reason":            {"held-usage:decide", `{"ids":["` + sn1 + `"],"decision":"approve"}`, "reason: is required", 400},
		"act with an unknown field":       {"held-usage:decide", `{"ids":["` + sn1 + `"],"approve":true,"reason":"r"}`, `unknown field "approve"`, 400},
		"act with a parameter":            {"breaker:reset?force=1", `{"reason":"r"}`, `"force": no such parameter`, 400},
		"act in the name of many lines":   {"breaker:reset", `{"reason":"r","on_behalf_of":"a\nb"}`, "on_behalf_of: must be one line", 400},
		"decision about nothing":          {"held-usage:decide", `{"ids":[],"decision":"approve","reason":"r"}`, "ids: give from 1 to 1000", 400},
		"decision about no id":            {"held-usage:decide", `{"ids":["7"],"decision":"approve","reason":"r"}`, "is not the id of held usage", 400},
		"decision twice":                  {"held-usage:decide", `{"ids":["` + sn1 + `","` + sn1 + `"],"decision":"approve","reason":"r"}`, "occurs more than once", 400},
		"decision of another word":        {"held-usage:decide", `{"ids":["` + sn1 + `"],"decision":"yes","reason":"r"}`, "decision: must be approve or write_off", 400},
		"records by no number":            {"bill-records:act", `{"sns":["X"],"to":"pending","reason":"r"}`, "is not the number of a bill record", 400},
		"too many records":                {"bill-records:act", `{"sns":[` + many + `],"to":"pending","reason":"r"}`, "give from 1 to 1000 numbers of bill records (got 1001)", 400},
		"records to another state":        {"bill-records:act", `{"sns":["` + sn1 + `"],"to":"accepted","reason":"r"}`, "to: must be pending, written_off or unbillable", 400},
		"failure of another record":       {"bill-records:resend", `{"sns":["` + sn1 + `"],"failures":[{"sn":"` + sn2 + `","code":"1"}],"reason":"r"}`, "is not among sns", 400},
		"failure without a code":          {"bill-records:resend", `{"sns":["` + sn1 + `"],"failures":[{"sn":"` + sn1 + `"}],"reason":"r"}`, "failures: code: is required", 400},
		"change of an unknown kind":       {"instances/i/life", `{"kind":"closed","reason":"r"}`, "kind: must be opened, frozen, unfrozen or released", 400},
		"change in the future":            {"instances/i/life", `{"kind":"released","at":"2026-11-23T11:00:00Z","reason":"r"}`, "at: must not be in the future", 400},
		"instance with a control sign":    {"instances/a%07b/life", `{"kind":"opened","reason":"r"}`, "id of the instance: must be one line", 400},
		"instance with blanks around it":  {"instances/%20i/life", `{"kind":"opened","reason":"r"}`, "has blanks around it", 400},
		"act with another content type":   {"breaker:reset", "text", "send application/json", 415},
		"instance with a very long id":    {"instances/" + strings.Repeat("i", 257) + "/life", `{"kind":"opened","reason":"r"}`, "has 257 bytes", 400},
		"act with a reason of no letters": {"breaker:reset", `{"reason":" \u00a0 "}`, "reason: is required", 400},
	}
	for name, tt := range tests {
		code, header := "invalid-request", jsonType
		if tt.status == http.StatusUnsupportedMediaType {
			code, header = "unsupported-media-type", "Content-Type: text/plain"
		}
		p := wantProblem(t, b.do(t, http.MethodPost, "/api/v1/"+tt.path, operateKey, tt.body, header), tt.status, code)
		if !strings.Contains(fmt.Sprint(p["detail"]), tt.detail) {
			t.Errorf("%s: detail %q lacks %q", name, p["detail"], tt.detail)
		}
	}
	b.wantAsked(t)
}

// TestActs_Refused: what the books don't permit is told as they say it; what is wrong inside is not.
func TestActs_Refused(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	for name, tt := range map[string]struct {
		err    error
		status int
		code   string
		detail string
	}{
		"unknown":     {fmt.Errorf("held usage %q: %w", sn1, reporter.ErrNotFound), 404, "not-found", "held usage"},
		"not allowed": {fmt.Errorf("record %q is accepted: %w", sn1, reporter.ErrNotAllowed), 409, "not-allowed", "is accepted"},
		"future":      {fmt.Errorf("release: %w", reporter.ErrFuture), 400, "invalid-request", "release"},
		"taken":       {fmt.Errorf("book: %w", reporter.ErrBookingTaken), 503, "unavailable", "nothing was changed"},
		"away":        {errors.New("dial /secret/path"), 503, "unavailable", "the store didn't answer"},
	} {
		b.doors.err = tt.err
		for path, body := range map[string]string{
			"held-usage:decide": `{"ids":["` + sn1 + `"],"decision":"approve","reason":"r"}`, "bill-records:act": `{"sns":["` + sn1 + `"],"to":"pending","reason":"r"}`,
			"bill-records:resend": `{"sns":["` + sn1 + `"],"reason":"r"}`, "instances/i/life": `{"kind":"opened","reason":"r"}`,
		} {
			a := b.operate(t, "/api/v1/"+path, body)
			p := wantProblem(t, a, tt.status, tt.code)
			if !strings.Contains(fmt.Sprint(p["detail"]), tt.detail) || strings.Contains(a.body, "secret") {
				t.Errorf("%s, %s: %s", name, path, a.body)
			}
		}
	}
}

// TestActs_WithoutKeys: on this machine, without keys, acts are those of the one who sits here.
func TestActs_WithoutKeys(t *testing.T) {
	t.Parallel()
	b := setup(t, func(o *options) { o.Keys = nil })
	b.do(t, http.MethodPost, "/api/v1/breaker:reset", "", `{"reason":"r","on_behalf_of":"Bob"}`, jsonType)
	b.wantAsked(t, "reset by local for Bob")
}
