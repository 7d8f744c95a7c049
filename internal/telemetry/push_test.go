package telemetry_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	coltrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/meterd/meterd/internal/telemetry"
	"github.com/meterd/meterd/reporter"
)

// deaf is a marketplace that never answers.
type deaf struct{ reporter.Marketplace }

func (deaf) Name() string { return "koogallery" }

func (deaf) Push(context.Context, []reporter.UsageRecord) reporter.Result {
	return reporter.Result{Class: reporter.ClassUnknown, Code: "MKT.0999", Endpoint: "market.example"}
}

func TestTraceMarketplace(t *testing.T) {
	t.Parallel()
	spans := make(chan map[string]string, 1)
	collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/x-protobuf")
		if !strings.HasSuffix(r.URL.Path, "/v1/traces") {
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		req := new(coltrace.ExportTraceServiceRequest)
		if err := proto.Unmarshal(body, req); err != nil {
			t.Error(err)
		}
		span := req.ResourceSpans[0].ScopeSpans[0].Spans[0]
		got := map[string]string{"name": span.Name, "status": span.Status.GetMessage()}
		for _, a := range span.Attributes {
			got[a.Key] = strings.TrimSpace(a.Value.GetStringValue())
			if got[a.Key] == "" {
				got[a.Key] = string(rune('0' + a.Value.GetIntValue()))
			}
		}
		spans <- got
	}))
	defer collector.Close()
	tel, err := telemetry.New(t.Context(), telemetry.Options{OTLPEndpoint: collector.URL, TraceRatio: 1})
	if err != nil {
		t.Fatal(err)
	}
	result := tel.TraceMarketplace(deaf{}).Push(t.Context(), make([]reporter.UsageRecord, 3))
	if result.Class != reporter.ClassUnknown {
		t.Errorf("class = %v, want the marketplace's", result.Class)
	}
	if err := tel.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"name": "push usage records", "status": "unknown", "meterd.marketplace": "koogallery", "meterd.records": "3",
		"meterd.class": "unknown", "meterd.code": "MKT.0999", "server.address": "market.example", "http.response.status_code": "0",
	}
	if diff := cmp.Diff(want, <-spans); diff != "" {
		t.Errorf("span (-want +got):\n%s", diff)
	}
}
