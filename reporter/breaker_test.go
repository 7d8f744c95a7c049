package reporter_test

import (
	"strings"
	"testing"
	"time"

	"github.com/meterd/meterd/reporter"
	"github.com/meterd/meterd/reporter/reportertest"
)

// call asks the breaker for one call and reports its class; it returns false when the breaker refused.
func call(t *testing.T, b *reporter.Breaker, class reporter.Class) bool {
	t.Helper()
	done, err := b.Allow()
	if err != nil {
		return false
	}
	done(class, "said")
	return true
}

func TestBreakerCountsOnlySickAnswersInARow(t *testing.T) {
	t.Parallel()
	clock := reportertest.NewClock(at(0))
	b := reporter.NewBreaker(3, time.Minute, clock.Now, nil)
	for _, class := range []reporter.Class{
		reporter.ClassUnavailable, reporter.ClassUnknown, reporter.ClassAccepted, // a healthy answer starts over
		reporter.ClassUnavailable, reporter.ClassUnavailable, reporter.ClassRecordBad,
		reporter.ClassUnavailable, 0, reporter.ClassUnknown, // no call at all counts neither way
	} {
		if !call(t, b, class) || b.State() != reporter.BreakerClosed {
			t.Fatalf("after %q: %s, want closed", class, b.State())
		}
	}
	if !call(t, b, reporter.ClassUnavailable) || b.State() != reporter.BreakerOpen {
		t.Errorf("after the third sick answer in a row: %s, want open", b.State())
	}
}

func TestBreakerEdges(t *testing.T) {
	t.Parallel()
	clock := reportertest.NewClock(at(0))
	var changes []string
	b := reporter.NewBreaker(1, time.Minute, clock.Now, func(c reporter.BreakerChange) {
		changes = append(changes, c.From.String()+">"+c.To.String())
	})
	call(t, b, reporter.ClassUnknown)
	if want := at(1); !b.RetryAt().Equal(want) {
		t.Errorf("RetryAt = %s, want %s", b.RetryAt(), want)
	}
	clock.Set(at(1).Add(-1))
	if call(t, b, reporter.ClassAccepted) {
		t.Error("1 ns before the timeout a call is permitted")
	}
	clock.Set(at(1))
	done, err := b.Allow()
	if err != nil {
		t.Fatalf("Allow at the timeout = %v", err)
	}
	if _, err := b.Allow(); err == nil {
		t.Error("a second probe is permitted while the first is under way")
	}
	done(0, "") // the probe was never made: the next one may
	if s := b.State(); s != reporter.BreakerHalfOpen {
		t.Errorf("after a probe that was not made: %s, want half-open", s)
	}
	if !call(t, b, reporter.ClassUnavailable) || b.State() != reporter.BreakerOpen {
		t.Errorf("after a failed probe: %s, want open", b.State())
	}
	clock.Set(at(2))
	if !call(t, b, reporter.ClassRecordBad) || b.State() != reporter.BreakerClosed {
		t.Errorf("after a probe that was answered: %s, want closed", b.State())
	}
	want := "closed>open open>half-open half-open>open open>half-open half-open>closed"
	got := strings.Join(changes, " ")
	if got != want {
		t.Errorf("changes = %s, want %s", got, want)
	}
}

func TestBreakerSurvivesClockSetBack(t *testing.T) {
	t.Parallel()
	clock := reportertest.NewClock(at(600))
	b := reporter.NewBreaker(1, time.Minute, clock.Now, nil)
	call(t, b, reporter.ClassUnknown)
	clock.Set(at(0))
	if want := at(1); !b.RetryAt().Equal(want) {
		t.Errorf("RetryAt = %s after the clock was set back, want %s", b.RetryAt(), want)
	}
	clock.Set(at(1))
	if s := b.State(); s != reporter.BreakerHalfOpen {
		t.Errorf("state = %s, want half-open", s)
	}
}
