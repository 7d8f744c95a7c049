package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/shopspring/decimal"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

var _ reporter.VerifyBooks = (*Store)(nil)

const (
	// accountSubjects is how many subjects' sums are in memory at a time.
	accountSubjects = 50_000
	// spanRows is about how many rows one query of a long table groups.
	spanRows = 1_000_000
)

// ErrCountsDiffer says that two ways to count the events of an hour disagree.
var ErrCountsDiffer = errors.New("two ways to count the events of one hour disagree")

// AccountSums yields the sums of every account, ordered by subject, then meter, each derived from rows: see
// [reporter.VerifyBooks]. It reads the books once for every 50,000 subjects and keeps their sums in memory; the engine
// groups a few million rows at a time. With recount, closed hours are counted one by one as a close does it, and the number of
// events once more in another way; if the two don't agree the error wraps [ErrCountsDiffer].
func (s *Store) AccountSums(ctx context.Context, from, to time.Time, recount bool, meters []meter.Meter, yield func(reporter.AccountSum) error) error {
	v := &accountSums{
		store: s, from: from, to: to, whole: from.IsZero() && to.IsZero(), meters: meters,
		within: append(clauses{"1"}, rangeWhere(from, to, "window_start")...),
	}
	return wrap("sum up accounts", v.run(ctx, recount, yield))
}

// accountSums is one pass over the accounts.
type accountSums struct {
	store    *Store
	from, to time.Time
	whole    bool
	meters   []meter.Meter
	within   clauses // of window_start

	hours []meter.Window // closed hours to count again
	// scope bounds the subjects of the sums in hand.
	scope scope
	sums  map[reporter.Account]*reporter.AccountSum
}

func (v *accountSums) run(ctx context.Context, recount bool, yield func(reporter.AccountSum) error) error {
	if recount {
		if err := v.closedHours(ctx); err != nil {
			return err
		}
		for _, hour := range v.hours {
			if err := v.store.crossCheck(ctx, hour); err != nil {
				return err
			}
		}
	}
	bounds, err := v.bounds(ctx, recount)
	if err != nil {
		return err
	}
	for _, b := range bounds {
		v.scope = scope{first: b.first, last: b.last, bounded: true}
		v.sums = map[reporter.Account]*reporter.AccountSum{}
		if err := v.fill(ctx); err != nil {
			return err
		}
		for _, a := range v.order() {
			if err := yield(*v.sums[a]); err != nil {
				return err
			}
		}
	}
	return nil
}

// order lists the accounts in hand.
func (v *accountSums) order() []reporter.Account {
	list := make([]reporter.Account, 0, len(v.sums))
	for a := range v.sums {
		list = append(list, a)
	}
	slices.SortFunc(list, func(a, b reporter.Account) int {
		return cmp.Or(cmp.Compare(a.Subject, b.Subject), cmp.Compare(a.Meter, b.Meter))
	})
	return list
}

// at is the sum of an account.
func (v *accountSums) at(subject, slug string) *reporter.AccountSum {
	a := reporter.Account{Subject: subject, Meter: slug}
	sum := v.sums[a]
	if sum == nil {
		sum = &reporter.AccountSum{Subject: subject, Meter: slug, Records: map[reporter.State]meter.Quantity{}}
		v.sums[a] = sum
	}
	return sum
}

// fill computes the sums of the subjects in the scope.
func (v *accountSums) fill(ctx context.Context) error {
	for _, hour := range v.hours {
		sc := windowScope(hour)
		sc.first, sc.last, sc.bounded = v.scope.first, v.scope.last, true
		err := v.store.aggregateScope(ctx, sc, v.meters, nil, func(_ time.Time, u reporter.WindowUsage) error {
			sum := v.at(u.Subject, u.Meter)
			sum.Stored = sum.Stored.Add(u.Quantity) // nothing, as it was booked, if it is too much to hold
			return nil
		})
		if err != nil {
			return fmt.Errorf("count %s again: %w", hour, err)
		}
	}
	if err := v.addBooked(ctx); err != nil {
		return fmt.Errorf("sum up usage: %w", err)
	}
	if !v.whole {
		return nil
	}
	if err := v.addRecords(ctx); err != nil {
		return fmt.Errorf("sum up records: %w", err)
	}
	if err := v.addAdjustments(ctx); err != nil {
		return fmt.Errorf("sum up adjustments: %w", err)
	}
	return wrap("read balances", v.addBalances(ctx))
}

// closedHours finds the closed hours of the range with events.
func (v *accountSums) closedHours(ctx context.Context) error {
	last, ok, err := v.store.LastClosed(ctx)
	if err != nil || !ok {
		return err
	}
	to := last.Window.End
	if !v.to.IsZero() && v.to.Before(to) {
		to = v.to
	}
	starts, err := scalars[time.Time](ctx, v.store.conn, "SELECT DISTINCT hour FROM usage_events WHERE "+
		append(clauses{"1"}, rangeWhere(v.from, to, "hour")...).String()+" ORDER BY hour")
	for _, start := range starts {
		v.hours = append(v.hours, meter.HourOf(start))
	}
	return wrap("list closed hours", err)
}

// bound is a range of subjects, both included.
type bound struct{ first, last string }

// bounds cuts all subjects into ranges.
func (v *accountSums) bounds(ctx context.Context, recount bool) ([]bound, error) {
	sources := []string{"SELECT DISTINCT subject FROM hourly_usage WHERE " + v.within.String()}
	if recount && len(v.hours) > 0 {
		sources = append(sources, "SELECT DISTINCT subject FROM usage_events WHERE "+
			rangeWhere(v.hours[0].Start, v.hours[len(v.hours)-1].End, "hour").String())
	}
	if v.whole {
		for _, table := range []string{"bill_records", "adjustments", "account_balances"} {
			sources = append(sources, "SELECT DISTINCT subject FROM "+table)
		}
	}
	var list []bound
	n := 0
	query := "SELECT DISTINCT subject FROM (" + strings.Join(sources, " UNION ALL ") + ") ORDER BY subject"
	err := v.store.each(ctx, query, func(rows driver.Rows) error {
		var subject string
		if err := rows.Scan(&subject); err != nil {
			return err
		}
		if n%accountSubjects == 0 {
			list = append(list, bound{first: subject})
		}
		list[len(list)-1].last = subject
		n++
		return nil
	})
	return list, wrap("list subjects", err)
}

// spans cuts the rows of a table that match into ranges of a time column, of about spanRows each.
func (s *Store) spans(ctx context.Context, table, column string, where clauses) ([]clauses, error) {
	var list []clauses
	var from, last time.Time
	sum := uint64(0)
	end := func() {
		if sum > 0 {
			list = append(list, clauses{column + " >= " + sqlTime(from), column + " <= " + sqlTime(last)})
		}
	}
	query := "SELECT " + column + ", count() FROM " + table + whereText(where) + " GROUP BY " + column + " ORDER BY " + column
	err := s.each(ctx, query, func(rows driver.Rows) error {
		var at time.Time
		var n uint64
		if err := rows.Scan(&at, &n); err != nil {
			return err
		}
		if sum == 0 || sum+n > spanRows {
			end()
			from, sum = at, 0
		}
		last, sum = at, sum+n
		return nil
	})
	end()
	return list, wrap("measure "+table, err)
}

// sumRow is an amount of an account.
type sumRow struct {
	subject, meter string
	amount         decimal.Decimal
}

// eachSum reads rows of (subject, meter, amount, more…).
func (v *accountSums) eachSum(ctx context.Context, query string, take func(r sumRow), more ...any) error {
	return v.store.each(ctx, query, func(rows driver.Rows) error {
		var r sumRow
		if err := rows.Scan(append([]any{&r.subject, &r.meter, &r.amount}, more...)...); err != nil {
			return err
		}
		take(r)
		return nil
	})
}

// subjects is the condition of the scope's subjects.
func (v *accountSums) subjects() clauses {
	return clauses{"subject >= " + quote(v.scope.first), "subject <= " + quote(v.scope.last)}
}

func (v *accountSums) addBooked(ctx context.Context) error {
	where := append(append(v.subjects(), v.within...), v.store.committed())
	spans, err := v.store.spans(ctx, "hourly_usage", "window_start", where)
	if err != nil {
		return err
	}
	for _, span := range spans {
		// A sum of amounts each below 10^20 wraps around only far beyond what one account can use.
		query := "SELECT subject, meter, sum(q) FROM (SELECT window_start, subject, meter, argMax(quantity, version) AS q FROM hourly_usage WHERE " +
			append(span, where...).String() + " GROUP BY window_start, subject, meter) GROUP BY subject, meter"
		err := v.eachSum(ctx, query, func(r sumRow) {
			sum := v.at(r.subject, r.meter)
			sum.Booked = sum.Booked.Add(meter.QuantityFromDecimal(r.amount))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// replaced selects the numbers of records that another one reports again.
func (s *Store) replaced() string {
	return "SELECT replaces FROM bill_records WHERE replaces != '' AND " + s.committed()
}

func (v *accountSums) addRecords(ctx context.Context) error {
	s := v.store
	where := append(v.subjects(), s.committed(), "sn "+s.global+"NOT IN ("+s.replaced()+")")
	spans, err := s.spans(ctx, "bill_records", "booked_start", where)
	if err != nil {
		return err
	}
	for _, span := range spans {
		states, err := scalars[uint8](ctx, s.conn, "SELECT DISTINCT state FROM (SELECT DISTINCT first_state AS state FROM bill_records WHERE "+span.String()+
			" UNION ALL SELECT DISTINCT state FROM bill_record_transitions WHERE "+span.String()+") ORDER BY state")
		if err != nil {
			return err
		}
		for _, state := range states {
			if err := v.addState(ctx, reporter.State(state), append(slices.Clone(span), where...), span); err != nil {
				return err
			}
		}
	}
	return nil
}

// addState adds the records of a span whose last transition led to a state.
func (v *accountSums) addState(ctx context.Context, state reporter.State, where, span clauses) error {
	// Grouped by a hash: 18.16 dies of a GROUP BY with a decimal in its key.
	var scale, highest decimal.Decimal
	var mixed error
	query := "SELECT subject, meter, sum(billed), min(scale), max(scale) FROM bill_records FINAL WHERE " + where.String() + " AND " +
		v.store.inStates([]reporter.State{state}, span) + " GROUP BY subject, meter, cityHash64(toString(scale))"
	err := v.eachSum(ctx, query, func(r sumRow) {
		if !scale.Equal(highest) {
			mixed = fmt.Errorf("scales %s and %s of %q, meter %s, have one hash", scale, highest, r.subject, r.meter)
		}
		records := v.at(r.subject, r.meter).Records
		records[state] = records[state].Add(meter.QuantityFromDecimal(r.amount.Mul(scale)))
	}, &scale, &highest)
	return errors.Join(err, mixed)
}

func (v *accountSums) addAdjustments(ctx context.Context) error {
	var destination uint8
	query := "SELECT subject, meter, sum(quantity), destination FROM adjustments FINAL WHERE " +
		append(v.subjects(), v.store.committed()).String() + " GROUP BY subject, meter, destination"
	return v.eachSum(ctx, query, func(r sumRow) {
		sum, amount := v.at(r.subject, r.meter), meter.QuantityFromDecimal(r.amount)
		switch reporter.Destination(destination) {
		case reporter.IntoHeld:
			sum.Held = sum.Held.Add(amount)
		case reporter.IntoWrittenOff:
			sum.WrittenOff = sum.WrittenOff.Add(amount)
		case reporter.IntoUnbillable:
			sum.Unbillable = sum.Unbillable.Add(amount)
		case reporter.IntoBalance, reporter.IntoRecord: // counted there
		}
	}, &destination)
}

// addBalances takes the latest row of each account, without the checkpoints that spare others reading them all.
func (v *accountSums) addBalances(ctx context.Context) error {
	query := "SELECT subject, meter, argMax(quantity, version) FROM account_balances WHERE " +
		append(v.subjects(), v.store.committed()).String() + " GROUP BY subject, meter"
	return v.eachSum(ctx, query, func(r sumRow) {
		v.at(r.subject, r.meter).Balance = meter.QuantityFromDecimal(r.amount)
	})
}

// crossCheck counts the events of an hour without the rules and compares: every key counts once, unless it is a retry or
// void. Events may arrive meanwhile, so it counts keys before and after, and looks again if that doesn't explain it.
func (s *Store) crossCheck(ctx context.Context, hour meter.Window) error {
	sc := windowScope(hour)
	keys := "SELECT count() FROM (SELECT subject, event_key FROM usage_events WHERE " + sc.where().String() + " GROUP BY subject, event_key)"
	var before, counted, after uint64
	const attempts = 3
	for range attempts {
		e, err := s.probe(ctx, sc)
		if err != nil {
			return err
		}
		if err := s.conn.QueryRow(ctx, keys).Scan(&before); err != nil {
			return fmt.Errorf("count keys of %s: %w", hour, err)
		}
		if counted, err = s.CountWindowEvents(ctx, hour); err != nil {
			return err
		}
		if err := s.conn.QueryRow(ctx, keys).Scan(&after); err != nil {
			return fmt.Errorf("count keys of %s: %w", hour, err)
		}
		fewer := e.repeats+e.voids+e.stampedVoids > 0
		if counted <= after && (counted >= before || fewer) {
			return nil
		}
	}
	return fmt.Errorf("%w: of %s, %d count and %d keys are stored", ErrCountsDiffer, hour, counted, after)
}
