package e2e_test

import (
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/meterd/meterd/meter/spool"
)

// TestStopped stops the daemon in good order under load: every request it took is answered, everything acknowledged is in
// ClickHouse, and the spool is empty.
func TestStopped(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(signal.String(), func(t *testing.T) {
			random := seeded(t)
			d := startDaemon(t, "")
			d.awaitStored(t)              // before, there is nowhere to flush to
			var at atomic.Pointer[string] // where the load goes
			before := d.url()
			at.Store(&before)
			l := startLoad(t, random, func() string { return *at.Load() }, runningHour())
			l.awaitProgress(2000)
			pauseFor(t, random, 0, 500*time.Millisecond)
			d.stop(t, signal)
			if left := d.spooledEvents(t); left != 0 {
				t.Errorf("%d events were left in the spool", left)
			}
			d.start(t) // the load doesn't know yet
			d.checkUsage(t, &l.ledger)
			after := d.url()
			at.Store(&after)
			l.drain()
			d.checkUsage(t, &l.ledger)
		})
	}
}

// spooledEvents is how many events the spool of a daemon that has ended holds.
func (d *daemon) spooledEvents(t *testing.T) int64 {
	t.Helper()
	s, err := spool.Open(spool.Options{Dir: filepath.Join(d.dir, "data", "spool"), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	return s.Recovery().Events
}

// TestStoppedWithoutStore stops a daemon that never reached ClickHouse: events stay in the spool for the next start.
func TestStoppedWithoutStore(t *testing.T) {
	d := newDaemon(t, "")
	d.start(t, storeDown...)
	s := newSender(t, seeded(t), runningHour())
	s.send(d, 500)
	s.send(d, 1)
	d.stop(t, syscall.SIGTERM)
	if got := d.spooledEvents(t); got != 501 {
		t.Errorf("%d events in the spool, want 501", got)
	}
	d.start(t)
	d.checkUsage(t, &s.ledger)
}

// TestSecondDaemon starts a second daemon on the same data: it must refuse, and the first must not notice.
func TestSecondDaemon(t *testing.T) {
	d := newDaemon(t, "")
	d.start(t)
	s := newSender(t, seeded(t), runningHour())
	s.send(d, 100)
	second := startProcess(t, "second meterd serve", d.env, program, "serve", "--config", d.configFile())
	if code := second.wait(t, patience); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	s.send(d, 100)
	d.checkUsage(t, &s.ledger)
	if _, err := os.Stat(filepath.Join(d.dir, "data", "spool", "lock")); err != nil {
		t.Error(err)
	}
}
