package reporter_test

import (
	"testing"
	"time"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

func TestCursor(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 11, 23, 1, 0, 0, 0, time.UTC)
	cursor := reporter.Cursor(reporter.BillRecord{SN: "0123abcd", Booked: meter.HourOf(start)})
	gotStart, gotSN, err := reporter.ParseCursor(cursor)
	if err != nil || !gotStart.Equal(start) || gotSN != "0123abcd" {
		t.Errorf("ParseCursor(%q) = %s, %q, %v", cursor, gotStart, gotSN, err)
	}
	for _, bad := range []string{"", "-", "x", "1-", "-1-a", "zzzzzzzzzzzz-a", "é-a"} {
		if _, _, err := reporter.ParseCursor(bad); err == nil {
			t.Errorf("ParseCursor(%q) = nil error, want one", bad)
		}
	}
}
