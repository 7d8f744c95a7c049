package reporter_test

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"testing"
	"time"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
	"github.com/meterd/meterd/reporter/reportertest"
)

// nullBooks have n subjects with usage in one hour, and forget everything they are told.
type nullBooks struct {
	*reportertest.Books
	n       int
	records []reporter.BillRecord // kept only when keep is set
	keep    bool
}

func (b *nullBooks) FirstEventHour(context.Context) (meter.Window, bool, error) {
	return noon, true, nil
}

func (b *nullBooks) AggregateWindow(_ context.Context, _ reporter.Scope, _ []meter.Meter, yield func(reporter.WindowUsage) error) error {
	for i := range b.n {
		u := reporter.WindowUsage{
			Subject: fmt.Sprintf("7f141bf1-aec8-4859-8323-%012d", i), Meter: "tokens", Quantity: meter.NewQuantity(int64(i)*1237+1000, -2), Events: 100,
		}
		if err := yield(u); err != nil {
			return err
		}
	}
	return nil
}

func (b *nullBooks) WriteRows(_ context.Context, _ reporter.Booking, rows reporter.Rows) error {
	if b.keep {
		b.records = append(b.records, rows.Records...)
	}
	return nil
}

func (b *nullBooks) Commit(context.Context, reporter.Booking) error { return nil }

func (b *nullBooks) UnsettledBookings(context.Context) ([]reporter.Booking, error) {
	return []reporter.Booking{{Window: noon}}, nil
}

// DueRecords pages through the records by their place, which after encodes.
func (b *nullBooks) DueRecords(_ context.Context, _ reporter.Booking, after reporter.MeteringSN, limit int) ([]reporter.BillRecord, error) {
	start := 0
	if limit == 1 {
		return nil, nil
	}
	for i := range b.records {
		if after == b.records[i].SN {
			start = i + 1
		}
	}
	return append([]reporter.BillRecord(nil), b.records[start:min(start+limit, len(b.records))]...), nil
}

func (b *nullBooks) AppendTransitions(context.Context, []reporter.Transition) error { return nil }

func (b *nullBooks) SettleBooking(context.Context, reporter.Booking) error { return nil }

// nullMarketplace accepts everything and remembers nothing.
type nullMarketplace struct{ limits reporter.Limits }

func (nullMarketplace) Name() string                     { return "null" }
func (m nullMarketplace) Limits() reporter.Limits        { return m.limits }
func (nullMarketplace) Check(reporter.UsageRecord) error { return nil }
func (nullMarketplace) Push(context.Context, []reporter.UsageRecord) reporter.Result {
	return reporter.Result{Class: reporter.ClassAccepted}
}

// BenchmarkHour closes and delivers an hour of many instances: what the reporter itself costs, without store and network.
func BenchmarkHour(b *testing.B) {
	const instances = 100_000
	limits := reportertest.DefaultLimits()
	limits.MaxBatch = 1000
	market := nullMarketplace{limits}
	clock := reportertest.NewClock(at(65))
	log := slog.New(slog.DiscardHandler)
	books := &nullBooks{Books: reportertest.NewBooks(), n: instances, keep: true}
	meters := []meter.Meter{tokens("1000")}
	mapper, err := reporter.NewMapper(meters, nil)
	if err != nil {
		b.Fatal(err)
	}
	closer, err := reporter.NewCloser(reporter.CloserOptions{
		Books: books, Meters: meters, Mapper: mapper, Rules: market, Seller: "acme", Grace: 5 * time.Minute, Now: clock.Now, Logger: log,
	})
	if err != nil {
		b.Fatal(err)
	}
	if _, err := closer.CloseDue(b.Context(), at(65)); err != nil {
		b.Fatal(err)
	}
	books.keep = false
	deliver, err := reporter.NewReporter(reporter.ReporterOptions{
		Books: books, Marketplace: market, Clock: clock, Logger: log, Random: func() float64 { return 0 },
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Run("close", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if sum, err := closer.CloseDue(b.Context(), at(65)); err != nil || sum.Records != instances {
				b.Fatal(sum, err)
			}
		}
		reportHeap(b)
	})
	b.Run("deliver", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if sum, err := deliver.RunOnce(b.Context()); err != nil || sum.Accepted != instances {
				b.Fatal(sum, err)
			}
		}
	})
}

func reportHeap(b *testing.B) {
	b.Helper()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	b.ReportMetric(float64(m.HeapSys)/(1<<20), "MiB-heap")
}
