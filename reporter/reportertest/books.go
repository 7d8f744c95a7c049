package reportertest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

// Event is a usage event as the reference books keep it.
type Event struct {
	Source, ID, Subject string
	Time                time.Time
	// Values are the values by meter slug, for the meters that the event feeds. For unique_count use Texts.
	Values map[string]meter.Quantity
	Texts  map[string]string
}

type (
	usageKey struct {
		window, subject, meter string
		version                uint64
	}
	recordKey struct {
		sn      reporter.MeteringSN
		version uint64
	}
	eventKey struct {
		hour                int64
		subject, source, id string
	}
)

// Books is the ledger in memory: the reference that other implementations are compared with. It keeps every row that was
// ever written, including those of closes that were interrupted, and works out what counts when it reads, as a store without
// transactions has to. Rules broken by its callers are collected in [Books.Violations].
type Books struct {
	mu      sync.Mutex
	faults  Faults
	calls   int
	nextSeq int // order of arrival of events

	events      map[eventKey]storedEvent
	usage       map[usageKey]reporter.HourlyUsage
	records     map[recordKey]reporter.BillRecord
	versions    map[reporter.MeteringSN][]uint64 // under which a record was written
	transitions map[reporter.MeteringSN]map[uint32]reporter.Transition
	first       map[recordKey]reporter.Transition // first transitions by version of the close
	closes      map[int64]reporter.WindowClose    // by start of the window
	violations  []string
}

type storedEvent struct {
	Event
	order int
}

// NewBooks returns empty books.
func NewBooks() *Books {
	return &Books{
		events: map[eventKey]storedEvent{}, usage: map[usageKey]reporter.HourlyUsage{},
		records:     map[recordKey]reporter.BillRecord{},
		versions:    map[reporter.MeteringSN][]uint64{},
		transitions: map[reporter.MeteringSN]map[uint32]reporter.Transition{},
		first:       map[recordKey]reporter.Transition{}, closes: map[int64]reporter.WindowClose{},
	}
}

var (
	_ reporter.WindowBooks   = (*Books)(nil)
	_ reporter.DeliveryBooks = (*Books)(nil)
	_ reporter.RecordReader  = (*Books)(nil)
	_ reporter.VersionReader = (*Books)(nil)
	_ reporter.DueCounter    = (*Books)(nil)
)

// AddEvent stores an event and reports whether it is new: the same source and id in the same subject and hour counts once.
func (b *Books) AddEvent(e Event) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	key := eventKey{meter.HourOf(e.Time).Start.Unix(), e.Subject, e.Source, e.ID}
	if _, known := b.events[key]; known {
		return false
	}
	b.nextSeq++
	b.events[key] = storedEvent{Event: e, order: b.nextSeq}
	return true
}

// AddUsage stores one event of a generated id that gives the meter of the subject the quantity at the time.
func (b *Books) AddUsage(subject, slug string, at time.Time, q meter.Quantity) {
	b.mu.Lock()
	id := fmt.Sprintf("generated-%d", b.nextSeq)
	b.mu.Unlock()
	b.AddEvent(Event{Source: "reportertest", ID: id, Subject: subject, Time: at, Values: map[string]meter.Quantity{slug: q}})
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

// LastClosed implements [reporter.WindowBooks].
func (b *Books) LastClosed(ctx context.Context) (c reporter.WindowClose, ok bool, err error) {
	err = b.do(ctx, "LastClosed", 0, func(int) {
		for _, closed := range b.closes {
			if !ok || closed.Window.Start.After(c.Window.Start) {
				c, ok = closed, true
			}
		}
	})
	return c, ok && err == nil, err
}

// FirstEventHour implements [reporter.WindowBooks].
func (b *Books) FirstEventHour(ctx context.Context) (w meter.Window, ok bool, err error) {
	err = b.do(ctx, "FirstEventHour", 0, func(int) {
		for key := range b.events {
			if start := time.Unix(key.hour, 0).UTC(); !ok || start.Before(w.Start) {
				w, ok = meter.HourOf(start), true
			}
		}
	})
	return w, ok && err == nil, err
}

// AggregateWindow implements [reporter.WindowBooks].
func (b *Books) AggregateWindow(ctx context.Context, w meter.Window, meters []meter.Meter, yield func(reporter.WindowUsage) error) error {
	var rows []reporter.WindowUsage
	err := b.do(ctx, "AggregateWindow", 0, func(int) { rows = b.aggregate(w, meters) })
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
func (b *Books) CountWindowEvents(ctx context.Context, w meter.Window) (n uint64, err error) {
	err = b.do(ctx, "CountWindowEvents", 0, func(int) { n = uint64(len(b.eventsOf(w))) })
	return n, err
}

// HighestVersion implements [reporter.VersionReader].
func (b *Books) HighestVersion(ctx context.Context, w meter.Window) (version uint64, err error) {
	err = b.do(ctx, "HighestVersion", 0, func(int) {
		for key := range b.usage {
			if key.window == w.String() {
				version = max(version, key.version)
			}
		}
		for key, r := range b.records {
			if r.Window.Start.Equal(w.Start) {
				version = max(version, key.version)
			}
		}
	})
	return version, err
}

// Remainders implements [reporter.WindowBooks].
func (b *Books) Remainders(ctx context.Context, w meter.Window) (open []reporter.CarriedRemainder, err error) {
	err = b.do(ctx, "Remainders", 0, func(int) {
		latest := map[reporter.SubjectMeter]reporter.BillRecord{}
		for _, r := range b.counted() {
			pair := reporter.SubjectMeter{Subject: r.Subject, Meter: r.Meter}
			if r.Window.End.After(w.Start) {
				continue
			}
			if old, ok := latest[pair]; !ok || old.Window.Start.Before(r.Window.Start) {
				latest[pair] = r
			}
		}
		for pair, r := range latest {
			if !r.CarriedOut.IsZero() {
				open = append(open, reporter.CarriedRemainder{Subject: pair.Subject, Meter: pair.Meter, Quantity: r.CarriedOut})
			}
		}
		slices.SortFunc(open, func(x, y reporter.CarriedRemainder) int {
			return cmp.Or(cmp.Compare(x.Subject, y.Subject), cmp.Compare(x.Meter, y.Meter))
		})
	})
	return open, err
}

// WriteUsage implements [reporter.WindowBooks].
func (b *Books) WriteUsage(ctx context.Context, usage []reporter.HourlyUsage) error {
	return b.do(ctx, "WriteUsage", len(usage), func(n int) {
		for _, u := range usage[:n] {
			b.usage[usageKey{u.Window.String(), u.Subject, u.Meter, u.Version}] = u
		}
	})
}

// WriteRecords implements [reporter.WindowBooks].
func (b *Books) WriteRecords(ctx context.Context, records []reporter.BillRecord) error {
	return b.do(ctx, "WriteRecords", len(records), func(n int) {
		for _, r := range records[:n] {
			b.checkRecord(r)
			key := recordKey{r.SN, r.Version}
			if _, again := b.records[key]; !again {
				b.versions[r.SN] = append(b.versions[r.SN], r.Version)
			}
			b.first[key] = r.Last
			r.Last = reporter.Transition{}
			b.records[key] = r
		}
	})
}

// checkRecord checks what must be true of every record.
func (b *Books) checkRecord(r reporter.BillRecord) {
	if r.SN != r.Identity().SN() {
		b.violate("record %s: its number is not that of its identity", r.SN)
	}
	if !r.Usage.Add(r.CarriedIn).Equal(r.Billed.Mul(r.Scale).Add(r.CarriedOut)) {
		b.violate("record %s: %s + %s is not %s × %s + %s", r.SN, r.Usage, r.CarriedIn, r.Billed, r.Scale, r.CarriedOut)
	}
	if r.Last.Seq != 1 || !reporter.State(0).CanBecome(r.Last.State) {
		b.violate("record %s: begins as %s with seq %d", r.SN, r.Last.State, r.Last.Seq)
	}
	if old, ok := b.records[recordKey{r.SN, r.Version}]; ok && (old.Subject != r.Subject || old.Meter != r.Meter) {
		b.violate("record %s: written for %s/%s and for %s/%s", r.SN, old.Subject, old.Meter, r.Subject, r.Meter)
	}
	if c, closed := b.closes[r.Window.Start.Unix()]; closed {
		b.violate("record %s: window %s was closed already at %s", r.SN, r.Window, c.ClosedAt)
	}
}

// WriteClose implements [reporter.WindowBooks].
func (b *Books) WriteClose(ctx context.Context, c reporter.WindowClose) error {
	return b.do(ctx, "WriteClose", 1, func(n int) {
		if n == 0 {
			return
		}
		if old, closed := b.closes[c.Window.Start.Unix()]; closed && old.Version != c.Version {
			b.violate("window %s: closed twice", c.Window)
		}
		b.closes[c.Window.Start.Unix()] = c
		var records, usages uint64
		for key, r := range b.records {
			if r.Window.Start.Equal(c.Window.Start) && key.version == c.Version {
				records++
			}
		}
		for key := range b.usage {
			if key.window == c.Window.String() && key.version == c.Version {
				usages++
			}
			if key.window == c.Window.String() && key.version > c.Version {
				b.violate("window %s: closed with version %d after version %d was used", c.Window, c.Version, key.version)
			}
		}
		if records != c.Records || usages != c.Usages {
			b.violate("window %s: closed with %d usages and %d records, the books hold %d and %d",
				c.Window, c.Usages, c.Records, usages, records)
		}
	})
}

// UnsettledWindows implements [reporter.DeliveryBooks].
func (b *Books) UnsettledWindows(ctx context.Context) (open []reporter.WindowClose, err error) {
	err = b.do(ctx, "UnsettledWindows", 0, func(int) {
		for _, c := range b.sortedCloses() {
			if c.SettledAt.IsZero() {
				open = append(open, c)
			}
		}
	})
	return open, err
}

// DueRecords implements [reporter.DeliveryBooks].
func (b *Books) DueRecords(ctx context.Context, c reporter.WindowClose, after reporter.MeteringSN, limit int) (due []reporter.BillRecord, err error) {
	err = b.do(ctx, "DueRecords", 0, func(int) {
		for _, r := range b.counted() {
			if r.Window.Start.Equal(c.Window.Start) && r.Last.State.Due() && r.SN > after {
				due = append(due, r)
			}
		}
		slices.SortFunc(due, func(x, y reporter.BillRecord) int { return cmp.Compare(x.SN, y.SN) })
		due = due[:min(limit, len(due))]
	})
	return due, err
}

// CountDue implements [reporter.DueCounter].
func (b *Books) CountDue(ctx context.Context) (n uint64, err error) {
	err = b.do(ctx, "CountDue", 0, func(int) {
		for _, r := range b.counted() {
			if r.Last.State.Due() {
				n++
			}
		}
	})
	return n, err
}

// AppendTransitions implements [reporter.DeliveryBooks].
func (b *Books) AppendTransitions(ctx context.Context, ts []reporter.Transition) error {
	return b.do(ctx, "AppendTransitions", len(ts), func(n int) {
		for _, t := range ts[:n] {
			b.appendTransition(t)
		}
	})
}

func (b *Books) appendTransition(t reporter.Transition) {
	life := b.transitions[t.SN]
	if life == nil {
		life = map[uint32]reporter.Transition{}
		b.transitions[t.SN] = life
	}
	if old, again := life[t.Seq]; again && old.State != t.State {
		b.violate("record %s: row %d was %s and is written as %s", t.SN, t.Seq, old.State, t.State)
	}
	r, ok := b.find(t.SN)
	if !ok {
		b.violate("record %s: a transition to %s without a record of a closed window", t.SN, t.State)
		return
	}
	if before, ok := b.transitionAt(r, t.Seq-1); !ok {
		b.violate("record %s: row %d without row %d", t.SN, t.Seq, t.Seq-1)
	} else if !before.State.CanBecome(t.State) {
		b.violate("record %s: %s can't become %s", t.SN, before.State, t.State)
	}
	life[t.Seq] = t
}

// transitionAt finds a row; the first one is that of the close that counts.
func (b *Books) transitionAt(r reporter.BillRecord, seq uint32) (reporter.Transition, bool) {
	if seq == 1 {
		t, ok := b.first[recordKey{r.SN, r.Version}]
		return t, ok
	}
	t, ok := b.transitions[r.SN][seq]
	return t, ok
}

// SettleWindow implements [reporter.DeliveryBooks].
func (b *Books) SettleWindow(ctx context.Context, c reporter.WindowClose) error {
	return b.do(ctx, "SettleWindow", 1, func(n int) {
		if n == 0 {
			return
		}
		for _, r := range b.counted() {
			if r.Window.Start.Equal(c.Window.Start) && r.Last.State.Due() {
				b.violate("window %s: settled although record %s is %s", c.Window, r.SN, r.Last.State)
			}
		}
		if c.SettledAt.IsZero() {
			b.violate("window %s: settled at no time", c.Window)
		}
		b.closes[c.Window.Start.Unix()] = c
	})
}

// counted returns the records that count: those of the version of their window's close, with their last transition.
func (b *Books) counted() []reporter.BillRecord {
	var all []reporter.BillRecord
	for key, r := range b.records {
		if c, closed := b.closes[r.Window.Start.Unix()]; closed && c.Version == key.version {
			r.Last = b.last(r)
			all = append(all, r)
		}
	}
	return all
}

func (b *Books) last(r reporter.BillRecord) reporter.Transition {
	last := b.first[recordKey{r.SN, r.Version}]
	for _, t := range b.transitions[r.SN] {
		if t.Seq > last.Seq {
			last = t
		}
	}
	return last
}

// find returns the record of the number that counts.
func (b *Books) find(sn reporter.MeteringSN) (reporter.BillRecord, bool) {
	for _, version := range b.versions[sn] {
		r := b.records[recordKey{sn, version}]
		if c, closed := b.closes[r.Window.Start.Unix()]; closed && c.Version == version {
			return r, true
		}
	}
	return reporter.BillRecord{}, false
}

func (b *Books) sortedCloses() []reporter.WindowClose {
	all := make([]reporter.WindowClose, 0, len(b.closes))
	for _, c := range b.closes {
		all = append(all, c)
	}
	slices.SortFunc(all, func(x, y reporter.WindowClose) int { return x.Window.Start.Compare(y.Window.Start) })
	return all
}

var errNoRecord = errors.New("no such record")
