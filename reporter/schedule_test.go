package reporter_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meterd/meterd/reporter"
)

func TestScheduleNext(t *testing.T) {
	t.Parallel()
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Logf("no time zone data, using a fixed zone: %v", err)
		berlin = time.FixedZone("CET", 3600)
	}
	tests := map[string]struct {
		spec, from, want string
		zone             *time.Location
	}{
		"before":          {"5 * * * *", "2026-03-01T12:04:59.999999999Z", "2026-03-01T12:05:00Z", time.UTC},
		"exactly":         {"5 * * * *", "2026-03-01T12:05:00Z", "2026-03-01T13:05:00Z", time.UTC},
		"just after":      {"5 * * * *", "2026-03-01T12:05:00.000000001Z", "2026-03-01T13:05:00Z", time.UTC},
		"end of year":     {"5 * * * *", "2026-12-31T23:30:00Z", "2027-01-01T00:05:00Z", time.UTC},
		"leap day":        {"0 0 29 2 *", "2026-03-01T00:00:00Z", "2028-02-29T00:00:00Z", time.UTC},
		"half-hourly":     {"5,35 * * * *", "2026-03-01T12:05:00Z", "2026-03-01T12:35:00Z", time.UTC},
		"descriptor":      {"@hourly", "2026-03-01T12:00:01Z", "2026-03-01T13:00:00Z", time.UTC},
		"summer time":     {"5 * * * *", "2026-03-29T00:59:00Z", "2026-03-29T01:05:00Z", berlin}, // the hour that Berlin skips
		"summer time, on": {"5 * * * *", "2026-03-29T01:05:00Z", "2026-03-29T02:05:00Z", berlin},
		"winter time":     {"5 * * * *", "2026-10-25T00:05:00Z", "2026-10-25T01:05:00Z", berlin}, // the hour that Berlin repeats
		"hours in UTC":    {"5 2 * * *", "2026-07-01T00:00:00Z", "2026-07-01T02:05:00Z", berlin},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, err := reporter.ParseSchedule(tc.spec)
			if err != nil {
				t.Fatalf("ParseSchedule(%q): %v", tc.spec, err)
			}
			from, err := time.Parse(time.RFC3339Nano, tc.from)
			if err != nil {
				t.Fatal(err)
			}
			if got := s.Next(from.In(tc.zone)).Format(time.RFC3339Nano); got != tc.want {
				t.Errorf("Next(%s) = %s, want %s", tc.from, got, tc.want)
			}
			if s.String() != tc.spec || s.IsZero() {
				t.Errorf("String() = %q, IsZero() = %v, want %q, false", s, s.IsZero(), tc.spec)
			}
		})
	}
}

func TestParseScheduleRefuses(t *testing.T) {
	t.Parallel()
	for _, spec := range []string{
		"", "5", "5 * * *", "5 * * * * *", "60 * * * *", "@never", "TZ=Asia/Shanghai 5 * * * *", "CRON_TZ=UTC 5 * * * *", "TZ=", "0 0 30 2 *",
	} {
		if s, err := reporter.ParseSchedule(spec); err == nil {
			t.Errorf("ParseSchedule(%q) = %v, want an error", spec, s)
		}
	}
	if next := (reporter.Schedule{}).Next(noon.Start); !next.IsZero() {
		t.Errorf("Next of the zero schedule = %s, want none", next)
	}
}

func FuzzParseSchedule(f *testing.F) {
	for _, spec := range []string{"5 * * * *", "@hourly", "@every 1h", "TZ=UTC 5 * * * *", "*/7 1-5 * jan mon", "TZ="} {
		f.Add(spec)
	}
	f.Fuzz(func(t *testing.T, spec string) {
		s, err := reporter.ParseSchedule(spec)
		if err != nil {
			return
		}
		next := s.Next(noon.Start)
		if !next.After(noon.Start) {
			t.Errorf("Next(%s) of %q = %s", noon.Start, spec, next)
		}
		again, err := reporter.ParseSchedule(s.String())
		if err != nil || !again.Next(noon.Start).Equal(next) {
			t.Errorf("%q read again: %v, next %s, want %s", s, err, again.Next(noon.Start), next)
		}
	})
}

func TestSystemClockWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		clock := reporter.SystemClock{}
		began := clock.Now()
		if err := clock.WaitUntil(t.Context(), began.Add(time.Hour)); err != nil {
			t.Fatalf("WaitUntil: %v", err)
		}
		if took := clock.Now().Sub(began); took != time.Hour {
			t.Errorf("waited %s, want 1h", took)
		}
		if err := clock.WaitUntil(t.Context(), began); err != nil || clock.Now().Sub(began) != time.Hour {
			t.Errorf("WaitUntil a past time: %v after %s, want at once", err, clock.Now().Sub(began)-time.Hour)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := clock.WaitUntil(ctx, began.Add(100*time.Hour)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("WaitUntil = %v, want the context's error", err)
		}
	})
}

func ExampleSchedule() {
	s, err := reporter.ParseSchedule("5 * * * *")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(s.Next(time.Date(2026, 3, 1, 12, 30, 0, 0, time.UTC)))
	// Output: 2026-03-01 13:05:00 +0000 UTC
}
