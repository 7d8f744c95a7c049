package store

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/meterd/meterd/internal/killpoint"
	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

// A number is taken by CREATE VIEW booking_<number>, the one atomic test-and-set that every ClickHouse has: the server
// holds a guard over the name while it writes the view's definition, and refuses the second. On a cluster, ON CLUSTER puts
// the statements into one queue that all hosts execute in the same order.
//
// The row in bookings is only ever made by INSERT … SELECT from the view, on the server. So a process that was paused, or
// whose server lost the view in a power cut, can't write a row for a number that it does not hold.

const (
	bookingPrefix = "booking_"
	// keptViews is how many of the newest views stay: a process that was paused for that many bookings can take an old number
	// again, and finds out by the row.
	keptViews = 64
)

// bookingView is the name of the view that holds a number. Twenty digits hold any.
func bookingView(number uint64) string { return fmt.Sprintf("%s%020d", bookingPrefix, number) }

// Commit takes the booking's number: from then on its rows count. It compares the numbers of rows written with those in b
// first: a difference is an error that wraps [ErrRowsMissing]. The error wraps [reporter.ErrBookingTaken] when the number
// was taken by another version. After any other error b may have been committed or not; LastBooking tells. Idempotent.
func (s *Store) Commit(ctx context.Context, b reporter.Booking) error {
	return wrap(fmt.Sprintf("commit booking %d", b.Number), s.commit(ctx, b))
}

func (s *Store) commit(ctx context.Context, b reporter.Booking) error {
	if b.Number == 0 || b.Version == 0 || b.Kind.String() == "" {
		return fmt.Errorf("%w: number, version and kind are required (got %d, %d, %d)", meter.ErrRefused, b.Number, b.Version, b.Kind)
	}
	last, views, err := s.completeLog(ctx)
	switch {
	case err != nil:
		return err
	case b.Number <= last:
		return s.judge(ctx, b)
	case b.Number > last+1:
		return fmt.Errorf("%w: the log ends at %d", meter.ErrRefused, last)
	}
	if err := s.checkRows(ctx, b); err != nil {
		return err
	}
	return s.finish(ctx, b, s.take(ctx, b), views)
}

// take tries to take the booking's number. Its error says little: whether b has the number is told by the view.
func (s *Store) take(ctx context.Context, b reporter.Booking) error {
	definition, err := bookingDefinition(b)
	if err != nil {
		return err
	}
	err = s.conn.Exec(ctx, "CREATE VIEW "+bookingView(b.Number)+s.onCluster()+" AS SELECT "+definition)
	if err == nil {
		killpoint.Hit("commit.view_created")
	}
	if exception := new(clickhouse.Exception); errors.As(err, &exception) && exception.Code == codeCannotOpen {
		// Old servers write the definition to a file that they create exclusively, and leave it behind when the disk is full.
		err = fmt.Errorf("%w; if this repeats, restart the ClickHouse server: it removes half-written definitions when it starts", err)
	}
	return wrap("take number", err)
}

// codeCannotOpen is ClickHouse's CANNOT_OPEN_FILE.
const codeCannotOpen = 76

// finish finds out who has the number after created, the result of trying to take it, and makes the row. views are the
// numbers that had views before.
func (s *Store) finish(ctx context.Context, b reporter.Booking, created error, views []uint64) error {
	// Whatever the answer was, the view decides: an error may have come after the deed.
	holder, err := s.completeBooking(ctx, b.Number)
	switch {
	case err != nil:
		return errors.Join(created, err)
	case holder != b.Version && created == nil:
		// The number was booked so long ago that its view is gone: ours must go, too.
		return errors.Join(taken(holder), s.dropView(ctx, bookingView(b.Number)))
	case holder != b.Version:
		return taken(holder)
	}
	if b.Kind == reporter.BookingClose {
		s.noteClosed(b.Window.End)
	}
	if err := s.dropOld(ctx, bookingPrefix, views, b.Number, keptViews); err != nil {
		s.logger.Warn("old views of bookings not dropped", "err", err)
	}
	return nil
}

func taken(holder uint64) error {
	return fmt.Errorf("%w (version %d)", reporter.ErrBookingTaken, holder)
}

// judge compares b with the row of its number.
func (s *Store) judge(ctx context.Context, b reporter.Booking) error {
	holder, err := s.holder(ctx, b.Number)
	switch {
	case err != nil:
		return err
	case holder == 0:
		return fmt.Errorf("%w: booking %d has no row", ErrRowsMissing, b.Number)
	case holder != b.Version:
		return taken(holder)
	}
	return nil
}

// holder is the version of a booked number; 0 if it has no row.
func (s *Store) holder(ctx context.Context, number uint64) (version uint64, err error) {
	err = s.conn.QueryRow(ctx, "SELECT max(version) FROM bookings WHERE number = "+sqlUint(number)).Scan(&version)
	return version, wrap("read booking", err)
}

// completeBooking makes the row of a number from its view, unless there is one, and returns the version that has the
// number. On a cluster the row may reach the replica that is asked a little later than the one that wrote it.
func (s *Store) completeBooking(ctx context.Context, number uint64) (holder uint64, err error) {
	names := bookings.names()
	insert := "INSERT INTO bookings (" + names + ") SELECT " + names + " FROM " + bookingView(number) +
		" WHERE number " + s.global + "NOT IN (SELECT number FROM bookings)"
	if err := s.conn.Exec(ctx, insert); err != nil {
		return 0, fmt.Errorf("complete booking %d: %w", number, err)
	}
	const attempts, pause = 20, 50 * time.Millisecond
	for range attempts {
		if holder, err = s.holder(ctx, number); err != nil || holder != 0 {
			return holder, err
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("complete booking %d: %w", number, ctx.Err())
		case <-time.After(pause):
		}
	}
	return 0, fmt.Errorf("complete booking %d: %w: its row was confirmed and is not there", number, ErrRowsMissing)
}

// bookingDefinition is the SELECT list of a booking's view: a constant for each column of bookings. Text is written in hex:
// the definition is printed and parsed again by the server, in every version by other rules.
func bookingDefinition(b reporter.Booking) (string, error) {
	for _, t := range []time.Time{b.Window.Start, b.Window.End} {
		if err := new(columnData).dateTime(t); err != nil {
			return "", fmt.Errorf("%w: %w", meter.ErrRefused, err)
		}
	}
	at := int64(0)
	if !b.At.IsZero() {
		at = b.At.UnixNano()
	}
	values := []string{
		sqlUint(b.Number), sqlUint(b.Version), fmt.Sprintf("toUInt8(%d)", b.Kind), sqlTime(b.Window.Start), sqlTime(b.Window.End),
		"toInt64(" + strconv.FormatInt(at, 10) + ")", sqlUint(b.Events), sqlUint(b.Usages), sqlUint(b.Records),
		sqlUint(b.Adjustments), sqlUint(b.Balances), sqlUint(b.Covers), hexText(b.InstanceID), hexText(b.Actor), hexText(b.Reason),
		hexText(b.Meters),
	}
	for i, c := range bookings.columns {
		values[i] += " AS " + c.Name
	}
	return strings.Join(values, ", "), nil
}

// hexText is a text as an expression that holds nothing but hex digits.
func hexText(text string) string { return "unhex('" + hex.EncodeToString([]byte(text)) + "')" }

// checkRows compares the rows written under the booking's version with the numbers in b.
func (s *Store) checkRows(ctx context.Context, b reporter.Booking) error {
	version, hour := "version = "+sqlUint(b.Version), "booked_start = "+sqlTime(b.Window.Start)
	parts := []struct {
		table string
		where clauses
		want  uint64
	}{
		// Nearly always all usage is of the booking's own hour; only then the index finds it by the hour.
		{"hourly_usage", clauses{"window_start = " + sqlTime(b.Window.Start), version}, b.Usages},
		{"bill_records", clauses{hour, version}, b.Records},
		{"adjustments", clauses{hour, version}, b.Adjustments},
		{"account_balances", clauses{version}, b.Balances},
		{"covers", clauses{hour, version}, b.Covers},
	}
	counts := make([]string, len(parts))
	for i, part := range parts {
		counts[i] = fmt.Sprintf("SELECT toUInt8(%d) AS part, count() AS n FROM %s FINAL WHERE %s", i, part.table, part.where)
	}
	found := make([]uint64, len(parts))
	err := s.each(ctx, strings.Join(counts, " UNION ALL "), func(rows driver.Rows) error {
		var part uint8
		var n uint64
		if err := rows.Scan(&part, &n); err != nil {
			return err
		}
		found[part] = n
		return nil
	})
	if err != nil {
		return fmt.Errorf("count rows: %w", err)
	}
	if found[0] != b.Usages { // of earlier hours, too
		query := "SELECT count() FROM hourly_usage FINAL WHERE window_start <= " + sqlTime(b.Window.Start) + " AND " + version
		if err := s.conn.QueryRow(ctx, query).Scan(&found[0]); err != nil {
			return fmt.Errorf("count rows: %w", err)
		}
	}
	for i, part := range parts {
		if found[i] != part.want {
			return fmt.Errorf("%w: %s has %d rows of version %d instead of %d", ErrRowsMissing, part.table, found[i], b.Version, part.want)
		}
	}
	return nil
}

// dropOld drops those views of a prefix whose numbers are at least kept below the newest.
func (s *Store) dropOld(ctx context.Context, prefix string, views []uint64, newest, kept uint64) error {
	for _, number := range views {
		if number+kept > newest {
			continue
		}
		if err := s.dropView(ctx, fmt.Sprintf("%s%020d", prefix, number)); err != nil {
			return err
		}
	}
	return nil
}

// viewQuery lists the names of the views of a prefix, in no order. What another process creates in the same moment may be
// seen or not.
func (s *Store) viewQuery(prefix string) string {
	return "SELECT name FROM system.tables WHERE database = " + quote(s.cfg.Database) + " AND match(name, " + quote("^"+prefix+"[0-9]{20}$") + ")"
}

// viewNumbers lists the numbers for which there are views of a prefix, in no order.
func (s *Store) viewNumbers(ctx context.Context, prefix string) ([]uint64, error) {
	names, err := scalars[string](ctx, s.conn, s.viewQuery(prefix))
	if err != nil {
		return nil, fmt.Errorf("list views: %w", err)
	}
	numbers := make([]uint64, len(names))
	for i, name := range names {
		if numbers[i], err = strconv.ParseUint(strings.TrimPrefix(name, prefix), 10, 64); err != nil {
			return nil, fmt.Errorf("list views: %w", err)
		}
	}
	return numbers, nil
}

func (s *Store) dropView(ctx context.Context, name string) error {
	return wrap("drop view "+name, s.conn.Exec(ctx, "DROP TABLE IF EXISTS "+name+s.onCluster()))
}
