package httpapi_test

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/meterd/meterd/internal/httpapi"
)

const connections = 64

// BenchmarkEvents sends events over 64 connections on the same machine and counts what was acknowledged, so after the sync
// of the spool. The client writes requests made beforehand and reads just enough of the answers.
func BenchmarkEvents(b *testing.B) {
	for name, size := range map[string]int{"batch=1000": 1000, "single": 1} {
		b.Run(name, func(b *testing.B) {
			bundle := setup(b, func(o *httpapi.Options) {
				o.Observe = nil
				o.Logger = slog.New(slog.DiscardHandler)
			})
			benchmarkEvents(b, bundle.server.Listener.Addr().String(), size)
		})
	}
}

// BenchmarkEvents_Reference is net/http alone: it reads the body and answers.
func BenchmarkEvents_Reference(b *testing.B) {
	for name, size := range map[string]int{"batch=1000": 1000, "single": 1} {
		b.Run(name, func(b *testing.B) {
			listener, err := (&net.ListenConfig{}).Listen(b.Context(), "tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				w.WriteHeader(http.StatusNoContent)
			})}
			go func() { _ = server.Serve(listener) }()
			b.Cleanup(func() { _ = server.Close() })
			benchmarkEvents(b, listener.Addr().String(), size)
		})
	}
}

func benchmarkEvents(b *testing.B, address string, size int) {
	b.Helper()
	var next atomic.Int64
	var failed atomic.Int64
	var wg sync.WaitGroup
	latencies := make([][]time.Duration, connections)
	b.ReportAllocs()
	b.ResetTimer()
	start, before := time.Now(), cpuTime(b)
	for c := range connections {
		wg.Go(func() {
			conn, err := (&net.Dialer{}).DialContext(b.Context(), "tcp", address)
			if err != nil {
				b.Error(err)
				return
			}
			defer conn.Close()
			answer := make([]byte, 4096)
			request := benchRequest(size, c)
			for next.Add(1) <= int64(b.N) {
				sent := time.Now()
				if _, err := conn.Write(request); err != nil {
					b.Error(err)
					return
				}
				n, err := conn.Read(answer)
				if err != nil || !bytes.HasPrefix(answer[:n], []byte("HTTP/1.1 204")) || !bytes.HasSuffix(answer[:n], []byte("\r\n\r\n")) {
					failed.Add(1)
					b.Errorf("answer %q, %v", answer[:n], err)
					return
				}
				latencies[c] = append(latencies[c], time.Since(sent))
			}
		})
	}
	wg.Wait()
	elapsed := time.Since(start)
	b.ReportMetric(float64(b.N)/elapsed.Seconds(), "requests/s")
	b.ReportMetric(float64(b.N*size)/elapsed.Seconds(), "events/s")
	// Client and server together. On a machine that does nothing else, two cores could do 2,000,000 / this per second.
	b.ReportMetric(float64((cpuTime(b)-before).Microseconds())/float64(b.N), "cpu-µs/request")
	b.ReportMetric(float64(percentile(latencies, 0.99).Microseconds())/1000, "p99-ms")
}

// cpuTime is what the process has used so far.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func percentile(lists [][]time.Duration, p float64) time.Duration {
	var all []time.Duration
	for _, l := range lists {
		all = append(all, l...)
	}
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[int(float64(len(all)-1)*p)]
}

// benchRequest is one request with size events of about 215 bytes.
func benchRequest(size, connection int) []byte {
	var body strings.Builder
	if size > 1 {
		body.WriteByte('[')
	}
	for i := range size {
		if i > 0 {
			body.WriteByte(',')
		}
		fmt.Fprintf(&body, `{"specversion":"1.0","id":"c%02d-%08d","source":"/bench/service","type":"prompt","subject":"tenant-%04d",`+
			`"time":"2026-11-23T10:%02d:%02dZ","data":{"tokens":%d,"model":"model-large","kind":"output"}}`, connection, i, i%1000, i%30, i%60, i%5000)
	}
	media := "application/cloudevents+json"
	if size > 1 {
		body.WriteByte(']')
		media = "application/cloudevents-batch+json"
	}
	return []byte("POST /api/v1/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + ingestKey + "\r\nContent-Type: " + media +
		"\r\nContent-Length: " + strconv.Itoa(body.Len()) + "\r\n\r\n" + body.String())
}
