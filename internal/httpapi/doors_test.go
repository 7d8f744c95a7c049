package httpapi_test

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/meterd/meterd/internal/httpapi"
	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

// doors is the far side of the doors: it keeps what it was asked and answers with what the test put in. The real desk and
// store have tests of their own; here the wire form is tested.
type doors struct {
	mu      sync.Mutex
	asked   []any // in order
	audit   []reporter.AuditEntry
	err     error // of every call but the audit's
	auditEr error

	booking reporter.Booking
	booked  bool
	records []reporter.BillRecord
	held    []reporter.HeldUsage
	life    []reporter.LifeChange

	effect  meter.Effect
	rows    int    // events of the last preview of a backfill
	tokens  uint64 // changes with each preview, as if events arrived all the time
	moving  bool   // no token ever fits
	changes int    // how many voids find their effect changed
	flushes int
	flushEr error

	explanation reporter.Explanation
	events      []meter.UsageEvent
	next        string
	report      reporter.Report
	lines       []reporter.VerifyLine
	gate        chan struct{} // not nil: a verification waits for it
	breaker     reporter.ReporterStatus
	clock       reporter.ClockState
}

func (d *doors) open(in *meter.Ingester) httpapi.Doors {
	return httpapi.Doors{
		Desk: d, Held: d, Lives: d, Audit: d, BackfillIngester: in, Backfiller: d, Voider: d, Events: d, Flush: d.flush, Breaker: d,
		Explain: d.explain, Verify: d.verify, Clock: clockOf{d},
	}
}

// clockOf is the guard of the clock.
type clockOf struct{ *doors }

func (c clockOf) State() reporter.ClockState { return c.clock }

func (c clockOf) Trust() {
	c.note("clock trusted")
	c.clock = reporter.ClockState{Trust: reporter.TrustPerson}
}

func (d *doors) note(what any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked = append(d.asked, what)
}

func (d *doors) Decide(_ context.Context, x reporter.Decision) (reporter.Booking, error) {
	d.note(x)
	return d.booking, d.err
}

func (d *doors) MoveRecords(_ context.Context, x reporter.RecordAct) ([]reporter.BillRecord, error) {
	d.note(x)
	return d.records, d.err
}

func (d *doors) Fail(_ context.Context, x []reporter.Failure, actor string) error {
	d.note(struct {
		Failures []reporter.Failure
		Actor    string
	}{x, actor})
	return d.err
}

func (d *doors) Resend(_ context.Context, x reporter.ResendAct) (reporter.Booking, error) {
	d.note(x)
	return d.booking, d.err
}

func (d *doors) ChangeLife(_ context.Context, x reporter.LifeAct) (reporter.Booking, bool, error) {
	d.note(x)
	return d.booking, d.booked, d.err
}

func (d *doors) HeldUsage(_ context.Context, _ []reporter.AdjustmentID, after reporter.AdjustmentID, limit int) ([]reporter.HeldUsage, error) {
	d.note(fmt.Sprintf("held after %q limit %d", after, limit))
	return d.held[:min(len(d.held), limit)], d.err
}

func (d *doors) LifeOf(_ context.Context, id string) ([]reporter.LifeChange, error) {
	d.note("life of " + id)
	return d.life, d.err
}

func (d *doors) AppendAudit(_ context.Context, entries []reporter.AuditEntry) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.auditEr != nil {
		return d.auditEr
	}
	d.audit = append(d.audit, entries...)
	return nil
}

func (d *doors) Audit(_ context.Context, from, to time.Time, limit int) ([]reporter.AuditEntry, error) {
	d.note(fmt.Sprintf("audit %s %s", from.Format(time.RFC3339), to.Format(time.RFC3339)))
	return d.audit[:min(len(d.audit), limit)], d.err
}

// preview is the effect with a token of its own.
func (d *doors) preview() meter.Effect {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tokens++
	e := d.effect
	e.Token = fmt.Sprintf("inner-%d", d.tokens)
	return e
}

func (d *doors) PreviewBackfill(_ context.Context, rows *meter.EventRows) (meter.Effect, error) {
	d.rows = rows.Len()
	return d.preview(), d.err
}

func (d *doors) PreviewVoid(_ context.Context, x meter.VoidRequest) (meter.Effect, error) {
	d.note(x)
	return d.preview(), d.err
}

func (d *doors) VoidEvents(_ context.Context, x meter.VoidRequest, actor, reason, token string) (meter.Effect, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err != nil {
		return meter.Effect{}, d.err
	}
	if token != fmt.Sprintf("inner-%d", d.tokens) || d.moving || d.changes > 0 {
		d.changes--
		return meter.Effect{}, fmt.Errorf("void events: %w", meter.ErrEffectChanged)
	}
	d.asked = append(d.asked, fmt.Sprintf("void %v by %s: %s", x.IDs, actor, reason))
	return d.effect, nil
}

func (d *doors) flush(context.Context) error { d.flushes++; return d.flushEr }

func (d *doors) UsageEvents(_ context.Context, hour meter.Window, subject string, m meter.Meter, after string, limit int) ([]meter.UsageEvent, string, error) {
	d.note(fmt.Sprintf("events of %s %s %s after %q limit %d", hour.Start.Format(time.RFC3339), subject, m.Slug, after, limit))
	return d.events, d.next, d.err
}

func (d *doors) Status() reporter.ReporterStatus { return d.breaker }

func (d *doors) ResetBreaker(actor string) {
	d.note("reset by " + actor)
	d.breaker = reporter.ReporterStatus{Breaker: reporter.BreakerClosed}
}

func (d *doors) explain(_ context.Context, sn reporter.MeteringSN) (reporter.Explanation, error) {
	d.note("explain " + string(sn))
	return d.explanation, d.err
}

func (d *doors) verify(ctx context.Context, o reporter.VerifyOptions) (reporter.Report, error) {
	d.note(fmt.Sprintf("verify recount=%v %s %s limit %d", o.Recount, o.From.Format(time.RFC3339), o.To.Format(time.RFC3339), o.Limit))
	if d.gate != nil {
		select {
		case <-d.gate:
		case <-ctx.Done():
			return reporter.Report{}, ctx.Err()
		}
	}
	for _, l := range d.lines {
		if o.Lines == nil {
			break
		}
		if err := o.Lines(l); err != nil {
			return reporter.Report{}, err
		}
	}
	return d.report, d.err
}
