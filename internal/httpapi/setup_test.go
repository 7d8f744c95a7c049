package httpapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meterd/meterd/internal/httpapi"
	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/meter/spool"
	"github.com/meterd/meterd/reporter"
)

var update = flag.Bool("update", false, "rewrite golden files")

// The keys of the tests, obviously no real ones.
const (
	ingestKey   = "fake-ingest-key-0001"
	queryKey    = "fake-query-key-00001"
	adminKey    = "fake-admin-key-00001"
	backfillKey = "fake-backfill-key-01"
	voidKey     = "fake-void-key-000001"
	operateKey  = "fake-operate-key-001"
)

var testNow = time.Date(2026, 11, 23, 10, 30, 0, 0, time.UTC)

// bundle is the API over a real spool, on a real listener.
type bundle struct {
	server   *httptest.Server
	api      *httpapi.API
	spool    *spool.Spool
	ingester *meter.Ingester
	letters  *meter.DeadLetters
	books    *books
	doors    *doors
	log      *bytes.Buffer
	later    atomic.Int64 // by how much the clock is ahead of testNow, in nanoseconds

	mu       sync.Mutex
	observed []httpapi.Observation
}

// setup starts the API. change, if not nil, adapts its options.
func setup(tb testing.TB, change func(*httpapi.Options)) *bundle {
	tb.Helper()
	return setupSpool(tb, spool.Options{}, change)
}

func setupSpool(tb testing.TB, so spool.Options, change func(*httpapi.Options)) *bundle {
	tb.Helper()
	b := &bundle{books: &books{}, doors: &doors{}, log: &bytes.Buffer{}}
	so.Dir, so.Now = filepath.Join(tb.TempDir(), "spool"), time.Now
	var err error
	if b.spool, err = spool.Open(so); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = b.spool.Close() })
	logger := slog.New(slog.NewTextHandler(&lockedWriter{w: b.log}, nil))
	if b.letters, err = meter.OpenDeadLetters(filepath.Join(tb.TempDir(), "dead-letters.ndjson"), meter.DeadLetterOptions{MaxBytes: 1 << 20, Logger: logger}); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = b.letters.Close() })
	catalog, err := meter.NewCatalog([]meter.Meter{
		{
			Slug: "tokens_total", Description: "AI tokens", EventType: "prompt", Aggregation: meter.Sum, Value: meter.MustParsePath("$.tokens"),
			GroupBy: []meter.Dimension{{Name: "model", Path: meter.MustParsePath("$.model")}, {Name: "kind", Path: meter.MustParsePath("$.kind")}},
			Unit:    "token", Scale: meter.NewQuantity(1000, 0), Billed: true, Instance: "{subject}",
		},
		{Slug: "calls", EventType: "call", Aggregation: meter.Count, Scale: meter.NewQuantity(1, 0)},
		{Slug: "requests", EventType: "requests", Aggregation: meter.Sum, Value: meter.MustParsePath("$.value"), Scale: meter.NewQuantity(1, 0)},
	})
	if err != nil {
		tb.Fatal(err)
	}
	now := func() time.Time { return testNow.Add(time.Duration(b.later.Load())) }
	if b.ingester, err = meter.NewIngester(meter.IngestOptions{
		Catalog: catalog, Spool: b.spool, DeadLetters: b.letters, MaxFuture: 10 * time.Minute, MaxAge: 480 * time.Hour, Now: now, Logger: logger,
	}); err != nil {
		tb.Fatal(err)
	}
	o := httpapi.Options{
		Keys: []httpapi.Key{
			{Name: "backend", Value: ingestKey, Scopes: []httpapi.Scope{httpapi.ScopeIngest}},
			{Name: "finance", Value: queryKey, Scopes: []httpapi.Scope{httpapi.ScopeQuery}},
			{Name: "operator", Value: adminKey, Scopes: []httpapi.Scope{httpapi.ScopeAdmin}},
			{Name: "loader", Value: backfillKey, Scopes: []httpapi.Scope{httpapi.ScopeBackfill}},
			{Name: "voider", Value: voidKey, Scopes: []httpapi.Scope{httpapi.ScopeVoid}},
			{Name: "billing", Value: operateKey, Scopes: []httpapi.Scope{httpapi.ScopeOperate}},
		},
		Ingester: b.ingester, Catalog: catalog, Usage: b.books, Records: b.books, DeadLetters: b.letters, Close: b.books.close,
		Status: func(context.Context) any { return map[string]int{"spool_records": 0} },
		Doors:  b.doors.open(b.ingester),
		Now:    now, Logger: logger,
		Observe: func(o httpapi.Observation) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.observed = append(b.observed, o)
		},
	}
	if change != nil {
		change(&o)
	}
	if b.api, err = httpapi.New(o); err != nil {
		tb.Fatal(err)
	}
	b.server = httptest.NewUnstartedServer(b.api)
	b.server.Config.Protocols = new(http.Protocols)
	b.server.Config.Protocols.SetHTTP1(true)
	b.server.Config.Protocols.SetUnencryptedHTTP2(true)
	b.server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	b.server.Start()
	tb.Cleanup(b.server.Close)
	return b
}

type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// answer is a response that was read whole.
type answer struct {
	status int
	header http.Header
	body   string
}

// do sends a request with a key; headers are given as "Name: value".
func (b *bundle) do(tb testing.TB, method, path, key, body string, headers ...string) answer {
	tb.Helper()
	r, err := http.NewRequestWithContext(tb.Context(), method, b.server.URL+path, strings.NewReader(body))
	if err != nil {
		tb.Fatal(err)
	}
	if key != "" {
		r.Header.Set("Authorization", "Bearer "+key)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Add(name, value)
	}
	return b.send(tb, r)
}

func (b *bundle) send(tb testing.TB, r *http.Request) answer {
	tb.Helper()
	res, err := b.server.Client().Do(r)
	if err != nil {
		tb.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		tb.Fatal(err)
	}
	return answer{res.StatusCode, res.Header, string(text)}
}

// post sends events.
func (b *bundle) post(tb testing.TB, body string, headers ...string) answer {
	tb.Helper()
	if len(headers) == 0 {
		headers = []string{"Content-Type: application/cloudevents+json"}
	}
	return b.do(tb, http.MethodPost, "/api/v1/events", ingestKey, body, headers...)
}

// request makes a request with one body of JSON for sending it by hand.
func (b *bundle) request(tb testing.TB, body string) *http.Request {
	tb.Helper()
	r, err := http.NewRequestWithContext(tb.Context(), http.MethodPost, b.server.URL+"/api/v1/events", strings.NewReader(body))
	if err != nil {
		tb.Fatal(err)
	}
	r.Header.Set("X-Api-Key", ingestKey)
	r.Header.Set("Content-Type", "application/json")
	return r
}

// raw writes bytes to a new connection and returns all that comes back until the server closes it.
func (b *bundle) raw(tb testing.TB, text string) string {
	tb.Helper()
	conn, err := (&net.Dialer{}).DialContext(tb.Context(), "tcp", b.server.Listener.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, text); err != nil {
		tb.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		tb.Fatalf("read answer: %v after %q", err, answer)
	}
	return string(answer)
}

// recorded calls the handler without a connection.
func (b *bundle) recorded(tb testing.TB, body []byte, headers map[string]string) answer {
	tb.Helper()
	r := httptest.NewRequestWithContext(tb.Context(), http.MethodPost, "/api/v1/events", bytes.NewReader(body))
	for name, value := range headers {
		if value != "" {
			r.Header.Set(name, value)
		}
	}
	w := httptest.NewRecorder()
	b.api.ServeHTTP(w, r)
	return answer{w.Code, w.Header(), w.Body.String()}
}

// stored decodes everything the spool holds: what the API made durable.
func (b *bundle) stored(tb testing.TB) []string {
	tb.Helper()
	reader := b.spool.NewReader(spool.Position{})
	defer func() { _ = reader.Close() }()
	var events []string
	for len(events) < int(b.ingester.Stats().Accepted) {
		record, err := reader.Next(tb.Context())
		if err != nil {
			tb.Fatal(err)
		}
		var p meter.Payload
		if err := meter.DecodePayload(record.Payload, &p); err != nil {
			tb.Fatal(err)
		}
		for i := range p.Events {
			ev := &p.Events[i]
			events = append(events, fmt.Sprintf("%s %s %s %s %s", ev.ID, ev.Source, ev.Type, ev.Subject, ev.Data))
		}
	}
	return events
}

// wantProblem checks that an answer is a problem of a code.
func wantProblem(tb testing.TB, a answer, status int, code string) map[string]any {
	tb.Helper()
	var p map[string]any
	if a.status != status || a.header.Get("Content-Type") != "application/problem+json" {
		tb.Fatalf("answer = %d %s %s, want %d application/problem+json %s", a.status, a.header.Get("Content-Type"), a.body, status, code)
	}
	if err := json.Unmarshal([]byte(a.body), &p); err != nil {
		tb.Fatalf("problem %q: %v", a.body, err)
	}
	if p["type"] != "urn:meterd:problem:"+code || p["status"] != float64(status) || p["title"] == "" || p["request_id"] != a.header.Get("X-Request-Id") {
		tb.Fatalf("problem = %v, want type urn:meterd:problem:%s, status %d and the request's id", p, code, status)
	}
	return p
}

// golden compares text with a file; request ids are replaced.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s (-want +got):\n%s", path, d)
	}
}

func event(id string) string {
	return fmt.Sprintf(`{"specversion":"1.0","id":%q,"source":"/t","type":"prompt","subject":"tenant-1","time":"2026-11-23T10:00:00Z","data":{"tokens":5,"model":"m"}}`, id)
}

// books answers questions with what the test put in and keeps what was asked. The real store has its own conformance
// suite; here the wire form is tested.
type books struct {
	mu          sync.Mutex
	query       meter.Query
	rows        []meter.QueryRow
	filter      reporter.RecordFilter
	records     []reporter.BillRecord
	transitions []reporter.Transition
	bookings    []reporter.Booking
	adjusted    []reporter.Adjustment
	adjustments reporter.AdjustmentFilter
	from, to    time.Time
	until       time.Time
	summary     reporter.Summary
	err         error
	errAfter    int // rows before err
}

func (b *books) QueryMeter(_ context.Context, q meter.Query, yield func(meter.QueryRow) error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.query = q
	for i, row := range b.rows {
		if b.err != nil && i == b.errAfter {
			return b.err
		}
		if err := yield(row); err != nil {
			return err
		}
	}
	return b.err
}

func (b *books) Records(_ context.Context, f reporter.RecordFilter) ([]reporter.BillRecord, error) {
	b.filter = f
	var found []reporter.BillRecord
	for _, r := range b.records {
		if f.SN == "" || f.SN == r.SN {
			found = append(found, r)
		}
	}
	return found[:min(len(found), f.Limit)], b.err
}

func (b *books) Transitions(context.Context, reporter.MeteringSN) ([]reporter.Transition, error) {
	return b.transitions, b.err
}

func (b *books) Bookings(_ context.Context, from, to time.Time) ([]reporter.Booking, error) {
	b.from, b.to = from, to
	return b.bookings, b.err
}

func (b *books) Adjustments(_ context.Context, f reporter.AdjustmentFilter) ([]reporter.Adjustment, error) {
	b.adjustments = f
	return b.adjusted[:min(len(b.adjusted), f.Limit)], b.err
}

func (b *books) Usage(context.Context, time.Time, time.Time, int) ([]reporter.HourlyUsage, error) {
	return nil, b.err
}

func (b *books) close(_ context.Context, until time.Time) (reporter.Summary, error) {
	b.until = until
	if until.After(testNow) {
		return reporter.Summary{}, fmt.Errorf("close until %s: %w", until.Format(time.RFC3339), reporter.ErrFuture)
	}
	return b.summary, b.err
}
