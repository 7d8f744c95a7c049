package store_test

import (
	"crypto/sha256"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
	"github.com/meterd/meterd/store"
)

// TestTouchesOfAClockThatIsBehind inserts from a daemon whose clock is two hours behind while another one closes the hour: the
// hour must become stale, or the event is never counted.
func TestTouchesOfAClockThatIsBehind(t *testing.T) {
	t.Parallel()
	onEngines(t, func(t *testing.T, config store.Config, _ func(*testing.T)) {
		t.Helper()
		ctx := t.Context()
		var clock atomic.Int64
		set := func(at time.Time) { clock.Store(at.UnixNano()) }
		behind := config
		behind.Now = func() time.Time { return time.Unix(0, clock.Load()).UTC() }
		behind.Logger = slog.New(slog.DiscardHandler)
		insert := func(s *store.Store, name string, at time.Time) {
			t.Helper()
			if err := s.InsertEvents(ctx, oneEvent(name, at)); err != nil {
				t.Fatal(err)
			}
		}
		touches := func(s *store.Store, hour meter.Window) int {
			t.Helper()
			list, err := s.Touches(ctx, hour)
			if err != nil {
				t.Fatal(err)
			}
			return len(list)
		}
		closing := open(t, config)

		// Between count and commit nobody but the server's clock tells.
		ended := meter.HourOf(time.Now().Add(-time.Hour))
		set(time.Now().Add(-2 * time.Hour))
		inserting := open(t, behind)
		insert(inserting, "early", ended.Start.Add(time.Minute))
		if touches(closing, ended) == 0 {
			t.Error("an event of an hour that had ended by the server's clock made no touch")
		}

		// Far from the server's clock, the last close tells.
		base := time.Date(2020, 1, 1, 10, 0, 30, 0, time.UTC)
		set(base)
		simulated := open(t, behind)
		insert(simulated, "now", base)
		set(base.Add(-2 * time.Hour))
		b := emptyBooking(1, 10)
		b.Kind, b.Window = reporter.BookingClose, meter.HourOf(base)
		if err := closing.Commit(ctx, b); err != nil {
			t.Fatal(err)
		}
		set(base.Add(-2*time.Hour + 2*time.Minute))
		insert(simulated, "late", base)
		if touches(closing, b.Window) == 0 {
			t.Error("an event of a closed hour made no touch after the clock was set back")
		}
	})
}

// oneEvent is one event of somebody, without values.
func oneEvent(name string, at time.Time) *meter.EventRows {
	sum := sha256.Sum256([]byte(name))
	return &meter.EventRows{
		Subject: [][]byte{[]byte("somebody")}, Source: [][]byte{[]byte("test")}, ID: [][]byte{[]byte(name)}, Type: [][]byte{[]byte("prompt")},
		Key: []meter.EventKey{meter.EventKey(sum[:16])}, Content: []uint64{1}, Time: []int64{at.UnixNano()}, Received: []int64{at.UnixNano()},
		Stamped: []bool{false}, Data: [][]byte{[]byte("{}")}, Extensions: [][]byte{nil},
	}
}
