package meter

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime/debug"
	"time"

	"github.com/meterd/meterd/internal/killpoint"
	"github.com/meterd/meterd/meter/spool"
)

// loadBatch is a run of spool records on its way into one insert.
type loadBatch struct {
	start, end Position
	oldest     time.Time   // when its first record was appended
	buf        []byte      // payloads of its records
	ends       []int       // of the payloads in buf
	events     int         // as the spool counts them
	ripe       bool        // it waited BatchDelay
	ripen      *time.Timer // makes it ripe
	done       bool        // it is stored
	refused    bool        // the store refused it, when so many inserts had succeeded:
	refusedAt  uint64
	outcome    loadOutcome
}

// newBatch returns an empty batch that begins where reading goes on. l.mu is held.
func (l *Loader) newBatch() *loadBatch {
	b := new(loadBatch)
	if n := len(l.free); n > 0 {
		b, l.free = l.free[n-1], l.free[:n-1]
	}
	b.reset()
	return b
}

func (b *loadBatch) reset() {
	b.start, b.end, b.oldest = Position{}, Position{}, time.Time{}
	b.buf, b.ends, b.events = b.buf[:0], b.ends[:0], 0
	b.ripe, b.ripen, b.done = false, nil, false
	b.refused, b.refusedAt = false, 0
}

// readAll feeds the open batch until ctx ends or the spool is closed; then it returns ErrClosed.
func (l *Loader) readAll(ctx context.Context) error {
	for retry := newBackoff(l.opts.RetryMin, l.opts.RetryMax); ; {
		err := l.readSome(ctx, &retry)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, spool.ErrClosed):
			return ErrClosed
		}
		l.opts.Logger.Warn("read spool", "err", err)
		l.failed(err)
		_ = retry.wait(ctx) // the next round looks at ctx
	}
}

// readSome reads from the current place until something goes wrong.
func (l *Loader) readSome(ctx context.Context, retry *backoff) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = l.panicked(r, debug.Stack())
		}
	}()
	l.mu.Lock()
	r := l.opts.Spool.NewReader(l.read)
	l.mu.Unlock()
	defer func() { err = errors.Join(err, r.Close()) }()
	for {
		rec, err := r.Next(ctx)
		if err != nil {
			return err
		}
		retry.reset()
		if err := l.put(ctx, &rec); err != nil {
			return err
		}
	}
}

// put adds a record to the open batch, waiting while that is full.
func (l *Loader) put(ctx context.Context, rec *spool.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.full(l.open) {
		if err := ctx.Err(); err != nil {
			return err
		}
		l.wake.Wait()
	}
	b := l.open
	if len(b.ends) == 0 {
		b.start, b.oldest = rec.Start, rec.AppendedAt
		b.ripen = time.AfterFunc(l.opts.BatchDelay, func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			b.ripe = true // of a batch that was taken before, it means nothing
			l.wake.Broadcast()
		})
	}
	b.buf = append(b.buf, rec.Payload...)
	b.ends = append(b.ends, len(b.buf))
	b.events += rec.Events
	b.end, l.read = rec.End, rec.End
	if l.due(b) {
		l.wake.Broadcast()
	}
	return nil
}

func (l *Loader) full(b *loadBatch) bool {
	return b.events >= l.opts.BatchEvents || len(b.buf) >= l.opts.BatchBytes
}

// due reports whether a batch should be inserted now. l.mu is held.
func (l *Loader) due(b *loadBatch) bool {
	if len(b.ends) == 0 {
		return false
	}
	if b.ripe || l.full(b) {
		return true
	}
	for _, pos := range l.waiting {
		if b.start.Before(pos) && !b.end.Before(pos) {
			return true
		}
	}
	return false
}

// take waits for the open batch to be due and takes it; nil when ctx ended.
func (l *Loader) take(ctx context.Context) *loadBatch {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		if ctx.Err() != nil {
			return nil
		}
		if b := l.open; l.due(b) {
			b.ripen.Stop()
			l.inflight = append(l.inflight, b)
			l.open = l.newBatch()
			l.wake.Broadcast() // the reader may go on
			return b
		}
		l.wake.Wait()
	}
}

// insertAll inserts one batch after the other until ctx ends.
func (l *Loader) insertAll(ctx context.Context) {
	rows := new(rowBuilder)
	for {
		b := l.take(ctx)
		if b == nil {
			return
		}
		rows.built = false
		for retry := newBackoff(l.opts.RetryMin, l.opts.RetryMax); ; {
			err := l.insertBatch(ctx, b, rows)
			if err == nil {
				break
			}
			if ctx.Err() != nil {
				return
			}
			l.opts.Logger.Warn("insert usage events", "err", err, "events", b.events, "start", b.start.String())
			l.failed(err)
			if retry.wait(ctx) != nil {
				return
			}
		}
		b.outcome = rows.outcome()
		if l.settle(ctx, b) {
			rows = new(rowBuilder) // nothing to do: give the memory of the last rush back
		}
	}
}

// settle marks a batch as stored and confirms in the spool what is stored without a gap. It reports whether the loader has
// nothing left to do.
func (l *Loader) settle(ctx context.Context, b *loadBatch) (idle bool) {
	l.mu.Lock()
	b.done = true
	l.progress.LastError, l.progress.FailedAt = "", time.Time{}
	l.mu.Unlock()
	l.confirmMu.Lock()
	defer l.confirmMu.Unlock()
	n, end := l.settled()
	if n == 0 {
		return false // an earlier batch is still on its way; whoever inserts it confirms both
	}
	for retry := newBackoff(l.opts.RetryMin, l.opts.RetryMax); ; {
		killpoint.Hit("loader.confirm.before")
		err := l.opts.Spool.Confirm(end)
		killpoint.Hit("loader.confirm.done")
		if err == nil {
			break
		}
		l.opts.Logger.Warn("confirm in spool", "err", err)
		l.failed(err)
		if retry.wait(ctx) != nil {
			return false
		}
	}
	return l.confirmed(n)
}

// settled returns how many batches from the first on are stored, and the end of the last of them.
func (l *Loader) settled() (n int, end Position) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range l.inflight {
		if !b.done {
			break
		}
		n, end = n+1, b.end
	}
	return n, end
}

// confirmed counts and recycles the first n batches and wakes who waits for them. It reports whether nothing is left to do.
func (l *Loader) confirmed(n int) (idle bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range l.inflight[:n] {
		b.outcome.count(&l.progress)
		if len(l.free) <= l.opts.Inserters {
			l.free = append(l.free, b)
		}
	}
	left := copy(l.inflight, l.inflight[n:])
	clear(l.inflight[left:])
	l.inflight = l.inflight[:left]
	close(l.changed)
	l.changed = make(chan struct{})
	if idle = left == 0 && len(l.open.ends) == 0; idle {
		l.free = nil
	}
	return idle
}

// backoff is a doubling wait with full jitter in its upper half.
type backoff struct{ least, most, next time.Duration }

func newBackoff(least, most time.Duration) backoff {
	return backoff{least: least, most: most, next: least}
}

func (b *backoff) reset() { b.next = b.least }

// wait waits or returns ctx's error.
func (b *backoff) wait(ctx context.Context) error {
	d := b.next/2 + rand.N(b.next/2+1) //nolint:gosec // spreading load needs no secrecy
	b.next = min(2*b.next, b.most)
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
