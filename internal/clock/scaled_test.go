package clock_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meterd/meterd/internal/clock"
)

func mustScaled(t *testing.T, format string, args ...any) *clock.Scaled {
	t.Helper()
	c, err := clock.ParseScaled(fmt.Sprintf(format, args...))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestScaled_RunsFaster(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := mustScaled(t, "%d,2026-03-01T12:00:00Z,600", time.Now().UnixNano())
		begin := c.Monotonic()
		time.Sleep(6 * time.Second)
		if got, want := c.Now(), time.Date(2026, 3, 1, 13, 0, 0, 0, time.UTC); !got.Equal(want) {
			t.Errorf("Now() = %v after 6 s at 600 times the speed, want %v", got, want)
		}
		if got := c.Monotonic() - begin; got != time.Hour {
			t.Errorf("the monotonic clock ran %v, want 1 h", got)
		}
		began := time.Now()
		if err := c.WaitUntil(t.Context(), time.Date(2026, 3, 1, 13, 30, 0, 0, time.UTC)); err != nil {
			t.Fatal(err)
		}
		if got := time.Since(began); got != 3*time.Second {
			t.Errorf("half an hour took %v, want 3 s", got)
		}
	})
}

func TestScaled_LeapsAndSteps(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "step")
	synctest.Test(t, func(t *testing.T) {
		c := mustScaled(t, "%d,2026-03-01T12:00:00Z,1,%s", time.Now().UnixNano(), file)
		begin := c.Now()
		for i, tt := range []struct {
			text         string
			passed, step time.Duration
		}{
			{"", 0, 0},
			{"0s 2h\n", 0, 2 * time.Hour},
			{"3h -2h", 3 * time.Hour, -2 * time.Hour},
			{"half a fi", 3 * time.Hour, -2 * time.Hour},
			{"4h 0s", 4 * time.Hour, 0},
		} {
			if err := os.WriteFile(file, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			passed := time.Duration(i+1)*time.Second + tt.passed
			if got, want := c.Now(), begin.Add(passed+tt.step); !got.Equal(want) {
				t.Errorf("Now() = %v after %q, want %v", got, tt.text, want)
			}
			if got := c.Monotonic(); got != passed {
				t.Errorf("Monotonic() = %v after %q, want %v", got, tt.text, passed)
			}
		}
	})
}

func TestScaled_WaitEndsWithTheContext(t *testing.T) {
	t.Parallel()
	c := mustScaled(t, "%d,2026-03-01T12:00:00Z,1", time.Now().UnixNano())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.WaitUntil(ctx, c.Now().Add(time.Hour)); !errors.Is(err, context.Canceled) {
		t.Errorf("WaitUntil() = %v, want context.Canceled", err)
	}
}

func TestParseScaled_Mistakes(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "0,2026-03-01T12:00:00Z", "x,2026-03-01T12:00:00Z,1", "0,noon,1", "0,2026-03-01T12:00:00Z,0", "0,2026-03-01T12:00:00Z,fast"} {
		if c, err := clock.ParseScaled(text); err == nil {
			t.Errorf("ParseScaled(%q) = %v, want an error", text, c)
		}
	}
}
