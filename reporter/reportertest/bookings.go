package reportertest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

// errIncomplete is returned by Commit for a booking whose rows were not all written.
var errIncomplete = errors.New("rows of the booking are missing")

// WriteRows implements [reporter.WindowBooks].
func (b *Books) WriteRows(ctx context.Context, c reporter.Booking, rows reporter.Rows) error {
	return b.do(ctx, "WriteRows", func(half bool) {
		w := b.at(c.Version)
		if i := slices.IndexFunc(b.log, func(old reporter.Booking) bool { return old.Version == c.Version }); i >= 0 {
			before := w.clone()
			defer func() {
				if !w.equal(before) {
					b.violate("booking %d: rows were written after it was committed", b.log[i].Number)
				}
			}()
		}
		for _, u := range part(rows.Usage, half) {
			b.checkVersion("usage", c, u.Version)
			w.usage[usageKey{u.Window.Start.Unix(), u.Subject, u.Meter}] = u
		}
		for _, r := range part(rows.Records, half) {
			b.checkVersion("record", c, r.Version)
			b.checkRecord(r, w)
			w.records[r.SN] = r
		}
		for _, a := range part(rows.Adjustments, half) {
			b.checkVersion("adjustment", c, a.Version)
			w.adjustments[a.ID] = a
		}
		for _, row := range part(rows.Balances, half) {
			w.balances[reporter.Account{Subject: row.Subject, Meter: row.Meter}] = row
		}
		for _, cover := range part(rows.Covers, half) {
			w.covers[coverKey{cover.Hour.Start.Unix(), cover.Touch}] = cover
		}
	})
}

func (b *Books) checkVersion(what string, c reporter.Booking, version uint64) {
	if version != c.Version {
		b.violate("booking of version %d: a %s has version %d", c.Version, what, version)
	}
}

func (w *written) clone() *written {
	return &written{
		usage: maps.Clone(w.usage), records: maps.Clone(w.records), adjustments: maps.Clone(w.adjustments),
		balances: maps.Clone(w.balances), covers: maps.Clone(w.covers),
	}
}

// equal reports whether both hold the same rows; amounts are compared by their text.
func (w *written) equal(other *written) bool {
	return fmt.Sprint(w.usage, w.records, w.adjustments, w.balances, w.covers) ==
		fmt.Sprint(other.usage, other.records, other.adjustments, other.balances, other.covers)
}

// checkRecord checks what must be true of every record, whether its booking will count or not.
func (b *Books) checkRecord(r reporter.BillRecord, w *written) {
	if r.SN != r.Identity().SN() {
		b.violate("record %s: its number is not that of its identity", r.SN)
	}
	if !r.Usage.Add(r.CarriedIn).Equal(r.Billed.Mul(r.Scale).Add(r.CarriedOut)) {
		b.violate("record %s: %s + %s is not %s × %s + %s", r.SN, r.Usage, r.CarriedIn, r.Billed, r.Scale, r.CarriedOut)
	}
	if r.Billed.Sign() < 0 {
		b.violate("record %s: bills %s", r.SN, r.Billed)
	}
	if r.Last.SN != r.SN || r.Last.Seq != 1 || !reporter.State(0).CanBecome(r.Last.State) {
		b.violate("record %s: begins as %q of %q with seq %d", r.SN, r.Last.State, r.Last.SN, r.Last.Seq)
	}
	if r.Billed.IsZero() && r.Last.State.Due() {
		b.violate("record %s: begins as %s and bills nothing", r.SN, r.Last.State)
	}
	if !r.Window.Start.Before(r.Window.End) {
		b.violate("record %s: its window %s is empty", r.SN, r.Window)
	}
	if old, again := w.records[r.SN]; again && (old.Subject != r.Subject || old.Meter != r.Meter) {
		b.violate("record %s: written for %s/%s and for %s/%s", r.SN, old.Subject, old.Meter, r.Subject, r.Meter)
	}
}

// Commit implements [reporter.WindowBooks].
func (b *Books) Commit(ctx context.Context, c reporter.Booking) error {
	var refused error
	err := b.do(ctx, "Commit", func(half bool) {
		if !half {
			refused = b.commit(c)
		}
	})
	return cmp.Or(err, refused)
}

func (b *Books) commit(c reporter.Booking) error {
	n := uint64(len(b.log))
	if c.Number >= 1 && c.Number <= n {
		if b.log[c.Number-1].Version == c.Version {
			return nil
		}
		return fmt.Errorf("booking %d: %w", c.Number, reporter.ErrBookingTaken)
	}
	if c.Number != n+1 {
		b.violate("booking %d: taken while the last one is %d", c.Number, n)
		return fmt.Errorf("booking %d: the last one is %d", c.Number, n)
	}
	w := b.at(c.Version)
	want := [5]uint64{c.Usages, c.Records, c.Adjustments, c.Balances, c.Covers}
	have := [5]uint64{
		uint64(len(w.usage)), uint64(len(w.records)), uint64(len(w.adjustments)), uint64(len(w.balances)), uint64(len(w.covers)),
	}
	if have != want {
		b.violate("booking %d: names %v usages, records, adjustments, balances and covers, the books hold %v", c.Number, want, have)
		return fmt.Errorf("booking %d: %w: %v of %v", c.Number, errIncomplete, have, want)
	}
	b.checkBooking(c, w)
	c.SettledAt = b.settled[c.Number]
	b.log = append(b.log, c)
	maps.Copy(b.balance, w.balances)
	b.adjusted = append(b.adjusted, slices.SortedFunc(maps.Values(w.adjustments), byBooking)...)
	for key := range w.covers {
		b.coveredBy[key] = c.Number
	}
	for sn, r := range w.records {
		b.bookedIn[sn] = c.Version
		if r.Replaces != "" {
			b.replacedBy[r.Replaces] = sn
		}
		b.live[windowKey(r)] = sn
	}
	return nil
}

// checkBooking checks a booking against the books as they are before it.
func (b *Books) checkBooking(c reporter.Booking, w *written) {
	if c.Kind.String() == "" || c.At.IsZero() || c.Window.IsZero() {
		b.violate("booking %d: its kind %d, time %s or window %s is missing", c.Number, c.Kind, c.At, c.Window)
	}
	for _, old := range b.log {
		if old.Version >= c.Version {
			b.violate("booking %d: its version %d is not above %d of booking %d", c.Number, c.Version, old.Version, old.Number)
		}
		if c.Kind == reporter.BookingClose && old.Kind == reporter.BookingClose && old.Window == c.Window {
			b.violate("window %s: closed twice, by bookings %d and %d", c.Window, old.Number, c.Number)
		}
	}
	for _, u := range w.usage {
		if hour := meter.HourOf(u.Window.Start); u.Window != hour {
			b.violate("booking %d: usage of %s, which is not an hour", c.Number, u.Window)
		}
	}
	for key, cover := range w.covers {
		if !slices.ContainsFunc(b.touches, func(t touch) bool { return t.id == key.touch && t.hour == cover.Hour }) {
			b.violate("booking %d: covers touch %d of %s, which there is not", c.Number, key.touch, cover.Hour)
		}
	}
	b.checkRecordsOf(c, w)
	b.checkAdjustmentsOf(c, w)
	b.checkAmounts(c, w)
}

// windowKey is what only one record may be of.
func windowKey(r reporter.BillRecord) string { return r.InstanceID + " " + r.Window.String() }

func (b *Books) checkRecordsOf(c reporter.Booking, w *written) {
	replaced := map[reporter.MeteringSN]bool{}
	for _, r := range w.records {
		replaced[r.Replaces] = true
	}
	fresh := map[string]reporter.MeteringSN{}
	for _, r := range w.records {
		other, twice := b.live[windowKey(r)]
		if again, ok := fresh[windowKey(r)]; ok {
			other, twice = again, true
		}
		if r.InstanceID != "" && twice && !replaced[other] {
			b.violate("booking %d: %s has two records that are not replaced, %s and %s", c.Number, windowKey(r), other, r.SN)
		}
		fresh[windowKey(r)] = r.SN
	}
	for _, r := range w.records {
		if r.Booked != c.Window || r.Last.Booked != c.Window {
			b.violate("record %s: is kept under %s and %s, its booking %d under %s", r.SN, r.Booked, r.Last.Booked, c.Number, c.Window)
		}
		if version, taken := b.bookedIn[r.SN]; taken {
			b.violate("record %s: booked under version %d and again by booking %d", r.SN, version, c.Number)
		}
		if r.Replaces == "" {
			continue
		}
		old, ok := b.find(r.Replaces)
		mapped := ok && old.InstanceID == "" && r.InstanceID != "" // it was held because nobody knew the instance
		same := ok && old.InstanceID == r.InstanceID && r.Revision == old.Revision+1
		if !mapped && !same || !old.Billed.Equal(r.Billed) || old.Subject != r.Subject || old.Meter != r.Meter || old.Window != r.Window {
			b.violate("record %s: replaces %s, which is unknown or something else", r.SN, r.Replaces)
		}
		if again, twice := b.replacedBy[r.Replaces]; twice {
			b.violate("record %s: replaces %s, which %s replaced already", r.SN, r.Replaces, again)
		}
	}
}

func (b *Books) checkAdjustmentsOf(c reporter.Booking, w *written) {
	if len(w.adjustments) == 0 {
		return
	}
	open := map[reporter.AdjustmentID]reporter.HeldUsage{}
	for _, h := range b.heldUsage() {
		open[h.ID] = h
	}
	known := map[reporter.AdjustmentID]bool{}
	for _, a := range b.adjustments() {
		known[a.ID] = true
	}
	for _, a := range w.adjustments {
		switch {
		case len(a.ID) != 32 || known[a.ID]:
			b.violate("adjustment %q of booking %d: its ID is used already or not of 32 digits", a.ID, c.Number)
		case a.Booking != c.Number || a.Booked != c.Window:
			b.violate("adjustment %s: says booking %d of %s, is of booking %d of %s", a.ID, a.Booking, a.Booked, c.Number, c.Window)
		case a.Into.String() == "" || a.Quantity.IsZero() || a.Hour.IsZero() || a.At.IsZero():
			b.violate("adjustment %s: destination, quantity, hour or time is missing", a.ID)
		case a.Into == reporter.IntoRecord && w.records[a.Record].SN == "":
			b.violate("adjustment %s: record %q is not of the same booking", a.ID, a.Record)
		case a.Of != "" && c.Kind == reporter.BookingDecision && open[a.Of].ID == "":
			b.violate("adjustment %s: %s is not held", a.ID, a.Of)
		case a.Of == "" && (a.Into == reporter.IntoWrittenOff || a.Into == reporter.IntoUnbillable || a.Into == reporter.IntoHeld) && a.Reason == "":
			b.violate("adjustment %s: %s without a reason", a.ID, a.Into)
		}
	}
}

// checkAmounts checks that what a booking books went somewhere, for every account that it names: what it found in the balance
// and the differences of usage are what it billed, put elsewhere and left in the balance.
func (b *Books) checkAmounts(c reporter.Booking, w *written) {
	type sums struct{ found, gone meter.Quantity }
	accounts := map[reporter.Account]*sums{}
	of := func(subject, slug string) *sums {
		a := reporter.Account{Subject: subject, Meter: slug}
		if accounts[a] == nil {
			accounts[a] = &sums{}
		}
		return accounts[a]
	}
	before := b.balances(len(b.log))
	for _, row := range before {
		of(row.Subject, row.Meter).found = row.Quantity
	}
	billed := map[string]bool{}
	for a := range w.balances {
		billed[a.Meter] = true
	}
	for a, row := range before {
		billed[a.Meter] = true
		if _, changed := w.balances[a]; !changed {
			s := of(a.Subject, a.Meter)
			s.gone = s.gone.Add(row.Quantity)
		}
	}
	for a, row := range w.balances {
		s := of(a.Subject, a.Meter)
		s.gone = s.gone.Add(row.Quantity)
	}
	for _, r := range w.records {
		billed[r.Meter] = true
		if r.Replaces == "" {
			s := of(r.Subject, r.Meter)
			s.gone = s.gone.Add(r.Billed.Mul(r.Scale))
		}
	}
	for _, a := range w.adjustments {
		billed[a.Meter] = true
		if a.Into == reporter.IntoHeld || a.Into == reporter.IntoWrittenOff || a.Into == reporter.IntoUnbillable {
			s := of(a.Subject, a.Meter)
			s.gone = s.gone.Add(a.Quantity)
		}
	}
	booked := b.usageBefore(w)
	for key, u := range w.usage {
		s := of(u.Subject, u.Meter)
		s.found = s.found.Add(u.Quantity).Sub(booked[key])
	}
	for a, s := range accounts {
		// A meter that never had a balance, a record or an adjustment is not billed.
		if billed[a.Meter] && !s.found.Equal(s.gone) {
			b.violate("booking %d: %s of %s: %s came in and %s went out", c.Number, c.Kind, a, s.found, s.gone)
		}
	}
	b.checkChain(w, before)
}

// usageBefore returns what was booked before for the keys of the rows.
func (b *Books) usageBefore(w *written) map[usageKey]meter.Quantity {
	booked := map[usageKey]meter.Quantity{}
	for _, c := range b.log {
		for key, u := range b.at(c.Version).usage {
			if _, again := w.usage[key]; again {
				booked[key] = u.Quantity
			}
		}
	}
	return booked
}

// checkChain checks that an account's only record in a booking carries in what was in the balance (with what the booking
// found in other hours), and out what is in it afterwards, unless adjustments of the booking came between.
func (b *Books) checkChain(w *written, before map[reporter.Account]reporter.Balance) {
	found := map[reporter.Account]meter.Quantity{}
	booked := b.usageBefore(w)
	for key, u := range w.usage {
		a := reporter.Account{Subject: u.Subject, Meter: u.Meter}
		found[a] = found[a].Add(u.Quantity).Sub(booked[key])
	}
	others := map[reporter.Account]int{}
	for _, a := range w.adjustments {
		others[reporter.Account{Subject: a.Subject, Meter: a.Meter}]++
	}
	for _, r := range w.records {
		others[reporter.Account{Subject: r.Subject, Meter: r.Meter}]++
	}
	for _, r := range w.records {
		a := reporter.Account{Subject: r.Subject, Meter: r.Meter}
		if r.Replaces != "" || others[a] != 1 {
			continue
		}
		if carried := before[a].Quantity.Add(found[a]).Sub(r.Usage); !r.CarriedIn.Equal(carried) {
			b.violate("record %s: carries in %s, the balance of %s is %s", r.SN, r.CarriedIn, a, carried)
		}
		after, changed := w.balances[a]
		if !changed {
			after = before[a]
		}
		if !after.Quantity.Equal(r.CarriedOut) {
			b.violate("record %s: carries out %s, the balance of %s becomes %s", r.SN, r.CarriedOut, a, after.Quantity)
		}
	}
}
