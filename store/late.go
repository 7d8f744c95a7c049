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
	_ reporter.VersionReader = (*Late)(nil)
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

// Store returns the open store, or nil.
func (l *Late) Store() *Store { return l.store.Load() }

// Ready reports whether the store is open and answers.
func (l *Late) Ready(ctx context.Context) error {
	s, err := l.get()
	if err != nil {
		return err
	}
	return s.Ready(ctx)
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
	s, err := l.get()
	if err != nil {
		return err
	}
	return s.InsertEvents(ctx, rows)
}

// QueryMeter implements meter.UsageReader.
func (l *Late) QueryMeter(ctx context.Context, q meter.Query, yield func(meter.QueryRow) error) error {
	s, err := l.get()
	if err != nil {
		return err
	}
	return s.QueryMeter(ctx, q, yield)
}

// LastClosed implements reporter.WindowBooks.
func (l *Late) LastClosed(ctx context.Context) (c reporter.WindowClose, ok bool, err error) {
	s, err := l.get()
	if err != nil {
		return c, false, err
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

// AggregateWindow implements reporter.WindowBooks.
func (l *Late) AggregateWindow(ctx context.Context, w meter.Window, meters []meter.Meter, yield func(reporter.WindowUsage) error) error {
	s, err := l.get()
	if err != nil {
		return err
	}
	return s.AggregateWindow(ctx, w, meters, yield)
}

// CountWindowEvents implements reporter.WindowBooks.
func (l *Late) CountWindowEvents(ctx context.Context, w meter.Window) (uint64, error) {
	s, err := l.get()
	if err != nil {
		return 0, err
	}
	return s.CountWindowEvents(ctx, w)
}

// Remainders implements reporter.WindowBooks.
func (l *Late) Remainders(ctx context.Context, w meter.Window) ([]reporter.CarriedRemainder, error) {
	s, err := l.get()
	if err != nil {
		return nil, err
	}
	return s.Remainders(ctx, w)
}

// HighestVersion implements reporter.VersionReader.
func (l *Late) HighestVersion(ctx context.Context, w meter.Window) (uint64, error) {
	s, err := l.get()
	if err != nil {
		return 0, err
	}
	return s.HighestVersion(ctx, w)
}

// WriteUsage implements reporter.WindowBooks.
func (l *Late) WriteUsage(ctx context.Context, usage []reporter.HourlyUsage) error {
	s, err := l.get()
	if err != nil {
		return err
	}
	return s.WriteUsage(ctx, usage)
}

// WriteRecords implements reporter.WindowBooks.
func (l *Late) WriteRecords(ctx context.Context, records []reporter.BillRecord) error {
	s, err := l.get()
	if err != nil {
		return err
	}
	return s.WriteRecords(ctx, records)
}

// WriteClose implements reporter.WindowBooks.
func (l *Late) WriteClose(ctx context.Context, c reporter.WindowClose) error {
	s, err := l.get()
	if err != nil {
		return err
	}
	return s.WriteClose(ctx, c)
}

// UnsettledWindows implements reporter.DeliveryBooks.
func (l *Late) UnsettledWindows(ctx context.Context) ([]reporter.WindowClose, error) {
	s, err := l.get()
	if err != nil {
		return nil, err
	}
	return s.UnsettledWindows(ctx)
}

// DueRecords implements reporter.DeliveryBooks.
func (l *Late) DueRecords(ctx context.Context, c reporter.WindowClose, after reporter.MeteringSN, limit int) ([]reporter.BillRecord, error) {
	s, err := l.get()
	if err != nil {
		return nil, err
	}
	return s.DueRecords(ctx, c, after, limit)
}

// CountDue implements reporter.DueCounter.
func (l *Late) CountDue(ctx context.Context) (uint64, error) {
	s, err := l.get()
	if err != nil {
		return 0, err
	}
	return s.CountDue(ctx)
}

// AppendTransitions implements reporter.DeliveryBooks.
func (l *Late) AppendTransitions(ctx context.Context, ts []reporter.Transition) error {
	s, err := l.get()
	if err != nil {
		return err
	}
	return s.AppendTransitions(ctx, ts)
}

// SettleWindow implements reporter.DeliveryBooks.
func (l *Late) SettleWindow(ctx context.Context, c reporter.WindowClose) error {
	s, err := l.get()
	if err != nil {
		return err
	}
	return s.SettleWindow(ctx, c)
}

// Records implements reporter.RecordReader.
func (l *Late) Records(ctx context.Context, f reporter.RecordFilter) ([]reporter.BillRecord, error) {
	s, err := l.get()
	if err != nil {
		return nil, err
	}
	return s.Records(ctx, f)
}

// Transitions implements reporter.RecordReader.
func (l *Late) Transitions(ctx context.Context, sn reporter.MeteringSN) ([]reporter.Transition, error) {
	s, err := l.get()
	if err != nil {
		return nil, err
	}
	return s.Transitions(ctx, sn)
}

// Windows implements reporter.RecordReader.
func (l *Late) Windows(ctx context.Context, from, to time.Time) ([]reporter.WindowClose, error) {
	s, err := l.get()
	if err != nil {
		return nil, err
	}
	return s.Windows(ctx, from, to)
}

// Usage implements reporter.RecordReader.
func (l *Late) Usage(ctx context.Context, from, to time.Time, limit int) ([]reporter.HourlyUsage, error) {
	s, err := l.get()
	if err != nil {
		return nil, err
	}
	return s.Usage(ctx, from, to, limit)
}
