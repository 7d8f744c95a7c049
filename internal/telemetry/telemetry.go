package telemetry

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// scope names meterd's instruments and spans.
const scope = "github.com/meterd/meterd"

// Options configure [New].
type Options struct {
	Version string
	// OTLPEndpoint is the base URL of a collector's OTLP/HTTP receiver; empty sends nothing.
	OTLPEndpoint string
	// TraceRatio is the share of requests without an incoming trace that start one, from 0 to 1.
	TraceRatio float64
}

// Telemetry owns the providers. Its zero value is not usable; see [New].
type Telemetry struct {
	Health Health

	registry *prometheus.Registry
	meters   *sdkmetric.MeterProvider
	traces   *sdktrace.TracerProvider // nil when nothing is exported
	ratio    float64
}

// New builds the providers. Traces are recorded only when there is somewhere to send them.
func New(ctx context.Context, o Options) (*Telemetry, error) {
	res, err := resource.Merge(resource.Default(), resource.NewSchemaless(
		semconv.ServiceName("meterd"), semconv.ServiceVersion(o.Version)))
	if err != nil {
		return nil, fmt.Errorf("describe this process for telemetry: %w", err)
	}
	t := &Telemetry{registry: prometheus.NewRegistry(), ratio: o.TraceRatio}
	t.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	reader, err := otelprom.New(otelprom.WithRegisterer(t.registry), otelprom.WithoutScopeInfo())
	if err != nil {
		return nil, fmt.Errorf("build prometheus exporter: %w", err)
	}
	readers := []sdkmetric.Option{sdkmetric.WithResource(res), sdkmetric.WithReader(reader)}
	if o.OTLPEndpoint != "" {
		exporter, err := otlpmetrichttp.New(ctx, otlpmetrichttp.WithEndpointURL(o.OTLPEndpoint+"/v1/metrics"))
		if err != nil {
			return nil, fmt.Errorf("build otlp metric exporter: %w", err)
		}
		readers = append(readers, sdkmetric.WithReader(sdkmetric.NewPeriodicReader(exporter)))
		spans, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(o.OTLPEndpoint+"/v1/traces"))
		if err != nil {
			return nil, fmt.Errorf("build otlp trace exporter: %w", err)
		}
		t.traces = sdktrace.NewTracerProvider(
			sdktrace.WithResource(res), sdktrace.WithBatcher(spans),
			sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(o.TraceRatio))))
	}
	t.meters = sdkmetric.NewMeterProvider(readers...)
	return t, nil
}

// Meter makes instruments.
func (t *Telemetry) Meter() metric.Meter { return t.meters.Meter(scope) }

// Tracer makes spans; without an exporter they cost nothing and go nowhere.
func (t *Telemetry) Tracer() trace.Tracer {
	if t.traces == nil {
		return noop.NewTracerProvider().Tracer(scope)
	}
	return t.traces.Tracer(scope)
}

// Handler serves /metrics, /healthz, /healthz/live and /healthz/ready.
func (t *Telemetry) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(t.registry, promhttp.HandlerOpts{}))
	mux.Handle("GET /healthz", t.Health.LiveHandler())
	mux.Handle("GET /healthz/live", t.Health.LiveHandler())
	mux.Handle("GET /healthz/ready", t.Health.ReadyHandler())
	return mux
}

// Shutdown sends what is buffered and closes the exporters.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	errs := []error{t.meters.Shutdown(ctx)}
	if t.traces != nil {
		errs = append(errs, t.traces.Shutdown(ctx))
	}
	return errors.Join(errs...)
}

// propagator reads and writes the W3C traceparent header.
var propagator = propagation.TraceContext{}
