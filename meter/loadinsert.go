package meter

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/meterd/meterd/internal/killpoint"
)

// insertBatch makes one attempt at storing a batch. Rows are built once, so that every attempt writes the same.
func (l *Loader) insertBatch(ctx context.Context, b *loadBatch, w *rowBuilder) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = l.panicked(r, debug.Stack())
		}
	}()
	if !w.built {
		if err := l.build(b, w); err != nil {
			return err
		}
		w.built = true
	}
	if err := l.buryPayloads(w); err != nil {
		return err
	}
	if w.rows.Len() == 0 {
		return nil
	}
	insert := func(error) {}
	if l.opts.OnBatch != nil {
		ctx, insert = l.opts.OnBatch(ctx, w.traceparents, w.rows.Len())
	}
	killpoint.Hit("loader.insert.before")
	err = l.opts.Store.InsertEvents(ctx, &w.rows)
	killpoint.Hit("loader.insert.done")
	insert(err)
	if errors.Is(err, ErrRefused) && ctx.Err() == nil {
		if !b.refused {
			b.refused, b.refusedAt = true, l.inserts.Load()
		}
		return l.isolate(ctx, w, err, l.inserts.Load() > b.refusedAt)
	}
	if err == nil {
		l.inserts.Add(1)
	}
	return err
}

// maxRoom bounds the memory that is reserved on the word of the spool.
const maxRoom = 1 << 20

// build turns a batch's payloads into rows.
func (l *Loader) build(b *loadBatch, w *rowBuilder) error {
	w.begin(l.opts.Catalog, l.opts.Closed, min(b.events, maxRoom))
	from := 0
	for _, end := range b.ends {
		err := w.add(b.buf[from:end])
		if errors.Is(err, ErrPayloadVersion) {
			return err // nothing is lost by waiting for the right program
		}
		if err != nil {
			l.opts.Logger.Error("spool payload can't be decoded", "err", err, "start", b.start.String(), "end", b.end.String())
			w.bad = append(w.bad, badPayload{b.buf[from:end], err})
		}
		from = end
	}
	if w.noValue > 0 {
		l.opts.Logger.Warn("values of accepted events can't be read", "values", w.noValue, "example", w.problem.Error())
	}
	return nil
}

// buryPayloads keeps payloads that can't be decoded. The spool has verified their checksums, so only a fault of a
// program can bring this about.
func (l *Loader) buryPayloads(w *rowBuilder) error {
	if len(w.bad) == 0 {
		return nil
	}
	if l.opts.DeadLetters == nil {
		return w.bad[0].err
	}
	letters := make([]DeadLetter, len(w.bad))
	for i, p := range w.bad {
		letters[i] = DeadLetter{
			ReceivedAt: l.opts.Now().UTC(), Reason: ReasonUndecodable, Acknowledged: true, Raw: p.payload, Detail: p.err.Error(),
		}
	}
	return l.opts.DeadLetters.Add(letters...)
}

// systemicRefusals is how many rows are refused one by one, with none accepted, until the fault is taken to be with the
// store and not with the rows.
const systemicRefusals = 16

// isolation is the search for the rows that a store refuses.
type isolation struct {
	store   EventStore
	proven  bool // the store has taken other batches since it refused this one first
	good    int
	refused []refusedRow
}

type refusedRow struct {
	row int
	err error
}

// errSystemic ends an isolation that found no row that the store takes.
var errSystemic = errors.New("the store refuses every event")

// isolate stores the rows of a refused batch in ever smaller parts until it knows the bad ones, which go to the dead
// letters. It does so only after the rest is stored, and not at all if everything is refused and the store isn't proven to
// work: then it may be at fault, and waiting is right.
func (l *Loader) isolate(ctx context.Context, w *rowBuilder, cause error, proven bool) error {
	rows := &w.rows
	s := isolation{store: l.opts.Store, proven: proven}
	l.opts.Logger.Warn("store refuses a batch, isolating the bad events", "events", rows.Len(), "err", cause)
	if err := s.halves(ctx, rows, 0, cause); err != nil {
		return err
	}
	if s.good == 0 && len(s.refused) > 1 && !proven {
		return fmt.Errorf("%w: %w", errSystemic, cause)
	}
	if l.opts.DeadLetters == nil {
		return fmt.Errorf("%d events are refused and no dead letters are configured: %w", len(s.refused), cause)
	}
	letters := make([]DeadLetter, len(s.refused))
	for i, r := range s.refused {
		ev := rows.event(r.row)
		letters[i] = DeadLetter{
			ReceivedAt: time.Unix(0, rows.Received[r.row]).UTC(), Reason: ReasonStoreRefused, Detail: r.err.Error(),
			Acknowledged: true, Raw: AppendEventJSON(nil, &ev),
		}
	}
	if err := l.opts.DeadLetters.Add(letters...); err != nil {
		return err
	}
	l.opts.Logger.Error("events that the store refuses are in the dead letters", "events", len(letters), "err", cause)
	w.refused = len(letters)
	return nil
}

// try stores rows, of which the first is number base of the batch.
func (s *isolation) try(ctx context.Context, rows *EventRows, base int) error {
	err := s.store.InsertEvents(ctx, rows)
	if err == nil {
		s.good += rows.Len()
		return nil
	}
	if !errors.Is(err, ErrRefused) || ctx.Err() != nil {
		return err
	}
	return s.halves(ctx, rows, base, err)
}

// halves stores rows that were refused as a whole.
func (s *isolation) halves(ctx context.Context, rows *EventRows, base int, cause error) error {
	n := rows.Len()
	if n == 1 {
		s.refused = append(s.refused, refusedRow{base, cause})
		if s.good == 0 && len(s.refused) >= systemicRefusals && !s.proven {
			return fmt.Errorf("%w: %w", errSystemic, cause)
		}
		return nil
	}
	first, second := rows.slice(0, n/2), rows.slice(n/2, n)
	if err := s.try(ctx, &first, base); err != nil {
		return err
	}
	return s.try(ctx, &second, base+n/2)
}
