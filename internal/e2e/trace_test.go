package e2e_test

import (
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"

	coltrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// collector receives spans by OTLP/HTTP, as an OpenTelemetry collector does.
type collector struct {
	*httptest.Server

	mu    sync.Mutex
	spans []*tracepb.Span
}

func startCollector(t *testing.T) *collector {
	t.Helper()
	c := new(collector)
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := c.receive(r); err != nil {
			t.Errorf("%s: %v", r.URL.Path, err)
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
	}))
	t.Cleanup(c.Close)
	return c
}

func (c *collector) receive(r *http.Request) error {
	if r.URL.Path != "/v1/traces" {
		return nil // metrics
	}
	var body io.Reader = r.Body
	if r.Header.Get("Content-Encoding") == "gzip" {
		unzipped, err := gzip.NewReader(r.Body)
		if err != nil {
			return err
		}
		body = unzipped
	}
	data, err := io.ReadAll(body)
	if err != nil {
		return err
	}
	var request coltrace.ExportTraceServiceRequest
	if err := proto.Unmarshal(data, &request); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, resource := range request.GetResourceSpans() {
		for _, scope := range resource.GetScopeSpans() {
			c.spans = append(c.spans, scope.GetSpans()...)
		}
	}
	return nil
}

// find lists the received spans for which want returns true.
func (c *collector) find(want func(*tracepb.Span) bool) (found []*tracepb.Span) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, span := range c.spans {
		if want(span) {
			found = append(found, span)
		}
	}
	return found
}

// named finds the spans of a trace whose name contains a text.
func (c *collector) named(trace, name string) []*tracepb.Span {
	return c.find(func(s *tracepb.Span) bool {
		return hex.EncodeToString(s.GetTraceId()) == trace && strings.Contains(s.GetName(), name)
	})
}

// postTraced sends an event with a trace of the sender's own.
func postTraced(t *testing.T, d *daemon, s *sender, trace, parent, flags string) {
	t.Helper()
	events := s.batch(1)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, d.url()+"/api/v1/events", bytes.NewReader(events[0].appendJSON(nil)))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/cloudevents+json")
	request.Header.Set("Traceparent", "00-"+trace+"-"+parent+"-"+flags)
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusNoContent {
		t.Fatal(response.Status)
	}
	s.acknowledge(events)
}

// TestTrace follows an event's trace from the sender's request into ClickHouse.
func TestTrace(t *testing.T) {
	t.Parallel()
	const (
		trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
		unsampled     = "1af7651916cd43dd8448eb211c80319c"
	)
	c := startCollector(t)
	d := startDaemon(t, "", "METERD_TELEMETRY_OTLP_ENDPOINT="+c.URL)
	s := newSender(t, seeded(t), runningHour())
	d.awaitStored(t)
	postTraced(t, d, s, trace, parent, "01")
	d.awaitStored(t)
	postTraced(t, d, s, unsampled, parent, "00")
	d.stop(t, syscall.SIGTERM) // sends what spans are left

	requests := c.named(trace, "/api/v1/events")
	if len(requests) != 1 || hex.EncodeToString(requests[0].GetParentSpanId()) != parent {
		t.Fatalf("spans of the request: %v, want one below %s", requests, parent)
	}
	inserts := c.named(trace, "insert")
	if len(inserts) != 1 || !bytes.Equal(inserts[0].GetParentSpanId(), requests[0].GetSpanId()) {
		t.Errorf("spans of the insert: %v, want one below the request's span %x", inserts, requests[0].GetSpanId())
	}
	if spans := c.named(unsampled, ""); len(spans) != 0 {
		t.Errorf("spans of a trace that nobody wants: %v", spans)
	}
	d.start(t)
	d.checkUsage(t, &s.ledger)
}

// TestTraceOverRestart restarts the daemon between request and insert: the spool remembers the traces.
func TestTraceOverRestart(t *testing.T) {
	t.Parallel()
	traces := []string{"2af7651916cd43dd8448eb211c80319c", "3af7651916cd43dd8448eb211c80319c"}
	c := startCollector(t)
	d := newDaemon(t, "", "METERD_TELEMETRY_OTLP_ENDPOINT="+c.URL)
	d.start(t, storeDown...)
	s := newSender(t, seeded(t), runningHour())
	for _, trace := range traces {
		postTraced(t, d, s, trace, "b7ad6b7169203331", "01")
	}
	d.stop(t, syscall.SIGTERM)
	d.start(t)
	d.checkUsage(t, &s.ledger)
	d.stop(t, syscall.SIGTERM)
	// One insert wrote both: it is linked to the request of each.
	linked := map[string]bool{}
	for _, insert := range c.find(func(s *tracepb.Span) bool { return strings.Contains(s.GetName(), "insert") }) {
		for _, link := range insert.GetLinks() {
			linked[hex.EncodeToString(link.GetTraceId())] = true
		}
	}
	for _, trace := range traces {
		if requests := c.named(trace, "/api/v1/events"); len(requests) != 1 {
			t.Errorf("spans of the request in trace %s: %v, want one", trace, requests)
		}
		if !linked[trace] && len(c.named(trace, "insert")) == 0 {
			t.Errorf("no insert is part of or linked to trace %s; links: %v", trace, linked)
		}
	}
}

// TestTraceOfPushes wants a span of each call to the marketplace.
func TestTraceOfPushes(t *testing.T) {
	t.Parallel()
	c := startCollector(t)
	d, m, s := billable(t, 1, "METERD_TELEMETRY_OTLP_ENDPOINT="+c.URL, "METERD_TELEMETRY_TRACE_RATIO=1")
	d.checkBooks(t, m, &s.ledger)
	d.stop(t, syscall.SIGTERM)
	pushes := c.find(func(s *tracepb.Span) bool { return strings.HasPrefix(s.GetName(), "push") })
	if len(pushes) != m.calls(t) {
		t.Errorf("%d spans of %d calls to the marketplace", len(pushes), m.calls(t))
	}
}
