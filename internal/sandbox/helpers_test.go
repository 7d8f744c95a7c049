package sandbox_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meterd/meterd/internal/sandbox"
)

var update = flag.Bool("update", false, "rewrite golden files")

const (
	testKey      = "koo-demo-key-0001"
	testInstance = "7f141bf1-aec8-4859-8323-fb3a8ad50721"
	testAK       = "AKDEMO0000000000000A"
	testSK       = "sk-demo-0000000000000000000000000000000b"
)

// start is when the test clocks start: minute 10 of an hour.
var start = time.Date(2022, 8, 9, 9, 10, 0, 0, time.UTC)

// testClock is a clock set by hand.
type testClock struct {
	mu sync.Mutex
	at time.Time
}

func (c *testClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *testClock) Set(at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = at
}

func (c *testClock) Add(d time.Duration) { c.Set(c.Now().Add(d)) }

// market is a sandbox with its clock.
type market struct {
	*sandbox.Sandbox
	clock *testClock
}

// newMarket builds a sandbox at start; edit may change the options.
func newMarket(tb testing.TB, edit func(*sandbox.Options)) market {
	tb.Helper()
	clock := &testClock{at: start}
	opts := sandbox.Options{Now: clock.Now, Key: testKey, AccessKeys: map[string]string{testAK: testSK}}
	if edit != nil {
		edit(&opts)
	}
	sb, err := sandbox.New(opts)
	if err != nil {
		tb.Fatalf("New() = %v", err)
	}
	tb.Cleanup(func() {
		if err := sb.Close(); err != nil {
			tb.Errorf("Close() = %v", err)
		}
	})
	return market{sb, clock}
}

// fields is one record's JSON object.
type fields map[string]any

// with copies the record with other values; nil removes a field.
func (f fields) with(pairs ...any) fields {
	out := fields{}
	maps.Copy(out, f)
	for i := 0; i < len(pairs); i += 2 {
		name, ok := pairs[i].(string)
		if !ok {
			panic("with: a name is not a string")
		}
		if pairs[i+1] == nil {
			delete(out, name)
			continue
		}
		out[name] = pairs[i+1]
	}
	return out
}

// good is a record that passes everything at start.
func good(sn string) fields {
	return fields{
		"instance_id": testInstance, "record_time": "20220809T090500Z", "begin_time": "20220809T080000Z",
		"end_time": "20220809T090000Z", "usage_value": "99", "metering_sn": sn,
	}
}

// window moves a record's window by hours.
func (f fields) window(hours int) fields {
	const layout = "20060102T150405Z"
	begin := time.Date(2022, 8, 9, 8, 0, 0, 0, time.UTC).Add(time.Duration(hours) * time.Hour)
	return f.with("begin_time", begin.Format(layout), "end_time", begin.Add(time.Hour).Format(layout))
}

// oldForm turns a record of the new API into one of the old.
func (f fields) oldForm() fields { return f.with("metering_sn", nil, "product_id", "OFFI1") }

// bodyOf encodes records; encoding/json sorts the keys of maps, so this is the sorted compact form.
func bodyOf(tb testing.TB, records ...fields) string {
	tb.Helper()
	text, err := json.Marshal(map[string]any{"usage_records": records})
	if err != nil {
		tb.Fatal(err)
	}
	return string(text)
}

// nonces numbers the nonces of all tests.
var nonces atomic.Int64

// sign computes the signature header.
func sign(key, ts, nonce, body string) string {
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write([]byte("ts=" + ts + "&nonce=" + nonce + "&body=" + body))
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// newRequest is a properly signed call of the new API.
func newRequest(tb testing.TB, at time.Time, body string) *http.Request {
	tb.Helper()
	ts := strconv.FormatInt(at.UnixMilli(), 10)
	nonce := fmt.Sprintf("nonce-%d", nonces.Add(1))
	r := httptest.NewRequestWithContext(tb.Context(), http.MethodPost, sandbox.PathNew, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("ts", ts)
	r.Header.Set("nonce", nonce)
	r.Header.Set("signature", sign(testKey, ts, nonce, body))
	return r
}

// oldRequest is a properly signed call of the old API, signed with a few lines of the test's own.
func oldRequest(tb testing.TB, at time.Time, body string) *http.Request {
	tb.Helper()
	r := httptest.NewRequestWithContext(tb.Context(), http.MethodPost, "https://mkt.example.com"+sandbox.PathOld, strings.NewReader(body))
	stamp := at.UTC().Format("20060102T150405Z")
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-Sdk-Date", stamp)
	canonical := "POST\n" + sandbox.PathOld + "/\n\ncontent-type:application/json\nhost:mkt.example.com\nx-sdk-date:" + stamp +
		"\n\ncontent-type;host;x-sdk-date\n" + hexSHA(body)
	mac := hmac.New(sha256.New, []byte(testSK))
	mac.Write([]byte("SDK-HMAC-SHA256\n" + stamp + "\n" + hexSHA(canonical)))
	r.Header.Set("Authorization", fmt.Sprintf("SDK-HMAC-SHA256 Access=%s, SignedHeaders=content-type;host;x-sdk-date, Signature=%x", testAK, mac.Sum(nil)))
	return r
}

func hexSHA(text string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(text))) }

// reply is a decoded answer.
type reply struct {
	Status int
	Code   string
	Msg    string
	Detail string
	Body   string
}

// do serves one request in process and decodes the API's answer.
func do(tb testing.TB, h http.Handler, r *http.Request) reply {
	tb.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	var out struct {
		Code string `json:"error_code"`
		Msg  string `json:"error_msg"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil {
		tb.Fatalf("answer %q is not JSON: %v", w.Body, err)
	}
	return reply{w.Code, out.Code, out.Msg, w.Header().Get("X-Sandbox-Detail"), w.Body.String()}
}

// push sends records with a proper signature at the clock's time.
func (m market) push(tb testing.TB, records ...fields) reply {
	tb.Helper()
	return do(tb, m, newRequest(tb, m.clock.Now(), bodyOf(tb, records...)))
}

// mustPush fails the test unless the records are accepted.
func (m market) mustPush(tb testing.TB, records ...fields) {
	tb.Helper()
	if got := m.push(tb, records...); got.Code != sandbox.CodeSuccess {
		tb.Fatalf("push = %+v, want %s", got, sandbox.CodeSuccess)
	}
}

// codes validates everything and lists the records' states and codes.
func (m market) codes(tb testing.TB) []string {
	tb.Helper()
	if err := m.Validate(); err != nil {
		tb.Fatalf("Validate() = %v", err)
	}
	var out []string
	for _, r := range m.Records() {
		text := string(r.State)
		if r.Code != "" {
			text += " " + r.Code
		}
		out = append(out, text)
	}
	return out
}

// adminDo calls the administration from the loopback interface.
func (m market) adminDo(tb testing.TB, method, target, body string) (int, string) {
	tb.Helper()
	r := httptest.NewRequestWithContext(tb.Context(), method, target, strings.NewReader(body))
	r.RemoteAddr = "127.0.0.1:50000"
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	w := httptest.NewRecorder()
	m.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

// golden compares with a file under testdata, or rewrites it.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs (-want +got); run with -update to accept:\n%s", name, diff)
	}
}
