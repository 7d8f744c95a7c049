package simulation_test

import (
	"context"
	"errors"
	"time"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
	"github.com/meterd/meterd/reporter/reportertest"
)

var (
	errOutage  = errors.New("the store does not answer")
	errTrouble = errors.New("the store failed")
)

// ledger is everything that a process asks of the books. Mutants stand in for it in the tests of the checks.
type ledger interface {
	reporter.WindowBooks
	reporter.DeliveryBooks
	reporter.LifeBooks
	reporter.AuditBooks
	reporter.RecordReader
	reporter.DueCounter
	reporter.VerifyBooks
}

var _ ledger = (*reportertest.Books)(nil)

// calls is the books as one process sees them: every call may let other tasks go first, fail before or after its effect, or
// be the process's last.
type calls struct {
	p *process
	l ledger
}

// do makes one call.
func (s calls) do(op string, call func() error) error {
	p, w := s.p, s.p.w
	if p.t.ended || p.t.killed {
		return errOutage // a goroutine that outlives its process
	}
	if p.t.stopping { // Go chooses by chance between a free turn and an ended context: nothing may be drawn here
		return call()
	}
	if w.chance(w.plan.switching) {
		p.t.park(w.now.Add(w.between(0, time.Second)))
	}
	if w.now.Before(w.storeDown) {
		return errOutage
	}
	if w.calm || !w.chance(w.plan.trouble) {
		return call()
	}
	switch w.rng.IntN(4) {
	case 0:
		w.note(p.name, "ends before %s", op)
		w.counts["process ended"]++
		p.t.die()
	case 1:
		err := call()
		w.note(p.name, "ends after %s (%v)", op, err)
		p.t.die()
	case 2:
		w.note(p.name, "%s fails", op)
	case 3:
		err := call()
		w.note(p.name, "%s fails although it was done (%v)", op, err)
		w.counts["outcome lost"]++
	}
	return errTrouble
}

func (s calls) LastBooking(ctx context.Context) (b reporter.Booking, ok bool, err error) {
	err = s.do("LastBooking", func() (err error) { b, ok, err = s.l.LastBooking(ctx); return err })
	return b, ok, err
}

func (s calls) LastClosed(ctx context.Context) (b reporter.Booking, ok bool, err error) {
	err = s.do("LastClosed", func() (err error) { b, ok, err = s.l.LastClosed(ctx); return err })
	return b, ok, err
}

func (s calls) FirstEventHour(ctx context.Context) (h meter.Window, ok bool, err error) {
	err = s.do("FirstEventHour", func() (err error) { h, ok, err = s.l.FirstEventHour(ctx); return err })
	return h, ok, err
}

func (s calls) Touches(ctx context.Context, hour meter.Window) (ids []uint64, err error) {
	err = s.do("Touches", func() (err error) { ids, err = s.l.Touches(ctx, hour); return err })
	return ids, err
}

func (s calls) StaleHours(ctx context.Context, before time.Time, limit int) (stale []reporter.StaleHour, err error) {
	err = s.do("StaleHours", func() (err error) { stale, err = s.l.StaleHours(ctx, before, limit); return err })
	return stale, err
}

func (s calls) AggregateWindow(ctx context.Context, sc reporter.Scope, meters []meter.Meter, yield func(reporter.WindowUsage) error) error {
	return s.do("AggregateWindow", func() error { return s.l.AggregateWindow(ctx, sc, meters, yield) })
}

func (s calls) CountWindowEvents(ctx context.Context, hour meter.Window) (n uint64, err error) {
	err = s.do("CountWindowEvents", func() (err error) { n, err = s.l.CountWindowEvents(ctx, hour); return err })
	return n, err
}

func (s calls) BookedUsage(ctx context.Context, hour meter.Window, subjects []string) (rows []reporter.HourlyUsage, err error) {
	err = s.do("BookedUsage", func() (err error) { rows, err = s.l.BookedUsage(ctx, hour, subjects); return err })
	return rows, err
}

func (s calls) Balances(ctx context.Context, subjects []string) (rows []reporter.Balance, err error) {
	err = s.do("Balances", func() (err error) { rows, err = s.l.Balances(ctx, subjects); return err })
	return rows, err
}

func (s calls) RecordsBySN(ctx context.Context, sns []reporter.MeteringSN) (rs []reporter.BillRecord, err error) {
	err = s.do("RecordsBySN", func() (err error) { rs, err = s.l.RecordsBySN(ctx, sns); return err })
	return rs, err
}

func (s calls) HeldUsage(ctx context.Context, ids []reporter.AdjustmentID, after reporter.AdjustmentID, limit int) (held []reporter.HeldUsage, err error) {
	err = s.do("HeldUsage", func() (err error) { held, err = s.l.HeldUsage(ctx, ids, after, limit); return err })
	return held, err
}

func (s calls) Lives(ctx context.Context, w meter.Window, instances []string) (lives []reporter.Life, err error) {
	err = s.do("Lives", func() (err error) { lives, err = s.l.Lives(ctx, w, instances); return err })
	return lives, err
}

func (s calls) WriteRows(ctx context.Context, b reporter.Booking, rows reporter.Rows) error {
	return s.do("WriteRows", func() error { return s.l.WriteRows(ctx, b, rows) })
}

func (s calls) Commit(ctx context.Context, b reporter.Booking) error {
	return s.do("Commit", func() error {
		err := s.l.Commit(ctx, b)
		s.p.w.afterCommit(s.p.name, b, err)
		return err
	})
}

func (s calls) UnsettledBookings(ctx context.Context) (bs []reporter.Booking, err error) {
	err = s.do("UnsettledBookings", func() (err error) { bs, err = s.l.UnsettledBookings(ctx); return err })
	return bs, err
}

func (s calls) DueRecords(ctx context.Context, b reporter.Booking, after reporter.MeteringSN, limit int) (rs []reporter.BillRecord, err error) {
	err = s.do("DueRecords", func() (err error) { rs, err = s.l.DueRecords(ctx, b, after, limit); return err })
	return rs, err
}

func (s calls) AppendTransitions(ctx context.Context, ts []reporter.Transition) error {
	return s.do("AppendTransitions", func() error {
		for _, t := range ts {
			s.p.w.note(s.p.name, "%.8s becomes %s (%d) %s", t.SN, t.State, t.Seq, t.Code)
		}
		return s.l.AppendTransitions(ctx, ts)
	})
}

func (s calls) SettleBooking(ctx context.Context, b reporter.Booking) error {
	return s.do("SettleBooking", func() error {
		s.p.w.note(s.p.name, "settles booking %d", b.Number)
		return s.l.SettleBooking(ctx, b)
	})
}

func (s calls) AppendLife(ctx context.Context, changes []reporter.LifeChange) error {
	return s.do("AppendLife", func() error {
		err := s.l.AppendLife(ctx, changes)
		s.p.w.afterLife(changes)
		return err
	})
}

func (s calls) LifeOf(ctx context.Context, id string) (changes []reporter.LifeChange, err error) {
	err = s.do("LifeOf", func() (err error) { changes, err = s.l.LifeOf(ctx, id); return err })
	return changes, err
}

func (s calls) ReleasedWithoutFinal(ctx context.Context, limit int) (open []reporter.LifeChange, err error) {
	err = s.do("ReleasedWithoutFinal", func() (err error) { open, err = s.l.ReleasedWithoutFinal(ctx, limit); return err })
	return open, err
}

func (s calls) AppendAudit(ctx context.Context, entries []reporter.AuditEntry) error {
	return s.do("AppendAudit", func() error { return s.l.AppendAudit(ctx, entries) })
}

func (s calls) Audit(ctx context.Context, from, to time.Time, limit int) (entries []reporter.AuditEntry, err error) {
	err = s.do("Audit", func() (err error) { entries, err = s.l.Audit(ctx, from, to, limit); return err })
	return entries, err
}

func (s calls) Records(ctx context.Context, f reporter.RecordFilter) (rs []reporter.BillRecord, err error) {
	err = s.do("Records", func() (err error) { rs, err = s.l.Records(ctx, f); return err })
	return rs, err
}

func (s calls) Transitions(ctx context.Context, sn reporter.MeteringSN) (ts []reporter.Transition, err error) {
	err = s.do("Transitions", func() (err error) { ts, err = s.l.Transitions(ctx, sn); return err })
	return ts, err
}

func (s calls) Bookings(ctx context.Context, from, to time.Time) (bs []reporter.Booking, err error) {
	err = s.do("Bookings", func() (err error) { bs, err = s.l.Bookings(ctx, from, to); return err })
	return bs, err
}

func (s calls) Usage(ctx context.Context, from, to time.Time, limit int) (rows []reporter.HourlyUsage, err error) {
	err = s.do("Usage", func() (err error) { rows, err = s.l.Usage(ctx, from, to, limit); return err })
	return rows, err
}

func (s calls) Adjustments(ctx context.Context, f reporter.AdjustmentFilter) (as []reporter.Adjustment, err error) {
	err = s.do("Adjustments", func() (err error) { as, err = s.l.Adjustments(ctx, f); return err })
	return as, err
}

func (s calls) CountDue(ctx context.Context) (n uint64, err error) {
	err = s.do("CountDue", func() (err error) { n, err = s.l.CountDue(ctx); return err })
	return n, err
}

func (s calls) AccountSums(ctx context.Context, from, to time.Time, recount bool, meters []meter.Meter, yield func(reporter.AccountSum) error) error {
	return s.do("AccountSums", func() error { return s.l.AccountSums(ctx, from, to, recount, meters, yield) })
}

func (s calls) CheckRows(ctx context.Context, limit int) (found []string, err error) {
	err = s.do("CheckRows", func() (err error) { found, err = s.l.CheckRows(ctx, limit); return err })
	return found, err
}
