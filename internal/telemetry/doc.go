// Package telemetry makes meterd visible: structured logs, OpenTelemetry metrics and traces (Prometheus endpoint and OTLP),
// and health checks that ask for progress and not only for a living process.
//
// Metric names are listed in docs/metrics.md; a test compares that page with what the endpoint serves.
package telemetry
