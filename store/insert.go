package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"

	"github.com/ClickHouse/clickhouse-go/v2"
)

// insert writes rows, column by column as encode returns them, and returns how many the server says it wrote: unknown is
// true when it doesn't say. Over the native protocol no server does: newer ones have a field for it in their progress
// packets, but send none for the rows of a client's INSERT. Over HTTP it stands in the summary.
func (s *Store) insert(ctx context.Context, t table, rows int, encode func(i int, scratch *columnData) ([]byte, error)) (written uint64, unknown bool, err error) {
	var count writeCount
	ctx = context.WithValue(ctx, writeCountKey{}, &count)
	ctx = clickhouse.Context(ctx,
		clickhouse.WithColumnNamesAndTypes(t.columns),
	)
	names := make([]string, len(t.columns))
	for i, c := range t.columns {
		names[i] = c.Name
	}
	batch, err := s.conn.PrepareBatch(ctx, "INSERT INTO "+t.name+" ("+strings.Join(names, ", ")+")")
	if err != nil {
		return 0, false, fmt.Errorf("insert into %s: %w", t.name, err)
	}
	defer batch.Close() // does nothing after Send; before it, the error in hand says more
	columns := batch.Columns()
	if len(columns) != len(names) {
		return 0, false, fmt.Errorf("insert into %s: the batch has %d columns instead of %d", t.name, len(columns), len(names))
	}
	if err := fillColumns(columns, rows, encode); err != nil {
		return 0, false, fmt.Errorf("insert into %s: %w", t.name, err)
	}
	if err := batch.Send(); err != nil {
		return 0, false, fmt.Errorf("insert into %s: %w", t.name, err)
	}
	return count.rows.Load(), s.cfg.DialContext == nil, nil
}

// insertRows is insert for tables whose rows are counted by the server or, at the end of a close, by WriteClose.
func (s *Store) insertRows(ctx context.Context, t table, rows int, encode func(i int, data []columnData) error) error {
	if rows == 0 {
		return nil
	}
	data := make([]columnData, len(t.columns))
	for i := range rows {
		if err := encode(i, data); err != nil {
			return fmt.Errorf("insert into %s: row %d: %w", t.name, i, err)
		}
	}
	written, unknown, err := s.insert(ctx, t, rows, rowColumns(data))
	if err != nil {
		return err
	}
	if !unknown && written < uint64(rows) { //nolint:gosec // not negative
		return fmt.Errorf("insert into %s: %w: %d of %d", t.name, ErrRowsMissing, written, rows)
	}
	return nil
}

// writeCount collects what a server reports about one insert.
type writeCount struct{ rows atomic.Uint64 }

type writeCountKey struct{}

// summaryReader takes the number of rows written from the answers of ClickHouse's HTTP interface, which clickhouse-go
// doesn't pass on.
type summaryReader struct{ next http.RoundTripper }

// RoundTrip does one request.
func (r summaryReader) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := r.next.RoundTrip(req)
	if err != nil {
		return nil, err //nolint:wrapcheck // a transport hands on its errors as they are
	}
	count, ok := req.Context().Value(writeCountKey{}).(*writeCount)
	if !ok {
		return res, nil
	}
	if text := res.Header.Get("X-ClickHouse-Summary"); text != "" {
		var summary struct {
			WrittenRows uint64 `json:"written_rows,string"`
		}
		if err := json.Unmarshal([]byte(text), &summary); err != nil {
			return nil, errors.Join(fmt.Errorf("read X-ClickHouse-Summary %.100q: %w", text, err), res.Body.Close())
		}
		count.rows.Store(summary.WrittenRows)
	}
	return res, nil
}
