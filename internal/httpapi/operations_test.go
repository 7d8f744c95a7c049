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

	"github.com/meterd/meterd/internal/httpapi"
	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

func billRecords() []reporter.BillRecord {
	at := time.Date(2026, 11, 23, 9, 5, 0, 0, time.UTC)
	return []reporter.BillRecord{
		{
			SN: "00000000000000000000000000000001", Seller: "default", InstanceID: "i-1", Subject: "tenant,1", Meter: "tokens_total", Window: hour(8),
			Usage: meter.MustParseQuantity("1234.56"), CarriedIn: meter.MustParseQuantity("0.04"), Scale: meter.NewQuantity(1000, 0),
			Billed: meter.MustParseQuantity("1.2346"), CarriedOut: meter.MustParseQuantity("0"), RecordTime: at, Booked: hour(8),
			Last: reporter.Transition{State: reporter.StateAccepted, Seq: 3, At: at.Add(time.Second), Attempt: 1, Code: "MKT.0000"},
		},
		{
			SN: "00000000000000000000000000000002", Seller: "default", InstanceID: "i-2", Subject: "tenant-2", Meter: "tokens_total", Window: hour(8),
			Usage: meter.MustParseQuantity("5"), Scale: meter.NewQuantity(1000, 0), Billed: meter.MustParseQuantity("0.005"), RecordTime: at,
			Package: "p-1", ProductID: "OFFI1", Revision: 1, Booked: hour(9), Mode: reporter.ModeShadow, Replaces: "00000000000000000000000000000001",
			Last: reporter.Transition{State: reporter.StateHeld, Seq: 1, At: at, Message: "an \"odd\" reason"},
		},
	}
}

// TestRecords_Answers compares whole answers in both forms.
func TestRecords_Answers(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	b.books.records = billRecords()
	a := b.do(t, http.MethodGet, "/api/v1/bill-records", queryKey, "")
	golden(t, "bill-records.json", a.body)
	if a.status != 200 || !json.Valid([]byte(a.body)) || a.header.Get("Link") != "" {
		t.Errorf("json: %d %v", a.status, a.header)
	}
	a = b.do(t, http.MethodGet, "/api/v1/bill-records?limit=2&state=accepted", queryKey, "", "Accept: text/csv")
	golden(t, "bill-records.csv", a.body)
	cursor := reporter.Cursor(b.books.records[1])
	if want := "</api/v1/bill-records?cursor=" + cursor + "&limit=2&state=accepted>; rel=\"next\""; a.header.Get("Link") != want {
		t.Errorf("Link = %s, want %s", a.header.Get("Link"), want)
	}
	b.books.transitions = []reporter.Transition{
		{Seq: 1, State: reporter.StatePending, At: testNow},
		{Seq: 2, State: reporter.StateSending, At: testNow, Attempt: 1, Endpoint: "https://mkt.example.test"},
		{Seq: 3, State: reporter.StateAccepted, At: testNow, Attempt: 1, Code: "MKT.0000", Message: "success", RequestHash: "abcd", Latency: 30 * time.Millisecond},
	}
	golden(t, "bill-record.json", b.do(t, http.MethodGet, "/api/v1/bill-records/00000000000000000000000000000001", queryKey, "").body)
	b.books.bookings = []reporter.Booking{
		{Number: 1, Kind: reporter.BookingClose, Window: hour(7), Version: 1, At: testNow, Events: 10, Usages: 2, Records: 2, SettledAt: testNow.Add(time.Minute)},
		{Number: 2, Kind: reporter.BookingRecount, Window: hour(7), Version: 2, At: testNow, Adjustments: 1},
		{Number: 3, Kind: reporter.BookingClose, Window: hour(8), Version: 3, At: testNow},
	}
	golden(t, "windows.json", b.do(t, http.MethodGet, "/api/v1/windows", queryKey, "").body)
	if !b.books.to.Equal(testNow) || !b.books.from.Equal(testNow.Add(-7*24*time.Hour)) {
		t.Errorf("windows from %s to %s, want the last week", b.books.from, b.books.to)
	}
}

// TestRecords_Filter reads every parameter.
func TestRecords_Filter(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	cursor := reporter.Cursor(billRecords()[0])
	a := b.do(t, http.MethodGet, "/api/v1/bill-records?instance=i&subject=s&meter=m&state=held,rejected&state=unknown&from=2026-11-23T08:00:00Z"+
		"&to=2026-11-23T09:00:00Z&limit=7&cursor="+cursor, queryKey, "")
	if a.status != http.StatusOK {
		t.Fatalf("answer = %d %s", a.status, a.body)
	}
	want := reporter.RecordFilter{
		InstanceID: "i", Subject: "s", Meter: "m", States: []reporter.State{reporter.StateHeld, reporter.StateRejected, reporter.StateUnknown},
		From: hour(8).Start, To: hour(9).Start, After: cursor, Limit: 7,
	}
	if d := cmp.Diff(want, b.books.filter); d != "" {
		t.Errorf("filter (-want +got):\n%s", d)
	}
	p := wantProblem(t, b.do(t, http.MethodGet, "/api/v1/bill-records?state=gone&limit=0&cursor=x&windowSize=DAY", queryKey, ""), 400, "invalid-request")
	detail := fmt.Sprint(p["detail"])
	for _, part := range []string{`state: unknown state "gone"`, "limit: must be a whole number from 1 to 10000", "cursor: is not a cursor", `"windowSize": no such parameter`} {
		if !strings.Contains(detail, part) {
			t.Errorf("detail %q lacks %q", detail, part)
		}
	}
	wantProblem(t, b.do(t, http.MethodGet, "/api/v1/bill-records/ffff", queryKey, ""), 404, "not-found")
	b.books.err = errors.New("away")
	for _, path := range []string{"/api/v1/bill-records", "/api/v1/bill-records/1", "/api/v1/windows"} {
		wantProblem(t, b.do(t, http.MethodGet, path, queryKey, ""), 503, "unavailable")
	}
}

// TestAdmin_Close passes the time on and shows the summary.
func TestAdmin_Close(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	b.books.summary.Closed = reporter.ClosedSummary{
		Windows: 2, First: hour(7), Last: hour(8), Events: 10, Usages: 3, Records: 3, Recounts: 1, Adjustments: 2,
		States: map[reporter.State]uint64{reporter.StatePending: 2, reporter.StateCarried: 1},
	}
	b.books.summary.Delivered = reporter.PassSummary{Unsettled: 1, OldestDue: hour(8), RetryAt: testNow, Shadow: &reporter.PassSummary{Shadowed: 2}}
	a := b.do(t, http.MethodPost, "/api/v1/admin/close", adminKey, `{"until":"2026-11-23T17:00:00+08:00"}`, "Content-Type: application/json")
	golden(t, "close.json", a.body)
	if a.status != http.StatusOK || !b.books.until.Equal(hour(9).Start) {
		t.Errorf("status %d, until %s", a.status, b.books.until)
	}
	for body, detail := range map[string]string{
		"":                                  "until: is required, as an RFC 3339 time; windows whose end and grace period are before it are closed",
		"{}":                                "until: is required, as an RFC 3339 time; windows whose end and grace period are before it are closed",
		`{"when":"x"}`:                      `the body can't be read: unknown field "when"`,
		`{"until":"2026-11-23T11:00:00Z"}`:  "close until 2026-11-23T11:00:00Z: a window can't be closed before it has ended",
		`{"until":"2026-11-23T09:00:00Z"}{`: "the body holds more than one JSON value",
	} {
		p := wantProblem(t, b.do(t, http.MethodPost, "/api/v1/admin/close", adminKey, body, "Content-Type: application/json"), 400, "invalid-request")
		if p["detail"] != detail {
			t.Errorf("%s: detail = %q, want %q", body, p["detail"], detail)
		}
	}
	for err, want := range map[error]struct {
		status int
		code   string
		detail string
	}{
		errors.New("away"): {503, "unavailable", "didn't come to its end"}, reporter.ErrNotHolder: {409, "not-allowed", "another daemon"},
		reporter.ErrClockAhead: {503, "unavailable", "clock is ahead"},
	} {
		b.books.err = fmt.Errorf("close: %w", err)
		p := wantProblem(t, b.do(t, http.MethodPost, "/api/v1/admin/close", adminKey, `{"until":"2026-11-23T09:00:00Z"}`), want.status, want.code)
		if !strings.Contains(fmt.Sprint(p["detail"]), want.detail) {
			t.Errorf("%v: detail = %v", err, p["detail"])
		}
	}
	wantProblem(t, b.do(t, http.MethodPost, "/api/v1/admin/close", adminKey, `{}`, "Content-Type: text/plain"), 415, "unsupported-media-type")
}

// TestAdmin_Status shows what the daemon gives.
func TestAdmin_Status(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	golden(t, "status.json", b.do(t, http.MethodGet, "/api/v1/admin/status", adminKey, "").body)
	b = setup(t, func(o *httpapi.Options) { o.Status = nil })
	if a := b.do(t, http.MethodGet, "/api/v1/admin/status", adminKey, ""); a.status != 200 {
		t.Errorf("without a status: %d %s", a.status, a.body)
	}
}

// TestDeadLetters_Replay refuses events, mends the clock, and replays them.
func TestDeadLetters_Replay(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	b.post(t, strings.Replace(event("negative"), "5", "-5", 1))
	b.post(t, "{broken")
	// This one is taken the second time, as if the daemon's clock had been behind.
	tooEarly := strings.Replace(event("early"), "T10:00:00Z", "T10:45:00Z", 1)
	b.post(t, tooEarly)
	a := b.do(t, http.MethodGet, "/api/v1/dead-letters?limit=2", adminKey, "")
	var page struct {
		DeadLetters []meter.DeadLetter `json:"dead_letters"`
		Next        uint64             `json:"next"`
	}
	if err := json.Unmarshal([]byte(a.body), &page); err != nil || len(page.DeadLetters) != 2 || page.Next == 0 || a.header.Get("Link") == "" {
		t.Fatalf("page = %s, %v", a.body, err)
	}
	a = b.do(t, http.MethodGet, fmt.Sprintf("/api/v1/dead-letters?after=%d", page.Next), adminKey, "")
	if err := json.Unmarshal([]byte(a.body), &page); err != nil || len(page.DeadLetters) != 1 || page.DeadLetters[0].Reason != meter.ReasonTimeInFuture {
		t.Fatalf("second page = %s, %v", a.body, err)
	}
	early := page.DeadLetters[0].ID
	b.later.Store(int64(20 * time.Minute))
	a = b.do(t, http.MethodPost, "/api/v1/dead-letters:replay", adminKey, fmt.Sprintf(`{"ids":[1,2,%d,99]}`, early), "Content-Type: application/json")
	var result struct {
		Replayed int
		Results  []struct {
			ID             uint64
			Status, Reason string
		}
	}
	if err := json.Unmarshal([]byte(a.body), &result); err != nil {
		t.Fatalf("%s: %v", a.body, err)
	}
	got := fmt.Sprint(result)
	if want := fmt.Sprintf("{1 [{1 rejected value_negative} {2 rejected malformed_json} {%d accepted } {99 unknown }]}", early); got != want {
		t.Errorf("replay = %s\nwant     %s", got, want)
	}
	if stored := b.stored(t); len(stored) != 1 || !strings.HasPrefix(stored[0], "early ") {
		t.Errorf("stored = %v", stored)
	}
	letters, _, err := b.letters.List(0, 10)
	if err != nil || len(letters) != 2 {
		t.Errorf("dead letters left = %+v, %v; want the two bad ones", letters, err)
	}
	for body, status := range map[string]int{`{}`: 400, `{"ids":[]}`: 400, `{"ids":[-1]}`: 400, `{"ids":"all"}`: 400, `{"ids":[` + strings.Repeat("1,", 1000) + `1]}`: 400} {
		wantProblem(t, b.do(t, http.MethodPost, "/api/v1/dead-letters:replay", adminKey, body), status, "invalid-request")
	}
	wantProblem(t, b.do(t, http.MethodGet, "/api/v1/dead-letters?after=x", adminKey, ""), 400, "invalid-request")
	b = setup(t, func(o *httpapi.Options) { o.DeadLetters = nil })
	wantProblem(t, b.do(t, http.MethodGet, "/api/v1/dead-letters", adminKey, ""), 404, "not-found")
	wantProblem(t, b.do(t, http.MethodPost, "/api/v1/dead-letters:replay", adminKey, `{"ids":[1]}`), 404, "not-found")
}
