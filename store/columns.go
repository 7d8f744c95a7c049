package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
	"math/bits"
	"slices"
	"sync"
	"time"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/column"

	"github.com/meterd/meterd/meter"
)

// table is what an insert needs to know of a table.
type table struct {
	name    string
	columns []clickhouse.ColumnNameAndType
}

func newTable(name string, namesAndTypes ...string) table {
	t := table{name: name}
	for pair := range slices.Chunk(namesAndTypes, 2) {
		t.columns = append(t.columns, clickhouse.ColumnNameAndType{Name: pair[0], Type: pair[1]})
	}
	return t
}

// columnData is a column in the layout of ClickHouse's native format. Values are appended to it directly because
// clickhouse-go's own Append takes a value, a reflection or a big.Int each, which costs more than the rest of an insert.
type columnData struct{ buf []byte }

func (c *columnData) uint8(v uint8)   { c.buf = append(c.buf, v) }
func (c *columnData) uint32(v uint32) { c.buf = binary.LittleEndian.AppendUint32(c.buf, v) }
func (c *columnData) uint64(v uint64) { c.buf = binary.LittleEndian.AppendUint64(c.buf, v) }
func (c *columnData) int64(v int64)   { c.uint64(uint64(v)) } //nolint:gosec // two's complement is the format
func (c *columnData) fixed(v []byte)  { c.buf = append(c.buf, v...) }

// lastUint64 reads the last number of a column of them.
func lastUint64(buf []byte) uint64 { return binary.LittleEndian.Uint64(buf[len(buf)-8:]) }

func (c *columnData) bool(v bool) {
	if v {
		c.uint8(1)
		return
	}
	c.uint8(0)
}

func (c *columnData) bytes(v []byte) {
	c.buf = binary.AppendUvarint(c.buf, uint64(len(v)))
	c.buf = append(c.buf, v...)
}

func (c *columnData) string(v string) {
	c.buf = binary.AppendUvarint(c.buf, uint64(len(v)))
	c.buf = append(c.buf, v...)
}

// maxSeconds is the last instant that a DateTime can hold, in seconds since 1970.
const maxSeconds = 1<<32 - 1

// errTime is the fault of an instant that a column can't hold.
var errTime = errors.New("time is outside of the years 1970 to 2105")

// dateTime appends a DateTime, which counts seconds in 32 bits without a sign.
func (c *columnData) dateTime(t time.Time) error {
	seconds := t.Unix()
	if seconds < 0 || seconds > maxSeconds {
		return fmt.Errorf("%w: %s", errTime, t.UTC().Format(time.RFC3339))
	}
	c.uint32(uint32(seconds))
	return nil
}

// nanos appends an instant as nanoseconds since 1970; the zero time is 0.
func (c *columnData) nanos(t time.Time) {
	if t.IsZero() {
		c.int64(0)
		return
	}
	c.int64(t.UnixNano())
}

// errQuantity is the fault of an amount that Decimal(38,18) can't hold exactly.
var errQuantity = errors.New("quantity needs more than 20 digits before or 18 digits after the point")

var powersOfTen = func() (p [19]uint64) {
	p[0] = 1
	for i := 1; i < len(p); i++ {
		p[i] = p[i-1] * 10
	}
	return p
}()

var maxDecimal = new(big.Int).Exp(big.NewInt(10), big.NewInt(38), nil)

// decimal appends a Decimal(38,18): a signed 128-bit integer of 10^-18.
func (c *columnData) decimal(q meter.Quantity) error {
	d := q.Decimal()
	shift := int(d.Exponent()) + meter.QuantityScale
	if shift >= 0 && shift < len(powersOfTen) && d.NumDigits() <= 18 {
		n := d.CoefficientInt64()
		high, low := bits.Mul64(uint64(max(n, -n)), powersOfTen[shift]) //nolint:gosec // at most 18 digits
		if n < 0 {
			var borrow uint64
			low, borrow = bits.Sub64(0, low, 0)
			high, _ = bits.Sub64(0, high, borrow)
		}
		c.uint64(low)
		c.uint64(high)
		return nil
	}
	return c.bigDecimal(q)
}

func (c *columnData) bigDecimal(q meter.Quantity) error {
	d := q.Decimal()
	if d.IsZero() {
		c.uint64(0)
		c.uint64(0)
		return nil
	}
	// A number of 20 + 18 digits at most: refuse absurd exponents before building a large number.
	if e := d.Exponent(); e > 20 || e < -100 {
		return fmt.Errorf("%w: exponent %d", errQuantity, e)
	}
	shifted := d.Shift(meter.QuantityScale)
	if !shifted.IsInteger() {
		return fmt.Errorf("%w: %s", errQuantity, q)
	}
	n := shifted.BigInt()
	if n.CmpAbs(maxDecimal) >= 0 {
		return fmt.Errorf("%w: %s", errQuantity, q)
	}
	if n.Sign() < 0 {
		n.Add(n, new(big.Int).Lsh(big.NewInt(1), 128))
	}
	var word [16]byte
	n.FillBytes(word[:])
	for i := 15; i >= 0; i-- {
		c.buf = append(c.buf, word[i])
	}
	return nil
}

// rowColumns are columns that were encoded row by row.
func rowColumns(data []columnData) func(i int, _ *columnData) ([]byte, error) {
	return func(i int, _ *columnData) ([]byte, error) { return data[i].buf, nil }
}

// keptScratch bounds the memory that an insert leaves to the next one, in bytes: the largest column of a usual batch.
const keptScratch = 16 << 20

// columnSource lets clickhouse-go read columns from memory. It is kept from one insert to the next, because its reader has
// a buffer of 128 KiB, and because a column of many rows that grows from nothing costs more than encoding it.
type columnSource struct {
	bytes   bytes.Reader
	reader  *proto.Reader
	scratch columnData
}

var columnSources = sync.Pool{New: func() any {
	s := new(columnSource)
	s.reader = proto.NewReader(&s.bytes)
	return s
}}

// fillColumns hands columns to a batch, one after the other, so that only one is in memory twice: clickhouse-go copies
// it. encode returns column i; it may use scratch, which is empty.
func fillColumns(columns []column.Interface, rows int, encode func(i int, scratch *columnData) ([]byte, error)) error {
	source := columnSources.Get().(*columnSource) //nolint:forcetypeassert // the pool holds nothing else
	for i, c := range columns {
		source.scratch.buf = source.scratch.buf[:0]
		buf, err := encode(i, &source.scratch)
		if err == nil {
			err = source.fill(c, buf, rows)
		}
		if err != nil {
			return fmt.Errorf("encode column %s: %w", c.Name(), err) // the source is in an unknown state: it is dropped
		}
	}
	if cap(source.scratch.buf) > keptScratch {
		source.scratch.buf = nil
	}
	columnSources.Put(source)
	return nil
}

// fill makes the column read its rows, and nothing but its rows, from buf.
func (s *columnSource) fill(c column.Interface, buf []byte, rows int) error {
	s.bytes.Reset(buf)
	if err := c.Decode(s.reader, rows); err != nil {
		return err
	}
	// A byte left over would become the next column's.
	if _, err := s.reader.ReadByte(); !errors.Is(err, io.EOF) {
		return errors.Join(errors.New("it has more bytes than its rows take"), err)
	}
	s.bytes.Reset(nil) // the pool must not keep buf
	if c.Rows() != rows {
		return fmt.Errorf("%d rows instead of %d", c.Rows(), rows)
	}
	return nil
}
