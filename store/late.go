package store

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

var (
	_ meter.EventStore       = (*Late)(nil)
	_ meter.UsageReader      = (*Late)(nil)
	_ reporter.WindowBooks   = (*Late)(nil)
	_ reporter.DeliveryBooks = (*Late)(nil)
	_ reporter.RecordReader  = (*Late)(nil)
	_ reporter.LifeBooks     = (*Late)(nil)
	_ reporter.AuditBooks    = (*Late)(nil)
	_ reporter.DueCounter    = (*Late)(nil)
)

// ErrNotOpen is the error of every method of a Late store that isn't open yet.
var ErrNotOpen = errors.New("ClickHouse was not reached yet")

// Late is a store that is opened after the daemon began to take events, and as often as it takes: a ClickHouse that can't be
// reached at start must not keep events from being spooled. Until then every method fails with ErrNotOpen. The zero value
// is ready to use.
type Late struct {
	store atomic.Pointer[Store]
	why   atomic.Pointer[error]
}

// Opened makes the store available.
func (l *Late) Opened(s *Store) { l.store.Store(s) }

// Failed notes why the last attempt to open failed, for [Late.Ready].
func (l *Late) Failed(err error) { l.why.Store(&err) }

// get returns the store or why there is none.
func (l *Late) get() (*Store, error) {
	if s := l.store.Load(); s != nil {
		return s, nil
	}
	if why := l.why.Load(); why != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotOpen, *why)
	}
	return nil, ErrNotOpen
}

// do calls f with the store if it is open.
func (l *Late) do(f func(*Store) error) error {
	s, err := l.get()
	if err != nil {
		return err
	}
	return f(s)
}

// ask is do for what has a result.
func ask[T any](l *Late, f func(*Store) (T, error)) (T, error) {
	s, err := l.get()
	if err != nil {
		var none T
		return none, err
	}
	return f(s)
}

// Store returns the open store, or nil.
func (l *Late) Store() *Store { return l.store.Load() }

// Ready reports whether the store is open and answers.
func (l *Late) Ready(ctx context.Context) error {
	return l.do(func(s *Store) error { return s.Ready(ctx) })
}

// Close closes the store if it was opened.
func (l *Late) Close() error {
	if s := l.store.Load(); s != nil {
		return s.Close()
	}
	return nil
}

// InsertEvents implements meter.EventStore.
func (l *Late) InsertEvents(ctx context.Context, rows *meter.EventRows) error {
	return l.do(func(s *Store) error { return s.InsertEvents(ctx, rows) })
}

// QueryMeter implements meter.UsageReader.
func (l *Late) QueryMeter(ctx context.Context, q meter.Query, yield func(meter.QueryRow) error) error {
	return l.do(func(s *Store) error { return s.QueryMeter(ctx, q, yield) })
}

// LastBooking implements reporter.WindowBooks.
func (l *Late) LastBooking(ctx context.Context) (b reporter.Booking, ok bool, err error) {
	s, err := l.get()
	if err != nil {
		return b, false, err
	}
	return s.LastBooking(ctx)
}

// LastClosed implements reporter.WindowBooks.
func (l *Late) LastClosed(ctx context.Context) (b reporter.Booking, ok bool, err error) {
	s, err := l.get()
	if err != nil {
		return b, false, err
	}
	return s.LastClosed(ctx)
}

// FirstEventHour implements reporter.WindowBooks.
func (l *Late) FirstEventHour(ctx context.Context) (w meter.Window, ok bool, err error) {
	s, err := l.get()
	if err != nil {
		return w, false, err
	}
	return s.FirstEventHour(ctx)
}

// Touches implements reporter.WindowBooks.
func (l *Late) Touches(ctx context.Context, hour meter.Window) ([]uint64, error) {
	return ask(l, func(s *Store) ([]uint64, error) { return s.Touches(ctx, hour) })
}

// StaleHours implements reporter.WindowBooks.
func (l *Late) StaleHours(ctx context.Context, before time.Time, limit int) ([]reporter.StaleHour, error) {
	return ask(l, func(s *Store) ([]reporter.StaleHour, error) { return s.StaleHours(ctx, before, limit) })
}

// AggregateWindow implements reporter.WindowBooks.
func (l *Late) AggregateWindow(ctx context.Context, sc reporter.Scope, meters []meter.Meter, yield func(reporter.WindowUsage) error) error {
	return l.do(func(s *Store) error { return s.AggregateWindow(ctx, sc, meters, yield) })
}

// CountWindowEvents implements reporter.WindowBooks.
func (l *Late) CountWindowEvents(ctx context.Context, hour meter.Window) (uint64, error) {
	return ask(l, func(s *Store) (uint64, error) { return s.CountWindowEvents(ctx, hour) })
}

// BookedUsage implements reporter.WindowBooks.
func (l *Late) BookedUsage(ctx context.Context, hour meter.Window, subjects []string) ([]reporter.HourlyUsage, error) {
	return ask(l, func(s *Store) ([]reporter.HourlyUsage, error) { return s.BookedUsage(ctx, hour, subjects) })
}

// Balances implements reporter.WindowBooks.
func (l *Late) Balances(ctx context.Context, subjects []string) ([]reporter.Balance, error) {
	return ask(l, func(s *Store) ([]reporter.Balance, error) { return s.Balances(ctx, subjects) })
}

// RecordsBySN implements reporter.WindowBooks.
func (l *Late) RecordsBySN(ctx context.Context, sns []reporter.MeteringSN) ([]reporter.BillRecord, error) {
	return ask(l, func(s *Store) ([]reporter.BillRecord, error) { return s.RecordsBySN(ctx, sns) })
}

// HeldUsage implements reporter.WindowBooks.
func (l *Late) HeldUsage(ctx context.Context, ids []reporter.AdjustmentID, after reporter.AdjustmentID, limit int) ([]reporter.HeldUsage, error) {
	return ask(l, func(s *Store) ([]reporter.HeldUsage, error) { return s.HeldUsage(ctx, ids, after, limit) })
}

// Lives implements reporter.WindowBooks.
func (l *Late) Lives(ctx context.Context, w meter.Window, instances []string) ([]reporter.Life, error) {
	return ask(l, func(s *Store) ([]reporter.Life, error) { return s.Lives(ctx, w, instances) })
}

// WriteRows implements reporter.WindowBooks.
func (l *Late) WriteRows(ctx context.Context, b reporter.Booking, rows reporter.Rows) error {
	return l.do(func(s *Store) error { return s.WriteRows(ctx, b, rows) })
}

// Commit implements reporter.WindowBooks.
func (l *Late) Commit(ctx context.Context, b reporter.Booking) error {
	return l.do(func(s *Store) error { return s.Commit(ctx, b) })
}

// UnsettledBookings implements reporter.DeliveryBooks.
func (l *Late) UnsettledBookings(ctx context.Context) ([]reporter.Booking, error) {
	return ask(l, func(s *Store) ([]reporter.Booking, error) { return s.UnsettledBookings(ctx) })
}

// DueRecords implements reporter.DeliveryBooks.
func (l *Late) DueRecords(ctx context.Context, b reporter.Booking, after reporter.MeteringSN, limit int) ([]reporter.BillRecord, error) {
	return ask(l, func(s *Store) ([]reporter.BillRecord, error) { return s.DueRecords(ctx, b, after, limit) })
}

// CountDue implements reporter.DueCounter.
func (l *Late) CountDue(ctx context.Context) (uint64, error) {
	return ask(l, func(s *Store) (uint64, error) { return s.CountDue(ctx) })
}

// AppendTransitions implements reporter.DeliveryBooks.
func (l *Late) AppendTransitions(ctx context.Context, ts []reporter.Transition) error {
	return l.do(func(s *Store) error { return s.AppendTransitions(ctx, ts) })
}

// SettleBooking implements reporter.DeliveryBooks.
func (l *Late) SettleBooking(ctx context.Context, b reporter.Booking) error {
	return l.do(func(s *Store) error { return s.SettleBooking(ctx, b) })
}

// AppendLife implements reporter.LifeBooks.
func (l *Late) AppendLife(ctx context.Context, changes []reporter.LifeChange) error {
	return l.do(func(s *Store) error { return s.AppendLife(ctx, changes) })
}

// LifeOf implements reporter.LifeBooks.
func (l *Late) LifeOf(ctx context.Context, instanceID string) ([]reporter.LifeChange, error) {
	return ask(l, func(s *Store) ([]reporter.LifeChange, error) { return s.LifeOf(ctx, instanceID) })
}

// ReleasedWithoutFinal implements reporter.LifeBooks.
func (l *Late) ReleasedWithoutFinal(ctx context.Context, limit int) ([]reporter.LifeChange, error) {
	return ask(l, func(s *Store) ([]reporter.LifeChange, error) { return s.ReleasedWithoutFinal(ctx, limit) })
}

// AppendAudit implements reporter.AuditBooks.
func (l *Late) AppendAudit(ctx context.Context, entries []reporter.AuditEntry) error {
	return l.do(func(s *Store) error { return s.AppendAudit(ctx, entries) })
}

// Audit implements reporter.AuditBooks.
func (l *Late) Audit(ctx context.Context, from, to time.Time, limit int) ([]reporter.AuditEntry, error) {
	return ask(l, func(s *Store) ([]reporter.AuditEntry, error) { return s.Audit(ctx, from, to, limit) })
}

// Records implements reporter.RecordReader.
func (l *Late) Records(ctx context.Context, f reporter.RecordFilter) ([]reporter.BillRecord, error) {
	return ask(l, func(s *Store) ([]reporter.BillRecord, error) { return s.Records(ctx, f) })
}

// Transitions implements reporter.RecordReader.
func (l *Late) Transitions(ctx context.Context, sn reporter.MeteringSN) ([]reporter.Transition, error) {
	return ask(l, func(s *Store) ([]reporter.Transition, error) { return s.Transitions(ctx, sn) })
}

// Bookings implements reporter.RecordReader.
func (l *Late) Bookings(ctx context.Context, from, to time.Time) ([]reporter.Booking, error) {
	return ask(l, func(s *Store) ([]reporter.Booking, error) { return s.Bookings(ctx, from, to) })
}

// Usage implements reporter.RecordReader.
func (l *Late) Usage(ctx context.Context, from, to time.Time, limit int) ([]reporter.HourlyUsage, error) {
	return ask(l, func(s *Store) ([]reporter.HourlyUsage, error) { return s.Usage(ctx, from, to, limit) })
}

// SubjectUsage is [Store.SubjectUsage].
func (l *Late) SubjectUsage(ctx context.Context, subjects []string, from, to time.Time) ([]reporter.HourlyUsage, error) {
	return ask(l, func(s *Store) ([]reporter.HourlyUsage, error) { return s.SubjectUsage(ctx, subjects, from, to) })
}

// Adjustments implements reporter.RecordReader.
func (l *Late) Adjustments(ctx context.Context, f reporter.AdjustmentFilter) ([]reporter.Adjustment, error) {
	return ask(l, func(s *Store) ([]reporter.Adjustment, error) { return s.Adjustments(ctx, f) })
}
