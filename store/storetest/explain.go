package storetest

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
	"github.com/meterd/meterd/reporter/reportertest"
)

// accountRecord is a record of the account tenant-00001/tokens, the nth of an hour.
func accountRecord(n int, start time.Time, revision uint32) reporter.BillRecord {
	r := newRecord(n, start)
	r.Subject, r.Mode, r.Revision = "tenant-00001", reporter.ModeLive, revision
	r.SN = r.Identity().SN()
	r.Last.SN = r.SN
	return r
}

// testExplain writes the same bookings into the store and into the reference books, and asks both what explaining asks.
func testExplain(t *testing.T, s *suite) {
	ctx := t.Context()
	reference := reportertest.NewBooks()
	usage := func(n int, quantity string) reporter.HourlyUsage {
		return reporter.HourlyUsage{Window: hourAt(n), Subject: "tenant-00001", Meter: "tokens", Quantity: meter.MustParseQuantity(quantity), Events: 3}
	}
	book := func(kind reporter.BookingKind, w meter.Window, rows reporter.Rows, commit bool) reporter.Booking {
		t.Helper()
		b := s.draft(t, kind, w, &rows)
		s.write(t, b, rows)
		s.write(t, b, rows) // as after an error: rows are written again
		if err := reference.WriteRows(t.Context(), b, rows); err != nil {
			t.Fatal(err)
		}
		if !commit {
			return b
		}
		if err := s.store.Commit(t.Context(), b); err != nil {
			t.Fatalf("Commit: %v", err)
		}
		if err := reference.Commit(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		return b
	}
	first, second := accountRecord(1, hourAt(0).Start, 0), accountRecord(1, hourAt(2).Start, 0)
	late, last := accountRecord(1, hourAt(1).Start, 0), accountRecord(1, hourAt(38).Start, 0)
	bookings := []reporter.Booking{
		book(reporter.BookingClose, hourAt(0), reporter.Rows{Usage: []reporter.HourlyUsage{usage(0, "5")}, Records: []reporter.BillRecord{first, newRecord(2, hourAt(0).Start)}}, true),
		book(reporter.BookingClose, hourAt(1), reporter.Rows{}, true),
		book(reporter.BookingClose, hourAt(2), reporter.Rows{Usage: []reporter.HourlyUsage{usage(2, "1.5")}, Records: []reporter.BillRecord{second}}, true),
		book(reporter.BookingRecount, hourAt(1), reporter.Rows{Usage: []reporter.HourlyUsage{usage(1, "2"), usage(0, "4")}, Records: []reporter.BillRecord{late}}, true),
	}
	for n := 3; n < 38; n++ { // more than one group of bookings with records of others
		bookings = append(bookings, book(reporter.BookingClose, hourAt(n), reporter.Rows{Records: []reporter.BillRecord{newRecord(2, hourAt(n).Start)}}, true))
	}
	again := accountRecord(1, hourAt(0).Start, 1)
	again.Replaces = first.SN
	bookings = append(bookings, book(reporter.BookingResend, hourAt(37), reporter.Rows{Records: []reporter.BillRecord{again}}, true))
	bookings = append(bookings, book(reporter.BookingClose, hourAt(38), reporter.Rows{Records: []reporter.BillRecord{last}}, true))
	// Interrupted: nothing of it counts.
	dead := book(reporter.BookingResend, hourAt(38), reporter.Rows{Usage: []reporter.HourlyUsage{usage(0, "77")}, Records: []reporter.BillRecord{accountRecord(1, hourAt(0).Start, 2)}}, false)

	compare := func(what string, got, want any) {
		t.Helper()
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-reference +store):\n%s", what, diff)
		}
	}
	type answer struct {
		Value any
		OK    bool
	}
	for _, version := range []uint64{bookings[0].Version, bookings[3].Version, bookings[len(bookings)-1].Version, dead.Version, 0} {
		b, ok, err := s.store.BookingByVersion(ctx, version)
		want, wantOK, wantErr := reference.BookingByVersion(ctx, version)
		if err != nil || wantErr != nil {
			t.Fatal(err, wantErr)
		}
		compare("BookingByVersion", answer{b, ok}, answer{want, wantOK})
	}
	for _, sn := range []reporter.MeteringSN{first.SN, second.SN, late.SN, last.SN, again.SN} {
		records := must(s.store.RecordsBySN(ctx, []reporter.MeteringSN{sn}))(t)
		if len(records) != 1 {
			t.Fatalf("RecordsBySN(%s) = %d records, want 1", sn, len(records))
		}
		before, ok, err := s.store.RecordBefore(ctx, records[0])
		want, wantOK, wantErr := reference.RecordBefore(ctx, records[0])
		if err != nil || wantErr != nil {
			t.Fatal(err, wantErr)
		}
		compare("RecordBefore", answer{before, ok}, answer{want, wantOK})
		by, ok, err := s.store.ReplacedBy(ctx, sn)
		want, wantOK, wantErr = reference.ReplacedBy(ctx, sn)
		if err != nil || wantErr != nil {
			t.Fatal(err, wantErr)
		}
		compare("ReplacedBy", answer{by, ok}, answer{want, wantOK})
	}
	for _, w := range []meter.Window{{Start: hourAt(0).Start, End: hourAt(2).Start}, {End: hourAt(38).End}, {Start: hourAt(1).Start, End: hourAt(1).Start}, hourAt(30)} {
		for _, a := range []reporter.Account{{Subject: "tenant-00001", Meter: "tokens"}, {Subject: "tenant-00001", Meter: "calls"}} {
			compare("UsageHistory", must(s.store.UsageHistory(ctx, a, w.Start, w.End))(t), must(reference.UsageHistory(ctx, a, w.Start, w.End))(t))
		}
	}
	e := must(reporter.Explain(ctx, s.store, last.SN))(t)
	if e.Before == nil || e.Before.SN != late.SN {
		t.Errorf("the record before the last one = %+v, want %s", e.Before, late.SN)
	}
}
