package reporter_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
	"github.com/meterd/meterd/reporter/reportertest"
)

// guardFunc is a guard.
type guardFunc func(context.Context) error

func (f guardFunc) Check(ctx context.Context) error { return f(ctx) }

// twoDaemons are two services on the same books and marketplace, inside a synctest bubble.
func twoDaemons(t *testing.T) (one, two *serviceBench, leases *reportertest.Leases) {
	t.Helper()
	one = newServiceBench(t, "5 * * * *", nil)
	leases = reportertest.NewLeases(time.Now, 30*time.Second)
	second := *one.bench
	two = &serviceBench{bench: &second, began: one.began}
	for name, s := range map[string]*serviceBench{"one": one, "two": two} {
		s.logs = &logBuffer{}
		s.rebuild(func(o *reporter.ServiceOptions) { o.Lease = leases.Of(name) })
	}
	return one, two, leases
}

// rebuild makes the bench's service anew with changed options.
func (s *serviceBench) rebuild(change func(*reporter.ServiceOptions)) {
	s.t.Helper()
	schedule, err := reporter.ParseSchedule("5 * * * *")
	if err != nil {
		s.t.Fatal(err)
	}
	o := reporter.ServiceOptions{
		Closer: s.newCloser(), Reporter: s.newReporter(), Schedule: schedule, Clock: reporter.SystemClock{},
		Logger: s.logs.logger(), Random: func() float64 { return 0.5 },
	}
	change(&o)
	s.service, err = reporter.NewService(o)
	if err != nil {
		s.t.Fatalf("NewService: %v", err)
	}
}

func TestOnlyTheHolderReports(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		one, two, leases := twoDaemons(t)
		for hour := range 4 {
			one.use("inst-a", hour*60)
		}
		stopOne := one.run()
		stopTwo := two.run()
		one.sleep(2*60 + 30)
		if leases.Holder() != "one" || one.service.Status().Standby() || !two.service.Status().Standby() {
			t.Errorf("holder = %q, status %+v and %+v, want one", leases.Holder(), one.service.Status().Lease, two.service.Status().Lease)
		}
		if n := len(two.logs.lines("window closed")) + len(two.logs.lines("batch sent")); n != 0 {
			t.Errorf("the other daemon closed or delivered %d times", n)
		}
		if _, err := two.service.CloseNow(t.Context(), time.Now()); !errors.Is(err, reporter.ErrNotHolder) {
			t.Errorf("CloseNow of the other daemon = %v, want ErrNotHolder", err)
		}
		if len(two.logs.lines("level=WARN")) != 0 || len(two.logs.lines("level=ERROR")) != 0 {
			t.Errorf("standing by is logged as a fault: %q", two.logs.lines("level="))
		}
		// An orderly end gives the lease up: the other one takes over within its interval, not after the lease's time.
		one.sleep(34)
		stopOne()
		if leases.Holder() != "" {
			t.Errorf("holder = %q after the end, want nobody", leases.Holder())
		}
		time.Sleep(6 * time.Second)
		synctest.Wait()
		if leases.Holder() != "two" || two.service.Status().Standby() {
			t.Errorf("holder = %q, want two", leases.Holder())
		}
		one.sleep(62)
		one.wantStates(map[reporter.State]int{reporter.StateAccepted: 4})
		stopTwo()
		if n := len(one.market.Calls()); n != 4 {
			t.Errorf("%d calls for 4 records, want 4", n)
		}
	})
}

// lostLease is held until it is taken away.
type lostLease struct {
	lost, sick atomic.Bool
	asked      atomic.Int32
}

func (l *lostLease) Hold(context.Context) (bool, error) {
	l.asked.Add(1)
	if l.sick.Load() {
		return false, errors.New("store away")
	}
	return !l.lost.Load(), nil
}

func (l *lostLease) Release(context.Context) error { return nil }

// A lease that is lost during a long round ends it: between two calls, not in the middle of one.
func TestLeaseLostDuringARound(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(*lostLease){
		"taken":  func(l *lostLease) { l.lost.Store(true) },
		"silent": func(l *lostLease) { l.sick.Store(true) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newServiceBench(t, "5 * * * *", nil)
				lease := &lostLease{}
				s.rebuild(func(o *reporter.ServiceOptions) { o.Lease = lease })
				for i := range 100 {
					s.use(subjectName(i), 0)
				}
				s.market.Script(func(call int, _ []reporter.UsageRecord) reportertest.Answer {
					time.Sleep(10 * time.Second)
					if call == 2 {
						lose(lease)
					}
					return reportertest.Accept()
				})
				stop := s.run()
				s.sleep(70)
				accepted := s.states()[reporter.StateAccepted]
				if accepted < 20 || accepted > 40 || s.states()[reporter.StatePending] != 100-accepted {
					t.Errorf("states = %v, want two to four batches accepted and the rest untouched", s.states())
				}
				if !s.service.Status().Standby() {
					t.Error("the status doesn't say that the lease is lost")
				}
				lease.lost.Store(false)
				lease.sick.Store(false)
				s.sleep(3)
				s.wantStates(map[reporter.State]int{reporter.StateAccepted: 100})
				stop()
			})
		})
	}
}

// A short hiccup of the store doesn't break off what is under way.
func TestLeaseHiccupDuringARound(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newServiceBench(t, "5 * * * *", nil)
		lease := &lostLease{}
		s.rebuild(func(o *reporter.ServiceOptions) { o.Lease = lease })
		for i := range 20 {
			s.use(subjectName(i), 0)
		}
		s.market.Script(func(call int, _ []reporter.UsageRecord) reportertest.Answer {
			if call == 1 {
				lease.sick.Store(true)
				time.Sleep(7 * time.Second)
				lease.sick.Store(false)
			}
			return reportertest.Accept()
		})
		stop := s.run()
		time.Sleep(65*time.Minute + 8*time.Second)
		synctest.Wait()
		s.wantStates(map[reporter.State]int{reporter.StateAccepted: 20})
		stop()
	})
}

// While the clock can't be trusted nothing is closed, what is closed is delivered, and closing follows soon once it can be.
func TestGuard(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newServiceBench(t, "5 * * * *", nil)
		var bad atomic.Bool
		s.rebuild(func(o *reporter.ServiceOptions) {
			o.Guard = guardFunc(func(context.Context) error {
				if bad.Load() {
					return errors.New("the clock is 2 h ahead of the marketplace's; set it")
				}
				return nil
			})
		})
		s.use("inst-a", 0)
		s.use("inst-a", 60)
		s.market.Script(func(int, []reporter.UsageRecord) reportertest.Answer {
			return reportertest.Refuse(reporter.ClassUnavailable, "0999")
		})
		stop := s.run()
		s.sleep(66)
		bad.Store(true)
		s.market.Script(nil)
		s.sleep(65) // 2:11
		s.wantStates(map[reporter.State]int{reporter.StateAccepted: 1})
		if st := s.service.Status(); !strings.Contains(st.ClockErr, "2 h ahead") || st.NextRetry.IsZero() || st.NextRetry.Sub(st.Now) > time.Minute {
			t.Errorf("status = %+v, want the reason and a retry soon", st)
		}
		if _, err := s.service.CloseNow(t.Context(), time.Now()); err == nil || !strings.Contains(err.Error(), "nothing is closed: the clock") {
			t.Errorf("CloseNow = %v, want the guard's refusal", err)
		}
		bad.Store(false)
		s.sleep(2)
		s.wantStates(map[reporter.State]int{reporter.StateAccepted: 2})
		if st := s.service.Status(); st.ClockErr != "" || st.Failures != 0 {
			t.Errorf("status = %+v, want no fault", st)
		}
		stop()
	})
}

// A fault of our own books long after minute 15 is repeated within seconds; only the marketplace's own follow the late schedule.
func TestOwnFaultsAreRetriedSoonWhateverTheHour(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newServiceBench(t, "5 * * * *", func(b *bench) { b.options.BreakerFailures = 1_000_000 })
		s.use("inst-a", 0)
		s.market.Script(func(int, []reporter.UsageRecord) reportertest.Answer {
			return reportertest.Refuse(reporter.ClassUnavailable, "0999")
		})
		stop := s.run()
		s.sleep(60 + 40)
		s.market.Script(nil)
		failures := 0
		s.books.SetFaults(func(op string, _ int) reportertest.Fault {
			if op == "UnsettledBookings" && failures < 3 {
				failures++
				return reportertest.FaultBefore
			}
			return reportertest.FaultNone
		})
		s.service.Trigger()
		time.Sleep(20 * time.Second)
		synctest.Wait()
		s.wantStates(map[reporter.State]int{reporter.StateAccepted: 1})
		if failures != 3 {
			t.Errorf("%d failures, want 3", failures)
		}
		stop()
	})
}

// A reset by hand is followed by a round at once.
func TestResetBeginsARound(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newServiceBench(t, "5 * * * *", func(b *bench) { b.options.BreakerTimeout = time.Hour })
		r := s.newReporter()
		s.rebuild(func(o *reporter.ServiceOptions) { o.Reporter = r })
		s.use("inst-a", 0)
		s.market.Script(func(int, []reporter.UsageRecord) reportertest.Answer {
			return reportertest.Refuse(reporter.ClassMisconfigured, "0102")
		})
		stop := s.run()
		s.sleep(80)
		s.market.Script(nil)
		r.ResetBreaker("olga")
		synctest.Wait()
		s.wantStates(map[reporter.State]int{reporter.StateAccepted: 1})
		stop()
	})
}

// Preflight runs at minute −5 of every hour, and once at the start, and closes nothing.
func TestPreflightSchedule(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newServiceBench(t, "5 * * * *", nil)
		var mu sync.Mutex
		var times []string
		p, err := reporter.NewPreflight(reporter.PreflightOptions{
			Clock: reporter.SystemClock{}, Logger: s.logs.logger(), Checks: []reporter.PreflightCheck{{
				Name: "disk", Run: func(context.Context) (string, error) {
					mu.Lock()
					defer mu.Unlock()
					times = append(times, time.Now().UTC().Format("15:04:05"))
					if len(times) == 3 {
						return "", errors.New("1 MiB free")
					}
					return "10 GiB free", nil
				},
			}},
		})
		if err != nil {
			t.Fatal(err)
		}
		s.rebuild(func(o *reporter.ServiceOptions) { o.Preflight = p })
		s.use("inst-a", 0)
		calls := callTimes(s.bench)
		stop := s.run()
		s.sleep(2*60 + 58)
		mu.Lock()
		if diff := cmp.Diff([]string{"00:00:00", "00:55:00", "01:55:00", "02:55:00"}, times); diff != "" {
			t.Errorf("times of the preflight differ (-want +got):\n%s", diff)
		}
		mu.Unlock()
		if diff := cmp.Diff([]string{"01:05:00"}, calls()); diff != "" {
			t.Errorf("times of calls differ (-want +got):\n%s", diff)
		}
		if st := s.service.Status(); st.Preflight == nil || !st.Preflight.OK || st.Preflight.At.Hour() != 2 {
			t.Errorf("status = %+v, want the last preflight", st.Preflight)
		}
		if len(s.logs.lines("level=WARN", "preflight check failed", "check=disk", "1 MiB free")) != 1 {
			t.Error("no single warning tells of the failed check")
		}
		stop()
	})
}

// lives are books with a release that an earlier process did not bill.
func TestServiceCatchesUpLives(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newServiceBench(t, "5 * * * *", func(b *bench) { b.closer.Lives = b.books })
		s.use("inst-a", 0)
		s.use("inst-a", 70)
		stop := s.run()
		s.sleep(65)
		stop()
		s.sleep(20) // 1:25
		released := s.began.Add(80 * time.Minute)
		if err := s.books.AppendLife(t.Context(), []reporter.LifeChange{{
			InstanceID: "inst-a", Kind: reporter.LifeReleased, At: released, RecordedAt: time.Now(), Actor: "marketplace", Reason: "released",
		}}); err != nil {
			t.Fatal(err)
		}
		s.rebuild(func(*reporter.ServiceOptions) {})
		stop = s.run()
		s.wantStates(map[reporter.State]int{reporter.StateAccepted: 2})
		var last meter.Window
		for _, r := range s.books.All() {
			if r.Window.End.After(last.End) {
				last = r.Window
			}
		}
		if !last.End.Equal(released) {
			t.Errorf("the final record ends %s, want %s", last.End, released)
		}
		stop()
	})
}
