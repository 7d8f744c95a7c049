package koogallery_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/meterd/meterd/reporter"
	"github.com/meterd/meterd/reporter/koogallery"
)

func TestProbe(t *testing.T) {
	t.Parallel()
	m := newMarketplace(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Date", time.Now().Add(-90*time.Second).UTC().Format(http.TimeFormat))
		w.WriteHeader(http.StatusNotFound)
	})
	c := newClient(t, options(m.URL+"/prefix"))
	if _, _, ok := c.ClockOffset(); ok {
		t.Error("the offset is known before any answer")
	}
	res, err := c.Probe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if res.Status != http.StatusNotFound || res.Endpoint != strings.TrimPrefix(m.URL, "http://") || !res.CertificateExpires.IsZero() {
		t.Errorf("Probe = %+v", res)
	}
	if off := res.Offset - 90*time.Second; !res.OffsetKnown || off.Abs() > 5*time.Second {
		t.Errorf("offset = %s, want 90 s ahead", res.Offset)
	}
	if got, at, ok := c.ClockOffset(); !ok || got != res.Offset || time.Since(at) > time.Minute {
		t.Errorf("ClockOffset = %s, %s, %t", got, at, ok)
	}
	got := m.call(0)
	if got.path != "/" || len(got.body) != 0 || got.header.Get("Signature") != "" || got.header.Get("Authorization") != "" {
		t.Errorf("the probe sent %+v, want nothing to speak of", got)
	}
	if _, err := c.Probe(t.Context()); err != nil || m.count.Load() != 2 {
		t.Errorf("second probe: %v after %d calls", err, m.count.Load())
	}
}

func TestProbeFailures(t *testing.T) {
	t.Parallel()
	dropping := newMarketplace(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	self := unstarted(t, answerWith(200, ""))
	self.StartTLS()
	for name, tt := range map[string]struct {
		url  string
		step koogallery.ProbeStep
	}{
		"no such name":   {"https://no-such-name.invalid", koogallery.ProbeDNS},
		"nobody listens": {"http://" + closedPort(t), koogallery.ProbeConnect},
		"self-signed":    {self.URL, koogallery.ProbeTLS},
		"not tls":        {strings.Replace(dropping.URL, "http://", "https://", 1), koogallery.ProbeTLS},
		"dropped":        {dropping.URL, koogallery.ProbeAnswer},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := newClient(t, options(tt.url)).Probe(t.Context())
			probe, ok := errors.AsType[*koogallery.ProbeError](err)
			if !ok || probe.Step != tt.step {
				t.Errorf("Probe = %v, want step %s", err, tt.step)
			}
		})
	}
}

func TestProbeFallback(t *testing.T) {
	t.Parallel()
	second := newMarketplace(t, answerWith(200, ""))
	o := options("http://" + closedPort(t))
	o.Fallback, o.FallbackURL = true, second.URL
	res, err := newClient(t, o).Probe(t.Context())
	if err != nil || res.Endpoint != strings.TrimPrefix(second.URL, "http://") || !strings.Contains(res.Note, "connect: ") {
		t.Errorf("Probe = %+v, %v, want the fallback with a note", res, err)
	}
	dead, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := newClient(t, o).Probe(dead); err == nil {
		t.Error("Probe on a dead context = nil")
	}
}

// TestProbeCertificate: the first certificate of the chain to run out counts.
func TestProbeCertificate(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	expires := time.Now().Add(10 * 24 * time.Hour).UTC().Truncate(time.Second)
	m := a.serve(t, func(c *x509.Certificate, _ *tls.Config) { c.NotAfter = expires })
	o := options(m.URL)
	o.RootCAs = a.pool()
	res, err := newClient(t, o).Probe(t.Context())
	if err != nil || !res.CertificateExpires.Equal(expires) {
		t.Errorf("Probe = %+v, %v, want a certificate until %s", res, err, expires)
	}
}

func TestCheckKey(t *testing.T) {
	t.Parallel()
	o := options("http://" + closedPort(t)) // nothing is sent
	for _, api := range []koogallery.API{koogallery.APINew, koogallery.APIOld} {
		o.API, o.AccessKey, o.SecretKey = api, demoAK, "fake-secret"
		if found, err := newClient(t, o).CheckKey(t.Context()); err != nil || found != "present" {
			t.Errorf("CheckKey(%s) = %q, %v", api, found, err)
		}
	}
	o.API, o.Rand = koogallery.APINew, iotest.ErrReader(errors.New("no entropy"))
	if _, err := newClient(t, o).CheckKey(t.Context()); err == nil {
		t.Error("CheckKey without nonces = nil, want an error")
	}
}

// TestClockOffsetFromPush: every answer shows the marketplace's clock.
func TestClockOffsetFromPush(t *testing.T) {
	t.Parallel()
	m := newMarketplace(t, answerWith(200, success))
	o := options(m.URL)
	o.Now = func() time.Time { return time.Now().Add(-2 * time.Hour) }
	c := newClient(t, o)
	wantClass(t, c.Push(t.Context(), demoBatch(1)), reporter.ClassAccepted)
	off, _, ok := c.ClockOffset()
	if diff := off + 2*time.Hour; !ok || diff.Abs() > 5*time.Second {
		t.Errorf("ClockOffset = %s, %t, want 2 h behind", off, ok)
	}
}
