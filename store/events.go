package store

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/meterd/meterd/internal/killpoint"
	"github.com/meterd/meterd/meter"
)

var usageEvents = newTable("usage_events",
	"hour", "DateTime('UTC')", "subject", "String", "event_key", "FixedString(16)", "content", "UInt64", "version", "UInt64",
	"batch", "UInt64", "time", "Int64", "stamped", "UInt8", "source", "String", "id", "String", "type", "String",
	"data", "String", "extensions", "String", "meters", "Array(UInt64)", "quantities", "Array(Decimal(38, 18))",
	"texts", "Array(String)", "dimensions", "Array(Array(String))")

// InsertEvents writes the rows as one insert, in their order, and returns nil only after the store confirmed all of them
// and their number was compared with what was sent. Raw event and meter values are one row of one table: there is no
// state in which one is stored without the other.
//
// Rows of hours that have ended, or nearly, are announced by touches before it returns ([Store.StaleHours]).
//
// Any error but one that wraps [meter.ErrRefused] means that the caller should repeat the call with the same rows, in
// whatever grouping; what was written twice counts once.
func (s *Store) InsertEvents(ctx context.Context, rows *meter.EventRows) error {
	if rows.Len() == 0 {
		return nil
	}
	if err := checkLengths(rows); err != nil {
		return fmt.Errorf("insert events: %w: %w", meter.ErrRefused, err)
	}
	encoder := eventEncoder{rows: rows, batch: newBatchID(s.cfg.Now())}
	written, unknown, err := s.insert(ctx, usageEvents, rows.Len(), encoder.column)
	if encoder.err != nil {
		return fmt.Errorf("insert events: %w: %w", meter.ErrRefused, err)
	}
	if err != nil {
		return fmt.Errorf("insert events: %w", classify(err))
	}
	if unknown || written < uint64(rows.Len()) { //nolint:gosec // not negative
		if err := s.checkStored(ctx, rows, encoder.batch); err != nil {
			return fmt.Errorf("insert events: %w", err)
		}
	}
	killpoint.Hit("insert.durable")
	if err := s.touchInserted(ctx, rows); err != nil {
		return fmt.Errorf("insert events: %w", err)
	}
	killpoint.Hit("insert.touched")
	return nil
}

// newBatchID names one insert: its second in the upper half, chance in the lower.
func newBatchID(now time.Time) uint64 {
	return uint64(now.Unix())<<32 | uint64(rand.Uint32()) //nolint:gosec // a name, not a secret
}

// checkLengths catches a caller that left a column short before it becomes a panic.
func checkLengths(r *meter.EventRows) error {
	n := r.Len()
	for name, length := range map[string]int{
		"subject": len(r.Subject), "source": len(r.Source), "id": len(r.ID), "type": len(r.Type), "content": len(r.Content),
		"time": len(r.Time), "received": len(r.Received), "stamped": len(r.Stamped), "data": len(r.Data), "extensions": len(r.Extensions),
	} {
		if length != n {
			return fmt.Errorf("column %s has %d rows instead of %d", name, length, n)
		}
	}
	row := 0
	for i := range r.Values {
		if v := &r.Values[i]; v.Row < row || v.Row >= n {
			return fmt.Errorf("value %d belongs to row %d: values must be in row order", i, v.Row)
		}
		row = r.Values[i].Row
	}
	return nil
}

// eventHour is the hour an event belongs to.
func eventHour(nanos int64) time.Time { return time.Unix(0, nanos).UTC().Truncate(time.Hour) }

// version orders rows under one key: the greatest was received first, and the engine's merges keep the greatest.
func version(received int64) uint64 { return ^uint64(received) } //nolint:gosec // received is not negative

// eventEncoder encodes the columns of usage_events.
type eventEncoder struct {
	rows    *meter.EventRows
	batch   uint64
	offsets []uint64 // of the arrays: values up to and with row i
	err     error    // why the rows can't be encoded
}

// column appends column i of usage_events to c.
func (e *eventEncoder) column(i int, c *columnData) ([]byte, error) {
	r := e.rows
	texts := func(values [][]byte) {
		for _, v := range values {
			c.bytes(v)
		}
	}
	switch usageEvents.columns[i].Name {
	case "hour":
		e.err = encodeHours(c, r)
	case "subject":
		texts(r.Subject)
	case "event_key":
		for row := range r.Key {
			c.fixed(r.Key[row][:])
		}
	case "content":
		for _, v := range r.Content {
			c.uint64(v)
		}
	case "version":
		for _, v := range r.Received {
			c.uint64(version(v))
		}
	case "batch":
		for range r.Len() {
			c.uint64(e.batch)
		}
	case "time":
		for _, v := range r.Time {
			c.int64(v)
		}
	case "stamped":
		for _, v := range r.Stamped {
			c.bool(v)
		}
	case "source":
		texts(r.Source)
	case "id":
		texts(r.ID)
	case "type":
		texts(r.Type)
	case "data":
		texts(r.Data)
	case "extensions":
		texts(r.Extensions)
	default:
		e.err = e.values(usageEvents.columns[i].Name, c)
	}
	return c.buf, e.err
}

func encodeHours(c *columnData, r *meter.EventRows) error {
	for i, at := range r.Time {
		if at < 0 || r.Received[i] < 0 {
			return fmt.Errorf("row %d: %w", i, errTime)
		}
		if err := c.dateTime(eventHour(at)); err != nil {
			return fmt.Errorf("row %d: %w", i, err)
		}
	}
	return nil
}

// values appends one of the four array columns: in the native format the offsets of all rows come before the elements.
func (e *eventEncoder) values(name string, c *columnData) error {
	values := e.rows.Values
	if e.offsets == nil {
		e.offsets = valueOffsets(e.rows)
	}
	for _, offset := range e.offsets {
		c.uint64(offset)
	}
	switch name {
	case "meters":
		for i := range values {
			c.uint64(values[i].Meter)
		}
	case "quantities":
		for i := range values {
			if err := c.decimal(values[i].Quantity); err != nil {
				return fmt.Errorf("row %d: %w", values[i].Row, err)
			}
		}
	case "texts":
		for i := range values {
			c.bytes(values[i].Text)
		}
	case "dimensions":
		names := uint64(0)
		for i := range values {
			names += uint64(len(values[i].Dimensions))
			c.uint64(names)
		}
		for i := range values {
			for _, d := range values[i].Dimensions {
				c.bytes(d)
			}
		}
	default:
		return fmt.Errorf("nothing to write into column %s", name)
	}
	return nil
}

// valueOffsets counts the values up to and with each row.
func valueOffsets(r *meter.EventRows) []uint64 {
	offsets := make([]uint64, r.Len())
	for i := range r.Values {
		offsets[r.Values[i].Row]++
	}
	total := uint64(0)
	for i, n := range offsets {
		total += n
		offsets[i] = total
	}
	return offsets
}

// storedKey is the identity of a row that every duplicate shares.
type storedKey struct {
	hour    int64
	subject string
	key     meter.EventKey
	content uint64
}

func (k storedKey) sql() string {
	return fmt.Sprintf("(%s, %s, toFixedString(unhex('%x'), 16), %s)", sqlTime(time.Unix(k.hour, 0)), quote(k.subject), k.key[:], sqlUint(k.content))
}

// checkStored compares what the store holds with what was sent, for servers that don't report rows written, or report
// too few. Counting the batch settles it nearly always; the count is short when a merge kept an earlier duplicate of a
// row, and then the keys themselves are looked up.
func (s *Store) checkStored(ctx context.Context, rows *meter.EventRows, batch uint64) error {
	hours := map[int64]bool{}
	for _, t := range rows.Time {
		hours[eventHour(t).Unix()] = true
	}
	list := make([]string, 0, len(hours))
	for hour := range hours {
		list = append(list, sqlTime(time.Unix(hour, 0)))
	}
	slices.Sort(list)
	where := " FROM usage_events WHERE hour IN (" + strings.Join(list, ", ") + ") AND batch = " + sqlUint(batch)
	var stored uint64
	if err := s.conn.QueryRow(ctx, "SELECT count()"+where).Scan(&stored); err != nil {
		return fmt.Errorf("count rows written: %w", err)
	}
	if stored >= uint64(rows.Len()) { //nolint:gosec // not negative
		return nil
	}
	missing := map[storedKey]bool{}
	for i := range rows.Len() {
		missing[storedKey{eventHour(rows.Time[i]).Unix(), string(rows.Subject[i]), rows.Key[i], rows.Content[i]}] = true
	}
	if err := s.dropStored(ctx, missing, where); err != nil {
		return err
	}
	for chunk := range slices.Chunk(sortedKeys(missing), 500) {
		terms := make([]string, len(chunk))
		for i, k := range chunk {
			terms[i] = k.sql()
		}
		if err := s.dropStored(ctx, missing, " FROM usage_events WHERE (hour, subject, event_key, content) IN ("+strings.Join(terms, ", ")+")"); err != nil {
			return err
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("%w: %d of %d are not in the store", ErrRowsMissing, len(missing), rows.Len())
	}
	return nil
}

func sortedKeys(keys map[storedKey]bool) []storedKey {
	list := make([]storedKey, 0, len(keys))
	for k := range keys {
		list = append(list, k)
	}
	slices.SortFunc(list, func(a, b storedKey) int {
		if c := strings.Compare(a.subject, b.subject); c != 0 {
			return c
		}
		return slices.Compare(a.key[:], b.key[:])
	})
	return list
}

// dropStored removes from missing what a query finds.
func (s *Store) dropStored(ctx context.Context, missing map[storedKey]bool, where string) error {
	err := s.each(ctx, "SELECT hour, subject, event_key, content"+where, func(rows driver.Rows) error {
		var k storedKey
		var hour time.Time
		var key string
		if err := rows.Scan(&hour, &k.subject, &key, &k.content); err != nil {
			return err
		}
		k.hour = hour.Unix()
		copy(k.key[:], key)
		delete(missing, k)
		return nil
	})
	if err != nil {
		return fmt.Errorf("look for rows written: %w", err)
	}
	return nil
}
