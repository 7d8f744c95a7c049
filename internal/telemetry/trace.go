package telemetry

import (
	"context"
	"net/http"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// traceparentHeader is the W3C header, in Go's canonical form.
const traceparentHeader = "Traceparent"

// Middleware starts a server span for requests that bring a trace or are sampled, and replaces the traceparent header by
// the span's own, so that whoever stores the header stores the right parent. Without an exporter, and for requests outside
// the sample, it costs one header look-up.
func (t *Telemetry) Middleware(next http.Handler) http.Handler {
	if t.traces == nil {
		return next
	}
	tracer := t.Tracer()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if t.ratio == 0 && r.Header.Get(traceparentHeader) == "" {
			next.ServeHTTP(w, r)
			return
		}
		ctx := propagator.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
		ctx, span := tracer.Start(ctx, "request", trace.WithSpanKind(trace.SpanKindServer))
		defer span.End()
		r = r.WithContext(ctx)
		propagator.Inject(ctx, propagation.HeaderCarrier(r.Header))
		next.ServeHTTP(w, r)
		if r.Pattern != "" { // the mux has set it; the path itself is the client's choice and without bound
			span.SetName(r.Pattern)
		}
	})
}

// EventCount is the attribute that says how many events a span is about.
func EventCount(n int) attribute.KeyValue { return attribute.Int("meterd.events", n) }

// maxLinks bounds the links of one span: a batch can hold thousands of requests.
const maxLinks = 64

// StartLinked starts a span that is linked to the traces whose traceparents are given, as an insert is to the
// requests whose events it writes. Unreadable and unsampled ones are left out. The span continues the first of the
// traces: one of its own would be subject to the ratio, by default 0, and nobody would see it.
func (t *Telemetry) StartLinked(ctx context.Context, name string, traceparents []string, attrs ...attribute.KeyValue) (context.Context, func(error)) {
	if t.traces == nil {
		return ctx, func(error) {}
	}
	var links []trace.Link
	for _, tp := range traceparents {
		sc := trace.SpanContextFromContext(propagator.Extract(context.Background(), propagation.MapCarrier{"traceparent": tp}))
		if sc.IsSampled() {
			links = append(links, trace.Link{SpanContext: sc})
		}
		if len(links) == maxLinks {
			break
		}
	}
	if len(links) > 0 {
		ctx = trace.ContextWithRemoteSpanContext(ctx, links[0].SpanContext)
		links = links[1:]
	}
	ctx, span := t.Tracer().Start(ctx, name, trace.WithLinks(links...), trace.WithAttributes(attrs...))
	return ctx, func(err error) {
		if err != nil {
			span.RecordError(err)
			span.SetStatus(codes.Error, "failed")
		}
		span.End()
	}
}
