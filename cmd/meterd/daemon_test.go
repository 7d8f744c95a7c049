package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meterd/meterd/internal/clock"
	"github.com/meterd/meterd/internal/config"
	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/meter/spool"
	"github.com/meterd/meterd/reporter"
)

// storelessConfig is a daemon whose ClickHouse can't be reached.
func storelessConfig(t *testing.T) config.Config {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close() // nobody listens there now
	c := config.Default()
	c.DataDir = t.TempDir()
	c.Server.Listen, c.Telemetry.Listen = "127.0.0.1:0", "127.0.0.1:0"
	c.Server.ShutdownTimeout = config.Duration(5 * time.Second)
	c.Store.Embedded, c.Store.Addrs = false, []string{l.Addr().String()}
	c.Reporting.Enabled = false
	c.Meters = []config.Meter{{Slug: "calls", EventType: "call", Aggregation: "count", Scale: "1"}}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	return c
}

func openDaemon(t *testing.T, c config.Config, clock reporter.Clock) *daemon {
	t.Helper()
	d, err := newDaemon(t.Context(), daemonOptions{Config: c, Clock: clock, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func call(id string) string {
	return fmt.Sprintf(`{"specversion":"1.0","id":%q,"source":"test","type":"call","subject":"tenant"}`, id)
}

// TestDaemon_clockBack has the clock go back between two runs: receipts must not, or the later of two events with one
// identity would count as the first.
func TestDaemon_clockBack(t *testing.T) {
	t.Parallel()
	c := storelessConfig(t)
	var received []time.Time
	for _, now := range []time.Time{time.Now().Add(time.Hour), time.Now()} {
		d := openDaemon(t, c, clock.NewShifted(now))
		batch := meter.NewBatch()
		batch.DecodeJSON([]byte(call("1")), meter.DecodeOptions{})
		v, err := d.ingester.Accept(t.Context(), batch, "", meter.AllOrNothing)
		if err != nil || !v.Stored {
			t.Fatal(err, v.Problems)
		}
		received = append(received, v.ReceivedAt)
		batch.Release()
		if err := d.close(); err != nil {
			t.Fatal(err)
		}
	}
	if !received[0].Before(received[1]) {
		t.Errorf("received at %s, then after the restart at %s", received[0], received[1])
	}
}

// TestDaemon_stopsWithoutStore stops a daemon that never reached ClickHouse while an endless stream is open: the stream is
// told from where on to send again, Run ends without an error, and what was acknowledged is in the spool.
func TestDaemon_stopsWithoutStore(t *testing.T) {
	t.Parallel()
	c := storelessConfig(t)
	d := openDaemon(t, c, reporter.SystemClock{})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()

	body, lines := io.Pipe()
	defer lines.Close()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, d.apiURL()+"/api/v1/events", body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-ndjson")
	go func() { _, _ = io.WriteString(lines, call("1")+"\n"+call("2")+"\n") }() // a failure shows in the answer
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	answers := bufio.NewScanner(res.Body)
	if !answers.Scan() || !strings.Contains(answers.Text(), `"accepted":2`) {
		t.Fatalf("answer %q, %v", answers.Text(), answers.Err())
	}
	stop()
	if !answers.Scan() || !strings.HasPrefix(answers.Text(), `{"from_line":3,"error":{`) || !strings.Contains(answers.Text(), "shutting down") {
		t.Errorf("last answer %q, %v", answers.Text(), answers.Err())
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("Run: %v", err)
		}
	case <-time.After(c.Server.ShutdownTimeout.Std() + 10*time.Second):
		t.Fatal("Run doesn't end")
	}
	again := openDaemon(t, c, reporter.SystemClock{})
	if got := again.spool.Recovery().Events; got != 2 {
		t.Errorf("%d events in the spool, want the 2 that were acknowledged", got)
	}
	if err := again.close(); err != nil {
		t.Error(err)
	}
}

func TestSpoolHealth(t *testing.T) {
	t.Parallel()
	now := time.Now()
	const gib = 1 << 30
	for name, tt := range map[string]struct {
		stats spool.Stats
		want  string // "": healthy
	}{
		"empty":   {spool.Stats{CapacityBytes: gib}, ""},
		"half":    {spool.Stats{CapacityBytes: gib, UnconfirmedBytes: gib / 2, OldestUnconfirmedAt: now}, ""},
		"full":    {spool.Stats{CapacityBytes: gib, UnconfirmedBytes: gib - 100, OldestUnconfirmedAt: now}, "full"},
		"queued":  {spool.Stats{CapacityBytes: gib, UnconfirmedBytes: gib / 2, QueuedBytes: gib / 2, OldestUnconfirmedAt: now}, "full"},
		"behind":  {spool.Stats{CapacityBytes: gib, UnconfirmedBytes: 1, OldestUnconfirmedAt: now.Add(-6 * time.Minute)}, "6m0s"},
		"failing": {spool.Stats{CapacityBytes: gib, Failing: true, LastError: syscall.EIO}, syscall.EIO.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := spoolHealth(tt.stats, now)
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
}
