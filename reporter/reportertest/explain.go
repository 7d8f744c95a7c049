package reportertest

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/meterd/meterd/reporter"
)

var (
	_ reporter.ExplainBooks = (*Books)(nil)
	_ reporter.VerifySource = (*Books)(nil)
)

// BookingByVersion implements [reporter.ExplainBooks].
func (b *Books) BookingByVersion(ctx context.Context, version uint64) (c reporter.Booking, ok bool, err error) {
	err = b.do(ctx, "BookingByVersion", func(bool) {
		i := slices.IndexFunc(b.log, func(c reporter.Booking) bool { return c.Version == version })
		if ok = i >= 0; ok {
			c = b.booking(i)
		}
	})
	return c, ok && err == nil, err
}

// RecordBefore implements [reporter.ExplainBooks].
func (b *Books) RecordBefore(ctx context.Context, r reporter.BillRecord) (before reporter.BillRecord, ok bool, err error) {
	byTime := func(x, y reporter.BillRecord) int {
		return cmp.Or(cmp.Compare(x.Version, y.Version), x.Window.Start.Compare(y.Window.Start), cmp.Compare(x.SN, y.SN))
	}
	err = b.do(ctx, "RecordBefore", func(bool) {
		for _, other := range b.counted() {
			if other.Subject != r.Subject || other.Meter != r.Meter || other.Replaces != "" || byTime(other, r) >= 0 {
				continue
			}
			if !ok || byTime(other, before) > 0 {
				before, ok = other, true
			}
		}
	})
	return before, ok && err == nil, err
}

// ReplacedBy implements [reporter.ExplainBooks].
func (b *Books) ReplacedBy(ctx context.Context, sn reporter.MeteringSN) (r reporter.BillRecord, ok bool, err error) {
	err = b.do(ctx, "ReplacedBy", func(bool) {
		if next := b.replacedBy[sn]; next != "" {
			r, ok = b.find(next)
		}
	})
	return r, ok && err == nil, err
}

// UsageHistory implements [reporter.ExplainBooks].
func (b *Books) UsageHistory(ctx context.Context, a reporter.Account, from, to time.Time) (rows []reporter.HourlyUsage, err error) {
	err = b.do(ctx, "UsageHistory", func(bool) {
		for _, c := range b.log {
			for _, u := range b.at(c.Version).usage {
				if u.Subject == a.Subject && u.Meter == a.Meter && within(u.Window.Start, from, to) {
					rows = append(rows, u)
				}
			}
		}
		slices.SortFunc(rows, func(x, y reporter.HourlyUsage) int {
			return cmp.Or(x.Window.Start.Compare(y.Window.Start), cmp.Compare(x.Version, y.Version))
		})
	})
	return rows, err
}
