package store

import (
	"context"
	"time"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

var _ reporter.VerifyBooks = (*Late)(nil)

// PreviewVoid is [Store.PreviewVoid].
func (l *Late) PreviewVoid(ctx context.Context, req meter.VoidRequest) (meter.Effect, error) {
	return ask(l, func(s *Store) (meter.Effect, error) { return s.PreviewVoid(ctx, req) })
}

// VoidEvents is [Store.VoidEvents].
func (l *Late) VoidEvents(ctx context.Context, req meter.VoidRequest, actor, reason, token string) (meter.Effect, error) {
	return ask(l, func(s *Store) (meter.Effect, error) { return s.VoidEvents(ctx, req, actor, reason, token) })
}

// PreviewBackfill is [Store.PreviewBackfill].
func (l *Late) PreviewBackfill(ctx context.Context, rows *meter.EventRows) (meter.Effect, error) {
	return ask(l, func(s *Store) (meter.Effect, error) { return s.PreviewBackfill(ctx, rows) })
}

// UsageEvents is [Store.UsageEvents].
func (l *Late) UsageEvents(ctx context.Context, hour meter.Window, subject string, m meter.Meter, after string, limit int) (list []meter.UsageEvent, next string, err error) {
	s, err := l.get()
	if err != nil {
		return nil, "", err
	}
	return s.UsageEvents(ctx, hour, subject, m, after, limit)
}

// AccountSums implements reporter.VerifyBooks.
func (l *Late) AccountSums(ctx context.Context, from, to time.Time, recount bool, meters []meter.Meter, yield func(reporter.AccountSum) error) error {
	return l.do(func(s *Store) error { return s.AccountSums(ctx, from, to, recount, meters, yield) })
}

// CheckRows implements reporter.VerifyBooks.
func (l *Late) CheckRows(ctx context.Context, limit int) ([]string, error) {
	return ask(l, func(s *Store) ([]string, error) { return s.CheckRows(ctx, limit) })
}
