package e2e_test

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meterd/meterd/store/storetest"
)

// TestTwoDaemons runs two daemons on one server: once as they are meant to run, and once without a lease, so that both close
// and deliver the same at the same time. Both take events and are killed in turns. Nothing is booked, or told the marketplace,
// in two versions.
func TestTwoDaemons(t *testing.T) {
	t.Parallel()
	for name, env := range map[string][]string{
		"with the lease":  nil,
		"without a lease": {"METERD_LEASE=off"},
	} {
		t.Run(name, func(t *testing.T) {
			one, two := twoDaemons(t, env...)
			t.Logf("%d and %d bookings", one, two)
			if env != nil && (one == 0 || two == 0) {
				t.Error("only one of them made bookings")
			}
		})
	}
}

// twoDaemons returns how many bookings each of the two made.
func twoDaemons(t *testing.T, env ...string) (byOne, byTwo int) {
	t.Helper()
	random := seeded(t)
	server := storetest.StartServer(t)
	c := newFastClock(t)
	m := startFastSandbox(t, c)
	for _, fault := range []string{`{"kind":"drop_answer","probability":0.2}`, `{"kind":"latency","delay":"50ms","probability":0.5}`} {
		m.inject(t, fault)
	}
	env = append(env, serverEnv(server)...)
	one, two := newFastDaemon(t, c, m.url, env...), newFastDaemon(t, c, m.url, env...)
	one.start(t)
	two.start(t)
	// The senders go to both, and retry with the other one what the first didn't answer.
	var turn atomic.Uint64
	url := func() string {
		if turn.Add(1)%2 == 0 {
			return one.url()
		}
		return two.url()
	}
	l := startLoadOf(t, random, url, loadOptions{most: 20, pace: 150 * time.Millisecond, gap: 400 * time.Millisecond, maker: maker{when: lateTimes(c)}})
	for i := range 4 {
		c.pass(t, 2*time.Hour)
		d, count := one, &byOne
		if i%2 == 1 {
			d, count = two, &byTwo
		}
		d.kill(t)
		*count += d.booked()
		l.awaitProgress(50)
		d.start(t)
	}
	m.heal(t)
	l.drain()
	end := c.endHour(t)
	for _, d := range []*daemon{one, two} {
		d.awaitReported(t, end)
	}
	for _, d := range []*daemon{one, two} {
		d.checkConserved(t, m, &l.ledger)
		d.checkClosedOnce(t)
	}
	return byOne + one.booked(), byTwo + two.booked()
}

// booked is how many bookings the running process made.
func (d *daemon) booked() int { return strings.Count(d.stderr.String(), "msg=booked ") }
