package storetest

import (
	"fmt"
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
	edge := hour(1).Start
	first := event{id: "x", data: `{"tokens":5}`, received: base.Add(20 * time.Minute)}
	for _, tc := range []struct {
		name         string
		before, late []event
		stale        []int // hours
		want         []string
	}{
		{"another event", []event{first}, []event{{id: "y", data: `{"tokens":2}`}}, []int{0}, []string{"0 calls 2", "0 tokens_total 7"}},
		{"an event of an idle hour", []event{first}, []event{{id: "y", at: edge, data: `{"tokens":2}`}}, []int{1}, []string{"0 calls 1", "0 tokens_total 5", "1 calls 1", "1 tokens_total 2"}},
		{"a duplicate", []event{first}, []event{first}, []int{0}, []string{"0 calls 1", "0 tokens_total 5"}},
		{
			"a conflict that loses",
			[]event{first},
			[]event{{id: "x", data: `{"tokens":50}`, received: base.Add(21 * time.Minute)}},
			[]int{0},
			[]string{"0 calls 1", "0 tokens_total 5"},
		},
		{
			"a conflict that wins, from a collector that was cut off",
			[]event{first},
			[]event{{id: "x", data: `{"tokens":50}`, received: base.Add(19 * time.Minute)}},
			[]int{0},
			[]string{"0 calls 1", "0 tokens_total 50"},
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
			[]string{"0 calls 1", "0 tokens_total 3"},
		},
		{
			"the first attempt after its retry was closed",
			[]event{stamped("r", edge.Add(time.Second))},
			[]event{stamped("r", edge.Add(-time.Second))},
			[]int{0, 1, 2, 3},
			[]string{"0 calls 1", "0 tokens_total 3"},
		},
		{
			"the middle of a chain",
			[]event{stamped("r", edge.Add(-time.Hour)), stamped("r", edge.Add(2 * time.Hour))},
			[]event{stamped("r", edge)},
			[]int{1, 2, 3},
			[]string{"0 calls 1", "0 tokens_total 3"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newSuite(t, s.backend, &recorder{})
			s.clock.set(hour(3).End.Add(30 * time.Minute))
			s.insert(t, meters, tc.before...)
			for n := range 4 {
				s.cover(t, uint64(n+1), reporter.BookingClose, hour(n), s.touches(t, hour(n)))
			}
			wantLines(t, "stale hours after the closes", s.stale(t, s.store, hour(3).End), []string{})
			s.insert(t, meters, tc.late...)
			var stale []int
			list, err := s.store.StaleHours(t.Context(), hour(3).End, 10)
			if err != nil {
				t.Fatal(err)
			}
			for _, h := range list {
				stale = append(stale, int(h.Hour.Start.Sub(hour(0).Start)/time.Hour))
			}
			if fmt.Sprint(stale) != fmt.Sprint(tc.stale) {
				t.Errorf("stale hours = %v, want %v", stale, tc.stale)
			}
			count := func() []string {
				lines := []string{}
				for n := range 4 {
					for _, m := range meters {
						for _, u := range s.usageOf(t, []meter.Meter{m}, hour(n)) {
							lines = append(lines, fmt.Sprintf("%d %s %s", n, m.Slug, u))
						}
					}
				}
				return lines
			}
			wantLines(t, "usage", count(), tc.want)
			s.optimize(t)
			wantLines(t, "usage after a merge", count(), tc.want)
		})
	}
}
