package meter_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"testing"
	"time"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/meter/spool"
)

// benchBody is a JSON array of n events as a token-counting service would send them, about 215 bytes each.
func benchBody(n int) []byte {
	var b bytes.Buffer
	b.WriteByte('[')
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"specversion":"1.0","id":"01JCQ8ZK%012d","source":"svc-chat","type":"prompt",`+
			`"subject":"7f141bf1-aec8-4859-8323-%012d","time":"2026-01-02T15:%02d:%02d.%03dZ",`+
			`"data":{"tokens":%d,"model":"m-large","input":"%d"}}`, i, i%100, i/60%60, i%60, i%1000, 100+i%900, i%77)
	}
	b.WriteByte(']')
	return b.Bytes()
}

// perEvent reports the cost of one event.
func perEvent(b *testing.B, events, size int) {
	b.Helper()
	total := float64(b.N) * float64(events)
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/total, "ns/event")
	b.ReportMetric(total/b.Elapsed().Seconds()/1e6, "Mevents/s")
	b.SetBytes(int64(size))
}

func BenchmarkDecode(b *testing.B) {
	for _, n := range []int{1, 1000} {
		body := benchBody(n)
		b.Run("events="+strconv.Itoa(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				batch := meter.NewBatch()
				batch.DecodeJSON(body, meter.DecodeOptions{MaxEvents: 10000, MaxEventBytes: 1 << 18})
				if len(batch.Events) != n {
					b.Fatal(batch.Problems)
				}
				batch.Release()
			}
			perEvent(b, n, len(body))
		})
	}
}

// devNull is a spool that keeps nothing: what is left is the ingester's own work.
type devNull struct{ bytes, events int }

func (s *devNull) Append(_ context.Context, payload []byte, events int) (meter.Position, error) {
	s.bytes += len(payload)
	s.events += events
	return meter.Position{Segment: 1, Offset: int64(s.bytes)}, nil
}

func benchCatalog(b *testing.B) *meter.Catalog {
	b.Helper()
	one := meter.NewQuantity(1, 0)
	c, err := meter.NewCatalog([]meter.Meter{
		{
			Slug: "tokens", EventType: "prompt", Aggregation: meter.Sum, Value: meter.MustParsePath("$.tokens"), Scale: one,
			GroupBy: []meter.Dimension{{Name: "model", Path: meter.MustParsePath("$.model")}},
		},
		{Slug: "prompts", EventType: "prompt", Aggregation: meter.Count, Scale: one},
	})
	if err != nil {
		b.Fatal(err)
	}
	return c
}

func BenchmarkAccept(b *testing.B) {
	for _, n := range []int{1, 1000} {
		body := benchBody(n)
		b.Run("events="+strconv.Itoa(n), func(b *testing.B) {
			sink := &devNull{}
			now := time.Date(2026, 1, 2, 15, 30, 0, 0, time.UTC)
			in, err := meter.NewIngester(meter.IngestOptions{
				Catalog: benchCatalog(b), Spool: sink, Now: func() time.Time { return now }, Logger: slog.New(slog.DiscardHandler),
				MaxAge: 480 * time.Hour, MaxFuture: time.Hour,
			})
			if err != nil {
				b.Fatal(err)
			}
			ctx := b.Context()
			b.ReportAllocs()
			for b.Loop() {
				batch := meter.NewBatch()
				batch.DecodeJSON(body, meter.DecodeOptions{MaxEvents: 10000, MaxEventBytes: 1 << 18})
				v, err := in.Accept(ctx, batch, "", meter.AllOrNothing)
				if err != nil || v.Accepted != n {
					b.Fatal(err, v)
				}
				batch.Release()
			}
			perEvent(b, n, len(body))
			b.ReportMetric(float64(sink.bytes)/float64(sink.events), "payload-B/event")
		})
	}
}

func BenchmarkLoaderBuildRows(b *testing.B) {
	const n = 1000
	batch := meter.NewBatch()
	body := benchBody(n)
	batch.DecodeJSON(body, meter.DecodeOptions{})
	payload := meter.AppendPayload(nil, &meter.Payload{Received: 1, Events: batch.Events})
	rows := meter.NewRowBuilder(benchCatalog(b))
	b.ReportAllocs()
	for b.Loop() {
		if got, err := rows.Build(payload); err != nil || got.Len() != n || len(got.Values) != 2*n {
			b.Fatal(err, got.Len(), len(got.Values))
		}
	}
	perEvent(b, n, len(payload))
}

// swallow is a store that keeps nothing.
type swallow struct{}

func (swallow) InsertEvents(context.Context, *meter.EventRows) error { return nil }

// BenchmarkDurable is the way of an event without HTTP and without the store: decoded, checked, fsynced by eight senders,
// read again and built into rows.
func BenchmarkDurable(b *testing.B) {
	const n = 1000
	body := benchBody(n)
	log := slog.New(slog.DiscardHandler)
	sp, err := spool.Open(spool.Options{Dir: b.TempDir(), Now: time.Now, Logger: log})
	if err != nil {
		b.Fatal(err)
	}
	defer sp.Close()
	c := benchCatalog(b)
	in, err := meter.NewIngester(meter.IngestOptions{Catalog: c, Spool: sp, Now: time.Now, Logger: log})
	if err != nil {
		b.Fatal(err)
	}
	loader, err := meter.NewLoader(meter.LoaderOptions{Spool: sp, Store: swallow{}, Catalog: c, Now: time.Now, Logger: log})
	if err != nil {
		b.Fatal(err)
	}
	go loader.Run(b.Context())
	ctx := context.Background()
	b.SetParallelism(4)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			batch := meter.NewBatch()
			batch.DecodeJSON(body, meter.DecodeOptions{})
			if v, err := in.Accept(ctx, batch, "", meter.AllOrNothing); err != nil || v.Accepted != n {
				b.Error(err)
			}
			batch.Release()
		}
	})
	accepted := b.Elapsed()
	if err := loader.Flush(ctx); err != nil {
		b.Fatal(err)
	}
	perEvent(b, n, len(body))
	b.ReportMetric(float64(b.N)*n/accepted.Seconds()/1e6, "durable-Mevents/s")
}
