package storetest

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
	"github.com/meterd/meterd/store"
)

// touches returns the uncovered touches of an hour.
func (s *suite) touches(t *testing.T, w meter.Window) []uint64 {
	t.Helper()
	list, err := s.store.Touches(t.Context(), w)
	if err != nil {
		t.Fatalf("Touches(%s): %v", w, err)
	}
	return list
}

// stale returns the stale hours as lines: hour, subjects, number of touches.
func (s *suite) stale(t *testing.T, st *store.Store, before time.Time) []string {
	t.Helper()
	list, err := st.StaleHours(t.Context(), before, 100)
	if err != nil {
		t.Fatalf("StaleHours: %v", err)
	}
	lines := []string{}
	for _, h := range list {
		lines = append(lines, fmt.Sprintf("%s %q %d", h.Hour, h.Subjects, len(h.Touches)))
	}
	return lines
}

// cover commits a booking that covers touches of an hour.
func (s *suite) cover(t *testing.T, kind reporter.BookingKind, w meter.Window, touches []uint64) {
	t.Helper()
	s.book(t, kind, w, reporter.Rows{Covers: covers(w, touches)})
}

func covers(w meter.Window, touches []uint64) []reporter.Cover {
	list := make([]reporter.Cover, len(touches))
	for i, id := range touches {
		list[i] = reporter.Cover{Hour: w, Touch: id}
	}
	return list
}

// set moves the store's clock.
func (c *clock) set(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = now
}

// staleFrom limits StaleHours to hours from one on.
func (s *suite) staleFrom(t *testing.T, first meter.Window, before time.Time) []reporter.StaleHour {
	t.Helper()
	list, err := s.store.StaleHours(t.Context(), before, 100)
	if err != nil {
		t.Fatalf("StaleHours: %v", err)
	}
	return slices.DeleteFunc(list, func(h reporter.StaleHour) bool { return h.Hour.Start.Before(first.Start) })
}

// testTouches shows when an insert leaves touches, and which. Each case plays some days after the one before.
func testTouches(t *testing.T, s *suite) {
	meters := allMeters()
	block := 0
	nextBlock := func() meter.Window {
		block++
		return meter.HourOf(base.Add(time.Duration(block) * 100 * time.Hour))
	}
	for _, tc := range []struct {
		name string
		now  time.Duration // before the hour's end
		want int
	}{
		{"in the middle", 30 * time.Minute, 0},
		{"just over two minutes ahead", 2*time.Minute + time.Second, 0},
		{"two minutes ahead", 2 * time.Minute, 1},
		{"just after", -time.Second, 1},
		{"long after", -90 * time.Hour, 1},
	} {
		w := nextBlock()
		s.clock.set(w.End.Add(-tc.now))
		s.insert(t, meters, event{id: "a", at: w.Start}, event{id: "b", at: w.Start}, event{id: "c", subject: "tenant-2", at: w.Start})
		if got := len(s.touches(t, w)); got != tc.want {
			t.Errorf("%s: touches = %d, want %d", tc.name, got, tc.want)
		}
		if got := len(s.touches(t, w.Next())); got != 0 {
			t.Errorf("%s: touches of the hour after = %d, want none", tc.name, got)
		}
		stale := s.staleFrom(t, w, w.End)
		if len(stale) != tc.want || tc.want > 0 && (stale[0].Hour != w || !slices.Equal(stale[0].Subjects, []string{"tenant-1", "tenant-2"})) {
			t.Errorf("%s: StaleHours = %+v", tc.name, stale)
		}
	}
	testTouchedByClocks(t, s, nextBlock)
	testTouchedSubjects(t, s, nextBlock())
}

// testTouchedByClocks sets the clock back after an hour ended by it, or was closed.
func testTouchedByClocks(t *testing.T, s *suite, next func() meter.Window) {
	t.Helper()
	w := next()
	s.clock.set(w.End.Add(time.Minute))
	s.insert(t, nil, event{id: "a", at: w.End})
	s.clock.set(w.Start.Add(time.Minute))
	s.insert(t, nil, event{id: "b", at: w.Start})
	if got := len(s.touches(t, w)); got != 1 {
		t.Errorf("a clock that was set back: touches = %d, want 1: the hour ended once", got)
	}
	w = next()
	s.clock.set(w.Start.Add(time.Minute))
	s.book(t, reporter.BookingClose, w, reporter.Rows{})
	s.insert(t, nil, event{id: "b", at: w.Start})
	if got := len(s.touches(t, w)); got != 1 {
		t.Errorf("closed by a clock that ran ahead: touches = %d, want 1", got)
	}
}

// testTouchedSubjects shows which subjects touches name.
func testTouchedSubjects(t *testing.T, s *suite, w meter.Window) {
	t.Helper()
	s.clock.set(w.End.Add(3*time.Hour + 30*time.Minute)) // three hours after w have ended
	s.insert(t, nil, event{id: "a", at: w.Start, stamped: true}, event{id: "b", at: w.Start, subject: "tenant-2"})
	var got []string
	for _, h := range s.staleFrom(t, w, w.End.Add(24*time.Hour)) {
		got = append(got, fmt.Sprintf("%s %q", h.Hour.Start.Sub(w.Start), h.Subjects))
	}
	wantLines(t, "hours touched by an event without a time", got, []string{
		`0s ["tenant-1" "tenant-2"]`, `1h0m0s ["tenant-1"]`, `2h0m0s ["tenant-1"]`, `3h0m0s ["tenant-1"]`,
	})
	w = meter.HourOf(w.End.Add(-100 * time.Hour).Add(50 * time.Hour))
	for n := range 3 {
		events := make([]event, 999+n)
		for i := range events {
			events[i] = event{id: "x", subject: fmt.Sprintf("s%04d", i), at: w.Start}
		}
		s.insert(t, nil, events...)
		h := s.staleFrom(t, w, w.End)[0]
		if everybody := h.Subjects == nil; everybody != (n == 2) || len(h.Touches) != n+1 || !everybody && len(h.Subjects) != len(events) {
			t.Errorf("%d subjects touched: %d named by %d touches", len(events), len(h.Subjects), len(h.Touches))
		}
	}
}

// testStaleHours shows which touches count as covered, over restarts, and that what was found once is not forgotten.
func testStaleHours(t *testing.T, s *suite) {
	meters := allMeters()
	hour := func(n int) meter.Window { return meter.HourOf(base.Add(time.Duration(n) * time.Hour)) }
	s.clock.set(hour(10).Start)
	wantLines(t, "stale hours of nothing", s.stale(t, s.store, hour(10).Start), []string{})
	for n := range 3 {
		s.insert(t, meters, event{id: "a", at: hour(n).Start}, event{id: "b", subject: "tenant-2", at: hour(2).Start})
	}
	s.insert(t, meters, event{id: "soon", at: hour(9).End.Add(-time.Second)})
	all := []string{
		fmt.Sprintf(`%s ["tenant-1"] 1`, hour(0)), fmt.Sprintf(`%s ["tenant-1"] 1`, hour(1)), fmt.Sprintf(`%s ["tenant-1" "tenant-2"] 3`, hour(2)),
	}
	wantLines(t, "stale hours", s.stale(t, s.store, hour(9).Start), all)
	if list, err := s.store.StaleHours(t.Context(), hour(9).Start, 2); err != nil || len(list) != 2 || list[0].Hour != hour(0) {
		t.Errorf("StaleHours limited to 2 = %+v, %v", list, err)
	}
	// Rows that are not committed cover nothing.
	rows := reporter.Rows{Covers: covers(hour(0), s.touches(t, hour(0)))}
	pending := s.draft(t, reporter.BookingClose, hour(0), &rows)
	s.write(t, pending, rows)
	wantLines(t, "stale hours before the commit", s.stale(t, s.store, hour(9).Start), all)
	if err := s.store.Commit(t.Context(), pending); err != nil {
		t.Fatalf("Commit: %v", err)
	}
	wantLines(t, "stale hours after the commit", s.stale(t, s.store, hour(9).Start), all[1:])
	// A touch after those that were covered.
	covered := s.touches(t, hour(1))
	s.insert(t, meters, event{id: "later", subject: "tenant-3", at: hour(1).Start})
	s.cover(t, reporter.BookingClose, hour(1), covered)
	want := []string{fmt.Sprintf(`%s ["tenant-3"] 1`, hour(1)), all[2]}
	wantLines(t, "stale hours after a late touch", s.stale(t, s.store, hour(9).Start), want)
	wantLines(t, "stale hours of another process", s.stale(t, s.open(t), hour(9).Start), want)
	// Time goes by; what is uncovered stays known, new and old.
	s.clock.set(hour(1).Start.Add(20 * 24 * time.Hour))
	s.insert(t, meters, event{id: "much later", subject: "tenant-4", at: hour(0).Start})
	want = slices.Insert(want, 0, fmt.Sprintf(`%s ["tenant-4"] 1`, hour(0)))
	for range 3 {
		wantLines(t, "stale hours much later", s.stale(t, s.store, hour(9).Start), want)
	}
	for n := range 3 {
		s.cover(t, reporter.BookingRecount, hour(n), s.touches(t, hour(n)))
	}
	for range 2 {
		wantLines(t, "stale hours when all is covered", s.stale(t, s.store, hour(9).Start), []string{})
	}
	wantLines(t, "the hour that ends later", s.stale(t, s.store, hour(10).Start), []string{fmt.Sprintf(`%s ["tenant-1"] 1`, hour(9))})
	s.record("covered: %d", len(s.touches(t, hour(0))))
}
