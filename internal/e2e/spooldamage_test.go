package e2e_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// storeDown keeps events in the spool: nothing listens there.
var storeDown = []string{"METERD_STORE_EMBEDDED=false", "METERD_STORE_ADDRS=127.0.0.1:9"}

// spooled is a daemon that was killed with events in its spool, none of them in ClickHouse yet.
type spooled struct {
	*sender
	d       *daemon
	batches [][]event // acknowledged, in the order of the file
	ends    []int64   // of the file after each of them
	orphan  []event   // behind them, made durable too, but the sender never got the answer
	random  *rand.Rand
}

// spoolAndKill makes one.
func spoolAndKill(t *testing.T) *spooled {
	t.Helper()
	random := seeded(t)
	s := &spooled{sender: newSender(t, random, runningHour()), d: newDaemon(t, ""), random: random}
	s.d.start(t, storeDown...)
	for range 4 {
		events := s.batch(5 + random.IntN(200))
		s.post(s.d, events)
		s.batches = append(s.batches, events)
		s.ends = append(s.ends, s.size())
	}
	unheard := &sender{maker: s.maker, t: t}
	s.orphan = s.batch(50)
	unheard.post(s.d, s.orphan)
	s.d.kill(t)
	return s
}

// file is the spool's only segment.
func (s *spooled) file() string {
	s.t.Helper()
	names, err := filepath.Glob(filepath.Join(s.d.dir, "data", "spool", "*.seg"))
	if err != nil || len(names) != 1 {
		s.t.Fatalf("segments: %v, %v; want one", names, err)
	}
	return names[0]
}

func (s *spooled) size() int64 {
	s.t.Helper()
	info, err := os.Stat(s.file())
	if err != nil {
		s.t.Fatal(err)
	}
	return info.Size()
}

// edit changes the segment.
func (s *spooled) edit(change func([]byte) []byte) {
	s.t.Helper()
	name := s.file()
	data, err := os.ReadFile(name)
	if err == nil {
		err = os.WriteFile(name, change(data), 0o600)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// TestTornSpool damages the end of the spool as a crash may leave it. Every acknowledged event counts, and what was not
// acknowledged can be sent again.
func TestTornSpool(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(s *spooled, data []byte) []byte
		orphan bool // whether the last, unanswered request is still whole
	}{
		"garbage": {orphan: true, change: func(s *spooled, data []byte) []byte {
			for range 1000 {
				data = append(data, byte(s.random.Uint32()))
			}
			return data
		}},
		"zeros": {orphan: true, change: func(_ *spooled, data []byte) []byte {
			return append(data, make([]byte, 8192)...)
		}},
		"half of an old frame": {orphan: true, change: func(s *spooled, data []byte) []byte {
			frame := data[s.ends[0]:s.ends[1]]
			return append(bytes.Clone(data), frame[:len(frame)/2]...)
		}},
		"cut in the last frame": {change: func(s *spooled, data []byte) []byte {
			end := s.ends[len(s.ends)-1]
			return data[:end+1+s.random.Int64N(int64(len(data))-end-1)]
		}},
		"last frame never written": {change: func(s *spooled, data []byte) []byte {
			end := s.ends[len(s.ends)-1]
			clear(data[end:])
			return data
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := spoolAndKill(t)
			s.edit(func(data []byte) []byte { return tt.change(s, data) })
			s.d.start(t)
			if tt.orphan {
				s.acknowledge(s.orphan)
			}
			s.d.checkUsage(t, &s.ledger)
			if torn := s.d.metric(t, "meterd_spool_torn_bytes_total"); torn == 0 {
				t.Error("nothing was reported as torn")
			}
			if lost := s.d.metric(t, "meterd_spool_lost_events_total"); lost != 0 {
				t.Errorf("%v events reported as lost", lost)
			}
			again := &sender{maker: s.maker, t: t}
			if again.post(s.d, s.orphan); !tt.orphan {
				s.acknowledge(s.orphan)
			}
			s.d.checkUsage(t, &s.ledger)
		})
	}
}

// TestDamagedSpool flips a bit in the middle of the spool, as only a failing disk does: exactly that request's events are
// lost, they are reported and kept for inspection, and everything behind them counts.
func TestDamagedSpool(t *testing.T) {
	s := spoolAndKill(t)
	s.acknowledge(s.orphan)
	const damaged = 1
	s.edit(func(data []byte) []byte {
		data[(s.ends[damaged-1]+s.ends[damaged])/2] ^= 1
		return data
	})
	s.d.start(t)
	s.d.awaitStored(t)
	survivors := new(ledger)
	survivors.acknowledge(s.orphan)
	for i, events := range s.batches {
		if i != damaged {
			survivors.acknowledge(events)
		}
	}
	s.d.checkUsage(t, survivors)
	if lost := s.d.metric(t, "meterd_spool_lost_events_total"); lost != float64(len(s.batches[damaged])) {
		t.Errorf("%v events reported as lost, want %d", lost, len(s.batches[damaged]))
	}
	kept, err := filepath.Glob(filepath.Join(s.d.dir, "data", "spool", "quarantine", "*-damaged.bin"))
	if err != nil || len(kept) == 0 {
		t.Errorf("quarantine: %v, %v; want the damaged stretch", kept, err)
	}
	again := &sender{maker: s.maker, t: t}
	again.post(s.d, s.batches[damaged]) // the sender still has them
	s.d.checkUsage(t, &s.ledger)
}
