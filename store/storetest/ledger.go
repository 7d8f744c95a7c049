package storetest

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
	"github.com/meterd/meterd/store"
)

// newRecord is a plausible bill record, the nth of a window.
func newRecord(n int, start time.Time) reporter.BillRecord {
	w := meter.HourOf(start)
	r := reporter.BillRecord{
		Seller: "default", InstanceID: fmt.Sprintf("instance-%05d", n), ProductID: "product", Subject: fmt.Sprintf("tenant-%05d", n), Meter: "tokens",
		Window: w, Usage: meter.MustParseQuantity("1234.5678"), CarriedIn: meter.MustParseQuantity("0.000000000000000001"),
		Scale: meter.NewQuantity(1000, 0), RecordTime: w.End.Add(5*time.Minute + 123*time.Nanosecond), Package: "package-7", Version: 1,
	}
	r.Billed, r.CarriedOut = r.Usage.Add(r.CarriedIn).DivTruncate(r.Scale, 4)
	r.SN = r.Identity().SN()
	r.Last = reporter.Transition{SN: r.SN, Window: w, Seq: 1, State: reporter.StatePending, At: w.End.Add(5*time.Minute + 7*time.Nanosecond)}
	return r
}

// closeWindow writes a whole close.
func (s *suite) closeWindow(t *testing.T, w meter.Window, version uint64, usage []reporter.HourlyUsage, records []reporter.BillRecord) reporter.WindowClose {
	t.Helper()
	for i := range usage {
		usage[i].Window, usage[i].Version = w, version
	}
	for i := range records {
		records[i].Window, records[i].Version, records[i].Last.Window = w, version, w
	}
	if err := s.store.WriteUsage(t.Context(), usage); err != nil {
		t.Fatalf("WriteUsage: %v", err)
	}
	if err := s.store.WriteRecords(t.Context(), records); err != nil {
		t.Fatalf("WriteRecords: %v", err)
	}
	c := reporter.WindowClose{
		Window: w, Version: version, ClosedAt: w.End.Add(5*time.Minute + 9*time.Nanosecond), Events: 10,
		Usages: uint64(len(usage)), Records: uint64(len(records)),
	}
	if err := s.store.WriteClose(t.Context(), c); err != nil {
		t.Fatalf("WriteClose: %v", err)
	}
	return c
}

// recordSNs returns the numbers of records.
func recordSNs(records []reporter.BillRecord) []reporter.MeteringSN {
	sns := make([]reporter.MeteringSN, len(records))
	for i, r := range records {
		sns[i] = r.SN
	}
	return sns
}

func (s *suite) due(t *testing.T, c reporter.WindowClose) []reporter.BillRecord {
	t.Helper()
	list, err := s.store.DueRecords(t.Context(), c, "", 10_000)
	if err != nil {
		t.Fatalf("DueRecords: %v", err)
	}
	return list
}

func testClosing(t *testing.T, s *suite) {
	w := meter.HourOf(base)
	if _, ok, err := s.store.LastClosed(t.Context()); ok || err != nil {
		t.Errorf("LastClosed of nothing = %v, %v", ok, err)
	}
	if _, ok, err := s.store.FirstEventHour(t.Context()); ok || err != nil {
		t.Errorf("FirstEventHour of nothing = %v, %v", ok, err)
	}
	usage := []reporter.HourlyUsage{
		{Subject: "a", Meter: "tokens", Quantity: meter.MustParseQuantity("12.000000000000000001"), Events: 3},
		{Subject: "b", Meter: "calls", Quantity: meter.NewQuantity(7, 0), Events: 7},
	}
	// A close that was interrupted: everything but its last row. Nothing of it counts.
	dead := newRecord(1, base)
	dead.Last.State, dead.Last.Message = reporter.StateHeld, "from a dead close"
	for i := range usage {
		usage[i].Window, usage[i].Version = w, 1
	}
	if err := s.store.WriteUsage(t.Context(), usage); err != nil {
		t.Fatalf("WriteUsage: %v", err)
	}
	if err := s.store.WriteRecords(t.Context(), []reporter.BillRecord{dead, newRecord(2, base)}); err != nil {
		t.Fatalf("WriteRecords: %v", err)
	}
	if v, err := s.store.HighestVersion(t.Context(), w); err != nil || v != 1 {
		t.Errorf("HighestVersion = %d, %v, want 1", v, err)
	}
	all := reporter.RecordFilter{}
	if list, err := s.store.Records(t.Context(), all); err != nil || len(list) != 0 {
		t.Errorf("Records of an interrupted close = %v, %v, want none", list, err)
	}
	if list, err := s.store.Transitions(t.Context(), dead.SN); err != nil || len(list) != 0 {
		t.Errorf("Transitions of an interrupted close = %v, %v, want none", list, err)
	}
	if list, err := s.store.Usage(t.Context(), base, base.Add(time.Hour), 10); err != nil || len(list) != 0 {
		t.Errorf("Usage of an interrupted close = %v, %v, want none", list, err)
	}
	// A close that lost rows does not become one.
	if err := s.store.WriteClose(t.Context(), reporter.WindowClose{Window: w, Version: 1, Usages: 2, Records: 3}); !errors.Is(err, store.ErrRowsMissing) {
		t.Errorf("WriteClose with too few records = %v, want ErrRowsMissing", err)
	}

	live := newRecord(1, base)
	live.Last.State = reporter.StateCarried
	c := s.closeWindow(t, w, 2, usage, []reporter.BillRecord{live})
	s.closeWindow(t, w, 2, usage, []reporter.BillRecord{live}) // once more changes nothing
	live.Version = 2
	for _, when := range []string{"before a merge", "after a merge"} {
		list, err := s.store.Records(t.Context(), all)
		if err != nil {
			t.Fatalf("Records: %v", err)
		}
		if diff := cmp.Diff([]reporter.BillRecord{live}, list); diff != "" {
			t.Errorf("Records %s (-want +got):\n%s", when, diff)
		}
		got, err := s.store.Usage(t.Context(), base, base.Add(time.Hour), 10)
		if err != nil {
			t.Fatalf("Usage: %v", err)
		}
		if diff := cmp.Diff(usage, got); diff != "" {
			t.Errorf("Usage %s (-want +got):\n%s", when, diff)
		}
		s.optimize(t)
	}
	last, ok, err := s.store.LastClosed(t.Context())
	if diff := cmp.Diff(c, last); diff != "" || !ok || err != nil {
		t.Errorf("LastClosed = %v, %v (-want +got):\n%s", ok, err, diff)
	}
	if list, err := s.store.SubjectUsage(t.Context(), []string{"b", "x"}, base, base.Add(time.Hour)); err != nil || len(list) != 1 || list[0].Meter != "calls" {
		t.Errorf("SubjectUsage = %v, %v, want one row", list, err)
	}
	if list, err := s.store.Usage(t.Context(), base, base.Add(time.Hour), 1); err != nil || len(list) != 1 {
		t.Errorf("Usage with limit 1 = %v, %v", list, err)
	}
	c2 := s.closeWindow(t, w.Next(), 1, nil, nil)
	unsettled, err := s.store.UnsettledWindows(t.Context())
	if diff := cmp.Diff([]reporter.WindowClose{c, c2}, unsettled); diff != "" || err != nil {
		t.Errorf("UnsettledWindows: %v (-want +got):\n%s", err, diff)
	}
	if err := s.store.SettleWindow(t.Context(), c); err != nil {
		t.Fatalf("SettleWindow: %v", err)
	}
	if unsettled, err = s.store.UnsettledWindows(t.Context()); err != nil || len(unsettled) != 1 || unsettled[0].Window != c2.Window {
		t.Errorf("UnsettledWindows = %v, %v, want the second", unsettled, err)
	}
	windows, err := s.store.Windows(t.Context(), base, base.Add(2*time.Hour))
	if err != nil || len(windows) != 2 || windows[0].SettledAt.IsZero() || !windows[1].SettledAt.IsZero() {
		t.Errorf("Windows = %+v, %v, want the first settled", windows, err)
	}
	if windows, err = s.store.Windows(t.Context(), base.Add(time.Nanosecond), base.Add(time.Hour+time.Nanosecond)); err != nil || len(windows) != 1 {
		t.Errorf("Windows between = %v, %v, want the second only", windows, err)
	}
	s.record("%s %s", last.Window, live.SN)
	// A window that is closed again replaces the close before.
	c3 := s.closeWindow(t, w, 3, usage[:1], nil)
	if windows, err = s.store.Windows(t.Context(), base, base.Add(time.Hour)); err != nil || len(windows) != 1 || windows[0] != c3 {
		t.Errorf("Windows after a second close = %+v, %v, want %+v", windows, err, c3)
	}
	if list, err := s.store.Records(t.Context(), all); err != nil || len(list) != 0 {
		t.Errorf("Records after a second close = %v, %v, want none", list, err)
	}
}

// transition makes the next row in the life of a record.
func transition(r reporter.BillRecord, seq uint32, state reporter.State) reporter.Transition {
	return reporter.Transition{
		SN: r.SN, Window: r.Window, Seq: seq, State: state, At: r.Last.At.Add(time.Duration(seq) * time.Second), Attempt: seq - 1,
		Endpoint: "https://example.com", Code: "MKT.0000", Message: "it's \"fine\"", RequestHash: strings.Repeat("ab", 32), Latency: 1234567 * time.Nanosecond,
	}
}

func testTransitions(t *testing.T, s *suite) {
	w := meter.HourOf(base)
	records := []reporter.BillRecord{newRecord(1, base), newRecord(2, base), newRecord(3, base)}
	records[2].Last.State = reporter.StateHeld
	c := s.closeWindow(t, w, 1, nil, records)
	slices.SortFunc(records, func(a, b reporter.BillRecord) int { return strings.Compare(string(a.SN), string(b.SN)) })
	if due := s.due(t, c); len(due) != 2 {
		t.Errorf("due records = %d, want 2: one is held", len(due))
	}
	pending := slices.DeleteFunc(slices.Clone(records), func(r reporter.BillRecord) bool { return r.Last.State == reporter.StateHeld })
	held := records[slices.IndexFunc(records, func(r reporter.BillRecord) bool { return r.Last.State == reporter.StateHeld })]
	r := pending[0]
	ts := []reporter.Transition{transition(r, 2, reporter.StateSending), transition(r, 3, reporter.StateUnknown), transition(r, 4, reporter.StateSending), transition(r, 5, reporter.StateAccepted)}
	appendAll := func(ts ...reporter.Transition) {
		t.Helper()
		if err := s.store.AppendTransitions(t.Context(), ts); err != nil {
			t.Fatalf("AppendTransitions: %v", err)
		}
	}
	appendAll(ts[:2]...)
	due := s.due(t, c)
	if len(due) != 2 || due[slices.IndexFunc(due, func(x reporter.BillRecord) bool { return x.SN == r.SN })].Last != ts[1] {
		t.Errorf("due records after an unknown answer = %+v, want both, one unknown", due)
	}
	appendAll(ts[2:]...)
	appendAll(ts...) // again
	late := ts[3]
	late.At, late.State = late.At.Add(time.Minute), reporter.StateRejected
	appendAll(late) // another daemon's opinion, later: the first stays
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
	if n, err := s.store.CountDue(t.Context()); err != nil || n != 1 {
		t.Errorf("CountDue = %d, %v, want 1", n, err)
	}
	counts := map[reporter.State]int{reporter.StateAccepted: 1, reporter.StateHeld: 1, reporter.StatePending: 1}
	for _, state := range reporter.States() {
		want := counts[state]
		list, err := s.store.Records(t.Context(), reporter.RecordFilter{States: []reporter.State{state}})
		if err != nil || len(list) != want {
			t.Errorf("Records(%s) = %d, %v, want %d", state, len(list), err, want)
		}
		s.record("%s: %d", state, len(list))
	}
	testRelease(t, s, c, pending[1], held)
	if err := s.store.AppendTransitions(t.Context(), []reporter.Transition{transition(r, 1, reporter.StatePending)}); err == nil {
		t.Error("AppendTransitions of seq 1 succeeded, want an error")
	}
	if err := s.store.WriteRecords(t.Context(), []reporter.BillRecord{{}}); !errors.Is(err, meter.ErrRefused) {
		t.Errorf("WriteRecords without a transition = %v, want ErrRefused", err)
	}
}

// testRelease shows that a window with a released record is not settled, whenever it was settled.
func testRelease(t *testing.T, s *suite, c reporter.WindowClose, due, held reporter.BillRecord) {
	t.Helper()
	unsettled := func(when string, want int) {
		t.Helper()
		windows, err := s.store.UnsettledWindows(t.Context())
		if err != nil || len(windows) != want {
			t.Errorf("UnsettledWindows %s = %v, %v, want %d", when, windows, err, want)
		}
	}
	settle := func() {
		t.Helper()
		if err := s.store.SettleWindow(t.Context(), c); err != nil {
			t.Fatalf("SettleWindow: %v", err)
		}
	}
	move := func(r reporter.BillRecord, seq uint32, state reporter.State) {
		t.Helper()
		if err := s.store.AppendTransitions(t.Context(), []reporter.Transition{transition(r, seq, state)}); err != nil {
			t.Fatalf("AppendTransitions: %v", err)
		}
	}
	settle()
	unsettled("with a record that is due", 1)
	move(due, 2, reporter.StateExpired)
	settle()
	unsettled("once nothing is due", 0)
	move(held, 2, reporter.StatePending)
	unsettled("after a release", 1)
	if list := s.due(t, c); len(list) != 1 || list[0].SN != held.SN {
		t.Errorf("due records after a release = %+v, want the released one", list)
	}
	move(held, 3, reporter.StateWrittenOff)
	settle()
	unsettled("in the end", 0)
}

func testDuePages(t *testing.T, s *suite) {
	w := meter.HourOf(base)
	records := make([]reporter.BillRecord, 2500)
	for i := range records {
		records[i] = newRecord(i, base)
	}
	c := s.closeWindow(t, w, 1, nil, records)
	var pages []int
	var seen []reporter.MeteringSN
	after := reporter.MeteringSN("")
	for {
		page, err := s.store.DueRecords(t.Context(), c, after, 1000)
		if err != nil {
			t.Fatalf("DueRecords: %v", err)
		}
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
		if err := s.store.AppendTransitions(t.Context(), ts); err != nil {
			t.Fatalf("AppendTransitions: %v", err)
		}
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
}

func testRecordFilters(t *testing.T, s *suite) {
	var all []reporter.BillRecord
	for hour := range 3 {
		w := meter.HourOf(base.Add(time.Duration(hour) * time.Hour))
		var records []reporter.BillRecord
		for n := range 4 {
			r := newRecord(n, w.Start)
			r.Meter = []string{"tokens", "calls"}[n%2]
			records = append(records, r)
		}
		s.closeWindow(t, w, 1, nil, records)
		slices.SortFunc(records, func(a, b reporter.BillRecord) int { return strings.Compare(string(a.SN), string(b.SN)) })
		all = append(all, records...)
	}
	read := func(f reporter.RecordFilter) []reporter.BillRecord {
		t.Helper()
		list, err := s.store.Records(t.Context(), f)
		if err != nil {
			t.Fatalf("Records(%+v): %v", f, err)
		}
		return list
	}
	if diff := cmp.Diff(all, read(reporter.RecordFilter{})); diff != "" {
		t.Errorf("Records (-want +got):\n%s", diff)
	}
	var paged []reporter.BillRecord
	for f := (reporter.RecordFilter{Limit: 5}); ; {
		page := read(f)
		paged = append(paged, page...)
		if len(page) < 5 {
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
		"sn":       {reporter.RecordFilter{SN: all[5].SN}, 1},
		"instance": {reporter.RecordFilter{InstanceID: "instance-00002"}, 3},
		"subject":  {reporter.RecordFilter{Subject: "tenant-00001", Meter: "calls"}, 3},
		"meter":    {reporter.RecordFilter{Meter: "tokens"}, 6},
		"none":     {reporter.RecordFilter{Subject: "tenant-00001", Meter: "tokens"}, 0},
		"from":     {reporter.RecordFilter{From: base.Add(time.Hour)}, 8},
		"to":       {reporter.RecordFilter{To: base.Add(time.Hour)}, 4},
		"states":   {reporter.RecordFilter{States: []reporter.State{reporter.StatePending, reporter.StateHeld}, To: base.Add(2 * time.Hour)}, 8},
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
	beyond := reporter.Cursor(reporter.BillRecord{SN: "x", Window: meter.Window{Start: time.Unix(1<<32, 0)}})
	if list, err := s.store.Records(t.Context(), reporter.RecordFilter{After: beyond}); !errors.Is(err, store.ErrBadQuery) {
		t.Errorf("Records after 2106 = %d records, %v, want ErrBadQuery", len(list), err)
	}
	s.record("%d records", len(all))
}

func testRemainders(t *testing.T, s *suite) {
	hour := func(n int) meter.Window { return meter.HourOf(base.Add(time.Duration(n) * time.Hour)) }
	// Of each subject, the latest record decides, however long ago it was; zero means nothing is open.
	want := map[reporter.CarriedRemainder]bool{}
	open := map[string]meter.Quantity{}
	check := func(n int) {
		t.Helper()
		clear(want)
		for subject, q := range open {
			if !q.IsZero() {
				want[reporter.CarriedRemainder{Subject: subject, Meter: "tokens", Quantity: q}] = true
			}
		}
		for range 2 { // the second time possibly from a checkpoint
			list, err := s.store.Remainders(t.Context(), hour(n))
			if err != nil {
				t.Fatalf("Remainders(%d): %v", n, err)
			}
			if len(list) != len(want) {
				t.Fatalf("Remainders(%d) = %+v, want %d", n, list, len(want))
			}
			for _, r := range list {
				if got := open[r.Subject]; !got.Equal(r.Quantity) || r.Meter != "tokens" {
					t.Errorf("Remainders(%d) of %s = %s, want %s", n, r.Subject, r.Quantity, got)
				}
			}
		}
	}
	check(0)
	for n := range 30 {
		var records []reporter.BillRecord
		for _, i := range []int{n % 7, 7 + n/10, 100} {
			r := newRecord(i, hour(n).Start)
			r.CarriedOut = meter.NewQuantity(int64((n*i)%3), -18)
			records = append(records, r)
			open[r.Subject] = r.CarriedOut
		}
		// An interrupted close of the same window leaves no trace.
		dead := newRecord(3, hour(n).Start)
		dead.CarriedOut, dead.Version = meter.NewQuantity(99, 0), 7
		if err := s.store.WriteRecords(t.Context(), []reporter.BillRecord{dead}); err != nil {
			t.Fatalf("WriteRecords: %v", err)
		}
		s.closeWindow(t, hour(n), 1, nil, records)
		if n%10 == 9 || n > 26 {
			check(n + 1)
		}
	}
	checkpoints := s.count(t, "remainder_checkpoints")
	s.record("%d remainders, %d checkpoints", len(want), checkpoints)
	if checkpoints == 0 {
		t.Error("no checkpoint was written")
	}
	// Closing an old window again makes checkpoints after it void.
	r := newRecord(200, hour(5).Start)
	r.CarriedOut = meter.NewQuantity(5, -4)
	s.closeWindow(t, hour(5), 2, nil, []reporter.BillRecord{r})
	open[r.Subject] = r.CarriedOut
	check(30)
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
	c := s.closeWindow(t, w, 1, nil, []reporter.BillRecord{newRecord(1, base)})
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
