package spool_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"github.com/meterd/meterd/meter/spool"
	"github.com/meterd/meterd/meter/spool/internal/vfs/memfs"
)

// model is what must hold of a spool, whatever happens to it.
type model struct {
	t    *rapid.T
	fsys *memfs.FS
	s    *spool.Spool
	rng  *rand.Rand
	log  bytes.Buffer // What the spools logged, to be shown when the test fails.

	mu        sync.Mutex
	next      int
	attempted map[string]bool           // Payloads that were ever given to Append.
	acked     map[string]spool.Position // Acknowledged, and where they end.
	ends      map[spool.Position]string // No position is handed out twice.
	confirmed spool.Position            // What Confirm has acknowledged.
	tried     spool.Position            // What Confirm was asked for; it may have failed half way.
}

// TestSpool_Property runs random appends (alone and many at once), confirms,
// disk errors, process kills, power cuts (also in the middle of an operation)
// and reopenings. No acknowledged record may be lost before it is confirmed,
// none invented, and a crash must never look like damage.
func TestSpool_Property(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := &model{
			t: t, fsys: memfs.New(),
			rng:       rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0)),
			attempted: map[string]bool{}, acked: map[string]spool.Position{}, ends: map[spool.Position]string{},
		}
		m.open()
		defer func() { _ = m.s.Close() }()
		t.Repeat(map[string]func(*rapid.T){
			"append":  func(t *rapid.T) { m.appendSome(rapid.IntRange(1, 8).Draw(t, "n")) },
			"confirm": func(t *rapid.T) { m.confirm(rapid.IntRange(0, 10).Draw(t, "skip")) },
			"disk error": func(t *rapid.T) {
				m.diskError(rapid.IntRange(1, 12).Draw(t, "nth"), rapid.IntRange(0, 4).Draw(t, "more"))
			},
			"close and open": func(*rapid.T) { m.closeAndOpen() },
			"kill":           func(*rapid.T) { m.reopen(m.fsys.Kill()) },
			"power cut":      func(*rapid.T) { m.reopen(m.fsys.Crash(m.rng)) },
			"power cut in the middle": func(t *rapid.T) {
				m.fsys.PowerOffAfter(rapid.IntRange(1, 25).Draw(t, "after"))
				m.appendSome(rapid.IntRange(1, 8).Draw(t, "n"))
				m.confirm(rapid.IntRange(0, 3).Draw(t, "skip"))
				m.appendSome(rapid.IntRange(1, 8).Draw(t, "n2"))
				m.reopen(m.fsys.Crash(m.rng))
			},
			"power cut while opening": func(t *rapid.T) {
				fsys := m.fsys.Crash(m.rng)
				fsys.PowerOffAfter(rapid.IntRange(1, 10).Draw(t, "after"))
				s, err := spool.OpenFS(smallOptions(), fsys)
				if err == nil {
					_ = s.Close()
				}
				m.reopen(fsys.Crash(m.rng))
			},
			"": func(*rapid.T) { m.check() },
		})
	})
}

// failf ends the test and shows what led to it.
func (m *model) failf(format string, args ...any) {
	m.t.Helper()
	m.t.Fatalf("%s\n%s", fmt.Sprintf(format, args...), m.log.String())
}

func (m *model) open() {
	o := smallOptions()
	o.Logger = slog.New(slog.NewTextHandler(&m.log, nil))
	s, err := spool.OpenFS(o, m.fsys)
	if err != nil {
		m.failf("Open: %v", err)
	}
	m.s = s
	for _, d := range s.Damage() {
		if !strings.Contains(d.Fault, "never acknowledged") {
			m.failf("a crash is taken for damage: %+v", d)
		}
	}
}

func (m *model) reopen(fsys *memfs.FS) {
	old := m.s
	m.fsys = fsys
	m.open()
	_ = old.Close() // On the old file system, which is gone.
	m.checkPosition()
}

func (m *model) checkPosition() {
	if got := m.s.Recovery().Checkpoint; got != spool.CheckpointGood && got != spool.CheckpointMissing {
		m.failf("the checkpoint is found %s", got)
	}
	got := m.s.Confirmed()
	if got.Before(m.confirmed) {
		m.failf("confirmed up to %v after reopening, want at least %v", got, m.confirmed)
	}
	for p, end := range m.acked { // Only a torn place may have been stepped over.
		if m.tried.Before(end) && !got.Before(end) {
			m.failf("confirmed up to %v, though no more than %v was asked for, past %.20q at %v", got, m.tried, p, end)
		}
	}
}

func (m *model) closeAndOpen() {
	if err := m.s.Close(); err != nil {
		m.failf("Close: %v", err)
	}
	m.open()
	m.checkPosition()
}

// appendSome appends n records at once.
func (m *model) appendSome(n int) {
	var wg sync.WaitGroup
	for range n {
		m.mu.Lock()
		size := m.rng.IntN(1200)
		p := incompressible(fmt.Sprintf("record %d;", m.next), max(size, 20))
		m.next++
		m.attempted[p] = true
		m.mu.Unlock()
		wg.Go(func() {
			end, err := m.s.Append(m.t.Context(), []byte(p), 1)
			if err != nil {
				return
			}
			m.mu.Lock()
			defer m.mu.Unlock()
			if other, ok := m.ends[end]; ok {
				m.t.Errorf("position %v of %.12q was used for %.12q", end, p, other)
			}
			m.acked[p], m.ends[end] = end, p
		})
	}
	wg.Wait()
}

// confirm reads some records and confirms one of them.
func (m *model) confirm(skip int) {
	recs := m.read()
	if len(recs) == 0 {
		return
	}
	end := recs[min(skip, len(recs)-1)].End
	if m.tried.Before(end) {
		m.tried = end
	}
	if m.s.Confirm(end) == nil {
		m.confirmed = end
	}
}

func (m *model) diskError(nth, more int) {
	n := 0
	m.fsys.Inject(func(op memfs.Op, name string) error {
		if op == memfs.OpRead || op == memfs.OpOpen || name == "quarantine" {
			return nil
		}
		n++
		if n >= nth && n <= nth+more {
			return syscall.EIO
		}
		return nil
	})
	m.appendSome(6)
	m.confirm(2)
	m.appendSome(6)
	m.fsys.Inject(nil)
}

func (m *model) read() []spool.Record {
	r := m.s.NewReader(m.s.Confirmed())
	defer func() { _ = r.Close() }()
	var recs []spool.Record
	for r.Position().Before(m.s.Durable()) {
		rec, err := r.Next(m.t.Context())
		if errors.Is(err, memfs.ErrPowerOff) {
			break
		}
		if err != nil {
			m.failf("Next: %v", err)
		}
		rec.Payload = append([]byte(nil), rec.Payload...)
		recs = append(recs, rec)
	}
	return recs
}

// check compares what the spool delivers with the model.
func (m *model) check() {
	delivered := map[string]bool{}
	last := m.s.Confirmed()
	for _, rec := range m.read() {
		p := string(rec.Payload)
		if !m.attempted[p] {
			m.failf("record %.20q at %v was never appended", p, rec.Start)
		}
		if rec.Start.Before(last) {
			m.failf("record at %v comes after one that ends at %v", rec.Start, last)
		}
		if end, ok := m.acked[p]; ok && end != rec.End {
			m.failf("record %.20q ends at %v, Append said %v", p, rec.End, end)
		}
		last, delivered[p] = rec.End, true
	}
	for p, end := range m.acked {
		if m.s.Confirmed().Before(end) && !delivered[p] {
			m.failf("acknowledged record %.20q, ending at %v, is lost (confirmed %v, durable %v)", p, end, m.s.Confirmed(), m.s.Durable())
		}
	}
	st := m.s.Stats()
	// What was torn out of a group that survived in part keeps its numbers.
	if n := st.UnconfirmedRecords - int64(len(delivered)); n < 0 || n > 0 && len(m.s.Damage()) == 0 {
		m.failf("Stats() counts %d unconfirmed records, %d are delivered", st.UnconfirmedRecords, len(delivered))
	}
	// A group that failed and survived a crash all the same may exceed the bound.
	if st.UnconfirmedBytes > max(st.CapacityBytes, m.s.Recovery().Bytes) || st.QueuedBytes != 0 {
		m.failf("%d bytes unconfirmed with a bound of %d, %d queued", st.UnconfirmedBytes, st.CapacityBytes, st.QueuedBytes)
	}
	if _, err := m.s.Append(m.t.Context(), make([]byte, 4<<10), 1); !errors.Is(err, spool.ErrTooLarge) {
		m.failf("Append of a record larger than a segment: %v", err)
	}
}
