package storetest

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
	"github.com/meterd/meterd/store"
)

// transition makes the next row in the life of a record.
func transition(r reporter.BillRecord, seq uint32, state reporter.State) reporter.Transition {
	return reporter.Transition{
		SN: r.SN, Booked: r.Booked, Seq: seq, State: state, At: r.Last.At.Add(time.Duration(seq) * time.Second), Attempt: seq - 1,
		Endpoint: "https://example.com", Code: "MKT.0000", Message: "it's \"fine\"", RequestHash: strings.Repeat("ab", 32), Latency: 1234567 * time.Nanosecond,
		Detail: "raw\n\x00text", Actor: "ann",
	}
}

func (s *suite) move(t *testing.T, ts ...reporter.Transition) {
	t.Helper()
	if err := s.store.AppendTransitions(t.Context(), ts); err != nil {
		t.Fatalf("AppendTransitions: %v", err)
	}
}

func testTransitions(t *testing.T, s *suite) {
	records := []reporter.BillRecord{newRecord(1, base), newRecord(2, base), newRecord(3, base)}
	records[2].Last.State, records[2].Last.Message, records[2].Last.Detail, records[2].Last.Actor = reporter.StateHeld, "why", "raw", "bob"
	c := s.book(t, reporter.BookingClose, hourAt(0), reporter.Rows{Records: records})
	slices.SortFunc(records, func(a, b reporter.BillRecord) int { return strings.Compare(string(a.SN), string(b.SN)) })
	if due := s.due(t, c); len(due) != 2 {
		t.Errorf("due records = %d, want 2: one is held", len(due))
	}
	pending := slices.DeleteFunc(slices.Clone(records), func(r reporter.BillRecord) bool { return r.Last.State == reporter.StateHeld })
	held := records[slices.IndexFunc(records, func(r reporter.BillRecord) bool { return r.Last.State == reporter.StateHeld })]
	r := pending[0]
	ts := []reporter.Transition{transition(r, 2, reporter.StateSending), transition(r, 3, reporter.StateUnknown), transition(r, 4, reporter.StateSending), transition(r, 5, reporter.StateAccepted)}
	s.move(t, ts[:2]...)
	due := s.due(t, c)
	if len(due) != 2 || due[slices.IndexFunc(due, func(x reporter.BillRecord) bool { return x.SN == r.SN })].Last != ts[1] {
		t.Errorf("due records after an unknown answer = %+v, want both, one unknown", due)
	}
	s.move(t, ts[2:]...)
	s.move(t, ts...) // again
	late := ts[3]
	late.At, late.State = late.At.Add(time.Minute), reporter.StateRejected
	s.move(t, late) // another daemon's opinion, later: the first stays
	for _, when := range []string{"before a merge", "after a merge"} {
		got, err := s.store.Transitions(t.Context(), r.SN)
		if diff := cmp.Diff(append([]reporter.Transition{r.Last}, ts...), got); diff != "" || err != nil {
			t.Errorf("Transitions %s: %v (-want +got):\n%s", when, err, diff)
		}
		if due := s.due(t, c); len(due) != 1 || due[0].SN == r.SN {
			t.Errorf("due records %s = %+v, want the other", when, due)
		}
		s.optimize(t)
	}
	if got := must(s.store.Transitions(t.Context(), held.SN))(t); len(got) != 1 || got[0] != held.Last {
		t.Errorf("Transitions of a held record = %+v, want %+v", got, held.Last)
	}
	if n, err := s.store.CountDue(t.Context()); err != nil || n != 1 {
		t.Errorf("CountDue = %d, %v, want 1", n, err)
	}
	counts := map[reporter.State]int{reporter.StateAccepted: 1, reporter.StateHeld: 1, reporter.StatePending: 1}
	for _, state := range reporter.States() {
		list := must(s.store.Records(t.Context(), reporter.RecordFilter{States: []reporter.State{state}}))(t)
		if len(list) != counts[state] {
			t.Errorf("Records(%s) = %d, want %d", state, len(list), counts[state])
		}
		s.record("%s: %d", state, len(list))
	}
	testRelease(t, s, c, pending[1], held)
	testRefusedLedgerRows(t, s, c, r)
}

func testRefusedLedgerRows(t *testing.T, s *suite, c reporter.Booking, r reporter.BillRecord) {
	t.Helper()
	ctx := t.Context()
	if err := s.store.AppendTransitions(ctx, []reporter.Transition{transition(r, 1, reporter.StatePending)}); !errors.Is(err, meter.ErrRefused) {
		t.Errorf("AppendTransitions of seq 1 = %v, want ErrRefused", err)
	}
	half := newRecord(9, base)
	half.Window.End = half.Window.End.Add(-time.Millisecond)
	large := newRecord(10, base)
	large.Usage = meter.NewQuantity(1, 20)
	foreign := newRecord(11, base)
	foreign.Version = c.Version + 1
	for name, rows := range map[string]reporter.Rows{
		"record without a transition":   {Records: []reporter.BillRecord{{SN: "x"}}},
		"window of milliseconds":        {Records: []reporter.BillRecord{half}},
		"record of another version":     {Records: []reporter.BillRecord{foreign}},
		"record of a later hour":        {Records: []reporter.BillRecord{newRecord(1, hourAt(1).Start)}},
		"amount out of range":           {Records: []reporter.BillRecord{large}},
		"usage of a later hour":         {Usage: []reporter.HourlyUsage{{Window: hourAt(1), Version: c.Version}}},
		"adjustment without an id":      {Adjustments: []reporter.Adjustment{{Into: reporter.IntoHeld, Booking: c.Number}}},
		"adjustment of another booking": {Adjustments: []reporter.Adjustment{{ID: "1", Into: reporter.IntoHeld, Booking: c.Number + 1}}},
		"adjustment to nowhere":         {Adjustments: []reporter.Adjustment{{ID: "1"}}},
		"cover of a later hour":         {Covers: []reporter.Cover{{Hour: hourAt(1)}}},
	} {
		if err := s.store.WriteRows(ctx, c, rows); !errors.Is(err, meter.ErrRefused) {
			t.Errorf("WriteRows of a %s = %v, want ErrRefused", name, err)
		}
	}
	if err := s.store.Commit(ctx, reporter.Booking{Number: 2, Version: 1e6, Window: hourAt(0)}); !errors.Is(err, meter.ErrRefused) {
		t.Errorf("Commit without a kind = %v, want ErrRefused", err)
	}
}

// testRelease shows that a booking with a released record is not settled, whenever it was settled.
func testRelease(t *testing.T, s *suite, c reporter.Booking, due, held reporter.BillRecord) {
	t.Helper()
	unsettled := func(when string, want int) {
		t.Helper()
		if list := must(s.store.UnsettledBookings(t.Context()))(t); len(list) != want {
			t.Errorf("UnsettledBookings %s = %v, want %d", when, list, want)
		}
	}
	settle := func() {
		t.Helper()
		if err := s.store.SettleBooking(t.Context(), c); err != nil {
			t.Fatalf("SettleBooking: %v", err)
		}
	}
	settle()
	unsettled("with a record that is due", 1)
	s.move(t, transition(due, 2, reporter.StateExpired))
	settle()
	unsettled("once nothing is due", 0)
	s.move(t, transition(held, 2, reporter.StatePending))
	unsettled("after a release", 1)
	if list := s.due(t, c); len(list) != 1 || list[0].SN != held.SN {
		t.Errorf("due records after a release = %+v, want the released one", list)
	}
	s.move(t, transition(held, 3, reporter.StateWrittenOff))
	settle()
	unsettled("in the end", 0)
}

func testDuePages(t *testing.T, s *suite) {
	records := make([]reporter.BillRecord, 2500)
	for i := range records {
		records[i] = newRecord(i, base)
	}
	c := s.book(t, reporter.BookingClose, hourAt(0), reporter.Rows{Records: records})
	var pages []int
	var seen []reporter.MeteringSN
	after := reporter.MeteringSN("")
	for {
		page := must(s.store.DueRecords(t.Context(), c, after, 1000))(t)
		if len(page) == 0 {
			break
		}
		pages = append(pages, len(page))
		sns := recordSNs(page)
		if !slices.IsSorted(sns) || sns[0] <= after {
			t.Errorf("page after %s is not in order", after)
		}
		seen, after = append(seen, sns...), sns[len(sns)-1]
		var ts []reporter.Transition
		for i, r := range page { // as delivery does: before the next page
			ts = append(ts, transition(r, 2, reporter.StateSending))
			if i%500 != 0 {
				ts = append(ts, transition(r, 3, reporter.StateAccepted))
			}
		}
		s.move(t, ts...)
	}
	want := recordSNs(records)
	slices.Sort(want)
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Errorf("pages differ from the records (-want +got):\n%s", diff)
	}
	left := s.due(t, c)
	s.record("pages %v, left %d", pages, len(left))
	if len(left) != 5 {
		t.Errorf("due records left = %d, want 5", len(left))
	}
	if n, err := s.store.CountDue(t.Context()); err != nil || n != 5 {
		t.Errorf("CountDue = %d, %v, want 5", n, err)
	}
	if list := must(s.store.RecordsBySN(t.Context(), want))(t); len(list) != 2500 || list[1].Last.State != reporter.StateAccepted {
		t.Errorf("RecordsBySN = %d records, want all with their last state", len(list))
	}
}

func testRecordFilters(t *testing.T, s *suite) {
	var all []reporter.BillRecord
	book := func(kind reporter.BookingKind, w meter.Window, records ...reporter.BillRecord) reporter.Booking {
		b := s.book(t, kind, w, reporter.Rows{Records: records})
		all = append(all, records...)
		return b
	}
	for hour := range 3 {
		var records []reporter.BillRecord
		for n := range 4 {
			r := newRecord(n, hourAt(hour).Start)
			r.Meter = []string{"tokens", "calls"}[n%2]
			records = append(records, r)
		}
		book(reporter.BookingClose, hourAt(hour), records...)
	}
	// A late record of its own window, a resend long after, and a whole day's record.
	late := newRecord(7, base)
	book(reporter.BookingRecount, hourAt(0), late)
	resend := newRecord(1, base)
	resend.Revision, resend.Replaces = 1, all[1].SN
	resend.SN = resend.Identity().SN()
	resend.Last.SN = resend.SN
	book(reporter.BookingResend, hourAt(500), resend)
	daily := newRecord(8, base)
	daily.Window = meter.Window{Start: hourAt(2).Start, End: hourAt(26).Start}
	daily.SN = daily.Identity().SN()
	daily.Last.SN, daily.Last.State = daily.SN, reporter.StateHeld
	book(reporter.BookingClose, hourAt(25), daily)
	slices.SortFunc(all, func(a, b reporter.BillRecord) int {
		return strings.Compare(reporter.Cursor(a), reporter.Cursor(b)) // the same number of digits
	})
	read := func(f reporter.RecordFilter) []reporter.BillRecord {
		t.Helper()
		return must(s.store.Records(t.Context(), f))(t)
	}
	if diff := cmp.Diff(all, read(reporter.RecordFilter{})); diff != "" {
		t.Errorf("Records (-want +got):\n%s", diff)
	}
	var paged []reporter.BillRecord
	for f := (reporter.RecordFilter{Limit: 4}); ; {
		page := read(f)
		paged = append(paged, page...)
		if len(page) < 4 {
			break
		}
		f.After = reporter.Cursor(page[len(page)-1])
	}
	if diff := cmp.Diff(all, paged); diff != "" {
		t.Errorf("Records in pages (-want +got):\n%s", diff)
	}
	for name, c := range map[string]struct {
		filter reporter.RecordFilter
		want   int
	}{
		"sn":       {reporter.RecordFilter{SN: resend.SN}, 1},
		"instance": {reporter.RecordFilter{InstanceID: "instance-00002"}, 3},
		"subject":  {reporter.RecordFilter{Subject: "tenant-00001", Meter: "calls"}, 3},
		"meter":    {reporter.RecordFilter{Meter: "tokens"}, 9},
		"none":     {reporter.RecordFilter{Subject: "tenant-00002", Meter: "calls"}, 0},
		"from":     {reporter.RecordFilter{From: hourAt(1).Start}, 9},
		"to":       {reporter.RecordFilter{To: hourAt(1).Start}, 6},
		"between":  {reporter.RecordFilter{From: hourAt(2).Start, To: hourAt(3).Start}, 5},
		"states":   {reporter.RecordFilter{States: []reporter.State{reporter.StatePending, reporter.StateHeld}, To: hourAt(2).Start}, 10},
		"held":     {reporter.RecordFilter{States: []reporter.State{reporter.StateHeld, reporter.StateRejected}}, 1},
		"rejected": {reporter.RecordFilter{States: []reporter.State{reporter.StateRejected}}, 0},
	} {
		if got := read(c.filter); len(got) != c.want {
			t.Errorf("Records(%s) has %d, want %d", name, len(got), c.want)
		}
	}
	for _, f := range []reporter.RecordFilter{{After: "x"}, {After: "-1-x"}, {Limit: 10_001}, {Limit: -1}} {
		if _, err := s.store.Records(t.Context(), f); !errors.Is(err, store.ErrBadQuery) {
			t.Errorf("Records(%+v) = %v, want ErrBadQuery", f, err)
		} else {
			s.record("%v", err)
		}
	}
	// A place that no DateTime can name must not wrap around to 1970 and list everything again.
	beyond := reporter.Cursor(reporter.BillRecord{SN: "x", Booked: meter.Window{Start: time.Unix(1<<32, 0)}})
	if list, err := s.store.Records(t.Context(), reporter.RecordFilter{After: beyond}); !errors.Is(err, store.ErrBadQuery) {
		t.Errorf("Records after 2106 = %d records, %v, want ErrBadQuery", len(list), err)
	}
	s.record("%d records", len(all))
}
