package reporter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/meterd/meterd/meter"
)

// ErrUnknownRecord is returned by [Explain] for a number that no committed booking made.
var ErrUnknownRecord = errors.New("no such bill record")

// maxExplained bounds how many adjustments one explanation lists.
const maxExplained = 10_000

// ExplainBooks is the part of the ledger that [Explain] needs. The store and reportertest implement it (explainbooks.go
// there). Everything is of committed bookings only.
type ExplainBooks interface {
	RecordsBySN(ctx context.Context, sns []MeteringSN) ([]BillRecord, error)
	Transitions(ctx context.Context, sn MeteringSN) ([]Transition, error)
	Adjustments(ctx context.Context, f AdjustmentFilter) ([]Adjustment, error)
	// BookingByVersion returns the booking whose rows have the version; ok is false when there is none.
	BookingByVersion(ctx context.Context, version uint64) (b Booking, ok bool, err error)
	// RecordBefore returns, with its last transition, the last record of r's account before r, in order of version, then
	// start of the window, then SN; ok is false when r is the first. Records that replace another are passed over: they
	// repeat its amounts.
	RecordBefore(ctx context.Context, r BillRecord) (before BillRecord, ok bool, err error)
	// ReplacedBy returns the record that reports sn again; ok is false when there is none.
	ReplacedBy(ctx context.Context, sn MeteringSN) (r BillRecord, ok bool, err error)
	// UsageHistory returns every row of hourly usage of one account with window start in [from, to), replaced ones
	// included, by window, then version. A zero from means from the beginning.
	UsageHistory(ctx context.Context, a Account, from, to time.Time) ([]HourlyUsage, error)
}

// CarriedLine is an amount that went into, or out of, an account's balance between two of its records.
type CarriedLine struct {
	Hour     meter.Window // the true hour of the usage
	Version  uint64       // of the booking that did it
	Quantity meter.Quantity
	// Adjustment is nil for an hour that was booked without a record, as hours of a daily cycle are.
	Adjustment *Adjustment
}

// Explain tells everything that led to a record: the hourly usage behind it, what was carried in and from where, every
// attempt to deliver it, and which record it replaces or is replaced by. The error wraps [ErrUnknownRecord] when there
// is no such record.
func Explain(ctx context.Context, books ExplainBooks, sn MeteringSN) (Explanation, error) {
	recs, err := books.RecordsBySN(ctx, []MeteringSN{sn})
	if err != nil {
		return Explanation{}, fmt.Errorf("read record %s: %w", sn, err)
	}
	if len(recs) == 0 {
		return Explanation{}, fmt.Errorf("%w: %s", ErrUnknownRecord, sn)
	}
	x := explainer{books: books, e: Explanation{Record: recs[0]}}
	for _, step := range []func(context.Context) error{x.life, x.booking, x.adjustments, x.usage} {
		if err := step(ctx); err != nil {
			return Explanation{}, fmt.Errorf("explain record %s: %w", sn, err)
		}
	}
	x.carried()
	return x.e, nil
}

// explainer collects an [Explanation].
type explainer struct {
	books ExplainBooks
	e     Explanation
	// origin is the record whose booking computed the amounts: the first in the chain of records that replace each other.
	origin  BillRecord
	history []HourlyUsage // of the account, by window, then version
}

// life reads what became of the record, and which one it began as.
func (x *explainer) life(ctx context.Context) (err error) {
	if x.e.Transitions, err = x.books.Transitions(ctx, x.e.Record.SN); err != nil {
		return fmt.Errorf("read transitions: %w", err)
	}
	next, ok, err := x.books.ReplacedBy(ctx, x.e.Record.SN)
	if err != nil {
		return fmt.Errorf("look for a record that replaces it: %w", err)
	}
	if ok {
		x.e.ReplacedBy = &next
	}
	x.origin = x.e.Record
	for x.origin.Replaces != "" {
		old, err := x.books.RecordsBySN(ctx, []MeteringSN{x.origin.Replaces})
		if err != nil {
			return fmt.Errorf("read record %s, which it replaces: %w", x.origin.Replaces, err)
		}
		if len(old) != 1 || old[0].Version >= x.origin.Version {
			return fmt.Errorf("record %s, which it replaces, is missing or younger; run meterd verify", x.origin.Replaces)
		}
		if x.e.Replaces == nil {
			x.e.Replaces = &old[0]
		}
		x.origin = old[0]
	}
	return nil
}

// booking reads the booking that made the record, and the account's record before.
func (x *explainer) booking(ctx context.Context) error {
	b, ok, err := x.books.BookingByVersion(ctx, x.e.Record.Version)
	if err != nil {
		return fmt.Errorf("read its booking: %w", err)
	}
	if !ok {
		return fmt.Errorf("its booking (version %d) is missing; run meterd verify", x.e.Record.Version)
	}
	x.e.Booking = b
	before, ok, err := x.books.RecordBefore(ctx, x.origin)
	if err != nil {
		return fmt.Errorf("read the account's record before: %w", err)
	}
	if ok {
		x.e.Before = &before
	}
	return nil
}

// adjustments reads those made since the record before.
func (x *explainer) adjustments(ctx context.Context) error {
	f := AdjustmentFilter{Subject: x.origin.Subject, Meter: x.origin.Meter, FromBooking: 1, Limit: maxExplained}
	b, ok, err := x.books.BookingByVersion(ctx, x.origin.Version)
	if err != nil {
		return fmt.Errorf("read the booking of its amounts: %w", err)
	}
	if ok {
		f.ToBooking = b.Number
	}
	if x.e.Before != nil {
		b, ok, err := x.books.BookingByVersion(ctx, x.e.Before.Version)
		if err != nil {
			return fmt.Errorf("read the booking of the record before: %w", err)
		}
		if ok {
			f.FromBooking = min(b.Number, f.ToBooking)
		}
	}
	if x.e.Adjustments, err = x.books.Adjustments(ctx, f); err != nil {
		return fmt.Errorf("read adjustments: %w", err)
	}
	return nil
}

// usage reads the history of the hours behind the record: those of its window, those since the record before, and the true
// hours of late usage.
func (x *explainer) usage(ctx context.Context) error {
	r := &x.origin
	from, to := meter.HourOf(r.Window.Start).Start, r.Window.End
	if r.Booked.End.After(to) {
		to = r.Booked.End
	}
	switch before := x.e.Before; {
	case before != nil && before.Booked.End.Before(from):
		from = before.Booked.End
	case before == nil && !r.CarriedIn.IsZero():
		from = time.Time{} // hours with too little for a record, however long ago
	}
	if err := x.readHistory(ctx, from, to); err != nil {
		return err
	}
	done := map[time.Time]bool{}
	for _, a := range x.e.Adjustments {
		start := a.Hour.Start.UTC()
		if done[start] || !start.Before(from) && start.Before(to) {
			continue
		}
		done[start] = true
		if err := x.readHistory(ctx, start, a.Hour.End); err != nil {
			return err
		}
	}
	slices.SortStableFunc(x.history, func(a, b HourlyUsage) int { return a.Window.Start.Compare(b.Window.Start) })
	x.e.Usage = x.explainedUsage()
	return nil
}

func (x *explainer) readHistory(ctx context.Context, from, to time.Time) error {
	rows, err := x.books.UsageHistory(ctx, Account{Subject: x.origin.Subject, Meter: x.origin.Meter}, from, to)
	if err != nil {
		return fmt.Errorf("read hourly usage: %w", err)
	}
	x.history = append(x.history, rows...)
	return nil
}

// explainedUsage lists the hours that the record's booking counted, and those of its window.
func (x *explainer) explainedUsage() []ExplainedUsage {
	r := &x.origin
	var list []ExplainedUsage
	for rows := range x.hours() {
		u := ExplainedUsage{Hour: rows[0].Window, Latest: rows[len(rows)-1]}
		own := false
		for _, row := range rows {
			if row.Version <= r.Version {
				u.Then = row
			}
			own = own || row.Version == r.Version
		}
		within := u.Hour.End.After(r.Window.Start) && u.Hour.Start.Before(r.Window.End)
		if own || within && u.Then.Version != 0 {
			list = append(list, u)
		}
	}
	return list
}

// hours yields the rows of each hour of the history.
func (x *explainer) hours() func(yield func([]HourlyUsage) bool) {
	return func(yield func([]HourlyUsage) bool) {
		for rest := x.history; len(rest) > 0; {
			n := 1
			for n < len(rest) && rest[n].Window.Start.Equal(rest[0].Window.Start) {
				n++
			}
			if !yield(rest[:n]) {
				return
			}
			rest = rest[n:]
		}
	}
}

// carried lists what went into the balance, and out of it, after the record before and before the record's own booking. What
// a booking does to the balance of an account is, by the law of conservation, its usage less what it put anywhere else.
func (x *explainer) carried() {
	x.e.Unexplained = x.origin.CarriedIn
	if x.e.Before != nil {
		x.e.Unexplained = x.e.Unexplained.Sub(x.e.Before.CarriedOut)
	}
	counted := x.countedBetween()
	for i := range x.e.Adjustments {
		a := &x.e.Adjustments[i]
		if x.swept(a) {
			x.carry(a.Hour, a.Version, meter.Quantity{}.Sub(a.Quantity), a)
			continue
		}
		if !x.between(a.Version, a.Hour) {
			continue
		}
		at := place{a.Version, a.Hour.Start.UTC()}
		rest, fromHour := counted[at]
		if fromHour {
			counted[at] = rest.Sub(a.Quantity)
		}
		switch {
		case a.Into == IntoBalance:
			x.carry(a.Hour, a.Version, a.Quantity, a)
		case a.Of == "" && !fromHour: // out of the balance, as the rest at a release is
			x.carry(a.Hour, a.Version, meter.Quantity{}.Sub(a.Quantity), a)
		}
	}
	for at, rest := range counted {
		if !rest.IsZero() {
			x.carry(meter.HourOf(at.hour), at.version, rest, nil)
		}
	}
	slices.SortStableFunc(x.e.Carried, func(a, b CarriedLine) int {
		return cmp.Or(cmp.Compare(a.Version, b.Version), a.Hour.Start.Compare(b.Hour.Start))
	})
}

// place is an hour as one booking counted it.
type place struct {
	version uint64
	hour    time.Time
}

// between reports whether what a booking did to an hour of the account went into the balance that the record carried in: the
// booking came after that of the record before and before that of the record, or it is the same booking and the hour came
// first, as when an instance with a daily cycle is released.
func (x *explainer) between(version uint64, hour meter.Window) bool {
	before, r := x.e.Before, &x.origin
	if version == r.Version {
		return hour.End.Before(r.Window.End) && (before == nil || before.Version < version || !hour.Start.Before(before.Window.End))
	}
	return version < r.Version && (before == nil || version > before.Version)
}

// swept reports whether the adjustment took away what the record before carried out, in the same booking: at the release of the
// instance.
func (x *explainer) swept(a *Adjustment) bool {
	before := x.e.Before
	return before != nil && a.Version == before.Version && a.Version < x.origin.Version && a.Into == IntoUnbillable && a.Of == "" &&
		a.Record == "" && a.Quantity.Equal(before.CarriedOut)
}

// countedBetween is by how much each booking in between changed the usage of each hour.
func (x *explainer) countedBetween() map[place]meter.Quantity {
	counted := map[place]meter.Quantity{}
	for rows := range x.hours() {
		var before meter.Quantity
		for _, row := range rows {
			if x.between(row.Version, row.Window) {
				counted[place{row.Version, row.Window.Start.UTC()}] = row.Quantity.Sub(before)
			}
			before = row.Quantity
		}
	}
	return counted
}

func (x *explainer) carry(hour meter.Window, version uint64, q meter.Quantity, a *Adjustment) {
	x.e.Carried = append(x.e.Carried, CarriedLine{Hour: hour, Version: version, Quantity: q, Adjustment: a})
	x.e.Unexplained = x.e.Unexplained.Sub(q)
}

// Formula is the record's arithmetic in one line: "usage 12.5 + carried in 0.3 = 12 × 1 + carried out 0.8".
func (r BillRecord) Formula() string {
	var b strings.Builder
	fmt.Fprintf(&b, "usage %s", r.Usage)
	signed(&b, "carried in", r.CarriedIn)
	fmt.Fprintf(&b, " = %s × %s", r.Billed, r.Scale)
	signed(&b, "carried out", r.CarriedOut)
	return b.String()
}

func signed(b *strings.Builder, name string, q meter.Quantity) {
	sign := "+"
	if q.Sign() < 0 {
		sign, q = "−", meter.Quantity{}.Sub(q)
	}
	fmt.Fprintf(b, " %s %s %s", sign, name, q)
}
