package reportertest

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

// AccountSums implements [reporter.VerifyBooks].
func (b *Books) AccountSums(
	ctx context.Context, from, to time.Time, recount bool, meters []meter.Meter, yield func(reporter.AccountSum) error,
) error {
	var sums []reporter.AccountSum
	err := b.do(ctx, "AccountSums", func(bool) { sums = b.accountSums(from, to, recount, meters) })
	if err != nil {
		return err
	}
	for _, s := range sums {
		if err := yield(s); err != nil {
			return err
		}
	}
	return nil
}

// Sums is [Books.AccountSums] over everything, without faults.
func (b *Books) Sums(recount bool, meters []meter.Meter) []reporter.AccountSum {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.accountSums(time.Time{}, time.Time{}, recount, meters)
}

func (b *Books) accountSums(from, to time.Time, recount bool, meters []meter.Meter) []reporter.AccountSum {
	accounts := map[reporter.Account]*reporter.AccountSum{}
	of := func(subject, slug string) *reporter.AccountSum {
		a := reporter.Account{Subject: subject, Meter: slug}
		if accounts[a] == nil {
			accounts[a] = &reporter.AccountSum{Subject: subject, Meter: slug, Records: map[reporter.State]meter.Quantity{}}
		}
		return accounts[a]
	}
	closed := map[int64]bool{}
	for _, c := range b.log {
		if c.Kind == reporter.BookingClose && within(c.Window.Start, from, to) {
			closed[c.Window.Start.Unix()] = true
			if !recount {
				continue
			}
			for _, row := range b.aggregate(reporter.Scope{Hour: c.Window}, meters) {
				s := of(row.Subject, row.Meter)
				s.Stored = s.Stored.Add(row.Quantity)
			}
		}
	}
	for _, u := range b.latestUsage(from, to, len(b.log)) {
		if !recount || closed[u.Window.Start.Unix()] {
			s := of(u.Subject, u.Meter)
			s.Booked = s.Booked.Add(u.Quantity)
		}
	}
	if from.IsZero() && to.IsZero() {
		b.addPlaces(of)
	}
	all := make([]reporter.AccountSum, 0, len(accounts))
	for _, s := range accounts {
		all = append(all, *s)
	}
	slices.SortFunc(all, func(x, y reporter.AccountSum) int {
		return cmp.Or(cmp.Compare(x.Subject, y.Subject), cmp.Compare(x.Meter, y.Meter))
	})
	return all
}

// addPlaces adds where amounts are: in records, balances and adjustments.
func (b *Books) addPlaces(of func(subject, slug string) *reporter.AccountSum) {
	for _, r := range b.counted() {
		if _, replaced := b.replacedBy[r.SN]; !replaced {
			s := of(r.Subject, r.Meter)
			s.Records[r.Last.State] = s.Records[r.Last.State].Add(r.Billed.Mul(r.Scale))
		}
	}
	for _, row := range b.balances(len(b.log)) {
		of(row.Subject, row.Meter).Balance = row.Quantity
	}
	for _, a := range b.adjustments() {
		s := of(a.Subject, a.Meter)
		switch a.Into {
		case reporter.IntoHeld:
			s.Held = s.Held.Add(a.Quantity)
		case reporter.IntoWrittenOff:
			s.WrittenOff = s.WrittenOff.Add(a.Quantity)
		case reporter.IntoUnbillable:
			s.Unbillable = s.Unbillable.Add(a.Quantity)
		case reporter.IntoBalance, reporter.IntoRecord:
		}
	}
}

// CheckRows implements [reporter.VerifyBooks].
func (b *Books) CheckRows(ctx context.Context, limit int) (found []string, err error) {
	err = b.do(ctx, "CheckRows", func(bool) {
		found = b.checkRows()
		found = found[:min(limit, len(found))]
	})
	return found, err
}

func (b *Books) checkRows() (found []string) {
	say := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	closes := map[meter.Window]uint64{}
	live := map[string]reporter.MeteringSN{}
	for i, c := range b.log {
		if c.Number != uint64(i+1) {
			say("booking %d stands at place %d of the log", c.Number, i+1)
		}
		w := b.at(c.Version)
		if n := uint64(len(w.records)); n != c.Records {
			say("booking %d has %d records, %d were written", c.Number, n, c.Records)
		}
		if other, twice := closes[c.Window]; twice && c.Kind == reporter.BookingClose {
			say("window %s was closed by bookings %d and %d", c.Window, other, c.Number)
		}
		if c.Kind == reporter.BookingClose {
			closes[c.Window] = c.Number
		}
		for _, r := range b.recordsOf(c) {
			if !r.Usage.Add(r.CarriedIn).Equal(r.Billed.Mul(r.Scale).Add(r.CarriedOut)) {
				say("record %s: %s + %s is not %s × %s + %s", r.SN, r.Usage, r.CarriedIn, r.Billed, r.Scale, r.CarriedOut)
			}
			b.checkLife(r, say)
			if _, replaced := b.replacedBy[r.SN]; replaced || r.InstanceID == "" {
				continue
			}
			key := r.InstanceID + " " + r.Window.String()
			if other, twice := live[key]; twice {
				say("%s: records %s and %s", key, other, r.SN)
			}
			live[key] = r.SN
		}
	}
	return found
}

// checkLife says which transitions of a record are missing or forbidden.
func (b *Books) checkLife(r reporter.BillRecord, say func(format string, args ...any)) {
	state := reporter.State(0)
	for seq := uint32(1); seq <= r.Last.Seq; seq++ {
		t, ok := b.transitions[r.SN][seq]
		if seq == 1 {
			t, ok = b.at(r.Version).records[r.SN].Last, true
		}
		if !ok || !b.mayBecome(state, t.State) {
			say("record %s: row %d is missing or %q can't become %q", r.SN, seq, state, t.State)
		}
		state = t.State
	}
}

// CheckConservation works out from events and rows, account by account, whether the law of conservation holds, and returns
// what does not add up: Σ usage booked = Σ records + balance + held + written off + unbillable, for every billed meter,
// and in every closed hour without an uncovered touch the usage booked is that of the events.
func (b *Books) CheckConservation(meters []meter.Meter) (faults []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	billed := map[string]bool{}
	for _, m := range meters {
		billed[m.Slug] = m.Billed
	}
	for _, s := range b.accountSums(time.Time{}, time.Time{}, false, meters) {
		where := s.Balance.Add(s.Held).Add(s.WrittenOff).Add(s.Unbillable)
		for _, q := range s.Records {
			where = where.Add(q)
		}
		if billed[s.Meter] && !s.Booked.Equal(where) {
			faults = append(faults, fmt.Sprintf("%s/%s: usage %s, in the books %s", s.Subject, s.Meter, s.Booked, where))
		}
	}
	stale := map[meter.Window]bool{}
	for _, h := range b.staleHours(maxTime) {
		stale[h.Hour] = true
	}
	for _, c := range b.log {
		if c.Kind == reporter.BookingClose && !stale[c.Window] {
			faults = append(faults, b.compareHour(c.Window, meters)...)
		}
	}
	return append(faults, b.checkRows()...)
}

// maxTime is after every hour.
var maxTime = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)

// compareHour compares what was booked of an hour with its events.
func (b *Books) compareHour(hour meter.Window, meters []meter.Meter) (faults []string) {
	usage := map[reporter.Account]meter.Quantity{}
	for _, row := range b.aggregate(reporter.Scope{Hour: hour}, meters) {
		usage[reporter.Account{Subject: row.Subject, Meter: row.Meter}] = row.Quantity
	}
	for _, u := range b.latestUsage(hour.Start, hour.End, len(b.log)) {
		a := reporter.Account{Subject: u.Subject, Meter: u.Meter}
		usage[a] = usage[a].Sub(u.Quantity)
	}
	for a, rest := range usage {
		if !rest.IsZero() {
			faults = append(faults, fmt.Sprintf("%s in %s: the events say %s more than was booked", a, hour, rest))
		}
	}
	slices.Sort(faults)
	return faults
}
