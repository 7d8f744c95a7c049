package storetest

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
	"github.com/meterd/meterd/store"
)

func testDecimals(t *testing.T, s *suite) {
	meters := []meter.Meter{
		newMeter("sum", meter.Sum, "$.v"), newMeter("max", meter.Max, "$.v"),
		newMeter("min", meter.Min, "$.v"), newMeter("last", meter.Latest, "$.v"),
	}
	values := []string{
		"0.000000000000000001", "999999999999999.999999999999999999", "0.1", "0.2", "1e3", "1.5e-3", "123456789012345.123456789012345678",
	}
	var sum meter.Quantity
	for i, v := range values {
		s.insert(t, meters, event{id: strconv.Itoa(i), at: base.Add(time.Duration(i) * time.Second), data: `{"v":"` + v + `"}`})
		sum = sum.Add(meter.MustParseQuantity(v))
	}
	lines := s.aggregate(t, meter.HourOf(base), meters)
	wantLines(t, "usage", lines, []string{
		`"tenant-1" last 123456789012345.123456789012345678 (7)`,
		`"tenant-1" max 999999999999999.999999999999999999 (7)`,
		`"tenant-1" min 0.000000000000000001 (7)`,
		fmt.Sprintf(`"tenant-1" sum %s (7)`, sum),
	})
	for _, line := range lines {
		s.record("%s", line)
	}
	// 0.1 added ten thousand times is a thousand, exactly.
	var events []event
	for i := range 10_000 {
		events = append(events, event{subject: "many", id: strconv.Itoa(i), at: base.Add(3 * time.Hour), data: `{"v":0.1}`})
	}
	s.insert(t, meters, events...)
	wantLines(t, "usage of many", s.aggregate(t, meter.HourOf(base.Add(3*time.Hour)), meters)[3:], []string{`"many" sum 1000 (10000)`})
}

func testOverflow(t *testing.T, s *suite) {
	meters := []meter.Meter{newMeter("sum", meter.Sum, "$.v"), newMeter("max", meter.Max, "$.v")}
	w := meter.HourOf(base)
	events := make([]event, 99_999)
	for i := range events {
		events[i] = event{id: strconv.Itoa(i), data: `{"v":999999999999999}`}
	}
	s.insert(t, meters, events...)
	lines := s.aggregate(t, w, meters)
	s.record("%q", lines)
	wantLines(t, "usage below the limit", lines, []string{`"tenant-1" max 999999999999999 (99999)`, `"tenant-1" sum 99998999999999900001 (99999)`})
	s.insert(t, meters, event{id: "b", data: `{"v":999999999999999}`}, event{id: "c", data: `{"v":999999999999999}`})
	// One subject too many doesn't keep the others from being billed.
	s.insert(t, meters, event{id: "d", subject: "tenant-2", data: `{"v":3}`})
	var yielded []string
	err := s.store.AggregateWindow(t.Context(), reporter.Scope{Hour: w}, meters, func(u reporter.WindowUsage) error {
		yielded = append(yielded, fmt.Sprintf("%s overflow=%v", usageLine(u), u.Overflow))
		return nil
	})
	if err != nil {
		t.Fatalf("AggregateWindow: %v", err)
	}
	wantLines(t, "usage beyond the limit", yielded, []string{
		`"tenant-1" max 999999999999999 (100001) overflow=false`, `"tenant-1" sum 0 (100001) overflow=true`,
		`"tenant-2" max 3 (1) overflow=false`, `"tenant-2" sum 3 (1) overflow=false`,
	})
	err = s.store.QueryMeter(t.Context(), meter.Query{Meter: meters[0], From: w.Start, To: w.End}, func(meter.QueryRow) error { return nil })
	if !errors.Is(err, store.ErrOverflow) {
		t.Errorf("QueryMeter = %v, want ErrOverflow", err)
	}
}

func testWindowsAndZones(t *testing.T, s *suite) {
	m := newMeter("tokens", meter.Sum, "$.tokens")
	at := func(text string) time.Time {
		parsed, err := time.Parse(time.RFC3339Nano, text)
		if err != nil {
			t.Fatal(err)
		}
		return parsed.UTC()
	}
	zone := func(name string) *time.Location {
		loc, err := time.LoadLocation(name)
		if err != nil {
			t.Fatal(err)
		}
		return loc
	}
	for i, text := range []string{
		"2026-01-31T15:59:59.999999999Z", // the last nanosecond of January in Shanghai
		"2026-01-31T16:00:00Z", "2026-01-31T16:00:59.5Z", "2026-01-31T16:01:00Z", "2026-02-01T15:59:59Z", "2026-02-01T16:00:00Z",
		"2026-03-29T00:59:59Z", "2026-03-29T01:00:00Z", "2026-03-28T23:00:00Z", "2026-03-28T22:59:59Z", // Berlin springs forward
		"2026-03-29T21:59:59Z", "2026-03-29T22:00:00Z",
		"2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-25T22:59:59Z", "2026-10-25T23:00:00Z", // and falls back
	} {
		s.insert(t, []meter.Meter{m}, event{id: strconv.Itoa(i), at: at(text), data: fmt.Sprintf(`{"tokens":%d}`, 1<<i)})
	}
	queries := []struct {
		name     string
		from, to string
		size     meter.WindowSize
		zone     *time.Location
	}{
		{"none", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z", "", nil},
		{"minutes", "2026-01-31T15:59:00Z", "2026-01-31T16:02:00Z", meter.WindowMinute, nil},
		{"hours", "2026-01-31T15:00:00Z", "2026-02-01T17:00:00Z", meter.WindowHour, nil},
		{"cut hours", "2026-01-31T15:59:59.5Z", "2026-01-31T16:00:30Z", meter.WindowHour, nil},
		{"days UTC", "2026-01-31T00:00:00Z", "2026-02-02T00:00:00Z", meter.WindowDay, nil},
		{"days Shanghai", "2026-01-30T16:00:00Z", "2026-02-02T16:00:00Z", meter.WindowDay, zone("Asia/Shanghai")},
		{"months Shanghai", "2025-12-31T16:00:00Z", "2026-12-31T16:00:00Z", meter.WindowMonth, zone("Asia/Shanghai")},
		{"months UTC", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z", meter.WindowMonth, time.UTC},
		{"days Berlin", "2026-03-27T23:00:00Z", "2026-11-01T23:00:00Z", meter.WindowDay, zone("Europe/Berlin")},
		{"days Kathmandu", "2026-01-31T18:15:00Z", "2026-03-31T18:15:00Z", meter.WindowDay, zone("Asia/Kathmandu")},
	}
	for _, q := range queries {
		got := s.query(t, meter.Query{Meter: m, From: at(q.from), To: at(q.to), WindowSize: q.size, Zone: q.zone})
		s.record("%s", q.name)
		for _, line := range got {
			s.record("  %s", line)
		}
	}
	got := s.query(t, meter.Query{Meter: m, From: at("2026-03-27T23:00:00Z"), To: at("2026-03-30T22:00:00Z"), WindowSize: meter.WindowDay, Zone: zone("Europe/Berlin")})
	wantLines(t, "days around the change of the clocks", got, []string{
		`2026-03-27T23:00:00Z/2026-03-28T23:00:00Z "" 512 (1)`,
		`2026-03-28T23:00:00Z/2026-03-29T22:00:00Z "" 1472 (4)`, // 23 hours long
		`2026-03-29T22:00:00Z/2026-03-30T22:00:00Z "" 2048 (1)`,
	})
	got = s.query(t, meter.Query{Meter: m, From: at("2026-01-30T16:00:00Z"), To: at("2026-02-02T16:00:00Z"), WindowSize: meter.WindowDay, Zone: zone("Asia/Shanghai")})
	wantLines(t, "days in Shanghai", got, []string{
		`2026-01-30T16:00:00Z/2026-01-31T16:00:00Z "" 1 (1)`,
		`2026-01-31T16:00:00Z/2026-02-01T16:00:00Z "" 30 (4)`,
		`2026-02-01T16:00:00Z/2026-02-02T16:00:00Z "" 32 (1)`,
	})
}

func testGroupAndFilter(t *testing.T, s *suite) {
	meters := allMeters()
	for i := range 24 {
		s.insert(t, meters, event{
			id: strconv.Itoa(i), subject: fmt.Sprintf("tenant-%d", i%3), at: base.Add(time.Duration(i) * 10 * time.Minute),
			data: fmt.Sprintf(`{"tokens":%d,"user":"u%d","model":"m%d","region":%q}`, 1+i, i%5, i%2, []string{"eu", "us", ""}[i%3]),
		})
	}
	from, to := base, base.Add(4*time.Hour)
	queries := []struct {
		name  string
		query meter.Query
	}{
		{"all", meter.Query{}},
		{"by subject", meter.Query{GroupBy: []string{"subject"}}},
		{"by model", meter.Query{GroupBy: []string{"model"}}},
		{"by both", meter.Query{GroupBy: []string{"model", "subject"}}},
		{"one subject", meter.Query{Subjects: []string{"tenant-1"}}},
		{"two subjects", meter.Query{Subjects: []string{"tenant-1", "tenant-2"}, GroupBy: []string{"subject"}}},
		{"filter", meter.Query{Filter: map[string][]string{"model": {"m1"}}}},
		{"filter values", meter.Query{Filter: map[string][]string{"model": {"m0", "m1", "nothing"}}, GroupBy: []string{"model"}}},
		{"hours", meter.Query{WindowSize: meter.WindowHour, GroupBy: []string{"model"}}},
	}
	for _, m := range []meter.Meter{meters[0], meters[1], meters[2], meters[5]} {
		for _, c := range queries {
			q := c.query
			if len(m.GroupBy) == 0 && strings.Contains(fmt.Sprint(q.GroupBy, q.Filter), "model") {
				continue
			}
			q.Meter, q.From, q.To = m, from, to
			s.record("%s, %s:", m.Slug, c.name)
			for _, line := range s.query(t, q) {
				s.record("  %s", line)
			}
		}
	}
	q := meter.Query{Meter: meters[1], From: from, To: to, GroupBy: []string{"region"}, Filter: map[string][]string{"subject": {"tenant-0", "tenant-2"}, "region": {"eu", ""}}}
	w := meter.Window{Start: from, End: to}
	wantLines(t, "filter by subject and empty dimension", s.query(t, q), []string{
		fmt.Sprintf(`%s "" region="" 108 (8)`, w), fmt.Sprintf(`%s "" region="eu" 92 (8)`, w),
	})
	q.Subjects = []string{"tenant-1"}
	wantLines(t, "filters that exclude each other", s.query(t, q), []string{})
	q.Subjects, q.Filter = nil, map[string][]string{"region": {}}
	wantLines(t, "filter without values", s.query(t, q), []string{})
}

func testBadQueries(t *testing.T, s *suite) {
	meters := allMeters()
	good := meter.Query{Meter: meters[1], From: base, To: base.Add(time.Hour)}
	for i, change := range []func(q *meter.Query){
		func(q *meter.Query) { q.GroupBy = []string{"colour"} },
		func(q *meter.Query) { q.Filter = map[string][]string{"colour": {"red"}} },
		func(q *meter.Query) { q.To = q.From },
		func(q *meter.Query) { q.WindowSize = "WEEK" },
		func(q *meter.Query) { q.From = time.Unix(-1, 0) },
	} {
		q := good
		change(&q)
		if err := s.store.QueryMeter(t.Context(), q, func(meter.QueryRow) error { return nil }); !errors.Is(err, store.ErrBadQuery) {
			t.Errorf("QueryMeter, bad query %d = %v, want ErrBadQuery", i, err)
		} else {
			s.record("%v", err)
		}
	}
	if err := s.store.AggregateWindow(t.Context(), reporter.Scope{Hour: meter.Window{Start: base, End: base.Add(time.Minute)}}, meters, nil); err == nil {
		t.Error("AggregateWindow of a minute succeeded, want an error")
	}
	boom := errors.New("boom")
	s.insert(t, meters, fiveEvents()...)
	if err := s.store.QueryMeter(t.Context(), good, func(meter.QueryRow) error { return boom }); !errors.Is(err, boom) {
		t.Errorf("QueryMeter = %v, want the error of yield", err)
	}
	if err := s.store.AggregateWindow(t.Context(), reporter.Scope{Hour: meter.HourOf(base)}, meters, func(reporter.WindowUsage) error { return boom }); !errors.Is(err, boom) {
		t.Errorf("AggregateWindow = %v, want the error of yield", err)
	}
}

// strangeTexts must travel unchanged and never be taken for SQL.
func strangeTexts() []string {
	return []string{
		"'", `\`, `\'`, `'; DROP TABLE usage_events; --`, "\n\r\t\b", "nul\x00inside", `"`, "`", "?", "$1 {x:String} @name", "%s %d",
		"tenant 42 ", "名前", "🧾", "\u202e", "\xff\xfe not UTF-8", strings.Repeat("long ", 200), "/* */ -- #", "\x7f", "\\x41", "\\0",
	}
}

func testStrangeText(t *testing.T, s *suite) {
	m := newMeter("tokens", meter.Sum, "$.tokens", "model")
	users := newMeter("users", meter.UniqueCount, "$.user", "model")
	meters := []meter.Meter{m, users}
	catalog := newCatalog(t, meters)
	w := meter.HourOf(base)
	for i, text := range strangeTexts() {
		rows := eventRows(catalog, []event{{subject: text, source: text, id: text, data: `{"tokens":1,"user":"u","model":"m"}`}})
		for j := range rows.Values {
			rows.Values[j].Dimensions[0] = []byte(text)
			if rows.Values[j].Text != nil {
				rows.Values[j].Text = []byte(text)
			}
		}
		rows.Extensions[0] = []byte(text)
		if err := s.store.InsertEvents(t.Context(), rows); err != nil {
			t.Fatalf("InsertEvents(%q): %v", text, err)
		}
		q := meter.Query{Meter: m, From: w.Start, To: w.End, GroupBy: []string{"subject", "model"}}
		q.Subjects, q.Filter = []string{text}, map[string][]string{"model": {text}}
		wantLines(t, fmt.Sprintf("query for %q", text), s.query(t, q), []string{fmt.Sprintf("%s %q model=%q 1 (1)", w, text, text)})
		record := newRecord(i, base)
		record.Subject, record.InstanceID, record.Package, record.Last.Message = text, text, text, text
		s.book(t, reporter.BookingClose, hourAt(i), reporter.Rows{Records: []reporter.BillRecord{record}})
		list, err := s.store.Records(t.Context(), reporter.RecordFilter{Subject: text, InstanceID: text})
		if err != nil || len(list) != 1 || list[0].Subject != text || list[0].Last.Message != text || list[0].Package != text {
			t.Errorf("Records(%q) = %+v, %v", text, list, err)
		}
	}
	s.insert(t, meters, event{id: "conflict", data: `{"tokens":1,"user":"u"}`}, event{id: "conflict", subject: "'", data: `{"tokens":2,"user":"u"}`})
	lines := s.aggregate(t, w, meters)
	if want := 2 * (len(strangeTexts()) + 1); len(lines) != want {
		t.Errorf("AggregateWindow has %d rows, want %d", len(lines), want)
	}
	for _, line := range lines {
		s.record("%s", line)
	}
	for _, text := range strangeTexts() {
		sn := reporter.MeteringSN(text)
		if list, err := s.store.Transitions(t.Context(), sn); err != nil || len(list) != 0 {
			t.Errorf("Transitions(%q) = %v, %v, want none", text, list, err)
		}
		if _, err := s.store.Records(t.Context(), reporter.RecordFilter{SN: sn, After: "1-" + text}); err != nil && !errors.Is(err, store.ErrBadQuery) {
			t.Errorf("Records(SN %q): %v", text, err)
		}
	}
}

func testMeterDefinedLater(t *testing.T, s *suite) {
	first := []meter.Meter{newMeter("tokens", meter.Sum, "$.tokens")}
	later := append(first[:1:1], newMeter("cost", meter.Sum, "$.cost", "model"), newMeter("users", meter.UniqueCount, "$.user"))
	w := meter.HourOf(base)
	old := []event{
		{id: "1", data: `{"tokens":1,"cost":"0.5","user":"ann","model":"s"}`},
		{id: "2", data: `{"tokens":2,"cost":"0.25","user":"bob","model":"l"}`},
		{id: "2", data: `{"tokens":2,"cost":"9","user":"eve","model":"l"}`, received: base.Add(50 * time.Minute)}, // a conflict
		{id: "3", subject: "tenant-2", data: `{"tokens":3}`},                                                      // has no cost
		{id: "4", subject: "tenant-2", eventType: "other", data: `{"cost":7}`},
	}
	s.insert(t, first, old...)
	s.insert(t, first, old[0]) // a duplicate
	wantLines(t, "usage before", s.aggregate(t, w, first), []string{`"tenant-1" tokens 3 (2)`, `"tenant-2" tokens 3 (1)`})

	// Now the meters are declared, and an event with their values arrives.
	s.insert(t, later, event{id: "5", data: `{"tokens":4,"cost":"0.125","user":"ann","model":"s"}`})
	q := meter.Query{Meter: later[1], From: w.Start, To: w.End, GroupBy: []string{"model"}}
	err := s.store.QueryMeter(t.Context(), q, func(meter.QueryRow) error { return nil })
	if !errors.Is(err, store.ErrNotBackfilled) {
		t.Errorf("QueryMeter before the backfill = %v, want ErrNotBackfilled", err)
	}
	s.record("%v", err)
	if err := s.store.AggregateWindow(t.Context(), reporter.Scope{Hour: w}, later, nil); !errors.Is(err, store.ErrNotBackfilled) {
		t.Errorf("AggregateWindow before the backfill = %v, want ErrNotBackfilled", err)
	}
	report, err := s.store.BackfillMeters(t.Context(), newCatalog(t, later), later, time.Time{}, time.Time{})
	if err != nil || !report.Complete || report.Hours != 1 {
		t.Fatalf("BackfillMeters = %+v, %v", report, err)
	}
	s.record("%+v", report)
	want := []string{
		`"tenant-1" cost 0.875 (3)`, `"tenant-1" tokens 7 (3)`, `"tenant-1" users 2 (3)`, `"tenant-2" tokens 3 (1)`,
	}
	check := func(when string) {
		wantLines(t, "usage "+when, s.aggregate(t, w, later), want)
		wantLines(t, "query "+when, s.query(t, q), []string{
			fmt.Sprintf(`%s "" model="l" 0.25 (1)`, w), fmt.Sprintf(`%s "" model="s" 0.625 (2)`, w),
		})
	}
	check("after the backfill")
	s.optimize(t)
	check("after a merge")
	if report, err = s.store.BackfillMeters(t.Context(), newCatalog(t, later), later, time.Time{}, time.Time{}); err != nil || report.Hours != 0 {
		t.Errorf("BackfillMeters again = %+v, %v, want nothing to do", report, err)
	}

	// A collector with the newer configuration repeats old events: their values now come with them, and count once.
	s.insert(t, later, old[0], old[1])
	if _, err = s.store.BackfillMeters(t.Context(), newCatalog(t, later), later, time.Time{}, time.Time{}); err != nil {
		t.Fatalf("BackfillMeters after a repeat: %v", err)
	}
	check("after a repeat with values")

	// A collector that still has the old configuration: noticed, and the store computes the values itself if it can.
	s.insert(t, first, event{id: "6", data: `{"tokens":1,"cost":"1","user":"zoe","model":"s"}`})
	if err := s.store.AggregateWindow(t.Context(), reporter.Scope{Hour: w}, later, nil); !errors.Is(err, store.ErrNotBackfilled) {
		t.Errorf("AggregateWindow after a straggler = %v, want ErrNotBackfilled", err)
	}
	config := s.config
	config.Values = newCatalog(t, later)
	able := openStore(t, config)
	var got []string
	err = able.AggregateWindow(t.Context(), reporter.Scope{Hour: w}, later, func(u reporter.WindowUsage) error {
		got = append(got, usageLine(u))
		return nil
	})
	if err != nil {
		t.Fatalf("AggregateWindow with values: %v", err)
	}
	wantLines(t, "usage with a straggler", got, []string{
		`"tenant-1" cost 1.875 (4)`, `"tenant-1" tokens 8 (4)`, `"tenant-1" users 3 (4)`, `"tenant-2" tokens 3 (1)`,
	})
	testConflictDuringBackfill(t, s, later)
	// Subjects without such events are answered without the backfill's help.
	wantLines(t, "query of another subject", s.query(t, meter.Query{Meter: later[1], From: w.Start, To: w.End, Subjects: []string{"nobody"}}), []string{})
}

// arriving computes values like its catalog, but first lets something happen.
type arriving struct {
	store.ValueReader
	happen func()
}

func (a *arriving) Values(ev *meter.Event) ([]meter.EventValue, *meter.Problem) {
	if a.happen != nil {
		a.happen()
		a.happen = nil
	}
	return a.ValueReader.Values(ev)
}

// testConflictDuringBackfill lets events that must not count arrive while values are computed: what was known about
// conflicts and retries before is out of date then.
func testConflictDuringBackfill(t *testing.T, s *suite, meters []meter.Meter) {
	t.Helper()
	w := meter.HourOf(base.Add(5 * time.Hour))
	at := w.Start.Add(time.Minute)
	s.insert(t, meters[:1],
		event{id: "once", at: at, data: `{"tokens":1,"cost":1,"user":"u"}`}, event{id: "again", at: at, stamped: true, data: `{"tokens":10,"cost":10,"user":"u"}`})
	config := s.config
	config.Values = &arriving{newCatalog(t, meters), func() {
		s.insert(t, meters, event{id: "once", at: at.Add(time.Second), data: `{"tokens":100,"cost":100,"user":"u"}`},
			event{id: "again", at: at.Add(-time.Hour), stamped: true, data: `{"tokens":10,"cost":10,"user":"u"}`})
	}}
	var got []string
	err := openStore(t, config).AggregateWindow(t.Context(), reporter.Scope{Hour: w}, meters, func(u reporter.WindowUsage) error {
		got = append(got, usageLine(u))
		return nil
	})
	if err != nil {
		t.Fatalf("AggregateWindow: %v", err)
	}
	wantLines(t, "usage after a conflict during the backfill", got, []string{`"tenant-1" cost 1 (1)`, `"tenant-1" tokens 1 (1)`, `"tenant-1" users 1 (1)`})
}
