package storetest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/store"
)

// testPreviewBackfill compares previews with what then happens, for events drawn at random.
func testPreviewBackfill(t *testing.T, s *suite) {
	meters := allMeters()
	catalog := newCatalog(t, meters)
	s = s.knowing(t, meters)
	lines := 0
	for seed := range 6 {
		start := base.Add(time.Duration(seed) * 4 * 24 * time.Hour)
		var hours []meter.Window
		for n := range 4 {
			hours = append(hours, meter.HourOf(start.Add(time.Duration(n)*time.Hour)))
		}
		stored := genEvents(start).Example(seed + 1)
		s.insert(t, meters, stored...)
		s.void(t, meter.VoidRequest{Subject: "a", Source: "s1", IDs: []string{"1", "2"}, From: start, To: start.Add(time.Hour)})
		var fresh []event
		for i, e := range genEvents(start).Example(seed + 100) {
			e.received = start.Add(time.Hour*24 + time.Duration(i)*time.Second)
			if !e.stamped {
				fresh = append(fresh, e)
			}
		}
		rows := eventRows(catalog, fresh)
		before := s.usageOf(t, meters, hours...)
		counts, err := s.store.CountEvents(t.Context(), start, start.Add(4*time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		preview, err := s.store.PreviewBackfill(t.Context(), rows)
		if err != nil {
			t.Fatalf("seed %d: PreviewBackfill: %v", seed, err)
		}
		if again, err := s.store.PreviewBackfill(t.Context(), rows); err != nil || again.Token != preview.Token {
			t.Errorf("seed %d: the same preview again = %s, %v, want token %s", seed, again.Token, err, preview.Token)
		}
		if err := s.store.InsertEvents(t.Context(), rows); err != nil {
			t.Fatal(err)
		}
		wantEffect(t, fmt.Sprintf("seed %d", seed), preview, before, s.usageOf(t, meters, hours...))
		after, err := s.store.CountEvents(t.Context(), start, start.Add(4*time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		if added := after.Distinct - counts.Distinct; preview.Events != uint64(len(fresh)) || preview.Events-preview.Already != added ||
			preview.Events-preview.Already-preview.Conflicts != after.Counted-counts.Counted {
			t.Errorf("seed %d: preview = %d events, %d already, %d conflicts; stored %d, counted %d more", seed,
				preview.Events, preview.Already, preview.Conflicts, added, after.Counted-counts.Counted)
		}
		if done, err := s.store.PreviewBackfill(t.Context(), rows); err != nil || done.Already != done.Events || len(done.Lines) != 0 || len(fresh) > 0 && done.Token == preview.Token {
			t.Errorf("seed %d: preview of what is stored = %+v, %v", seed, done, err)
		}
		lines += len(preview.Lines)
	}
	s.record("lines: %d", lines)
	refused := eventRows(catalog, []event{{id: "a", stamped: true}})
	if _, err := s.store.PreviewBackfill(t.Context(), refused); !errors.Is(err, store.ErrBadQuery) || !strings.Contains(err.Error(), "time of its own") {
		t.Errorf("PreviewBackfill of an event without a time = %v, want ErrBadQuery", err)
	}
	if e, err := s.store.PreviewBackfill(t.Context(), &meter.EventRows{}); err != nil || e.Events != 0 {
		t.Errorf("PreviewBackfill of nothing = %+v, %v", e, err)
	}
}

// testUsageEvents pages through the events behind a quantity.
func testUsageEvents(t *testing.T, s *suite) {
	meters, w := allMeters(), meter.HourOf(base)
	s = s.knowing(t, meters)
	at := func(minutes int) time.Time { return w.Start.Add(time.Duration(minutes) * time.Minute) }
	dup := event{id: "dup", at: at(2), data: `{"tokens":2,"user":"u"}`}
	s.insert(t, meters, event{id: "one", at: at(1), data: `{"tokens":1,"user":"ann"}`}, dup, dup,
		event{id: "c", at: at(3), data: `{"tokens":3,"user":"u"}`}, event{id: "c", at: at(4), received: at(50), data: `{"tokens":4,"user":"u"}`},
		event{id: "s", at: at(-10), stamped: true}, event{id: "s", at: at(5), stamped: true, data: `{"tokens":1}`},
		event{id: "v", at: at(6), data: `{"tokens":6,"user":"u"}`}, event{id: "none", at: at(7), data: `{"nothing":1}`},
		event{id: "other", at: at(8), eventType: "other", data: `{"x":1}`}, event{id: "one", subject: "tenant-2", at: at(1), data: `{"tokens":1,"user":"u"}`})
	s.insert(t, meters[:1], event{id: "old", at: at(9), data: `{"tokens":9,"user":"u"}`}) // stored before the meter was declared
	s.insert(t, meters, dup)
	s.void(t, meter.VoidRequest{Subject: "tenant-1", Source: "backend", IDs: []string{"v"}})
	page := func(m meter.Meter, after string, limit int) (lines []string, next string) {
		list, next, err := s.store.UsageEvents(t.Context(), w, "tenant-1", m, after, limit)
		if err != nil {
			t.Fatalf("UsageEvents: %v", err)
		}
		for _, u := range list {
			copies := "one copy"
			if u.Copies > 1 {
				copies = "copies"
			}
			lines = append(lines, fmt.Sprintf("%s %s %s value=%v %s %q counts=%v %s %s %s", u.ID, u.Time.Format("15:04"), u.Received.Format("15:04"), u.HasValue, u.Quantity, u.Text, u.Counts, u.Why, u.Reason, copies))
		}
		return lines, next
	}
	want := []string{
		`one 15:01 15:01 value=true 1 "" counts=true   one copy`, `dup 15:02 15:02 value=true 2 "" counts=true   copies`,
		`c 15:03 15:03 value=true 3 "" counts=true   one copy`, `c 15:04 15:50 value=true 4 "" counts=false conflict  one copy`,
		`s 15:05 15:05 value=true 1 "" counts=false retry  one copy`, `v 15:06 15:06 value=true 6 "" counts=false void test data one copy`,
		`none 15:07 15:07 value=false 0 "" counts=true   one copy`, `old 15:09 15:09 value=true 9 "" counts=true   one copy`,
	}
	all, next := page(meters[1], "", 100)
	wantLines(t, "events", all, want)
	if next != "" {
		t.Errorf("the last page has a next one: %q", next)
	}
	for limit := 1; limit < 5; limit++ {
		var got []string
		for cursor := ""; ; {
			lines, next := page(meters[1], cursor, limit)
			if len(lines) > limit {
				t.Fatalf("a page of %d has %d events", limit, len(lines))
			}
			got = append(got, lines...)
			if cursor = next; cursor == "" {
				break
			}
		}
		wantLines(t, fmt.Sprintf("pages of %d", limit), got, want)
	}
	users, _ := page(meters[5], "", 1)
	wantLines(t, "a unique count", users, []string{`one 15:01 15:01 value=true 0 "ann" counts=true   one copy`})
	for _, cursor := range []string{"x", "1.2", "1.zz.3", "1." + strings.Repeat("0", 32) + ".x", "a." + strings.Repeat("0", 32) + ".1"} {
		if _, _, err := s.store.UsageEvents(t.Context(), w, "tenant-1", meters[1], cursor, 1); !errors.Is(err, store.ErrBadQuery) {
			t.Errorf("UsageEvents(cursor %q) = %v, want ErrBadQuery", cursor, err)
		}
	}
	s.record("%d", len(slices.Compact(all)))
}
