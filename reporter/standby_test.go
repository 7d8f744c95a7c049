package reporter_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meterd/meterd/reporter"
	"github.com/meterd/meterd/reporter/reportertest"
)

// The lease is given up behind everything else: while the last call is under way nobody may take the record for interrupted.
func TestLeaseIsGivenUpLast(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		one, _, leases := twoDaemons(t)
		one.use("inst-a", 0)
		var during atomic.Value
		ctx, cancel := context.WithCancel(t.Context())
		one.market.Script(func(int, []reporter.UsageRecord) reportertest.Answer {
			cancel()
			time.Sleep(3 * time.Second) // within the time a call may still take
			during.Store(leases.Holder())
			return reportertest.Accept()
		})
		done := make(chan error, 1)
		go func() { done <- one.service.Run(ctx) }()
		if err := <-done; err != nil {
			t.Errorf("Run = %v", err)
		}
		if during.Load() != "one" {
			t.Errorf("holder during the last call = %q, want one", during.Load())
		}
		if leases.Holder() != "" {
			t.Errorf("holder after the end = %q, want nobody", leases.Holder())
		}
		one.wantStates(map[reporter.State]int{reporter.StateAccepted: 1})
	})
}

// A close by hand ends like a round when the lease is lost.
func TestLeaseLostDuringACloseByHand(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newServiceBench(t, "5 * * * *", nil)
		lease := &lostLease{}
		schedule, err := reporter.ParseSchedule("30 * * * *")
		if err != nil {
			t.Fatal(err)
		}
		s.rebuild(func(o *reporter.ServiceOptions) { o.Lease, o.Schedule = lease, schedule })
		for i := range 100 {
			s.use(subjectName(i), 0)
		}
		stop := s.run()
		s.sleep(10)
		s.market.Script(func(call int, _ []reporter.UsageRecord) reportertest.Answer {
			time.Sleep(10 * time.Second)
			if call == 2 {
				lease.lost.Store(true)
			}
			return reportertest.Accept()
		})
		s.sleep(60) // 1:10
		_, err = s.service.CloseNow(t.Context(), time.Now())
		if !errors.Is(err, reporter.ErrNotHolder) {
			t.Errorf("CloseNow = %v, want ErrNotHolder", err)
		}
		if n := s.states()[reporter.StateAccepted]; n < 10 || n > 40 {
			t.Errorf("%d of 100 records accepted, want two to four batches", n)
		}
		stop()
	})
}

// hungLease doesn't answer while it hangs.
type hungLease struct{ hangs atomic.Bool }

func (l *hungLease) Hold(ctx context.Context) (bool, error) {
	if l.hangs.Load() {
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-time.After(time.Minute): // the store's own time
			return false, errors.New("no answer")
		}
	}
	return true, nil
}

func (l *hungLease) Release(context.Context) error { return nil }

// A store that hangs is silent too: the work ends before another process may take the lease.
func TestHangingStoreLosesTheLease(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newServiceBench(t, "5 * * * *", nil)
		lease := &hungLease{}
		s.rebuild(func(o *reporter.ServiceOptions) { o.Lease = lease })
		for i := range 100 {
			s.use(subjectName(i), 0)
		}
		var hung, last time.Time
		s.market.Script(func(call int, _ []reporter.UsageRecord) reportertest.Answer {
			if call == 2 {
				lease.hangs.Store(true)
				hung = time.Now()
			}
			last = time.Now()
			time.Sleep(5 * time.Second)
			return reportertest.Accept()
		})
		stop := s.run()
		time.Sleep(66 * time.Minute)
		synctest.Wait()
		if hung.IsZero() || last.Sub(hung) > 16*time.Second {
			t.Errorf("calls went on for %s after the store hung, want less than 16 s", last.Sub(hung))
		}
		stop()
	})
}

// What went wrong before the lease went to another process is that one's business now, and no alarm here.
func TestStandbyForgetsItsAlarms(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newServiceBench(t, "5 * * * *", nil)
		lease := &lostLease{}
		guard := errors.New("the clock is ahead")
		s.rebuild(func(o *reporter.ServiceOptions) {
			o.Lease = lease
			o.Guard = guardFunc(func(context.Context) error {
				if time.Since(s.began) > 2*time.Hour {
					return guard
				}
				return nil
			})
		})
		s.use("inst-a", 0)
		s.market.Script(func(int, []reporter.UsageRecord) reportertest.Answer {
			return reportertest.Refuse(reporter.ClassMisconfigured, "0102")
		})
		s.books.SetFaults(func(op string, _ int) reportertest.Fault {
			if op == "LastClosed" && time.Since(s.began) > 90*time.Minute {
				return reportertest.FaultBefore
			}
			return reportertest.FaultNone
		})
		stop := s.run()
		s.sleep(70)
		if s.service.Status().Delivery.Misconfigured == nil {
			t.Fatal("no alarm to forget")
		}
		s.sleep(57) // 2:07
		lease.lost.Store(true)
		s.sleep(60)
		st := s.service.Status()
		if !st.Standby() || st.CloseErr != "" || st.ClockErr != "" || st.Delivery.Misconfigured != nil || !st.Delivery.ThrottledUntil.IsZero() {
			t.Errorf("status = %+v with %+v, want a standby without alarms", st, st.Delivery)
		}
		stop()
	})
}

// Sellers that share a schedule don't all call in the same second, and stay within the window.
func TestScheduleIsJittered(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newServiceBench(t, "5 * * * *", nil)
		times := callTimes(s.bench)
		s.rebuild(func(o *reporter.ServiceOptions) {
			o.Jitter = 20 * time.Second
			o.Random = func() float64 { return 0.25 * float64(time.Now().Hour()) }
		})
		for hour := range 3 {
			s.use("inst-a", hour*60)
		}
		stop := s.run()
		s.sleep(3*60 + 10)
		if diff := cmp.Diff([]string{"01:05:00", "02:05:05", "03:05:10"}, times()); diff != "" {
			t.Errorf("times of calls differ (-want +got):\n%s", diff)
		}
		stop()
	})
}

// setClock is a clock that can be set, as the machine's can.
type setClock struct{ ahead atomic.Int64 }

func (c *setClock) Now() time.Time { return time.Now().UTC().Add(time.Duration(c.ahead.Load())) }

func (c *setClock) WaitUntil(ctx context.Context, t time.Time) error {
	for last := c.Now(); ; {
		now := c.Now()
		if !now.Before(t) || now.Before(last.Add(-time.Minute)) {
			return ctx.Err()
		}
		last = now
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(min(t.Sub(now), 30*time.Second)):
		}
	}
}

// A clock that is set back must not keep a retry waiting for as long as it was set back.
func TestClockSetBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		clock := &setClock{}
		clock.ahead.Store(int64(2 * time.Hour))
		s := newServiceBench(t, "5 * * * *", func(b *bench) { b.closer.Now, b.options.Clock = clock.Now, clock })
		s.rebuild(func(o *reporter.ServiceOptions) { o.Clock = clock })
		s.use("inst-a", 60)
		s.market.Script(func(int, []reporter.UsageRecord) reportertest.Answer {
			return reportertest.Refuse(reporter.ClassUnavailable, "0999")
		})
		stop := s.run() // 2:00 by a clock that is two hours ahead
		s.sleep(7)
		if s.states()[reporter.StatePending] != 1 {
			t.Fatalf("states = %v, want a record that waits", s.states())
		}
		clock.ahead.Store(0)
		s.market.Script(nil)
		s.sleep(3)
		s.wantStates(map[reporter.State]int{reporter.StateAccepted: 1})
		if st := s.service.Status(); st.NextScheduled.Sub(st.Now) > time.Hour {
			t.Errorf("the next round is at %s, it is %s", st.NextScheduled, st.Now)
		}
		stop()
	})
}
