package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// sellerKey opens nothing but the sandbox that is started with it.
const sellerKey = "bench-seller-key"

// daemonConfig is what differs between the daemons that are measured. Everything else is the default, other than the
// schedule: nothing may close an hour while it is being filled.
type daemonConfig struct {
	store  string // the [store] section
	market string // URL of the marketplace sandbox; "": reporting is off
}

// noStore lets a daemon take events that it can't load: nothing competes with the intake, as with a store elsewhere.
const noStore = "embedded = false\naddrs = [\"127.0.0.1:1\"]\n"

// The meters: one billed sum with a dimension, and a count that is only queried.
const meterConfig = `
[[meters]]
slug = "tokens"
event_type = "` + eventType + `"
aggregation = "sum"
value = "$.tokens"
group_by = { model = "$.model" }

[[meters]]
slug = "requests"
event_type = "` + eventType + `"
aggregation = "count"
billed = false
`

func (c daemonConfig) text(dir string) string {
	market := "[reporting]\nenabled = false\n"
	if c.market != "" {
		market = fmt.Sprintf("[koogallery]\nbase_url = %q\nallow_http = true\n", c.market)
	}
	return fmt.Sprintf("data_dir = %q\n[server]\nlisten = \"127.0.0.1:0\"\n[telemetry]\nlisten = \"127.0.0.1:0\"\nlog_level = \"warn\"\n"+
		"[closing]\nschedule = \"0 0 29 2 *\"\ngrace = \"0s\"\n[store]\n%s%s%s", filepath.Join(dir, "data"), c.store, market, meterConfig)
}

// meterd is a running daemon.
type meterd struct {
	*child
	dir            string
	API, Telemetry string
}

// startMeterd starts `meterd serve` on a new data directory.
func (b *bench) startMeterd(ctx context.Context, c daemonConfig) (*meterd, error) {
	dir, err := os.MkdirTemp(b.work, "daemon-")
	if err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "config.toml")
	if err := os.WriteFile(config, []byte(c.text(dir)), 0o600); err != nil {
		return nil, err
	}
	d := &meterd{dir: dir}
	d.child, err = startChild("meterd", b.binary, []string{"METERD_KOOGALLERY_SELLER_KEY=" + sellerKey}, "serve", "--config", config)
	if err != nil {
		return nil, err
	}
	line, err := d.await(ctx, func(line string) (string, bool) { return line, strings.HasPrefix(line, "{") })
	if err == nil {
		err = json.Unmarshal([]byte(line), d)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start meterd: %w", err), d.stop(time.Second))
	}
	return d, nil
}

// stopMeterd stops the daemon and removes its data, which may be gigabytes.
func (b *bench) stopMeterd(d *meterd) error {
	err := d.stop(time.Minute)
	if b.keep {
		return err
	}
	return errors.Join(err, os.RemoveAll(d.dir))
}

// awaitStore waits until ClickHouse is open.
func (d *meterd) awaitStore(ctx context.Context) error {
	return d.poll(ctx, 2*time.Minute, "open the store", func(m metrics) bool { return m["meterd_store_open"] == 1 })
}

// reportingStatus is what the bench reads of a daemon's status.
type reportingStatus struct {
	LastClosed struct {
		Window struct {
			End time.Time `json:"end"`
		} `json:"window"`
	} `json:"last_closed"`
	NextScheduled time.Time `json:"next_scheduled"`
}

func (d *meterd) status(ctx context.Context) (reportingStatus, error) {
	var answer struct {
		Status struct {
			Reporting reportingStatus `json:"reporting"`
		} `json:"status"`
	}
	err := callJSON(ctx, http.MethodGet, d.API+"/api/v1/admin/status", "", &answer)
	return answer.Status.Reporting, err
}

// awaitIdle waits until the daemon has caught up, which it does at once when it starts, and waits for its schedule. Before that it might
// close an hour that is being filled.
func (d *meterd) awaitIdle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		status, err := d.status(ctx)
		if err == nil && !status.NextScheduled.IsZero() {
			return nil
		}
		select {
		case <-ticker.C:
		case <-d.exited:
			return d.failure()
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("meterd did not come to rest within %s: %w", startPatience, ctx.Err()), err)
		}
	}
}

// poll waits until the metrics are as wanted.
func (d *meterd) poll(ctx context.Context, patience time.Duration, what string, done func(metrics) bool) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		m, err := d.metrics(ctx)
		if err == nil && done(m) {
			return nil
		}
		select {
		case <-ticker.C:
		case <-d.exited:
			return d.failure()
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("meterd did not %s within %s: %w\n%s", what, patience, ctx.Err(), d.errors), err)
		}
	}
}

// metrics are the daemon's own, by name; those with labels are left out.
type metrics map[string]float64

func (d *meterd) metrics(ctx context.Context) (metrics, error) {
	text, err := call(ctx, http.MethodGet, d.Telemetry+"/metrics", "")
	if err != nil {
		return nil, err
	}
	m := metrics{}
	for line := range strings.Lines(string(text)) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok || strings.HasPrefix(line, "#") || strings.Contains(name, "{") {
			continue
		}
		if m[name], err = strconv.ParseFloat(value, 64); err != nil {
			return nil, fmt.Errorf("read metrics: %q: %w", line, err)
		}
	}
	return m, nil
}

// closePatience is what the daemon gives itself.
const closePatience = 15 * time.Minute

// call makes one small HTTP request and returns the answer's body.
func call(ctx context.Context, method, url, body string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, closePatience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: status %d: %.500s", method, url, res.StatusCode, answer)
	}
	return answer, err
}

// callJSON is call for answers in JSON.
func callJSON(ctx context.Context, method, url, body string, into any) error {
	answer, err := call(ctx, method, url, body)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(answer, into); err != nil {
		return fmt.Errorf("%s %s: %w", method, url, err)
	}
	return nil
}
