package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/shopspring/decimal"

	"github.com/meterd/meterd/store/embedded"
)

// benchTable resembles the table of usage events.
const benchTable = `CREATE TABLE t (h UInt64, id String, src LowCardinality(String), ts DateTime('UTC'), v Decimal(38, 18))
	ENGINE = ReplacingMergeTree PARTITION BY toYYYYMM(ts) ORDER BY (h, id)`

func benchColumns(rows int) (hashes []uint64, ids []string, times []time.Time, values []decimal.Decimal) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range rows {
		hashes = append(hashes, uint64(i)*0x9e3779b97f4a7c15)
		ids = append(ids, "event-"+strconv.Itoa(i%1000))
		times = append(times, start.Add(time.Duration(i)*time.Millisecond))
		values = append(values, decimal.New(int64(i), -4))
	}
	return hashes, ids, times, values
}

// BenchmarkInsert stores usage events of about 60 bytes in batches.
func BenchmarkInsert(b *testing.B) {
	for _, rows := range []int{1_000, 100_000, 1_000_000} {
		for _, noFsync := range []bool{false, true} {
			b.Run(fmt.Sprintf("rows=%d/fsync=%v", rows, !noFsync), func(b *testing.B) {
				benchmarkInsert(b, rows, noFsync)
			})
		}
	}
}

func benchmarkInsert(b *testing.B, rows int, noFsync bool) {
	b.Helper()
	engine := start(b, embedded.Options{NoFsync: noFsync})
	conn := newDatabase(b, engine)
	mustExec(b, conn, benchTable)
	hashes, ids, times, values := benchColumns(rows)
	for b.Loop() {
		batch, err := conn.PrepareBatch(context.Background(), "INSERT INTO t (h, id, src, ts, v)")
		if err != nil {
			b.Fatal(err)
		}
		if err := errors.Join(batch.Column(0).Append(hashes), batch.Column(1).Append(ids), batch.Column(2).Append(ids),
			batch.Column(3).Append(times), batch.Column(4).Append(values), batch.Send()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(rows)*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
	b.ReportMetric(residentMiB(b, engine.PID()), "engine-MiB")
}

// BenchmarkQuery reads one row by its key.
func BenchmarkQuery(b *testing.B) {
	engine := start(b, embedded.Options{NoFsync: true})
	conn := newDatabase(b, engine)
	mustExec(b, conn, benchTable)
	mustExec(b, conn, "INSERT INTO t (h, id, src, ts, v) SELECT number, toString(number), 's', now(), 1 FROM numbers(100000)")
	for name, sql := range map[string]string{"constant": "SELECT toUInt64(1)", "key": "SELECT count() FROM t WHERE h = 77"} {
		b.Run("sql="+name, func(b *testing.B) {
			var n uint64
			for b.Loop() {
				if err := conn.QueryRow(context.Background(), sql).Scan(&n); err != nil || n != 1 {
					b.Fatal(n, err)
				}
			}
		})
	}
}

// BenchmarkStart starts and stops the engine on an empty directory, the library being in the page cache.
func BenchmarkStart(b *testing.B) {
	lib := library(b)
	var resident float64
	for b.Loop() {
		engine, err := embedded.Start(context.Background(), embedded.Options{DataDir: filepath.Join(b.TempDir(), "data"), Library: lib})
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		resident = residentMiB(b, engine.PID())
		if err := engine.Close(context.Background()); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	b.ReportMetric(resident, "engine-MiB")
}

// residentMiB is the resident memory of a process.
func residentMiB(tb testing.TB, pid int) float64 {
	tb.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		tb.Fatal(err)
	}
	_, after, _ := strings.Cut(string(text), "VmRSS:")
	kib, err := strconv.Atoi(strings.Fields(after)[0])
	if err != nil {
		tb.Fatal(err)
	}
	return float64(kib) / 1024
}
