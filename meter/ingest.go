package meter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sort"
	"sync/atomic"
	"time"

	"github.com/meterd/meterd/meter/spool"
)

// Spool is the durable queue behind the ingester; package meter/spool implements it.
type Spool interface {
	// Append returns only after the payload is on disk. It keeps no reference to payload.
	Append(ctx context.Context, payload []byte, events int) (Position, error)
}

var _ Spool = (*spool.Spool)(nil)

// Confirmer waits for the store; [Loader] implements it.
type Confirmer interface {
	// WaitConfirmed has everything up to pos inserted at once and returns when the store has confirmed it.
	WaitConfirmed(ctx context.Context, pos Position) error
}

// Ack says when an event counts as accepted.
type Ack uint8

// When to acknowledge.
const (
	AckSpool Ack = iota // on this machine's disk
	AckStore            // confirmed by the store
)

// Mode says what becomes of the good events of a request with bad ones.
type Mode uint8

// Modes of [Ingester.Accept].
const (
	AllOrNothing Mode = iota // one bad event refuses the request
	KeepGood                 // good events are kept, bad ones are refused one by one
)

// defaultPayloadBytes is well below what a spool takes in one record and far above what one batch of events needs, so
// that splitting is rare.
const defaultPayloadBytes = 4 << 20

// IngestOptions configure an [Ingester]. Catalog, Spool, Now and Logger are required.
type IngestOptions struct {
	Catalog *Catalog
	Spool   Spool
	// Ack = AckStore needs a Confirmer.
	Ack       Ack
	Confirmer Confirmer
	// DeadLetters keeps refused events; nil keeps none. The good events of a request that is refused as a whole are not
	// kept: nothing of it was accepted, and its sender was told.
	DeadLetters *DeadLetters
	// MaxFuture and MaxAge bound an event's time around now; zero means no bound.
	MaxFuture, MaxAge time.Duration
	// BackfillAge takes the place of MaxAge for a backfill; zero means [DefaultBackfillAge].
	BackfillAge time.Duration
	// MaxPayloadBytes is the size at which a request is cut into several spool records; default 4 MiB.
	MaxPayloadBytes int
	// ReceivedAfter is the latest time at which this spool took a record before the restart; zero for a new one.
	ReceivedAfter time.Time
	Now           func() time.Time
	Logger        *slog.Logger
}

// Ingester checks decoded events and makes them durable. It is safe for concurrent use.
type Ingester struct {
	opts     IngestOptions
	received atomic.Int64 // latest time of receipt given out, in nanoseconds since 1970
	stats    ingestStats
}

// NewIngester checks the options; the error names everything that is missing.
func NewIngester(opts IngestOptions) (*Ingester, error) {
	var errs []error
	require := func(ok bool, what string) {
		if !ok {
			errs = append(errs, errors.New(what))
		}
	}
	require(opts.Catalog != nil, "a catalog is required")
	require(opts.Spool != nil, "a spool is required")
	require(opts.Now != nil, "a clock is required")
	require(opts.Logger != nil, "a logger is required")
	require(opts.Ack != AckStore || opts.Confirmer != nil, "acknowledging by the store needs a confirmer")
	require(opts.MaxFuture >= 0 && opts.MaxAge >= 0 && opts.BackfillAge >= 0 && opts.MaxPayloadBytes >= 0, "bounds must not be negative")
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("new ingester: %w", err)
	}
	if opts.MaxPayloadBytes == 0 {
		opts.MaxPayloadBytes = defaultPayloadBytes
	}
	if opts.BackfillAge == 0 {
		opts.BackfillAge = DefaultBackfillAge
	}
	in := &Ingester{opts: opts}
	if !opts.ReceivedAfter.IsZero() {
		in.received.Store(opts.ReceivedAfter.UnixNano())
	}
	in.stats.init()
	return in, nil
}

// Accept applies the rules to a batch and makes the good events durable: it returns after the spool (or, with AckStore,
// the store) has them. traceparent is the W3C trace context of the request or empty. The verdicts say what became of each
// event; the error is one of ErrSpoolFull, ErrClosed, ErrUnavailable, ErrBatchTooLarge or the context's, and then
// nothing is acknowledged: the sender has to send the request again. It is harmless that part of it may be stored already.
func (in *Ingester) Accept(ctx context.Context, b *Batch, traceparent string, mode Mode) (Verdicts, error) {
	return in.accept(ctx, b, traceparent, mode, timeRules{maxAge: in.opts.MaxAge})
}

// timeRules are those of one request about the times of its events.
type timeRules struct {
	maxAge   time.Duration // zero: no bound
	required bool          // an event without a time is refused
}

func (in *Ingester) accept(ctx context.Context, b *Batch, traceparent string, mode Mode, rules timeRules) (Verdicts, error) {
	v := &b.verdict
	v.begin(b, in.opts.Catalog)
	now := in.opts.Now()
	in.check(b, now, rules)
	if len(b.Problems) > 0 {
		in.reject(b, now)
	}
	if len(b.Events) == 0 || (len(b.Problems) > 0 && mode == AllOrNothing) {
		for _, span := range b.spans {
			v.statuses[span.index] = StatusRefused
		}
		in.stats.refused.Add(uint64(len(b.Events)))
		return b.verdicts(), nil
	}
	b.findDuplicates()
	first := in.reserve(now, len(b.Events))
	b.stamp(stampFrom(first, now))
	pos, err := in.append(ctx, b, traceparent, first)
	if err != nil {
		in.stats.fail(err, len(b.Events))
		return Verdicts{}, err
	}
	verdicts := b.verdicts()
	verdicts.Stored, verdicts.Position, verdicts.ReceivedAt = true, pos, time.Unix(0, first).UTC()
	in.stats.accept(&verdicts)
	return verdicts, nil
}

// check applies the rules on time and the meters to each event and turns the bad ones into problems.
func (in *Ingester) check(b *Batch, now time.Time, rules timeRules) {
	v := &b.verdict
	earliest, latest := in.bounds(now, rules)
	kept := 0
	before := len(b.Problems)
	for i := range b.Events {
		ev := &b.Events[i]
		p := in.checkTime(ev, earliest, latest, rules)
		metered := true
		if p == nil {
			metered, p = v.extractor.Check(ev)
		}
		if p != nil {
			p.Offset = max(b.spans[i].start, 0)
			b.refuse(b.spans[i], *p)
			continue
		}
		status := StatusAccepted
		if !metered {
			status = StatusWithoutMeter
		}
		v.statuses[b.spans[i].index] = status
		if kept != i {
			b.Events[kept], b.spans[kept] = *ev, b.spans[i]
		}
		kept++
	}
	b.Events, b.spans = b.Events[:kept], b.spans[:kept]
	if before > 0 && len(b.Problems) > before {
		sort.Stable(problemsByIndex{b})
	}
}

// bounds returns the earliest and latest permitted times in nanoseconds.
func (in *Ingester) bounds(now time.Time, rules timeRules) (earliest, latest int64) {
	earliest, latest = -1<<63, 1<<63-1
	if rules.maxAge > 0 {
		earliest = now.Add(-rules.maxAge).UnixNano()
	}
	if in.opts.MaxFuture > 0 {
		latest = now.Add(in.opts.MaxFuture).UnixNano()
	}
	return earliest, latest
}

func (in *Ingester) checkTime(ev *Event, earliest, latest int64, rules timeRules) *Problem {
	if ev.Stamped && rules.required {
		return &Problem{Field: "time", Reason: ReasonMissing, Detail: "time is required in a backfill: without it an event counts now"}
	}
	if ev.Stamped || (ev.Time >= earliest && ev.Time <= latest) {
		return nil
	}
	at := time.Unix(0, ev.Time).UTC().Format(time.RFC3339Nano)
	if ev.Time > latest {
		return &Problem{Field: "time", Reason: ReasonTimeInFuture, Detail: fmt.Sprintf(
			"%s is more than %s in the future; check the sender's clock", at, in.opts.MaxFuture)}
	}
	return &Problem{Field: "time", Reason: ReasonTimeTooOld, Detail: fmt.Sprintf(
		"%s is more than %s ago and can no longer be billed", at, rules.maxAge)}
}

// reserve gives out n times of receipt, later than any before, and returns the first. They run ahead of a clock that
// stands still or goes back.
func (in *Ingester) reserve(now time.Time, n int) int64 {
	for {
		last := in.received.Load()
		first := max(now.UnixNano(), last+1)
		if in.received.CompareAndSwap(last, first+int64(n)-1) {
			return first
		}
	}
}

// append makes the batch durable, in as many spool records as its size needs, and returns the end of the last.
func (in *Ingester) append(ctx context.Context, b *Batch, traceparent string, received int64) (pos Position, err error) {
	if len(traceparent) > maxTraceparent {
		traceparent = ""
	}
	v := &b.verdict
	for from := 0; from < len(b.Events); {
		w := beginPayload(v.payload[:0], received+int64(from), traceparent)
		next := from
		for next < len(b.Events) && (next == from || w.size()+eventSize(&b.Events[next]) <= in.opts.MaxPayloadBytes) {
			w.add(&b.Events[next])
			next++
		}
		v.payload = w.finish()
		if pos, err = in.opts.Spool.Append(ctx, v.payload, next-from); err != nil {
			return pos, ingestError(err)
		}
		from = next
	}
	if in.opts.Ack == AckStore {
		if err := in.opts.Confirmer.WaitConfirmed(ctx, pos); err != nil {
			return pos, fmt.Errorf("wait for the store: %w: %w", ErrUnavailable, err)
		}
	}
	return pos, nil
}

// maxTraceparent is generous: a W3C trace context has 55 bytes. A longer one is no trace context.
const maxTraceparent = 128

// eventSize bounds what an event adds to a payload.
func eventSize(ev *Event) int {
	return 64 + len(ev.ID) + len(ev.Source) + len(ev.Type) + len(ev.Subject) + len(ev.Data) + len(ev.Extensions)
}

// ingestError translates what the spool said.
func ingestError(err error) error {
	kind := ErrUnavailable
	switch {
	case errors.Is(err, spool.ErrFull):
		kind = ErrSpoolFull
	case errors.Is(err, spool.ErrClosed):
		kind = ErrClosed
	case errors.Is(err, spool.ErrTooLarge):
		kind = ErrBatchTooLarge
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	}
	return fmt.Errorf("%w: %w", kind, err)
}

// reject counts the problems of a batch, marks their events and hands them to the dead letters.
func (in *Ingester) reject(b *Batch, now time.Time) {
	for _, p := range b.Problems {
		b.verdict.statuses[p.Index] = StatusRejected
	}
	in.stats.reject(b.Problems)
	if in.opts.DeadLetters == nil {
		return
	}
	letters := make([]DeadLetter, len(b.Problems))
	for i, p := range b.Problems {
		letters[i] = DeadLetter{
			ReceivedAt: now.UTC(), Reason: p.Reason, Field: p.Field, Meter: p.Meter, Detail: p.Detail, Raw: b.RawProblem(i),
		}
	}
	if err := in.opts.DeadLetters.Add(letters...); err != nil {
		// The sender is told about every one of these events, so this costs a convenience and no data.
		in.opts.Logger.Error("refused events are not kept as dead letters", "events", len(letters), "err", err)
	}
}

// problemsByIndex sorts a batch's problems with their spans.
type problemsByIndex struct{ b *Batch }

func (s problemsByIndex) Len() int           { return len(s.b.Problems) }
func (s problemsByIndex) Less(i, j int) bool { return s.b.Problems[i].Index < s.b.Problems[j].Index }

func (s problemsByIndex) Swap(i, j int) {
	s.b.Problems[i], s.b.Problems[j] = s.b.Problems[j], s.b.Problems[i]
	s.b.problemSpans[i], s.b.problemSpans[j] = s.b.problemSpans[j], s.b.problemSpans[i]
}

// maxStampAhead is how far times of receipt may run ahead of the clock and still date events.
const maxStampAhead = time.Second

// stampFrom returns the time of a batch's first event if it came without one: that of its receipt. But after the clock
// went back from a time that was wrong, receipts run ahead of it for as long as it was wrong; an event that is dated so
// would be billed in another hour, or in no hour for years.
func stampFrom(first int64, now time.Time) int64 {
	if clock := now.UnixNano(); first-clock > int64(maxStampAhead) {
		return clock
	}
	return first
}

// stamp dates the events that came without a time, the first of the batch with first.
func (b *Batch) stamp(first int64) {
	for i := range b.Events {
		if b.Events[i].Stamped {
			b.Events[i].Time = first + int64(i)
		}
	}
}

// growTo returns s with length n, zeroed.
func growTo[T any](s []T, n int) []T {
	s = slices.Grow(s[:0], n)[:n]
	clear(s)
	return s
}
