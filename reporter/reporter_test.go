package reporter_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
	"github.com/meterd/meterd/reporter/reportertest"
)

// deliveryBench has n due records of 12:00, batches of at most 10, and a clock at 13:05.
func deliveryBench(t *testing.T, n int) *bench {
	t.Helper()
	b := newBench(t, []meter.Meter{tokens("1")})
	b.fill(n)
	return b
}

// script answers the calls in order, then accepts.
func (b *bench) script(answers ...reportertest.Answer) {
	b.market.Script(func(call int, _ []reporter.UsageRecord) reportertest.Answer {
		if call <= len(answers) {
			return answers[call-1]
		}
		return reportertest.Accept()
	})
}

func (b *bench) wantStates(want map[reporter.State]int) {
	b.t.Helper()
	if diff := cmp.Diff(want, b.states()); diff != "" {
		b.t.Errorf("states differ (-want +got):\n%s", diff)
	}
}

func TestRunOnceDeliversAndSettles(t *testing.T) {
	t.Parallel()
	b := deliveryBench(t, 25)
	b.market.BeforeRecord(func(r reporter.UsageRecord) {
		if s := b.books.State(r.SN); s != reporter.StateSending {
			t.Errorf("record %s is %s in the books while it is sent, want sending", r.SN, s)
		}
	})
	b.market.Script(func(int, []reporter.UsageRecord) reportertest.Answer {
		a := reportertest.Accept()
		a.Result.RequestHash, a.Result.Latency = "abc", time.Second
		return a
	})
	r := b.newReporter()
	sum := b.once(r)
	want := reporter.PassSummary{Windows: 1, Settled: 1, Calls: 3, Accepted: 25}
	if diff := cmp.Diff(want, sum); diff != "" {
		t.Errorf("RunOnce differs (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]int{10, 10, 5}, b.market.Sizes()); diff != "" {
		t.Errorf("batches differ (-want +got):\n%s", diff)
	}
	rec := b.record(subjectName(3))
	if path := b.path(rec.SN); path != "pending sending accepted" {
		t.Errorf("path = %s, want pending sending accepted", path)
	}
	wantLast := reporter.Transition{
		SN: rec.SN, Booked: noon, Seq: 3, State: reporter.StateAccepted, At: b.clock.Now(), Attempt: 1, Endpoint: "primary",
		Code: "OK", RequestHash: "abc", Latency: time.Second,
	}
	if diff := cmp.Diff(wantLast, rec.Last); diff != "" {
		t.Errorf("last transition differs (-want +got):\n%s", diff)
	}
	if again := b.once(r); again.Windows != 0 || len(b.market.Calls()) != 3 {
		t.Errorf("a second pass found %d windows and made %d calls, want none", again.Windows, len(b.market.Calls())-3)
	}
}

func TestOldestWindowGoesFirst(t *testing.T) {
	t.Parallel()
	b := newBench(t, []meter.Meter{tokens("1")})
	for hour := range 4 {
		b.books.AddUsage("inst-a", "tokens", at(hour*60), q("1"))
	}
	b.clock.Set(at(4*60 + 5))
	b.close()
	b.once(b.newReporter())
	var hours []int
	for _, batch := range b.market.Calls() {
		hours = append(hours, batch[0].Window.Start.Hour())
	}
	if diff := cmp.Diff([]int{12, 13, 14, 15}, hours); diff != "" {
		t.Errorf("order of windows differs (-want +got):\n%s", diff)
	}
}

func TestAnswersOfOneRecord(t *testing.T) {
	t.Parallel()
	refused := func(duplicate bool) reportertest.Answer {
		b := newBench(t, []meter.Meter{tokens("1")})
		b.fill(1)
		a := reportertest.Accept()
		a.Result.Refused = map[reporter.MeteringSN]reporter.Refusal{
			b.record(subjectName(0)).SN: {Code: "010", Message: "no", Duplicate: duplicate},
		}
		return a
	}
	tests := map[string]struct {
		answers []reportertest.Answer
		path    string
		code    string
		attempt uint32
		passes  int
	}{
		"unavailable": {
			[]reportertest.Answer{reportertest.Refuse(reporter.ClassUnavailable, "0999")}, "pending sending pending", "0999", 1, 1,
		},
		"unavailable, then accepted": {
			[]reportertest.Answer{reportertest.Refuse(reporter.ClassUnavailable, "0999")},
			"pending sending pending sending accepted", "OK", 2, 2,
		},
		"unknown, then accepted": {
			[]reportertest.Answer{reportertest.LoseAnswer()}, "pending sending unknown sending accepted", "OK", 2, 2,
		},
		"unknown stays unknown while the endpoint is sick": {
			[]reportertest.Answer{reportertest.LoseAnswer(), reportertest.Refuse(reporter.ClassUnavailable, "0999")},
			"pending sending unknown sending unknown", "0999", 2, 2,
		},
		"bad":         {[]reportertest.Answer{reportertest.Refuse(reporter.ClassRecordBad, "9001")}, "pending sending rejected", "9001", 1, 1},
		"too old":     {[]reportertest.Answer{reportertest.Refuse(reporter.ClassRecordExpired, "9004")}, "pending sending expired", "9004", 1, 1},
		"too large":   {[]reportertest.Answer{reportertest.Refuse(reporter.ClassBatchTooLarge, "9003")}, "pending sending rejected", "9003", 1, 1},
		"no class":    {[]reportertest.Answer{reportertest.Refuse(0, "")}, "pending sending unknown", "", 1, 1},
		"wrong class": {[]reportertest.Answer{reportertest.Refuse(99, "")}, "pending sending unknown", "", 1, 1},
		"misconfigured": {
			[]reportertest.Answer{reportertest.Refuse(reporter.ClassMisconfigured, "0102")}, "pending sending pending", "0102", 1, 1,
		},
		"refused by name":      {[]reportertest.Answer{refused(false)}, "pending sending rejected", "010", 1, 1},
		"duplicate, not by us": {[]reportertest.Answer{refused(true)}, "pending sending rejected", "010", 1, 1},
		"duplicate of a lost call": {
			[]reportertest.Answer{reportertest.LoseAnswer(), refused(true)}, "pending sending unknown sending accepted", "010", 2, 2,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := deliveryBench(t, 1)
			b.script(tc.answers...)
			r := b.newReporter()
			for range tc.passes {
				b.once(r)
			}
			rec := b.record(subjectName(0))
			if path := b.path(rec.SN); path != tc.path {
				t.Errorf("path = %s, want %s", path, tc.path)
			}
			if rec.Last.Code != tc.code || rec.Last.Attempt != tc.attempt {
				t.Errorf("code %q attempt %d, want %q, %d", rec.Last.Code, rec.Last.Attempt, tc.code, tc.attempt)
			}
		})
	}
}

// badRecords answers like a marketplace that refuses every batch with one of the records in it.
func badRecords(class reporter.Class, bad func(reporter.UsageRecord) bool) func(int, []reporter.UsageRecord) reportertest.Answer {
	return func(_ int, batch []reporter.UsageRecord) reportertest.Answer {
		if slices.ContainsFunc(batch, bad) {
			return reportertest.Refuse(class, "9001")
		}
		return reportertest.Accept()
	}
}

func TestBisectionFindsExactlyTheBadRecords(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		records  int
		bad      []int
		maxCalls int
	}{
		"none":   {64, nil, 1},
		"first":  {64, []int{0}, 13},
		"last":   {64, []int{63}, 8},
		"two":    {64, []int{20, 21}, 4 * 7},
		"spread": {64, []int{1, 17, 33, 62}, 8 * 7},
		"all": {64, slices.Collect(func(yield func(int) bool) {
			for i := range 64 {
				if !yield(i) {
					return
				}
			}
		}), 2 * 64},
		"only one":    {1, []int{0}, 1},
		"odd numbers": {37, []int{36}, 2 * 7},
	}
	classes := map[reporter.Class]reporter.State{
		reporter.ClassRecordBad: reporter.StateRejected, reporter.ClassRecordExpired: reporter.StateExpired,
	}
	for name, tc := range tests {
		for class, state := range classes {
			t.Run(name+"/"+class.String(), func(t *testing.T) {
				t.Parallel()
				b := newBench(t, []meter.Meter{tokens("1")})
				limits := reportertest.DefaultLimits()
				limits.MaxBatch = 64
				b.market = reportertest.NewMarketplace(limits)
				b.options.Marketplace = b.market
				b.fill(tc.records)
				all := b.books.All()
				bad := map[reporter.MeteringSN]bool{}
				for _, i := range tc.bad {
					bad[all[i].SN] = true
				}
				b.market.Script(badRecords(class, func(r reporter.UsageRecord) bool { return bad[r.SN] }))
				sum := b.once(b.newReporter())
				for _, r := range b.books.All() {
					want := reporter.StateAccepted
					if bad[r.SN] {
						want = state
					}
					if r.Last.State != want {
						t.Errorf("record %s is %s, want %s", r.SN, r.Last.State, want)
					}
				}
				if sum.Calls > tc.maxCalls || sum.Settled != 1 {
					t.Errorf("%d calls and %d windows settled, want at most %d and 1", sum.Calls, sum.Settled, tc.maxCalls)
				}
			})
		}
	}
}

func TestBisectionIsBoundedAndGoesOn(t *testing.T) {
	t.Parallel()
	b := newBench(t, []meter.Meter{tokens("1")})
	for hour := range 2 {
		for i := range 10 {
			b.books.AddUsage(subjectName(i), "tokens", at(hour*60), q("1"))
		}
	}
	b.clock.Set(at(125))
	b.close()
	b.options.IsolationCalls = 4
	b.market.Script(badRecords(reporter.ClassRecordBad, func(r reporter.UsageRecord) bool { return r.Window == noon }))
	r := b.newReporter()
	first := b.once(r)
	if first.Accepted != 10 || first.Rejected == 0 || first.DueLeft == 0 || first.OldestDue != noon || first.Calls > 4+2 {
		t.Errorf("first pass: %+v, want the good hour accepted and some of the bad one left", first)
	}
	for range 10 {
		b.once(r)
	}
	b.wantStates(map[reporter.State]int{reporter.StateAccepted: 10, reporter.StateRejected: 10})
}

func TestBatchTooLargeIsHalvedAndRemembered(t *testing.T) {
	t.Parallel()
	b := deliveryBench(t, 20)
	b.market.Script(func(_ int, batch []reporter.UsageRecord) reportertest.Answer {
		if len(batch) > 3 {
			return reportertest.Refuse(reporter.ClassBatchTooLarge, "9003")
		}
		return reportertest.Accept()
	})
	b.once(b.newReporter())
	if diff := cmp.Diff([]int{10, 5, 2, 2, 1, 2, 2, 1, 2, 2, 2, 2, 2}, b.market.Sizes()); diff != "" {
		t.Errorf("batches differ (-want +got):\n%s", diff)
	}
	b.wantStates(map[reporter.State]int{reporter.StateAccepted: 20})
}

func TestMisconfiguredStopsAlarmsAndResumes(t *testing.T) {
	t.Parallel()
	b := deliveryBench(t, 20)
	b.script(reportertest.Refuse(reporter.ClassMisconfigured, "0102"), reportertest.Refuse(reporter.ClassUnavailable, "0999"),
		reportertest.Refuse(reporter.ClassMisconfigured, "0151"))
	r := b.newReporter()
	first := b.once(r)
	if first.Stopped != reporter.StopMisconfigured || first.DueLeft != 20 || first.Calls != 1 {
		t.Errorf("first pass: %+v, want a stop after one call with 20 due", first)
	}
	b.wantStates(map[reporter.State]int{reporter.StatePending: 20})
	if m := r.Status().Misconfigured; m == nil || m.Code != "0102" || !m.Since.Equal(b.clock.Now()) {
		t.Errorf("Misconfigured = %+v, want 0102 since now", m)
	}
	b.once(r) // a sick probe says nothing about the configuration, the next one of the same pass does
	if m := r.Status().Misconfigured; m == nil || m.Code != "0151" {
		t.Errorf("Misconfigured = %+v, want 0151", m)
	}
	b.once(r)
	if m := r.Status().Misconfigured; m != nil {
		t.Errorf("Misconfigured = %+v after an accepted probe, want none", m)
	}
	if diff := cmp.Diff([]int{10, 1, 1, 1, 10, 7, 2}, b.market.Sizes()); diff != "" {
		t.Errorf("batches differ (-want +got):\n%s", diff)
	}
	b.wantStates(map[reporter.State]int{reporter.StateAccepted: 20})
	if len(b.logs.lines("level=ERROR", "refuses us", "code=0102")) != 1 {
		t.Error("no single error line tells of the misconfiguration")
	}
}

func TestOldRecordsExpireWithoutACall(t *testing.T) {
	t.Parallel()
	maxAge := reportertest.DefaultLimits().MaxAge
	tests := map[string]struct {
		age, margin time.Duration
		state       reporter.State
	}{
		"at the limit":      {maxAge, 0, reporter.StateAccepted},
		"beyond the limit":  {maxAge + 1, 0, reporter.StateExpired},
		"within the margin": {maxAge + time.Hour, time.Hour, reporter.StateAccepted},
		"beyond the margin": {maxAge + time.Hour + 1, time.Hour, reporter.StateExpired},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := deliveryBench(t, 1)
			b.clock.Set(noon.Start.Add(tc.age))
			b.options.ExpiryMargin = tc.margin
			sum := b.once(b.newReporter())
			rec := b.record(subjectName(0))
			if rec.Last.State != tc.state || sum.Settled != 1 {
				t.Errorf("state %s, settled %d, want %s, 1", rec.Last.State, sum.Settled, tc.state)
			}
			if tc.state != reporter.StateExpired {
				return
			}
			if len(b.market.Calls()) != 0 || sum.Expired != 1 {
				t.Errorf("%d calls, %d expired, want 0 and 1", len(b.market.Calls()), sum.Expired)
			}
			if len(b.logs.lines("level=ERROR", string(rec.SN), "state=expired")) != 1 {
				t.Error("no error line names the expired record")
			}
		})
	}
}

// lateBooks hide a due record from the pass, as if it became due while the pass was under way.
type lateBooks struct {
	*reportertest.Books
	hidden reporter.MeteringSN
}

func (l lateBooks) DueRecords(ctx context.Context, c reporter.Booking, after reporter.MeteringSN, limit int) ([]reporter.BillRecord, error) {
	recs, err := l.Books.DueRecords(ctx, c, after, limit)
	if limit == 1 {
		return recs, err
	}
	return slices.DeleteFunc(recs, func(r reporter.BillRecord) bool { return r.SN == l.hidden }), err
}

func TestWindowWithADueRecordIsNotSettled(t *testing.T) {
	t.Parallel()
	b := deliveryBench(t, 5)
	b.options.Books = lateBooks{b.books, b.books.All()[2].SN}
	sum := b.once(b.newReporter())
	if sum.Settled != 0 || sum.Accepted != 4 || sum.DueLeft != 1 || sum.OldestDue != noon {
		t.Errorf("RunOnce = %+v, want 4 accepted, 1 due, and nothing settled", sum)
	}
}

func TestUnsendableAtDeliveryIsHeld(t *testing.T) {
	t.Parallel()
	b := deliveryBench(t, 3)
	b.market.CheckWith(func(r reporter.UsageRecord) error {
		if r.InstanceID == subjectName(1) {
			return errors.New("ids like this are not taken any more")
		}
		return nil
	})
	sum := b.once(b.newReporter())
	if sum.Held != 1 || sum.Accepted != 2 || sum.Settled != 1 {
		t.Errorf("RunOnce = %+v, want 1 held, 2 accepted, settled", sum)
	}
	if rec := b.record(subjectName(1)); !strings.Contains(rec.Last.Message, "not taken any more") {
		t.Errorf("message = %q, want the reason", rec.Last.Message)
	}
}

func TestOutcomeThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	for _, fault := range []reportertest.Fault{reportertest.FaultBefore, reportertest.FaultHalf, reportertest.FaultAfter, reportertest.FaultPanic} {
		for name, restart := range map[string]bool{"same process": false, "restart": true} {
			t.Run(fmt.Sprintf("fault=%d/%s", fault, name), func(t *testing.T) {
				t.Parallel()
				b := deliveryBench(t, 10)
				appends := 0
				b.books.SetFaults(func(op string, _ int) reportertest.Fault {
					if op == "AppendTransitions" {
						if appends++; appends == 2 { // the first is sending
							return fault
						}
					}
					return reportertest.FaultNone
				})
				r := b.newReporter()
				if err := safely(func() error { _, err := r.RunOnce(t.Context()); return err }); err == nil {
					t.Fatal("RunOnce = nil, want the ledger's error")
				}
				want := 1 // known to this process: written later, not sent again
				if restart {
					r = b.newReporter()
					want = 2
					if fault == reportertest.FaultAfter {
						want = 1
					}
				}
				b.once(r)
				b.wantStates(map[reporter.State]int{reporter.StateAccepted: 10})
				if got := len(b.market.Calls()); got != want {
					t.Errorf("%d calls, want %d", got, want)
				}
			})
		}
	}
}

// safely turns a panic into an error.
func safely(do func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v", v)
		}
	}()
	return do()
}

func TestNothingIsSentBeforeSendingIsDurable(t *testing.T) {
	t.Parallel()
	for _, fault := range []reportertest.Fault{reportertest.FaultBefore, reportertest.FaultHalf, reportertest.FaultAfter, reportertest.FaultPanic} {
		t.Run(fmt.Sprint(fault), func(t *testing.T) {
			t.Parallel()
			b := deliveryBench(t, 10)
			b.books.SetFaults(func(op string, _ int) reportertest.Fault {
				if op == "AppendTransitions" {
					return fault
				}
				return reportertest.FaultNone
			})
			b.options.BreakerFailures = 1
			r := b.newReporter()
			if err := safely(func() error { _, err := r.RunOnce(t.Context()); return err }); err == nil {
				t.Fatal("RunOnce = nil, want the ledger's error")
			}
			if n := len(b.market.Calls()); n != 0 {
				t.Fatalf("%d calls although sending is not durable", n)
			}
			if st := r.Status(); st.Breaker != reporter.BreakerClosed {
				t.Errorf("breaker is %s, want closed: no call was made", st.Breaker)
			}
			b.books.SetFaults(nil)
			b.once(r)
			b.wantStates(map[reporter.State]int{reporter.StateAccepted: 10})
		})
	}
}

func TestPanickingClientCountsAsUnknown(t *testing.T) {
	t.Parallel()
	b := deliveryBench(t, 1)
	b.market.Script(func(call int, _ []reporter.UsageRecord) reportertest.Answer {
		if call == 1 {
			panic("client bug")
		}
		return reportertest.Accept()
	})
	r := b.newReporter()
	b.once(r)
	b.wantStates(map[reporter.State]int{reporter.StateUnknown: 1})
	b.once(r)
	b.wantStates(map[reporter.State]int{reporter.StateAccepted: 1})
}

// A call under way when the daemon stops is given time to end, and its outcome is written.
func TestShutdownDuringACall(t *testing.T) {
	t.Parallel()
	b := deliveryBench(t, 20)
	ctx, cancel := context.WithCancel(t.Context())
	b.market.Script(func(int, []reporter.UsageRecord) reportertest.Answer {
		cancel()
		return reportertest.Accept()
	})
	r := b.newReporter()
	sum, err := r.RunOnce(ctx)
	if err != nil || sum.Stopped != reporter.StopShutdown || sum.Accepted != 10 || sum.Calls != 1 {
		t.Errorf("RunOnce = %+v, %v, want one accepted batch and a stop", sum, err)
	}
	b.wantStates(map[reporter.State]int{reporter.StateAccepted: 10, reporter.StatePending: 10})
	if _, err := r.RunOnce(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("RunOnce on a dead context = %v, want context.Canceled", err)
	}
}

func TestEveryChangeIsLoggedWithItsRecord(t *testing.T) {
	t.Parallel()
	b := deliveryBench(t, 2)
	b.script(reportertest.LoseAnswer())
	r := b.newReporter()
	b.once(r)
	b.once(r)
	for _, rec := range b.books.All() {
		for state := range strings.FieldsSeq(b.path(rec.SN)) {
			if len(b.logs.lines("record_id="+string(rec.SN), "state="+state)) == 0 {
				t.Errorf("no line tells that record %s became %s", rec.SN, state)
			}
		}
	}
}

func TestNewReporterReportsFaults(t *testing.T) {
	t.Parallel()
	if _, err := reporter.NewReporter(reporter.ReporterOptions{}); err == nil {
		t.Error("NewReporter of nothing = nil, want an error")
	}
	b := newBench(t, nil)
	o := b.options
	o.MaxBatch, o.Backoff = -1, reporter.Backoff{Min: time.Second}
	o.Marketplace = reportertest.NewMarketplace(reporter.Limits{})
	_, err := reporter.NewReporter(o)
	if err == nil {
		t.Fatal("NewReporter = nil, want faults")
	}
	for _, want := range []string{"no batch limit", "may be negative", "shortest delay"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error lacks %q: %v", want, err)
		}
	}
}

// Who decides about a refused record must know that it may have been billed already.
func TestRefusalAfterALostAnswerSaysSo(t *testing.T) {
	t.Parallel()
	for class, state := range map[reporter.Class]reporter.State{
		reporter.ClassRecordBad: reporter.StateRejected, reporter.ClassRecordExpired: reporter.StateExpired,
	} {
		t.Run(class.String(), func(t *testing.T) {
			t.Parallel()
			b := deliveryBench(t, 1)
			b.script(reportertest.LoseAnswer(), reportertest.Refuse(class, "x"))
			r := b.newReporter()
			b.once(r)
			b.once(r)
			last := b.books.All()[0].Last
			if last.State != state || !strings.Contains(last.Message, "an earlier attempt may have arrived") {
				t.Errorf("last transition = %s %q, want %s with a word about the earlier attempt", last.State, last.Message, state)
			}
		})
	}
}
