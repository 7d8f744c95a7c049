//go:build !killpoints

package main

import (
	"time"

	"github.com/meterd/meterd/reporter"
)

// machineClock is the clock of this machine, with one beside it that nobody sets: what the clock guard compares it with.
type machineClock struct {
	reporter.SystemClock

	started time.Time
}

// newMachineClock returns the clock that commands which serve go by.
func newMachineClock() (machineClock, error) { return machineClock{started: time.Now()}, nil }

// Monotonic is the time since the start.
func (c machineClock) Monotonic() time.Duration { return time.Since(c.started) }

// withoutLease is for the build for crash tests alone.
func withoutLease() bool { return false }
