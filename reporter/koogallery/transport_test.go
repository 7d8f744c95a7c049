package koogallery_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meterd/meterd/reporter"
	"github.com/meterd/meterd/reporter/koogallery"
)

func TestFallback(t *testing.T) {
	t.Parallel()
	second := newMarketplace(t, answerWith(200, success))
	dead := closedPort(t)
	o := options("http://" + dead)
	o.FallbackURL, o.Fallback = second.URL, true
	batch := demoBatch(3)
	res := newClient(t, o).Push(t.Context(), batch)
	wantClass(t, res, reporter.ClassAccepted)
	if res.Endpoint != strings.TrimPrefix(second.URL, "http://") {
		t.Errorf("endpoint = %s", res.Endpoint)
	}
	want, err := koogallery.EncodeNew(batch)
	if err != nil {
		t.Fatal(err)
	}
	if string(second.call(0).body) != string(want) {
		t.Errorf("the fallback got other records: %s", second.call(0).body)
	}

	o.Fallback = false
	res = newClient(t, o).Push(t.Context(), batch)
	wantClass(t, res, reporter.ClassUnavailable)
	wantMessage(t, res, "not sent, no connection", "connection refused")

	o.Fallback, o.FallbackURL = true, "http://"+closedPort(t)
	res = newClient(t, o).Push(t.Context(), batch)
	wantClass(t, res, reporter.ClassUnavailable)
	wantMessage(t, res, "connection refused; before that "+dead)
	if n := second.count.Load(); n != 1 {
		t.Errorf("calls of the fallback = %d, want 1", n)
	}
}

// TestFallbackOnlyOnConnectFailure: an answer, even a bad one, or a lost one never leads to the fallback.
func TestFallbackOnlyOnConnectFailure(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]http.HandlerFunc{
		"500":     answerWith(500, ""),
		"429":     answerWith(429, ""),
		"dropped": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			first, second := newMarketplace(t, answer), newMarketplace(t, answerWith(200, success))
			o := options(first.URL)
			o.FallbackURL, o.Fallback = second.URL, true
			if res := newClient(t, o).Push(t.Context(), demoBatch(1)); res.Class == reporter.ClassAccepted {
				t.Errorf("result %+v", res)
			}
			if first.count.Load() != 1 || second.count.Load() != 0 {
				t.Errorf("calls = %d and %d, want 1 and 0", first.count.Load(), second.count.Load())
			}
		})
	}
}

func TestCancelled(t *testing.T) {
	t.Parallel()
	m := newMarketplace(t, answerWith(200, success))
	o := options("http://" + closedPort(t))
	o.FallbackURL, o.Fallback = m.URL, true
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("shutting down"))
	res := newClient(t, o).Push(ctx, demoBatch(1))
	wantClass(t, res, reporter.ClassUnavailable)
	wantMessage(t, res, "not sent", "shutting down")
	if m.count.Load() != 0 {
		t.Error("the fallback was called after the end of the context")
	}
}

// TestLostAnswers: the request was read, and no usable answer came back.
func TestLostAnswers(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		answer  http.HandlerFunc
		message string
	}{
		"dropped":          {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "sent, no usable answer: EOF"},
		"cut in the body":  {cutBody, "answer cut short"},
		"cut chunk":        {cutChunk, "answer cut short"},
		"10 MB":            {answerWith(200, `{"error_code":"MKT.0000","x":"`+strings.Repeat("x", 10<<20)+`"}`), "answer longer than"},
		"10 MB with 500":   {answerWith(500, strings.Repeat("x", 10<<20)), "answer longer than"},
		"gzip":             {gzipped, "not a JSON object"},
		"headers too long": {longHeader, "sent, no usable answer"},
		"not http":         {notHTTP, "malformed HTTP"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMarketplace(t, tt.answer)
			res := newClient(t, options(m.URL)).Push(t.Context(), demoBatch(2))
			wantClass(t, res, reporter.ClassUnknown)
			wantMessage(t, res, tt.message)
			if m.count.Load() != 1 {
				t.Errorf("calls = %d, want 1", m.count.Load())
			}
		})
	}
}

func cutBody(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Length", "100")
	_, _ = io.WriteString(w, success) // valid by itself, and shorter than announced
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

func cutChunk(w http.ResponseWriter, _ *http.Request) {
	_, _ = io.WriteString(w, success)
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

func gzipped(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Encoding", "gzip")
	answerWith(200, "\x1f\x8b\x08\x00")(w, r)
}

func longHeader(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Long", strings.Repeat("x", 128<<10))
	answerWith(200, success)(w, r)
}

func notHTTP(w http.ResponseWriter, _ *http.Request) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err == nil {
		_, _ = io.WriteString(conn, success+"\r\n\r\n")
		_ = conn.Close()
	}
}

func TestTimeout(t *testing.T) {
	t.Parallel()
	for name, early := range map[string]string{"no answer": "", "slow body": success[:10]} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			done := make(chan struct{})
			m := newMarketplace(t, func(w http.ResponseWriter, _ *http.Request) {
				_, _ = io.WriteString(w, early)
				if early != "" {
					_ = http.NewResponseController(w).Flush()
				}
				<-done
			})
			t.Cleanup(func() { close(done) })
			o := options(m.URL)
			o.Timeout = 100 * time.Millisecond
			res := newClient(t, o).Push(t.Context(), demoBatch(1))
			wantClass(t, res, reporter.ClassUnknown)
			wantMessage(t, res, "no answer in time")
		})
	}
}

func TestCancelledInFlight(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(t.Context())
	m := newMarketplace(t, func(_ http.ResponseWriter, r *http.Request) {
		cancel(errors.New("stopping"))
		<-r.Context().Done() // until the client has hung up: it must not get an answer after all
	})
	res := newClient(t, options(m.URL)).Push(ctx, demoBatch(1))
	wantClass(t, res, reporter.ClassUnknown)
	wantMessage(t, res, "sent, no usable answer", "stopping")
}

func TestRedirectIsNotFollowed(t *testing.T) {
	t.Parallel()
	target := newMarketplace(t, answerWith(200, success))
	for _, status := range []int{301, 302, 303, 307, 308} {
		t.Run(strconv.Itoa(status), func(t *testing.T) {
			t.Parallel()
			m := newMarketplace(t, func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, target.URL+r.URL.Path, status)
			})
			res := newClient(t, options(m.URL)).Push(t.Context(), demoBatch(1))
			wantClass(t, res, reporter.ClassMisconfigured)
			wantMessage(t, res, "redirects are not followed")
			if target.count.Load() != 0 {
				t.Error("the redirect was followed")
			}
		})
	}
}

// rawServer accepts connections and gives each to serve; it counts them.
type rawServer struct {
	net.Listener
	conns atomic.Int64
}

func newRawServer(t *testing.T, serve func(net.Conn)) *rawServer {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &rawServer{Listener: l}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.conns.Add(1)
			wg.Go(func() {
				defer func() { _ = conn.Close() }()
				serve(conn)
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	return s
}

// TestClosedBeforeReading: the connection is accepted and closed. Whether our first write had begun is a race; the class
// must say which, and there must be no second connection.
func TestClosedBeforeReading(t *testing.T) {
	t.Parallel()
	s := newRawServer(t, func(net.Conn) {})
	res := newClient(t, options("http://"+s.Addr().String())).Push(t.Context(), demoBatch(100))
	if res.Class != reporter.ClassUnknown && !strings.HasPrefix(res.Message, "not sent: ") {
		t.Errorf("result = %+v", res)
	}
	if s.conns.Load() != 1 {
		t.Errorf("connections = %d, want 1", s.conns.Load())
	}
}

// TestKeptConnectionDiesOnReuse: the server closes a kept connection when the second request has reached it. The
// standard transport would be free to repeat an idempotent request here; ours must not, and must not call it unsent.
func TestKeptConnectionDiesOnReuse(t *testing.T) {
	t.Parallel()
	var read atomic.Int64
	s := newRawServer(t, func(conn net.Conn) {
		br := bufio.NewReader(conn)
		for i := range 2 {
			req, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, req.Body)
			read.Add(1)
			if i == 1 {
				return
			}
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: "+strconv.Itoa(len(success))+"\r\n\r\n"+success)
		}
	})
	c := newClient(t, options("http://"+s.Addr().String()))
	wantClass(t, c.Push(t.Context(), demoBatch(1)), reporter.ClassAccepted)
	wantClass(t, c.Push(t.Context(), demoBatch(1)), reporter.ClassUnknown)
	if read.Load() != 2 || s.conns.Load() != 1 {
		t.Errorf("requests = %d, connections = %d, want 2 and 1", read.Load(), s.conns.Load())
	}
}

// TestKeptConnectionDiesIdle: the server closes a kept connection between calls. The next push either finds out in time
// and connects anew, or is told that the outcome is unknown; the server must never see one batch twice.
func TestKeptConnectionDiesIdle(t *testing.T) {
	t.Parallel()
	answer := "HTTP/1.1 200 OK\r\nContent-Length: " + strconv.Itoa(len(success)) + "\r\n\r\n" + success
	m := newMarketplace(t, func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		_, _ = io.WriteString(conn, answer) // promises to keep the connection
		_ = conn.Close()
	})
	c := newClient(t, options(m.URL))
	accepted, unknown, unsent := int64(0), int64(0), int64(0)
	for range 50 {
		switch res := c.Push(t.Context(), demoBatch(1)); res.Class {
		case reporter.ClassAccepted:
			accepted++
		case reporter.ClassUnknown:
			unknown++
		case reporter.ClassUnavailable:
			unsent++
		default:
			t.Errorf("result = %+v", res)
		}
	}
	if n := m.count.Load(); n < accepted || n > accepted+unknown {
		t.Errorf("the server read %d calls; accepted %d, unknown %d, unsent %d", n, accepted, unknown, unsent)
	}
}

// TestKeptConnectionProvablyUnsent: a dead kept connection took not one byte, so the call is made on a fresh one, once.
func TestKeptConnectionProvablyUnsent(t *testing.T) {
	t.Parallel()
	m := newMarketplace(t, answerWith(200, success))
	c := newClient(t, options(m.URL))
	conns := koogallery.TrackConns(c)
	wantClass(t, c.Push(t.Context(), demoBatch(1)), reporter.ClassAccepted)
	conns.Seal()
	wantClass(t, c.Push(t.Context(), demoBatch(1)), reporter.ClassAccepted)
	if conns.Count() != 2 || m.count.Load() != 2 {
		t.Errorf("connections = %d, calls = %d, want 2 and 2", conns.Count(), m.count.Load())
	}
}

func TestConnectionIsKept(t *testing.T) {
	t.Parallel()
	m := newMarketplace(t, answerWith(200, success))
	c := newClient(t, options(m.URL))
	conns := koogallery.TrackConns(c)
	for range 5 {
		wantClass(t, c.Push(t.Context(), demoBatch(1)), reporter.ClassAccepted)
	}
	if conns.Count() != 1 {
		t.Errorf("connections = %d, want 1", conns.Count())
	}
}

// authority issues certificates for tests.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{cert, key}
}

func (a authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// serve starts a TLS marketplace with a certificate of the authority.
func (a authority) serve(t *testing.T, change func(*x509.Certificate, *tls.Config)) *marketplace {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "marketplace"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	config := &tls.Config{MinVersion: tls.VersionTLS10}
	if change != nil {
		change(template, config)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	config.Certificates = []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}
	m := unstarted(t, answerWith(200, success))
	m.TLS = config
	m.StartTLS()
	return m
}

func TestTLS(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	caFile := filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw})
	if err := os.WriteFile(caFile, block, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		change func(*x509.Certificate, *tls.Config)
		client func(*koogallery.Options)
		want   string // in the message; "" means accepted
	}{
		"trusted by pool": {nil, func(o *koogallery.Options) { o.RootCAs = ca.pool() }, ""},
		"trusted by file": {nil, func(o *koogallery.Options) { o.CAFile = caFile }, ""},
		"not trusted":     {nil, func(*koogallery.Options) {}, "certificate signed by unknown authority"},
		"wrong host": {
			func(c *x509.Certificate, _ *tls.Config) { c.IPAddresses = nil; c.DNSNames = []string{"other.example"} },
			func(o *koogallery.Options) { o.RootCAs = ca.pool() }, "doesn't contain any IP SANs",
		},
		"expired": {
			func(c *x509.Certificate, _ *tls.Config) { c.NotAfter = time.Now().Add(-time.Minute) },
			func(o *koogallery.Options) { o.RootCAs = ca.pool() }, "certificate has expired",
		},
		"tls 1.1": {
			func(_ *x509.Certificate, c *tls.Config) { c.MaxVersion = tls.VersionTLS11 },
			func(o *koogallery.Options) { o.RootCAs = ca.pool() }, "protocol version",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := ca.serve(t, tt.change)
			o := options(m.URL)
			o.AllowHTTP = false
			tt.client(&o)
			c := newClient(t, o)
			res := c.Push(t.Context(), demoBatch(1))
			if tt.want == "" {
				wantClass(t, res, reporter.ClassAccepted)
				wantClass(t, c.Push(t.Context(), demoBatch(1)), reporter.ClassAccepted)
				return
			}
			wantClass(t, res, reporter.ClassUnavailable)
			wantMessage(t, res, "not sent, no connection", tt.want)
			if m.count.Load() != 0 {
				t.Error("the request was sent")
			}
		})
	}
}

// TestTLSSelfSigned uses the certificate of httptest, which nobody trusts; and the fallback is used then.
func TestTLSSelfSigned(t *testing.T) {
	t.Parallel()
	bad := unstarted(t, answerWith(200, success))
	bad.StartTLS()
	ca := newAuthority(t)
	good := ca.serve(t, nil)
	o := options(bad.URL)
	o.RootCAs, o.FallbackURL, o.Fallback = ca.pool(), good.URL, true
	res := newClient(t, o).Push(t.Context(), demoBatch(1))
	wantClass(t, res, reporter.ClassAccepted)
	if bad.count.Load() != 0 || good.count.Load() != 1 {
		t.Errorf("calls = %d and %d, want 0 and 1", bad.count.Load(), good.count.Load())
	}
}

// TestTLSLostAnswer: over TLS too, a lost answer is unknown, on a fresh and on a kept connection, and read once.
func TestTLSLostAnswer(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	m := ca.serve(t, nil)
	var drop atomic.Bool
	handler := m.Config.Handler
	m.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if drop.Load() {
			w = httptest.NewRecorder()
			handler.ServeHTTP(w, r)
			panic(http.ErrAbortHandler)
		}
		handler.ServeHTTP(w, r)
	})
	o := options(m.URL)
	o.RootCAs = ca.pool()
	c := newClient(t, o)
	wantClass(t, c.Push(t.Context(), demoBatch(1)), reporter.ClassAccepted)
	drop.Store(true)
	wantClass(t, c.Push(t.Context(), demoBatch(1)), reporter.ClassUnknown)
	wantClass(t, c.Push(t.Context(), demoBatch(1)), reporter.ClassUnknown)
	if m.count.Load() != 3 {
		t.Errorf("calls = %d, want 3", m.count.Load())
	}
	conns := koogallery.TrackConns(c)
	drop.Store(false)
	wantClass(t, c.Push(t.Context(), demoBatch(1)), reporter.ClassAccepted)
	conns.Seal()
	wantClass(t, c.Push(t.Context(), demoBatch(1)), reporter.ClassAccepted)
	if conns.Count() != 2 || m.count.Load() != 5 {
		t.Errorf("connections = %d, calls = %d, want 2 and 5", conns.Count(), m.count.Load())
	}
}

// TestLoopbackIsCheckedOnDialling: the name passed the check of the options; what it resolves to does not.
func TestLoopbackIsCheckedOnDialling(t *testing.T) {
	t.Parallel()
	if err := koogallery.LoopbackControl("tcp", "10.1.2.3:80", nil); err == nil {
		t.Error("a connection to 10.1.2.3 was permitted")
	}
	for _, address := range []string{"127.0.0.1:80", "127.9.9.9:1", "[::1]:80", "[::ffff:127.0.0.1]:80"} {
		if err := koogallery.LoopbackControl("tcp", address, nil); err != nil {
			t.Errorf("%s: %v", address, err)
		}
	}
	for _, address := range []string{"[::]:80", "0.0.0.0:80", "[fe80::1%lo]:80", "192.168.0.1:80", "", "localhost:80"} {
		if err := koogallery.LoopbackControl("tcp", address, nil); err == nil {
			t.Errorf("%s: permitted", address)
		}
	}
}

// TestProxy: https goes through a proxy where one is given, plain http never does.
func TestProxy(t *testing.T) {
	t.Parallel()
	var connects atomic.Int64
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		connects.Add(1)
		w.WriteHeader(http.StatusForbidden)
	}))
	t.Cleanup(proxy.Close)
	u, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	ca := newAuthority(t)
	o := options(ca.serve(t, nil).URL)
	o.RootCAs, o.Proxy = ca.pool(), http.ProxyURL(u)
	res := newClient(t, o).Push(t.Context(), demoBatch(1))
	wantClass(t, res, reporter.ClassUnavailable)
	wantMessage(t, res, "no connection", "Forbidden")
	o.BaseURL = newMarketplace(t, answerWith(200, success)).URL
	wantClass(t, newClient(t, o).Push(t.Context(), demoBatch(1)), reporter.ClassAccepted)
	if connects.Load() != 1 {
		t.Errorf("proxy calls = %d, want 1", connects.Load())
	}
}

// TestOneCallAtATime runs pushes in parallel; the server must never see two.
func TestOneCallAtATime(t *testing.T) {
	t.Parallel()
	var running, most atomic.Int64
	m := newMarketplace(t, func(w http.ResponseWriter, r *http.Request) {
		if n := running.Add(1); n > most.Load() {
			most.Store(n)
		}
		answerWith(200, success)(w, r)
		running.Add(-1)
	})
	c := newClient(t, options(m.URL))
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if res := c.Push(t.Context(), demoBatch(1)); res.Class != reporter.ClassAccepted {
				t.Errorf("result = %+v", res)
			}
		})
	}
	wg.Wait()
	if most.Load() != 1 || m.count.Load() != 20 {
		t.Errorf("most at a time = %d, calls = %d, want 1 and 20", most.Load(), m.count.Load())
	}
}

func TestSpacing(t *testing.T) {
	t.Parallel()
	m := newMarketplace(t, answerWith(200, success))
	var mu sync.Mutex
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var waits []time.Duration
	advance := func(d time.Duration) {
		mu.Lock()
		defer mu.Unlock()
		now = now.Add(d)
	}
	o := options(m.URL)
	o.Spacing = 200 * time.Millisecond
	o.Now = func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		return now
	}
	o.Sleep = func(ctx context.Context, d time.Duration) error {
		waits = append(waits, d)
		advance(d)
		return ctx.Err()
	}
	c := newClient(t, o)
	push := func() { wantClass(t, c.Push(t.Context(), demoBatch(1)), reporter.ClassAccepted) }
	push() // the first needs no wait
	push() // at once: the whole spacing
	advance(150 * time.Millisecond)
	push() // the rest of it
	advance(time.Second)
	push() // none
	advance(-24 * time.Hour)
	push() // a clock set back: one spacing, not a day
	want := []time.Duration{200 * time.Millisecond, 50 * time.Millisecond, 200 * time.Millisecond}
	if len(waits) != len(want) || waits[0] != want[0] || waits[1] != want[1] || waits[2] != want[2] {
		t.Errorf("waits = %v, want %v", waits, want)
	}
}

func TestSpacingEndsWithContext(t *testing.T) {
	t.Parallel()
	m := newMarketplace(t, answerWith(200, success))
	o := options(m.URL)
	o.Spacing = time.Hour
	c := newClient(t, o)
	wantClass(t, c.Push(t.Context(), demoBatch(1)), reporter.ClassAccepted)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	res := c.Push(ctx, demoBatch(1))
	wantClass(t, res, reporter.ClassUnavailable)
	wantMessage(t, res, "not sent", "spacing")
	if m.count.Load() != 1 {
		t.Errorf("calls = %d, want 1", m.count.Load())
	}
}

func TestRefusedBeforeSending(t *testing.T) {
	t.Parallel()
	m := newMarketplace(t, answerWith(200, success))
	c := newClient(t, options(m.URL))
	bad, same, window := demoBatch(3), demoBatch(3), demoBatch(3)
	bad[1].InstanceID = ""
	same[2].SN = same[0].SN
	window[2].Window = window[0].Window
	for name, tt := range map[string]struct {
		batch   []reporter.UsageRecord
		want    reporter.Class
		message string
	}{
		"empty":       {nil, reporter.ClassMisconfigured, "empty"},
		"bad record":  {bad, reporter.ClassRecordBad, string(bad[1].SN) + ": instance id: missing"},
		"same number": {same, reporter.ClassMisconfigured, "two records"},
		"same window": {window, reporter.ClassMisconfigured, "two records"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			res := c.Push(t.Context(), tt.batch)
			wantClass(t, res, tt.want)
			wantMessage(t, res, "not sent", tt.message)
		})
	}
	t.Cleanup(func() {
		if m.count.Load() != 0 {
			t.Errorf("calls = %d, want none", m.count.Load())
		}
	})
}

// TestNoSecretsAnywhere runs all kinds of failures against servers that echo what they got, and looks for keys,
// signatures and bodies in results and logs.
func TestNoSecretsAnywhere(t *testing.T) {
	t.Parallel()
	echo := func(status int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Date", "Mon, 02 Jan 2006 15:04:05 GMT")
			w.WriteHeader(status)
			_, _ = io.WriteString(w, `{"error_code":"MKT.0102","error_msg":"`+demoKey+" "+demoSK+" "+
				strings.ReplaceAll(r.Header.Get("X-Sdk-Date"), `"`, "")+`"}`)
		}
	}
	self := unstarted(t, echo(200))
	self.StartTLS()
	urls := []string{
		newMarketplace(t, echo(400)).URL, newMarketplace(t, echo(500)).URL, self.URL, "http://" + closedPort(t),
		newMarketplace(t, notHTTP).URL, newMarketplace(t, longHeader).URL,
		newMarketplace(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }).URL,
		newMarketplace(t, answerWith(200, "{\"error_code\":\"MKT.0000\",\"abnormal_usage_data\":[{\"metering_sn\":\""+
			string(demoBatch(1)[0].SN)+"\",\"error_msg\":\""+demoKey+"\"},{}]}")).URL,
	}
	var log logs
	for _, u := range urls {
		for _, api := range []koogallery.API{koogallery.APINew, koogallery.APIOld} {
			o := options(u)
			o.API, o.AccessKey, o.SecretKey = api, demoAK, demoSK
			o.Fallback, o.FallbackURL = true, "https://"+closedPort(t)
			o.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
			res := newClient(t, o).Push(t.Context(), demoBatch(1))
			o.Logger.Info("result", "result", res, "refused", res.Refused)
		}
	}
	for _, secret := range []string{demoKey, demoSK, "ignature=", "usage_records", "usage_value"} {
		if strings.Contains(log.String(), secret) {
			t.Errorf("%q appears in\n%s", secret, log.String())
		}
	}
	if !strings.Contains(log.String(), "<secret>") {
		t.Error("the echoed key was not seen at all")
	}
}
