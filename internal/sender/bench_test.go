package sender_test

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/meterd/meterd/internal/sender"
)

// BenchmarkSource reads and encodes events.
func BenchmarkSource(b *testing.B) {
	const rows = 10_000
	text, o := table(rows)
	src, err := sender.NewCSVSource(strings.NewReader(text), "table.csv", o)
	if err != nil {
		b.Fatal(err)
	}
	events, err := collect(b, src)
	if err != nil {
		b.Fatal(err)
	}
	ndjson := lines(b, events)
	for name, open := range map[string]func() (sender.Source, error){
		"format=csv":  func() (sender.Source, error) { return sender.NewCSVSource(strings.NewReader(text), "table.csv", o) },
		"format=json": func() (sender.Source, error) { return sender.NewJSONSource(strings.NewReader(ndjson), "f"), nil },
	} {
		b.Run(name, func(b *testing.B) {
			var buf []byte
			for b.Loop() {
				src, err := open()
				if err != nil {
					b.Fatal(err)
				}
				for {
					e, err := src.Next()
					if errors.Is(err, io.EOF) {
						break
					}
					if err != nil {
						b.Fatal(err)
					}
					if buf, err = e.AppendJSON(buf[:0]); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(float64(rows)*float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}
