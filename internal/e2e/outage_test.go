package e2e_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// quietTimes makes events of the last minutes.
func quietTimes(c *fastClock) func(*rand.Rand) time.Time {
	return func(random *rand.Rand) time.Time { return c.Now().Add(-between(random, 0, 3*time.Minute)) }
}

// breakerStory is the breaker in the API.
type breakerStory struct {
	State   string
	DueLeft uint64 `json:"due_left"`
	Story   []struct {
		At   time.Time
		From string
		To   string
	}
}

// TestOutage has the marketplace down for three hours, across the ends of hours. Every hour is closed in time all the same,
// and when the marketplace is back everything is delivered, oldest first, each record once.
func TestOutage(t *testing.T) {
	t.Parallel()
	random := seeded(t)
	const outage = 3 * time.Hour
	c := newFastClock(t)
	m := startFastSandbox(t, c)
	d := newFastDaemon(t, c, m.url, "METERD_KOOGALLERY_MAX_BATCH=20")
	d.start(t)
	l := startLoadOf(t, random, d.url, loadOptions{most: 20, pace: 150 * time.Millisecond, gap: 400 * time.Millisecond, maker: maker{when: quietTimes(c)}})
	l.awaitProgress(100)
	d.awaitReported(t, c.endHour(t))

	before := len(m.records(t))
	m.inject(t, `{"kind":"http_status","status":503}`)
	down := c.Now()
	c.endHour(t)
	poll(t, "open breaker", func() error {
		samples, err := d.metrics(t.Context())
		if err == nil && samples["meterd_reporter_breaker_opened_total"] == 0 {
			err = errors.New("it never opened")
		}
		return err
	})
	c.pass(t, outage)
	lastDown := c.Now().Add(-10 * time.Minute).Truncate(time.Hour)
	poll(t, "hours closed during the outage", func() error {
		bookings, err := d.bookings(t)
		if err == nil && !slices.ContainsFunc(bookings, func(b booking) bool { return b.Kind == "close" && b.WindowEnd.Equal(lastDown) }) {
			err = fmt.Errorf("the hour until %s is not closed", lastDown)
		}
		return err
	})
	if got := len(m.records(t)); got != before {
		t.Errorf("%d records got through during the outage", got-before)
	}
	poll(t, "metrics of what is late", func() error {
		samples, err := d.metrics(t.Context())
		if err == nil && (samples["meterd_slo_overdue"] == 0 || samples["meterd_reporter_due_records"] == 0) {
			err = fmt.Errorf("meterd_slo_overdue is %v and meterd_reporter_due_records %v",
				samples["meterd_slo_overdue"], samples["meterd_reporter_due_records"])
		}
		return err
	})
	if _, err := get(t.Context(), d.tel+"/healthz/ready"); err == nil {
		t.Error("the daemon says that it is ready while records are hours late")
	}
	out, code := meterd(t, "bills", "list", "--server", d.url(), "--state", "pending", "--limit", "5")
	if code != 0 || !strings.Contains(out, "pending") {
		t.Errorf("meterd bills list --state pending: exit code %d:\n%s", code, out)
	}

	m.heal(t)
	back := c.Now()
	d.awaitReported(t, lastDown)
	t.Logf("down for %s, all delivered %s after the end", back.Sub(down).Round(time.Minute), c.Now().Sub(back).Round(time.Second))
	checkOrder(t, m.records(t)[before:])
	d.checkStory(t, down, back)

	l.drain()
	d.awaitReported(t, c.endHour(t))
	d.checkConserved(t, m, &l.ledger)
	for _, r := range m.records(t) {
		if !r.counts() {
			t.Errorf("record %s came twice: %s", r.MeteringSN, r.Code)
		}
	}
}

// checkOrder wants records to have come in the order of their windows.
func checkOrder(t *testing.T, records []marketRecord) {
	t.Helper()
	hours := map[string]bool{}
	for i, r := range records {
		hours[r.BeginTime] = true
		if i > 0 && r.BeginTime < records[i-1].BeginTime {
			t.Errorf("record %s of %s came after one of %s", r.MeteringSN, r.BeginTime, records[i-1].BeginTime)
		}
	}
	if len(hours) < 3 {
		t.Errorf("records of %d hours came, want at least 3", len(hours))
	}
}

// checkStory wants the breaker to tell that it opened during an outage, tried again, and closed after it.
func (d *daemon) checkStory(t *testing.T, down, back time.Time) {
	t.Helper()
	body, err := get(t.Context(), d.url()+"/api/v1/breaker")
	if err != nil {
		t.Fatal(err)
	}
	var b breakerStory
	if err := json.Unmarshal(body, &b); err != nil {
		t.Fatal(err)
	}
	if b.State != "closed" {
		t.Errorf("the breaker is %s, want closed", b.State)
	}
	opened, probed, closed := false, 0, false
	for _, change := range b.Story {
		switch {
		case change.To == "open" && change.At.After(down):
			opened = true
		case change.To == "half_open" || change.To == "half-open":
			probed++
		case change.To == "closed" && !change.At.Before(back):
			closed = true
		}
	}
	if !opened || probed < 2 || !closed {
		t.Errorf("the breaker's story: opened %v, tried again %d times, closed after the end %v: %s", opened, probed, closed, body)
	}
	samples, err := d.metrics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if samples["meterd_reporter_breaker_state"] != 0 || samples["meterd_reporter_breaker_changes_total"] < 3 {
		t.Errorf("meterd_reporter_breaker_state is %v, meterd_reporter_breaker_changes_total %v",
			samples["meterd_reporter_breaker_state"], samples["meterd_reporter_breaker_changes_total"])
	}
}
