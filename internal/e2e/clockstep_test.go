package e2e_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"
)

// lastClosed is the end of the last hour closed.
func (d *daemon) lastClosed(t *testing.T) time.Time {
	t.Helper()
	bookings, err := d.bookings(t)
	if err != nil {
		t.Fatal(err)
	}
	var end time.Time
	for _, b := range bookings {
		if b.Kind == "close" && b.WindowEnd.After(end) {
			end = b.WindowEnd
		}
	}
	return end
}

// TestClockStepped sets the daemon's clock two hours ahead and back, and two hours back and ahead, while events stream in.
// While it is ahead no hour is closed; while it is behind hours are closed late; and nothing is lost or counted twice.
func TestClockStepped(t *testing.T) {
	t.Parallel()
	random := seeded(t)
	c := newFastClock(t)
	m := startFastSandbox(t, c)
	d := newFastDaemon(t, c, m.url, "METERD_INGEST_MAX_FUTURE=1h")
	d.start(t)
	l := startLoadOf(t, random, d.url, loadOptions{most: 20, pace: 150 * time.Millisecond, retry: "time_in_future", maker: maker{when: quietTimes(c)}})
	l.awaitProgress(100)
	d.awaitReported(t, c.endHour(t))

	c.set(t, 2*time.Hour)
	poll(t, "clock distrusted", func() error {
		samples, err := d.metrics(t.Context())
		if err == nil && samples["meterd_clock_distrusted"] != 1 {
			err = errors.New("it is not")
		}
		return err
	})
	c.endHour(t) // one hour is over, and two more would be by the wrong clock
	c.pass(t, 20*time.Minute)
	if closed := d.lastClosed(t); closed.After(c.Now()) {
		t.Errorf("at %s the hour until %s was closed", c.Now(), closed)
	}
	c.set(t, 0)
	d.awaitReported(t, c.Now().Truncate(time.Hour))
	poll(t, "clock trusted", func() error {
		samples, err := d.metrics(t.Context())
		if err == nil && samples["meterd_clock_distrusted"] != 0 {
			err = errors.New("it is not")
		}
		return err
	})

	c.set(t, -2*time.Hour) // events of now are refused for being in the future, and sent again and again
	c.pass(t, 90*time.Minute)
	c.set(t, 0)
	l.awaitProgress(100)
	l.drain()
	d.awaitReported(t, c.endHour(t))
	d.checkConserved(t, m, &l.ledger)
	d.checkClosedOnce(t)
}

// checkClosedOnce wants every hour to have been closed once.
func (d *daemon) checkClosedOnce(t *testing.T) {
	t.Helper()
	bookings, err := d.bookings(t)
	if err != nil {
		t.Fatal(err)
	}
	var hours []time.Time
	for _, b := range bookings {
		if b.Kind != "close" {
			continue
		}
		if slices.ContainsFunc(hours, b.WindowEnd.Equal) {
			t.Errorf("the hour until %s was closed more than once", b.WindowEnd)
		}
		hours = append(hours, b.WindowEnd)
	}
	if len(hours) == 0 {
		t.Error("no hour was closed")
	}
}

// TestClockAheadAtStart starts a daemon whose clock is two hours ahead: the marketplace's clock tells, and no hour is closed
// before it ends.
func TestClockAheadAtStart(t *testing.T) {
	t.Parallel()
	random := seeded(t)
	c := newFastClock(t)
	m := startFastSandbox(t, c)
	d := newFastDaemon(t, c, m.url, "METERD_INGEST_MAX_FUTURE=1h")
	c.set(t, 2*time.Hour)
	d.start(t)
	l := startLoadOf(t, random, d.url, loadOptions{most: 20, pace: 150 * time.Millisecond, retry: "time_in_future", maker: maker{when: quietTimes(c)}})
	poll(t, "clock distrusted", func() error {
		samples, err := d.metrics(t.Context())
		if err == nil && samples["meterd_clock_distrusted"] != 1 {
			err = fmt.Errorf("it is not; offset %v s", samples["meterd_clock_offset_seconds"])
		}
		return err
	})
	c.pass(t, 40*time.Minute)
	if closed := d.lastClosed(t); closed.After(c.Now()) {
		t.Errorf("at %s the hour until %s was closed", c.Now(), closed)
	}
	c.set(t, 0)
	l.drain()
	d.awaitReported(t, c.endHour(t))
	d.checkConserved(t, m, &l.ledger)
}

func mustCrashProgram(t *testing.T) string {
	t.Helper()
	path, err := crashProgram()
	if err != nil {
		t.Fatal(err)
	}
	return path
}
