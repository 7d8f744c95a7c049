package reporter_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meterd/meterd/reporter"
)

// collectorBooks keeps collectors in memory.
type collectorBooks struct {
	mu   sync.Mutex
	rows map[string]reporter.Collector
	err  error
}

func (b *collectorBooks) WriteCollector(_ context.Context, c reporter.Collector) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if old, ok := b.rows[c.Name]; b.err == nil && (!ok || c.Beat > old.Beat) {
		b.rows[c.Name] = c
	}
	return b.err
}

func (b *collectorBooks) Collectors(context.Context) (list []reporter.Collector, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.rows {
		list = append(list, c)
	}
	return list, b.err
}

type flusherFunc func(context.Context) error

func (f flusherFunc) Flush(ctx context.Context) error { return f(ctx) }

func newBarrier(t *testing.T, books reporter.CollectorBooks, name string, spool func() (uint64, time.Time)) *reporter.Barrier {
	t.Helper()
	b, err := reporter.NewBarrier(reporter.BarrierOptions{
		Local: flusherFunc(func(context.Context) error { return nil }), Books: books, Name: name, Spool: spool, Now: time.Now,
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func empty() (uint64, time.Time) { return 0, time.Time{} }

func TestBarrier(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		other   func(began time.Time) func() (uint64, time.Time) // state of the other collector's spool; nil: it is dead
		left    reporter.Collector                               // what is known of the other one at the beginning
		waits   time.Duration                                    // how long the barrier takes; 0: until its time is up
		atLeast time.Duration
	}{
		"alone": {left: reporter.Collector{}, waits: time.Second},
		"other is idle": {
			left: reporter.Collector{Beat: 7}, waits: 10 * time.Second,
			other: func(time.Time) func() (uint64, time.Time) { return empty },
		},
		"other has traffic but keeps up": {
			left: reporter.Collector{Beat: 7, Unconfirmed: 5, Lag: time.Second}, waits: 15 * time.Second, atLeast: time.Second,
			other: func(time.Time) func() (uint64, time.Time) {
				return func() (uint64, time.Time) { return 5, time.Now().Add(-time.Second) }
			},
		},
		"other catches up after 30 s": {
			left: reporter.Collector{Beat: 7, Unconfirmed: 5, Lag: time.Minute}, waits: 45 * time.Second, atLeast: 30 * time.Second,
			other: func(began time.Time) func() (uint64, time.Time) {
				return func() (uint64, time.Time) {
					if time.Since(began) < 30*time.Second {
						return 5, began.Add(-time.Minute)
					}
					return 5, time.Now().Add(-time.Second)
				}
			},
		},
		"other stands still": {
			left: reporter.Collector{Beat: 7, Unconfirmed: 5, Lag: time.Minute},
			other: func(began time.Time) func() (uint64, time.Time) {
				return func() (uint64, time.Time) { return 5, began.Add(-time.Minute) }
			},
		},
		"other died with events":      {left: reporter.Collector{Beat: 7, Unconfirmed: 5, Lag: time.Minute}},
		"other died without events":   {left: reporter.Collector{Beat: 7}}, // it may have taken some since
		"other stopped in good order": {left: reporter.Collector{Beat: 7, Stopped: true}, waits: time.Second},
		"other stopped with events":   {left: reporter.Collector{Beat: 7, Stopped: true, Unconfirmed: 3}},
		"other died long ago":         {left: reporter.Collector{Beat: 7, Unconfirmed: 5, At: time.Unix(1, 0)}, waits: time.Second},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				books := &collectorBooks{rows: map[string]reporter.Collector{}}
				if tc.left.Beat > 0 {
					tc.left.Name = "other"
					if tc.left.At.IsZero() {
						tc.left.At = began
					}
					books.rows["other"] = tc.left
				}
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
				defer cancel()
				running, stop := context.WithCancel(t.Context())
				var wg sync.WaitGroup
				if tc.other != nil {
					other := newBarrier(t, books, "other", tc.other(began))
					wg.Go(func() { _ = other.Run(running) })
				}
				err := newBarrier(t, books, "me", empty).Flush(ctx)
				took := time.Since(began)
				stop()
				wg.Wait()
				switch {
				case tc.waits == 0 && (!errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "other (")):
					t.Errorf("Flush = %v after %s, want an error about the other one", err, took)
				case tc.waits > 0 && (err != nil || took > tc.waits || took < tc.atLeast):
					t.Errorf("Flush = %v after %s, want success after %s to %s", err, took, tc.atLeast, tc.waits)
				}
			})
		})
	}
}

// TestBarrier_signsOfLife has a successor go on where its predecessor ended, whatever the clock shows.
func TestBarrier_signsOfLife(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		books := &collectorBooks{rows: map[string]reporter.Collector{"me": {Name: "me", Beat: 1 << 40}}}
		ctx, cancel := context.WithTimeout(t.Context(), 11*time.Second)
		defer cancel()
		if err := newBarrier(t, books, "me", empty).Run(ctx); err != nil {
			t.Fatal(err)
		}
		if got := books.rows["me"]; got.Beat != 1<<40+4 || !got.Stopped {
			t.Errorf("last sign of life %+v, want the fourth after that of the process before, and that it stopped", got)
		}
	})
}

func TestBarrier_localFailure(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	b, err := reporter.NewBarrier(reporter.BarrierOptions{
		Local: flusherFunc(func(context.Context) error { return broken }), Books: &collectorBooks{}, Name: "me", Spool: empty,
		Now: time.Now, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Flush(t.Context()); !errors.Is(err, broken) {
		t.Errorf("Flush = %v, want %v", err, broken)
	}
	if _, err := reporter.NewBarrier(reporter.BarrierOptions{}); err == nil {
		t.Error("NewBarrier without anything succeeded")
	}
}
