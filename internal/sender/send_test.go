package sender_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meterd/meterd/internal/sender"
)

func TestSend(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		rows     int
		change   func(*sender.Options)
		requests int
		accepted int64
	}{
		"nothing":         {0, func(*sender.Options) {}, 0, 0},
		"one batch":       {10, func(*sender.Options) {}, 1, 10},
		"batches":         {25, func(o *sender.Options) { o.Batch = 10 }, 3, 25},
		"exact batches":   {20, func(o *sender.Options) { o.Batch = 10 }, 2, 20},
		"one at a time":   {7, func(o *sender.Options) { o.Batch, o.Concurrency = 2, 1 }, 4, 7},
		"limit":           {25, func(o *sender.Options) { o.Batch, o.Limit = 10, 12 }, 2, 12},
		"gzip":            {25, func(o *sender.Options) { o.Gzip = true }, 1, 25},
		"bytes":           {25, func(o *sender.Options) { o.BatchBytes = 500 }, 9, 25},
		"tiny byte limit": {5, func(o *sender.Options) { o.BatchBytes = 1 }, 5, 5},
		"rate":            {20, func(o *sender.Options) { o.Batch, o.Rate = 10, 10_000 }, 2, 20},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDaemon(t, nil)
			o := d.options()
			tt.change(&o)
			sum, err := sender.Send(t.Context(), o, tableSource(t, tt.rows))
			if err != nil {
				t.Fatal(err)
			}
			requests, counted := d.counts()
			if requests != tt.requests || int64(counted) != tt.accepted || sum.Accepted != tt.accepted ||
				sum.Sent != tt.accepted || sum.Batches != int64(tt.requests) || sum.Retries != 0 {
				t.Errorf("requests = %d, counted = %d, summary = %+v, want %d and %d", requests, counted, sum, tt.requests, tt.accepted)
			}
			var sent int64
			for i := range requests {
				r := d.request(i)
				sent += int64(len(r.body))
				if r.path != "/api/v1/events" || r.header.Get("Content-Type") != "application/cloudevents-batch+json" ||
					r.header.Get("Authorization") != "" {
					t.Errorf("request %d: %s %v", i, r.path, r.header)
				}
				if o.BatchBytes > 1 && len(r.body) > o.BatchBytes {
					t.Errorf("request %d has %d bytes", i, len(r.body))
				}
			}
			if sum.Bytes != sent {
				t.Errorf("bytes = %d, want %d", sum.Bytes, sent)
			}
			if tt.accepted > 0 && (sum.First.Unix() != 1_700_000_000 || sum.Last.Unix() != 1_700_000_000+tt.accepted-1) {
				t.Errorf("times = %s to %s", sum.First, sum.Last)
			}
		})
	}
}

// TestSendRetries: whatever fails for a while is repeated with the same bytes.
func TestSendRetries(t *testing.T) {
	t.Parallel()
	status := func(code int) func(http.ResponseWriter) bool {
		return func(w http.ResponseWriter) bool { w.WriteHeader(code); return false }
	}
	for name, fail := range map[string]func(http.ResponseWriter) bool{
		"429": status(429), "500": status(500), "502": status(502), "503": status(503), "504": status(504), "408": status(408),
		"dropped after acceptance": func(w http.ResponseWriter) bool { hangUp(w); return true },
		"dropped":                  func(w http.ResponseWriter) bool { hangUp(w); return false },
		"cut":                      func(w http.ResponseWriter) bool { w.Header().Set("Content-Length", "5"); return status(500)(w) },
	} {
		for _, packed := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", gzip=", packed), func(t *testing.T) {
				t.Parallel()
				d := newDaemon(t, func(n int, w http.ResponseWriter) bool {
					if n <= 3 {
						return fail(w)
					}
					w.WriteHeader(http.StatusNoContent)
					return true
				})
				o := d.options()
				o.Gzip = packed
				sum, err := sender.Send(t.Context(), o, tableSource(t, 100))
				if err != nil {
					t.Fatal(err)
				}
				requests, counted := d.counts()
				if requests != 4 || counted != 100 || sum.Accepted != 100 || sum.Retries != 3 || sum.Requests != 4 {
					t.Errorf("requests = %d, counted = %d, summary %+v", requests, counted, sum)
				}
				for i := range requests {
					if d.request(i).body != d.request(0).body {
						t.Errorf("attempt %d has other bytes", i)
					}
				}
			})
		}
	}
}

func hangUp(w http.ResponseWriter) {
	if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
		_ = conn.Close()
	}
}

// recorder is a Sleep that doesn't, on a clock that moves with it.
type recorder struct {
	mu    sync.Mutex
	now   time.Time
	waits []time.Duration
}

func (r *recorder) Now() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now
}

func (r *recorder) Sleep(ctx context.Context, d time.Duration) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waits = append(r.waits, d)
	r.now = r.now.Add(d)
	return ctx.Err()
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	values := []string{"7", now.Add(19 * time.Second).Format(http.TimeFormat), "nonsense", ""}
	d := newDaemon(t, func(n int, w http.ResponseWriter) bool {
		if n > len(values) {
			w.WriteHeader(http.StatusNoContent)
			return true
		}
		w.Header().Set("Retry-After", values[n-1])
		w.WriteHeader(http.StatusServiceUnavailable)
		return false
	})
	clock := &recorder{now: now}
	o := d.options()
	o.Now, o.Sleep, o.RetryMin, o.RetryMax = clock.Now, clock.Sleep, 100*time.Millisecond, time.Second
	if _, err := sender.Send(t.Context(), o, tableSource(t, 1)); err != nil {
		t.Fatal(err)
	}
	if len(clock.waits) != 4 || clock.waits[0] != 7*time.Second || clock.waits[1] != 12*time.Second {
		t.Fatalf("waits = %v, want 7s, 12s and two of our own", clock.waits)
	}
	for i, bound := range []time.Duration{400 * time.Millisecond, 800 * time.Millisecond} { // attempts 3 and 4
		if got := clock.waits[2+i]; got < bound/2 || got > bound {
			t.Errorf("wait %d = %s, want %s to %s", 2+i, got, bound/2, bound)
		}
	}
}

func TestGivesUp(t *testing.T) {
	t.Parallel()
	clock := &recorder{now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	d := newDaemon(t, func(_ int, w http.ResponseWriter) bool {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, `{"title":"Store behind","detail":"spool is full\n"}`)
		return false
	})
	o := d.options()
	o.Now, o.Sleep, o.RetryFor, o.RetryMin, o.RetryMax = clock.Now, clock.Sleep, time.Minute, time.Second, 10*time.Second
	sum, err := sender.Send(t.Context(), o, tableSource(t, 2))
	if err == nil || !strings.Contains(err.Error(), "batch of 2 events (table.csv:2 to table.csv:3): not accepted after") ||
		!strings.Contains(err.Error(), "the daemon answered 503 Service Unavailable: Store behind: spool is full") {
		t.Errorf("error = %v", err)
	}
	if sum.Accepted != 0 || sum.Sent != 2 || sum.Elapsed > time.Minute || sum.Retries < 5 {
		t.Errorf("summary = %+v", sum)
	}
}

func TestGivesUpWithoutDaemon(t *testing.T) {
	t.Parallel()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	o := sender.Options{
		URL: "http://" + addr, Now: time.Now, RetryMin: time.Millisecond, RetryMax: time.Millisecond, RetryFor: 20 * time.Millisecond,
	}
	if _, err := sender.Send(t.Context(), o, tableSource(t, 1)); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("error = %v", err)
	}
}

const problemBody = `{"type":"about:blank","title":"Invalid events","status":400,"detail":"2 of 5 events are bad",
 "errors":[{"index":1,"field":"$.tokens","reason":"value_negative","detail":"negative; void\u001b[31m it instead"},
 {"index":4,"reason":"time_in_future"},{"index":99,"reason":"elsewhere"},{"reason":"nowhere"}],"total_errors":7}`

func TestRefused(t *testing.T) {
	t.Parallel()
	d := newDaemon(t, func(_ int, w http.ResponseWriter) bool {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, problemBody)
		return false
	})
	o := d.options()
	o.Batch, o.Concurrency = 5, 1
	sum, err := sender.Send(t.Context(), o, tableSource(t, 50))
	var refused *sender.RefusedError
	if !errors.As(err, &refused) || refused.Status != 400 {
		t.Fatalf("error = %v, want a RefusedError", err)
	}
	want := `the daemon refused the events table.csv:2 to table.csv:6: 400 Bad Request: Invalid events: 2 of 5 events are bad
  table.csv:3: $.tokens: negative; void [31m it instead (value_negative)
  table.csv:6: time_in_future
  … and 5 more`
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Errorf("error (-want +got):\n%s", diff)
	}
	if requests, _ := d.counts(); requests != 1 || sum.Retries != 0 || sum.Accepted != 0 {
		t.Errorf("requests = %d, summary = %+v", requests, sum)
	}
}

func TestRefusedListIsShort(t *testing.T) {
	t.Parallel()
	e := &sender.RefusedError{Status: 400}
	for i := range 1000 {
		e.Events = append(e.Events, sender.EventProblem{Position: sender.Position{File: "f", Line: i}, Detail: "bad"})
	}
	if text := e.Error(); strings.Count(text, "\n") != 11 || !strings.HasSuffix(text, "… and 990 more") {
		t.Errorf("error = %s", text)
	}
}

func TestRefusedStatuses(t *testing.T) {
	t.Parallel()
	for status, want := range map[int]string{
		301: "check the daemon's address", 401: "check the API key", 403: "check the API key", 404: "check the daemon's address",
		413: "send smaller batches", 415: "415 Unsupported Media Type", 501: "501 Not Implemented",
	} {
		t.Run(strconv.Itoa(status), func(t *testing.T) {
			t.Parallel()
			d := newDaemon(t, func(_ int, w http.ResponseWriter) bool {
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(status)
				_, _ = io.WriteString(w, "<html>")
				return false
			})
			_, err := sender.Send(t.Context(), d.options(), tableSource(t, 1))
			var refused *sender.RefusedError
			if !errors.As(err, &refused) || !strings.Contains(err.Error(), want) {
				t.Errorf("error = %v, want %q", err, want)
			}
			if requests, _ := d.counts(); requests != 1 {
				t.Errorf("requests = %d, want 1", requests)
			}
		})
	}
}

// TestInputErrorKeepsWhatWasSent: batches before the bad row arrive, and the error has its line.
func TestInputErrorKeepsWhatWasSent(t *testing.T) {
	t.Parallel()
	text, o := table(25)
	src, err := sender.NewCSVSource(strings.NewReader(text+"never,1\n"), "table.csv", o)
	if err != nil {
		t.Fatal(err)
	}
	d := newDaemon(t, nil)
	so := d.options()
	so.Batch = 10
	sum, err := sender.Send(t.Context(), so, src)
	var fault *sender.InputError
	if !errors.As(err, &fault) || fault.Line != 27 {
		t.Fatalf("error = %v, want an InputError of line 27", err)
	}
	if _, counted := d.counts(); counted != 20 || sum.Accepted != 20 {
		t.Errorf("counted = %d, accepted = %d, want the two whole batches", counted, sum.Accepted)
	}
}

// TestRerunAfterFailure: a sending that broke off and was repeated counts every event once.
func TestRerunAfterFailure(t *testing.T) {
	t.Parallel()
	d := newDaemon(t, func(n int, w http.ResponseWriter) bool {
		if n == 3 {
			w.WriteHeader(http.StatusBadRequest)
			return false
		}
		w.WriteHeader(http.StatusNoContent)
		return true
	})
	o := d.options()
	o.Batch = 10
	if _, err := sender.Send(t.Context(), o, tableSource(t, 95)); err == nil {
		t.Fatal("the first sending succeeded")
	}
	o.Batch = 7 // however batches are cut
	if _, err := sender.Send(t.Context(), o, tableSource(t, 95)); err != nil {
		t.Fatal(err)
	}
	if _, counted := d.counts(); counted != 95 {
		t.Errorf("counted = %d, want 95", counted)
	}
}

func TestHooks(t *testing.T) {
	t.Parallel()
	d := newDaemon(t, nil)
	o := d.options()
	o.Batch, o.Concurrency = 10, 1
	var log []string
	o.OnBatch = func(_ context.Context, b sender.BatchInfo) error {
		log = append(log, fmt.Sprintf("before %d: %d events, %d to %d", b.Index, b.Events, b.First.Unix(), b.Last.Unix()))
		return nil
	}
	o.OnAccepted = func(b sender.BatchInfo, sofar sender.Summary) {
		log = append(log, fmt.Sprintf("after %d: %d accepted", b.Index, sofar.Accepted))
	}
	if _, err := sender.Send(t.Context(), o, tableSource(t, 15)); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"before 0: 10 events, 1700000000 to 1700000009", "after 0: 10 accepted",
		"before 1: 5 events, 1700000010 to 1700000014", "after 1: 15 accepted",
	}
	if diff := cmp.Diff(want, log); diff != "" {
		t.Errorf("hooks (-want +got):\n%s", diff)
	}

	stop := errors.New("enough")
	o.OnBatch = func(context.Context, sender.BatchInfo) error { return stop }
	if sum, err := sender.Send(t.Context(), o, tableSource(t, 15)); !errors.Is(err, stop) || sum.Sent != 0 {
		t.Errorf("error = %v, summary = %+v, want the hook's", err, sum)
	}
}

func TestRate(t *testing.T) {
	t.Parallel()
	clock := &recorder{now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	o := newDaemon(t, nil).options()
	o.Now, o.Sleep, o.Batch, o.Rate = clock.Now, clock.Sleep, 10, 4
	sum, err := sender.Send(t.Context(), o, tableSource(t, 25))
	if err != nil {
		t.Fatal(err)
	}
	if want := 6250 * time.Millisecond; sum.Elapsed != want || sum.PerSecond() != 4 {
		t.Errorf("elapsed = %s, %d/s, want %s, 4/s", sum.Elapsed, sum.PerSecond(), want)
	}
}

// TestCancelled: the end of the context ends everything at once, waiting and requests.
func TestCancelled(t *testing.T) {
	t.Parallel()
	for name, retryAfter := range map[string]string{"in a request": "", "between attempts": "600"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancel(t.Context())
			d := newDaemon(t, func(_ int, w http.ResponseWriter) bool {
				if retryAfter == "" {
					cancel()
					<-ctx.Done()
					return false
				}
				w.Header().Set("Retry-After", retryAfter)
				w.WriteHeader(http.StatusTooManyRequests)
				time.AfterFunc(10*time.Millisecond, cancel)
				return false
			})
			o := d.options()
			o.RetryFor = time.Hour
			if _, err := sender.Send(ctx, o, tableSource(t, 5)); !errors.Is(err, context.Canceled) {
				t.Errorf("error = %v, want context.Canceled", err)
			}
		})
	}
}

func TestTimeoutIsRepeated(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	d := newDaemon(t, func(n int, w http.ResponseWriter) bool {
		if n == 1 {
			<-release
			return true
		}
		w.WriteHeader(http.StatusNoContent)
		return true
	})
	t.Cleanup(func() { close(release) })
	var log strings.Builder
	o := d.options()
	o.Timeout, o.Logger = 50*time.Millisecond, slog.New(slog.NewTextHandler(&log, nil))
	if _, err := sender.Send(t.Context(), o, tableSource(t, 5)); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "no answer within 50ms") {
		t.Errorf("log = %s", log.String())
	}
}

func TestOptionFaults(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		change func(*sender.Options)
		want   string
	}{
		"url":         {func(o *sender.Options) { o.URL = "127.0.0.1:8080" }, "url: "},
		"no url":      {func(o *sender.Options) { o.URL = "" }, "url: must be like"},
		"user":        {func(o *sender.Options) { o.URL = "http://u:hidden@a" }, "url: must not hold"},
		"query":       {func(o *sender.Options) { o.URL = "http://a?key=hidden" }, "url: must not hold"},
		"batch":       {func(o *sender.Options) { o.Batch = -1 }, "batch: must not"},
		"limit":       {func(o *sender.Options) { o.Limit = -1 }, "limit: must not"},
		"rate":        {func(o *sender.Options) { o.Rate = -1 }, "rate: must not"},
		"timeout":     {func(o *sender.Options) { o.Timeout = -1 }, "timeout: must not"},
		"retry":       {func(o *sender.Options) { o.RetryFor = -1 }, "retry: must not"},
		"concurrency": {func(o *sender.Options) { o.Concurrency = 65 }, "concurrency: must be 1 to 64"},
		"clock":       {func(o *sender.Options) { o.Now = nil }, "now: a clock"},
		"key":         {func(o *sender.Options) { o.Key = "hidden\n" }, "key: must be printable"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := sender.Options{URL: "http://127.0.0.1:1", Now: time.Now}
			tt.change(&o)
			_, err := sender.Send(t.Context(), o, nil)
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "hidden") {
				t.Errorf("error = %v, want %q", err, tt.want)
			}
		})
	}
}

func TestKey(t *testing.T) {
	t.Parallel()
	const key = "fake-key-for-tests"
	var fails atomic.Bool
	fails.Store(true)
	d := newDaemon(t, func(_ int, w http.ResponseWriter) bool {
		if fails.Swap(false) {
			w.WriteHeader(http.StatusServiceUnavailable)
			return false
		}
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, `{"title":"bad key"}`)
		return false
	})
	var out strings.Builder
	o := d.options()
	o.Key, o.Logger = key, slog.New(slog.NewTextHandler(&out, nil))
	sum, err := sender.Send(t.Context(), o, tableSource(t, 1))
	fmt.Fprintf(&out, "%v %+v %#v %d %x %s %v", err, sum, o, o.Key, o.Key, &o.Key, []sender.Secret{key})
	o.Logger.Info("options", "key", o.Key, "options", o)
	if strings.Contains(out.String(), key) || strings.Contains(out.String(), fmt.Sprintf("%x", key)) {
		t.Errorf("the key is shown:\n%s", out.String())
	}
	if got := d.request(0).header.Get("Authorization"); got != "Bearer "+key {
		t.Errorf("Authorization = %q", got)
	}
	for base, want := range map[string]bool{
		"http://127.0.0.1:80": false, "http://localhost": false, "http://[::1]:1": false, "https://a.example": false,
		"http://a.example": true, "http://10.0.0.1": true, "::": false,
	} {
		if got := sender.PlainRemote(base); got != want {
			t.Errorf("PlainRemote(%q) = %t", base, got)
		}
	}
}
