package reportertest

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

// written is what was written under one version. It counts if a committed booking has the version.
type written struct {
	usage       map[usageKey]reporter.HourlyUsage
	records     map[reporter.MeteringSN]reporter.BillRecord // Last is the first transition
	adjustments map[reporter.AdjustmentID]reporter.Adjustment
	balances    map[reporter.Account]reporter.Balance
	covers      map[coverKey]reporter.Cover
}

type (
	usageKey struct {
		hour           int64
		subject, meter string
	}
	coverKey struct {
		hour  int64
		touch uint64
	}
)

// Books is the ledger in memory: the reference that other implementations are compared with. It keeps every row that was
// ever written, including those of bookings that were interrupted, and works out what counts when it reads, as a store
// without transactions has to. Rules broken by its callers are collected in [Books.Violations]. Several processes may
// share one Books.
type Books struct {
	mu     sync.Mutex
	faults Faults
	calls  int
	now    func() time.Time // nil: every event makes a touch
	races  bool

	order   int64 // of arrival of events
	events  map[EventKey][]storedEvent
	byHour  map[int64][]EventKey
	voids   map[EventKey]bool
	touches []touch

	rows        map[uint64]*written // by version
	log         []reporter.Booking  // committed, by number
	settled     map[uint64]time.Time
	coveredBy   map[coverKey]uint64                                    // number of the committed booking
	bookedIn    map[reporter.MeteringSN]uint64                         // version of the committed booking
	replacedBy  map[reporter.MeteringSN]reporter.MeteringSN            // by records of committed bookings
	balance     map[reporter.Account]reporter.Balance                  // after the last booking
	adjusted    []reporter.Adjustment                                  // of committed bookings, by booking, then ID
	live        map[string]reporter.MeteringSN                         // by instance and window; not replaced, of committed bookings
	transitions map[reporter.MeteringSN]map[uint32]reporter.Transition // from seq 2 on
	latest      map[reporter.MeteringSN]reporter.Transition            // the one with the highest seq, if from 2 on
	lives       []reporter.LifeChange
	audit       []reporter.AuditEntry
	violations  []string
}

// NewBooks returns empty books.
func NewBooks() *Books {
	return &Books{
		events: map[EventKey][]storedEvent{}, byHour: map[int64][]EventKey{}, voids: map[EventKey]bool{}, rows: map[uint64]*written{},
		settled: map[uint64]time.Time{}, coveredBy: map[coverKey]uint64{}, bookedIn: map[reporter.MeteringSN]uint64{},
		replacedBy: map[reporter.MeteringSN]reporter.MeteringSN{}, live: map[string]reporter.MeteringSN{},
		balance:     map[reporter.Account]reporter.Balance{},
		latest:      map[reporter.MeteringSN]reporter.Transition{},
		transitions: map[reporter.MeteringSN]map[uint32]reporter.Transition{},
	}
}

var (
	_ reporter.WindowBooks   = (*Books)(nil)
	_ reporter.DeliveryBooks = (*Books)(nil)
	_ reporter.LifeBooks     = (*Books)(nil)
	_ reporter.AuditBooks    = (*Books)(nil)
	_ reporter.RecordReader  = (*Books)(nil)
	_ reporter.DueCounter    = (*Books)(nil)
	_ reporter.VerifyBooks   = (*Books)(nil)
)

// AllowRaces says that several processes deliver at once: then two different rows under one (SN, seq) are no violation.
func (b *Books) AllowRaces() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.races = true
}

// Violations returns the rules of the contract that callers broke.
func (b *Books) Violations() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.violations)
}

func (b *Books) violate(format string, args ...any) {
	b.violations = append(b.violations, fmt.Sprintf(format, args...))
}

// at returns the rows written under a version, never nil.
func (b *Books) at(version uint64) *written {
	w := b.rows[version]
	if w == nil {
		w = &written{
			usage: map[usageKey]reporter.HourlyUsage{}, records: map[reporter.MeteringSN]reporter.BillRecord{},
			adjustments: map[reporter.AdjustmentID]reporter.Adjustment{}, balances: map[reporter.Account]reporter.Balance{},
			covers: map[coverKey]reporter.Cover{},
		}
		b.rows[version] = w
	}
	return w
}

// booking returns a committed booking as it is now.
func (b *Books) booking(i int) reporter.Booking {
	c := b.log[i]
	c.SettledAt = b.settled[c.Number]
	return c
}

// LastBooking implements [reporter.WindowBooks].
func (b *Books) LastBooking(ctx context.Context) (c reporter.Booking, ok bool, err error) {
	err = b.do(ctx, "LastBooking", func(bool) {
		if ok = len(b.log) > 0; ok {
			c = b.booking(len(b.log) - 1)
		}
	})
	return c, ok && err == nil, err
}

// LastClosed implements [reporter.WindowBooks].
func (b *Books) LastClosed(ctx context.Context) (c reporter.Booking, ok bool, err error) {
	err = b.do(ctx, "LastClosed", func(bool) {
		for i, booked := range b.log {
			if booked.Kind == reporter.BookingClose && (!ok || booked.Window.Start.After(c.Window.Start)) {
				c, ok = b.booking(i), true
			}
		}
	})
	return c, ok && err == nil, err
}

// FirstEventHour implements [reporter.WindowBooks].
func (b *Books) FirstEventHour(ctx context.Context) (w meter.Window, ok bool, err error) {
	err = b.do(ctx, "FirstEventHour", func(bool) {
		for key := range b.events {
			if !ok || key.Hour.Before(w.Start) {
				w, ok = meter.HourOf(key.Hour), true
			}
		}
	})
	return w, ok && err == nil, err
}

// Touches implements [reporter.WindowBooks].
func (b *Books) Touches(ctx context.Context, hour meter.Window) (ids []uint64, err error) {
	err = b.do(ctx, "Touches", func(bool) {
		for _, t := range b.touches {
			if t.hour == hour && !b.covered(t) {
				ids = append(ids, t.id)
			}
		}
	})
	return ids, err
}

// StaleHours implements [reporter.WindowBooks].
func (b *Books) StaleHours(ctx context.Context, before time.Time, limit int) (stale []reporter.StaleHour, err error) {
	err = b.do(ctx, "StaleHours", func(bool) {
		stale = b.staleHours(before)
		stale = stale[:min(limit, len(stale))]
	})
	return stale, err
}

func (b *Books) staleHours(before time.Time) (stale []reporter.StaleHour) {
	for _, t := range b.touches {
		if t.hour.End.After(before) || b.covered(t) {
			continue
		}
		i := slices.IndexFunc(stale, func(h reporter.StaleHour) bool { return h.Hour == t.hour })
		if i < 0 {
			stale = append(stale, reporter.StaleHour{Hour: t.hour, Touches: []uint64{t.id}, Subjects: slices.Clone(t.subjects)})
			continue
		}
		h := &stale[i]
		h.Touches = append(h.Touches, t.id)
		if h.Subjects != nil && t.subjects != nil {
			h.Subjects = append(h.Subjects, t.subjects...)
			slices.Sort(h.Subjects)
			h.Subjects = slices.Compact(h.Subjects)
		} else {
			h.Subjects = nil
		}
	}
	slices.SortFunc(stale, func(x, y reporter.StaleHour) int { return x.Hour.Start.Compare(y.Hour.Start) })
	return stale
}

// covered reports whether a committed booking counted the hour with what the touch announced.
func (b *Books) covered(t touch) bool {
	_, ok := b.coveredBy[coverKey{t.hour.Start.Unix(), t.id}]
	return ok
}

// AggregateWindow implements [reporter.WindowBooks].
func (b *Books) AggregateWindow(ctx context.Context, sc reporter.Scope, meters []meter.Meter, yield func(reporter.WindowUsage) error) error {
	var rows []reporter.WindowUsage
	err := b.do(ctx, "AggregateWindow", func(bool) { rows = b.aggregate(sc, meters) })
	if err != nil {
		return err
	}
	for _, row := range rows {
		if err := yield(row); err != nil {
			return err
		}
	}
	return nil
}

// CountWindowEvents implements [reporter.WindowBooks].
func (b *Books) CountWindowEvents(ctx context.Context, hour meter.Window) (n uint64, err error) {
	err = b.do(ctx, "CountWindowEvents", func(bool) { n = uint64(len(b.counting(hour))) })
	return n, err
}

// BookedUsage implements [reporter.WindowBooks].
func (b *Books) BookedUsage(ctx context.Context, hour meter.Window, subjects []string) (rows []reporter.HourlyUsage, err error) {
	err = b.do(ctx, "BookedUsage", func(bool) {
		for _, u := range b.latestUsage(hour.Start, hour.End, len(b.log)) {
			if subjects == nil || slices.Contains(subjects, u.Subject) {
				rows = append(rows, u)
			}
		}
	})
	return rows, err
}

// latestUsage returns the usage of hours that start in [from, to) as last booked by the first n bookings, by window, subject,
// meter. Two zero times mean all hours.
func (b *Books) latestUsage(from, to time.Time, n int) []reporter.HourlyUsage {
	latest := map[usageKey]reporter.HourlyUsage{}
	for _, c := range b.log[:n] {
		for key, u := range b.at(c.Version).usage {
			if within(u.Window.Start, from, to) {
				latest[key] = u
			}
		}
	}
	rows := make([]reporter.HourlyUsage, 0, len(latest))
	for _, u := range latest {
		rows = append(rows, u)
	}
	slices.SortFunc(rows, func(x, y reporter.HourlyUsage) int {
		return cmp.Or(x.Window.Start.Compare(y.Window.Start), cmp.Compare(x.Subject, y.Subject), cmp.Compare(x.Meter, y.Meter))
	})
	return rows
}

// within reports whether t is in [from, to); zero bounds don't bound.
func within(t, from, to time.Time) bool {
	return (from.IsZero() || !t.Before(from)) && (to.IsZero() || t.Before(to))
}

// Balances implements [reporter.WindowBooks].
func (b *Books) Balances(ctx context.Context, subjects []string) (rows []reporter.Balance, err error) {
	err = b.do(ctx, "Balances", func(bool) {
		for _, row := range b.balances(len(b.log)) {
			if !row.Quantity.IsZero() && (subjects == nil || slices.Contains(subjects, row.Subject)) {
				rows = append(rows, row)
			}
		}
		slices.SortFunc(rows, func(x, y reporter.Balance) int {
			return cmp.Or(cmp.Compare(x.Subject, y.Subject), cmp.Compare(x.Meter, y.Meter))
		})
	})
	return rows, err
}

// balances returns the balances after the first n bookings.
func (b *Books) balances(n int) map[reporter.Account]reporter.Balance {
	if n == len(b.log) {
		return b.balance
	}
	latest := map[reporter.Account]reporter.Balance{}
	for _, c := range b.log[:n] {
		maps.Copy(latest, b.at(c.Version).balances)
	}
	return latest
}

// RecordsBySN implements [reporter.WindowBooks].
func (b *Books) RecordsBySN(ctx context.Context, sns []reporter.MeteringSN) (found []reporter.BillRecord, err error) {
	err = b.do(ctx, "RecordsBySN", func(bool) {
		for _, sn := range slices.Compact(slices.Sorted(slices.Values(sns))) {
			if r, ok := b.find(sn); ok {
				found = append(found, r)
			}
		}
	})
	return found, err
}

// HeldUsage implements [reporter.WindowBooks].
func (b *Books) HeldUsage(ctx context.Context, ids []reporter.AdjustmentID, after reporter.AdjustmentID, limit int) (held []reporter.HeldUsage, err error) {
	err = b.do(ctx, "HeldUsage", func(bool) {
		var place reporter.Adjustment
		for _, a := range b.adjustments() {
			if a.ID == after {
				place = a
			}
		}
		for _, h := range b.heldUsage() {
			if (ids == nil || slices.Contains(ids, h.ID)) && (after == "" || byBooking(h.Adjustment, place) > 0) {
				held = append(held, h)
			}
		}
		held = held[:min(limit, len(held))]
	})
	return held, err
}

// heldUsage returns what is held and open, by booking, then ID.
func (b *Books) heldUsage() (held []reporter.HeldUsage) {
	open := map[reporter.AdjustmentID]meter.Quantity{}
	all := b.adjustments()
	for _, a := range all {
		if a.Into != reporter.IntoHeld {
			continue
		}
		of := cmp.Or(a.Of, a.ID)
		open[of] = open[of].Add(a.Quantity)
	}
	for _, a := range all {
		if a.Into == reporter.IntoHeld && a.Of == "" && !open[a.ID].IsZero() {
			held = append(held, reporter.HeldUsage{Adjustment: a, Open: open[a.ID]})
		}
	}
	return held
}

// adjustments returns those that count, by booking, then ID.
func (b *Books) adjustments() []reporter.Adjustment { return b.adjusted }

func byBooking(x, y reporter.Adjustment) int {
	return cmp.Or(cmp.Compare(x.Booking, y.Booking), cmp.Compare(x.ID, y.ID))
}

// find returns the record of the number that counts, with its last transition.
func (b *Books) find(sn reporter.MeteringSN) (reporter.BillRecord, bool) {
	version, ok := b.bookedIn[sn]
	if !ok {
		return reporter.BillRecord{}, false
	}
	r := b.at(version).records[sn]
	r.Last = b.last(r)
	return r, true
}

// last returns the last transition of a record whose Last is its first one.
func (b *Books) last(r reporter.BillRecord) reporter.Transition {
	if t, ok := b.latest[r.SN]; ok {
		return t
	}
	return r.Last
}

// counted returns the records of every committed booking, with their last transitions, by hour of booking, then number.
func (b *Books) counted() (all []reporter.BillRecord) {
	for _, c := range b.log {
		all = append(all, b.recordsOf(c)...)
	}
	slices.SortFunc(all, inOrder)
	return all
}

// recordsOf returns the records of one booking by number, with their last transitions.
func (b *Books) recordsOf(c reporter.Booking) []reporter.BillRecord {
	return b.recordsWhere(c, func(reporter.State) bool { return true })
}

// recordsWhere returns those of one booking that are in one of the states.
func (b *Books) recordsWhere(c reporter.Booking, wanted func(reporter.State) bool) (records []reporter.BillRecord) {
	for _, r := range b.at(c.Version).records {
		if !wanted(b.last(r).State) {
			continue
		}
		r.Last = b.last(r)
		records = append(records, r)
	}
	slices.SortFunc(records, func(x, y reporter.BillRecord) int { return cmp.Compare(x.SN, y.SN) })
	return records
}
