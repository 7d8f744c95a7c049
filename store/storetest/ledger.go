package storetest

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
	"github.com/meterd/meterd/store"
)

// hourAt is the nth hour of the ledger's tests.
func hourAt(n int) meter.Window { return meter.HourOf(base.Add(time.Duration(n) * time.Hour)) }

// newRecord is a plausible bill record, the nth of an hour.
func newRecord(n int, start time.Time) reporter.BillRecord {
	w := meter.HourOf(start)
	r := reporter.BillRecord{
		Seller: "default", InstanceID: fmt.Sprintf("instance-%05d", n), ProductID: "product", Subject: fmt.Sprintf("tenant-%05d", n), Meter: "tokens",
		Window: w, Mode: reporter.Mode(n % 3), Usage: meter.MustParseQuantity("1234.5678"), CarriedIn: meter.MustParseQuantity("0.000000000000000001"),
		Scale: meter.NewQuantity(1000, 0), RecordTime: w.End.Add(5*time.Minute + 123*time.Nanosecond), Package: "package-7",
	}
	r.Billed, r.CarriedOut = r.Usage.Add(r.CarriedIn).DivTruncate(r.Scale, 4)
	r.SN = r.Identity().SN()
	r.Last = reporter.Transition{SN: r.SN, Seq: 1, State: reporter.StatePending, At: w.End.Add(5*time.Minute + 7*time.Nanosecond)}
	return r
}

// draft is a booking that comes next, with its rows: what is the booking's is filled in.
func (s *suite) draft(t *testing.T, kind reporter.BookingKind, w meter.Window, rows *reporter.Rows) reporter.Booking {
	t.Helper()
	last, _, err := s.store.LastBooking(t.Context())
	if err != nil {
		t.Fatalf("LastBooking: %v", err)
	}
	b := reporter.Booking{
		Number: last.Number + 1, Version: last.Version + 1000, Kind: kind, Window: w, At: w.End.Add(5*time.Minute + 9*time.Nanosecond), Events: 10,
		Usages: uint64(len(rows.Usage)), Records: uint64(len(rows.Records)), Adjustments: uint64(len(rows.Adjustments)),
		Balances: uint64(len(rows.Balances)), Covers: uint64(len(rows.Covers)),
	}
	fillIn(b, rows)
	return b
}

func fillIn(b reporter.Booking, rows *reporter.Rows) {
	for i := range rows.Usage {
		if rows.Usage[i].Window.IsZero() {
			rows.Usage[i].Window = b.Window
		}
		rows.Usage[i].Version = b.Version
	}
	for i := range rows.Records {
		r := &rows.Records[i]
		r.Booked, r.Version, r.Last.Booked = b.Window, b.Version, b.Window
	}
	for i := range rows.Adjustments {
		a := &rows.Adjustments[i]
		a.Booking, a.Version, a.Booked = b.Number, b.Version, b.Window
	}
}

// book writes a whole booking.
func (s *suite) book(t *testing.T, kind reporter.BookingKind, w meter.Window, rows reporter.Rows) reporter.Booking {
	t.Helper()
	b := s.draft(t, kind, w, &rows)
	s.write(t, b, rows)
	if err := s.store.Commit(t.Context(), b); err != nil {
		t.Fatalf("Commit: %v", err)
	}
	return b
}

func (s *suite) write(t *testing.T, b reporter.Booking, rows reporter.Rows) {
	t.Helper()
	if err := s.store.WriteRows(t.Context(), b, rows); err != nil {
		t.Fatalf("WriteRows: %v", err)
	}
}

// recordSNs returns the numbers of records.
func recordSNs(records []reporter.BillRecord) []reporter.MeteringSN {
	sns := make([]reporter.MeteringSN, len(records))
	for i, r := range records {
		sns[i] = r.SN
	}
	return sns
}

// must fails the test for an error of a read.
func must[T any](v T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func (s *suite) due(t *testing.T, b reporter.Booking) []reporter.BillRecord {
	t.Helper()
	return must(s.store.DueRecords(t.Context(), b, "", 10_000))(t)
}

func ledgerRows() reporter.Rows {
	return reporter.Rows{
		Usage: []reporter.HourlyUsage{
			{Subject: "a", Meter: "tokens", Quantity: meter.MustParseQuantity("12.000000000000000001"), Events: 3},
			{Subject: "b", Meter: "calls", Quantity: meter.NewQuantity(7, 0), Events: 7},
		},
		Records:     []reporter.BillRecord{newRecord(1, base)},
		Adjustments: []reporter.Adjustment{newAdjustment(1, reporter.IntoHeld, "5")},
		Balances:    []reporter.Balance{{Subject: "a", Meter: "tokens", Quantity: meter.MustParseQuantity("0.000000000000000001")}},
		Covers:      []reporter.Cover{{Hour: hourAt(0), Touch: 77}, {Hour: hourAt(0), Touch: 1<<64 - 1}},
	}
}

// testBookings shows that rows count if and only if their booking took its number.
func testBookings(t *testing.T, s *suite) {
	ctx := t.Context()
	if _, ok, err := s.store.LastBooking(ctx); ok || err != nil {
		t.Errorf("LastBooking of nothing = %v, %v", ok, err)
	}
	if _, ok, err := s.store.LastClosed(ctx); ok || err != nil {
		t.Errorf("LastClosed of nothing = %v, %v", ok, err)
	}
	// A booking that was interrupted: everything but the commit. Nothing of it counts.
	dead := ledgerRows()
	dead.Records = append(dead.Records, newRecord(2, base))
	deadBooking := s.draft(t, reporter.BookingClose, hourAt(0), &dead)
	s.write(t, deadBooking, dead)
	s.nothingCounts(t, dead.Records[0].SN)
	// One that lost rows doesn't become one.
	for name, change := range map[string]func(*reporter.Booking){
		"usages": func(b *reporter.Booking) { b.Usages++ }, "records": func(b *reporter.Booking) { b.Records-- },
		"adjustments": func(b *reporter.Booking) { b.Adjustments++ }, "balances": func(b *reporter.Booking) { b.Balances = 0 },
		"covers": func(b *reporter.Booking) { b.Covers = 3 },
	} {
		b := deadBooking
		change(&b)
		if err := s.store.Commit(ctx, b); !errors.Is(err, store.ErrRowsMissing) {
			t.Errorf("Commit with other %s than written = %v, want ErrRowsMissing", name, err)
		}
	}
	// Another process is faster.
	rows := ledgerRows()
	rows.Records[0].Last.State = reporter.StateCarried
	b := s.draft(t, reporter.BookingClose, hourAt(0), &rows)
	b.Version++
	fillIn(b, &rows)
	s.write(t, b, rows)
	s.write(t, b, rows) // once more changes nothing
	for range 2 {       // the same
		if err := s.store.Commit(ctx, b); err != nil {
			t.Fatalf("Commit: %v", err)
		}
	}
	if err := s.store.Commit(ctx, deadBooking); !errors.Is(err, reporter.ErrBookingTaken) {
		t.Errorf("Commit of a number that is taken = %v, want ErrBookingTaken", err)
	}
	gap := b
	gap.Number = 3
	if err := s.store.Commit(ctx, gap); err == nil || errors.Is(err, reporter.ErrBookingTaken) {
		t.Errorf("Commit beyond the end = %v, want an error", err)
	}
	for _, when := range []string{"before a merge", "after a merge"} {
		s.ledgerCounts(t, when, b, rows)
		s.optimize(t)
	}
	last, ok, err := s.store.LastBooking(ctx)
	if diff := cmp.Diff(b, last); diff != "" || !ok || err != nil {
		t.Errorf("LastBooking = %v, %v (-want +got):\n%s", ok, err, diff)
	}
	s.record("%d %s %s", last.Number, last.Window, last.Kind)
	s.settling(t, b)
}

// nothingCounts reads the ledger while only an interrupted booking wrote to it.
func (s *suite) nothingCounts(t *testing.T, sn reporter.MeteringSN) {
	t.Helper()
	ctx := t.Context()
	for name, n := range map[string]int{
		"Records":     len(must(s.store.Records(ctx, reporter.RecordFilter{}))(t)),
		"RecordsBySN": len(must(s.store.RecordsBySN(ctx, []reporter.MeteringSN{sn}))(t)),
		"Transitions": len(must(s.store.Transitions(ctx, sn))(t)),
		"Usage":       len(must(s.store.Usage(ctx, base, base.Add(time.Hour), 10))(t)),
		"BookedUsage": len(must(s.store.BookedUsage(ctx, hourAt(0), nil))(t)),
		"Adjustments": len(must(s.store.Adjustments(ctx, reporter.AdjustmentFilter{}))(t)),
		"HeldUsage":   len(must(s.store.HeldUsage(ctx, nil, "", 10))(t)),
		"Balances":    len(must(s.store.Balances(ctx, nil))(t)),
		"Bookings":    len(must(s.store.Bookings(ctx, time.Time{}, time.Time{}))(t)),
	} {
		if n != 0 {
			t.Errorf("%s of an interrupted booking has %d rows, want none", name, n)
		}
	}
}

func (s *suite) ledgerCounts(t *testing.T, when string, b reporter.Booking, rows reporter.Rows) {
	t.Helper()
	ctx := t.Context()
	compare := func(name string, want, got any) {
		t.Helper()
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s %s (-want +got):\n%s", name, when, diff)
		}
	}
	compare("Records", rows.Records, must(s.store.Records(ctx, reporter.RecordFilter{}))(t))
	compare("RecordsBySN", rows.Records, must(s.store.RecordsBySN(ctx, []reporter.MeteringSN{rows.Records[0].SN, "x"}))(t))
	compare("Usage", rows.Usage, must(s.store.Usage(ctx, base, base.Add(time.Hour), 10))(t))
	compare("Usage of one", rows.Usage[:1], must(s.store.Usage(ctx, base, base.Add(time.Hour), 1))(t))
	compare("BookedUsage", rows.Usage, must(s.store.BookedUsage(ctx, hourAt(0), nil))(t))
	compare("BookedUsage of b", rows.Usage[1:], must(s.store.BookedUsage(ctx, hourAt(0), []string{"b", "x"}))(t))
	compare("SubjectUsage", rows.Usage[1:], must(s.store.SubjectUsage(ctx, []string{"b", "x"}, base, base.Add(time.Hour)))(t))
	compare("Adjustments", rows.Adjustments, must(s.store.Adjustments(ctx, reporter.AdjustmentFilter{}))(t))
	compare("Balances", rows.Balances, must(s.store.Balances(ctx, nil))(t))
	compare("Bookings", []reporter.Booking{b}, must(s.store.Bookings(ctx, base, base.Add(time.Nanosecond)))(t))
	if list := must(s.store.BookedUsage(ctx, hourAt(0), []string{}))(t); len(list) != 0 {
		t.Errorf("BookedUsage of nobody = %v", list)
	}
}

func (s *suite) settling(t *testing.T, first reporter.Booking) {
	t.Helper()
	ctx := t.Context()
	second := s.book(t, reporter.BookingClose, hourAt(1), reporter.Rows{Records: []reporter.BillRecord{newRecord(1, hourAt(1).Start)}})
	s.book(t, reporter.BookingClose, hourAt(2), reporter.Rows{}) // without records there is nothing to settle
	last, _, err := s.store.LastClosed(ctx)
	if err != nil || last.Window != hourAt(2) {
		t.Errorf("LastClosed = %+v, %v, want that of %s", last, err, hourAt(2))
	}
	if diff := cmp.Diff([]reporter.Booking{first, second}, must(s.store.UnsettledBookings(ctx))(t)); diff != "" {
		t.Errorf("UnsettledBookings (-want +got):\n%s", diff)
	}
	first.SettledAt = base.Add(7*time.Hour + time.Nanosecond)
	if err := s.store.SettleBooking(ctx, first); err != nil {
		t.Fatalf("SettleBooking: %v", err)
	}
	if diff := cmp.Diff([]reporter.Booking{second}, must(s.store.UnsettledBookings(ctx))(t)); diff != "" {
		t.Errorf("UnsettledBookings (-want +got):\n%s", diff)
	}
	got := must(s.store.Bookings(ctx, base, base.Add(2*time.Hour)))(t)
	if diff := cmp.Diff([]reporter.Booking{first, second}, got); diff != "" {
		t.Errorf("Bookings (-want +got):\n%s", diff)
	}
	if got = must(s.store.Bookings(ctx, base.Add(time.Nanosecond), base.Add(time.Hour+time.Nanosecond)))(t); len(got) != 1 {
		t.Errorf("Bookings between = %v, want the second only", got)
	}
	// A recount of the first hour: a later booking's row replaces, hours and subjects that it doesn't name stay.
	rows := reporter.Rows{Usage: []reporter.HourlyUsage{{Window: hourAt(0), Subject: "b", Meter: "calls", Quantity: meter.NewQuantity(5, 0), Events: 5}}}
	recount := s.book(t, reporter.BookingRecount, hourAt(0), rows)
	usage := must(s.store.BookedUsage(ctx, hourAt(0), nil))(t)
	if len(usage) != 2 || usage[1].Version != recount.Version || usage[1].Events != 5 || !usage[1].Quantity.Equal(meter.NewQuantity(5, 0)) || usage[0].Version != first.Version {
		t.Errorf("BookedUsage after a recount = %+v", usage)
	}
	// A release books usage of an earlier hour under its own.
	early := reporter.Rows{Usage: []reporter.HourlyUsage{{Window: hourAt(2), Subject: "a", Meter: "tokens", Quantity: meter.NewQuantity(1, 0), Events: 1}}}
	s.book(t, reporter.BookingRelease, hourAt(3), early)
	if usage = must(s.store.BookedUsage(ctx, hourAt(2), []string{"a"}))(t); len(usage) != 1 {
		t.Errorf("BookedUsage of an hour booked later = %+v, want one row", usage)
	}
}

// hostileTexts could break out of a literal, or be changed by a server that prints and parses a definition again.
func hostileTexts() []string {
	return []string{
		"", "it's", `back\slash`, `\'`, `"double" and ` + "`tick`", "line\nfeed\r\ttab", "\x00nul\x00", "名前 🧾 é", "\xff\xfe not UTF-8",
		"'; DROP TABLE bookings; --", `unhex('41')`, "/* comment */ -- rest", strings.Repeat("long ' ", 2000), "{x:String}", "%s%d", "a\\", "\u2028",
	}
}

// testHostileBookings shows that text survives the way through a view's definition, also when the row is made from the view
// by another process after a restart of the server.
func testHostileBookings(t *testing.T, s *suite) {
	ctx := t.Context()
	var want []reporter.Booking
	for i, text := range hostileTexts() {
		b := s.draft(t, reporter.BookingDecision, hourAt(i), &reporter.Rows{})
		b.Actor, b.Reason, b.InstanceID = text, text+text, "i-"+text
		if err := s.store.Commit(ctx, b); err != nil {
			t.Fatalf("Commit with %.40q: %v", text, err)
		}
		want = append(want, b)
	}
	compare := func(when string) {
		t.Helper()
		if diff := cmp.Diff(want, must(s.store.Bookings(ctx, time.Time{}, time.Time{}))(t)); diff != "" {
			t.Errorf("Bookings %s (-want +got):\n%s", when, diff)
		}
	}
	compare("as committed")
	if s.backend.Restart != nil {
		s.backend.Restart(t)
	}
	// As if the process had ended between the views and the rows of all of them.
	s.exec(t, "TRUNCATE TABLE bookings")
	last, ok, err := s.store.LastBooking(ctx)
	if err != nil || !ok || last.Number != want[len(want)-1].Number {
		t.Fatalf("LastBooking = %d, %v, %v, want %d", last.Number, ok, err, len(want))
	}
	compare("made again from the views")
	s.record("%d bookings", len(want))
}

// testCommitRace lets many processes race for the same numbers: exactly one wins each, and all agree on which.
func testCommitRace(t *testing.T, s *suite) {
	const racers, rounds = 16, 6
	stores := []*store.Store{s.store, s.open(t)}
	for round := range rounds {
		number := uint64(round + 1)
		var wins atomic.Int32
		var group sync.WaitGroup
		start := make(chan struct{})
		for i := range racers {
			group.Go(func() {
				b := reporter.Booking{
					Number: number, Version: number*1000 + uint64(i), Kind: reporter.BookingClose, Window: hourAt(round), At: base, Actor: strconv.Itoa(i),
				}
				<-start
				switch err := stores[i%2].Commit(t.Context(), b); {
				case err == nil:
					wins.Add(1)
					last, ok, err := stores[(i+1)%2].LastBooking(t.Context())
					if err != nil || !ok || last.Version != b.Version {
						t.Errorf("LastBooking after the win of version %d = %d, %v, %v", b.Version, last.Version, ok, err)
					}
				case !errors.Is(err, reporter.ErrBookingTaken):
					t.Errorf("Commit of a loser = %v, want ErrBookingTaken", err)
				}
			})
		}
		close(start)
		group.Wait()
		if wins.Load() != 1 {
			t.Errorf("booking %d has %d winners, want 1", number, wins.Load())
		}
	}
	if n := s.count(t, "bookings"); n < rounds {
		t.Errorf("rows of bookings = %d, want at least %d", n, rounds)
	}
	list := must(s.store.Bookings(t.Context(), time.Time{}, time.Time{}))(t)
	for i, b := range list {
		if b.Number != uint64(i+1) {
			t.Errorf("booking %d has number %d: a gap or a repetition", i, b.Number)
		}
	}
	s.record("%d bookings", len(list))
}

func testConcurrency(t *testing.T, s *suite) {
	// Two more daemons migrate an empty database at once.
	config := s.config
	config.Database += "_race"
	stores := make([]*store.Store, 3)
	var group sync.WaitGroup
	for i := range stores {
		group.Go(func() {
			st, err := store.Open(t.Context(), config)
			if err != nil {
				t.Errorf("Open: %v", err)
				return
			}
			stores[i] = st
		})
	}
	group.Wait()
	if t.Failed() {
		t.FailNow()
	}
	meters, w := allMeters(), meter.HourOf(base)
	catalog := newCatalog(t, meters)
	for i, st := range stores {
		group.Go(func() {
			for n := range 5 { // the stores' batches overlap
				var events []event
				for id := range 20 {
					events = append(events, event{id: strconv.Itoa(n*10 + id + i), data: `{"tokens":1,"user":"u"}`})
				}
				if err := st.InsertEvents(t.Context(), eventRows(catalog, events)); err != nil {
					t.Errorf("InsertEvents: %v", err)
				}
				_, err := st.CountWindowEvents(t.Context(), w)
				if err != nil {
					t.Errorf("CountWindowEvents: %v", err)
				}
			}
		})
	}
	group.Wait()
	n, err := stores[0].CountWindowEvents(t.Context(), w)
	if err != nil || n != 62 {
		t.Errorf("CountWindowEvents = %d, %v, want 62", n, err)
	}
	s.record("%d", n)
	for _, st := range stores {
		if err := st.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
}

func testRestart(t *testing.T, s *suite) {
	meters, w := allMeters(), meter.HourOf(base)
	s.insert(t, meters, fiveEvents()...)
	c := s.book(t, reporter.BookingClose, w, reporter.Rows{Records: []reporter.BillRecord{newRecord(1, base)}})
	want := s.aggregate(t, w, meters)
	if s.backend.Restart != nil {
		s.backend.Restart(t)
	}
	// The same Store connects again by itself.
	wantLines(t, "usage after a restart", s.aggregate(t, w, meters), want)
	s.insert(t, meters, fiveEvents()...)
	if len(s.due(t, c)) != 1 {
		t.Error("the record is not due any more")
	}
	again := s.open(t)
	if n, err := again.CountWindowEvents(t.Context(), w); err != nil || n != 5 {
		t.Errorf("CountWindowEvents of a new Store = %d, %v, want 5", n, err)
	}
	s.record("%d rows of usage", len(want))
}
