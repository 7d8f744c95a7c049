package clock_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meterd/meterd/internal/clock"
)

func TestShifted_RunsFromItsStart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		start := time.Date(2023, 11, 16, 18, 0, 0, 0, time.UTC)
		c := clock.NewShifted(start)
		time.Sleep(90 * time.Second)
		if got, want := c.Now(), start.Add(90*time.Second); !got.Equal(want) {
			t.Errorf("Now() = %v, want %v", got, want)
		}
	})
}

func TestShifted_WaitersSeeJumpsAndTheFlowOfTime(t *testing.T) {
	t.Parallel()
	tests := map[string]func(c *clock.Shifted, target time.Time){
		"jump past the target":     func(c *clock.Shifted, target time.Time) { c.AdvanceTo(target.Add(time.Hour)) },
		"jump to the target":       func(c *clock.Shifted, target time.Time) { c.AdvanceTo(target) },
		"jump short, time does it": func(c *clock.Shifted, target time.Time) { c.AdvanceTo(target.Add(-time.Minute)) },
		"no jump, time does it":    func(*clock.Shifted, time.Time) {},
	}
	for name, move := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := clock.NewShifted(time.Date(2023, 11, 16, 18, 0, 0, 0, time.UTC))
				target := c.Now().Add(24 * time.Hour)
				done := make(chan error, 1)
				go func() { done <- c.WaitUntil(t.Context(), target) }()
				synctest.Wait()
				select {
				case err := <-done:
					t.Fatalf("WaitUntil returned %v before its time", err)
				default:
				}
				move(c, target)
				if err := <-done; err != nil {
					t.Fatalf("WaitUntil() = %v, want nil", err)
				}
				if c.Now().Before(target) {
					t.Errorf("returned at %v, before %v", c.Now(), target)
				}
			})
		})
	}
}

func TestShifted_NeverGoesBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		start := time.Date(2023, 11, 16, 18, 0, 0, 0, time.UTC)
		c := clock.NewShifted(start)
		c.AdvanceTo(start.Add(-time.Hour))
		if got := c.Now(); got.Before(start) {
			t.Errorf("Now() = %v after an earlier AdvanceTo, want %v", got, start)
		}
	})
}

func TestShifted_WaitEndsWithTheContext(t *testing.T) {
	t.Parallel()
	c := clock.NewShifted(time.Unix(0, 0))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.WaitUntil(ctx, c.Now().Add(time.Hour)); !errors.Is(err, context.Canceled) {
		t.Errorf("WaitUntil() = %v, want context.Canceled", err)
	}
	if err := c.WaitUntil(t.Context(), c.Now().Add(-time.Second)); err != nil {
		t.Errorf("WaitUntil(past) = %v, want nil", err)
	}
}
