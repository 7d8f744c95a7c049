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
func (s *suite) cover(t *testing.T, number uint64, kind reporter.BookingKind, w meter.Window, touches []uint64, usage ...reporter.HourlyUsage) {
	t.Helper()
	b := s.coverRows(t, number, kind, w, touches, usage...)
	if err := s.store.Commit(t.Context(), b); err != nil {
		t.Fatalf("Commit: %v", err)
	}
}

// coverRows writes the rows of such a booking without committing it.
func (s *suite) coverRows(t *testing.T, number uint64, kind reporter.BookingKind, w meter.Window, touches []uint64, usage ...reporter.HourlyUsage) reporter.Booking {
	t.Helper()
	b := reporter.Booking{
		Number: number, Version: number * 1000, Kind: kind, Window: w, At: s.clock.Now(), Covers: uint64(len(touches)), Usages: uint64(len(usage)),
	}
	rows := reporter.Rows{Usage: usage}
	for i := range rows.Usage {
		rows.Usage[i].Version = b.Version
	}
	for _, id := range touches {
		rows.Covers = append(rows.Covers, reporter.Cover{Hour: w, Touch: id})
	}
	if err := s.store.WriteRows(t.Context(), b, rows); err != nil {
		t.Fatalf("WriteRows: %v", err)
	}
	return b
}

// set moves the store's clock.
func (c *clock) set(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = now
}

// testTouches shows when an insert leaves touches, and which.
func testTouches(t *testing.T, s *suite) {
	meters, w := allMeters(), meter.HourOf(base)
	next := w.Next()
	for name, tc := range map[string]struct {
		now  time.Time
		want int
	}{
		"in the middle":               {w.Start.Add(30 * time.Minute), 0},
		"just over two minutes ahead": {w.End.Add(-2*time.Minute - time.Second), 0},
		"two minutes ahead":           {w.End.Add(-2 * time.Minute), 1},
		"just after":                  {w.End.Add(time.Second), 1},
		"long after":                  {w.End.Add(40 * 24 * time.Hour), 1},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSuite(t, s.backend, &recorder{})
			s.clock.set(tc.now)
			s.insert(t, meters, event{id: "a"}, event{id: "b"}, event{id: "c", subject: "tenant-2"})
			if got := len(s.touches(t, w)); got != tc.want {
				t.Errorf("touches = %d, want %d", got, tc.want)
			}
			if got := len(s.touches(t, next)); got != 0 {
				t.Errorf("touches of the hour after = %d, want none", got)
			}
			want := []string{}
			if tc.want > 0 {
				want = append(want, fmt.Sprintf(`%s ["tenant-1" "tenant-2"] 1`, w))
			}
			wantLines(t, "stale hours", s.stale(t, s.store, w.End), want)
		})
	}
	t.Run("a clock that was set back", func(t *testing.T) {
		s := newSuite(t, s.backend, &recorder{})
		s.clock.set(w.End.Add(time.Minute))
		s.insert(t, meters, event{id: "a", at: next.Start})
		s.clock.set(w.Start.Add(time.Minute))
		s.insert(t, meters, event{id: "b"})
		if got := len(s.touches(t, w)); got != 1 {
			t.Errorf("touches = %d, want 1: the hour ended once", got)
		}
	})
	t.Run("closed by a clock that ran ahead", func(t *testing.T) {
		s := newSuite(t, s.backend, &recorder{})
		s.clock.set(w.Start.Add(time.Minute))
		s.cover(t, 1, reporter.BookingClose, w, nil)
		s.insert(t, meters, event{id: "b"})
		if got := len(s.touches(t, w)); got != 1 {
			t.Errorf("touches = %d, want 1: the hour is closed", got)
		}
	})
	t.Run("many subjects", func(t *testing.T) {
		s := newSuite(t, s.backend, &recorder{})
		for n, want := range map[int]string{1000: "", 1001: fmt.Sprintf("%s [] 2", w)} {
			events := make([]event, n)
			for i := range events {
				events[i] = event{id: "x", subject: fmt.Sprintf("s%04d", i)}
			}
			s.insert(t, meters, events...)
			list, err := s.store.StaleHours(t.Context(), w.End, 10)
			if err != nil || len(list) != 1 || (want == "") != (len(list[0].Subjects) == 1000) && len(list[0].Touches) == 1 {
				t.Errorf("StaleHours with %d subjects = %d subjects, %v", n, len(list[0].Subjects), err)
			}
		}
		if list, _ := s.store.StaleHours(t.Context(), w.End, 10); len(list) != 1 || list[0].Subjects != nil {
			t.Errorf("StaleHours names %d subjects, want any", len(list[0].Subjects))
		}
	})
	t.Run("stamped", func(t *testing.T) {
		s := newSuite(t, s.backend, &recorder{})
		s.clock.set(w.End.Add(3*time.Hour + 30*time.Minute)) // three hours after w have ended
		s.insert(t, meters, event{id: "a", stamped: true}, event{id: "b", subject: "tenant-2"})
		wantLines(t, "stale hours", s.stale(t, s.store, w.End.Add(24*time.Hour)), []string{
			fmt.Sprintf(`%s ["tenant-1" "tenant-2"] 1`, w), fmt.Sprintf(`%s ["tenant-1"] 1`, next),
			fmt.Sprintf(`%s ["tenant-1"] 1`, next.Next()), fmt.Sprintf(`%s ["tenant-1"] 1`, next.Next().Next()),
		})
	})
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
	pending := s.coverRows(t, 1, reporter.BookingClose, hour(0), s.touches(t, hour(0)))
	wantLines(t, "stale hours before the commit", s.stale(t, s.store, hour(9).Start), all)
	if err := s.store.Commit(t.Context(), pending); err != nil {
		t.Fatalf("Commit: %v", err)
	}
	wantLines(t, "stale hours after the commit", s.stale(t, s.store, hour(9).Start), all[1:])
	// A touch after those that were covered.
	covered := s.touches(t, hour(1))
	s.insert(t, meters, event{id: "later", subject: "tenant-3", at: hour(1).Start})
	s.cover(t, 2, reporter.BookingClose, hour(1), covered)
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
	for i, n := range []int{0, 1, 2} {
		s.cover(t, uint64(3+i), reporter.BookingRecount, hour(n), s.touches(t, hour(n))) //nolint:gosec // small
	}
	for range 2 {
		wantLines(t, "stale hours when all is covered", s.stale(t, s.store, hour(9).Start), []string{})
	}
	wantLines(t, "the hour that ends later", s.stale(t, s.store, hour(10).Start), []string{fmt.Sprintf(`%s ["tenant-1"] 1`, hour(9))})
	s.record("covered: %d", len(s.touches(t, hour(0))))
}
