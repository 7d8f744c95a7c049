package reporter_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
	"github.com/meterd/meterd/reporter/reportertest"
)

// duplicate refuses every record of a batch as one that the marketplace has already.
func duplicate(batch []reporter.UsageRecord) reportertest.Answer {
	a := reportertest.Accept()
	a.Takes = false
	a.Result.Refused = map[reporter.MeteringSN]reporter.Refusal{}
	for _, r := range batch {
		a.Result.Refused[r.SN] = reporter.Refusal{Code: "010", Message: "SDR duplicated", Duplicate: true, Raw: `{"code":"010"}`}
	}
	return a
}

// A refusal as duplicate is an acceptance only where an earlier attempt may have arrived.
func TestDuplicateCountsOnlyAfterAnAttemptThatMayHaveArrived(t *testing.T) {
	t.Parallel()
	never := reportertest.Refuse(reporter.ClassUnavailable, "") // not connected
	lost := reportertest.LoseAnswer()
	tests := map[string]struct {
		before []reportertest.Answer
		path   string
	}{
		"first attempt":                     {nil, "pending sending rejected"},
		"after one that never connected":    {[]reportertest.Answer{never}, "pending sending pending sending rejected"},
		"after a lost answer":               {[]reportertest.Answer{lost}, "pending sending unknown sending accepted"},
		"after a lost answer and an outage": {[]reportertest.Answer{lost, never}, "pending sending unknown sending unknown sending accepted"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := deliveryBench(t, 1)
			b.market.Script(func(call int, batch []reporter.UsageRecord) reportertest.Answer {
				if call <= len(tc.before) {
					return tc.before[call-1]
				}
				return duplicate(batch)
			})
			r := b.newReporter()
			for range len(tc.before) + 1 {
				b.once(r)
			}
			rec := b.record(subjectName(0))
			if path := b.path(rec.SN); path != tc.path {
				t.Errorf("path = %s, want %s", path, tc.path)
			}
			if rec.Last.Detail != `{"code":"010"}` || rec.Last.Code != "010" {
				t.Errorf("last transition = %+v, want what the marketplace said", rec.Last)
			}
			if rejected := rec.Last.State == reporter.StateRejected; rejected != strings.Contains(rec.Last.Message, "no earlier attempt of ours") ||
				!strings.Contains(rec.Last.Message, "SDR duplicated") {
				t.Errorf("message = %q", rec.Last.Message)
			}
		})
	}
}

// A call that the process did not survive may have arrived.
func TestDuplicateAfterARestartDuringTheCall(t *testing.T) {
	t.Parallel()
	b := deliveryBench(t, 3)
	appends := 0
	b.books.SetFaults(func(op string, _ int) reportertest.Fault {
		if op == "AppendTransitions" {
			if appends++; appends == 2 { // the outcome
				return reportertest.FaultBefore
			}
		}
		return reportertest.FaultNone
	})
	if _, err := b.newReporter().RunOnce(t.Context()); err == nil {
		t.Fatal("RunOnce = nil, want the ledger's error")
	}
	b.market.Script(func(_ int, batch []reporter.UsageRecord) reportertest.Answer { return duplicate(batch) })
	b.once(b.newReporter()) // another process: it doesn't know the answer
	b.wantStates(map[reporter.State]int{reporter.StateAccepted: 3})
}

// What the marketplace says about a record is kept whatever becomes of the batch.
func TestDetailOfARefusedBatch(t *testing.T) {
	t.Parallel()
	b := deliveryBench(t, 1)
	b.market.Script(func(_ int, batch []reporter.UsageRecord) reportertest.Answer {
		a := reportertest.Refuse(reporter.ClassRecordBad, "9002")
		a.Result.Refused = map[reporter.MeteringSN]reporter.Refusal{batch[0].SN: {Code: "003", Raw: `{"why":"value"}`}}
		return a
	})
	b.once(b.newReporter())
	if last := b.record(subjectName(0)).Last; last.State != reporter.StateRejected || last.Code != "9002" || last.Detail != `{"why":"value"}` {
		t.Errorf("last transition = %+v", last)
	}
}

// The limit that the marketplace taught us is not for ever.
func TestBatchLimitRisesAgain(t *testing.T) {
	t.Parallel()
	b := deliveryBench(t, 600)
	largest := 2
	b.market.Script(func(_ int, batch []reporter.UsageRecord) reportertest.Answer {
		if len(batch) > largest {
			return reportertest.Refuse(reporter.ClassBatchTooLarge, "9003")
		}
		return reportertest.Accept()
	})
	b.options.PageSize = 60
	r := b.newReporter()
	b.market.BeforeRecord(func(reporter.UsageRecord) {
		if len(b.market.Calls()) == 30 {
			largest = 10 // the marketplace was mended
		}
	})
	b.once(r)
	b.wantStates(map[reporter.State]int{reporter.StateAccepted: 600})
	sizes := b.market.Sizes()
	if diff := cmp.Diff([]int{10, 5, 2}, sizes[:3]); diff != "" {
		t.Errorf("first batches differ (-want +got):\n%s", diff)
	}
	if st := r.Status(); st.BatchLimit != 10 {
		t.Errorf("limit = %d after %d calls, want the configured 10 again", st.BatchLimit, len(sizes))
	}
	refused := 0
	for _, n := range sizes[3:30] {
		if n > 2 {
			refused++
		}
	}
	if refused > 2 {
		t.Errorf("%d vain trials in 27 calls, want at most 2", refused)
	}
}

// Whatever the marketplace teaches, the limit stays within its bounds and trials become rare where they fail.
func TestBatchLimitBounds(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		highest := rapid.IntRange(1, 1000).Draw(t, "highest")
		allowed := rapid.IntRange(1, 1000).Draw(t, "allowed")
		b := reporter.NewBatchSize(highest)
		vain := 0
		for range 4000 {
			n := b.Limit()
			if n < 1 || n > highest {
				t.Fatalf("limit = %d of %d", n, highest)
			}
			if n > allowed {
				b.TooLarge(n)
				vain++
				continue
			}
			b.Accepted(n)
		}
		if vain > 40 {
			t.Fatalf("%d vain trials in 4000 calls", vain)
		}
		if b.Limit()*2 <= min(highest, allowed)/2 {
			t.Fatalf("limit = %d although %d of %d are taken", b.Limit(), allowed, highest)
		}
	})
}

// The marketplace asked to be left alone: no pass calls it before that, whoever asks for it, until a person resets it.
func TestRetryAfterBindsEveryPass(t *testing.T) {
	t.Parallel()
	b := deliveryBench(t, 3)
	b.script(reportertest.Answer{Result: reporter.Result{
		Class: reporter.ClassUnavailable, Code: "0250", RetryAfter: 10 * time.Minute,
	}})
	r := b.newReporter()
	until := b.clock.Now().Add(10 * time.Minute)
	if sum := b.once(r); sum.Stopped != reporter.StopThrottled || !sum.RetryAt.Equal(until) {
		t.Errorf("first pass: %+v, want a stop until %s", sum, until)
	}
	b.clock.Advance(5 * time.Minute)
	if sum := b.once(r); sum.Calls != 0 || sum.Stopped != reporter.StopThrottled || !sum.RetryAt.Equal(until) || sum.DueLeft != 3 {
		t.Errorf("pass before the time: %+v, want no call", sum)
	}
	if st := r.Status(); !st.ThrottledUntil.Equal(until) {
		t.Errorf("ThrottledUntil = %s, want %s", st.ThrottledUntil, until)
	}
	b.clock.Set(until)
	if sum := b.once(r); sum.Accepted != 3 {
		t.Errorf("pass at the time: %+v, want all accepted", sum)
	}
}

func TestRetryAfterAndAClockSetBack(t *testing.T) {
	t.Parallel()
	b := deliveryBench(t, 1)
	b.script(reportertest.Answer{Result: reporter.Result{Class: reporter.ClassUnavailable, RetryAfter: time.Hour}})
	r := b.newReporter()
	b.once(r)
	b.clock.Advance(-2 * time.Hour)
	if sum := b.once(r); sum.Accepted != 1 {
		t.Errorf("pass after the clock was set back: %+v, want no waiting for three hours", sum)
	}
}

// A reset by hand ends the breaker's open time, the alarm and the waiting, and the story tells who did it.
func TestResetBreaker(t *testing.T) {
	t.Parallel()
	b := deliveryBench(t, 25)
	b.options.BreakerFailures, b.options.BreakerTimeout = 1, time.Hour
	b.script(reportertest.Refuse(reporter.ClassMisconfigured, "0102"), reportertest.Answer{Result: reporter.Result{
		Class: reporter.ClassUnavailable, Code: "0250", RetryAfter: time.Hour, Message: "too fast",
	}})
	r := b.newReporter()
	b.once(r)
	b.once(r)
	st := r.Status()
	if st.Misconfigured == nil || st.Breaker != reporter.BreakerOpen || st.ThrottledUntil.IsZero() {
		t.Fatalf("status = %+v, want all three alarms", st)
	}
	r.ResetBreaker("olga")
	if st := r.Status(); st.Misconfigured != nil || st.Breaker != reporter.BreakerClosed || !st.ThrottledUntil.IsZero() || !st.BreakerRetryAt.IsZero() {
		t.Errorf("status after the reset = %+v, want no alarm", st)
	}
	if sum := b.once(r); sum.Accepted != 25 {
		t.Errorf("pass after the reset: %+v, want everything accepted", sum)
	}
	if diff := cmp.Diff([]int{10, 1, 10, 10, 5}, b.market.Sizes()); diff != "" {
		t.Errorf("batches differ (-want +got):\n%s", diff)
	}
	var got []string
	for _, c := range r.Status().BreakerStory {
		got = append(got, c.From.String()+">"+c.To.String()+" "+c.Reason)
	}
	want := []string{"closed>open unavailable: 0250 too fast", "open>closed reset by olga"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("story differs (-want +got):\n%s", diff)
	}
}

// The nearer minute 15 is, the shorter the breaker stays open; after it the configured time holds.
func TestBreakerProbesMoreOftenAsTheDeadlineNears(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		minute float64 // after the hour
		want   time.Duration
	}{
		"early":         {5, time.Minute},
		"nine left":     {6, time.Minute},
		"four left":     {11, 30 * time.Second},
		"two left":      {13, 15 * time.Second},
		"half left":     {14.5, 3750 * time.Millisecond},
		"seconds left":  {14.9, 3 * time.Second},
		"past":          {15, time.Minute},
		"half an hour":  {30, time.Minute},
		"the last one":  {59, time.Minute},
		"the full hour": {60, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := deliveryBench(t, 1)
			b.clock.Set(noon.End.Add(time.Duration(tc.minute * float64(time.Minute))))
			b.options.BreakerFailures, b.options.BreakerTimeout = 1, time.Minute
			b.script(reportertest.Refuse(reporter.ClassUnavailable, "0999"))
			r := b.newReporter()
			b.once(r)
			if got := r.Status().BreakerRetryAt.Sub(b.clock.Now()); got != tc.want {
				t.Errorf("open for %s, want %s", got, tc.want)
			}
		})
	}
}

// A record of no known mode is held, rather than passed over for ever or sent somewhere.
func TestUnknownModeIsHeld(t *testing.T) {
	t.Parallel()
	b := newBench(t, []meter.Meter{tokens("1")})
	b.fill(2)
	b.options.Books = modeless{b.books}
	sum := b.once(b.newReporter())
	if sum.Held != 2 || len(b.market.Calls()) != 0 {
		t.Errorf("RunOnce = %+v with %d calls, want 2 held", sum, len(b.market.Calls()))
	}
}

// modeless changes the mode of the records that it reads to one that nobody knows.
type modeless struct{ *reportertest.Books }

func (m modeless) DueRecords(ctx context.Context, b reporter.Booking, after reporter.MeteringSN, limit int) ([]reporter.BillRecord, error) {
	recs, err := m.Books.DueRecords(ctx, b, after, limit)
	for i := range recs {
		recs[i].Mode = 9
	}
	return recs, err
}
