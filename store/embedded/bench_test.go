package embedded_test

import (
	"strconv"
	"time"

	"github.com/shopspring/decimal"
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
