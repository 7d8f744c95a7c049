package sender

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"time"
)

// Defaults of [Options].
const (
	DefaultBatch       = 1000
	DefaultBatchBytes  = 4 << 20
	DefaultConcurrency = 2
	DefaultTimeout     = 60 * time.Second
	DefaultRetryFor    = 5 * time.Minute
	DefaultRetryMin    = 250 * time.Millisecond
	DefaultRetryMax    = 15 * time.Second

	maxConcurrency = 64
)

// Options say where and how to send. URL and Now are mandatory.
type Options struct {
	// URL is the daemon's address, such as http://127.0.0.1:8080.
	URL string
	// Key is the API key; empty for a daemon without keys.
	Key Secret
	// Client makes the requests; nil means one of its own, which verifies certificates and follows no redirects.
	Client *http.Client

	// Batch is the number of events in a request, BatchBytes bounds its size before compression; an event larger than that
	// goes alone. Concurrency is the number of requests at a time. Zeros mean the defaults.
	Batch, BatchBytes, Concurrency int
	// Gzip compresses requests.
	Gzip bool
	// Limit ends the sending after that many events; 0 means none.
	Limit int64
	// Rate is the largest number of events a second; 0 means no bound.
	Rate int64

	// Timeout bounds one request. RetryFor bounds the time from a batch's first attempt to its last one; RetryMin is the
	// first wait between attempts, doubling up to RetryMax, unless the daemon asks for another by Retry-After. Zeros mean
	// the defaults.
	Timeout, RetryFor, RetryMin, RetryMax time.Duration

	// Now is the clock; mandatory. It serves rate, elapsed time and RetryFor.
	Now func() time.Time
	// Sleep waits for d or until ctx ends; nil means a timer.
	Sleep func(ctx context.Context, d time.Duration) error
	// Logger gets retries; nil means nothing is logged.
	Logger *slog.Logger

	// OnBatch, if not nil, is called before the first attempt of a batch, one batch at a time. It may wait; an error ends
	// the sending. With Concurrency 1, batches come in the input's order, and when OnBatch is called everything before the
	// batch was accepted.
	OnBatch func(ctx context.Context, b BatchInfo) error
	// OnAccepted, if not nil, is called after a batch was accepted, one batch at a time, with the sums so far.
	OnAccepted func(b BatchInfo, sofar Summary)
}

// BatchInfo describes a batch.
type BatchInfo struct {
	Index  int64 // from 0, in the input's order
	Events int
	// First and Last are the earliest and latest time of its events; zero if none has a time.
	First, Last time.Time
}

// Summary is what was done. Quantities of events, not of usage.
type Summary struct {
	Sent     int64         // events in batches that were attempted
	Accepted int64         // of these, events that the daemon acknowledged
	Batches  int64         // accepted batches
	Requests int64         // attempts, the repeated ones included
	Retries  int64         // repeated attempts
	Bytes    int64         // sizes of the accepted requests' bodies as transmitted
	First    time.Time     // earliest time of an accepted event
	Last     time.Time     // latest
	Elapsed  time.Duration // from the call of Send to its end, or to now
}

// PerSecond is the number of accepted events in a second of Elapsed.
func (s Summary) PerSecond() int64 {
	if s.Elapsed <= 0 {
		return 0
	}
	return int64(float64(s.Accepted) / s.Elapsed.Seconds())
}

// add counts an accepted batch.
func (s *Summary) add(b BatchInfo, size int) {
	s.Accepted += int64(b.Events)
	s.Batches++
	s.Bytes += int64(size)
	if b.First.IsZero() {
		return
	}
	if s.First.IsZero() || b.First.Before(s.First) {
		s.First = b.First
	}
	if b.Last.After(s.Last) {
		s.Last = b.Last
	}
}

// Validate reports every fault of the options.
func (o Options) Validate() error {
	_, _, err := o.complete()
	return err
}

// complete fills in the defaults and returns the address to post to, or every fault of the options.
func (o Options) complete() (Options, string, error) {
	var errs []error
	target, err := eventsURL(o.URL)
	errs = append(errs, err)
	for _, n := range []struct {
		name  string
		value int64
	}{
		{"batch", int64(o.Batch)},
		{"batch bytes", int64(o.BatchBytes)},
		{"limit", o.Limit},
		{"rate", o.Rate},
		{"timeout", int64(o.Timeout)},
		{"retry", int64(min(o.RetryFor, o.RetryMin, o.RetryMax))},
	} {
		if n.value < 0 {
			errs = append(errs, fmt.Errorf("%s: must not be negative", n.name))
		}
	}
	if o.Concurrency < 0 || o.Concurrency > maxConcurrency {
		errs = append(errs, fmt.Errorf("concurrency: must be 1 to %d (got %d)", maxConcurrency, o.Concurrency))
	}
	if o.Now == nil {
		errs = append(errs, errors.New("now: a clock is mandatory"))
	}
	if err := o.Key.check(); err != nil {
		errs = append(errs, err)
	}
	orDefault(&o.Batch, DefaultBatch)
	orDefault(&o.BatchBytes, DefaultBatchBytes)
	orDefault(&o.Concurrency, DefaultConcurrency)
	orDefault(&o.Timeout, DefaultTimeout)
	orDefault(&o.RetryFor, DefaultRetryFor)
	orDefault(&o.RetryMin, DefaultRetryMin)
	orDefault(&o.RetryMax, DefaultRetryMax)
	if o.Sleep == nil {
		o.Sleep = sleep
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Client == nil {
		o.Client = NewHTTPClient(nil)
	}
	return o, target, errors.Join(errs...)
}

func orDefault[T comparable](value *T, def T) {
	var zero T
	if *value == zero {
		*value = def
	}
}

// eventsURL checks the daemon's address and appends the path of the ingest API.
func eventsURL(base string) (string, error) {
	u, err := url.Parse(base)
	switch {
	case err != nil:
		return "", errors.New("url: not a URL")
	case (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "":
		return "", errors.New("url: must be like http://127.0.0.1:8080")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return "", errors.New("url: must not hold a user, a query or a fragment")
	}
	return u.JoinPath("api/v1/events").String(), nil
}

// PlainRemote tells whether a key sent to the address could be read on the way: plain http to another machine.
func PlainRemote(base string) bool {
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "http" {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback())
}

// NewHTTPClient returns a client for [Options]. The TLS configuration may be nil. Redirects are not followed: the key
// would go along.
func NewHTTPClient(config *tls.Config) *http.Client {
	if config == nil {
		config = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	return &http.Client{
		Transport: &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
			TLSClientConfig:       config,
			TLSHandshakeTimeout:   10 * time.Second,
			ForceAttemptHTTP2:     true,
			MaxIdleConnsPerHost:   maxConcurrency,
			IdleConnTimeout:       30 * time.Second,
			ExpectContinueTimeout: time.Second,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// sleep waits for d or until ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
