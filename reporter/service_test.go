package reporter_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
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

// serviceBench is a bench inside a synctest bubble: everything runs on the bubble's clock, which begins at midnight of
// 2000-01-01 UTC.
type serviceBench struct {
	*bench
	service *reporter.Service
	began   time.Time
}

func newServiceBench(t *testing.T, spec string, change func(*bench)) *serviceBench {
	t.Helper()
	b := newBench(t, []meter.Meter{tokens("1")})
	clock := reporter.SystemClock{}
	b.closer.Now, b.options.Clock = clock.Now, clock
	if change != nil {
		change(b)
	}
	schedule, err := reporter.ParseSchedule(spec)
	if err != nil {
		t.Fatal(err)
	}
	s, err := reporter.NewService(reporter.ServiceOptions{
		Closer: b.newCloser(), Reporter: b.newReporter(), Schedule: schedule, Clock: clock, Logger: b.logs.logger(),
		Random: func() float64 { return 0.5 },
	})
	if err != nil {
		t.Fatalf("NewService: %v", err)
	}
	return &serviceBench{bench: b, service: s, began: clock.Now()}
}

// run starts the loop and returns what ends it and waits for it.
func (s *serviceBench) run() (stop func()) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan error, 1)
	go func() { done <- s.service.Run(ctx) }()
	synctest.Wait()
	return func() {
		s.t.Helper()
		cancel()
		if err := <-done; err != nil {
			s.t.Errorf("Run = %v, want nil", err)
		}
	}
}

// use stores usage of the subject at so many minutes after the beginning.
func (s *serviceBench) use(subject string, minute int) {
	s.books.AddUsage(subject, "tokens", s.began.Add(time.Duration(minute)*time.Minute), q("1"))
}

// sleep lets so many minutes pass.
func (s *serviceBench) sleep(minutes int) {
	time.Sleep(time.Duration(minutes) * time.Minute)
	synctest.Wait()
}

// callTimes returns what returns the times of the calls so far.
func callTimes(b *bench) func() []string {
	var mu sync.Mutex
	var times []string
	b.market.BeforeRecord(func(reporter.UsageRecord) {
		mu.Lock()
		defer mu.Unlock()
		times = append(times, time.Now().UTC().Format("15:04:05"))
	})
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(times)
	}
}

func TestServiceReportsEveryHourOnSchedule(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newServiceBench(t, "5 * * * *", nil)
		times := callTimes(s.bench)
		for hour := range 3 {
			s.use("inst-a", hour*60+59)
		}
		stop := s.run()
		s.sleep(64)
		if len(times()) != 0 {
			t.Errorf("calls before the schedule: %v", times())
		}
		s.sleep(3 * 60)
		stop()
		if diff := cmp.Diff([]string{"01:05:00", "02:05:00", "03:05:00"}, times()); diff != "" {
			t.Errorf("times of calls differ (-want +got):\n%s", diff)
		}
	})
}

func TestServiceCatchesUpAtOnceAfterDowntime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newServiceBench(t, "5 * * * *", nil)
		for hour := range 72 {
			s.use("inst-a", hour*60)
		}
		s.sleep(72*60 + 30)
		stop := s.run()
		defer stop()
		s.wantStates(map[reporter.State]int{reporter.StateAccepted: 72})
		calls := s.market.Calls()
		for i := 1; i < len(calls); i++ {
			if calls[i][0].Window.Start.Before(calls[i-1][0].Window.Start) {
				t.Errorf("call %d is for %s, after %s", i, calls[i][0].Window, calls[i-1][0].Window)
			}
		}
		st := s.service.Status()
		if want := s.began.Add(73*time.Hour + 15*time.Minute); !st.Deadline.Equal(want) || !st.OldestUnsettled().IsZero() {
			t.Errorf("deadline %s, oldest unsettled %s, want %s and none", st.Deadline, st.OldestUnsettled(), want)
		}
		if want := s.began.Add(73*time.Hour + 5*time.Minute); !st.NextScheduled.Equal(want) || !st.NextRetry.IsZero() {
			t.Errorf("next %s and retry %s, want %s and none", st.NextScheduled, st.NextRetry, want)
		}
	})
}

// Without events there is nothing to do but to wake up every hour.
func TestServiceDoesNotBusyWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newServiceBench(t, "5 * * * *", nil)
		asked := 0
		s.books.SetFaults(func(string, int) reportertest.Fault { asked++; return reportertest.FaultNone })
		stop := s.run()
		s.sleep(24 * 60)
		stop()
		if asked > 25*4 {
			t.Errorf("%d questions to the books in a day, want at most four an hour", asked)
		}
	})
}

func TestServiceRetriesUntilTheDeadlineThenSlower(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newServiceBench(t, "5 * * * *", func(b *bench) { b.options.BreakerFailures = 1_000_000 })
		s.use("inst-a", 0)
		var healthy atomic.Bool
		var ages []time.Duration
		var mu sync.Mutex
		s.market.Script(func(int, []reporter.UsageRecord) reportertest.Answer {
			if healthy.Load() {
				return reportertest.Accept()
			}
			mu.Lock()
			defer mu.Unlock()
			ages = append(ages, time.Since(s.began.Add(time.Hour)))
			return reportertest.Refuse(reporter.ClassUnavailable, "0999")
		})
		stop := s.run()
		s.sleep(60 + 8*60)
		counts := map[string]int{}
		mu.Lock()
		for _, age := range ages {
			switch {
			case age < 15*time.Minute:
				counts["on time"]++
			case age < 2*time.Hour:
				counts["late"]++
			default:
				counts["very late"]++
			}
		}
		mu.Unlock()
		// 10 minutes at up to 45 s, 105 minutes at 2:15, six hours once per schedule and once per 45 minutes.
		if n := counts["on time"]; n < 12 || n > 40 {
			t.Errorf("%d attempts on time, want 12 to 40", n)
		}
		if n := counts["late"]; n < 40 || n > 60 {
			t.Errorf("%d late attempts, want 40 to 60", n)
		}
		if n := counts["very late"]; n < 6 || n > 20 {
			t.Errorf("%d very late attempts, want 6 to 20", n)
		}
		st := s.service.Status()
		if st.DueRecords() != 1 || st.UntilDeadline != 15*time.Minute-8*time.Hour || st.Failures == 0 || st.NextRetry.IsZero() {
			t.Errorf("status = %+v, want 1 due, 7h45m too late, and a retry", st)
		}
		healthy.Store(true)
		s.service.Trigger()
		synctest.Wait()
		s.wantStates(map[reporter.State]int{reporter.StateAccepted: 1})
		if st := s.service.Status(); st.DueRecords() != 0 || st.Failures != 0 || !st.NextRetry.IsZero() {
			t.Errorf("status after recovery = %+v, want nothing left", st)
		}
		stop()
	})
}

// An hour that passes during a long round is not skipped.
func TestServiceDoesNotSkipAnHourDuringALongRound(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newServiceBench(t, "5 * * * *", nil)
		s.use("inst-a", 0)
		s.use("inst-a", 60)
		s.market.Script(func(call int, _ []reporter.UsageRecord) reportertest.Answer {
			if call == 1 {
				time.Sleep(62 * time.Minute) // from 1:05 to 2:07
			}
			return reportertest.Accept()
		})
		times := callTimes(s.bench)
		stop := s.run()
		s.sleep(180)
		stop()
		if diff := cmp.Diff([]string{"01:05:00", "02:07:00"}, times()); diff != "" {
			t.Errorf("times of calls differ (-want +got):\n%s", diff)
		}
	})
}

// A schedule that comes before the grace period has passed still closes the hour, when it has.
func TestServiceClosesAfterGraceWhenTheScheduleIsEarlier(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newServiceBench(t, "0 * * * *", nil)
		s.use("inst-a", 0)
		s.use("inst-a", 60)
		times := callTimes(s.bench)
		stop := s.run()
		s.sleep(130)
		stop()
		if diff := cmp.Diff([]string{"01:05:00", "02:05:00"}, times()); diff != "" {
			t.Errorf("times of calls differ (-want +got):\n%s", diff)
		}
	})
}

func TestServiceSurvivesErrorsAndPanics(t *testing.T) {
	t.Parallel()
	for _, fault := range []reportertest.Fault{reportertest.FaultBefore, reportertest.FaultAfter, reportertest.FaultPanic} {
		t.Run(fmt.Sprint(fault), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newServiceBench(t, "5 * * * *", nil)
				s.use("inst-a", 0)
				var healthy atomic.Bool
				var failed atomic.Int32
				s.books.SetFaults(func(string, int) reportertest.Fault {
					if healthy.Load() {
						return reportertest.FaultNone
					}
					failed.Add(1)
					return fault
				})
				stop := s.run()
				s.sleep(70)
				if n := failed.Load(); n < 8 { // the start, and the ten minutes that passed since 1:00
					t.Errorf("%d attempts while the books fail, want at least 8", n)
				}
				if st := s.service.Status(); st.CloseErr == "" && fault != reportertest.FaultPanic {
					t.Error("the status does not tell that closing fails")
				}
				healthy.Store(true)
				s.sleep(2)
				s.wantStates(map[reporter.State]int{reporter.StateAccepted: 1})
				if st := s.service.Status(); st.CloseErr != "" || st.Failures != 0 {
					t.Errorf("status = %+v, want no failure", st)
				}
				stop()
			})
		})
	}
}

// What is closed is delivered although nothing more can be closed.
func TestServiceDeliversWhileClosingFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newServiceBench(t, "5 * * * *", nil)
		s.use("inst-a", 0)
		s.use("inst-a", 60)
		stop := s.run()
		s.market.Script(func(int, []reporter.UsageRecord) reportertest.Answer {
			return reportertest.Refuse(reporter.ClassUnavailable, "0999")
		})
		s.sleep(66)
		s.books.SetFaults(func(op string, _ int) reportertest.Fault {
			if op == "LastClosed" {
				return reportertest.FaultBefore
			}
			return reportertest.FaultNone
		})
		s.market.Script(nil)
		s.sleep(120)
		s.wantStates(map[reporter.State]int{reporter.StateAccepted: 1})
		stop()
	})
}

func TestCloseNow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newServiceBench(t, "5 * * * *", nil)
		s.use("inst-a", 0)
		s.use(strings.Repeat("x", 65), 0)
		s.use("inst-a", 60)
		s.sleep(130)
		ctx := t.Context()
		if _, err := s.service.CloseNow(ctx, time.Now().Add(1)); !errors.Is(err, reporter.ErrFuture) {
			t.Errorf("CloseNow in the future = %v, want ErrFuture", err)
		}
		sum, err := s.service.CloseNow(ctx, s.began.Add(65*time.Minute))
		if err != nil {
			t.Fatalf("CloseNow: %v", err)
		}
		first := meter.HourOf(s.began)
		want := reporter.Summary{
			Closed: reporter.ClosedSummary{
				Windows: 1, First: first, Last: first, Events: 2, Usages: 2, Records: 2,
				States: map[reporter.State]uint64{reporter.StatePending: 1, reporter.StateHeld: 1},
			},
			Delivered: reporter.PassSummary{Windows: 1, Settled: 1, Calls: 1, Accepted: 1},
		}
		if diff := cmp.Diff(want, sum); diff != "" {
			t.Errorf("CloseNow differs (-want +got):\n%s", diff)
		}
	})
}

// CloseNow beside the running loop: never two calls at a time (the marketplace would complain), and the loop takes over
// what CloseNow left.
func TestCloseNowBesideTheLoop(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newServiceBench(t, "5 * * * *", nil)
		for i := range 30 {
			s.use(subjectName(i), 0)
		}
		s.market.Script(func(call int, _ []reporter.UsageRecord) reportertest.Answer {
			time.Sleep(20 * time.Second)
			if call < 5 {
				return reportertest.Refuse(reporter.ClassUnavailable, "0999")
			}
			return reportertest.Accept()
		})
		stop := s.run()
		time.Sleep(65*time.Minute + 10*time.Second) // the loop's first call is under way
		sum, err := s.service.CloseNow(t.Context(), time.Now())
		if err != nil || sum.Closed.Windows != 0 || sum.Delivered.Calls == 0 {
			t.Errorf("CloseNow = %+v, %v, want nothing closed and some calls", sum, err)
		}
		s.sleep(5)
		s.wantStates(map[reporter.State]int{reporter.StateAccepted: 30})
		stop()
	})
}

func TestTriggerBeforeRunAndTwice(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newServiceBench(t, "0 0 1 1 *", nil) // once a year
		s.use("inst-a", 0)
		s.use("inst-a", 60)
		s.service.Trigger()
		stop := s.run()
		s.sleep(66)
		if n := len(s.market.Calls()); n != 0 {
			t.Errorf("%d calls without schedule or trigger, want 0", n)
		}
		s.service.Trigger()
		s.service.Trigger()
		synctest.Wait()
		s.wantStates(map[reporter.State]int{reporter.StateAccepted: 1})
		if err := s.service.Run(t.Context()); err == nil {
			t.Error("a second Run = nil, want an error")
		}
		stop()
	})
}

// A trigger that comes while a round is under way makes another one right after it.
func TestTriggerDuringARound(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newServiceBench(t, "0 0 1 1 *", nil) // once a year
		s.use("inst-a", 0)
		s.sleep(65)
		s.market.Script(func(call int, _ []reporter.UsageRecord) reportertest.Answer {
			if call == 1 {
				s.use("inst-a", 61)
				time.Sleep(60 * time.Minute) // until 2:05, when the next hour can be closed
				s.service.Trigger()
			}
			return reportertest.Accept()
		})
		stop := s.run()
		s.sleep(61)
		s.wantStates(map[reporter.State]int{reporter.StateAccepted: 2})
		stop()
	})
}

func TestServiceStopsDuringARound(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newServiceBench(t, "5 * * * *", nil)
		for i := range 30 {
			s.use(subjectName(i), 0)
		}
		s.market.Script(func(int, []reporter.UsageRecord) reportertest.Answer {
			time.Sleep(time.Second)
			return reportertest.Accept()
		})
		stop := s.run()
		time.Sleep(65*time.Minute + 500*time.Millisecond)
		stop()
		s.wantStates(map[reporter.State]int{reporter.StateAccepted: 10, reporter.StatePending: 20})
	})
}

func TestNewServiceReportsFaults(t *testing.T) {
	t.Parallel()
	if _, err := reporter.NewService(reporter.ServiceOptions{}); err == nil {
		t.Error("NewService of nothing = nil, want an error")
	}
	b := newBench(t, nil)
	_, err := reporter.NewService(reporter.ServiceOptions{
		Closer: b.newCloser(), Clock: b.clock, Logger: b.logs.logger(), Random: func() float64 { return 0 },
		Retry: reporter.RetryPolicy{LateLimit: time.Minute},
	})
	if err == nil || !strings.Contains(err.Error(), "schedule is required") || !strings.Contains(err.Error(), "late limit") {
		t.Errorf("NewService = %v, want both faults", err)
	}
}
