package store_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
	"github.com/meterd/meterd/store"
	"github.com/meterd/meterd/store/embedded"
	"github.com/meterd/meterd/store/storetest"
)

// onEngines runs a test on both engines, with a way to kill the engine and start it again.
func onEngines(t *testing.T, test func(t *testing.T, config store.Config, kill func(t *testing.T))) {
	t.Helper()
	t.Run("server", func(t *testing.T) {
		t.Parallel()
		server := storetest.StartServer(t)
		test(t, store.Config{Addrs: []string{server.Addr}, Now: time.Now, Logger: slog.New(slog.DiscardHandler)}, func(t *testing.T) {
			t.Helper()
			server.Kill(t)
			server.Start(t)
		})
	})
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		engine := storetest.StartEngine(t, embedded.Options{NoFsync: true})
		test(t, store.Config{DialContext: engine.DialContext, Now: time.Now, Logger: slog.New(slog.DiscardHandler)}, func(t *testing.T) {
			t.Helper()
			storetest.KillEngine(t, engine)
		})
	})
}

func open(t *testing.T, config store.Config) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), config)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

func emptyBooking(number, version uint64) reporter.Booking {
	hour := measureHour.Start.Add(time.Duration(number) * time.Hour)
	return reporter.Booking{Number: number, Version: version, Kind: reporter.BookingClose, Window: meter.HourOf(hour), At: hour, Reason: "it's\n\x00 \\ 名"}
}

// TestCommit_KilledBetweenViewAndRow kills the engine right after a number was taken: the booking counts, and whoever comes
// next completes it.
func TestCommit_KilledBetweenViewAndRow(t *testing.T) {
	t.Parallel()
	onEngines(t, func(t *testing.T, config store.Config, kill func(*testing.T)) {
		t.Helper()
		s := open(t, config)
		first, second := emptyBooking(1, 10), emptyBooking(2, 20)
		if err := s.Commit(t.Context(), first); err != nil {
			t.Fatal(err)
		}
		if err := store.TakeNumber(s, t.Context(), second); err != nil {
			t.Fatal(err)
		}
		kill(t)
		// A rival that computed booking 2, too: it is taken, although it has no row yet.
		if err := open(t, config).Commit(t.Context(), emptyBooking(2, 21)); !errors.Is(err, reporter.ErrBookingTaken) {
			t.Errorf("Commit of a number that has a view = %v, want ErrBookingTaken", err)
		}
		last, ok, err := s.LastBooking(t.Context())
		if diff := cmp.Diff(second, last); diff != "" || !ok || err != nil {
			t.Errorf("LastBooking = %v, %v (-want +got):\n%s", ok, err, diff)
		}
		if err := s.Commit(t.Context(), second); err != nil {
			t.Errorf("Commit again: %v", err)
		}
	})
}

// TestCommit_HalfWritten shows what an old server needs after it could not write a definition to the end: a restart. Nothing is
// lost meanwhile, and the error says what to do.
func TestCommit_HalfWritten(t *testing.T) {
	t.Parallel()
	server := storetest.StartServer(t)
	s := open(t, store.Config{Addrs: []string{server.Addr}, Now: time.Now, Logger: slog.New(slog.DiscardHandler)})
	if s.ServerVersion().AtLeast(20, 1) {
		t.Skip("newer servers write over what is left")
	}
	if err := s.Commit(t.Context(), emptyBooking(1, 10)); err != nil {
		t.Fatal(err)
	}
	left := fmt.Sprintf("/proc/%d/cwd/data/metadata/meterd/booking_%020d.sql.tmp", server.PID(), 2)
	if err := os.WriteFile(left, []byte("ATTACH VIEW"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := s.Commit(t.Context(), emptyBooking(2, 20))
	if err == nil || errors.Is(err, reporter.ErrBookingTaken) || !strings.Contains(err.Error(), "restart the ClickHouse server") {
		t.Errorf("Commit with half a definition = %v, want an error that says what to do", err)
	}
	server.Kill(t)
	server.Start(t)
	if err := s.Commit(t.Context(), emptyBooking(2, 21)); err != nil {
		t.Errorf("Commit after a restart: %v", err)
	}
}

// TestCommit_StaleProcess takes a number whose view was dropped long ago: the row says who has it.
func TestCommit_StaleProcess(t *testing.T) {
	t.Parallel()
	onEngines(t, func(t *testing.T, config store.Config, _ func(*testing.T)) {
		t.Helper()
		s := open(t, config)
		const n = 68
		for number := range uint64(n) {
			if err := s.Commit(t.Context(), emptyBooking(number+1, 10*(number+1))); err != nil {
				t.Fatal(err)
			}
		}
		stale := emptyBooking(2, 25)
		for range 2 { // the second time its own view is gone again
			created := store.TakeNumber(s, t.Context(), stale)
			if created != nil {
				t.Fatalf("the view of booking 2 is still there: %v", created)
			}
			if err := store.FinishCommit(s, t.Context(), stale, created, nil); !errors.Is(err, reporter.ErrBookingTaken) {
				t.Errorf("finish of a stale booking = %v, want ErrBookingTaken", err)
			}
		}
		// One that ended in between leaves a view behind: it means nothing, and goes with the next booking.
		if err := store.TakeNumber(s, t.Context(), stale); err != nil {
			t.Fatal(err)
		}
		for _, number := range []uint64{n + 1, n + 2} {
			if err := s.Commit(t.Context(), emptyBooking(number, 10*number)); err != nil {
				t.Fatal(err)
			}
		}
		checkLog(t, s, n+2, nil, nil)
		if err := store.TakeNumber(s, t.Context(), stale); err != nil {
			t.Errorf("the view of the stale booking is still there: %v", err)
		}
	})
}

// checkLog checks that the log has no gaps and no repetitions, and holds what was confirmed and nothing that was refused.
func checkLog(t *testing.T, s *store.Store, atLeast int, confirmed map[uint64]uint64, refused map[uint64]bool) {
	t.Helper()
	list, err := s.Bookings(t.Context(), time.Time{}, time.Time{})
	if err != nil || len(list) < atLeast {
		t.Fatalf("Bookings = %d, %v, want at least %d", len(list), err, atLeast)
	}
	for i, b := range list {
		if b.Number != uint64(i+1) {
			t.Fatalf("booking %d has number %d", i+1, b.Number)
		}
		if version, ok := confirmed[b.Number]; ok && version != b.Version {
			t.Errorf("booking %d has version %d, and %d was confirmed", b.Number, b.Version, version)
		}
		if refused[b.Version] {
			t.Errorf("booking %d has version %d, which was refused", b.Number, b.Version)
		}
		want := emptyBooking(b.Number, b.Version)
		if diff := cmp.Diff(want, b); diff != "" {
			t.Errorf("booking %d (-want +got):\n%s", b.Number, diff)
		}
	}
	for number := range confirmed {
		if number > uint64(len(list)) {
			t.Errorf("booking %d was confirmed and is lost", number)
		}
	}
}

// TestCommit_Killed lets two processes book as fast as they can while the engine is killed again and again.
func TestCommit_Killed(t *testing.T) {
	t.Parallel()
	onEngines(t, func(t *testing.T, config store.Config, kill func(*testing.T)) {
		t.Helper()
		stores := []*store.Store{open(t, config), open(t, config)}
		var mu sync.Mutex
		confirmed, refused := map[uint64]uint64{}, map[uint64]bool{}
		ctx, stop := context.WithCancel(t.Context())
		progress := make(chan struct{}, 1)
		var group sync.WaitGroup
		for i, s := range stores {
			group.Go(func() {
				for version := uint64(i + 1); ctx.Err() == nil; version += 2 {
					last, _, err := s.LastBooking(ctx)
					if err != nil {
						continue // the engine is away
					}
					b := emptyBooking(last.Number+1, last.Version/100*100+100+version%100)
					err = s.Commit(ctx, b)
					mu.Lock()
					switch {
					case err == nil:
						confirmed[b.Number] = b.Version
						select {
						case progress <- struct{}{}:
						default:
						}
					case errors.Is(err, reporter.ErrBookingTaken):
						refused[b.Version] = true
					}
					mu.Unlock()
				}
			})
		}
		const kills = 4
		for range kills {
			for range 3 {
				select {
				case <-progress:
				case <-time.After(time.Minute):
					t.Fatal("no booking in a minute")
				}
			}
			kill(t)
		}
		stop()
		group.Wait()
		s := open(t, config)
		if _, _, err := s.LastBooking(t.Context()); err != nil {
			t.Fatal(err)
		}
		checkLog(t, s, kills, confirmed, refused)
		t.Logf("%d confirmed, %d refused", len(confirmed), len(refused))
	})
}
