package sandbox_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/parser"
	"go/token"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meterd/meterd/internal/sandbox"
)

// TestSharesNoCodeWithTheClient: a bug in the client must not be able to cancel itself out here.
func TestSharesNoCodeWithTheClient(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("found %d files, err %v", len(files), err)
	}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, imp := range file.Imports {
			path, err := strconv.Unquote(imp.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if strings.HasPrefix(path, "github.com/meterd/meterd/") && path != "github.com/meterd/meterd/internal/sandbox" {
				t.Errorf("%s imports %s", name, path)
			}
		}
	}
}

// TestConcurrentUse pushes, reads, injects and advances at once; run with -race. In the end nothing is missing.
func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	const pushers, calls, perCall = 6, 20, 10
	m := newMarket(t, func(o *sandbox.Options) { o.StateFile = filepath.Join(t.TempDir(), "state") })
	var wg sync.WaitGroup
	for p := range pushers {
		wg.Go(func() {
			for c := range calls {
				records := make([]fields, perCall)
				for i := range records {
					id := fmt.Sprint(p, "-", c, "-", i)
					records[i] = good(id).with("instance_id", id)
				}
				r := newRequest(t, start, bodyOf(t, records...))
				w := httptest.NewRecorder()
				m.ServeHTTP(w, r)
				if w.Code != http.StatusOK {
					t.Errorf("push = %d %s", w.Code, w.Body)
				}
			}
		})
	}
	done := make(chan struct{})
	var readers sync.WaitGroup
	for _, work := range []func(){
		func() { m.adminDo(t, http.MethodGet, "/", "") },
		func() { m.adminDo(t, http.MethodGet, "/sandbox/v1/records.csv", "") },
		func() { _, _, _, _ = m.Summary(), m.Records(), m.Calls(), m.Faults() },
		func() {
			if err := m.AdvanceBy(time.Second); err != nil {
				t.Error(err)
			}
		},
		func() {
			if err := m.Declare(sandbox.Instance{ID: "declared"}); err != nil {
				t.Error(err)
			}
			f, err := m.Inject(sandbox.Fault{Kind: sandbox.FaultReject, Code: "013", Instance: "nobody"})
			if err != nil {
				t.Error(err)
			}
			m.RemoveFaults(f.ID)
		},
	} {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					work()
				}
			}
		})
	}
	wg.Wait()
	close(done)
	readers.Wait()
	if err := m.Validate(); err != nil {
		t.Fatal(err)
	}
	total := m.Summary().Total
	if want := pushers * calls * perCall; total.Records != want || total.UsageValue != strconv.Itoa(99*want) {
		t.Errorf("total = %+v, want %d records of 99", total, want)
	}
}

// FuzzHandler: whatever arrives, the answer is JSON with an error_code that fits the status, and nothing is stored
// unless the answer is a success.
func FuzzHandler(f *testing.F) {
	for _, body := range []string{
		vectorABody, vectorBBody, vectorDeclared, "", "{", "null", `{"usage_records":[]}`, `{"usage_records":[null,1]}`,
		`{"usage_records":[{"instance_id":"\ud800","usage_value":1e400}]}`, `{"a":1,"a":1}`, strings.Repeat("[", 50),
	} {
		for mode := range byte(4) {
			f.Add(mode, body, "nonce", "1660036200000", "SDK-HMAC-SHA256 Access="+testAK+", SignedHeaders=host;x-sdk-date, Signature=00", "a=b&a")
		}
	}
	f.Fuzz(func(t *testing.T, mode byte, body, nonce, ts, auth, query string) {
		m := newMarket(t, func(o *sandbox.Options) {
			o.FormatsInBackground = mode&4 != 0
			o.Strict = mode&8 != 0
			o.InstancesAtUpload = mode&16 != 0
		})
		var r *http.Request
		switch mode & 3 {
		case 0: // properly signed
			r = newRequest(t, start, body)
		case 1: // properly signed, old
			r = oldRequest(t, start, body)
		case 2: // headers from the fuzzer, signed with the key
			r = newRequest(t, start, body)
			r.Header.Set("nonce", nonce)
			r.Header.Set("ts", ts)
			r.Header.Set("signature", sign(testKey, ts, nonce, body))
		default: // everything from the fuzzer
			r = oldRequest(t, start, body)
			r.URL.RawQuery = query
			r.Host = nonce
			r.Header.Set("Authorization", auth)
			r.Header.Set("X-Sdk-Date", ts)
		}
		w := httptest.NewRecorder()
		m.ServeHTTP(w, r)
		var out struct {
			Code string `json:"error_code"`
		}
		if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil || out.Code == "" {
			t.Fatalf("answer %q: %v", w.Body, err)
		}
		if (out.Code == sandbox.CodeSuccess) != (w.Code == http.StatusOK) {
			t.Fatalf("status %d with %s", w.Code, out.Code)
		}
		if out.Code == sandbox.CodeInternal {
			t.Fatalf("an internal error: %s", w.Header().Get("X-Sandbox-Detail"))
		}
		if n := len(m.Records()); (n > 0) != (out.Code == sandbox.CodeSuccess) {
			t.Fatalf("%d records after %s", n, out.Code)
		}
		if err := m.AdvanceBy(2 * time.Hour); err != nil {
			t.Fatal(err)
		}
		for _, rec := range m.Records() {
			if (rec.State == sandbox.StateCollected) == (rec.Code != "") || rec.State == sandbox.StateReceived || rec.State == sandbox.StateValid {
				t.Fatalf("record ends as %s %q", rec.State, rec.Code)
			}
		}
		if status, _ := m.adminDo(t, http.MethodGet, "/", ""); status != http.StatusOK {
			t.Fatalf("page = %d", status)
		}
	})
}

// FuzzCanonical: the parser takes what encoding/json takes (short of repeated names, bad UTF-8 and great depth), and
// the sorted compact form is a fixed point that means the same.
func FuzzCanonical(f *testing.F) {
	for _, text := range []string{vectorABody, `{"b":[1,2.50,{"c":null}],"a":"\u4e91\n"}`, ` [ ] `, `"`, `{"a":1,}`, `1 2`, "\"\xff\"", `{"\u0061":1,"a":2}`} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, ok, err := sandbox.Canonical(text)
		if err != nil {
			if json.Valid([]byte(text)) && !strings.Contains(err.Error(), "deeper") && !strings.Contains(err.Error(), "UTF-8") {
				t.Fatalf("valid JSON %q is refused: %v", text, err)
			}
			return
		}
		if !json.Valid([]byte(text)) {
			t.Fatalf("invalid JSON %q is taken", text)
		}
		if !ok {
			return
		}
		again, ok, err := sandbox.Canonical(got)
		if err != nil || !ok || again != got {
			t.Fatalf("%q has the form %q, which has the form %q, %v", text, got, again, err)
		}
		if !sameJSON(t, text, got) {
			t.Fatalf("%q and its form %q differ in meaning", text, got)
		}
	})
}

// sameJSON compares two JSON texts by encoding/json's own sorted output, numbers as written.
func sameJSON(t *testing.T, a, b string) bool {
	t.Helper()
	norm := func(text string) []byte {
		dec := json.NewDecoder(strings.NewReader(text))
		dec.UseNumber()
		var v any
		if err := dec.Decode(&v); err != nil {
			t.Fatal(err)
		}
		out, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	return bytes.Equal(norm(a), norm(b))
}

// FuzzStateLog: no file makes the sandbox panic, and what is not understood is refused.
func FuzzStateLog(f *testing.F) {
	s := newStateful(f)
	m := s.mustOpen(f)
	m.fill(f)
	m.mustClose(f)
	text, err := os.ReadFile(s.path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text, false)
	for line := range bytes.SplitSeq(text, []byte("\n")) {
		f.Add(line, true)
	}
	header, _, _ := bytes.Cut(text, []byte("\n"))
	f.Add([]byte(`{"kind":"collect","at":"2022-08-09T09:15:00Z","good":[[1,9223372036854775807]]}`), true)
	f.Add([]byte(`{"kind":"verdicts","at":"2022-08-09T09:15:00Z","abnormal":{"":[[-1,1]]}}`), true)
	f.Fuzz(func(t *testing.T, text []byte, asEvent bool) {
		if asEvent { // With a good checksum, behind a good first line.
			text = fmt.Appendf(append(bytes.Clone(header), '\n'), "%s\n", sandbox.StateLine(text))
		}
		m := newMarket(t, nil)
		good, size, err := sandbox.ReplayState(m.Sandbox, text)
		if good > size || (err == nil && size != int64(len(text))) {
			t.Fatalf("good %d, size %d of %d, %v", good, size, len(text), err)
		}
		if err == nil {
			_ = m.Advance()
			_ = m.Summary()
		}
	})
}

// BenchmarkPush measures one call of 1000 records, signature and all.
func BenchmarkPush(b *testing.B) {
	for _, state := range []bool{false, true} {
		b.Run(fmt.Sprintf("records=1000/state=%v", state), func(b *testing.B) {
			m := newMarket(b, func(o *sandbox.Options) {
				o.MaxRecords = 9_000_000
				if state {
					o.StateFile = filepath.Join(b.TempDir(), "state")
				}
			})
			n := 0
			bodies := make([]*http.Request, 0, 1024)
			prepare := func() {
				bodies = bodies[:0]
				for range 64 {
					records := make([]fields, 1000)
					for i := range records {
						n++
						records[i] = good(fmt.Sprintf("b1a0d5c2-5a57-4a1f-9d3e-%012d", n)).with("instance_id", fmt.Sprintf("7f141bf1-aec8-4859-8323-%012d", n))
					}
					bodies = append(bodies, newRequest(b, start, bodyOf(b, records...)))
				}
			}
			for b.Loop() {
				if len(bodies) == 0 {
					b.StopTimer()
					prepare()
					b.StartTimer()
				}
				w := httptest.NewRecorder()
				m.ServeHTTP(w, bodies[len(bodies)-1])
				bodies = bodies[:len(bodies)-1]
				if w.Code != http.StatusOK {
					b.Fatalf("push = %s", w.Body)
				}
			}
		})
	}
}
