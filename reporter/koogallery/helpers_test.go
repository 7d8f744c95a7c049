package koogallery_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
	"github.com/meterd/meterd/reporter/koogallery"
)

const (
	demoKey      = "koo-demo-key-0001"
	demoNonce    = "6c63c221-1f6b-4141-8ff4-22f5dfe82b65"
	demoTS       = 1709690865879
	demoInstance = "7f141bf1-aec8-4859-8323-fb3a8ad50721"
	demoAK       = "AKDEMO0000000000000A"
	demoSK       = "sk-demo-0000000000000000000000000000000b"
	success      = `{"error_code":"MKT.0000","error_msg":"success"}`
)

// fixedNow is the clock of the published example.
func fixedNow() time.Time { return time.UnixMilli(demoTS) }

// demoRecord is record i: one hour each, from 2022-08-09 08:00 UTC on.
func demoRecord(i int, quantity string) reporter.UsageRecord {
	w := meter.HourOf(time.Date(2022, 8, 9, 8, 0, 0, 0, time.UTC).Add(time.Duration(i) * time.Hour))
	return reporter.UsageRecord{
		SN:         reporter.MeteringSN(fmt.Sprintf("b1a0d5c2-5a57-4a1f-9d3e-%012d", i+1)),
		InstanceID: demoInstance,
		ProductID:  "OFFI000000000000000001",
		Window:     w,
		RecordTime: w.End.Add(10 * time.Minute),
		Quantity:   meter.MustParseQuantity(quantity),
	}
}

func demoBatch(n int) []reporter.UsageRecord {
	batch := make([]reporter.UsageRecord, n)
	for i := range batch {
		batch[i] = demoRecord(i, "1.5")
	}
	return batch
}

// repeat is a source of nonces: the published one, for ever.
type repeat struct{ pos int }

func (r *repeat) Read(p []byte) (int, error) {
	b, err := hex.DecodeString(strings.ReplaceAll(demoNonce, "-", ""))
	for i := range p {
		p[i] = b[(r.pos+i)%len(b)]
	}
	r.pos += len(p)
	return len(p), err
}

// logs is a writer safe for concurrent use.
type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// call is what a server saw of one call.
type call struct {
	header http.Header
	path   string
	body   []byte
}

// marketplace is a server that counts and keeps the calls it reads.
type marketplace struct {
	*httptest.Server
	count atomic.Int64
	mu    sync.Mutex
	calls []call
}

// newMarketplace serves answer on plain http.
func newMarketplace(t *testing.T, answer http.HandlerFunc) *marketplace {
	t.Helper()
	m := unstarted(t, answer)
	m.Start()
	return m
}

func unstarted(t *testing.T, answer http.HandlerFunc) *marketplace {
	t.Helper()
	m := new(marketplace)
	m.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		m.mu.Lock()
		m.calls = append(m.calls, call{r.Header.Clone(), r.URL.Path, body})
		m.mu.Unlock()
		m.count.Add(1)
		answer(w, r)
	}))
	m.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	t.Cleanup(m.Close)
	return m
}

func (m *marketplace) call(i int) call {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.calls[i]
}

func answerWith(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// options are those of a client of the new API at url.
func options(url string) koogallery.Options {
	return koogallery.Options{
		BaseURL: url, AllowHTTP: true, SellerKey: demoKey, Now: time.Now, Timeout: 10 * time.Second,
	}
}

func newClient(t *testing.T, o koogallery.Options) *koogallery.Client {
	t.Helper()
	c, err := koogallery.New(o)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	t.Cleanup(c.Close)
	return c
}

// closedPort is an address on which nobody listens.
func closedPort(t *testing.T) string {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

var classNames = map[reporter.Class]string{
	0: "none", reporter.ClassAccepted: "accepted", reporter.ClassUnavailable: "unavailable",
	reporter.ClassUnknown: "unknown", reporter.ClassRecordBad: "record bad", reporter.ClassRecordExpired: "expired",
	reporter.ClassBatchTooLarge: "batch too large", reporter.ClassMisconfigured: "misconfigured",
}

func wantClass(t *testing.T, res reporter.Result, want reporter.Class) {
	t.Helper()
	if res.Class != want {
		t.Errorf("class = %s, want %s (result %+v)", classNames[res.Class], classNames[want], res)
	}
}

func wantMessage(t *testing.T, res reporter.Result, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(res.Message, part) {
			t.Errorf("message = %q, want it to contain %q", res.Message, part)
		}
	}
}
