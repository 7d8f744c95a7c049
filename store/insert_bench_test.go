package store

import (
	"fmt"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/column"

	"github.com/meterd/meterd/meter"
)

// benchRows are n events with two values each, as a token meter and a request meter make them.
func benchRows(n int) *meter.EventRows {
	r := &meter.EventRows{}
	start := time.Date(2026, 1, 2, 15, 0, 0, 0, time.UTC).UnixNano()
	dimensions := [][]byte{[]byte("m-large")}
	for i := range n {
		r.Subject = append(r.Subject, fmt.Appendf(nil, "instance-%07d", i*31%100_000))
		r.Source = append(r.Source, []byte("/gateway/eu-1"))
		r.ID = append(r.ID, fmt.Appendf(nil, "0197a5c0-7c1e-7a3b-%016x", i))
		r.Type = append(r.Type, []byte("llm.tokens"))
		r.Key = append(r.Key, meter.EventKey{byte(i), byte(i >> 8), byte(i >> 16)})
		r.Content = append(r.Content, uint64(i))
		r.Time = append(r.Time, start+int64(i))
		r.Received = append(r.Received, start+int64(i))
		r.Stamped = append(r.Stamped, false)
		r.Data = append(r.Data, fmt.Appendf(nil, `{"tokens":%d,"model":"m-large"}`, 1000+i%9000))
		r.Extensions = append(r.Extensions, nil)
		r.Values = append(r.Values,
			meter.EventValue{Row: i, Meter: 1, Quantity: meter.NewQuantity(int64(1000+i%9000), 0), Dimensions: dimensions},
			meter.EventValue{Row: i, Meter: 2, Quantity: meter.NewQuantity(1, 0)})
	}
	return r
}

// newColumns are empty columns as a batch of clickhouse-go has them.
func newColumns(tb testing.TB, t table) []column.Interface {
	tb.Helper()
	columns := make([]column.Interface, len(t.columns))
	for i, c := range t.columns {
		var err error
		if columns[i], err = column.Type(c.Type).Column(c.Name, &column.ServerContext{Timezone: time.UTC}); err != nil {
			tb.Fatal(err)
		}
	}
	return columns
}

// BenchmarkEncodeEvents is what an insert costs before anything is sent.
func BenchmarkEncodeEvents(b *testing.B) {
	for _, n := range []int{1000, 100_000} {
		b.Run(fmt.Sprintf("rows=%d", n), func(b *testing.B) {
			rows := benchRows(n)
			b.ReportAllocs()
			for b.Loop() {
				encoder := eventEncoder{rows: rows, batch: 1}
				if err := fillColumns(newColumns(b, usageEvents), n, encoder.column); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/row")
		})
	}
}

// BenchmarkTouches is what touches cost an insert before anything is written: of the current hour, and late.
func BenchmarkTouches(b *testing.B) {
	rows := benchRows(100_000)
	hour := time.Date(2026, 1, 2, 15, 0, 0, 0, time.UTC)
	for name, before := range map[string]time.Time{"current hour": hour, "late": hour.Add(time.Hour)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if n := len(touchesOf(rows, before, 24*time.Hour)); n > 1 {
					b.Fatalf("%d touches", n)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(rows.Len()), "ns/row")
		})
	}
}
