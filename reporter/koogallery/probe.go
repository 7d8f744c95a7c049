package koogallery

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"time"
)

// maxProbeAnswer bounds what is read of the answer to a probe.
const maxProbeAnswer = 64 << 10

// ProbeResult is what a probe found out.
type ProbeResult struct {
	Endpoint string // that could be connected: host and port as configured
	Note     string // why the first address could not be connected, where the fallback could; "" otherwise
	Status   int    // of the answer; any will do
	Latency  time.Duration
	// CertificateExpires is when the first certificate of the server's chain does; zero for http.
	CertificateExpires time.Time
	// Offset is how far our clock is ahead of the marketplace's (negative: behind); only if OffsetKnown.
	Offset      time.Duration
	OffsetKnown bool
}

// ProbeStep is how far a probe came.
type ProbeStep string

// The steps of a probe.
const (
	ProbeDNS     ProbeStep = "dns"     // the name
	ProbeConnect ProbeStep = "connect" // TCP
	ProbeTLS     ProbeStep = "tls"     // the handshake and the certificate
	ProbeAnswer  ProbeStep = "answer"  // HTTP
)

// ProbeError says at which step a probe failed.
type ProbeError struct {
	Step     ProbeStep
	Endpoint string
	Err      error
}

// Error names the step, the endpoint and the reason.
func (e *ProbeError) Error() string { return fmt.Sprintf("%s: %s: %v", e.Endpoint, e.Step, e.Err) }

// Unwrap returns the reason.
func (e *ProbeError) Unwrap() error { return e.Err }

// newProbeTransport returns a transport that connects afresh for every request: an open connection would prove nothing.
func newProbeTransport(s settings) http.RoundTripper {
	if s.Transport != nil {
		return s.Transport
	}
	t := newTransport(s)
	t.DisableKeepAlives = true
	if !s.AllowHTTP {
		return t
	}
	plain := newLoopbackTransport(s)
	plain.DisableKeepAlives = true
	return schemeTransport{https: t, http: plain}
}

// schemeTransport keeps plain http to loopback addresses apart from the rest.
type schemeTransport struct{ https, http http.RoundTripper }

// RoundTrip implements [http.RoundTripper].
func (t schemeTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme == "http" {
		return t.http.RoundTrip(req)
	}
	return t.https.RoundTrip(req)
}

// Probe finds out whether the marketplace can be reached: it asks for the headers of the address's root, without a key and without
// any usage, at the fallback address too if the first can't be connected. Any answer is a success. The error is a [*ProbeError].
func (c *Client) Probe(ctx context.Context) (ProbeResult, error) {
	var notes []string
	var last error
	for _, ep := range c.endpoints {
		res, err := c.probe(ctx, ep)
		if err == nil {
			res.Note = strings.Join(notes, "; ")
			return res, nil
		}
		last = err
		probeErr, _ := errors.AsType[*ProbeError](err)
		if ctx.Err() != nil || probeErr == nil || probeErr.Step == ProbeAnswer {
			break // the fallback is for connections that can't be made
		}
		notes = append(notes, err.Error())
	}
	return ProbeResult{}, last
}

// probe tries one address.
func (c *Client) probe(ctx context.Context, ep endpoint) (ProbeResult, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	steps := &probeSteps{}
	req, err := http.NewRequestWithContext(steps.watch(ctx), http.MethodHead, ep.url, nil)
	if err != nil {
		return ProbeResult{}, &ProbeError{Step: ProbeAnswer, Endpoint: ep.host, Err: err}
	}
	req.URL.Path = "/" // never the path of the usage push
	req.Header.Set("User-Agent", "meterd")
	started := c.now()
	resp, err := c.probes.RoundTrip(req)
	if err != nil {
		return ProbeResult{}, &ProbeError{Step: steps.failed(err), Endpoint: ep.host, Err: c.explain(ctx, err)}
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxProbeAnswer)) // a HEAD has no body
	_ = resp.Body.Close()
	ended := c.now()
	offset := offsetFrom(resp.Header.Get("Date"), started, ended)
	c.seen.note(offset, ended)
	return ProbeResult{
		Endpoint: ep.host, Status: resp.StatusCode, Latency: ended.Sub(started), CertificateExpires: expiry(resp.TLS),
		Offset: -offset.ahead, OffsetKnown: offset.known,
	}, nil
}

// expiry is when the first of the server's certificates runs out.
func expiry(state *tls.ConnectionState) time.Time {
	if state == nil {
		return time.Time{}
	}
	var first time.Time
	for _, cert := range state.PeerCertificates {
		if first.IsZero() || cert.NotAfter.Before(first) {
			first = cert.NotAfter
		}
	}
	return first
}

// probeSteps follows one attempt.
type probeSteps struct{ connected bool }

// watch returns a context that reports to s. The hooks run before RoundTrip returns, except for dials that are given up.
func (s *probeSteps) watch(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { s.connected = true },
	})
}

// failed says which step the error belongs to.
func (s *probeSteps) failed(err error) ProbeStep {
	if s.connected {
		return ProbeAnswer
	}
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return ProbeDNS
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return ProbeConnect
	}
	if isTLS(err) {
		return ProbeTLS
	}
	return ProbeConnect
}

// isTLS tells whether the error comes from the handshake.
func isTLS(err error) bool {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return true
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return true
	}
	if _, ok := errors.AsType[tls.AlertError](err); ok {
		return true
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return true
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return true
	}
	return strings.Contains(err.Error(), "tls: ") || strings.Contains(err.Error(), "TLS handshake")
}

// CheckKey finds out whether calls can be signed, by signing one that is never sent: the key is there and usable. Whether the
// marketplace knows it shows only when it is used.
func (c *Client) CheckKey(ctx context.Context) (found string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.endpoints[0].url, nil)
	if err != nil {
		return "", fmt.Errorf("build request: %w", err)
	}
	if err := c.auth.apply(req, []byte("{}"), c.now()); err != nil {
		return "", fmt.Errorf("sign: %w", err)
	}
	return "present", nil
}
