package spool_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/meterd/meterd/meter/spool"
	"github.com/meterd/meterd/meter/spool/internal/vfs"
)

// cloudEvents returns n usage events of about 215 bytes, one a line, as a
// language-model gateway sends them.
func cloudEvents(n int) []byte {
	rng := rand.New(rand.NewPCG(uint64(n), 1))
	var b bytes.Buffer
	for range n {
		fmt.Fprintf(&b, `{"specversion":"1.0","id":"%08x-%04x-4%03x-%04x-%012x","source":"/gateway/eu-%d",`+
			`"type":"llm.tokens","subject":"inst-%06d","time":"2026-03-03T1%d:%02d:%02d.%03dZ",`+
			`"data":{"tokens":"%d","model":"m-%d"}}`+"\n",
			rng.Uint32(), rng.Uint32()&0xffff, rng.Uint32()&0xfff, rng.Uint32()&0xffff, rng.Uint64()&0xffffffffffff,
			rng.IntN(4), rng.IntN(2000), rng.IntN(10), rng.IntN(60), rng.IntN(60), rng.IntN(1000),
			rng.IntN(9000), rng.IntN(5))
	}
	return b.Bytes()
}

// benchPayload returns n bytes: usage events, or bytes that no codec shrinks.
func benchPayload(kind string, n int) []byte {
	if kind == "json" {
		b := cloudEvents(n/200 + 1)
		return b[:min(n, len(b))]
	}
	return []byte(incompressible("", n))
}

func openBench(b *testing.B) *spool.Spool {
	b.Helper()
	s, err := spool.Open(spool.Options{Dir: b.TempDir(), MaxBytes: 1 << 40, Now: time.Now})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	})
	return s
}

// consume confirms what is durable now and then, as a consumer does, so that a
// long run does not fill the disk.
func consume(b *testing.B, s *spool.Spool) (stop func()) {
	b.Helper()
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(250 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				if err := s.Confirm(s.Durable()); err != nil {
					b.Error(err)
				}
			}
		}
	}()
	return func() { close(done); <-ended }
}

type latencies struct {
	mu  sync.Mutex
	all []time.Duration
}

func (l *latencies) add(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, d)
}

func (l *latencies) report(b *testing.B) {
	b.Helper()
	if len(l.all) == 0 {
		return
	}
	slices.Sort(l.all)
	ms := func(q float64) float64 { return l.all[int(q*float64(len(l.all)-1))].Seconds() * 1e3 }
	b.ReportMetric(ms(0.5), "p50-ms")
	b.ReportMetric(ms(0.99), "p99-ms")
	b.ReportMetric(l.all[len(l.all)-1].Seconds()*1e3, "max-ms")
}

// BenchmarkAppend is one durable append, to be compared with BenchmarkRaw of
// the same size. data=random can't be compressed and shows the cost of
// everything but compression.
func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{4 << 10, 200 << 10} {
		for _, kind := range []string{"json", "random"} {
			b.Run(fmt.Sprintf("size=%dKiB/data=%s", size>>10, kind), func(b *testing.B) {
				s, p := openBench(b), benchPayload(kind, size)
				defer consume(b, s)()
				b.SetBytes(int64(size))
				for b.Loop() {
					if _, err := s.Append(b.Context(), p, size/215); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(b.N)*float64(size)/215/b.Elapsed().Seconds(), "events/s")
			})
		}
	}
	for _, c := range []struct{ size, parallel int }{{215, 64}, {4 << 10, 64}, {200 << 10, 8}} {
		b.Run(fmt.Sprintf("size=%dB/data=json/parallel=%d", c.size, c.parallel), func(b *testing.B) {
			benchParallel(b, c.size, c.parallel)
		})
	}
}

func benchParallel(b *testing.B, size, parallel int) {
	b.Helper()
	s, p := openBench(b), benchPayload("json", size)
	defer consume(b, s)()
	b.SetBytes(int64(size))
	var lat latencies
	work := make(chan struct{})
	var wg sync.WaitGroup
	for range parallel {
		wg.Go(func() {
			for range work {
				begun := time.Now()
				if _, err := s.Append(b.Context(), p, 1); err != nil {
					b.Error(err)
				}
				lat.add(time.Since(begun))
			}
		})
	}
	for b.Loop() {
		work <- struct{}{}
	}
	close(work)
	wg.Wait()
	lat.report(b)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "appends/s")
	b.ReportMetric(float64(b.N)/float64(s.Stats().Syncs), "appends/sync")
}

// BenchmarkRaw is the machine's own limit: append to a file and fdatasync,
// with a new file every 64 MiB.
func BenchmarkRaw(b *testing.B) {
	for _, size := range []int{4 << 10, 200 << 10} {
		b.Run(fmt.Sprintf("size=%dKiB", size>>10), func(b *testing.B) {
			p := benchPayload("random", size)
			name := filepath.Join(b.TempDir(), "raw")
			var f vfs.File
			off := int64(64 << 20)
			b.SetBytes(int64(size))
			for b.Loop() {
				if off+int64(size) > 64<<20 {
					f, off = nextRaw(b, f, name), 0
				}
				if _, err := f.WriteAt(p, off); err != nil {
					b.Fatal(err)
				}
				if err := f.Sync(); err != nil {
					b.Fatal(err)
				}
				off += int64(size)
			}
			if err := f.Close(); err != nil {
				b.Fatal(err)
			}
		})
	}
}

func nextRaw(b *testing.B, f vfs.File, name string) vfs.File {
	b.Helper()
	if f != nil {
		if err := f.Close(); err != nil {
			b.Fatal(err)
		}
		if err := os.Remove(name); err != nil {
			b.Fatal(err)
		}
	}
	f, err := vfs.OS{}.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_RDWR)
	if err != nil {
		b.Fatal(err)
	}
	return f
}

// BenchmarkAppendToRaw takes turns between one append and one raw write and
// sync of the same bytes, so that a noisy disk disturbs both alike. It reports
// how many times the raw time an append takes.
func BenchmarkAppendToRaw(b *testing.B) {
	for _, size := range []int{4 << 10, 200 << 10} {
		for _, kind := range []string{"json", "random"} {
			b.Run(fmt.Sprintf("size=%dKiB/data=%s", size>>10, kind), func(b *testing.B) {
				s, p := openBench(b), benchPayload(kind, size)
				defer consume(b, s)()
				name, off := filepath.Join(b.TempDir(), "raw"), int64(64<<20)
				var f vfs.File
				var raw, spooled time.Duration
				for b.Loop() {
					if off+int64(size) > 64<<20 {
						f, off = nextRaw(b, f, name), 0
					}
					begun := time.Now()
					if _, err := f.WriteAt(p, off); err != nil {
						b.Fatal(err)
					}
					if err := f.Sync(); err != nil {
						b.Fatal(err)
					}
					middle := time.Now()
					if _, err := s.Append(b.Context(), p, 1); err != nil {
						b.Fatal(err)
					}
					raw, spooled = raw+middle.Sub(begun), spooled+time.Since(middle)
					off += int64(size)
				}
				b.ReportMetric(float64(spooled)/float64(raw), "append/raw")
			})
		}
	}
}

// BenchmarkRead drains a spool of 64 MiB of usage events.
func BenchmarkRead(b *testing.B) {
	s, p := openBench(b), benchPayload("json", 200<<10)
	const n = 64 << 20 / (200 << 10)
	for range n {
		if _, err := s.Append(b.Context(), p, 1); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(n * int64(len(p)))
	for b.Loop() {
		r := s.NewReader(spool.Position{})
		for range n {
			if _, err := r.Next(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
		if err := r.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
