package reporter_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/meterd/meterd/reporter"
)

// clocks is a machine with a wall clock that may be wrong, a monotonic clock, and a marketplace whose clock is right.
type clocks struct {
	truth     time.Time
	wrong     time.Duration // how far the wall clock is ahead of the truth
	mono      time.Duration
	reachable bool
	offset    time.Duration // as last seen
	seenAt    time.Time
	seen      bool
	probes    int
}

func newClocks(wrong time.Duration) *clocks {
	return &clocks{truth: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), wrong: wrong, mono: 42 * time.Hour}
}

func (c *clocks) now() time.Time { return c.truth.Add(c.wrong) }

// run lets time pass.
func (c *clocks) run(d time.Duration) {
	c.truth, c.mono = c.truth.Add(d), c.mono+d
}

// suspend lets time pass while the monotonic clock stands still.
func (c *clocks) suspend(d time.Duration) { c.truth = c.truth.Add(d) }

// step sets the wall clock.
func (c *clocks) step(d time.Duration) { c.wrong += d }

// call is any call to the marketplace.
func (c *clocks) call() error {
	if !c.reachable {
		return errors.New("no route to host")
	}
	c.run(time.Nanosecond) // no two calls see the same time, although clocks here are set by whole minutes
	c.offset, c.seenAt, c.seen = c.wrong, c.now(), true
	return nil
}

func (c *clocks) probe(context.Context) error {
	c.probes++
	return c.call()
}

func (c *clocks) marketplace() (time.Duration, time.Time, bool) { return c.offset, c.seenAt, c.seen }

func (c *clocks) options() reporter.ClockGuardOptions {
	return reporter.ClockGuardOptions{
		Now: c.now, Monotonic: func() time.Duration { return c.mono }, Marketplace: c.marketplace, Probe: c.probe,
		Logger: slog.New(slog.DiscardHandler),
	}
}

func newGuard(tb testing.TB, o reporter.ClockGuardOptions) *reporter.ClockGuard {
	tb.Helper()
	g, err := reporter.NewClockGuard(o)
	if err != nil {
		tb.Fatal(err)
	}
	return g
}

func TestClockGuard(t *testing.T) {
	t.Parallel()
	const h, m = time.Hour, time.Minute
	type step struct {
		do     func(c *clocks, g *reporter.ClockGuard)
		refuse bool
	}
	run := func(d time.Duration) func(*clocks, *reporter.ClockGuard) {
		return func(c *clocks, _ *reporter.ClockGuard) { c.run(d) }
	}
	set := func(d time.Duration) func(*clocks, *reporter.ClockGuard) {
		return func(c *clocks, _ *reporter.ClockGuard) { c.step(d) }
	}
	suspend := func(d time.Duration) func(*clocks, *reporter.ClockGuard) {
		return func(c *clocks, _ *reporter.ClockGuard) { c.suspend(d) }
	}
	reach := func(yes bool) func(*clocks, *reporter.ClockGuard) {
		return func(c *clocks, _ *reporter.ClockGuard) { c.reachable = yes; c.run(2 * m) }
	}
	trust := func(_ *clocks, g *reporter.ClockGuard) { g.Trust() }
	tests := map[string]struct {
		wrong     time.Duration // at the start
		reachable bool
		steps     []step
	}{
		"a good day": {reachable: true, steps: []step{{run(h), false}, {run(23 * h), false}}},
		"slewing for a week": {steps: []step{
			{set(45 * time.Second), false},
			{run(24 * h), false},
			{set(45 * time.Second), false},
			{run(24 * h), false},
			{set(-50 * time.Second), false},
			{run(24 * h), false},
		}},
		"two hours ahead at the start, marketplace answers": {wrong: 2 * h, reachable: true, steps: []step{
			{run(0), true}, {run(3 * h), true}, {set(-2 * h), false}, {run(5 * h), false},
		}},
		"two hours ahead at the start, marketplace answers later": {wrong: 2 * h, steps: []step{
			{run(0), false}, {reach(true), true}, {reach(false), true}, {run(5 * h), true}, {set(-2 * h), false},
		}},
		"two hours behind at the start": {wrong: -2 * h, reachable: true, steps: []step{
			{run(h), false}, {set(2 * h), false}, {run(h), false},
		}},
		"two hours behind at the start, put right while nobody answers": {wrong: -2 * h, steps: []step{
			{run(h), false}, {set(2 * h), true}, {reach(true), false},
		}},
		"ahead by two hours while running": {reachable: true, steps: []step{
			{run(h), false}, {set(2 * h), true}, {run(10 * h), true}, {set(-2 * h), false}, {run(h), false},
		}},
		"ahead by two hours, nobody answers, put right": {steps: []step{
			{run(h), false}, {set(2 * h), true}, {run(20 * m), true}, {set(-2 * h), false}, {run(20 * m), false},
		}},
		"ahead by two hours, nobody answers for long": {steps: []step{
			{run(h), false}, {set(2 * h), true}, {run(25 * m), true}, {run(3 * m), false}, {run(h), false},
		}},
		"back by two hours and forth again": {reachable: true, steps: []step{
			{run(h), false}, {set(-2 * h), false}, {run(10 * m), false}, {set(2 * h), false}, {run(h), false},
		}},
		"back by two hours and forth again, nobody answers": {steps: []step{
			{run(h), false}, {set(-2 * h), false}, {run(10 * m), false}, {set(2 * h), false}, {set(2 * m), true},
		}},
		"suspended overnight": {reachable: true, steps: []step{
			{run(h), false}, {suspend(9 * h), false}, {run(h), false},
		}},
		"suspended overnight, online after a while": {steps: []step{
			{run(h), false}, {suspend(9 * h), true}, {run(10 * m), true}, {reach(true), false}, {run(h), false},
		}},
		"suspended overnight, never online": {steps: []step{
			{run(h), false}, {suspend(9 * h), true}, {run(31 * m), false}, {suspend(9 * h), true}, {run(31 * m), false},
		}},
		"suspended again and again": {steps: []step{
			{suspend(2 * h), true}, {run(20 * m), true}, {suspend(2 * h), true}, {run(20 * m), true}, {run(10 * m), false},
		}},
		"a person knows better, nobody answers": {steps: []step{
			{run(h), false}, {set(2 * h), true}, {trust, false}, {run(h), false}, {set(2 * h), true},
		}},
		"a person knows better than the marketplace": {reachable: true, steps: []step{
			{run(h), false}, {set(2 * h), true}, {trust, false}, {run(10 * h), false}, {set(2 * h), true}, {set(-2 * h), true}, {trust, false},
		}},
		"a person's word does not outlive the difference": {reachable: true, steps: []step{
			{set(2 * h), true}, {trust, false}, {set(-2 * h), false}, {run(h), false}, {set(2 * h), true},
		}},
		"contradicted, then suspended without a network": {wrong: 2 * h, reachable: true, steps: []step{
			{run(h), true}, {reach(false), true}, {suspend(8 * h), true}, {run(3 * h), true}, {reach(true), true}, {set(-2 * h), false},
		}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newClocks(tt.wrong)
			c.reachable = tt.reachable
			g := newGuard(t, c.options())
			for i, s := range tt.steps {
				s.do(c, g)
				c.run(2 * m) // probes are rationed
				if c.reachable && i%2 == 1 {
					_ = c.call() // a push between two checks
				}
				err := g.Check(t.Context())
				if got := errors.Is(err, reporter.ErrClockAhead); got != s.refuse {
					t.Fatalf("step %d: Check() = %v, want refusing = %v; state %+v", i, err, s.refuse, g.State())
				}
				if st := g.State(); st.Refusing != s.refuse || st.Since.IsZero() == s.refuse {
					t.Fatalf("step %d: state %+v, want refusing = %v", i, st, s.refuse)
				}
			}
		})
	}
}

// TestClockGuard_OldAnswers makes sure that what the marketplace's clock said before a jump is not taken for a word about
// the clock after it.
func TestClockGuard_OldAnswers(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ before, jump, after time.Duration }{
		"jump longer than the time between looks":  {20 * time.Minute, 2 * time.Hour, 20 * time.Minute},
		"jump shorter than the time between looks": {50 * time.Minute, 20 * time.Minute, 50 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newClocks(0)
			c.reachable = true
			o := c.options()
			o.Probe = nil
			g := newGuard(t, o)
			if err := g.Check(t.Context()); err != nil {
				t.Fatal(err)
			}
			c.run(tt.before)
			_ = c.call()
			c.step(tt.jump)
			c.run(tt.after)
			if err := g.Check(t.Context()); !errors.Is(err, reporter.ErrClockAhead) {
				t.Fatalf("Check() = %v, want %v", err, reporter.ErrClockAhead)
			}
			_ = c.call()
			c.run(time.Second)
			if err := g.Check(t.Context()); !errors.Is(err, reporter.ErrClockAhead) {
				t.Fatalf("Check() = %v after an answer that contradicts, want %v", err, reporter.ErrClockAhead)
			}
			c.step(-tt.jump)
			if err := g.Check(t.Context()); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestClockGuard_SmallSteps: steps that are followed each for itself add up, and the marketplace is asked.
func TestClockGuard_SmallSteps(t *testing.T) {
	t.Parallel()
	c := newClocks(0)
	c.reachable = true
	g := newGuard(t, c.options())
	c.run(time.Minute)
	if err := g.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		c.step(time.Minute)
		c.run(time.Minute)
		_ = g.Check(t.Context())
	}
	if err := g.Check(t.Context()); !errors.Is(err, reporter.ErrClockAhead) {
		t.Errorf("Check() = %v with a clock that is %v ahead", err, c.wrong)
	}
}

// TestClockGuard_NeverAheadOfTheTruth lets clocks do anything while the marketplace answers every probe: whenever the guard
// agrees, the wall clock is at most twice the tolerance ahead; and a clock that is right is never refused.
func TestClockGuard_NeverAheadOfTheTruth(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		c := newClocks(time.Duration(rapid.Int64Range(-4, 4).Draw(rt, "wrong hours")) * time.Hour)
		c.reachable = true
		g := newGuard(t, c.options())
		minutes := rapid.Int64Range(0, 300)
		for range rapid.IntRange(1, 30).Draw(rt, "steps") {
			d := time.Duration(minutes.Draw(rt, "minutes")) * time.Minute
			switch rapid.IntRange(0, 4).Draw(rt, "what") {
			case 0:
				c.step(d)
			case 1:
				c.step(-d)
			case 2:
				c.suspend(d)
			case 3:
				c.step(-c.wrong) // put right
			case 4:
				c.run(d)
			}
			c.run(time.Minute)
			err := g.Check(t.Context())
			if limit := 2 * time.Minute; err == nil && c.wrong > limit {
				rt.Fatalf("Check() = nil with a clock that is %v ahead; state %+v", c.wrong, g.State())
			}
			if err != nil && c.wrong <= 0 {
				rt.Fatalf("Check() = %v with a clock that is %v ahead", err, c.wrong)
			}
		}
	})
}

func TestClockGuard_AsksRarely(t *testing.T) {
	t.Parallel()
	c := newClocks(0)
	g := newGuard(t, c.options())
	c.step(2 * time.Hour)
	for range 600 {
		c.run(time.Second)
		_ = g.Check(t.Context())
	}
	if c.probes < 9 || c.probes > 11 {
		t.Errorf("%d probes in ten minutes, want one a minute", c.probes)
	}
	c.reachable = true
	c.step(-2 * time.Hour)
	c.run(time.Minute)
	_ = g.Check(t.Context())
	asked := c.probes
	for range 600 {
		c.run(time.Second)
		_ = g.Check(t.Context())
	}
	if c.probes != asked {
		t.Errorf("%d probes of a clock that nobody doubts", c.probes-asked)
	}
}

func TestNewClockGuard_Mistakes(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*reporter.ClockGuardOptions){
		"no wall clock":      func(o *reporter.ClockGuardOptions) { o.Now = nil },
		"no monotonic clock": func(o *reporter.ClockGuardOptions) { o.Monotonic = nil },
		"no logger":          func(o *reporter.ClockGuardOptions) { o.Logger = nil },
		"negative tolerance": func(o *reporter.ClockGuardOptions) { o.Tolerance = -1 },
		"negative patience":  func(o *reporter.ClockGuardOptions) { o.Patience = -1 },
	} {
		o := newClocks(0).options()
		change(&o)
		if _, err := reporter.NewClockGuard(o); err == nil {
			t.Errorf("%s: taken, want an error", name)
		}
	}
}
