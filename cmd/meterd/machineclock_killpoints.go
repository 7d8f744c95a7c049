//go:build killpoints

package main

import (
	"fmt"
	"os"
	"time"

	"github.com/meterd/meterd/internal/clock"
)

// machineClock is, in the build for crash tests, a clock that may run faster than the machine's.
type machineClock struct{ *clock.Scaled }

// newMachineClock reads the environment variable METERD_CLOCK; without it the clock is the machine's.
func newMachineClock() (machineClock, error) {
	text := os.Getenv("METERD_CLOCK")
	if text == "" {
		now := time.Now()
		text = fmt.Sprintf("%d,%s,1", now.UnixNano(), now.UTC().Format(time.RFC3339Nano))
	}
	scaled, err := clock.ParseScaled(text)
	if err != nil {
		return machineClock{}, &usageError{fmt.Errorf("METERD_CLOCK: %w", err)}
	}
	return machineClock{scaled}, nil
}

// withoutLease makes daemons that share a server book at the same time, as if no lease had ever been invented.
func withoutLease() bool { return os.Getenv("METERD_LEASE") == "off" }
