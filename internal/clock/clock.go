// Package clock holds a clock that can be moved ahead, for demonstrations and tests that must not wait for an hour to end.
// The machine's clock is reporter.SystemClock.
package clock

import (
	"context"
	"sync"
	"time"
)

// Shifted runs as fast as the machine's clock, ahead of it or behind it, and jumps when told to. It never goes back.
// Use NewShifted.
type Shifted struct {
	mu     sync.Mutex
	offset time.Duration
	jumped chan struct{} // closed and replaced at every jump
}

// NewShifted returns a clock that shows start now.
func NewShifted(start time.Time) *Shifted {
	return &Shifted{offset: time.Until(start), jumped: make(chan struct{})}
}

// Now returns the clock's time in UTC.
func (s *Shifted) Now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Now().Add(s.offset).UTC() //nolint:forbidigo // a clock reads the machine's
}

// AdvanceTo moves the clock to t, or leaves it where it is when it is already past t. Waiters notice.
func (s *Shifted) AdvanceTo(t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ahead := time.Until(t); ahead > s.offset {
		s.offset = ahead
		close(s.jumped)
		s.jumped = make(chan struct{})
	}
}

// WaitUntil returns nil once the clock shows t or later, or the context's error.
func (s *Shifted) WaitUntil(ctx context.Context, t time.Time) error {
	for {
		s.mu.Lock()
		left, jumped := time.Until(t)-s.offset, s.jumped
		s.mu.Unlock()
		if left <= 0 {
			return ctx.Err()
		}
		if err := wait(ctx, left, jumped); err != nil {
			return err
		}
	}
}

// wait returns after d, when woken, or with the context's error.
func wait(ctx context.Context, d time.Duration, woken <-chan struct{}) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-woken:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
