package e2e_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/meterd/meterd/store/storetest"
)

// TestTwoDaemons runs two daemons on one server: once as they are meant to run, and once with a lease so short that both
// believe to hold it most of the time. Both take events and close hours. Nothing is booked, or told the marketplace, in two
// versions.
func TestTwoDaemons(t *testing.T) {
	for name, env := range map[string][]string{
		"with the lease":      nil,
		"as if without lease": {"METERD_LEASE=off"},
	} {
		t.Run(name, func(t *testing.T) { twoDaemons(t, env...) })
	}
}

func twoDaemons(t *testing.T, env ...string) {
	t.Helper()
	random := seeded(t)
	server := storetest.StartServer(t)
	c := newFastClock(t, 720)
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
	l := startLoadOf(t, random, url, loadOptions{most: 30, pace: 60 * time.Millisecond, maker: maker{when: lateTimes(c)}})
	begin := c.Now().Truncate(time.Hour)
	for i := range 4 {
		c.await(t, begin.Add(time.Duration(i)*2*time.Hour+20*time.Minute))
		d := one
		if i%2 == 1 {
			d = two
		}
		d.kill(t)
		l.awaitProgress(50)
		d.start(t)
	}
	c.await(t, begin.Add(9*time.Hour))
	m.heal(t)
	l.drain()
	end := c.Now().Truncate(time.Hour).Add(time.Hour)
	c.await(t, end.Add(5*time.Minute))
	for _, d := range []*daemon{one, two} {
		d.awaitReported(t, end)
	}
	for _, d := range []*daemon{one, two} {
		d.checkConserved(t, m, &l.ledger)
		d.checkClosedOnce(t)
	}
}
