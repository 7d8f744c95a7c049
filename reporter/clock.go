package reporter

import (
	"context"
	"time"
)

// Clock tells the time and waits for it. Production uses [SystemClock]; an accelerated or simulated clock takes its place
// in demos and tests, so nothing in this package may wait by other means.
type Clock interface {
	Now() time.Time
	// WaitUntil returns nil once Now is t or later, at once when it already is, and ctx's error when ctx ends first. It may return
	// nil early when the clock was set back by more than a minute: t is further off then than the caller thought.
	WaitUntil(ctx context.Context, t time.Time) error
}

// SystemClock is the machine's clock.
type SystemClock struct{}

// longestNap bounds one sleep of [SystemClock.WaitUntil]. Timers run on the monotonic clock, which neither follows a step
// of the wall clock nor counts the time a machine was suspended; looking at the wall clock that often bounds how late
// the hour is noticed after either.
const longestNap = 30 * time.Second

// clockStep is how far a clock must be set back to be worth a new plan.
const clockStep = time.Minute

// Now returns the current time in UTC.
func (SystemClock) Now() time.Time { return time.Now().UTC() } //nolint:forbidigo // the one place that reads the machine's clock

// WaitUntil waits for the wall clock to reach t.
func (c SystemClock) WaitUntil(ctx context.Context, t time.Time) error {
	for last := c.Now().Round(0); ; {
		now := c.Now().Round(0) // Round strips the monotonic reading: t is a wall time
		left := t.Sub(now)
		if left <= 0 || now.Before(last.Add(-clockStep)) {
			return ctx.Err()
		}
		last = now
		timer := time.NewTimer(min(left, longestNap))
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
	}
}
