package store

import (
	"context"
	"time"

	"github.com/meterd/meterd/reporter"
)

var _ reporter.ExplainBooks = (*Late)(nil)

// BookingByVersion implements [reporter.ExplainBooks].
func (l *Late) BookingByVersion(ctx context.Context, version uint64) (b reporter.Booking, ok bool, err error) {
	s, err := l.get()
	if err != nil {
		return b, false, err
	}
	return s.BookingByVersion(ctx, version)
}

// RecordBefore implements [reporter.ExplainBooks].
func (l *Late) RecordBefore(ctx context.Context, r reporter.BillRecord) (before reporter.BillRecord, ok bool, err error) {
	s, err := l.get()
	if err != nil {
		return before, false, err
	}
	return s.RecordBefore(ctx, r)
}

// ReplacedBy implements [reporter.ExplainBooks].
func (l *Late) ReplacedBy(ctx context.Context, sn reporter.MeteringSN) (r reporter.BillRecord, ok bool, err error) {
	s, err := l.get()
	if err != nil {
		return r, false, err
	}
	return s.ReplacedBy(ctx, sn)
}

// UsageHistory implements [reporter.ExplainBooks].
func (l *Late) UsageHistory(ctx context.Context, a reporter.Account, from, to time.Time) ([]reporter.HourlyUsage, error) {
	return ask(l, func(s *Store) ([]reporter.HourlyUsage, error) { return s.UsageHistory(ctx, a, from, to) })
}
