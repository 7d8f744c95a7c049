package main

import (
	"strings"
	"testing"
	"time"

	"github.com/meterd/meterd/reporter"
)

// TestClosingHealth: a daemon that stands by is ready, and a clock that can't be trusted is told of like a close that fails.
func TestClosingHealth(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, time.March, 1, 12, 7, 0, 0, time.UTC)
	for name, tt := range map[string]struct {
		status reporter.Status
		want   string
	}{
		"nothing closed yet": {reporter.Status{Now: now}, ""},
		"close fails":        {reporter.Status{Now: now, CloseErr: "away"}, "away"},
		"clock distrusted":   {reporter.Status{Now: now, ClockErr: "two hours ahead"}, "two hours ahead"},
		"standby":            {reporter.Status{Now: now, CloseErr: "away", ClockErr: "ahead", Lease: &reporter.LeaseStatus{}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := closingHealth(tt.status, 5*time.Minute)
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("closingHealth = %v, want %q", err, tt.want)
			}
		})
	}
	m := &reporter.Misconfiguration{Since: now, Code: "MKT.0102", Message: "signature"}
	err := deliveryHealth(reporter.Status{Now: now, Delivery: &reporter.ReporterStatus{Misconfigured: m}})
	if err == nil || err.Error() != "stands still, the marketplace refuses us: MKT.0102 signature" {
		t.Errorf("deliveryHealth = %v", err)
	}
}
