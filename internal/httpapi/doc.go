// Package httpapi is meterd's HTTP interface: it takes usage events, answers queries about usage and bill records, and lets an
// operator close windows and replay refused events. The routes are described by docs/openapi.yaml, which is served too.
//
// Every handler returns an error; one wrapper turns it into an application/problem+json answer (RFC 9457), logs the request,
// recovers panics, checks the API key and bounds body and time. An answer that acknowledges events is sent only after
// [Ingester.Accept] made them durable.
package httpapi
