package storetest

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meterd/meterd/store"
)

// stopwatch is the monotonic clock that a lease sees.
type stopwatch struct{ elapsed atomic.Int64 }

func (w *stopwatch) Elapsed() time.Duration   { return time.Duration(w.elapsed.Load()) }
func (w *stopwatch) advance(by time.Duration) { w.elapsed.Add(int64(by)) }
func (s *suite) ttl() time.Duration           { return 30 * time.Second }
func holds(t *testing.T, l *store.Lease) bool { t.Helper(); return must(l.Hold(t.Context()))(t) }

func (s *suite) lease(t *testing.T, st *store.Store) (*store.Lease, *stopwatch) {
	t.Helper()
	watch := new(stopwatch)
	l, err := st.NewLease(store.LeaseOptions{TTL: s.ttl(), Elapsed: watch.Elapsed})
	if err != nil {
		t.Fatal(err)
	}
	return l, watch
}

func testLease(t *testing.T, s *suite) {
	a, clockA := s.lease(t, s.store)
	b, clockB := s.lease(t, s.open(t))
	expect := func(when string, l *store.Lease, want bool) {
		t.Helper()
		if got := holds(t, l); got != want {
			t.Errorf("Hold %s = %v, want %v", when, got, want)
		}
	}
	expect("of the first", a, true)
	expect("of the second", b, false)
	for range 5 { // the holder gives signs of life: nobody waits in vain for long enough
		clockA.advance(s.ttl() / 2)
		expect("while renewing", a, true)
		clockB.advance(s.ttl() - 1)
		expect("of the other meanwhile", b, false)
	}
	clockB.advance(1)
	expect("after the time, since the last sign was seen", b, false)
	clockB.advance(s.ttl() - 2)
	expect("one short of the time", b, false)
	clockB.advance(1)
	expect("after silence", b, true)
	expect("of the one that was deposed", a, false)
	if a.Epoch() != 0 || b.Epoch() != 2 {
		t.Errorf("epochs %d and %d, want 0 and 2", a.Epoch(), b.Epoch())
	}
	if err := b.Release(t.Context()); err != nil {
		t.Fatalf("Release: %v", err)
	}
	expect("after a release", a, true)
	expect("again", a, true)
	expect("of the one that released", b, false)
	if err := b.Release(t.Context()); err != nil { // of nothing
		t.Errorf("Release of nothing: %v", err)
	}
	s.record("epoch %d", a.Epoch())
	if err := a.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 2 { // a successor of the same name doesn't wait; its predecessor is dead
		l := must(s.store.NewLease(store.LeaseOptions{TTL: s.ttl(), Holder: "one-data-directory", Elapsed: clockA.Elapsed}))(t)
		expect("of a process and of its successor", l, true)
	}
	expect("of another one meanwhile", b, false)
	if _, err := s.store.NewLease(store.LeaseOptions{}); err == nil {
		t.Error("NewLease without a clock succeeded")
	}
}

// testLeaseRace lets processes whose clocks race want the lease over many epochs: no epoch ever has two holders.
func testLeaseRace(t *testing.T, s *suite) {
	const processes, turns = 6, 12
	stores := []*store.Store{s.store, s.open(t)}
	var mu sync.Mutex
	holders := map[uint64]map[int]bool{}
	var group sync.WaitGroup
	for i := range processes {
		l, watch := s.lease(t, stores[i%2])
		group.Go(func() {
			for range turns {
				watch.advance(s.ttl())
				held, err := l.Hold(t.Context())
				if err != nil {
					t.Errorf("Hold: %v", err)
					return
				}
				if !held {
					continue
				}
				mu.Lock()
				if holders[l.Epoch()] == nil {
					holders[l.Epoch()] = map[int]bool{}
				}
				holders[l.Epoch()][i] = true
				mu.Unlock()
			}
		})
	}
	group.Wait()
	for epoch, of := range holders {
		if len(of) != 1 {
			t.Errorf("epoch %d has holders %v, want one", epoch, of)
		}
	}
	if len(holders) < 2 {
		t.Errorf("only %d epochs", len(holders))
	}
	var views uint64
	query := "SELECT count() FROM system.tables WHERE database = '" + s.config.Database + "' AND match(name, '^lease_[0-9]+$')"
	if err := s.conn(t).QueryRow(t.Context(), query).Scan(&views); err != nil || views > 10 {
		t.Errorf("%d views of epochs, %v, want the newest 8", views, err)
	}
	t.Logf("%d epochs had a holder", len(holders))
}
