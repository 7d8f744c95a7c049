package reporter_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
	"github.com/meterd/meterd/reporter/reportertest"
)

// arrival is a record as the marketplace got it.
type arrival struct {
	sn     reporter.MeteringSN
	window meter.Window
	at     time.Time
}

// TestThreeHourOutage: the marketplace is away from 02:03 to 05:10, across three boundaries of hours, in every way it can be.
// Afterwards everything has arrived once, oldest first, and the hours after it are on time again.
func TestThreeHourOutage(t *testing.T) {
	t.Parallel()
	answers := map[string]reportertest.Answer{
		"refuses":       reportertest.Refuse(reporter.ClassUnavailable, "0999"),
		"not connected": reportertest.Refuse(reporter.ClassUnavailable, ""),
		"no answer":     reportertest.Refuse(reporter.ClassUnknown, ""),
		"takes, silent": reportertest.LoseAnswer(),
		"throttles":     {Result: reporter.Result{Class: reporter.ClassUnavailable, Code: "0250", RetryAfter: 2 * time.Minute}},
	}
	const instances, hours = 25, 8
	for name, answer := range answers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newServiceBench(t, "5 * * * *", nil)
				for hour := range hours {
					for i := range instances {
						s.use(subjectName(i), hour*60+i)
					}
				}
				from, to := s.began.Add(2*time.Hour+3*time.Minute), s.began.Add(5*time.Hour+10*time.Minute)
				arrived := watchOutage(s, answer, from, to)
				stop := s.run()
				s.sleep(4*60 + 30)
				checkDuringOutage(t, s, hours)
				s.sleep((hours+1)*60 - (4*60 + 30))
				stop()
				s.wantStates(map[reporter.State]int{reporter.StateAccepted: instances * hours})
				checkArrivals(t, arrived(), instances*hours, to)
				if story := s.service.Status().Delivery.BreakerStory; name != "throttles" &&
					(len(story) < 3 || story[len(story)-1].To != reporter.BreakerClosed) {
					t.Errorf("the breaker's story has %d changes: %+v", len(story), story)
				}
			})
		})
	}
}

// watchOutage installs the outage and returns what returns the records that got through, in order of their arrival.
func watchOutage(s *serviceBench, answer reportertest.Answer, from, to time.Time) func() []arrival {
	var got []arrival
	seen := map[reporter.MeteringSN]bool{}
	s.market.Script(func(_ int, batch []reporter.UsageRecord) reportertest.Answer {
		time.Sleep(200 * time.Millisecond)
		a := reportertest.Accept()
		if now := time.Now(); !now.Before(from) && now.Before(to) {
			a = answer
		}
		if !a.Takes {
			return a
		}
		for _, r := range batch {
			if !seen[r.SN] { // one that it has already is a duplicate, which it ignores
				seen[r.SN] = true
				got = append(got, arrival{r.SN, r.Window, time.Now()})
			}
		}
		return a
	})
	return func() []arrival { return got }
}

// checkDuringOutage: the status tells what is going on, and the marketplace is not flooded.
func checkDuringOutage(t *testing.T, s *serviceBench, hours int) {
	t.Helper()
	st := s.service.Status()
	if st.DueRecords() == 0 || st.UntilDeadline >= 0 || st.Failures == 0 || st.NextRetry.IsZero() {
		t.Errorf("status during the outage = %+v, want due records, a passed deadline and a retry", st)
	}
	if oldest := st.OldestUnsettled(); !oldest.Start.Equal(s.began.Add(time.Hour)) && !oldest.Start.Equal(s.began.Add(2*time.Hour)) {
		t.Errorf("oldest unsettled window = %s, want the first of the outage", oldest)
	}
	// Two and a half hours: about a call every 2:15 while late, more of them in the minutes 5 to 15 of each hour.
	if n := len(s.market.Calls()); n > 250+hours*10 {
		t.Errorf("%d calls so far, want fewer", n)
	}
}

// checkArrivals: each record once, in order of the windows, soon after the end of the outage.
func checkArrivals(t *testing.T, arrived []arrival, want int, recovered time.Time) {
	t.Helper()
	if len(arrived) != want {
		t.Errorf("%d records arrived, want %d", len(arrived), want)
	}
	for i, a := range arrived {
		if i > 0 && a.window.Start.Before(arrived[i-1].window.Start) && !arrived[i-1].at.Before(recovered) {
			t.Errorf("arrival %d is of %s, after %s", i, a.window, arrived[i-1].window)
		}
		limit := a.window.End.Add(15 * time.Minute)
		if late := recovered.Add(4 * time.Minute); late.After(limit) {
			limit = late // a late attempt every 3 minutes at most, or at once in minutes 5 to 15
		}
		if a.at.After(limit) {
			t.Errorf("%s of %s arrived %s, want by %s", a.sn, a.window, a.at.Format("15:04:05"), limit.Format("15:04:05"))
		}
	}
}

// TestRestartsDuringOutage: catching up goes by the state of the books and not by anything that a process remembers.
func TestRestartsDuringOutage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newServiceBench(t, "5 * * * *", nil)
		const instances, hours = 12, 10
		for hour := range hours {
			for i := range instances {
				s.use(subjectName(i), hour*60+i)
			}
		}
		from, to := s.began.Add(90*time.Minute), s.began.Add(6*time.Hour)
		arrived := watchOutage(s, reportertest.LoseAnswer(), from, to)
		for range 20 {
			stop := s.run()
			s.sleep(25)
			stop()
			s.sleep(4)
			s.rebuild(func(*reporter.ServiceOptions) {})
		}
		stop := s.run()
		s.sleep(2 * 60)
		stop()
		s.wantStates(map[reporter.State]int{reporter.StateAccepted: instances * hours})
		if n := len(arrived()); n != instances*hours {
			t.Errorf("%d records arrived, want %d", n, instances*hours)
		}
	})
}

// TestNothingIsGivenUpBeforeTheMarketplaceDoes: an outage as long as the marketplace's oldest age ends with an alarm for each
// record, and not earlier. (Here that is 3 days instead of 21, which take seconds of real time.)
func TestNothingIsGivenUpBeforeTheMarketplaceDoes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const days = 3
		limits := reportertest.DefaultLimits()
		limits.MaxAge = days * 24 * time.Hour
		s := newServiceBench(t, "5 * * * *", func(b *bench) {
			b.market = reportertest.NewMarketplace(limits)
			b.options.Marketplace, b.closer.Rules = b.market, b.market
		})
		for i := range 3 {
			s.use(subjectName(i), 0)
		}
		s.market.Script(func(int, []reporter.UsageRecord) reportertest.Answer {
			return reportertest.Refuse(reporter.ClassUnavailable, "0999")
		})
		stop := s.run()
		s.sleep(days*24*60 - 5)
		s.wantStates(map[reporter.State]int{reporter.StatePending: 3})
		calls := len(s.market.Calls())
		if perDay := calls / days; perDay < 20 || perDay > 100 {
			t.Errorf("%d calls in %d days, want one or two an hour once it is late", calls, days)
		}
		s.sleep(70)
		s.wantStates(map[reporter.State]int{reporter.StateExpired: 3})
		if n := len(s.logs.lines("level=ERROR", "state=expired")); n != 3 {
			t.Errorf("%d alarms, want 3", n)
		}
		stop()
	})
}

func ExampleBreakerState() {
	for _, s := range []reporter.BreakerState{reporter.BreakerClosed, reporter.BreakerHalfOpen, reporter.BreakerOpen} {
		fmt.Println(s)
	}
	// Output:
	// closed
	// half-open
	// open
}
