package reporter_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
	"github.com/meterd/meterd/reporter/reportertest"
)

func at(minute int) time.Time { return noon.Start.Add(time.Duration(minute) * time.Minute) }

func TestCloseDueWritesUsageAndRecords(t *testing.T) {
	t.Parallel()
	unbilled := tokens("1")
	unbilled.Slug, unbilled.Billed = "seen", false
	b := newBench(t, []meter.Meter{tokens("1000"), unbilled})
	b.books.AddUsage("inst-a", "tokens", at(0), q("1500"))
	b.books.AddUsage("inst-a", "tokens", at(59), q("734.05"))
	b.books.AddUsage("inst-a", "seen", at(30), q("7"))
	b.books.AddUsage("inst-a", "tokens", at(60), q("9")) // the next hour
	sum := b.close()
	want := reporter.ClosedSummary{
		Windows: 1, First: noon, Last: noon, Events: 3, Usages: 2, Records: 1,
		States: map[reporter.State]uint64{reporter.StatePending: 1},
	}
	if diff := cmp.Diff(want, sum); diff != "" {
		t.Errorf("CloseDue differs (-want +got):\n%s", diff)
	}
	r := b.record("inst-a")
	got := fmt.Sprint(r.InstanceID, " ", r.Usage, " ", r.CarriedIn, " ", r.Billed, " ", r.CarriedOut, " ", r.RecordTime.Format(time.RFC3339))
	if want := "inst-a 2234.05 0 2.234 0.05 2026-03-01T13:05:00Z"; got != want {
		t.Errorf("record = %s, want %s", got, want)
	}
	rows, err := b.books.Usage(t.Context(), noon.Start, noon.End, 10)
	if err != nil || len(rows) != 2 || rows[0].Meter != "seen" || rows[1].Quantity.String() != "2234.05" {
		t.Errorf("Usage = %v, %v, want 7 seen and 2234.05 tokens", rows, err)
	}
	if again := b.close(); again.Windows != 0 {
		t.Errorf("closing again closed %d windows, want 0", again.Windows)
	}
}

func TestCloseDueRespectsGraceAndClock(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		until   time.Time
		windows int
		err     error
	}{
		"future":             {at(66), 0, reporter.ErrFuture},
		"exactly at grace":   {at(65), 1, nil},
		"just before grace":  {at(65).Add(-1), 0, nil},
		"in the window":      {at(30), 0, nil},
		"before everything":  {at(-600), 0, nil},
		"no time at all":     {time.Time{}, 0, nil},
		"one ns too far":     {at(65).Add(1), 0, reporter.ErrFuture},
		"zone does not help": {at(65).In(time.FixedZone("x", 3600)), 1, nil},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, []meter.Meter{tokens("1")})
			b.books.AddUsage("inst-a", "tokens", at(10), q("1"))
			sum, err := b.newCloser().CloseDue(t.Context(), tc.until)
			if sum.Windows != tc.windows || !errors.Is(err, tc.err) {
				t.Errorf("CloseDue = %d windows, %v, want %d, %v", sum.Windows, err, tc.windows, tc.err)
			}
		})
	}
}

func TestCloseDueCatchesUpOldestFirstWithEmptyHours(t *testing.T) {
	t.Parallel()
	b := newBench(t, []meter.Meter{tokens("1")})
	b.books.AddUsage("inst-a", "tokens", at(0), q("1"))
	b.close()
	b.books.AddUsage("inst-a", "tokens", at(3*24*60), q("2"))
	b.clock.Advance(3 * 24 * time.Hour)
	sum := b.close()
	if sum.Windows != 72 || sum.First != noon.Next() || sum.Records != 1 {
		t.Errorf("CloseDue = %d windows from %s with %d records, want 72 from %s with 1", sum.Windows, sum.First, sum.Records, noon.Next())
	}
	closes, err := b.books.Bookings(t.Context(), noon.Start, b.clock.Now())
	if err != nil || len(closes) != 73 {
		t.Fatalf("Bookings = %d, %v, want 73", len(closes), err)
	}
	for i := 1; i < len(closes); i++ {
		if closes[i].Window != closes[i-1].Window.Next() || closes[i].Version <= closes[i-1].Version {
			t.Errorf("close %d: %s version %d after %s version %d", i, closes[i].Window, closes[i].Version, closes[i-1].Window, closes[i-1].Version)
		}
	}
}

func TestCloseDueWithoutEvents(t *testing.T) {
	t.Parallel()
	b := newBench(t, []meter.Meter{tokens("1")})
	if sum := b.close(); sum.Windows != 0 {
		t.Errorf("closed %d windows without any event, want 0", sum.Windows)
	}
}

func TestRemaindersAreCarriedExactly(t *testing.T) {
	t.Parallel()
	b := newBench(t, []meter.Meter{tokens("1000")})
	b.books.AddUsage("inst-a", "tokens", at(0), q("0.05"))   // less than 0.0001 billed units
	b.books.AddUsage("inst-a", "tokens", at(121), q("0.06")) // an idle hour in between
	b.books.AddUsage("inst-a", "tokens", at(180), q("0"))
	b.clock.Set(at(245))
	b.close()
	var got []string
	for _, r := range b.books.All() {
		got = append(got, fmt.Sprint(r.Window.Start.Hour(), " ", r.Usage, "+", r.CarriedIn, "=", r.Billed, "&", r.CarriedOut, " ", r.Last.State))
	}
	want := []string{"12 0.05+0=0&0.05 carried", "14 0.06+0.05=0.0001&0.01 pending"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("records differ (-want +got):\n%s", diff)
	}
	if faults := b.books.CheckConservation(b.meters); len(faults) > 0 {
		t.Errorf("not conserved: %v", faults)
	}
}

func TestUnsendableRecordsAreHeld(t *testing.T) {
	t.Parallel()
	explicit := billed("bytes", "")
	b := newBench(t, []meter.Meter{tokens("1"), explicit}, reporter.Mapping{Subject: "inst-a", Meter: "bytes", InstanceID: "inst-bytes"})
	long := strings.Repeat("x", 65)
	for subject, slug := range map[string]string{"inst-ok": "tokens", "inst-unmapped": "bytes", "inst-tiny": "bytes", long: "tokens"} {
		amount := q("5")
		if subject == "inst-tiny" {
			amount = q("0.00001")
		}
		b.books.AddUsage(subject, slug, at(5), amount)
	}
	b.books.AddUsage("inst-huge", "tokens", at(5), q("100000000"))
	b.close()
	tests := map[string]struct {
		state    reporter.State
		reason   string
		instance string
	}{
		"inst-ok":       {reporter.StatePending, "", "inst-ok"},
		"inst-unmapped": {reporter.StateHeld, `subject "inst-unmapped" has no marketplace instance for meter "bytes"`, ""},
		"inst-tiny":     {reporter.StateCarried, "no marketplace instance", ""},
		long:            {reporter.StateHeld, "must have 1 to 64 characters", long},
		"inst-huge":     {reporter.StateHeld, "100000000 is above the largest the marketplace takes, 99999999.9999", "inst-huge"},
	}
	for subject, want := range tests {
		r := b.record(subject)
		if r.Last.State != want.state || !strings.Contains(r.Last.Message, want.reason) || r.InstanceID != want.instance {
			t.Errorf("%s: %s %q instance %q, want %s %q instance %q",
				subject, r.Last.State, r.Last.Message, r.InstanceID, want.state, want.reason, want.instance)
		}
		if want.state == reporter.StateHeld && len(b.logs.lines("level=WARN", string(r.SN))) != 1 {
			t.Errorf("%s: no warning names record %s", subject, r.SN)
		}
	}
	if faults := b.books.CheckConservation(b.meters); len(faults) > 0 {
		t.Errorf("not conserved: %v", faults)
	}
}

// Two subjects whose usage goes to the same instance are both held, although the first one's record is written in an
// earlier chunk than the second one is seen.
func TestSharedInstanceHoldsEverybody(t *testing.T) {
	t.Parallel()
	b := newBench(t, []meter.Meter{billed("tokens", "{subject}"), billed("calls", "{subject}-calls")})
	b.closer.ChunkRows = 1
	b.books.AddUsage("x", "calls", at(1), q("3"))
	b.books.AddUsage("x-calls", "tokens", at(1), q("4"))
	b.books.AddUsage("x-calls", "calls", at(1), q("5"))
	b.books.AddUsage("y", "tokens", at(1), q("6"))
	b.close()
	want := map[string]string{
		"x/calls":        `held marketplace instance "x-calls" is shared with subject "x-calls" meter "tokens"; the marketplace takes one record per instance and hour`,
		"x-calls/tokens": `held marketplace instance "x-calls" is shared with subject "x" meter "calls"; the marketplace takes one record per instance and hour`,
		"x-calls/calls":  "pending ",
		"y/tokens":       "pending ",
	}
	got := map[string]string{}
	for _, r := range b.books.All() {
		got[r.Subject+"/"+r.Meter] = r.Last.State.String() + " " + r.Last.Message
		if r.Last.State == reporter.StateHeld && r.InstanceID != "" {
			t.Errorf("held record of %s has the shared instance %s, want none", r.Subject, r.InstanceID)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("records differ (-want +got):\n%s", diff)
	}
}

// flusher is a barrier that can be made to fail.
type flusher struct {
	fail  error
	block bool
	calls int
}

func (f *flusher) Flush(ctx context.Context) error {
	f.calls++
	if f.block {
		<-ctx.Done()
		return ctx.Err()
	}
	return f.fail
}

func TestNothingIsClosedWithoutTheBarrier(t *testing.T) {
	t.Parallel()
	b := newBench(t, []meter.Meter{tokens("1")})
	b.books.AddUsage("inst-a", "tokens", at(0), q("1"))
	f := &flusher{fail: errors.New("store is down")}
	b.closer.Flusher, b.closer.FlushTimeout = f, time.Millisecond
	c := b.newCloser()
	if sum, err := c.CloseDue(t.Context(), b.clock.Now()); sum.Windows != 0 || !errors.Is(err, f.fail) {
		t.Errorf("CloseDue = %d, %v, want 0 and the flusher's error", sum.Windows, err)
	}
	f.block = true
	if sum, err := c.CloseDue(t.Context(), b.clock.Now()); sum.Windows != 0 || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("CloseDue = %d, %v, want 0 and a timeout", sum.Windows, err)
	}
	f.block, f.fail = false, nil
	if sum, err := c.CloseDue(t.Context(), b.clock.Now()); sum.Windows != 1 || err != nil {
		t.Errorf("CloseDue = %d, %v, want 1", sum.Windows, err)
	}
	f.fail = errors.New("another daemon does not get on")
	b.clock.Advance(time.Hour)
	if sum, err := c.CloseDue(t.Context(), b.clock.Now()); sum.Windows != 0 || !errors.Is(err, f.fail) {
		t.Errorf("CloseDue = %d, %v, want 0: the time without the barrier counts from its first failure", sum.Windows, err)
	}
	b.clock.Advance(time.Hour)
	if sum, err := c.CloseDue(t.Context(), b.clock.Now()); sum.Windows != 2 || err != nil {
		t.Errorf("CloseDue an hour later = %d, %v, want 2: closed without the barrier", sum.Windows, err)
	}
	calls := f.calls
	if _, err := c.CloseDue(t.Context(), b.clock.Now()); err != nil || f.calls != calls {
		t.Errorf("CloseDue with nothing to do: %v and %d barriers, want none", err, f.calls-calls)
	}
}

// A close that is interrupted at any call of the ledger, in any way, and repeated gives the same numbers; nothing of
// it can be sent before the close is written.
func TestInterruptedCloseIsRepeatedExactly(t *testing.T) {
	t.Parallel()
	fill := func(b *bench) {
		b.closer.ChunkRows = 3
		for i := range 10 {
			b.books.AddUsage(subjectName(i), "tokens", at(i), q("12.34567"))
		}
	}
	plain := newBench(t, []meter.Meter{tokens("10")})
	fill(plain)
	calls := 0
	plain.books.SetFaults(func(string, int) reportertest.Fault { calls++; return reportertest.FaultNone })
	plain.close()
	want := records(plain)
	if calls < 10 {
		t.Fatalf("a close makes %d calls, want at least 10", calls)
	}
	for _, fault := range []reportertest.Fault{
		reportertest.FaultBefore, reportertest.FaultHalf, reportertest.FaultAfter, reportertest.FaultPanic,
	} {
		for call := 1; call <= calls; call++ {
			t.Run(fmt.Sprintf("fault=%d/call=%d", fault, call), func(t *testing.T) {
				t.Parallel()
				b := newBench(t, []meter.Meter{tokens("10")})
				fill(b)
				interrupt(t, b, fault, call)
				b.clock.Set(at(65).Add(time.Second))
				b.books.SetFaults(nil)
				b.close()
				if diff := cmp.Diff(want, records(b)); diff != "" {
					t.Errorf("records differ (-want +got):\n%s", diff)
				}
			})
		}
	}
}

// interrupt closes with one fault and checks that the window is due to be sent only if its close was written.
func interrupt(t *testing.T, b *bench, fault reportertest.Fault, call int) {
	t.Helper()
	n := 0
	var op string
	b.books.SetFaults(func(name string, _ int) reportertest.Fault {
		if n++; n == call {
			op = name
			return fault
		}
		return reportertest.FaultNone
	})
	c := b.newCloser()
	var err error
	func() {
		defer func() {
			if v := recover(); v != nil {
				err = fmt.Errorf("panic: %v", v)
			}
		}()
		_, err = c.CloseDue(t.Context(), b.clock.Now())
	}()
	// A commit that only seems to have failed is recognised by its version.
	if done := op == "Commit" && fault == reportertest.FaultAfter; (err == nil) != done {
		t.Fatalf("CloseDue with a fault in %s = %v, want an error: %v", op, err, !done)
	}
	if due := len(b.books.All()); (due > 0) != (len(b.books.Log()) > 0) {
		t.Errorf("after a fault in %s, %d records can be sent of %d bookings", op, due, len(b.books.Log()))
	}
}

// records renders what counts, without versions and times of writing.
func records(b *bench) []string {
	var all []string
	for _, r := range b.books.All() {
		all = append(all, fmt.Sprint(r.UsageRecord(), r.Usage, r.CarriedIn, r.CarriedOut, r.Last.State, r.Last.Seq))
	}
	return all
}

func TestVersionsRiseAcrossRestartsAndClockSteps(t *testing.T) {
	t.Parallel()
	b := newBench(t, []meter.Meter{tokens("1")})
	b.books.AddUsage("inst-a", "tokens", at(0), q("1"))
	b.clock.Set(at(185))
	b.close()
	b.clock.Set(at(65)) // hours back; the reference books complain if a lower version is used
	b.books.AddUsage("inst-b", "tokens", at(30), q("1"))
	if sum := b.close(); sum.Recounts != 1 {
		t.Errorf("recounts = %d, want 1", sum.Recounts)
	}
	log := b.books.Log()
	if last := log[len(log)-1]; last.Version <= uint64(at(185).UnixNano()) {
		t.Errorf("version %d of booking %d is not above the time of the one before", last.Version, last.Number)
	}
}

func TestNewCloserReportsEveryFault(t *testing.T) {
	t.Parallel()
	b := newBench(t, []meter.Meter{tokens("1")})
	o := b.closer
	o.Seller, o.Grace = "", -1
	zero, fine := tokens("0"), tokens("0.000000000000001")
	o.Meters = []meter.Meter{zero, fine}
	_, err := reporter.NewCloser(o)
	if err == nil {
		t.Fatal("NewCloser = nil, want faults")
	}
	for _, want := range []string{"seller needs a name", "must not be negative", "scale must be positive (got 0)", "more than 14 decimals"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error lacks %q: %v", want, err)
		}
	}
	if _, err := reporter.NewCloser(reporter.CloserOptions{}); err == nil {
		t.Error("NewCloser of nothing = nil, want an error")
	}
}

// disordered are books that break the order of rows.
type disordered struct{ *reportertest.Books }

func (d disordered) AggregateWindow(_ context.Context, _ reporter.Scope, _ []meter.Meter, yield func(reporter.WindowUsage) error) error {
	u := reporter.WindowUsage{Subject: "inst-a", Meter: "tokens", Quantity: q("1"), Events: 1}
	return errors.Join(yield(u), yield(u))
}

func TestDoubledUsageIsRefused(t *testing.T) {
	t.Parallel()
	b := newBench(t, []meter.Meter{tokens("1")})
	b.books.AddUsage("inst-a", "tokens", at(0), q("1"))
	b.closer.Books = disordered{b.books}
	_, err := b.newCloser().CloseDue(t.Context(), b.clock.Now())
	if err == nil || !strings.Contains(err.Error(), "rows must be unique and ordered") {
		t.Errorf("CloseDue = %v, want a refusal of the second row", err)
	}
}
