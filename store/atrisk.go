package store

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/shopspring/decimal"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

var _ reporter.AtRiskBooks = (*Store)(nil)

// AtRisk returns, by meter and state, the sums over live records of committed bookings that are in one of
// [reporter.AtRiskStates], of hours that began at or after since. Only hours that hold such records are read.
func (s *Store) AtRisk(ctx context.Context, since time.Time) ([]reporter.AtRiskRow, error) {
	states := reporter.AtRiskStates()
	hours, err := s.hoursWithStates(ctx, states)
	if err != nil {
		return nil, wrap("read what is at risk", err)
	}
	type key struct {
		meter string
		state reporter.State
	}
	sums := map[key]reporter.AtRiskRow{}
	for _, hour := range slices.Sorted(maps.Keys(hours)) {
		start := time.Unix(hour, 0).UTC()
		if start.Before(since) {
			continue
		}
		within := clauses{"booked_start = " + sqlTime(start)}
		for _, state := range states {
			where := append(clauses{fmt.Sprintf("mode = %d", reporter.ModeLive)}, within...)
			where.add(s.committed("window_start = " + sqlTime(start)))
			where.add(s.inStates([]reporter.State{state}, within))
			err := s.each(ctx, "SELECT meter, count(), sum(billed) FROM bill_records FINAL WHERE "+where.String()+" GROUP BY meter", func(rows driver.Rows) error {
				row := reporter.AtRiskRow{State: state}
				var billed decimal.Decimal
				if err := rows.Scan(&row.Meter, &row.Records, &billed); err != nil {
					return err
				}
				k := key{row.Meter, state}
				row.Records += sums[k].Records
				row.Billed = meter.QuantityFromDecimal(billed).Add(sums[k].Billed)
				sums[k] = row
				return nil
			})
			if err != nil {
				return nil, wrap("read what is at risk", err)
			}
		}
	}
	return slices.SortedFunc(maps.Values(sums), func(x, y reporter.AtRiskRow) int {
		if x.Meter != y.Meter {
			if x.Meter < y.Meter {
				return -1
			}
			return 1
		}
		return int(x.State) - int(y.State)
	}), nil
}

// AtRisk implements [reporter.AtRiskBooks].
func (l *Late) AtRisk(ctx context.Context, since time.Time) ([]reporter.AtRiskRow, error) {
	return ask(l, func(s *Store) ([]reporter.AtRiskRow, error) { return s.AtRisk(ctx, since) })
}
