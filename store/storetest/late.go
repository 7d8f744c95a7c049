package storetest

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

// scoped returns the usage of a scope as lines.
func (s *suite) scoped(t *testing.T, sc reporter.Scope, meters []meter.Meter) []string {
	t.Helper()
	lines := []string{}
	err := s.store.AggregateWindow(t.Context(), sc, meters, func(u reporter.WindowUsage) error {
		lines = append(lines, usageLine(u))
		return nil
	})
	if err != nil {
		t.Fatalf("AggregateWindow(%+v): %v", sc, err)
	}
	return lines
}

// testScopes limits what is counted of an hour.
func testScopes(t *testing.T, s *suite) {
	meters, w := []meter.Meter{newMeter("tokens", meter.Sum, "$.tokens")}, meter.HourOf(base)
	var events []event
	var subjects, want []string
	for i := range 4500 { // more than one query names
		subject := fmt.Sprintf("s%04d", i)
		events = append(events, event{id: "x", subject: subject, data: fmt.Sprintf(`{"tokens":%d}`, i+1)})
		if i%2 == 0 {
			subjects = append(subjects, subject)
			want = append(want, fmt.Sprintf("%q tokens %d (1)", subject, i+1))
		}
	}
	s.insert(t, meters, events...)
	wantLines(t, "usage of half of the subjects", s.scoped(t, reporter.Scope{Hour: w, Subjects: append(subjects, "s0000", "nobody")}, meters), want)
	wantLines(t, "usage of no subjects", s.scoped(t, reporter.Scope{Hour: w, Subjects: []string{}}, meters), []string{})
	all := s.scoped(t, reporter.Scope{Hour: w}, meters)
	if len(all) != 4500 {
		t.Errorf("rows of all subjects = %d, want 4500", len(all))
	}

	// Before: what is a duplicate or a conflict is decided by all of the hour.
	at := func(minutes int) time.Time { return w.Start.Add(time.Duration(minutes) * time.Minute) }
	s.insert(t, meters, event{id: "a", subject: "r", at: at(10), data: `{"tokens":1}`}, event{id: "b", subject: "r", at: at(20), data: `{"tokens":10}`},
		event{id: "c", subject: "r", at: at(5), received: at(40), data: `{"tokens":100}`}, event{id: "c", subject: "r", at: at(30), data: `{"tokens":1000}`},
		event{id: "d", subject: "r", stamped: true, at: at(30), data: `{"tokens":10000}`}, event{id: "d", subject: "r", stamped: true, at: at(15), data: `{"tokens":10000}`})
	for minutes, want := range map[int][]string{
		0: {}, 10: {}, 11: {`"r" tokens 1 (1)`}, 20: {`"r" tokens 10001 (2)`}, 30: {`"r" tokens 10011 (3)`}, 31: {`"r" tokens 11011 (4)`}, 60: {`"r" tokens 11011 (4)`},
	} {
		sc := reporter.Scope{Hour: w, Subjects: []string{"r"}, Before: at(minutes)}
		wantLines(t, fmt.Sprintf("usage before minute %d", minutes), s.scoped(t, sc, meters), want)
	}
	s.record("%q", s.scoped(t, reporter.Scope{Hour: w, Subjects: []string{"r"}, Before: at(30)}, meters))
}

// testLateEvents shows, for every way in which an event can change an hour afterwards, that the hours concerned become
// stale, that counting them again gives the right answer, and the same one every time.
func testLateEvents(t *testing.T, s *suite) {
	meters := allMeters()[:2] // calls, tokens_total
	hour := func(n int) meter.Window { return meter.HourOf(base.Add(time.Duration(n) * time.Hour)) }
	stamped := func(id string, at time.Time) event {
		return event{id: id, stamped: true, at: at, data: `{"tokens":3}`}
	}
	edge, block := hour(1).Start, time.Duration(0)
	first := event{id: "x", data: `{"tokens":5}`, received: base.Add(20 * time.Minute)}
	for _, tc := range []struct {
		name         string
		before, late []event
		stale        []int // hours
		want         []string
	}{
		{"another event", []event{first}, []event{{id: "y", data: `{"tokens":2}`}}, []int{0}, []string{`0 "tenant-1" calls 2 (2)`, `0 "tenant-1" tokens_total 7 (2)`}},
		{"an event of an idle hour", []event{first}, []event{{id: "y", at: edge, data: `{"tokens":2}`}}, []int{1}, []string{`0 "tenant-1" calls 1 (1)`, `0 "tenant-1" tokens_total 5 (1)`, `1 "tenant-1" calls 1 (1)`, `1 "tenant-1" tokens_total 2 (1)`}},
		{"a duplicate", []event{first}, []event{first}, []int{0}, []string{`0 "tenant-1" calls 1 (1)`, `0 "tenant-1" tokens_total 5 (1)`}},
		{
			"a conflict that loses",
			[]event{first},
			[]event{{id: "x", data: `{"tokens":50}`, received: base.Add(21 * time.Minute)}},
			[]int{0},
			[]string{`0 "tenant-1" calls 1 (1)`, `0 "tenant-1" tokens_total 5 (1)`},
		},
		{
			"a conflict that wins, from a collector that was cut off",
			[]event{first},
			[]event{{id: "x", data: `{"tokens":50}`, received: base.Add(19 * time.Minute)}},
			[]int{0},
			[]string{`0 "tenant-1" calls 1 (1)`, `0 "tenant-1" tokens_total 50 (1)`},
		},
		{
			"a winner that the meters don't know",
			[]event{first},
			[]event{{id: "x", eventType: "other", data: `{"y":1}`, received: base.Add(19 * time.Minute)}},
			[]int{0},
			[]string{},
		},
		{
			"a retry after the hour was closed",
			[]event{stamped("r", edge.Add(-time.Second))},
			[]event{stamped("r", edge.Add(time.Second))},
			[]int{1, 2, 3},
			[]string{`0 "tenant-1" calls 1 (1)`, `0 "tenant-1" tokens_total 3 (1)`},
		},
		{
			"the first attempt after its retry was closed",
			[]event{stamped("r", edge.Add(time.Second))},
			[]event{stamped("r", edge.Add(-time.Second))},
			[]int{0, 1, 2, 3},
			[]string{`0 "tenant-1" calls 1 (1)`, `0 "tenant-1" tokens_total 3 (1)`},
		},
		{
			"the middle of a chain",
			[]event{stamped("r", edge.Add(-time.Hour)), stamped("r", edge.Add(2*time.Hour))},
			[]event{stamped("r", edge)},
			[]int{1, 2, 3},
			[]string{`0 "tenant-1" calls 1 (1)`, `0 "tenant-1" tokens_total 3 (1)`},
		},
	} {
		testLateCase(t, s, meters, block, tc.name, tc.before, tc.late, tc.stale, tc.want)
		block += 100 * time.Hour // beyond the lookback
	}
	s.optimize(t)
}

// testLateCase plays one case, so much later than it is written.
func testLateCase(t *testing.T, s *suite, meters []meter.Meter, block time.Duration, name string, before, late []event, wantStale []int, want []string) {
	t.Helper()
	hour := func(n int) meter.Window { return meter.HourOf(base.Add(block + time.Duration(n)*time.Hour)) }
	shift := func(events []event) []event {
		shifted := slices.Clone(events)
		for i := range shifted {
			e := shifted[i].withDefaults()
			e.at, e.received = e.at.Add(block), e.received.Add(block)
			shifted[i] = e
		}
		return shifted
	}
	s.clock.set(hour(3).End.Add(30 * time.Minute))
	s.insert(t, meters, shift(before)...)
	var rows reporter.Rows
	for n := range 4 {
		rows.Covers = append(rows.Covers, covers(hour(n), s.touches(t, hour(n)))...)
	}
	s.book(t, reporter.BookingClose, hour(3), rows)
	if stale := s.staleFrom(t, hour(0), hour(3).End); len(stale) > 0 {
		t.Errorf("%s: stale after the closes: %+v", name, stale)
	}
	s.insert(t, meters, shift(late)...)
	var stale []int
	for _, h := range s.staleFrom(t, hour(0), hour(3).End) {
		stale = append(stale, int(h.Hour.Start.Sub(hour(0).Start)/time.Hour))
	}
	if !slices.Equal(stale, wantStale) {
		t.Errorf("%s: stale hours = %v, want %v", name, stale, wantStale)
	}
	for range 2 {
		lines := []string{}
		for n := range 4 {
			for _, line := range s.scoped(t, reporter.Scope{Hour: hour(n)}, meters) {
				lines = append(lines, fmt.Sprintf("%d %s", n, line))
			}
		}
		wantLines(t, name+": usage", lines, want)
	}
}
