package doctor_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/meterd/meterd/internal/config"
	"github.com/meterd/meterd/internal/doctor"
)

// authority is a CA of the test, with its certificate in a file.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	file        string
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().AddDate(-1, 0, 0), NotAfter: time.Now().AddDate(1, 0, 0), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return authority{certificate, key, file}
}

// issue makes a certificate for 127.0.0.1 that ends at a time.
func (a authority) issue(t *testing.T, end time.Time, ip string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "marketplace"}, IPAddresses: []net.IP{net.ParseIP(ip)},
		NotBefore: end.AddDate(0, -3, 0), NotAfter: end, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// front is a marketplace's front: it counts requests that it must not get.
type front struct {
	*httptest.Server
	t      *testing.T
	date   func() time.Time // nil: no Date header
	status int
}

func newFront(t *testing.T, certificate *tls.Certificate) *front {
	t.Helper()
	f := &front{t: t, date: time.Now, status: http.StatusNotFound}
	f.Server = httptest.NewUnstartedServer(f)
	f.Config.ErrorLog = log.New(io.Discard, "", 0) // handshakes fail on purpose
	if certificate != nil {
		f.TLS = &tls.Config{Certificates: []tls.Certificate{*certificate}, MinVersion: tls.VersionTLS12}
		f.StartTLS()
	} else {
		f.Start()
	}
	t.Cleanup(f.Close)
	return f
}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodHead || r.URL.Path != "/" || r.Header.Get("Authorization") != "" || r.Header.Get("signature") != "" || r.ContentLength > 0 {
		f.t.Errorf("the marketplace got %s %s with headers %v", r.Method, r.URL, r.Header)
	}
	if f.date == nil {
		w.Header()["Date"] = nil
	} else {
		w.Header().Set("Date", f.date().UTC().Format(http.TimeFormat))
	}
	w.WriteHeader(f.status)
}

func marketConfig(t *testing.T, caFile string) config.Config {
	t.Helper()
	cfg := testConfig(t)
	cfg.Reporting.Enabled = true
	cfg.KooGallery.SellerKey = "fake-seller-key-never-shown"
	cfg.KooGallery.CAFile = caFile
	return cfg
}

func TestMarketplaceCertificates(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	for name, tt := range map[string]struct {
		end    time.Time
		ip, ca string
		status doctor.Status
		found  string
	}{
		"good":          {time.Now().AddDate(0, 2, 0), "127.0.0.1", ca.file, doctor.OK, "its certificate is valid until"},
		"ends soon":     {time.Now().Add(80 * time.Hour), "127.0.0.1", ca.file, doctor.Warn, "3 days from now"},
		"expired":       {time.Now().Add(-time.Hour), "127.0.0.1", ca.file, doctor.Fail, "TLS: the certificate is valid from"},
		"untrusted":     {time.Now().AddDate(0, 2, 0), "127.0.0.1", "", doctor.Fail, "of an authority unknown here"},
		"another host":  {time.Now().AddDate(0, 2, 0), "192.0.2.1", ca.file, doctor.Fail, "certificate is valid for 192.0.2.1, not 127.0.0.1"},
		"CA is missing": {time.Now().AddDate(0, 2, 0), "127.0.0.1", "/nonexistent.pem", doctor.Fail, "koogallery.ca_file"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			certificate := ca.issue(t, tt.end, tt.ip)
			f := newFront(t, &certificate)
			findings := examine(t, doctor.Options{Config: marketConfig(t, tt.ca), Marketplace: []string{f.URL}}, "marketplace")
			expect(t, findings, tt.status, tt.found)
		})
	}
}

func TestMarketplaceSelfSigned(t *testing.T) {
	t.Parallel()
	f := httptest.NewUnstartedServer(http.NotFoundHandler())
	f.Config.ErrorLog = log.New(io.Discard, "", 0) // the handshake fails on purpose
	f.StartTLS()                                   // its certificate is its own authority
	t.Cleanup(f.Close)
	findings := examine(t, doctor.Options{Config: marketConfig(t, ""), Marketplace: []string{f.URL}}, "marketplace")
	expect(t, findings, doctor.Fail, "of an authority unknown here")
}

func TestMarketplaceClock(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		skew   time.Duration
		status doctor.Status
		found  string
	}{
		"same":        {0, doctor.OK, "its clock agrees with ours"},
		"3 s":         {3 * time.Second, doctor.OK, "behind its clock"},
		"we are slow": {20 * time.Second, doctor.Warn, "our clock is 20s behind"},
		"we are fast": {-20 * time.Second, doctor.Warn, "ahead of its clock"},
		"far off":     {time.Hour, doctor.Fail, "our clock is 1h0m0s behind"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFront(t, nil)
			// A clock that stands in the middle of a second makes the header's whole seconds exact.
			now := time.Now().Truncate(time.Second).Add(500 * time.Millisecond)
			f.date = func() time.Time { return now.Add(tt.skew) }
			findings := examine(t, doctor.Options{
				Config: marketConfig(t, ""), Marketplace: []string{f.URL}, Now: func() time.Time { return now },
			}, "marketplace")
			expect(t, findings, tt.status, tt.found)
		})
	}
}

func TestMarketplaceAnswers(t *testing.T) {
	t.Parallel()
	t.Run("no date", func(t *testing.T) {
		t.Parallel()
		f := newFront(t, nil)
		f.date = nil
		findings := examine(t, doctor.Options{Config: marketConfig(t, ""), Marketplace: []string{f.URL}}, "marketplace")
		expect(t, findings, doctor.Warn, "no Date header")
	})
	t.Run("sick", func(t *testing.T) {
		t.Parallel()
		f := newFront(t, nil)
		f.status = http.StatusBadGateway
		findings := examine(t, doctor.Options{Config: marketConfig(t, ""), Marketplace: []string{f.URL}}, "marketplace")
		expect(t, findings, doctor.Warn, "answers 502")
	})
	t.Run("closed port, good fallback", func(t *testing.T) {
		t.Parallel()
		f := newFront(t, nil)
		o := doctor.Options{Config: marketConfig(t, ""), Marketplace: []string{"http://" + closedPort(t), f.URL}}
		findings := examine(t, o, "marketplace")
		expect(t, findings, doctor.Fail, "connection refused")
		expect(t, findings, doctor.OK, "fallback "+f.URL)
	})
	t.Run("closed fallback", func(t *testing.T) {
		t.Parallel()
		f := newFront(t, nil)
		o := doctor.Options{Config: marketConfig(t, ""), Marketplace: []string{f.URL, "http://" + closedPort(t)}}
		findings := examine(t, o, "marketplace")
		expect(t, findings, doctor.Warn, "connection refused")
	})
	t.Run("unknown name", func(t *testing.T) {
		t.Parallel()
		o := doctor.Options{Config: marketConfig(t, ""), Marketplace: []string{"https://marketplace.invalid"}}
		expect(t, examine(t, o, "marketplace"), doctor.Fail, "DNS: ")
	})
	t.Run("silent", func(t *testing.T) {
		t.Parallel()
		l := silentListener(t)
		o := doctor.Options{Config: marketConfig(t, ""), Marketplace: []string{"http://" + l}, Timeout: 300 * time.Millisecond}
		expect(t, examine(t, o, "marketplace"), doctor.Fail, "no answer in time")
	})
	t.Run("proxy refuses", func(t *testing.T) {
		t.Parallel()
		proxy := &url.URL{Scheme: "http", Host: closedPort(t)}
		o := doctor.Options{
			Config: marketConfig(t, ""), Marketplace: []string{"https://marketplace.invalid"},
			Proxy: func(*http.Request) (*url.URL, error) { return proxy, nil },
		}
		expect(t, examine(t, o, "marketplace"), doctor.Fail, "proxy")
	})
	t.Run("off", func(t *testing.T) {
		t.Parallel()
		o := doctor.Options{Config: testConfig(t), Marketplace: []string{"http://" + closedPort(t)}}
		expect(t, examine(t, o, "marketplace"), doctor.OK, "reporting is off")
	})
}

// closedPort is an address that nobody listens on.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// silentListener accepts connections and never answers.
func silentListener(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.Addr().String() // the kernel accepts
}
