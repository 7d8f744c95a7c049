package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

var billRecordTransitions = newTable("bill_record_transitions",
	"booked_start", "DateTime('UTC')", "booked_end", "DateTime('UTC')", "sn", "String", "seq", "UInt32", "state", "UInt8",
	"at", "Int64", "attempt", "UInt32", "endpoint", "String", "code", "String", "message", "String", "request_hash", "String",
	"latency", "Int64", "detail", "String", "actor", "String", "precedence", "UInt64")

// AppendTransitions appends rows and returns once they are durable. Writing the same (SN, seq) again changes nothing; of
// two different rows under one (SN, seq), which two daemons on one seller could write, the earlier in time stays.
func (s *Store) AppendTransitions(ctx context.Context, ts []reporter.Transition) error {
	return wrap("append transitions", classify(s.appendTransitions(ctx, ts)))
}

func (s *Store) appendTransitions(ctx context.Context, ts []reporter.Transition) error {
	for i := range ts {
		if ts[i].SN == "" || ts[i].Seq < 2 || ts[i].State.String() == "" {
			return fmt.Errorf("%w: record %q: transition %d to state %d: the first one comes with the record", meter.ErrRefused, ts[i].SN, ts[i].Seq, ts[i].State)
		}
	}
	if err := s.mark(ctx, len(ts), func(i int) (reporter.State, time.Time) { return ts[i].State, ts[i].Booked.Start }); err != nil {
		return err
	}
	// A record that becomes pending again (released by a person, say) makes its booking one with due records again. That must be
	// known before, or nobody would look for the record if this process ended after the rows; and once more behind them,
	// because the booking may have been settled in between.
	if err := s.reopenAll(ctx, ts); err != nil {
		return err
	}
	if err := s.writeTransitions(ctx, ts); err != nil {
		return err
	}
	return s.reopenAll(ctx, ts)
}

// reopenAll makes the bookings of records that become pending unsettled.
func (s *Store) reopenAll(ctx context.Context, ts []reporter.Transition) error {
	pending := map[meter.Window][]reporter.MeteringSN{}
	for _, t := range ts {
		if t.State == reporter.StatePending {
			pending[t.Booked] = append(pending[t.Booked], t.SN)
		}
	}
	for booked, sns := range pending {
		if err := s.reopen(ctx, booked, sns); err != nil {
			return fmt.Errorf("reopen: %w", err)
		}
	}
	return nil
}

func (s *Store) writeTransitions(ctx context.Context, ts []reporter.Transition) error {
	return s.insertRows(ctx, billRecordTransitions, len(ts), func(i int, d []columnData) error {
		t := &ts[i]
		d[2].string(string(t.SN))
		d[3].uint32(t.Seq)
		d[4].uint8(uint8(t.State))
		d[5].nanos(t.At)
		d[6].uint32(t.Attempt)
		for j, text := range []string{t.Endpoint, t.Code, t.Message, t.RequestHash} {
			d[7+j].string(text)
		}
		d[11].int64(int64(t.Latency))
		d[12].string(t.Detail)
		d[13].string(t.Actor)
		d[14].uint64(version(max(t.At.UnixNano(), 0)))
		return errors.Join(d[0].dateTime(t.Booked.Start), d[1].dateTime(t.Booked.End))
	})
}

func dueStates() []reporter.State {
	return slices.DeleteFunc(reporter.States(), func(st reporter.State) bool { return !st.Due() })
}

// inStates is the condition of records, within the given range of the tables' common columns, whose last transition is
// to one of the states. Records without rows in bill_record_transitions stand at their first state.
func (s *Store) inStates(states []reporter.State, within clauses) string {
	list := stateList(states)
	moved := "SELECT booked_start, sn FROM bill_record_transitions" + whereText(within) + " GROUP BY booked_start, sn"
	return "((booked_start, sn) " + s.global + "IN (" + moved + " HAVING argMax(state, (seq, precedence)) IN (" + list + "))" +
		" OR (first_state IN (" + list + ") AND (booked_start, sn) " + s.global + "NOT IN (" + moved + ")))"
}

// addLast replaces the first transition by the last one where there are more; where limits the search, nil means by the
// records themselves.
func (s *Store) addLast(ctx context.Context, list []reporter.BillRecord, where clauses) error {
	if len(list) == 0 {
		return nil
	}
	type key struct {
		start int64
		sn    reporter.MeteringSN
	}
	places := make(map[key]*reporter.Transition, len(list))
	sns, literals := make([]reporter.MeteringSN, len(list)), make([]string, len(list))
	for i := range list {
		places[key{list[i].Booked.Start.Unix(), list[i].SN}] = &list[i].Last
		sns[i], literals[i] = list[i].SN, sqlTime(list[i].Booked.Start)
	}
	if where == nil {
		where = clauses{
			"booked_start IN (" + joinUnique(literals) + ")", "sn >= " + quote(string(slices.Min(sns))), "sn <= " + quote(string(slices.Max(sns))),
			"sn IN (" + quoteList(sns) + ")",
		}
	}
	return s.transitions(ctx, where, func(t reporter.Transition) {
		if last := places[key{t.Booked.Start.Unix(), t.SN}]; last != nil && t.Seq > last.Seq {
			*last = t
		}
	})
}

// transitions reads stored transitions in order of hour, SN and seq.
func (s *Store) transitions(ctx context.Context, where clauses, yield func(reporter.Transition)) error {
	query := "SELECT booked_start, booked_end, sn, seq, state, at, attempt, endpoint, code, message, request_hash, latency, detail, actor" +
		" FROM bill_record_transitions FINAL" + whereText(where) + " ORDER BY booked_start, sn, seq"
	err := s.each(ctx, query, func(rows driver.Rows) error {
		var t reporter.Transition
		var sn string
		var state uint8
		var at, latency int64
		err := rows.Scan(&t.Booked.Start, &t.Booked.End, &sn, &t.Seq, &state, &at, &t.Attempt, &t.Endpoint, &t.Code, &t.Message,
			&t.RequestHash, &latency, &t.Detail, &t.Actor)
		if err != nil {
			return err
		}
		t.SN, t.State, t.At, t.Latency = reporter.MeteringSN(sn), reporter.State(state), fromNanos(at), time.Duration(latency)
		t.Booked = utcWindow(t.Booked)
		yield(t)
		return nil
	})
	return wrap("read transitions", err)
}

// Transitions returns the whole life of one record that counts, by seq; none for an unknown SN.
func (s *Store) Transitions(ctx context.Context, sn reporter.MeteringSN) ([]reporter.Transition, error) {
	list, err := s.lifeOfRecord(ctx, sn)
	return list, wrap("read transitions of "+string(sn), err)
}

func (s *Store) lifeOfRecord(ctx context.Context, sn reporter.MeteringSN) ([]reporter.Transition, error) {
	hours, err := s.recordHours(ctx, []reporter.MeteringSN{sn})
	if err != nil || hours == "" {
		return nil, err
	}
	records, err := s.readRecords(ctx, clauses{
		"booked_start IN (" + hours + ")", "sn = " + quote(string(sn)), s.committed("window_start IN (" + hours + ")"),
	})
	if err != nil || len(records) == 0 {
		return nil, err
	}
	r := records[0]
	list := []reporter.Transition{r.Last}
	within := clauses{"booked_start = " + sqlTime(r.Booked.Start), "sn = " + quote(string(sn))}
	return list, s.transitions(ctx, within, func(t reporter.Transition) { list = append(list, t) })
}
