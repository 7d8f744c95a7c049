package store

import (
	"errors"
	"fmt"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/meterd/meterd/meter"
)

// Errors that callers branch on.
var (
	// ErrNotBackfilled: events of the meter's type were stored before the meter was declared and its values were not
	// computed from them yet. Run Store.BackfillMeters, then ask again.
	ErrNotBackfilled = errors.New("values of this meter are not computed yet for older events")
	// ErrEffectChanged: what was previewed is not what would happen now.
	ErrEffectChanged = meter.ErrEffectChanged
	// ErrOverflow: an aggregate could exceed the store's Decimal(38,18).
	ErrOverflow = errors.New("aggregate could exceed the decimal range")
	// ErrRowsMissing: an insert was confirmed but the store does not hold every row. Repeat it.
	ErrRowsMissing = errors.New("rows written differ from rows sent")
)

// refusedCodes are ClickHouse's errors that depend on nothing but the rows themselves. Everything else (too many parts,
// memory, time, network, read only, a table that is missing or of another version) may be cured by time or by a
// person while the events wait in the spool.
var refusedCodes = map[int32]bool{
	69:  true, // ARGUMENT_OUT_OF_BOUND
	128: true, // TOO_LARGE_ARRAY_SIZE
	131: true, // TOO_LARGE_STRING_SIZE
	407: true, // DECIMAL_OVERFLOW
}

// classify marks errors of an insert that repeating can't cure.
func classify(err error) error {
	var exception *clickhouse.Exception
	if errors.As(err, &exception) && refusedCodes[exception.Code] {
		return fmt.Errorf("%w: %w", meter.ErrRefused, err)
	}
	return err
}
