package reporter

import (
	"context"
	"time"
)

// Clock tells the time and waits for it. Production uses [SystemClock]; an accelerated or simulated clock takes its place
// in demos and tests, so nothing in this package may wait by other means.
type Clock interface {
	Now() time.Time
	// WaitUntil returns nil once Now is t or later, at once when it already is, and ctx's error when ctx ends first.
	WaitUntil(ctx context.Context, t time.Time) error
}

// SystemClock is the machine's clock.
type SystemClock struct{}

// longestNap bounds one sleep of [SystemClock.WaitUntil]. Timers run on the monotonic clock, which neither follows a step
// of the wall clock nor counts the time a machine was suspended; looking at the wall clock that often bounds how late
// the hour is noticed after either.
const longestNap = 30 * time.Second

// Now returns the current time in UTC.
func (SystemClock) Now() time.Time { return time.Now().UTC() } //nolint:forbidigo // the one place that reads the machine's clock

// WaitUntil waits for the wall clock to reach t.
func (c SystemClock) WaitUntil(ctx context.Context, t time.Time) error {
	for {
		left := t.Sub(c.Now().Round(0)) // Round strips the monotonic reading: t is a wall time
		if left <= 0 {
			return ctx.Err()
		}
		timer := time.NewTimer(min(left, longestNap))
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
	}
}
