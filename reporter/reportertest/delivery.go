package reportertest

import (
	"context"
	"errors"
	"slices"

	"github.com/meterd/meterd/reporter"
)

var errNoBooking = errors.New("no such booking")

// UnsettledBookings implements [reporter.DeliveryBooks].
func (b *Books) UnsettledBookings(ctx context.Context) (open []reporter.Booking, err error) {
	err = b.do(ctx, "UnsettledBookings", func(bool) {
		for i, c := range b.log {
			if c.Records > 0 && b.settled[c.Number].IsZero() {
				open = append(open, b.booking(i))
			}
		}
	})
	return open, err
}

// DueRecords implements [reporter.DeliveryBooks].
func (b *Books) DueRecords(ctx context.Context, c reporter.Booking, after reporter.MeteringSN, limit int) (due []reporter.BillRecord, err error) {
	err = b.do(ctx, "DueRecords", func(bool) {
		if _, ok := b.committed(c); !ok {
			return
		}
		for _, r := range b.recordsWhere(c, reporter.State.Due) {
			if r.SN > after {
				due = append(due, r)
			}
		}
		due = due[:min(limit, len(due))]
	})
	return due, err
}

// CountDue implements [reporter.DueCounter].
func (b *Books) CountDue(ctx context.Context) (n uint64, err error) {
	err = b.do(ctx, "CountDue", func(bool) {
		for sn, version := range b.bookedIn {
			if b.last(b.at(version).records[sn]).State.Due() {
				n++
			}
		}
	})
	return n, err
}

// AppendTransitions implements [reporter.DeliveryBooks].
func (b *Books) AppendTransitions(ctx context.Context, ts []reporter.Transition) error {
	return b.do(ctx, "AppendTransitions", func(half bool) {
		for _, t := range part(ts, half) {
			b.appendTransition(t)
		}
	})
}

func (b *Books) appendTransition(t reporter.Transition) {
	r, ok := b.find(t.SN)
	if !ok {
		b.violate("record %s: a transition to %s without a record of a committed booking", t.SN, t.State)
		return
	}
	if t.Booked != r.Booked {
		b.violate("record %s: a transition says that it is kept under %s, not %s", t.SN, t.Booked, r.Booked)
	}
	life := b.transitions[t.SN]
	if life == nil {
		life = map[uint32]reporter.Transition{}
		b.transitions[t.SN] = life
	}
	before, ok := life[t.Seq-1]
	if t.Seq == 2 {
		before, ok = b.at(r.Version).records[t.SN].Last, true
	}
	switch {
	case !ok:
		b.violate("record %s: row %d without row %d", t.SN, t.Seq, t.Seq-1)
	case !b.mayBecome(before.State, t.State):
		b.violate("record %s: %s can't become %s", t.SN, before.State, t.State)
	}
	if old, again := life[t.Seq]; again {
		if old.State != t.State && !b.races {
			b.violate("record %s: row %d was %s and is written as %s", t.SN, t.Seq, old.State, t.State)
		}
		if !t.At.Before(old.At) {
			return // of two rows the earlier one stays
		}
	}
	life[t.Seq] = t
	if t.Seq >= b.latest[t.SN].Seq {
		b.latest[t.SN] = t
	}
	if b.latest[t.SN].State.Due() {
		b.unsettle(r.Version)
	}
}

// unsettle makes the booking of the version one with due records.
func (b *Books) unsettle(version uint64) {
	for _, c := range b.log {
		if c.Version == version {
			delete(b.settled, c.Number)
		}
	}
}

// mayBecome is the table of transitions. Of two processes that deliver at once, one may send again what the other has
// brought to an end: the same bytes under the same number.
func (b *Books) mayBecome(before, after reporter.State) bool {
	if before.CanBecome(after) || !b.races {
		return before.CanBecome(after)
	}
	ended := before == reporter.StateAccepted || before == reporter.StateShadowed || before == reporter.StateRejected
	return before.Due() || ended && (after == reporter.StateSending || after == reporter.StateUnknown)
}

// SettleBooking implements [reporter.DeliveryBooks].
func (b *Books) SettleBooking(ctx context.Context, c reporter.Booking) error {
	var refused error
	err := b.do(ctx, "SettleBooking", func(half bool) {
		if half {
			return
		}
		if _, ok := b.committed(c); !ok {
			b.violate("booking %d of version %d: settled and not committed", c.Number, c.Version)
			refused = errNoBooking
			return
		}
		if c.SettledAt.IsZero() {
			b.violate("booking %d: settled at no time", c.Number)
		}
		if due := b.recordsWhere(c, reporter.State.Due); len(due) > 0 { // since a moment ago: the booking stays unsettled
			if !b.races {
				b.violate("booking %d: settled although record %s is %s", c.Number, due[0].SN, due[0].Last.State)
			}
			return
		}
		b.settled[c.Number] = c.SettledAt
	})
	return errors.Join(err, refused)
}

// committed finds the committed booking of number and version.
func (b *Books) committed(c reporter.Booking) (reporter.Booking, bool) {
	i := slices.IndexFunc(b.log, func(old reporter.Booking) bool { return old.Number == c.Number && old.Version == c.Version })
	if i < 0 {
		return reporter.Booking{}, false
	}
	return b.booking(i), true
}
