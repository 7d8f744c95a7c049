package e2e_test

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/meterd/meterd/store/storetest"
)

// loadHours are the hours that a load may use while the daemon is restarted again and again: it closes what is due
// whenever it starts, and the previous hour is kept open by the longest grace period there is, until the running hour ends.
func loadHours(t *testing.T) []time.Time {
	t.Helper()
	now := time.Now().UTC()
	running := now.Truncate(time.Hour)
	if left := running.Add(time.Hour).Sub(now); left < 4*time.Minute {
		t.Logf("the hour ends in %s: no events of the previous hour, so bill records are not compared", left.Round(time.Second))
		return []time.Time{running}
	}
	return []time.Time{running.Add(-time.Hour), running}
}

// runningHour is the hour that nobody closes yet.
func runningHour() time.Time { return time.Now().UTC().Truncate(time.Hour) }

// closedHours are hours before the running one, for tests that send everything before they close anything.
func closedHours(n int) []time.Time {
	hours := make([]time.Time, n)
	for i := range hours {
		hours[i] = time.Now().UTC().Truncate(time.Hour).Add(time.Duration(i-n) * time.Hour)
	}
	return hours
}

// finish drains a load and compares all books with it: ClickHouse, bill records, marketplace.
func finish(t *testing.T, d *daemon, m *market, l *load) {
	t.Helper()
	l.drain()
	d.checkUsage(t, &l.ledger)
	d.restart(t, "METERD_CLOSING_GRACE=0s")
	records := d.checkBooks(t, m, &l.ledger)
	t.Logf("%d bill records agree", records)
	if lost := d.metric(t, "meterd_spool_lost_events_total"); lost != 0 {
		t.Errorf("the spool lost %v events", lost)
	}
}

// pauseFor lets the load run for a random time before a kill. It is the test's input: nothing is waited for.
func pauseFor(t *testing.T, random *rand.Rand, least, most time.Duration) {
	t.Helper()
	timer := time.NewTimer(between(random, least, most))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
	}
}

// untilKill lets the load run until the next kill: half of them soon, whatever is going on; the others once events are
// being written into ClickHouse.
func (d *daemon) untilKill(t *testing.T, random *rand.Rand) {
	t.Helper()
	if random.IntN(2) == 0 {
		pauseFor(t, random, 0, 600*time.Millisecond)
		return
	}
	written := d.metric(t, "meterd_loader_batches_total")
	poll(t, "events written into ClickHouse", func() error {
		m, err := d.metrics(t.Context())
		if err == nil && m["meterd_loader_batches_total"] <= written {
			err = errors.New("none yet")
		}
		return err
	})
	pauseFor(t, random, 0, 300*time.Millisecond)
}

// TestDaemonKilled kills the daemon at random moments while events stream in, also while it is starting.
func TestDaemonKilled(t *testing.T) {
	random := seeded(t)
	m := startSandbox(t)
	d := startDaemon(t, m.url)
	l := startLoad(t, random, d.url, loadHours(t)...)
	for range 20 {
		d.untilKill(t, random)
		d.kill(t)
		d.launch(t)
		if random.IntN(4) == 0 { // once more, before it has recovered
			pauseFor(t, random, 0, 200*time.Millisecond)
			d.kill(t)
			d.launch(t)
		}
		d.announced(t)
	}
	l.awaitProgress(1000)
	finish(t, d, m, l)
}

// TestEngineKilled kills the embedded engine at random moments while events stream in. No request may notice.
func TestEngineKilled(t *testing.T) {
	random := seeded(t)
	m := startSandbox(t)
	d := startDaemon(t, m.url)
	l := startLoad(t, random, d.url, loadHours(t)...)
	meanwhile := int64(0) // events acknowledged without an engine
	for range 5 {
		for range 4 {
			d.untilKill(t, random)
			engine := d.awaitEngine(t, 0)
			if err := syscall.Kill(engine, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			killed := l.acknowledged()
			d.awaitEngine(t, engine)
			meanwhile += l.acknowledged() - killed
		}
		l.checkNoFailure(d.url()) // nobody may notice
		// The pause before an engine that crashes is started again doubles; a restarted daemon begins anew.
		d.restart(t)
	}
	if meanwhile == 0 {
		t.Error("nothing was acknowledged while there was no engine")
	}
	t.Logf("%d events acknowledged while there was no engine", meanwhile)
	finish(t, d, m, l)
}

// awaitEngine waits for an engine process, ready or not, other than the one that was killed.
func (d *daemon) awaitEngine(t *testing.T, killed int) (pid int) {
	t.Helper()
	poll(t, "engine process", func() error {
		if pid = d.engine(); pid == 0 || pid == killed {
			return errors.New("there is none")
		}
		return nil
	})
	return pid
}

// TestServerKilled kills a real ClickHouse server at random moments while events stream in.
func TestServerKilled(t *testing.T) {
	random := seeded(t)
	server := storetest.StartServer(t)
	m := startSandbox(t)
	d := startDaemon(t, m.url, serverEnv(server)...)
	l := startLoad(t, random, d.url, loadHours(t)...)
	meanwhile := int64(0) // events acknowledged without a server
	for range 6 {
		d.untilKill(t, random)
		server.Kill(t)
		killed := l.acknowledged()
		pauseFor(t, random, 0, 500*time.Millisecond)
		meanwhile += l.acknowledged() - killed
		server.Start(t)
	}
	if meanwhile == 0 {
		t.Error("nothing was acknowledged while there was no server")
	}
	l.checkNoFailure(d.url()) // nobody may notice
	finish(t, d, m, l)
}

// serverEnv points a daemon at a server.
func serverEnv(s *storetest.Server) []string {
	return []string{"METERD_STORE_EMBEDDED=false", "METERD_STORE_ADDRS=" + s.Addr, "METERD_STORE_DIAL_TIMEOUT=1s"}
}

// TestAckStore loses the spool with everything in it, as when the machine is lost: with ack = "store" what was
// acknowledged is in ClickHouse already.
func TestAckStore(t *testing.T) {
	random := seeded(t)
	d := startDaemon(t, "", "METERD_INGEST_ACK=store")
	d.awaitStored(t)
	l := startLoad(t, random, d.url, runningHour())
	for range 3 {
		l.awaitProgress(100)
		pauseFor(t, random, 0, 500*time.Millisecond)
		d.kill(t)
		if err := os.RemoveAll(filepath.Join(d.dir, "data", "spool")); err != nil {
			t.Fatal(err)
		}
		d.start(t)
	}
	l.awaitProgress(100)
	l.drain()
	d.checkUsage(t, &l.ledger)
}
