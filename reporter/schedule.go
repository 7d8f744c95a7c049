package reporter

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

// Schedule says when windows are closed. It counts in UTC whatever the machine's zone, so no change of daylight saving
// time skips or repeats an hour.
type Schedule struct {
	spec string
	next cron.Schedule
}

// ParseSchedule reads a cron expression of five fields (minute, hour, day of month, month, day of week) or a descriptor
// such as "@hourly". A zone in the expression is refused, and so is one that never comes.
func ParseSchedule(spec string) (Schedule, error) {
	if strings.Contains(spec, "TZ=") {
		return Schedule{}, fmt.Errorf("schedule %q: names a time zone; schedules are in UTC, remove it", spec)
	}
	parsed, err := cron.ParseStandard(spec)
	if err != nil {
		return Schedule{}, fmt.Errorf("schedule %q: %w; use five fields such as \"5 * * * *\"", spec, err)
	}
	s := Schedule{spec: spec, next: parsed}
	if s.Next(time.Unix(0, 0)).IsZero() {
		return Schedule{}, fmt.Errorf("schedule %q: %w", spec, errNeverComes)
	}
	return s, nil
}

var errNeverComes = errors.New("there is no such day; it would never run")

// Next returns the first time after t that is on the schedule, in UTC. The zero Schedule is never due and returns the zero
// time.
func (s Schedule) Next(t time.Time) time.Time {
	if s.next == nil {
		return time.Time{}
	}
	return s.next.Next(t.UTC())
}

// String is the expression as it was given.
func (s Schedule) String() string { return s.spec }

// IsZero reports whether s was never parsed.
func (s Schedule) IsZero() bool { return s.next == nil }
