package reporter_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

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

func TestBreakerStory(t *testing.T) {
	t.Parallel()
	clock := reportertest.NewClock(at(0))
	b := reporter.NewBreaker(2, time.Minute, clock.Now, nil)
	call(t, b, reporter.ClassUnavailable)
	call(t, b, reporter.ClassUnknown)
	clock.Set(at(1))
	call(t, b, reporter.ClassAccepted)
	want := []reporter.BreakerChange{
		{At: at(0), From: reporter.BreakerClosed, To: reporter.BreakerOpen, Reason: "unknown: said", Failures: 2, RetryAt: at(1)},
		{At: at(1), From: reporter.BreakerOpen, To: reporter.BreakerHalfOpen, Reason: "the open time is over, the next due record is the probe", Failures: 2},
		{At: at(1), From: reporter.BreakerHalfOpen, To: reporter.BreakerClosed, Reason: "accepted: said"},
	}
	if diff := cmp.Diff(want, b.Story()); diff != "" {
		t.Errorf("story differs (-want +got):\n%s", diff)
	}
}

// The story is bounded, and a long outage doesn't crowd out how it began.
func TestBreakerStoryIsBounded(t *testing.T) {
	t.Parallel()
	clock := reportertest.NewClock(at(0))
	b := reporter.NewBreaker(1, time.Minute, clock.Now, nil)
	call(t, b, reporter.ClassUnavailable)
	for minute := 1; minute < 500; minute++ {
		clock.Set(at(minute))
		call(t, b, reporter.ClassUnavailable)
	}
	story := b.Story()
	if len(story) != 50 || !story[0].At.Equal(at(0)) || !story[49].At.Equal(at(499)) {
		t.Errorf("%d changes from %s to %s, want 50 with the first and the last one", len(story), story[0].At, story[len(story)-1].At)
	}
}

// An answer to a call that was under way during a reset counts for nothing.
func TestBreakerReset(t *testing.T) {
	t.Parallel()
	clock := reportertest.NewClock(at(0))
	b := reporter.NewBreaker(1, time.Minute, clock.Now, nil)
	done, err := b.Allow()
	if err != nil {
		t.Fatal(err)
	}
	b.Reset("reset by test")
	done(reporter.ClassUnavailable, "late")
	if b.State() != reporter.BreakerClosed {
		t.Errorf("state = %s, want closed", b.State())
	}
	call(t, b, reporter.ClassUnavailable)
	b.Reset("reset by test")
	if b.State() != reporter.BreakerClosed || !b.RetryAt().IsZero() {
		t.Errorf("state = %s, retry at %s, want closed", b.State(), b.RetryAt())
	}
}
