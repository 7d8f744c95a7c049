package e2e_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/meterd/meterd/store/storetest"
)

// sender sends batches one by one and notices every answer.
type sender struct {
	*maker
	ledger

	t   *testing.T
	pad int // bytes of noise in each event
}

func newSender(t *testing.T, random *rand.Rand, hours ...time.Time) *sender {
	t.Helper()
	return &sender{maker: &maker{random: random, source: "sender", hours: hours}, t: t}
}

// batch makes events.
func (s *sender) batch(size int) []event {
	events := make([]event, size)
	for i := range events {
		events[i] = s.next()
	}
	return events
}

// post sends events once. Those that a 204 answers for are booked.
func (s *sender) post(d *daemon, events []event) *http.Response {
	s.t.Helper()
	var body bytes.Buffer
	for i := range events {
		text := events[i].appendJSON(nil)
		if s.pad > 0 {
			noise := make([]byte, s.pad*3/4)
			for j := range noise {
				noise[j] = byte(s.random.Uint32())
			}
			text = append(text[:len(text)-1], fmt.Sprintf(`,"noise":%q}`, base64.StdEncoding.EncodeToString(noise))...)
		}
		body.Write(append(text, '\n'))
	}
	response, err := client.Post(d.url()+"/api/v1/events", "application/x-ndjson", &body)
	if err != nil {
		s.t.Fatal(err)
	}
	answer, _ := io.ReadAll(response.Body)
	_ = response.Body.Close()
	response.Body = io.NopCloser(bytes.NewReader(answer))
	if response.StatusCode == http.StatusNoContent {
		s.acknowledge(events)
	}
	return response
}

// send sends events that must be taken.
func (s *sender) send(d *daemon, size int) {
	s.t.Helper()
	response := s.post(d, s.batch(size))
	if response.StatusCode != http.StatusNoContent {
		answer, _ := io.ReadAll(response.Body)
		s.t.Fatalf("%d events: %s: %s", size, response.Status, answer)
	}
}

// fill sends until events are refused, checks how, and returns those events.
func (s *sender) fill(d *daemon, statuses ...int) []event {
	s.t.Helper()
	for range 1000 {
		events := s.batch(100)
		response := s.post(d, events)
		if response.StatusCode == http.StatusNoContent {
			continue
		}
		answer, _ := io.ReadAll(response.Body)
		known := false
		for _, status := range statuses {
			known = known || response.StatusCode == status
		}
		if wait, err := strconv.Atoi(response.Header.Get("Retry-After")); !known || err != nil || wait < 1 {
			s.t.Fatalf("full: answer %s, Retry-After %q: %s; want %v and a positive number of seconds",
				response.Status, response.Header.Get("Retry-After"), answer, statuses)
		}
		s.t.Logf("full after %d events: %s", s.acknowledged(), errorText(answer))
		return events
	}
	s.t.Fatal("the spool never gets full")
	return nil
}

// awaitTaken sends the same events again until they are taken.
func (s *sender) awaitTaken(d *daemon, events []event) {
	s.t.Helper()
	poll(s.t, "room for events", func() error {
		if response := s.post(d, events); response.StatusCode != http.StatusNoContent {
			return errors.New(response.Status)
		}
		return nil
	})
}

// checkReady wants the health check to say that the daemon does, or does not do, its work.
func (d *daemon) checkReady(t *testing.T, want bool, reason string) {
	t.Helper()
	_, err := get(t.Context(), d.tel+"/healthz/ready")
	if want != (err == nil) || !want && !strings.Contains(err.Error(), reason) {
		t.Errorf("ready: %v, want ready = %v %s", err, want, reason)
	}
}

// TestSpoolBound fills the spool to its bound while the server is down: what is acknowledged stays, the rest is refused
// with a time to come back, and everything goes on by itself when the server is back.
func TestSpoolBound(t *testing.T) {
	random := seeded(t)
	server := storetest.StartServer(t)
	d := startDaemon(t, "", append(serverEnv(server), "METERD_SPOOL_MAX_BYTES=16MiB", "METERD_INGEST_MAX_BODY=4MiB")...)
	s := newSender(t, random, runningHour())
	s.send(d, 10)
	d.awaitStored(t)
	server.Stop(t)
	s.pad = 4000
	refused := s.fill(d, http.StatusTooManyRequests)
	if n := d.metric(t, "meterd_spool_full_total"); n == 0 {
		t.Error("a refusal is not counted")
	}
	d.checkReady(t, false, "full with")
	server.Start(t)
	d.checkUsage(t, &s.ledger) // nothing of the refused request counts
	s.awaitTaken(d, refused)
	d.checkUsage(t, &s.ledger)
	poll(t, "ready", func() error {
		_, err := get(t.Context(), d.tel+"/healthz/ready")
		return err
	})
}

// launchOnSmallDisk starts the daemon with a disk of its own for a directory in its data directory. Nobody else sees that disk,
// and it is gone with the process.
func (d *daemon) launchOnSmallDisk(t *testing.T, name, options string) {
	t.Helper()
	unshare := []string{"--user", "--map-root-user", "--mount"}
	mount := `mount -t tmpfs -o "$1",mode=0700 tmpfs "$2"`
	if out, err := exec.Command("unshare", append(unshare, "sh", "-c", mount, "sh", options, t.TempDir())...).CombinedOutput(); err != nil {
		require(t, false, fmt.Sprintf("a disk to fill up needs a mount namespace: %v: %s", err, bytes.TrimSpace(out)))
	}
	dir := filepath.Join(d.dir, "data", name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	args := append(unshare, "sh", "-c", mount+` && shift 2 && exec "$@"`, "sh", options, dir, program, "serve", "--config", d.configFile())
	d.process = startProcess(t, "meterd serve", d.env, "unshare", args...)
}

// onSmallDisk is a path on the daemon's own disk as seen from here.
func (d *daemon) onSmallDisk(name string) string {
	return filepath.Join("/proc", strconv.Itoa(d.pid()), "root", d.dir, "data", name)
}

// fillDisk writes a file of somebody else on the daemon's own disk until nothing goes onto it any more.
func (d *daemon) fillDisk(t *testing.T, name string) (remove func()) {
	t.Helper()
	path := d.onSmallDisk(name)
	ballast, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer ballast.Close()
	for size := 64 << 10; size > 0; size /= 2 {
		for err = nil; err == nil; {
			_, err = ballast.Write(make([]byte, size))
		}
	}
	return func() {
		t.Helper()
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDiskFull fills the spool's disk to the last byte while the server is down.
func TestDiskFull(t *testing.T) {
	random := seeded(t)
	server := storetest.StartServer(t)
	d := newDaemon(t, "", serverEnv(server)...)
	d.launchOnSmallDisk(t, "spool", "size=24m")
	d.announced(t)
	s := newSender(t, random, runningHour())
	server.Stop(t)
	s.pad = 4000
	refused := s.fill(d, http.StatusServiceUnavailable)
	// The pieces that the refused request left free go to somebody else.
	d.fillDisk(t, "spool/ballast")
	d.checkReady(t, false, "the disk refuses events")
	server.Start(t)
	d.checkUsage(t, &s.ledger)
	s.awaitTaken(d, refused)
	d.checkUsage(t, &s.ledger)
	if lost := d.metric(t, "meterd_spool_lost_events_total"); lost != 0 {
		t.Errorf("the spool lost %v events", lost)
	}
	poll(t, "ready", func() error {
		_, err := get(t.Context(), d.tel+"/healthz/ready")
		return err
	})
}
