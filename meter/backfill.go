package meter

import (
	"context"
	"time"
)

// DefaultBackfillAge is how old an event of a backfill may be unless IngestOptions.BackfillAge says otherwise.
const DefaultBackfillAge = 400 * 24 * time.Hour

// backfillRules are those of events that come late on purpose: as old as BackfillAge, never without a time of their own.
func (in *Ingester) backfillRules() timeRules {
	return timeRules{maxAge: in.opts.BackfillAge, required: true}
}

// CheckBackfill applies the rules of a backfill to a batch, stores nothing and counts nothing. Verdicts.Problems says what
// is wrong; if nothing is, rows are the events as the store would get them, views into the batch. Times of receipt in rows
// are later than any given out so far.
func (in *Ingester) CheckBackfill(b *Batch) (v Verdicts, rows *EventRows) {
	b.verdict.begin(b, in.opts.Catalog)
	now := in.opts.Now()
	in.check(b, now, in.backfillRules())
	for _, p := range b.Problems {
		b.verdict.statuses[p.Index] = StatusRejected
	}
	if len(b.Problems) > 0 {
		for _, span := range b.spans {
			b.verdict.statuses[span.index] = StatusRefused
		}
		return b.verdicts(), nil
	}
	b.findDuplicates()
	var w rowBuilder
	w.begin(in.opts.Catalog, nil, len(b.Events))
	received := max(now.UnixNano(), in.received.Load()+1)
	for i := range b.Events {
		w.event(&b.Events[i], received+int64(i))
	}
	return b.verdicts(), &w.rows
}

// AcceptBackfill is [Ingester.Accept] by the rules of a backfill; one bad event refuses the request.
func (in *Ingester) AcceptBackfill(ctx context.Context, b *Batch, traceparent string) (Verdicts, error) {
	return in.accept(ctx, b, traceparent, AllOrNothing, in.backfillRules())
}
