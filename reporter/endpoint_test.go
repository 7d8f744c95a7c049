package reporter_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meterd/meterd/reporter"
	"github.com/meterd/meterd/reporter/reportertest"
)

// Passes after a sick answer go on with the next batch after a pause, until the breaker opens.
func TestBreakerOpensProbesAndCloses(t *testing.T) {
	t.Parallel()
	b := deliveryBench(t, 60)
	sick := true
	b.market.Script(func(call int, _ []reporter.UsageRecord) reportertest.Answer {
		if !sick {
			return reportertest.Accept()
		}
		if call%2 == 0 {
			return reportertest.Refuse(reporter.ClassUnknown, "")
		}
		return reportertest.Refuse(reporter.ClassUnavailable, "0999")
	})
	b.options.BreakerFailures, b.options.BreakerTimeout = 3, time.Minute
	seen := &breakerLog{}
	b.options.Observer = seen
	r := b.newReporter()
	began := b.clock.Now()
	first := b.once(r)
	// 0.5 of jitter: pauses of 1.5 s and 3 s.
	if opened := began.Add(4500 * time.Millisecond); first.Stopped != reporter.StopBreaker || first.Calls != 3 ||
		!first.RetryAt.Equal(opened.Add(time.Minute)) || first.DueLeft != 60 {
		t.Errorf("first pass: %+v, want 3 calls and a retry at %s", first, opened.Add(time.Minute))
	}
	b.clock.Set(first.RetryAt.Add(-1))
	if again := b.once(r); again.Calls != 0 || again.Stopped != reporter.StopBreaker || again.DueLeft != 60 {
		t.Errorf("1 ns before the timeout: %+v, want no call", again)
	}
	b.clock.Set(first.RetryAt)
	if probe := b.once(r); probe.Calls != 1 || probe.Stopped != reporter.StopBreaker {
		t.Errorf("at the timeout: %+v, want one probe", probe)
	}
	sick = false
	b.clock.Advance(time.Minute)
	if last := b.once(r); last.Accepted != 60 {
		t.Errorf("after the recovery: %+v, want 60 accepted", last)
	}
	if diff := cmp.Diff([]int{10, 10, 10, 1, 1, 10, 10, 10, 10, 10, 8, 1}, b.market.Sizes()); diff != "" {
		t.Errorf("batches differ (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"open", "half-open", "open", "half-open", "closed"}, seen.states); diff != "" {
		t.Errorf("changes of the breaker differ (-want +got):\n%s", diff)
	}
}

type breakerLog struct {
	reporter.NopObserver
	states []string
}

func (l *breakerLog) BreakerChanged(_ string, to reporter.BreakerState) {
	l.states = append(l.states, to.String())
}

func TestRefusalsNeverTripTheBreaker(t *testing.T) {
	t.Parallel()
	for _, class := range []reporter.Class{reporter.ClassRecordBad, reporter.ClassRecordExpired, reporter.ClassMisconfigured} {
		t.Run(class.String(), func(t *testing.T) {
			t.Parallel()
			b := deliveryBench(t, 30)
			b.options.BreakerFailures = 2
			b.market.Script(func(int, []reporter.UsageRecord) reportertest.Answer { return reportertest.Refuse(class, "x") })
			r := b.newReporter()
			for range 5 {
				b.once(r)
			}
			if s := r.Status().Breaker; s != reporter.BreakerClosed {
				t.Errorf("breaker is %s, want closed", s)
			}
		})
	}
}

func TestThrottlingStopsThePass(t *testing.T) {
	t.Parallel()
	b := deliveryBench(t, 30)
	wait := reportertest.Refuse(reporter.ClassUnavailable, "0250")
	wait.Result.RetryAfter = 90 * time.Second
	b.script(wait)
	sum := b.once(b.newReporter())
	if sum.Calls != 1 || sum.Stopped != reporter.StopThrottled || !sum.RetryAt.Equal(b.clock.Now().Add(90*time.Second)) || sum.DueLeft != 30 {
		t.Errorf("RunOnce = %+v, want one call and a retry in 90 s", sum)
	}
}

// One record on which the marketplace stumbles without naming it must not keep its whole batch back for ever.
func TestPoisonedBatchIsNarrowedDown(t *testing.T) {
	t.Parallel()
	b := deliveryBench(t, 40)
	poison := b.books.All()[13].SN
	b.market.Script(func(_ int, batch []reporter.UsageRecord) reportertest.Answer {
		if slices.ContainsFunc(batch, func(r reporter.UsageRecord) bool { return r.SN == poison }) {
			return reportertest.Refuse(reporter.ClassUnavailable, "0999")
		}
		return reportertest.Accept()
	})
	r := b.newReporter()
	for hour := range 12 {
		b.books.AddUsage("healthy", "tokens", at(60*(hour+1)), q("1"))
		b.clock.Set(at(60*(hour+2) + 5))
		b.close()
		b.once(r)
	}
	if states := b.states(); states[reporter.StatePending] != 1 || states[reporter.StateAccepted] != 39+12 {
		t.Errorf("states = %v, want everything accepted but the one record", states)
	}
}

// The same poison among records of an endpoint that is sick for everybody does not make batches small.
func TestOutageKeepsBatchesLarge(t *testing.T) {
	t.Parallel()
	b := deliveryBench(t, 40)
	sick := true
	b.market.Script(func(int, []reporter.UsageRecord) reportertest.Answer {
		if sick {
			return reportertest.Refuse(reporter.ClassUnavailable, "0999")
		}
		return reportertest.Accept()
	})
	b.options.BreakerFailures = 100
	r := b.newReporter()
	for range 8 {
		b.once(r)
	}
	sick = false
	before := len(b.market.Calls())
	b.once(r)
	if diff := cmp.Diff([]int{10, 10, 10, 10}, b.market.Sizes()[before:]); diff != "" {
		t.Errorf("batches after the outage differ (-want +got):\n%s", diff)
	}
}

// A record on which the marketplace stumbles must not be the probe again and again: after an outage it would keep the breaker
// open for ever, and with it everybody else's records back.
func TestProbeIsAnotherRecordNextTime(t *testing.T) {
	t.Parallel()
	for name, class := range map[string]reporter.Class{"sick": reporter.ClassUnavailable, "refused": reporter.ClassMisconfigured} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := deliveryBench(t, 7)
			records := b.books.All()
			slices.SortFunc(records, func(x, y reporter.BillRecord) int { return strings.Compare(string(x.SN), string(y.SN)) })
			poison, outage := records[0].SN, true
			b.market.Script(func(_ int, batch []reporter.UsageRecord) reportertest.Answer {
				if outage || slices.ContainsFunc(batch, func(r reporter.UsageRecord) bool { return r.SN == poison }) {
					return reportertest.Refuse(class, "x")
				}
				return reportertest.Accept()
			})
			b.options.BreakerFailures, b.options.BreakerTimeout = 1, time.Minute
			r := b.newReporter()
			b.once(r)
			outage = false
			for range 40 {
				b.clock.Advance(time.Minute)
				b.once(r)
			}
			if states := b.states(); states[reporter.StatePending] != 1 || states[reporter.StateAccepted] != 6 {
				t.Errorf("states = %v, want everything accepted but the one record", states)
			}
			// Alone, it is tried again and again.
			calls := len(b.market.Calls())
			for range 4 {
				b.clock.Advance(time.Minute)
				b.once(r)
			}
			if again := len(b.market.Calls()) - calls; again < 2 {
				t.Errorf("calls in 4 passes with one record left = %d, want 2 at least", again)
			}
		})
	}
}
