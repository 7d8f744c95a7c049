package telemetry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	coltrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/meterd/meterd/internal/telemetry"
)

const sampledParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

func TestNewLogger(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log, err := telemetry.NewLogger(&out, "warn", "json")
	if err != nil {
		t.Fatal(err)
	}
	log.Info("hidden")
	log.Warn("shown", slog.String("instance_id", "i-1"))
	var line map[string]any
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatalf("output %q is not one JSON line: %v", out.String(), err)
	}
	if line["msg"] != "shown" || line["instance_id"] != "i-1" {
		t.Errorf("line = %v", line)
	}
	for _, bad := range [][2]string{{"loud", "text"}, {"info", "xml"}} {
		if _, err := telemetry.NewLogger(&out, bad[0], bad[1]); err == nil || !strings.Contains(err.Error(), "use ") {
			t.Errorf("NewLogger(%q, %q) = %v, want an error that says what to use", bad[0], bad[1], err)
		}
	}
}

func TestHealth(t *testing.T) {
	t.Parallel()
	bad := func(context.Context) error { return errors.New("oldest unstored event is 12m old") }
	good := func(context.Context) error { return nil }
	tests := map[string]struct {
		checks     map[string]telemetry.Check
		wantStatus int
		wantBody   string
	}{
		"no checks":   {nil, 200, `{"status":"ok","checks":{}}`},
		"all good":    {map[string]telemetry.Check{"a": good, "b": good}, 200, `{"status":"ok","checks":{"a":"ok","b":"ok"}}`},
		"one failing": {map[string]telemetry.Check{"a": good, "spool": bad}, 503, `{"status":"failing","checks":{"a":"ok","spool":"oldest unstored event is 12m old"}}`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var h telemetry.Health
			for n, c := range tt.checks {
				h.AddReady(n, c)
			}
			w := httptest.NewRecorder()
			h.ReadyHandler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/healthz/ready", nil))
			if w.Code != tt.wantStatus {
				t.Errorf("status = %d, want %d", w.Code, tt.wantStatus)
			}
			if diff := cmp.Diff(tt.wantBody, strings.TrimSpace(w.Body.String())); diff != "" {
				t.Errorf("body (-want +got):\n%s", diff)
			}
		})
	}
}

func TestHealth_ACheckThatHangsIsNamed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var h telemetry.Health
		h.AddLive("good", func(context.Context) error { return nil })
		h.AddLive("stuck", func(ctx context.Context) error { <-t.Context().Done(); return nil })
		w := httptest.NewRecorder()
		h.LiveHandler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/healthz/live", nil))
		want := `{"status":"failing","checks":{"good":"ok","stuck":"no answer in time"}}`
		if got := strings.TrimSpace(w.Body.String()); w.Code != 503 || got != want {
			t.Errorf("got %d %s, want 503 %s", w.Code, got, want)
		}
	})
}

func TestTelemetry_PrometheusEndpoint(t *testing.T) {
	t.Parallel()
	tel, err := telemetry.New(t.Context(), telemetry.Options{Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	counter, err := tel.Meter().Int64Counter("meterd.test.things")
	if err != nil {
		t.Fatal(err)
	}
	counter.Add(t.Context(), 3)
	w := httptest.NewRecorder()
	tel.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if !strings.Contains(w.Body.String(), "meterd_test_things_total 3") {
		t.Errorf("metrics lack meterd_test_things_total 3:\n%s", w.Body)
	}
	if err := tel.Shutdown(t.Context()); err != nil {
		t.Errorf("Shutdown() = %v", err)
	}
}

// TestTelemetry_TraceFromRequestToInsert sends spans to a real OTLP/HTTP receiver and follows one trace: client → request span →
// (traceparent kept with the events) → insert span.
func TestTelemetry_TraceFromRequestToInsert(t *testing.T) {
	t.Parallel()
	exported := make(chan *coltrace.ExportTraceServiceRequest, 10)
	collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Errorf("read export: %v", err)
		}
		if strings.HasSuffix(r.URL.Path, "/v1/traces") {
			req := new(coltrace.ExportTraceServiceRequest)
			if err := proto.Unmarshal(body, req); err != nil {
				t.Errorf("decode export: %v", err)
			}
			exported <- req
		}
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	defer collector.Close()
	tel, err := telemetry.New(t.Context(), telemetry.Options{Version: "test", OTLPEndpoint: collector.URL})
	if err != nil {
		t.Fatal(err)
	}

	var stored string
	mux := http.NewServeMux()
	mux.HandleFunc("POST /things/{id}", func(_ http.ResponseWriter, r *http.Request) { stored = r.Header.Get("traceparent") })
	h := tel.Middleware(mux)
	req := httptest.NewRequest(http.MethodPost, "/things/of-the-client", nil)
	req.Header.Set("traceparent", sampledParent)
	h.ServeHTTP(httptest.NewRecorder(), req)
	if stored == sampledParent || !strings.HasPrefix(stored, sampledParent[:35]) {
		t.Fatalf("handler saw traceparent %q, want the same trace and a new span", stored)
	}
	_, end := tel.StartLinked(t.Context(), "insert events", []string{stored, "garbage"})
	end(errors.New("retry me"))
	const other = "00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	_, end = tel.StartLinked(t.Context(), "insert of several", []string{stored, other})
	end(nil)
	if err := tel.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}

	spans := map[string]string{} // name → trace id in hex
	var links []string
	close(exported)
	for req := range exported {
		for _, rs := range req.ResourceSpans {
			for _, ss := range rs.ScopeSpans {
				for _, s := range ss.Spans {
					spans[s.Name] = hexString(s.TraceId)
					for _, link := range s.Links {
						links = append(links, hexString(link.TraceId))
					}
				}
			}
		}
	}
	want := map[string]string{
		"POST /things/{id}": "0af7651916cd43dd8448eb211c80319c", // not the path, which a client may vary without end
		"insert events":     "0af7651916cd43dd8448eb211c80319c",
		"insert of several": "0af7651916cd43dd8448eb211c80319c", // and not one of its own, which the ratio of 0 would drop
	}
	if diff := cmp.Diff([]string{"1af7651916cd43dd8448eb211c80319c"}, links); diff != "" {
		t.Errorf("traces that are linked (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want, spans); diff != "" {
		t.Errorf("exported spans (-want +got):\n%s", diff)
	}
}

func hexString(b []byte) string {
	const digits = "0123456789abcdef"
	var s strings.Builder
	for _, c := range b {
		s.WriteByte(digits[c>>4])
		s.WriteByte(digits[c&15])
	}
	return s.String()
}
