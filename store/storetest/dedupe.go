package storetest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
	"github.com/meterd/meterd/store"
)

func testMigrations(t *testing.T, s *suite) {
	again := s.open(t) // everything is applied already
	if err := again.Ready(t.Context()); err != nil {
		t.Errorf("Ready: %v", err)
	}
	applied := s.count(t, "schema_migrations")
	s.record("migrations: %d", applied)
	// A daemon that stopped between the last statement and the record of it.
	s.exec(t, "TRUNCATE TABLE schema_migrations")
	s.insert(t, allMeters(), event{id: "a", data: `{"tokens":1,"user":"u"}`})
	s.open(t)
	if n := s.count(t, "schema_migrations"); n != applied {
		t.Errorf("migrations recorded after a rerun = %d, want %d", n, applied)
	}
	if n := s.count(t, "usage_events"); n != 1 {
		t.Errorf("events after a rerun = %d, want 1", n)
	}
	// A file that was edited after it had been applied.
	s.exec(t, "TRUNCATE TABLE schema_migrations",
		"INSERT INTO schema_migrations (number, name, checksum, applied_at) SELECT toUInt32(1), 'x', 'y', toDateTime('2026-01-01 00:00:00', 'UTC')")
	if st, err := store.Open(t.Context(), s.config); err == nil || !strings.Contains(err.Error(), "was changed after") {
		t.Errorf("Open with a changed migration: %v, want an error about it", err)
		if err == nil {
			_ = st.Close()
		}
	}
}

// fiveEvents has two subjects in one hour.
func fiveEvents() []event {
	return []event{
		{id: "1", data: `{"tokens":10,"user":"ann","model":"s","region":"eu"}`},
		{id: "2", data: `{"tokens":"2.5","user":"bob","model":"l","region":"us"}`},
		{id: "3", data: `{"tokens":0,"user":"ann","model":"s"}`, at: base.Add(59*time.Minute + 59*time.Second)},
		{id: "4", subject: "tenant-2", data: `{"tokens":7,"user":"eve","model":"s"}`, at: base},
		{id: "5", subject: "tenant-2", eventType: "other", data: `{"x":1}`},
	}
}

func testGrouping(t *testing.T, s *suite) {
	meters, w := allMeters(), meter.HourOf(base)
	events := fiveEvents()
	s.insert(t, meters, events...)
	want := s.aggregate(t, w, meters)
	for _, line := range want {
		s.record("%s", line)
	}
	if n := s.countEvents(t, w); n != 5 {
		t.Errorf("CountWindowEvents = %d, want 5", n)
	}
	// Again, whole, cut, in another order, twice in one batch.
	s.insert(t, meters, events...)
	s.insert(t, meters, events[:2]...)
	s.insert(t, meters, events[3], events[1], events[3])
	reversed := slices.Clone(events)
	slices.Reverse(reversed)
	s.insert(t, meters, reversed...)
	check := func(when string) {
		wantLines(t, "usage "+when, s.aggregate(t, w, meters), want)
		if n := s.countEvents(t, w); n != 5 {
			t.Errorf("CountWindowEvents %s = %d, want 5", when, n)
		}
		counts, err := s.store.CountEvents(t.Context(), w.Start, w.End)
		if err != nil || counts.Distinct != 5 || counts.Counted != 5 || counts.Conflicts+counts.Retries != 0 {
			t.Errorf("CountEvents %s = %+v, %v, want 5 distinct that all count", when, counts, err)
		}
	}
	check("after repeats")
	s.optimize(t)
	check("after a merge")
	if n := s.count(t, "usage_events"); n != 5 {
		t.Errorf("rows after a merge = %d, want 5", n)
	}
	s.insert(t, meters, events...)
	check("after repeats of merged rows")
	if w, ok, err := s.store.FirstEventHour(t.Context()); err != nil || !ok || w != meter.HourOf(base) {
		t.Errorf("FirstEventHour = %s, %v, %v, want %s", w, ok, err, meter.HourOf(base))
	}
	wantLines(t, "usage of the hour before", s.aggregate(t, meter.HourOf(base.Add(-time.Second)), meters), []string{})
	wantLines(t, "usage of the hour after", s.aggregate(t, w.Next(), meters), []string{})
}

func testConflicts(t *testing.T, s *suite) {
	meters, w := allMeters(), meter.HourOf(base)
	first := event{id: "same", data: `{"tokens":5,"user":"ann"}`, received: base.Add(20 * time.Minute)}
	second := event{id: "same", data: `{"tokens":500,"user":"bob"}`, received: base.Add(21 * time.Minute)}
	// Of another type: no meter has it, and still it is the one that was first.
	other := event{id: "typed", eventType: "other", data: `{"y":1}`, received: base.Add(20 * time.Minute)}
	prompt := event{id: "typed", data: `{"tokens":9,"user":"cat"}`, received: base.Add(22 * time.Minute)}
	s.insert(t, meters, second, prompt) // the order of inserts must not matter, that of receipt does
	s.insert(t, meters, first, other)
	s.insert(t, meters, second, first)
	check := func(when string) {
		lines := s.aggregate(t, w, meters)
		if when == "before a merge" {
			for _, line := range lines {
				s.record("%s", line)
			}
		}
		for _, want := range []string{`"tenant-1" tokens_total 5 (1)`, `"tenant-1" calls 1 (1)`, `"tenant-1" users 1 (1)`} {
			if !slices.Contains(lines, want) {
				t.Errorf("usage %s lacks %s:\n%s", when, want, strings.Join(lines, "\n"))
			}
		}
		if n := s.countEvents(t, w); n != 2 {
			t.Errorf("CountWindowEvents %s = %d, want 2", when, n)
		}
		wantLines(t, "QueryMeter "+when, s.query(t, meter.Query{Meter: meters[1], From: w.Start, To: w.End}),
			[]string{fmt.Sprintf(`%s "" 5 (1)`, w)})
		conflicts, err := s.store.Conflicts(t.Context(), w.Start, w.End, 10)
		if err != nil || len(conflicts) != 2 {
			t.Fatalf("Conflicts %s = %+v, %v, want 2", when, conflicts, err)
		}
		for i, want := range []event{second, prompt} {
			if c := conflicts[i]; c.ID != want.id || c.Data != want.data || c.Kind != "content" || !c.ReceivedAt.Equal(want.received) || c.Hour != w {
				t.Errorf("Conflicts %s [%d] = %+v, want %+v", when, i, c, want)
			}
		}
		counts, err := s.store.CountEvents(t.Context(), w.Start, w.End)
		if err != nil || counts.Conflicts != 2 || counts.Counted != 2 || counts.Distinct != 4 {
			t.Errorf("CountEvents %s = %+v, %v", when, counts, err)
		}
	}
	check("before a merge")
	s.optimize(t)
	check("after a merge")
	// The same instant of receipt at two collectors: the smaller content wins, everywhere.
	at := base.Add(2 * time.Hour)
	a := event{id: "tie", at: at, data: `{"tokens":1,"user":"u"}`}
	b := event{id: "tie", at: at, data: `{"tokens":2,"user":"u"}`}
	s.insert(t, meters, a)
	s.insert(t, meters, b)
	want := `"tenant-1" tokens_total 1 (1)`
	if b.withDefaults().content() < a.withDefaults().content() {
		want = `"tenant-1" tokens_total 2 (1)`
	}
	if lines := s.aggregate(t, meter.HourOf(at), meters); !slices.Contains(lines, want) {
		t.Errorf("usage of a tie = %q, want %s", lines, want)
	}
	s.record("tie: %s", want)
}

func testStamped(t *testing.T, s *suite) {
	meters := allMeters()
	hour := func(n int) meter.Window { return meter.HourOf(base.Add(time.Duration(n) * time.Hour)) }
	stamped := func(id string, at time.Time) event {
		return event{id: id, stamped: true, at: at, data: `{"tokens":3,"user":"u"}`}
	}
	edge := hour(1).Start
	events := []event{
		stamped("retry", edge.Add(-time.Nanosecond)),
		stamped("retry", edge), // one nanosecond later, in the next hour
		stamped("fresh", edge.Add(time.Minute)),
		{id: "explicit", at: edge.Add(-time.Minute), data: `{"tokens":3,"user":"u"}`},
		{id: "explicit", at: edge.Add(time.Minute), data: `{"tokens":3,"user":"u"}`}, // the sender's own doing: counts twice
		stamped("retry", hour(1).Start.Add(24*time.Hour)),                            // within the lookback of the one before
		stamped("old", edge), stamped("old", edge.Add(25*time.Hour)),                 // beyond the lookback
		{id: "mixed", at: edge.Add(-time.Minute), data: `{"tokens":3,"user":"u"}`},
		stamped("mixed", edge), // only one was stamped
	}
	for i := range events {
		s.insert(t, meters, events[i])
	}
	for _, when := range []string{"before a merge", "after a merge"} {
		for _, n := range []int{0, 1, 25, 26} {
			w := hour(n)
			want := countedEvents(events, w, 24*time.Hour)
			if got := s.countEvents(t, w); got != uint64(len(want)) {
				t.Errorf("CountWindowEvents(%s) %s = %d, want %d", w, when, got, len(want))
			}
			lines := s.aggregate(t, w, meters)
			if when == "before a merge" {
				s.record("hour %d: %q", n, lines)
			}
			if len(want) > 0 && !slices.Contains(lines, fmt.Sprintf(`"tenant-1" calls %d (%[1]d)`, len(want))) {
				t.Errorf("usage of %s %s = %q, want %d calls", w, when, lines, len(want))
			}
		}
		// One query over all the hours applies the rule hour by hour.
		got := s.query(t, meter.Query{Meter: meters[0], From: hour(0).Start, To: hour(27).Start, WindowSize: meter.WindowHour})
		var want []string
		for _, n := range []int{0, 1, 25, 26} {
			if c := len(countedEvents(events, hour(n), 24*time.Hour)); c > 0 {
				want = append(want, fmt.Sprintf(`%s "" %d (%[2]d)`, hour(n), c))
			}
		}
		wantLines(t, "QueryMeter "+when, got, want)
		s.optimize(t)
	}
	conflicts, err := s.store.Conflicts(t.Context(), hour(0).Start, hour(27).Start, 10)
	if err != nil || len(conflicts) != 2 || conflicts[0].Kind != "retry" || conflicts[1].Kind != "retry" {
		t.Errorf("Conflicts = %+v, %v, want two retries", conflicts, err)
	}
	repeated, err := s.store.RepeatedIDs(t.Context(), hour(0).Start, hour(27).Start, 10)
	if err != nil || len(repeated) != 1 || repeated[0].ID != "explicit" || repeated[0].Hours != 2 {
		t.Errorf("RepeatedIDs = %+v, %v, want explicit in two hours", repeated, err)
	}
}

// genEvents draws events of a few days with few subjects and ids, so that duplicates, conflicts and retries abound.
func genEvents(start time.Time) *rapid.Generator[[]event] {
	one := rapid.Custom(func(t *rapid.T) event {
		e := event{
			subject: rapid.SampledFrom([]string{"a", "b", "tenant-3"}).Draw(t, "subject"),
			source:  rapid.SampledFrom([]string{"s1", "s2"}).Draw(t, "source"),
			id:      rapid.SampledFrom([]string{"1", "2", "3", "4", "5", "6", "7"}).Draw(t, "id"),
			stamped: rapid.IntRange(0, 3).Draw(t, "stamped") == 0,
			at:      start.Add(time.Duration(rapid.Int64Range(0, int64(3*time.Hour)).Draw(t, "at"))),
		}
		e.received = e.at
		if !e.stamped {
			e.received = e.at.Add(time.Duration(rapid.Int64Range(0, int64(time.Minute)).Draw(t, "delay")))
		}
		if rapid.IntRange(0, 9).Draw(t, "type") == 0 {
			e.eventType, e.data = "other", `{"z":1}`
			return e.withDefaults()
		}
		e.data = fmt.Sprintf(`{"tokens":"%d.%03d","user":"u%d","model":"m%d"}`, rapid.IntRange(0, 999).Draw(t, "whole"),
			rapid.IntRange(0, 999).Draw(t, "part"), rapid.IntRange(0, 3).Draw(t, "user"), rapid.IntRange(0, 1).Draw(t, "model"))
		return e.withDefaults()
	})
	return rapid.Custom(func(t *rapid.T) []event {
		events := rapid.SliceOfN(one, 1, 40).Draw(t, "events")
		for range rapid.IntRange(0, 10).Draw(t, "repeats") {
			events = append(events, events[rapid.IntRange(0, len(events)-1).Draw(t, "repeat")])
		}
		return events
	})
}

func testRandomEvents(t *testing.T, s *suite) {
	meters := allMeters()
	catalog := newCatalog(t, meters)
	total := 0
	for seed := range 12 {
		start := base.Add(time.Duration(seed) * 4 * 24 * time.Hour) // further apart than the lookback
		events := genEvents(start).Example(seed + 1)
		for rest := events; len(rest) > 0; {
			n := min(len(rest), 1+(seed*7+len(rest))%13)
			s.insert(t, meters, rest[:n]...)
			rest = rest[n:]
		}
		for n := range 3 {
			w := meter.HourOf(start.Add(time.Duration(n) * time.Hour))
			counted := countedEvents(events, w, 24*time.Hour)
			want := []string{}
			for _, u := range aggregateEvents(catalog, meters, counted) {
				want = append(want, usageLine(u))
			}
			wantLines(t, fmt.Sprintf("seed %d, usage of %s", seed, w), s.aggregate(t, w, meters), want)
			if n := s.countEvents(t, w); n != uint64(len(counted)) {
				t.Errorf("seed %d: CountWindowEvents(%s) = %d, want %d", seed, w, n, len(counted))
			}
			total += len(counted)
			for _, m := range meters { // a query of the same hour sees the same events
				wantSame(t, s, m, w, want)
			}
		}
		if seed == 5 {
			s.optimize(t)
		}
	}
	s.record("counted events: %d", total)
}

// wantSame compares a query of one window by subject with its usage.
func wantSame(t *testing.T, s *suite, m meter.Meter, w meter.Window, usage []string) {
	t.Helper()
	got := []string{}
	err := s.store.QueryMeter(t.Context(), meter.Query{Meter: m, From: w.Start, To: w.End, GroupBy: []string{"subject"}}, func(r meter.QueryRow) error {
		got = append(got, fmt.Sprintf("%q %s %s (%d)", r.Subject, m.Slug, r.Value, r.Events))
		return nil
	})
	if err != nil {
		t.Fatalf("QueryMeter(%s): %v", m.Slug, err)
	}
	want := []string{}
	for _, line := range usage {
		if strings.Contains(line, "\" "+m.Slug+" ") {
			want = append(want, line)
		}
	}
	wantLines(t, fmt.Sprintf("query of %s in %s", m.Slug, w), got, want)
}

func testRefusedRows(t *testing.T, s *suite) {
	meters := allMeters()
	catalog := newCatalog(t, meters)
	tooLarge := eventRows(catalog, fiveEvents())
	tooLarge.Values[0].Quantity = meter.NewQuantity(1, 20)
	tooFine := eventRows(catalog, fiveEvents())
	tooFine.Values[0].Quantity = meter.NewQuantity(1, -19)
	beforeEpoch := eventRows(catalog, fiveEvents())
	beforeEpoch.Time[2] = -1
	short := eventRows(catalog, fiveEvents())
	short.Data = short.Data[:3]
	for name, rows := range map[string]*meter.EventRows{"too large": tooLarge, "too fine": tooFine, "before 1970": beforeEpoch, "short column": short} {
		if err := s.store.InsertEvents(t.Context(), rows); !errors.Is(err, meter.ErrRefused) {
			t.Errorf("InsertEvents(%s) = %v, want ErrRefused", name, err)
		}
	}
	if n := s.count(t, "usage_events"); n != 0 {
		t.Errorf("rows after refused inserts = %d, want 0", n)
	}
	if err := s.store.InsertEvents(t.Context(), &meter.EventRows{}); err != nil {
		t.Errorf("InsertEvents of nothing: %v", err)
	}
	// A table that is missing is not the rows' fault.
	s.exec(t, "DROP TABLE usage_events")
	err := s.store.InsertEvents(t.Context(), eventRows(catalog, fiveEvents()))
	if err == nil || errors.Is(err, meter.ErrRefused) {
		t.Errorf("InsertEvents without a table = %v, want an error that may be cured", err)
	}
}

// testRowsWritten takes the way of servers that don't report rows written: a merge has kept an earlier duplicate.
func testRowsWritten(t *testing.T, s *suite) {
	meters := allMeters()
	events := fiveEvents()
	s.insert(t, meters, events...)
	s.optimize(t)
	s.insert(t, meters, append(events[:3:3], events[2], event{id: "new", data: `{"tokens":1,"user":"u"}`})...)
	s.optimize(t)
	s.insert(t, meters, events...)
	w := meter.HourOf(base)
	s.record("events: %d", s.countEvents(t, w))
	if n := s.countEvents(t, w); n != 6 {
		t.Errorf("CountWindowEvents = %d, want 6", n)
	}
	if s.config.DialContext != nil {
		return // the engine's bridge counts rows itself; its own tests show it
	}
	// A server that confirms and forgets.
	s.exec(t, "DROP TABLE usage_events", "CREATE TABLE usage_events (hour DateTime('UTC'), subject String, event_key FixedString(16),"+
		" content UInt64, version UInt64, batch UInt64, time Int64, stamped UInt8, source String, id String, type String, data String,"+
		" extensions String, meters Array(UInt64), quantities Array(Decimal(38, 18)), texts Array(String), dimensions Array(Array(String))) ENGINE = Null")
	err := s.store.InsertEvents(t.Context(), eventRows(newCatalog(t, meters), events))
	if !errors.Is(err, store.ErrRowsMissing) || errors.Is(err, meter.ErrRefused) {
		t.Errorf("InsertEvents into nothing = %v, want ErrRowsMissing", err)
	}
}

// testWindowChanges lets an event arrive while its hour is read: the reader goes on, and the hour is stale afterwards.
func testWindowChanges(t *testing.T, s *suite) {
	meters, w := allMeters(), meter.HourOf(base)
	s.insert(t, meters, fiveEvents()...)
	before := s.aggregate(t, w, meters)
	covered := s.touches(t, w)
	var got []string
	err := s.store.AggregateWindow(t.Context(), reporter.Scope{Hour: w}, meters, func(u reporter.WindowUsage) error {
		if len(got) == 0 {
			s.insert(t, meters, event{id: "late", subject: "tenant-9", data: `{"tokens":1,"user":"u"}`})
		}
		got = append(got, usageLine(u))
		return nil
	})
	if err != nil {
		t.Fatalf("AggregateWindow while an event arrives: %v", err)
	}
	if got = slices.DeleteFunc(got, func(line string) bool { return strings.Contains(line, "tenant-9") }); !slices.Equal(got, before) {
		t.Errorf("usage of the others = %q, want %q", got, before)
	}
	if now := s.touches(t, w); len(now) <= len(covered) {
		t.Errorf("%d touches before, %d after: the late event left none", len(covered), len(now))
	}
}
