package reporter_test

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/meterd/meterd/reporter"
)

func fixed(f float64) func() float64 { return func() float64 { return f } }

func TestBackoffDelay(t *testing.T) {
	t.Parallel()
	b := reporter.Backoff{Min: 2 * time.Second, Max: time.Minute}
	for failures, want := range map[int]time.Duration{
		-1: 2 * time.Second, 0: 2 * time.Second, 1: 2 * time.Second, 2: 4 * time.Second, 5: 32 * time.Second, 6: time.Minute,
		7: time.Minute, math.MaxInt: time.Minute,
	} {
		if got := b.Delay(failures, fixed(1)); got != want {
			t.Errorf("Delay(%d) = %s, want %s", failures, got, want)
		}
		if got := b.Delay(failures, fixed(0)); got != want/2 {
			t.Errorf("Delay(%d) with the smallest jitter = %s, want %s", failures, got, want/2)
		}
	}
}

func TestBackoffStaysInBounds(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		b := reporter.Backoff{Min: time.Duration(rapid.Int64Range(1, math.MaxInt64).Draw(t, "min"))}
		b.Max = time.Duration(rapid.Int64Range(int64(b.Min), math.MaxInt64).Draw(t, "max"))
		random := fixed(rapid.Float64Range(0, 0.999).Draw(t, "random"))
		before := time.Duration(0)
		for failures := range 70 {
			d := b.Delay(failures, random)
			if d < b.Min/2 || d > b.Max || d < before {
				t.Fatalf("Delay(%d) = %s after %s with %+v", failures, d, before, b)
			}
			before = d
		}
	})
}

func TestRetryPolicyNext(t *testing.T) {
	t.Parallel()
	p := reporter.RetryPolicy{
		Backoff: reporter.Backoff{Min: 2 * time.Second, Max: time.Minute}, Deadline: 15 * time.Minute,
		LateInterval: 4 * time.Minute, LateLimit: 2 * time.Hour, SlowInterval: time.Hour,
	}
	end := noon.End
	tests := map[string]struct {
		age       time.Duration
		failures  int
		notBefore time.Duration // after now
		want      time.Duration // after now
	}{
		"first failure":          {5 * time.Minute, 1, 0, 2 * time.Second},
		"many failures":          {5 * time.Minute, 9, 0, time.Minute},
		"near the deadline":      {15*time.Minute - 30*time.Second, 9, 0, 7500 * time.Millisecond},
		"at the deadline's edge": {15*time.Minute - 1, 9, 0, 2 * time.Second},
		"at the deadline":        {15 * time.Minute, 9, 0, 4 * time.Minute},
		"late":                   {2*time.Hour - 1, 1, 0, 4 * time.Minute},
		"very late":              {2 * time.Hour, 1, 0, time.Hour},
		"asked to wait":          {5 * time.Minute, 1, 10 * time.Minute, 10 * time.Minute},
		"asked to wait less":     {5 * time.Minute, 9, time.Second, time.Minute},
		"window in the future":   {-time.Hour, 2, 0, 4 * time.Second},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			now := end.Add(tc.age)
			if got := p.Next(now, end, tc.failures, now.Add(tc.notBefore), fixed(1)); got.Sub(now) != tc.want {
				t.Errorf("Next = now + %s, want now + %s", got.Sub(now), tc.want)
			}
		})
	}
}
