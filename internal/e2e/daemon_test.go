package e2e_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/meterd/meterd/store/embedded"
)

// sellerKey signs what daemons of tests send to sandboxes of tests.
const sellerKey = "e2e-test-seller-key"

// daemonConfig is the configuration of a test's daemon. Hours are closed late and by hand only, unless a test restarts the
// daemon with another grace; small inserts come often, so that a kill meets one.
const daemonConfig = `
data_dir = "data"

[server]
listen = "127.0.0.1:0"
shutdown_timeout = "20s"

[telemetry]
listen = "127.0.0.1:0"

[spool]
segment_bytes = "8MiB"

[loader]
batch_events = 5000
batch_delay = "50ms"

[closing]
schedule = "0 0 29 2 *"
grace = "59m59s"

[reporting]
retry_min = "20ms"
retry_max = "500ms"
breaker_timeout = "500ms"

[koogallery]
base_url = %q
allow_http = true
fallback = false
timeout = "10s"
spacing = "0s"

[[meters]]
slug = "requests"
event_type = "request"
aggregation = "count"
instance = "{subject}.requests"

[[meters]]
slug = "tokens"
event_type = "request"
aggregation = "sum"
value = "$.tokens"
group_by = { model = "$.model" }
instance = "{subject}.tokens"
`

// daemon is a meterd and its data directory; the process may end and be started again.
type daemon struct {
	dir     string
	env     []string
	program string // "" for the usual one
	*process
	api atomic.Pointer[string] // base URL of the running process
	tel string
	key string // for queries; empty where the API asks for none
}

// newDaemon writes the configuration: daemonConfig, with the environment for what differs.
func newDaemon(t *testing.T, sandboxURL string, env ...string) *daemon {
	t.Helper()
	if !slices.Contains(env, "METERD_STORE_EMBEDDED=false") {
		_, err := embedded.FindLibrary("")
		require(t, err == nil, fmt.Sprint("embedded engine: ", err))
	}
	d := &daemon{dir: t.TempDir(), env: append([]string{"METERD_KOOGALLERY_SELLER_KEY=" + sellerKey}, env...)}
	if sandboxURL == "" {
		sandboxURL = "http://127.0.0.1:9" // never called
	}
	d.write(t, fmt.Sprintf(daemonConfig, sandboxURL))
	return d
}

// startDaemon starts a daemon for the whole test.
func startDaemon(t *testing.T, sandboxURL string, env ...string) *daemon {
	t.Helper()
	d := newDaemon(t, sandboxURL, env...)
	d.start(t)
	return d
}

func (d *daemon) configFile() string { return filepath.Join(d.dir, "meterd.toml") }

func (d *daemon) write(t *testing.T, config string) {
	t.Helper()
	if err := os.WriteFile(d.configFile(), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
}

// launch starts the process and does not wait for anything.
func (d *daemon) launch(t *testing.T, env ...string) {
	t.Helper()
	path := d.program
	if path == "" {
		path = program
	}
	d.process = startProcess(t, "meterd serve", append(slices.Clone(d.env), env...), path, "serve", "--config", d.configFile())
}

// announced waits until the process says where it listens.
func (d *daemon) announced(t *testing.T) {
	t.Helper()
	at := line(t, d.process, "announcement", func(text string) (a struct{ API, Telemetry string }, ok bool) {
		return a, json.Unmarshal([]byte(text), &a) == nil && a.API != ""
	})
	d.api.Store(&at.API)
	d.tel = at.Telemetry
}

// tryAnnounced reports whether the process has said where it listens.
func (d *daemon) tryAnnounced() bool {
	for text := range strings.Lines(d.stdout.String()) {
		var at struct{ API, Telemetry string }
		if json.Unmarshal([]byte(text), &at) == nil && at.API != "" {
			d.api.Store(&at.API)
			d.tel = at.Telemetry
			return true
		}
	}
	return false
}

// start starts the process and waits until it takes events.
func (d *daemon) start(t *testing.T, env ...string) {
	t.Helper()
	d.launch(t, env...)
	d.announced(t)
}

// stop ends the daemon as a service manager does and wants exit code 0.
func (d *daemon) stop(t *testing.T, s os.Signal) {
	t.Helper()
	d.signal(t, s)
	if code := d.wait(t, 30*time.Second); code != 0 {
		t.Fatalf("exit code %d after %v, want 0", code, s)
	}
}

// restart stops the daemon and starts it again, with other settings.
func (d *daemon) restart(t *testing.T, env ...string) {
	t.Helper()
	d.stop(t, syscall.SIGTERM)
	d.start(t, env...)
}

// url is the base URL of the API.
func (d *daemon) url() string {
	if at := d.api.Load(); at != nil {
		return *at
	}
	return "http://127.0.0.1:9" // refused: not started yet
}

// engine is the pid of the daemon's engine, 0 if there is none.
func (d *daemon) engine() int {
	for pid, args := range children(d.pid()) {
		if strings.Contains(args, " engine ") {
			return pid
		}
	}
	return 0
}

// client is for everything but the load, which has connections of its own.
var client = &http.Client{Timeout: 30 * time.Second}

// get asks and returns the body of a 200.
func get(ctx context.Context, address string) ([]byte, error) { return getWithKey(ctx, address, "") }

func getWithKey(ctx context.Context, address, key string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		return nil, err
	}
	if key != "" {
		request.Header.Set("Authorization", "Bearer "+key)
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", address, response.Status, bytes.TrimSpace(body))
	}
	return body, err
}

// getJSON asks once and fails the test if there is no answer.
func getJSON[T any](t *testing.T, address string) T {
	t.Helper()
	var value T
	body, err := get(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(body, &value); err != nil {
		t.Fatalf("%s: %v in %s", address, err, body)
	}
	return value
}

// metrics reads all samples without labels; those with labels are added up.
func (d *daemon) metrics(ctx context.Context) (map[string]float64, error) {
	body, err := get(ctx, d.tel+"/metrics")
	if err != nil {
		return nil, err
	}
	samples := map[string]float64{}
	for scanner := bufio.NewScanner(bytes.NewReader(body)); scanner.Scan(); {
		name, value, ok := strings.Cut(scanner.Text(), " ")
		if !ok || strings.HasPrefix(name, "#") {
			continue
		}
		name, _, _ = strings.Cut(name, "{")
		number, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return nil, fmt.Errorf("metric %s: %w", name, err)
		}
		samples[name] += number
	}
	return samples, nil
}

// metric reads one sample that must be there.
func (d *daemon) metric(t *testing.T, name string) float64 {
	t.Helper()
	samples, err := d.metrics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	value, ok := samples[name]
	if !ok {
		t.Fatalf("there is no metric %s", name)
	}
	return value
}

// awaitStored waits until everything durable is in ClickHouse.
func (d *daemon) awaitStored(t *testing.T) {
	t.Helper()
	poll(t, "everything in ClickHouse", func() error {
		m, err := d.metrics(t.Context())
		if err != nil {
			return err
		}
		if m["meterd_store_open"] != 1 || m["meterd_spool_unconfirmed_events"] != 0 || m["meterd_spool_unconfirmed_bytes"] != 0 {
			return fmt.Errorf("store open %v, %v events and %v bytes not confirmed", m["meterd_store_open"],
				m["meterd_spool_unconfirmed_events"], m["meterd_spool_unconfirmed_bytes"])
		}
		return nil
	})
}

// meterd runs a command of the program that ends by itself, and returns its output and exit code.
func meterd(t *testing.T, args ...string) (stdout string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = baseEnv()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Fatalf("meterd %v: %v", args, err)
	}
	if code = cmd.ProcessState.ExitCode(); code != 0 {
		t.Logf("meterd %v: exit code %d: %s%s", args, code, &out, &errs)
	}
	return out.String(), code
}

// usageRow is a row of a meter query.
type usageRow struct {
	Value       string    `json:"value"`
	WindowStart time.Time `json:"windowStart"`
	Subject     string    `json:"subject"`
}

// queryMeter asks a meter for what each subject used from the beginning on.
func (d *daemon) queryMeter(ctx context.Context, slug string, params url.Values) ([]usageRow, error) {
	values := url.Values{"groupBy": {"subject"}, "to": {time.Now().UTC().Add(2 * time.Hour).Truncate(time.Hour).Format(time.RFC3339)}}
	maps.Copy(values, params)
	body, err := getWithKey(ctx, d.url()+"/api/v1/meters/"+slug+"/query?"+values.Encode(), d.key)
	if err != nil {
		return nil, err
	}
	var answer struct{ Data []usageRow }
	err = json.Unmarshal(body, &answer)
	return answer.Data, err
}
