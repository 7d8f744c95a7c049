package telemetry

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/meterd/meterd/reporter"
)

// TraceMarketplace makes a span of every call to m. A call carries sums over many events, so it is no part of their traces.
func (t *Telemetry) TraceMarketplace(m reporter.Marketplace) reporter.Marketplace {
	if t.traces == nil {
		return m
	}
	return tracedMarketplace{m, t.Tracer()}
}

type tracedMarketplace struct {
	reporter.Marketplace

	tracer trace.Tracer
}

// Push implements reporter.Marketplace.
func (m tracedMarketplace) Push(ctx context.Context, batch []reporter.UsageRecord) reporter.Result {
	ctx, span := m.tracer.Start(ctx, "push usage records", trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(
		attribute.String("meterd.marketplace", m.Name()), attribute.Int("meterd.records", len(batch))))
	defer span.End()
	result := m.Marketplace.Push(ctx, batch)
	span.SetAttributes(
		attribute.String("meterd.class", result.Class.String()), attribute.String("meterd.code", result.Code),
		attribute.String("server.address", result.Endpoint), attribute.Int("http.response.status_code", result.Status))
	if result.Class != reporter.ClassAccepted {
		span.SetStatus(codes.Error, result.Class.String())
	}
	return result
}
