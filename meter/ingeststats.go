package meter

import (
	"context"
	"errors"
	"maps"
	"sync"
	"sync/atomic"
)

// IngestStats are counts since start. Maps are the caller's.
type IngestStats struct {
	Batches      uint64            // requests made durable
	Accepted     uint64            // events made durable, duplicates and conflicts included
	Duplicates   uint64            // of these, duplicates within one request
	Conflicts    uint64            // of these, conflicts within one request
	WithoutMeter uint64            // of these, events whose type no meter has
	Stamped      uint64            // of these, events that came without a time
	Rejected     map[Reason]uint64 // refused events by reason
	Refused      uint64            // good events refused because of others in their request
	Failed       map[string]uint64 // events not acknowledged, by cause: full, closed, unavailable, too_large, canceled
}

// ingestStats are the live counters. The maps are touched for bad requests only.
type ingestStats struct {
	batches, accepted, duplicates, conflicts, withoutMeter, stamped, refused atomic.Uint64

	mu       sync.Mutex
	rejected map[Reason]uint64
	failed   map[string]uint64
}

func (s *ingestStats) init() {
	s.rejected, s.failed = map[Reason]uint64{}, map[string]uint64{}
}

func (s *ingestStats) accept(v *Verdicts) {
	s.batches.Add(1)
	s.accepted.Add(uint64(v.Accepted))         //nolint:gosec // counts are never negative
	s.duplicates.Add(uint64(v.Duplicates))     //nolint:gosec // as above
	s.conflicts.Add(uint64(v.Conflicts))       //nolint:gosec // as above
	s.withoutMeter.Add(uint64(v.WithoutMeter)) //nolint:gosec // as above
	s.stamped.Add(uint64(v.Stamped))           //nolint:gosec // as above
}

func (s *ingestStats) reject(problems []Problem) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range problems {
		s.rejected[problems[i].Reason]++
	}
}

// fail counts events that were not acknowledged.
func (s *ingestStats) fail(err error, events int) {
	cause := "unavailable"
	switch {
	case errors.Is(err, ErrSpoolFull):
		cause = "full"
	case errors.Is(err, ErrClosed):
		cause = "closed"
	case errors.Is(err, ErrBatchTooLarge):
		cause = "too_large"
	case errors.Is(err, ErrUnavailable): // also when it took longer than the request may
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		cause = "canceled"
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed[cause] += uint64(events) //nolint:gosec // never negative
}

// Stats returns the counts; it is cheap enough to be called on every scrape.
func (in *Ingester) Stats() IngestStats {
	s := &in.stats
	s.mu.Lock()
	defer s.mu.Unlock()
	return IngestStats{
		Batches: s.batches.Load(), Accepted: s.accepted.Load(), Duplicates: s.duplicates.Load(),
		Conflicts: s.conflicts.Load(), WithoutMeter: s.withoutMeter.Load(), Stamped: s.stamped.Load(),
		Refused: s.refused.Load(), Rejected: maps.Clone(s.rejected), Failed: maps.Clone(s.failed),
	}
}
