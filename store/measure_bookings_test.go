package store_test

import (
	"fmt"
	"log/slog"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
	"github.com/meterd/meterd/store"
	"github.com/meterd/meterd/store/embedded"
	"github.com/meterd/meterd/store/storetest"
)

// TestMeasureBookings prints what a booking costs, and whether it grows with the log:
//
//	METERD_MEASURE_BOOKINGS=1 go test -run TestMeasureBookings -v -timeout 30m ./store/
func TestMeasureBookings(t *testing.T) {
	if os.Getenv("METERD_MEASURE_BOOKINGS") == "" {
		t.Skip("set METERD_MEASURE_BOOKINGS to measure")
	}
	t.Run("server", func(t *testing.T) {
		server := storetest.StartServer(t)
		measureBookings(t, store.Config{Addrs: []string{server.Addr}})
	})
	t.Run("embedded", func(t *testing.T) {
		engine := storetest.StartEngine(t, embedded.Options{})
		measureBookings(t, store.Config{DialContext: engine.DialContext})
	})
}

func measureBookings(t *testing.T, config store.Config) {
	t.Helper()
	ctx := t.Context()
	config.Now, config.Logger, config.Database = time.Now, slog.New(slog.DiscardHandler), "measure"
	s := open(t, config)
	timed := func(n int, name string, run func() error) {
		t.Helper()
		took := make([]time.Duration, n)
		for i := range took {
			began := time.Now()
			if err := run(); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			took[i] = time.Since(began)
		}
		slices.Sort(took)
		t.Logf("%-44s median %v, worst %v of %d", name, took[n/2].Round(100*time.Microsecond), took[n-1].Round(100*time.Microsecond), n)
	}
	var last reporter.Booking
	commit := func(rows reporter.Rows) error {
		b := reporter.Booking{
			Number: last.Number + 1, Version: last.Version + 1, Kind: reporter.BookingClose, Window: meter.HourOf(measureHour.Start.Add(time.Duration(last.Number) * time.Hour)),
			At: measureHour.Start, Balances: uint64(len(rows.Balances)), Usages: uint64(len(rows.Usage)), Records: uint64(len(rows.Records)),
		}
		if err := s.WriteRows(ctx, b, rows); err != nil {
			return err
		}
		last = b
		return s.Commit(ctx, b)
	}
	timed(100, "commit of an empty booking", func() error { return commit(reporter.Rows{}) })
	timed(100, "last booking", func() error { _, _, err := s.LastBooking(ctx); return err })
	const accounts = 100_000
	for range 6 { // a few hours in which every account changes
		var rows reporter.Rows
		for i := range accounts {
			rows.Balances = append(rows.Balances, reporter.Balance{Subject: subjectName(i), Meter: "tokens", Quantity: meter.NewQuantity(int64(i+1), -6)})
		}
		timed(1, "booking with 100,000 balances", func() error { return commit(rows) })
	}
	balances := func(when string) {
		t.Helper()
		timed(5, "all balances "+when, func() error { return expectBalances(s.Balances(ctx, nil))(accounts) })
		timed(20, "balances of one subject "+when, func() error { return expectBalances(s.Balances(ctx, []string{subjectName(77)}))(1) })
	}
	balances("early")
	// A year of bookings behind: rows made by the server, all at once.
	conn := rawConn(t, config)
	year := fmt.Sprintf("INSERT INTO bookings (number, version, kind, window_start, window_end, at, events, usages, records, adjustments, balances, covers, instance_id, actor, reason)"+
		" SELECT %d + n, %d + n, toUInt8(1), toDateTime(1767366000 + n * 3600, 'UTC'), toDateTime(1767369600 + n * 3600, 'UTC'), toInt64(1), toUInt64(0), toUInt64(0), toUInt64(1),"+
		" toUInt64(0), toUInt64(1), toUInt64(0), '', '', '' FROM (SELECT number + 1 AS n FROM system.numbers LIMIT 8766)", last.Number, last.Version)
	if err := conn.Exec(ctx, year); err != nil {
		t.Fatal(err)
	}
	more := fmt.Sprintf("INSERT INTO account_balances (booked_start, version, subject, meter, quantity) SELECT toDateTime(1767366000 + n * 3600, 'UTC'), %d + n,"+
		" 'tenant-x', 'tokens', toDecimal128('1', 18) FROM (SELECT number + 1 AS n FROM system.numbers LIMIT 8766)", last.Version)
	if err := conn.Exec(ctx, more); err != nil {
		t.Fatal(err)
	}
	last.Number, last.Version = last.Number+8766, last.Version+8766
	if _, err := s.Balances(ctx, nil); err != nil { // writes the checkpoint that a year would have
		t.Fatal(err)
	}
	timed(50, "commit of an empty booking after a year", func() error { return commit(reporter.Rows{}) })
	timed(50, "last booking after a year", func() error { _, _, err := s.LastBooking(ctx); return err })
	timed(20, "unsettled bookings after a year", func() error { _, err := s.UnsettledBookings(ctx); return err })
	timed(5, "all balances after a year", func() error { return expectBalances(s.Balances(ctx, nil))(accounts + 1) })
	timed(20, "balances of one subject after a year", func() error { return expectBalances(s.Balances(ctx, []string{subjectName(77)}))(1) })
}

func expectBalances(list []reporter.Balance, err error) func(n int) error {
	return func(n int) error {
		if err != nil || len(list) != n {
			return fmt.Errorf("%d balances instead of %d: %w", len(list), n, err)
		}
		return nil
	}
}
