package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

var covers = newTable("covers", "booked_start", "DateTime('UTC')", "version", "UInt64", "hour", "DateTime('UTC')", "touch", "UInt64")

// WriteRows writes rows of a booking, under its version and hour. Writing the same rows again changes nothing. They don't
// count before [Store.Commit]. The error wraps [meter.ErrRefused] if repeating can't help.
func (s *Store) WriteRows(ctx context.Context, b reporter.Booking, rows reporter.Rows) error {
	if err := checkRowsOf(b, rows); err != nil {
		return fmt.Errorf("write rows of booking %d: %w: %w", b.Number, meter.ErrRefused, err)
	}
	for _, write := range []func(context.Context, reporter.Booking, reporter.Rows) error{
		s.writeUsage, s.writeRecords, s.writeAdjustments, s.writeBalances, s.writeCovers,
	} {
		err := write(ctx, b, rows)
		switch {
		case errors.Is(err, errQuantity), errors.Is(err, errTime):
			return fmt.Errorf("write rows of booking %d: %w: %w", b.Number, meter.ErrRefused, err)
		case err != nil:
			return fmt.Errorf("write rows of booking %d: %w", b.Number, classify(err))
		}
	}
	return nil
}

// checkRowsOf refuses rows that belong to another booking or could not be found again.
func checkRowsOf(b reporter.Booking, rows reporter.Rows) error {
	other := func(what, name string, version uint64, booked meter.Window) error {
		if version != 0 && version != b.Version || booked != (meter.Window{}) && booked != b.Window {
			return fmt.Errorf("%s %s is of version %d in %s, the booking of %d in %s", what, name, version, booked, b.Version, b.Window)
		}
		return nil
	}
	var errs []error
	for _, u := range rows.Usage {
		if u.Window.Start.After(b.Window.Start) {
			errs = append(errs, fmt.Errorf("usage of %s is of a later hour than its booking (%s)", u.Window, b.Window))
		}
		errs = append(errs, other("usage of", u.Subject, u.Version, meter.Window{}))
	}
	for _, r := range rows.Records {
		errs = append(errs, other("record", string(r.SN), r.Version, r.Booked), checkRecord(b, r))
	}
	for _, a := range rows.Adjustments {
		errs = append(errs, other("adjustment", string(a.ID), a.Version, a.Booked))
		if a.ID == "" || a.Into.String() == "" || a.Booking != 0 && a.Booking != b.Number {
			errs = append(errs, fmt.Errorf("adjustment %q: id, destination and the booking's number are required (got %d, %d)", a.ID, a.Into, a.Booking))
		}
	}
	for _, c := range rows.Covers {
		if c.Hour.Start.After(b.Window.Start) {
			errs = append(errs, fmt.Errorf("cover of %s is of a later hour than its booking (%s)", c.Hour, b.Window))
		}
	}
	return errors.Join(errs...)
}

func checkRecord(b reporter.Booking, r reporter.BillRecord) error {
	if r.SN == "" || r.Last.Seq != 1 || r.Last.State == 0 {
		return fmt.Errorf("record %q comes with transition %d to state %d instead of its first one", r.SN, r.Last.Seq, r.Last.State)
	}
	if r.Window.Start.Nanosecond() != 0 || r.Window.End.Nanosecond() != 0 {
		return fmt.Errorf("record %s: the edges of its window must be whole seconds (got %s)", r.SN, r.Window)
	}
	if !r.Window.Start.Before(b.Window.End) {
		return fmt.Errorf("record %s begins after its booking's hour (%s, %s)", r.SN, r.Window, b.Window)
	}
	return nil
}

func (s *Store) writeCovers(ctx context.Context, b reporter.Booking, rows reporter.Rows) error {
	return s.insertRows(ctx, covers, len(rows.Covers), func(i int, d []columnData) error {
		d[1].uint64(b.Version)
		d[3].uint64(rows.Covers[i].Touch)
		return errors.Join(d[0].dateTime(b.Window.Start), d[2].dateTime(rows.Covers[i].Hour.Start))
	})
}

// markedStates are those that few records reach and that people ask for without a period. bill_record_marks tells in which
// hours to look for them.
func markedStates() []reporter.State {
	return []reporter.State{
		reporter.StateFailed, reporter.StateRejected, reporter.StateExpired, reporter.StateHeld, reporter.StateWrittenOff,
		reporter.StateUnbillable, reporter.StateReplaced,
	}
}

var billRecordMarks = newTable("bill_record_marks", "state", "UInt8", "booked_start", "DateTime('UTC')")

// mark notes in which hours records enter marked states, before they do: a mark too many does no harm.
func (s *Store) mark(ctx context.Context, n int, entering func(i int) (reporter.State, time.Time)) error {
	type mark struct {
		state reporter.State
		hour  int64
	}
	var marks []mark
	marked := markedStates()
	seen := map[mark]bool{}
	for i := range n {
		state, hour := entering(i)
		if m := (mark{state, hour.Unix()}); slices.Contains(marked, state) && !seen[m] {
			seen[m] = true
			marks = append(marks, m)
		}
	}
	return s.insertRows(ctx, billRecordMarks, len(marks), func(i int, d []columnData) error {
		d[0].uint8(uint8(marks[i].state))
		return d[1].dateTime(time.Unix(marks[i].hour, 0))
	})
}

// markedHours lists the hours in which a record ever was in one of the states, as literals.
func (s *Store) markedHours(ctx context.Context, states []reporter.State) (map[int64]bool, error) {
	list, err := scalars[time.Time](ctx, s.conn, "SELECT DISTINCT booked_start FROM bill_record_marks WHERE state IN ("+stateList(states)+")")
	if err != nil {
		return nil, fmt.Errorf("read marks: %w", err)
	}
	hours := make(map[int64]bool, len(list))
	for _, at := range list {
		hours[at.Unix()] = true
	}
	return hours, nil
}

func stateList(states []reporter.State) string {
	list := make([]byte, 0, 4*len(states))
	for i, state := range states {
		if i > 0 {
			list = append(list, ", "...)
		}
		list = strconv.AppendUint(list, uint64(state), 10)
	}
	return string(list)
}
