package reporter

import (
	"time"
)

// shortestOpen is the least time a breaker stays open, however near the deadline is: an endpoint that is down is not helped by a
// call a second.
const shortestOpen = 3 * time.Second

// lane is one destination of records with everything learned about it. Live records and shadow records never share one: what
// happens to the one says nothing about the other, and a shadow record can't get to the marketplace by mistake.
type lane struct {
	mode    Mode
	name    string      // in logs, metrics and the breaker's story
	market  Marketplace // nil: shadow records without a destination
	breaker *breaker

	// Guarded by the reporter's turn.
	batch    batchSize
	suspects suspects

	// Guarded by the reporter's mu.
	throttled     throttle
	misconfigured *Misconfiguration
	shownLimit    int // batch.limit as of the last pass
}

// newLane returns the lane of a marketplace, which may be nil for shadow records.
func (r *Reporter) newLane(mode Mode, name string, market Marketplace) *lane {
	l := &lane{mode: mode, name: name, market: market, batch: newBatchSize(r.o.MaxBatch), suspects: newSuspects()}
	if market != nil {
		l.batch = newBatchSize(min(r.o.MaxBatch, market.Limits().MaxBatch))
	}
	l.shownLimit = l.batch.limit
	l.breaker = newBreaker(name, r.o.BreakerFailures, r.openFor, r.o.Clock.Now, func(c BreakerChange) { r.breakerChanged(l, c) })
	return l
}

// openFor is how long a breaker stays open that opens now: BreakerTimeout, but a share of the time left until this hour's
// deadline, so that probes come closer together as it nears.
func (r *Reporter) openFor(now time.Time) time.Duration {
	left := now.UTC().Truncate(time.Hour).Add(r.o.Deadline).Sub(now)
	if left <= 0 {
		return r.o.BreakerTimeout
	}
	return min(r.o.BreakerTimeout, max(left/8, shortestOpen))
}

// batchSize is how many records one call may carry: lowered when the marketplace finds a batch too large, raised again when it
// has taken full batches for a while. Each time that raising turns out wrong the next trial comes later.
type batchSize struct {
	limit, highest int
	taken          int  // full batches taken since the last change
	patience       int  // full batches to be taken before the next raise
	raised         bool // the last change was a raise
}

const (
	firstPatience   = 16
	longestPatience = 1024
)

func newBatchSize(highest int) batchSize {
	return batchSize{limit: highest, highest: highest, patience: firstPatience}
}

// tooLarge learns that n records were too many and reports whether the limit changed.
func (b *batchSize) tooLarge(n int) bool {
	half := max(1, n/2)
	if half >= b.limit {
		return false
	}
	if b.raised {
		b.patience = min(2*b.patience, longestPatience)
	}
	b.limit, b.taken, b.raised = half, 0, false
	return true
}

// accepted learns that n records were taken at once and reports whether the limit changed.
func (b *batchSize) accepted(n int) bool {
	if b.limit == b.highest || n < b.limit {
		return false
	}
	if b.taken++; b.taken < b.patience {
		return false
	}
	b.limit, b.taken, b.raised = min(2*b.limit, b.highest), 0, true
	return true
}

// throttle is the time until which the marketplace asked to be left alone.
type throttle struct {
	from, until time.Time
}

// at returns when calls may be made again; the zero time when they may now. A clock that was set back ends the waiting: nobody
// knows how much of it is left.
func (t throttle) at(now time.Time) time.Time {
	if now.Before(t.from) || !now.Before(t.until) {
		return time.Time{}
	}
	return t.until
}
