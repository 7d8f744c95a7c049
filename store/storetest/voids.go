package storetest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
	"github.com/meterd/meterd/store"
)

// knowing opens the test's database with a catalog, as the daemon does.
func (s *suite) knowing(t *testing.T, meters []meter.Meter) *suite {
	t.Helper()
	able := *s
	able.config.Values = newCatalog(t, meters)
	able.store = openStore(t, able.config)
	return &able
}

// effectLines are the lines of an effect as text.
func effectLines(e meter.Effect) []string {
	lines := []string{}
	for _, l := range e.Lines {
		lines = append(lines, fmt.Sprintf("%s %s %s: %s -> %s closed=%v", l.Hour.Start.Format("02T15"), l.Subject, l.Meter, l.Before, l.After, l.Closed))
	}
	return lines
}

// usageOf is the usage of hours as a table of text by (hour, subject, meter).
func (s *suite) usageOf(t *testing.T, meters []meter.Meter, hours ...meter.Window) map[string]meter.Quantity {
	t.Helper()
	table := map[string]meter.Quantity{}
	for _, w := range hours {
		err := s.store.AggregateWindow(t.Context(), reporter.Scope{Hour: w}, meters, func(u reporter.WindowUsage) error {
			table[w.Start.Format("02T15")+" "+u.Subject+" "+u.Meter] = u.Quantity
			return nil
		})
		if err != nil {
			t.Fatalf("AggregateWindow: %v", err)
		}
	}
	return table
}

// changes are the lines that an effect must have: what differs between two tables of usage.
func changes(before, after map[string]meter.Quantity) []string {
	lines := []string{}
	keys := map[string]bool{}
	for k := range before {
		keys[k] = true
	}
	for k := range after {
		keys[k] = true
	}
	for k := range keys {
		if !before[k].Equal(after[k]) {
			lines = append(lines, fmt.Sprintf("%s: %s -> %s", k, before[k], after[k]))
		}
	}
	slices.Sort(lines)
	return lines
}

// wantEffect compares an effect with what really changed.
func wantEffect(t *testing.T, what string, e meter.Effect, before, after map[string]meter.Quantity) {
	t.Helper()
	got := []string{}
	for _, line := range effectLines(e) {
		line, _, _ = strings.Cut(line, " closed=")
		got = append(got, line)
	}
	slices.Sort(got)
	wantLines(t, what, got, changes(before, after))
}

func (s *suite) previewVoid(t *testing.T, req meter.VoidRequest) meter.Effect {
	t.Helper()
	e, err := s.store.PreviewVoid(t.Context(), req)
	if err != nil {
		t.Fatalf("PreviewVoid: %v", err)
	}
	return e
}

// void previews and commits.
func (s *suite) void(t *testing.T, req meter.VoidRequest) meter.Effect {
	t.Helper()
	preview := s.previewVoid(t, req)
	done, err := s.store.VoidEvents(t.Context(), req, "ann", "test data", preview.Token)
	if err != nil {
		t.Fatalf("VoidEvents: %v", err)
	}
	if diff := cmp.Diff(preview, done); diff != "" {
		t.Errorf("effect differs from its preview (-preview +done):\n%s", diff)
	}
	return done
}

func testVoids(t *testing.T, s *suite) {
	meters := allMeters()
	s = s.knowing(t, meters)
	hour := func(n int) meter.Window { return meter.HourOf(base.Add(time.Duration(n) * time.Hour)) }
	w, hours := hour(0), []meter.Window{hour(-2), hour(-1), hour(0), hour(1), hour(2)}
	stamped := func(n int) event {
		return event{id: "stamped", stamped: true, at: hour(n).Start.Add(time.Minute), data: `{"tokens":50,"user":"eve"}`}
	}
	s.insert(t, meters, fiveEvents()...)
	s.insert(t, meters, event{id: "1", data: `{"tokens":1000,"user":"x"}`, received: base.Add(time.Hour)}, // a conflict that lost
		stamped(0), stamped(1), event{id: "1", at: hour(2).Start, data: `{"tokens":4,"user":"x"}`})
	s.cover(t, reporter.BookingClose, w, s.touches(t, w))
	req := meter.VoidRequest{Subject: "tenant-1", Source: "backend", IDs: []string{"1", "3", "unknown", "stamped"}}
	before := s.usageOf(t, meters, hours...)
	preview := s.previewVoid(t, req)
	if preview.Events != 4 || preview.Already != 0 {
		t.Errorf("preview = %d events, %d already, want 4 (the retry is none) and 0", preview.Events, preview.Already)
	}
	for _, line := range effectLines(preview) {
		s.record("%s", line)
	}
	if diff := cmp.Diff(before, s.usageOf(t, meters, hours...)); diff != "" {
		t.Errorf("a preview changed usage:\n%s", diff)
	}
	if _, err := s.store.VoidEvents(t.Context(), req, "ann", "why", "other token"); !errors.Is(err, store.ErrEffectChanged) {
		t.Errorf("VoidEvents with another token = %v, want ErrEffectChanged", err)
	}
	touched := len(s.touches(t, hour(2)))
	s.void(t, req)
	after := s.usageOf(t, meters, hours...)
	wantEffect(t, "effect of the void", preview, before, after)
	if n := len(s.touches(t, hour(2))); n <= touched {
		t.Errorf("touches = %d before, %d after the void", touched, n)
	}
	wantLines(t, "stale hours", s.stale(t, s.store, hour(0).End), []string{fmt.Sprintf(`%s ["tenant-1"] 2`, w)})
	counts, err := s.store.CountEvents(t.Context(), w.Start, w.End)
	if err != nil || counts.Voids != 3 || counts.Counted != s.countEvents(t, w) || counts.Conflicts != 1 {
		t.Errorf("CountEvents = %+v, %v, want 3 voids and 1 conflict", counts, err)
	}

	// What comes later under the same keys stays void: duplicates, other contents, retries in later and in earlier hours.
	s.insert(t, meters, fiveEvents()[0], event{id: "3", data: `{"tokens":77,"user":"z"}`, received: base}, stamped(0), stamped(1), stamped(-1), stamped(2))
	s.optimize(t)
	if diff := cmp.Diff(after, s.usageOf(t, meters, hours...)); diff != "" {
		t.Errorf("late copies of void events changed usage:\n%s", diff)
	}
	// The same id in another hour is another event.
	s.insert(t, meters, event{id: "3", at: hour(1).Start, data: `{"tokens":1,"user":"z"}`})
	if got := s.usageOf(t, meters, hour(1)); got[hour(1).Start.Format("02T15")+" tenant-1 tokens_total"].String() != "1" {
		t.Errorf("usage of the hour after = %v", got)
	}

	// Again: nothing changes, and it is announced again, for one that was interrupted.
	touched = len(s.touches(t, w))
	again := s.void(t, meter.VoidRequest{Subject: "tenant-1", Source: "backend", IDs: []string{"1"}})
	if again.Events != 2 || again.Already != 2 || len(again.Lines) != 0 {
		t.Errorf("a void again = %+v, want 2 events void already", again)
	}
	if n := len(s.touches(t, w)); n <= touched {
		t.Errorf("a void again left no touch: %d before, %d after", touched, n)
	}
	testVoidPeriod(t, s, meters)
	testVoidRefused(t, s)
}

// testVoidPeriod voids by time and type.
func testVoidPeriod(t *testing.T, s *suite, meters []meter.Meter) {
	t.Helper()
	w := meter.HourOf(base.Add(10 * time.Hour))
	at := func(minutes int) time.Time { return w.Start.Add(time.Duration(minutes) * time.Minute) }
	s.insert(t, meters, event{id: "a", at: at(1)}, event{id: "b", at: at(30)}, event{id: "c", at: at(30), eventType: "other", data: `{"x":1}`},
		event{id: "d", at: at(59)}, event{id: "e", at: at(60)}, event{id: "f", at: at(30), subject: "tenant-2"})
	req := meter.VoidRequest{Subject: "tenant-1", From: at(30), To: at(60)}
	if e := s.previewVoid(t, req); e.Events != 3 {
		t.Errorf("preview of half an hour = %d events, want 3", e.Events)
	}
	req.Type = "prompt"
	e := s.previewVoid(t, req)
	if e.Events != 2 {
		t.Errorf("preview of one type = %d events, want 2", e.Events)
	}
	// An event more: what was previewed is not what would happen.
	s.insert(t, meters, event{id: "g", at: at(31)})
	if _, err := s.store.VoidEvents(t.Context(), req, "ann", "why", e.Token); !errors.Is(err, store.ErrEffectChanged) {
		t.Errorf("VoidEvents after one more event = %v, want ErrEffectChanged", err)
	}
	before := s.usageOf(t, meters, w, w.Next())
	e = s.void(t, req)
	wantEffect(t, "effect of a period", e, before, s.usageOf(t, meters, w, w.Next()))
	if n := s.countEvents(t, w); n != 3 {
		t.Errorf("events left = %d, want 3", n)
	}
}

func testVoidRefused(t *testing.T, s *suite) {
	t.Helper()
	for name, req := range map[string]meter.VoidRequest{
		"no subject":      {Source: "backend", IDs: []string{"1"}},
		"nothing":         {Subject: "tenant-1"},
		"source alone":    {Subject: "tenant-1", Source: "backend"},
		"no source":       {Subject: "tenant-1", IDs: []string{"1"}},
		"no end":          {Subject: "tenant-1", From: base},
		"backwards":       {Subject: "tenant-1", From: base, To: base.Add(-time.Hour)},
		"before 1970":     {Subject: "tenant-1", From: time.Unix(-1, 0), To: base},
		"too many events": {Subject: "tenant-1", Source: "backend", IDs: make([]string, 10_001)},
	} {
		if _, err := s.store.PreviewVoid(t.Context(), req); !errors.Is(err, store.ErrBadQuery) {
			t.Errorf("PreviewVoid(%s) = %v, want ErrBadQuery", name, err)
		}
	}
	nobody := meter.VoidRequest{Subject: "nobody", From: base, To: base.Add(time.Hour)}
	e := s.previewVoid(t, nobody)
	if e.Events != 0 || len(e.Lines) != 0 || e.Token == "" {
		t.Errorf("preview for nobody = %+v", e)
	}
	if _, err := s.store.VoidEvents(t.Context(), nobody, "", "why", e.Token); !errors.Is(err, store.ErrBadQuery) {
		t.Errorf("VoidEvents without an actor = %v, want ErrBadQuery", err)
	}
}

// testInterruptedVoid loses the touches of a void, as a crash between its two writes does.
func testInterruptedVoid(t *testing.T, s *suite) {
	meters, w := allMeters(), meter.HourOf(base)
	s = s.knowing(t, meters)
	s.insert(t, meters, fiveEvents()...)
	s.void(t, meter.VoidRequest{Subject: "tenant-1", Source: "backend", IDs: []string{"1"}})
	s.exec(t, "TRUNCATE TABLE touches")
	now := s.clock.Now()
	wantLines(t, "while it could still be writing", s.stale(t, s.open(t), w.End), []string{})
	s.clock.set(now.Add(16 * time.Minute))
	want := []string{fmt.Sprintf(`%s ["tenant-1"] 2`, w)}
	wantLines(t, "after a restart", s.stale(t, s.open(t), w.End), want)
	wantLines(t, "after another restart", s.stale(t, s.open(t), w.End), want)
	// A process that runs on looks again by itself.
	s.exec(t, "TRUNCATE TABLE touches")
	running := s.open(t)
	s.clock.set(now.Add(time.Minute)) // time doesn't go back for a store that has seen it
	s.void(t, meter.VoidRequest{Subject: "tenant-2", Source: "backend", IDs: []string{"4"}})
	s.exec(t, "TRUNCATE TABLE touches")
	if got := s.stale(t, running, w.End); len(got) > 1 {
		t.Errorf("stale hours = %q", got)
	}
	s.clock.set(now.Add(40 * time.Minute))
	wantLines(t, "by a process that runs on", s.stale(t, running, w.End), []string{fmt.Sprintf(`%s ["tenant-1" "tenant-2"] 4`, w)})
	s.record("repaired")
}
