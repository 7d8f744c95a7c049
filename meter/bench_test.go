package meter_test

import (
	"bytes"
	"fmt"
	"strconv"
	"testing"

	"github.com/meterd/meterd/meter"
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
