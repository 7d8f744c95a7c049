package simulation_test

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
	"github.com/meterd/meterd/reporter/reportertest"
)

// oracle works out what must be true from what was sent to the collectors and from the rows of each booking as it is
// committed. It shares no code with the reporter, the store or the reference books.
type oracle struct {
	meters map[string]meter.Meter
	events map[eventName][]sentEvent
	voids  map[eventName]bool

	seen    int                                // bookings added so far
	usage   map[usageName]meter.Quantity       // as last booked
	places  map[reporter.Account]*place        // where amounts are
	records map[reporter.MeteringSN]bookedBill // of committed bookings
	windows map[string]reporter.MeteringSN     // instance and window to the live record
	closed  time.Time                          // end of the last closed hour
	touched map[reporter.Account]bool          // since the last check
}

type eventName struct {
	hour                int64
	subject, source, id string
}

type usageName struct {
	hour           int64
	subject, meter string
}

type sentEvent struct {
	at, received time.Time
	stamped      bool
	values       map[string]meter.Quantity
	texts        map[string]string
}

// place is where the amounts of an account are.
type place struct {
	booked, balance, records, held, writtenOff, unbillable meter.Quantity
}

func (p *place) sum() meter.Quantity {
	return p.balance.Add(p.records).Add(p.held).Add(p.writtenOff).Add(p.unbillable)
}

type bookedBill struct {
	reporter.BillRecord

	booking  reporter.Booking
	replaced bool
}

func newOracle(meters []meter.Meter) *oracle {
	o := &oracle{
		meters: map[string]meter.Meter{}, events: map[eventName][]sentEvent{}, voids: map[eventName]bool{},
		usage: map[usageName]meter.Quantity{}, places: map[reporter.Account]*place{},
		records: map[reporter.MeteringSN]bookedBill{}, windows: map[string]reporter.MeteringSN{},
		touched: map[reporter.Account]bool{},
	}
	for _, m := range meters {
		o.meters[m.Slug] = m
	}
	return o
}

func nameOf(e reportertest.Event) eventName {
	return eventName{e.Time.UTC().Truncate(time.Hour).Unix(), e.Subject, e.Source, e.ID}
}

// accepted notes an event that a collector has acknowledged.
func (o *oracle) accepted(e reportertest.Event) {
	name := nameOf(e)
	o.events[name] = append(o.events[name], sentEvent{e.Time, e.Received, e.Stamped, e.Values, e.Texts})
}

func (o *oracle) void(e reportertest.Event) { o.voids[nameOf(e)] = true }

// expected is the usage by hour and account that all accepted events make.
func (o *oracle) expected() map[usageName]meter.Quantity {
	type total struct {
		q      meter.Quantity
		n      int
		texts  map[string]bool
		latest sentEvent
	}
	totals := map[usageName]*total{}
	for name, sent := range o.events {
		first := slices.MinFunc(sent, func(x, y sentEvent) int { return x.received.Compare(y.received) })
		if o.voids[name] || first.stamped && o.cameBefore(name) {
			continue
		}
		for slug, m := range o.meters {
			v, isNumber := first.values[slug]
			text, isText := first.texts[slug]
			if !isNumber && !isText {
				continue
			}
			key := usageName{name.hour, name.subject, slug}
			t := totals[key]
			if t == nil {
				t = &total{texts: map[string]bool{}}
				totals[key] = t
			}
			t.n++
			t.texts[text] = true
			newer := first.at.After(t.latest.at) || first.at.Equal(t.latest.at) && first.received.After(t.latest.received)
			switch {
			case m.Aggregation == meter.Sum:
				t.q = t.q.Add(v)
			case m.Aggregation == meter.Count:
				t.q = meter.NewQuantity(int64(t.n), 0)
			case m.Aggregation == meter.UniqueCount:
				t.q = meter.NewQuantity(int64(len(t.texts)), 0)
			case t.n == 1, m.Aggregation == meter.Max && v.Cmp(t.q) > 0, m.Aggregation == meter.Min && v.Cmp(t.q) < 0,
				m.Aggregation == meter.Latest && newer:
				t.q = v
			}
			if newer {
				t.latest = first
			}
		}
	}
	usage := map[usageName]meter.Quantity{}
	for key, t := range totals {
		usage[key] = t.q
	}
	return usage
}

// cameBefore reports whether an event came without a time under the same name in one of the 24 hours before.
func (o *oracle) cameBefore(name eventName) bool {
	for back := int64(1); back <= 24; back++ {
		earlier := name
		earlier.hour -= back * 3600
		if slices.ContainsFunc(o.events[earlier], func(e sentEvent) bool { return e.stamped }) {
			return true
		}
	}
	return false
}

func (o *oracle) of(subject, slug string) *place {
	a := reporter.Account{Subject: subject, Meter: slug}
	o.touched[a] = true
	if o.places[a] == nil {
		o.places[a] = &place{}
	}
	return o.places[a]
}

// add takes the rows of a booking that was committed and returns what is wrong with them.
func (o *oracle) add(b reporter.Booking, rows reporter.Rows) (faults []string) {
	say := func(format string, args ...any) {
		faults = append(faults, fmt.Sprintf("booking %d (%s): ", b.Number, b.Kind)+fmt.Sprintf(format, args...))
	}
	o.seen++
	if b.Number != uint64(o.seen) {
		say("is the %d. one", o.seen)
	}
	if b.Kind == reporter.BookingClose {
		if !o.closed.IsZero() && !o.closed.Equal(b.Window.Start) {
			say("closes %s after %s", b.Window, o.closed)
		}
		o.closed = b.Window.End
	}
	for _, u := range rows.Usage {
		key := usageName{u.Window.Start.Unix(), u.Subject, u.Meter}
		p := o.of(u.Subject, u.Meter)
		p.booked = p.booked.Add(u.Quantity).Sub(o.usage[key])
		o.usage[key] = u.Quantity
	}
	for _, r := range rows.Records {
		if old, ok := o.records[r.Replaces]; r.Replaces != "" && ok {
			old.replaced = true
			o.records[r.Replaces] = old
			delete(o.windows, o.windowOf(old.BillRecord))
			p := o.of(old.Subject, old.Meter)
			p.records = p.records.Sub(old.Billed.Mul(old.Scale))
		} else if r.Replaces != "" {
			say("record %s replaces %s, which is not in the books", r.SN, r.Replaces)
		}
	}
	for _, r := range rows.Records {
		p := o.of(r.Subject, r.Meter)
		p.records = p.records.Add(r.Billed.Mul(r.Scale))
		if other, twice := o.windows[o.windowOf(r)]; twice && r.InstanceID != "" {
			say("records %s and %s both are of %s %s", other, r.SN, r.InstanceID, r.Window)
		}
		o.windows[o.windowOf(r)] = r.SN
		o.records[r.SN] = bookedBill{BillRecord: r, booking: b}
		if r.Billed.Sign() < 0 || r.Window.End.After(b.At.Add(time.Minute)) {
			say("record %s bills %s until %s, at %s", r.SN, r.Billed, r.Window.End, b.At)
		}
	}
	for _, row := range rows.Balances {
		o.of(row.Subject, row.Meter).balance = row.Quantity
	}
	for _, a := range rows.Adjustments {
		p := o.of(a.Subject, a.Meter)
		switch a.Into {
		case reporter.IntoHeld:
			p.held = p.held.Add(a.Quantity)
		case reporter.IntoWrittenOff:
			p.writtenOff = p.writtenOff.Add(a.Quantity)
		case reporter.IntoUnbillable:
			p.unbillable = p.unbillable.Add(a.Quantity)
		case reporter.IntoBalance, reporter.IntoRecord:
		default:
			say("adjustment %s goes nowhere", a.ID)
		}
	}
	for a := range o.touched {
		p := o.places[a]
		if o.meters[a.Meter].Billed && !p.booked.Equal(p.sum()) {
			say("%s: booked %s = balance %s + records %s + held %s + written off %s + unbillable %s fails", a, p.booked, p.balance,
				p.records, p.held, p.writtenOff, p.unbillable)
		}
		if p.held.Sign() < 0 {
			say("%s: held is %s", a, p.held)
		}
	}
	clear(o.touched)
	slices.Sort(faults)
	return faults
}

func (o *oracle) windowOf(r reporter.BillRecord) string {
	return r.InstanceID + " " + r.Window.String()
}

// unaccounted compares what was booked with all accepted events, hour by hour up to the last closed one.
func (o *oracle) unaccounted() (faults []string) {
	want := o.expected()
	for key, got := range o.usage {
		if !got.Equal(want[key]) {
			faults = append(faults, fmt.Sprintf("%s/%s at %s: booked %s, the events say %s", key.subject, key.meter,
				time.Unix(key.hour, 0).UTC().Format("02 15:04"), got, want[key]))
		}
	}
	for key, q := range want {
		if _, booked := o.usage[key]; !booked && !q.IsZero() {
			faults = append(faults, fmt.Sprintf("%s/%s at %s: not booked, the events say %s", key.subject, key.meter,
				time.Unix(key.hour, 0).UTC().Format("02 15:04"), q))
		}
	}
	slices.Sort(faults)
	return faults
}

// decimals counts the decimals of a number's text.
func decimals(text string) int {
	_, after, _ := strings.Cut(text, ".")
	return len(strings.TrimRight(after, "0"))
}
