package reporter

import (
	"errors"
	"strconv"
	"strings"
	"time"
)

// Cursor names the place of a record in the order of [RecordReader.Records]; given as RecordFilter.After it selects the
// records behind it.
func Cursor(r BillRecord) string {
	return strconv.FormatInt(r.Booked.Start.Unix(), 36) + "-" + string(r.SN)
}

// ParseCursor returns what a cursor stands for: records booked in a later hour, or the same and a greater number, come
// after it.
func ParseCursor(cursor string) (start time.Time, sn MeteringSN, err error) {
	seconds, number, ok := strings.Cut(cursor, "-")
	n, err := strconv.ParseInt(seconds, 36, 64)
	// Far beyond any window, so that no caller computes with a time that overflows.
	if !ok || err != nil || n < 0 || n > 1<<36 || number == "" || len(number) > 64 {
		return time.Time{}, "", errors.New("is not a cursor; use the one that the previous page gave")
	}
	return time.Unix(n, 0).UTC(), MeteringSN(number), nil
}
