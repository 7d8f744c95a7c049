package e2e_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meterd/meterd/store/storetest"
)

// awaitRetries waits until so many more attempts to move events into ClickHouse have failed.
func (d *daemon) awaitRetries(t *testing.T, more float64) {
	t.Helper()
	before := d.metric(t, "meterd_loader_retries_total")
	poll(t, "failing inserts", func() error {
		m, err := d.metrics(t.Context())
		if err == nil && m["meterd_loader_retries_total"] < before+more {
			err = fmt.Errorf("%v failed", m["meterd_loader_retries_total"]-before)
		}
		return err
	})
}

// TestEngineDiskFull fills the disk of the embedded engine to the last byte. Events are taken all the while; when there is
// room again they are stored, and their hours billed.
func TestEngineDiskFull(t *testing.T) {
	t.Parallel()
	random := seeded(t)
	m := startSandbox(t)
	d := newDaemon(t, m.url, closeAtOnce, "METERD_CLOSING_FLUSH_TIMEOUT=1s")
	d.launchOnSmallDisk(t, "engine", "size=256m")
	d.announced(t)
	d.awaitIdle(t)
	s := newSender(t, random, closedHours(2)...)
	s.send(d, 1000)
	d.awaitStored(t)

	empty := d.fillDisk(t, "engine/ballast")
	s.send(d, 1000)
	d.awaitRetries(t, 3)
	s.send(d, 1000) // still taken
	if out, code := meterd(t, "close", "--server", d.url(), "--until", "last-hour"); code == 0 {
		t.Errorf("hours were closed without room for a row: %s", out)
	}
	empty()
	d.checkUsage(t, &s.ledger)
	d.checkBooks(t, m, &s.ledger)
	if lost := d.metric(t, "meterd_spool_lost_events_total"); lost != 0 {
		t.Errorf("the spool lost %v events", lost)
	}
}

// TestServerReadOnly makes the server refuse every write: events are taken and wait, hours stay open, and what is stored can be
// asked for. Afterwards everything goes on by itself.
func TestServerReadOnly(t *testing.T) {
	t.Parallel()
	random := seeded(t)
	server := storetest.StartServer(t)
	m := startSandbox(t)
	d := startDaemon(t, m.url, append(serverEnv(server), closeAtOnce, "METERD_CLOSING_FLUSH_TIMEOUT=1s")...)
	d.awaitIdle(t)
	s := newSender(t, random, closedHours(2)...)
	s.send(d, 500)
	d.checkUsage(t, &s.ledger)
	before := s.usage(false)

	server.ReadOnly(t, true)
	s.send(d, 500)
	d.awaitRetries(t, 3)
	s.send(d, 500)
	poll(t, "answer to a query", func() error {
		got, err := d.readUsage(t.Context(), nil)
		if err == nil && !cmp.Equal(before, got) {
			t.Errorf("usage changed on a server that takes no writes (-before +now):\n%s", cmp.Diff(before, got))
		}
		return err
	})
	if out, code := meterd(t, "close", "--server", d.url(), "--until", "last-hour"); code == 0 {
		t.Errorf("hours were closed on a server that takes no writes: %s", out)
	}
	server.ReadOnly(t, false)
	d.checkUsage(t, &s.ledger)
	d.checkBooks(t, m, &s.ledger)
	if refused := d.metric(t, "meterd_loader_refused_total"); refused != 0 {
		t.Errorf("%v events were taken for bad ones", refused)
	}
}

// TestDataDirectoryNotWritable starts a daemon that may not write where its data is: it says so and ends.
func TestDataDirectoryNotWritable(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"spool", "engine"} {
		t.Run(name, func(t *testing.T) {
			d := newDaemon(t, "")
			d.launchOnSmallDisk(t, name, "ro,size=16m")
			if name == "engine" {
				d.announced(t) // events are taken, and wait
				s := newSender(t, seeded(t), runningHour())
				s.send(d, 10)
				poll(t, "a log line with the reason", func() error {
					if !strings.Contains(d.stderr.String(), "read-only file system") {
						return errors.New("none yet")
					}
					return nil
				})
				return
			}
			if code := d.wait(t, patience); code != 1 {
				t.Errorf("exit code %d, want 1", code)
			}
			if text := d.stderr.String(); !strings.Contains(text, "read-only file system") || !strings.Contains(text, name) {
				t.Errorf("it doesn't say what is wrong:\n%s", text)
			}
		})
	}
}

// TestServerUnreachableAtStart starts a daemon without its server: events are taken and nothing else happens, until the server
// is there. Then everything is stored, and hours are closed and billed.
func TestServerUnreachableAtStart(t *testing.T) {
	t.Parallel()
	random := seeded(t)
	server := storetest.StartServer(t)
	server.Stop(t)
	m := startSandbox(t)
	d := startDaemon(t, m.url, append(serverEnv(server), closeAtOnce)...)
	s := newSender(t, random, closedHours(2)...)
	for range 3 {
		s.send(d, 500)
	}
	if open := d.metric(t, "meterd_store_open"); open != 0 {
		t.Errorf("meterd_store_open is %v", open)
	}
	if _, err := get(t.Context(), d.tel+"/healthz/ready"); err == nil {
		t.Error("ready without a store")
	}
	response, err := client.Get(d.url() + "/api/v1/bill-records")
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a question to the books is answered with %s, want 503", response.Status)
	}
	server.Start(t)
	d.checkUsage(t, &s.ledger)
	d.checkBooks(t, m, &s.ledger)
}
