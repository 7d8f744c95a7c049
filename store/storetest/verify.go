package storetest

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

// sums returns the sums of accounts as lines.
func (s *suite) sums(t *testing.T, from, to time.Time, recount bool, meters []meter.Meter) []string {
	t.Helper()
	lines := []string{}
	err := s.store.AccountSums(t.Context(), from, to, recount, meters, func(a reporter.AccountSum) error {
		var records []string
		for state, q := range a.Records {
			records = append(records, fmt.Sprintf("%s=%s", state, q))
		}
		slices.Sort(records)
		lines = append(lines, fmt.Sprintf("%s %s stored=%s booked=%s records=%s balance=%s held=%s written_off=%s unbillable=%s",
			a.Subject, a.Meter, a.Stored, a.Booked, records, a.Balance, a.Held, a.WrittenOff, a.Unbillable))
		return nil
	})
	if err != nil {
		t.Fatalf("AccountSums: %v", err)
	}
	return lines
}

// checkRows returns the contradictions found.
func (s *suite) checkRows(t *testing.T, limit int) []string {
	t.Helper()
	found, err := s.store.CheckRows(t.Context(), limit)
	if err != nil {
		t.Fatalf("CheckRows: %v", err)
	}
	return found
}

// bookHour books what is stored of an hour, with a record for each account.
func (s *suite) bookHour(t *testing.T, kind reporter.BookingKind, w meter.Window, meters []meter.Meter) reporter.Booking {
	t.Helper()
	var rows reporter.Rows
	err := s.store.AggregateWindow(t.Context(), reporter.Scope{Hour: w}, meters, func(u reporter.WindowUsage) error {
		rows.Usage = append(rows.Usage, reporter.HourlyUsage{Subject: u.Subject, Meter: u.Meter, Quantity: u.Quantity, Events: u.Events})
		if kind != reporter.BookingClose {
			return nil
		}
		r := newRecord(len(rows.Records), w.Start)
		r.InstanceID, r.Subject, r.Meter, r.Usage, r.CarriedIn = u.Subject+u.Meter, u.Subject, u.Meter, u.Quantity, meter.Quantity{}
		r.Billed, r.CarriedOut = r.Usage.DivTruncate(r.Scale, 4)
		r.SN = r.Identity().SN()
		r.Last.SN = r.SN
		rows.Records = append(rows.Records, r)
		rows.Balances = append(rows.Balances, reporter.Balance{Subject: u.Subject, Meter: u.Meter, Quantity: r.CarriedOut})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return s.book(t, kind, w, rows)
}

func testAccountSums(t *testing.T, s *suite) {
	meters, w := allMeters()[:2], meter.HourOf(base)
	s.insert(t, meters, fiveEvents()...)
	s.insert(t, meters, event{id: "next", at: w.End, data: `{"tokens":1000.5,"user":"u"}`})
	wantLines(t, "sums of nothing booked", s.sums(t, time.Time{}, time.Time{}, true, meters), []string{})
	first := s.bookHour(t, reporter.BookingClose, w, meters)
	s.bookHour(t, reporter.BookingClose, w.Next(), meters)
	all := s.sums(t, time.Time{}, time.Time{}, true, meters)
	for _, line := range all {
		s.record("%s", line)
	}
	wantLines(t, "sums", all, []string{
		"tenant-1 calls stored=4 booked=4 records=[pending=4] balance=0 held=0 written_off=0 unbillable=0",
		"tenant-1 tokens_total stored=1013 booked=1013 records=[pending=1013] balance=0 held=0 written_off=0 unbillable=0",
		"tenant-2 calls stored=1 booked=1 records=[pending=1] balance=0 held=0 written_off=0 unbillable=0",
		"tenant-2 tokens_total stored=7 booked=7 records=[pending=7] balance=0 held=0 written_off=0 unbillable=0",
	})
	testSumsOfHour(t, s, meters, w, first)
}

// testSumsOfHour follows one hour through a late event, adjustments and transitions.
func testSumsOfHour(t *testing.T, s *suite, meters []meter.Meter, w meter.Window, first reporter.Booking) {
	t.Helper()
	find := func(lines []string, account string) string {
		for _, line := range lines {
			if rest, ok := strings.CutPrefix(line, account+" "); ok {
				return rest
			}
		}
		return ""
	}
	s.insert(t, meters, event{id: "late", data: `{"tokens":100,"user":"u"}`})
	hour := s.sums(t, w.Start, w.End, true, meters)
	if got, want := find(hour, "tenant-1 tokens_total"), "stored=112.5 booked=12.5 records=[] balance=0 held=0 written_off=0 unbillable=0"; got != want {
		t.Errorf("after a late event: %s, want %s", got, want)
	}
	// A recount books it: the usage replaces, the difference goes into held, and is then decided about.
	held := reporter.Adjustment{
		ID: "aaaa", Hour: w, Subject: "tenant-1", Meter: "tokens_total", Quantity: meter.NewQuantity(100, 0), Into: reporter.IntoHeld, Reason: "late", At: base,
	}
	s.book(t, reporter.BookingRecount, w, reporter.Rows{
		Usage:       []reporter.HourlyUsage{{Subject: "tenant-1", Meter: "tokens_total", Quantity: meter.MustParseQuantity("112.5"), Events: 4}},
		Adjustments: []reporter.Adjustment{held},
	})
	part := func(id reporter.AdjustmentID, amount int64, into reporter.Destination) reporter.Adjustment {
		a := held
		a.ID, a.Quantity, a.Into, a.Of = id, meter.NewQuantity(amount, 0), into, held.ID
		return a
	}
	records, err := s.store.Records(t.Context(), reporter.RecordFilter{Subject: "tenant-1", Meter: "tokens_total", To: w.End})
	if err != nil || len(records) != 1 {
		t.Fatalf("Records = %d, %v", len(records), err)
	}
	s.book(t, reporter.BookingDecision, w, reporter.Rows{
		Adjustments: []reporter.Adjustment{
			part("bbbb", -60, reporter.IntoHeld), part("cccc", 10, reporter.IntoWrittenOff), part("dddd", 20, reporter.IntoUnbillable), part("eeee", 30, reporter.IntoBalance),
		},
		Balances: []reporter.Balance{{Subject: "tenant-1", Meter: "tokens_total", Quantity: meter.NewQuantity(31, 0)}},
	})
	r := records[0]
	var life []reporter.Transition
	for i, state := range []reporter.State{reporter.StateSending, reporter.StateAccepted} {
		life = append(life, reporter.Transition{SN: r.SN, Booked: first.Window, Seq: uint32(i + 2), State: state, At: base.Add(time.Duration(i) * time.Hour)})
	}
	if err := s.store.AppendTransitions(t.Context(), life); err != nil {
		t.Fatal(err)
	}
	s.optimize(t)
	whole := s.sums(t, time.Time{}, time.Time{}, false, meters)
	got := find(whole, "tenant-1 tokens_total")
	s.record("%s", got)
	for _, part := range []string{"stored=0 booked=1113", "balance=31 held=40 written_off=10 unbillable=20", "accepted="} {
		if !strings.Contains(got, part) {
			t.Errorf("sums = %s, want %s in it", got, part)
		}
	}
	if recounted := find(s.sums(t, w.Start, w.End, true, meters), "tenant-1 tokens_total"); !strings.HasPrefix(recounted, "stored=112.5 booked=112.5") {
		t.Errorf("after the recount: %s", recounted)
	}
	// Rows of a booking that was interrupted count nowhere.
	rows := reporter.Rows{
		Usage:    []reporter.HourlyUsage{{Subject: "tenant-1", Meter: "tokens_total", Quantity: meter.NewQuantity(5, 0)}},
		Balances: []reporter.Balance{{Subject: "tenant-1", Meter: "tokens_total", Quantity: meter.NewQuantity(5, 0)}},
	}
	s.write(t, s.draft(t, reporter.BookingClose, w.Next().Next(), &rows), rows)
	wantLines(t, "sums beside an interrupted booking", s.sums(t, time.Time{}, time.Time{}, false, meters), whole)
	if found := s.checkRows(t, 100); len(found) != 0 {
		t.Errorf("CheckRows of good books = %q", found)
	}
}

// testCheckRows damages the books in every way that CheckRows knows.
func testCheckRows(t *testing.T, s *suite) {
	meters := allMeters()[:2]
	hours := []meter.Window{hourAt(0), hourAt(1), hourAt(2)}
	for i, w := range hours {
		s.insert(t, meters, event{id: strconv.Itoa(i), at: w.Start, data: `{"tokens":1000,"user":"u"}`})
		s.bookHour(t, reporter.BookingClose, w, meters)
	}
	if found := s.checkRows(t, 100); len(found) != 0 {
		t.Fatalf("CheckRows of good books = %q", found)
	}
	copyOf := func(table, columns string, replace map[string]string, where string) string {
		values := strings.Split(columns, ", ")
		for i, name := range values {
			values[i] = cmp.Or(replace[name], name)
		}
		return "INSERT INTO " + table + " (" + columns + ") SELECT " + strings.Join(values, ", ") + " FROM " + table + " WHERE " + where
	}
	const record = "booked_start, booked_end, version, sn, window_start, window_end, seller, instance_id, product_id, subject, meter, mode, usage, carried_in," +
		" carried_out, scale, billed, record_time, package, revision, replaces, first_state, first_at, first_message, first_detail, first_actor"
	const booking = "number, version, kind, window_start, window_end, at, events, usages, records, adjustments, balances, covers, instance_id, actor, reason"
	first := "booked_start = toDateTime('" + hours[0].Start.Format("2006-01-02 15:04:05") + "', 'UTC') AND meter = 'calls'"
	s.exec(t,
		copyOf("bill_records", record, map[string]string{"sn": "'twin'", "usage": "usage + toDecimal128('1', 18)", "first_state": "toUInt8(3)"}, first),
		copyOf("bookings", booking, map[string]string{"number": "toUInt64(5)", "version": "version + 1", "usages": "toUInt64(0)", "records": "toUInt64(0)", "balances": "toUInt64(0)"}, "number = 3"),
		"INSERT INTO bill_record_transitions (booked_start, booked_end, sn, seq, state, at, attempt, endpoint, code, message, request_hash, latency, detail, actor, precedence)"+
			" SELECT booked_start, booked_end, sn, toUInt32(3), toUInt8(1), toInt64(0), toUInt32(0), '', '', '', '', toInt64(0), '', '', toUInt64(0) FROM bill_records WHERE sn = 'twin'")
	found := s.checkRows(t, 100)
	for _, want := range []string{
		"the log lacks bookings 4 to 4", "was closed 2 times, by bookings 3 to 5", "rows in bill_records instead of", "has 2 records of",
		"record twin does not add up", `from state "" to "accepted"`, `from state "accepted" to "pending"`, "record twin has 2 transitions, and the last one has number 3",
	} {
		if !slices.ContainsFunc(found, func(line string) bool { return strings.Contains(line, want) }) {
			t.Errorf("CheckRows lacks %q:\n%s", want, strings.Join(found, "\n"))
		}
	}
	if len(found) != 8 {
		t.Errorf("CheckRows found %d contradictions, want 8:\n%s", len(found), strings.Join(found, "\n"))
	}
	if few := s.checkRows(t, 2); len(few) != 2 {
		t.Errorf("CheckRows limited to 2 = %q", few)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.store.CheckRows(ctx, 1); err == nil {
		t.Error("CheckRows of a cancelled context succeeded")
	}
	s.record("%d", len(found))
}
