package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/shopspring/decimal"
)

// rawColumns are those of usage_events in the order of rawRows.
const rawColumns = "hour, subject, event_key, content, version, batch, time, stamped, source, id, type, data, extensions, " +
	"meters, quantities, texts, dimensions"

// rawRows are rows as the daemon would store, as columns.
type rawRows struct {
	hours                                          []time.Time
	subjects, keys, sources, ids, types, data, ext []string
	contents, versions, batches                    []uint64
	times                                          []int64
	stamped                                        []uint8
	meters                                         [][]uint64
	quantities                                     [][]decimal.Decimal
	texts                                          [][]string
	dimensions                                     [][][]string
}

// newRawRows makes n rows that look like those of the hour's events number first and following.
func newRawRows(first uint64, n, instances int, hour time.Time) *rawRows {
	r := &rawRows{}
	for i := range uint64(n) { //nolint:gosec // positive
		number := first + i
		random := mix(number)
		tokens := 1000 + int64(random%9000)
		var key [16]byte
		binary.LittleEndian.PutUint64(key[:], mix(random))
		binary.LittleEndian.PutUint64(key[8:], mix(^random))
		at := hour.Add(time.Duration(number%3_600_000) * time.Millisecond).UnixNano()
		r.hours = append(r.hours, hour)
		r.subjects = append(r.subjects, fmt.Sprintf("instance-%0*d", subjectDigits, instanceOf(number, instances)))
		r.keys = append(r.keys, string(key[:]))
		r.contents = append(r.contents, mix(random+1))
		r.versions = append(r.versions, ^uint64(at))
		r.batches = append(r.batches, first)
		r.times = append(r.times, at)
		r.stamped = append(r.stamped, 0)
		r.sources = append(r.sources, "/gateway/eu-1")
		r.ids = append(r.ids, fmt.Sprintf("0197a5c0-7c1e-7a3b-%016x", random))
		r.types = append(r.types, eventType)
		r.data = append(r.data, fmt.Sprintf(`{"tokens":%d,"model":"m-large"}`, tokens))
		r.ext = append(r.ext, "")
		r.meters = append(r.meters, []uint64{1, 2})
		r.quantities = append(r.quantities, []decimal.Decimal{decimal.NewFromInt(tokens), decimal.NewFromInt(1)})
		r.texts = append(r.texts, []string{"", ""})
		r.dimensions = append(r.dimensions, [][]string{{"m-large"}, {}})
	}
	return r
}

// insert stores the rows as one insert.
func (r *rawRows) insert(ctx context.Context, conn clickhouse.Conn) error {
	batch, err := conn.PrepareBatch(ctx, "INSERT INTO bench_raw.usage_events ("+rawColumns+")")
	if err != nil {
		return err
	}
	defer batch.Close()
	for i, column := range []any{
		r.hours, r.subjects, r.keys, r.contents, r.versions, r.batches, r.times, r.stamped, r.sources, r.ids, r.types, r.data, r.ext,
		r.meters, r.quantities, r.texts, r.dimensions,
	} {
		if err := batch.Column(i).Append(column); err != nil {
			return fmt.Errorf("column %d: %w", i, err)
		}
	}
	return batch.Send()
}

// rawInserts measures what clickhouse-go alone gets into the same engine, into a table made like the daemon's: rows that
// lie ready in memory, column by column, over two connections as the loader has.
func (h *hour) rawInserts(ctx context.Context, res *result) error {
	conn, err := h.engine.connect()
	if err != nil {
		return err
	}
	defer conn.Close()
	for _, sql := range []string{
		"CREATE DATABASE IF NOT EXISTS bench_raw", "DROP TABLE IF EXISTS bench_raw.usage_events",
		"CREATE TABLE bench_raw.usage_events AS meterd.usage_events",
	} {
		if err := conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("raw inserts: %w", err)
		}
	}
	const distinct = 4
	var rows [distinct]*rawRows
	for i := range rows {
		rows[i] = newRawRows(uint64(i*h.plan.insertBatch), h.plan.insertBatch, h.instances, h.begins) //nolint:gosec // positive
	}
	if err := rows[0].insert(ctx, conn); err != nil { // warm-up
		return fmt.Errorf("raw inserts: %w", err)
	}
	cpuBefore, err := processCPU(h.engine.pid())
	if err != nil {
		return err
	}
	var next, inserted atomic.Int64
	began := clockNow()
	errs := make([]error, 2)
	var group sync.WaitGroup
	for i := range errs {
		group.Go(func() {
			for time.Since(began) < 3*h.plan.run && errs[i] == nil {
				r := rows[next.Add(1)%distinct]
				errs[i] = r.insert(ctx, conn)
				inserted.Add(int64(len(r.hours)))
			}
		})
	}
	group.Wait()
	took := time.Since(began)
	cpuAfter, err := processCPU(h.engine.pid())
	if err := errors.Join(append(errs, err)...); err != nil {
		return fmt.Errorf("raw inserts: %w", err)
	}
	n := float64(inserted.Load())
	res.limit("clickhouse-go alone, columns ready in memory, 2 connections", "rows/s", n/took.Seconds())
	res.limit("engine's CPU a row, merges included", "µs", (cpuAfter-cpuBefore).Seconds()*1e6/n)
	return nil
}
